"""Where a message stands, as a ledger knows it."""

from __future__ import annotations

import pytest

from crowd.command import Bury, Conclude, Purge, Release, Remember, Replay, Settle, Trial
from crowd.ledger.standings import Standing, WithConsumer, standing_of
from tests.unit.ledger.history import History, burial, consumer, route


@pytest.fixture
def history():
    """Ten messages on /x, of which c and d take all; and one on /y, which only d takes."""
    made = History()
    made.define(route("/x"), route("/y"), consumer("c", "/x"), consumer("d"))
    session = made.open()
    for _ in range(10):
        made.accept(session, 1)
    made.accept(session, 2)
    return made


def states(history, position):
    standing = standing_of(history.ledger, position)
    return standing.state, [each.state for each in standing.consumers]


def test_what_was_just_accepted(history):
    assert standing_of(history.ledger, 1) == Standing(
        1, "/x", "accepted", (WithConsumer("c", "accepted"), WithConsumer("d", "accepted"))
    )


def test_only_those_that_take_its_route_are_told(history):
    assert standing_of(history.ledger, 11) == Standing(
        11, "/y", "accepted", (WithConsumer("d", "accepted"),)
    )


def test_delivered_once_all_have_had_it(history):
    history.apply(Settle(1, ((1, 2),)))
    assert states(history, 2) == ("accepted", ["delivered", "accepted"])
    history.apply(Settle(2, ((2, 2),)))
    assert states(history, 2) == ("delivered", ["delivered", "delivered"])


def test_what_failed_is_retried(history):
    history.apply(Remember(1, 0, 0, 0, (Trial(3, 0, 2, 1, 2),)))
    standing = standing_of(history.ledger, 3)
    assert standing.state == "retrying"
    assert standing.consumers[0] == WithConsumer("c", "retrying", 2)
    assert states(history, 4) == ("accepted", ["accepted", "accepted"])


def test_letters(history):
    history.apply(Bury(1, (burial(2), burial(4, "parked"))))
    assert states(history, 2) == ("dead", ["dead", "accepted"])
    assert states(history, 4) == ("retrying", ["retrying", "accepted"])
    history.apply(Replay(1, (1,)))
    assert states(history, 2) == ("retrying", ["retrying", "accepted"])
    history.apply(Conclude(1, (1,)))
    assert states(history, 2) == ("accepted", ["delivered", "accepted"])


def test_where_something_was_given_up_no_more_is_claimed_than_is_kept(history):
    """A ledger keeps that a message is settled, not why."""
    history.apply(Settle(1, ((1, 1),)))
    history.apply(Bury(1, (burial(2),)))
    history.apply(Purge("operator", (1,)))
    assert [states(history, position)[1][0] for position in (1, 2)] == ["settled"] * 2
    history.apply(Settle(2, ((1, 1),)))
    assert states(history, 1) == ("settled", ["settled", "delivered"])


def test_how_a_message_ended_for_a_consumer(history):
    """Not before it is there, nor while it is tried; and no more is claimed than is kept."""
    ended_as = history.ledger.ended_as
    history.apply(Settle(1, ((1, 1),)))
    history.apply(Bury(1, (burial(2), burial(4, "parked"))))
    assert [ended_as(1, position) for position in (1, 2, 3, 4, 11, 12)] == [
        "delivered", "dead", None, None, "settled", None,
    ]  # fmt: skip
    with pytest.raises(KeyError):
        ended_as(9, 1)


def test_of_what_came_under_other_routes_no_more_is_claimed_than_is_kept(history):
    """Whether it was the consumer's is known above its watermark alone."""
    history.apply(Settle(1, ((1, 10),)))
    history.define(route("/x"), route("/y"), consumer("c", "/x", "/y"), consumer("d"))
    history.accept(history.open("b"), 1)
    history.apply(Settle(1, ((12, 12),)))
    assert [history.ledger.ended_as(1, position) for position in (11, 10, 12)] == [
        "settled", "settled", "delivered",
    ]  # fmt: skip


def test_of_what_was_released_no_more_is_claimed_than_is_kept():
    """A letter is there still; of all others nobody knows whose they were."""
    history = History(chunk_rows=2)
    history.define(route("/x"), consumer("c", "/x"))
    session = history.open()
    for _ in range(10):
        history.accept(session, 1)
    history.apply(Bury(1, (burial(1),)))
    history.apply(Settle(1, ((1, 10),)))
    history.apply(Release(history.ledger.applied_index - 2))
    history.ledger.forget(history.ledger.released_index)
    assert [history.ledger.ended_as(1, position) for position in (1, 2, 10)] == [
        "dead", "settled", "delivered",
    ]  # fmt: skip


def test_a_consumer_that_came_later_has_no_part_in_it(history):
    history.define(route("/x"), route("/y"), consumer("c", "/x"), consumer("d"), consumer("e"))
    assert len(standing_of(history.ledger, 1).consumers) == 2


def test_a_consumer_of_other_routes_later(history):
    """Whose a message is was decided when it was accepted."""
    history.define(route("/x"), route("/y"), consumer("c", "/y"), consumer("d"))
    assert len(standing_of(history.ledger, 1).consumers) == 2
    assert len(standing_of(history.ledger, 11).consumers) == 1


def test_without_a_consumer_it_is_settled():
    history = History()
    history.define(route("/x"))
    history.accept(history.open(), 1)
    assert standing_of(history.ledger, 1) == Standing(1, "/x", "settled", ())


def test_what_is_not_there(history):
    for position in (0, 12):
        with pytest.raises(LookupError):
            standing_of(history.ledger, position)
