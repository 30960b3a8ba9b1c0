"""What each command changes, as its proposers and an operator would recognise it."""

from __future__ import annotations

import pytest

from crowd.command import (
    NO_FILE,
    Accept,
    Control,
    Define,
    Dismiss,
    Enroll,
    Once,
    OpenSession,
    RaiseFormat,
    Release,
    Settle,
    Skip,
)
from crowd.errors import MalformedError, NeedsNewerCrowdError
from crowd.ledger import Ledger, MemberState, Place
from crowd.ledger.head import CONSUMERS_MAX, MARKS_MAX, ROUTES_MAX
from crowd.ledger.heard import HEARD_MAX, Heard
from crowd.ledger.marks import Marks
from tests.unit.ledger.history import BIRTH, History, consumer, route


def changes_nothing(history: History, *commands: object) -> None:
    """Apply commands and check that all stays but the index, the log time and `refused`."""
    before = history.ledger.state()
    for command in commands:
        history.apply(command)
    after = history.ledger.state()
    before[4] = after[4] = None
    before[5][3] = after[5][3] = None
    assert after == before


def ready(**given) -> tuple[History, int]:
    """Return a cluster with the routes /x and /y (1 and 2) and an open session."""
    history = History(**given)
    history.define(route("/x"), route("/y"))
    return history, history.open()


# --- The log's order ----------------------------------------------------------------------------


def test_an_entry_out_of_order_is_refused_and_changes_nothing():
    history, session = ready()
    digest = history.ledger.digest()
    index = history.ledger.applied_index
    for wrong, term in ((index, 1), (index + 2, 1), (index + 1, 0)):
        with pytest.raises(AssertionError):
            history.ledger.apply(wrong, term, 0, Accept(session, 1, 1, (1,), (b"",)))
        with pytest.raises(AssertionError):
            history.ledger.skip(wrong, term)
    assert history.ledger.digest() == digest


def test_log_time_never_goes_back():
    history = History()
    before = history.ledger.log_time_us
    history.ledger.apply(history.ledger.applied_index + 1, 1, before - 5, Release(1))
    assert history.ledger.log_time_us == before


def test_before_birth_nothing_has_effect():
    history = History(born=False)
    changes_nothing(
        history,
        OpenSession("a", bytes(16)),
        Define("a", bytes(32), (route("/x"),), (consumer("c"),)),
        Accept(2, 1, 1, (1,), (b"",)),
        Settle(1, ((1, 1),)),
        Control(1, "pause"),
        Enroll("a", "a:1", 1),
        Release(1),
        RaiseFormat(1),
    )


def test_a_cluster_is_born_once():
    history = History()
    assert (history.ledger.cluster, history.ledger.tag) == ("leads", "0123abcd")
    assert history.ledger.members == {
        name: MemberState(f"{name}:2104", name.encode() * 16, history.ledger.members_index)
        for name in "abc"
    }
    assert history.ledger.members_index == history.ledger.applied_index
    other = type(BIRTH)("other", "ffffffff", BIRTH.members[:1], 1)
    changes_nothing(history, other)


def test_a_newer_format_is_fatal_and_changes_nothing():
    history, _ = ready()
    digest = history.ledger.digest()
    with pytest.raises(NeedsNewerCrowdError):
        history.apply(RaiseFormat(2))
    assert history.ledger.digest() == digest
    with pytest.raises(NeedsNewerCrowdError):
        History(born=False).apply(type(BIRTH)("leads", "0123abcd", BIRTH.members, 2))
    changes_nothing(history, RaiseFormat(1))


# --- Proposals ----------------------------------------------------------------------------------


def test_i2_a_proposal_repeated_is_accepted_once():
    history, session = ready()
    first = Accept(session, 1, 1, (1, 2), (b"one", b"two"))
    history.apply(first)
    changes_nothing(history, first, first)
    assert history.ledger.tip == 2
    assert history.ledger.refused == 2
    assert history.ledger.acceptance(session, 1) == 1


def test_i2_a_late_lower_number_is_accepted_not_taken_for_a_repeat():
    history, session = ready()
    history.apply(Accept(session, 3, 1, (1,), (b"three",)))
    assert history.ledger.acceptance(session, 1) is None
    history.apply(Accept(session, 1, 1, (1, 1), (b"one", b"uno")))
    history.apply(Accept(session, 2, 1, (1,), (b"two",)))
    assert [history.ledger.acceptance(session, n) for n in (1, 2, 3)] == [2, 4, 1]


def test_below_the_low_mark_nothing_is_accepted_or_known():
    history, session = ready()
    history.apply(Accept(session, 1, 1, (1,), (b"",)))
    history.apply(Accept(session, 4, 3, (1,), (b"",)))
    assert history.ledger.acceptance(session, 1) is None
    changes_nothing(history, Accept(session, 2, 1, (1,), (b"",)))
    # The mark never falls, whatever an older proposal says.
    history.apply(Accept(session, 3, 1, (1,), (b"",)))
    changes_nothing(history, Accept(session, 2, 2, (1,), (b"",)))
    assert history.ledger.acceptance(session, 3) == 3


def test_a_refused_proposal_still_raises_the_low_mark():
    history, session = ready()
    history.apply(Accept(session, 1, 1, (1,), (b"",)))
    history.apply(Accept(session, 2, 1, (1,), (b"",)))
    history.apply(Accept(session, 2, 2, (1,), (b"",)))
    assert history.ledger.acceptance(session, 1) is None
    assert history.ledger.acceptance(session, 2) == 2


def test_a_newer_session_closes_the_older_and_late_proposals_are_refused():
    history, old = ready()
    history.apply(Accept(old, 1, 1, (1,), (b"",)))
    new = history.open(nonce=b"2" * 16)
    assert history.ledger.session_of("a", b"n" * 16) is None
    assert history.ledger.session_of("a", b"2" * 16) == new
    assert not history.ledger.session_is_open(old)
    assert history.ledger.session_is_open(new)
    changes_nothing(history, Accept(old, 2, 1, (1,), (b"",)), Accept(old, 1, 1, (1,), (b"",)))
    # What became of the older session's proposals can still be learnt.
    assert history.ledger.acceptance(old, 1) == 1
    assert history.ledger.acceptance(old, 2) is None
    history.open(nonce=b"3" * 16)
    assert history.ledger.acceptance(old, 1) is None


def test_an_opening_repeated_or_late_opens_nothing():
    history, session = ready()
    changes_nothing(history, OpenSession("a", b"n" * 16))
    history.open(nonce=b"2" * 16)
    changes_nothing(history, OpenSession("a", b"n" * 16))
    assert not history.ledger.session_is_open(session)


def test_sessions_of_other_nodes_stay_open_and_a_stranger_gets_none():
    history, session = ready()
    other = history.open(node="b")
    assert history.ledger.session_is_open(session)
    assert history.ledger.session_is_open(other)
    changes_nothing(history, OpenSession("z", bytes(16)))
    assert history.ledger.session_of("z", bytes(16)) is None


def test_an_unknown_session_or_route_is_refused():
    history, session = ready()
    changes_nothing(
        history, Accept(99, 1, 1, (1,), (b"",)), Accept(session, 1, 1, (1, 3), (b"", b""))
    )
    assert history.ledger.refused == 2


def test_positions_are_dense_and_a_place_names_the_entry():
    history, session = ready()
    history.accept(session, 1, 2, 1)
    history.settle(1, (1, 1))
    history.accept(session, 2)
    index = history.ledger.applied_index
    assert [history.ledger.place(p) for p in (1, 2, 3, 4)] == [
        Place(index - 2, 0, 1),
        Place(index - 2, 1, 2),
        Place(index - 2, 2, 1),
        Place(index, 0, 2),
    ]
    for nowhere in (0, 5):
        with pytest.raises(LookupError):
            history.ledger.place(nowhere)


# --- Definitions --------------------------------------------------------------------------------


def test_ids_stay_and_what_a_file_leaves_out_is_not_removed():
    history, _ = ready()
    history.define(consumer("one"), consumer("two"))
    history.define(route("/y", upstream="http://up"), consumer("two", url="http://new"))
    ledger = history.ledger
    assert [ledger.route_id(path) for path in ("/x", "/y", "/z")] == [1, 2, None]
    assert ledger.routes["/y"].definition.upstream == "http://up"
    assert [ledger.consumer_id(name) for name in ("one", "two", "three")] == [1, 2, None]
    assert ledger.consumers[2].definition.url == "http://new"


def test_the_same_file_again_does_not_undo_another_nodes():
    history = History()
    old = Define("a", b"1" * 32, (), (consumer("c", url="http://old"),))
    history.apply(old)
    history.apply(Define("b", b"2" * 32, (), (consumer("c", url="http://new"),)))
    changes_nothing(history, old)
    assert history.ledger.consumers[1].definition.url == "http://new"
    assert history.ledger.file_hashes == {"a": b"1" * 32, "b": b"2" * 32}


def test_a_file_of_no_members_changes_nothing():
    history = History()
    changes_nothing(history, Define("z", bytes(32), (route("/x"),), ()))


def test_a_file_past_the_bounds_changes_nothing_and_leaves_no_hash():
    history = History()
    routes = tuple(route(f"/{n}") for n in range(ROUTES_MAX))
    history.define(*routes)
    changes_nothing(history, Define("b", bytes(32), (route("/more"),), ()))
    many = tuple(consumer(f"c{n}") for n in range(CONSUMERS_MAX + 1))
    changes_nothing(history, Define("b", bytes(32), (), many))
    assert "b" not in history.ledger.file_hashes


def test_a_consumer_begins_now_or_at_the_beginning():
    history, session = ready()
    history.accept(session, 1, 2, 1)
    history.define(consumer("now"), consumer("all", from_="beginning"))
    history.define(consumer("xs", "/x", from_="beginning"))
    history.accept(session, 2)
    assert history.ledger.pending(1, 0, 9) == [4]
    assert history.ledger.pending(2, 0, 9) == [1, 2, 3, 4]
    assert history.ledger.pending(3, 0, 9) == [1, 3]
    assert [history.ledger.backlog(c) for c in (1, 2, 3)] == [1, 4, 2]
    assert [history.ledger.watermark(c) for c in (1, 2, 3)] == [3, 0, 0]
    assert history.ledger.consumers[1].from_position == 3


def test_a_consumer_begins_at_a_position_within_what_there_is():
    history, session = ready()
    history.define(consumer("c", from_="beginning"))
    history.accept(session, 1, 2, 1)
    history.settle(1, (1, 3))
    history.apply(Release(history.ledger.applied_index))
    history.accept(session, 1, 1, 2, 1)
    for name, text in (("gone", "position:2"), ("six", "position:6"), ("later", "position:99")):
        history.define(consumer(name, from_=text))
    history.define(consumer("ys", "/y", from_="position:5"))
    pending = [history.ledger.pending(number, 0, 9) for number in (2, 3, 4, 5)]
    assert pending == [[4, 5, 6, 7], [6, 7], [], [6]]
    assert [history.ledger.backlog(number) for number in (2, 3, 4, 5)] == [4, 2, 0, 1]


def test_a_consumer_begins_at_a_time_by_the_logs_own():
    """An entry a second: all from that second on, and at most a minute more."""
    history, session = ready()
    first = history.ledger.applied_index + 1
    for _ in range(300):
        history.accept(session, 1)
    for name, seconds in (("a", first + 200), ("early", 1), ("future", 9_000)):
        time = f"1970-01-01T{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}Z"
        history.define(consumer(name, from_=time))
    begins = [history.ledger.consumers[number].from_position for number in (1, 2, 3)]
    assert 140 <= begins[0] <= 200
    assert begins[1:] == [0, 300]


def test_an_order_has_its_effect_once_however_often_it_comes():
    """Added, removed, and not back by a second copy; the digest shows what was heard."""
    history = History()
    add = Once(b"1" * 16, Define("a", NO_FILE, (), (consumer("c"),)))
    history.apply(add)
    history.apply(Once(b"2" * 16, Dismiss(1, "drop")))
    changes_nothing(history, add, Once(b"2" * 16, Control(1, "pause")))
    assert not history.ledger.consumers
    assert history.ledger.has_heard(b"1" * 16)
    before = history.ledger.digest()
    history.apply(Once(b"3" * 16, Control(1, "pause")))
    assert history.ledger.digest() != before


def test_i7_the_orders_that_are_remembered_are_bounded():
    heard = Heard()
    for number in range(HEARD_MAX + 1):
        assert heard.hear(Once(number.to_bytes(16, "big"), Control(1, "pause")))
    assert bytes(16) not in heard
    assert len(heard.state()) == 16 * HEARD_MAX
    again = Heard()
    again.restore(heard.state())
    assert again.state() == heard.state()
    with pytest.raises(MalformedError):
        again.restore(b"1" * 17)


def test_i7_marks_are_bounded_and_the_oldest_are_the_farthest_apart():
    marks = Marks()
    for n in range(3 * MARKS_MAX):
        marks.note(60_000_000 * n, n)
    assert len(marks.state()) <= 16 * MARKS_MAX
    exact = [marks.before(60_000_000 * n + 1) == n for n in range(3 * MARKS_MAX)]
    assert all(exact[-MARKS_MAX // 4 :])
    assert all(marks.before(60_000_000 * n + 1) <= n for n in range(3 * MARKS_MAX))
    assert exact[0]


def test_changed_routes_count_for_what_is_accepted_from_then_on():
    history, session = ready()
    history.define(consumer("c", "/x"))
    history.accept(session, 1, 2)
    history.define(consumer("c", "/y"))
    history.accept(session, 1, 2)
    assert history.ledger.pending(1, 0, 9) == [1, 4]
    history.define(consumer("c"))
    history.accept(session, 1, 2)
    assert history.ledger.pending(1, 0, 9) == [1, 4, 5, 6]
    history.settle(1, (4, 6))
    assert history.ledger.watermark(1) == 0
    history.settle(1, (1, 1))
    assert history.ledger.watermark(1) == 6


def test_i7_routes_changed_often_leave_nothing_behind_once_all_is_settled():
    """What a consumer once took is forgotten when its watermark has passed it."""
    history, session = ready()
    for n in range(20):
        history.define(consumer("c", ("/x", "/y")[n % 2]))
        history.accept(session, 1, 2)
        history.settle(1, (1, history.ledger.tip))
    history.define(consumer("c"))
    *_, epochs = history.ledger.consumers[1].state()
    assert epochs == [[40, "-1"]]
    assert history.ledger.watermark(1) == 40


def test_a_route_that_comes_later_is_taken_from_then_on():
    history = History()
    history.define(consumer("c", "/later"))
    history.define(route("/later"), node="b")
    session = history.open()
    history.accept(session, 1)
    assert history.ledger.pending(1, 0, 9) == [1]


def test_a_consumer_is_paused_and_resumed():
    history = History()
    history.define(consumer("c"))
    history.apply(Control(1, "pause"))
    assert history.ledger.consumers[1].paused
    history.apply(Control(1, "resume"))
    assert not history.ledger.consumers[1].paused
    changes_nothing(history, Control(2, "pause"))


# --- Settling -----------------------------------------------------------------------------------


def test_i3_the_watermark_stops_at_the_first_unsettled_message():
    history, session = ready()
    history.define(consumer("c"))
    history.accept(session, *[1] * 10)
    history.settle(1, (2, 4), (6, 7))
    ledger = history.ledger
    assert ledger.watermark(1) == 0
    assert ledger.pending(1, 0, 9) == [1, 5, 8, 9, 10]
    assert ledger.pending(1, 5, 2) == [8, 9]
    assert ledger.backlog(1) == 5
    assert [p for p in range(1, 11) if ledger.is_settled(1, p)] == [2, 3, 4, 6, 7]
    history.settle(1, (1, 1))
    assert ledger.watermark(1) == 4
    changes_nothing(history, Settle(1, ((1, 4),)), Settle(9, ((1, 9),)))


def test_what_does_not_exist_yet_is_not_settled():
    history, session = ready()
    history.define(consumer("c"))
    history.accept(session, 1)
    history.settle(1, (1, 5))
    history.accept(session, 1)
    assert history.ledger.pending(1, 0, 9) == [2]


def test_i3_the_slowest_consumer_says_what_is_kept():
    history, session = ready()
    ledger = history.ledger
    history.accept(session, 1, size=100)
    assert (ledger.lowest_watermark, ledger.backlog_bytes) == (0, 100)
    history.define(consumer("fast"), consumer("slow"))
    assert (ledger.lowest_watermark, ledger.backlog_bytes) == (1, 0)
    history.accept(session, 1, size=10)
    history.accept(session, 1, size=5)
    history.settle(1, (2, 3))
    assert (ledger.lowest_watermark, ledger.backlog_bytes) == (1, 15)
    history.settle(2, (2, 2))
    assert (ledger.lowest_watermark, ledger.backlog_bytes) == (2, 5)
    history.settle(2, (3, 3))
    assert (ledger.lowest_watermark, ledger.backlog_bytes) == (3, 0)


def test_what_is_skipped_is_settled_and_counted():
    history, session = ready()
    history.define(consumer("c"), consumer("xs", "/x"))
    history.accept(session, 1, 2, 1, 2, 1)
    history.settle(2, (3, 3))
    history.apply(Skip(1, 2))
    history.apply(Skip(2, 4))
    history.apply(Skip(2, 3))
    ledger = history.ledger
    assert [ledger.pending(number, 0, 9) for number in (1, 2)] == [[3, 4, 5], [5]]
    assert [ledger.consumers[number].skipped for number in (1, 2)] == [2, 1]
    history.apply(Skip(1, 2**62))
    history.accept(session, 1)
    assert ledger.pending(1, 0, 9) == [6]
    changes_nothing(history, Skip(9, 1))


def test_i7_a_full_consumer_that_skips_is_left_out_until_it_has_room():
    history, session = ready()
    history.define(consumer("c", "/x", backlog_bytes=10, when_full="skip"), consumer("all"))
    for _ in range(3):
        history.accept(session, 1, 2, size=5)
    ledger = history.ledger
    known = ledger.consumers[1]
    assert known.is_full
    assert (known.backlog_bytes, known.skipped) == (10, 1)
    assert ledger.pending(1, 0, 9) == [1, 3]
    assert ledger.pending(2, 0, 9) == [1, 2, 3, 4, 5, 6]
    assert not ledger.full_routes()
    history.settle(1, (1, 1))
    history.accept(session, 1, 1, 1, size=5)  # the bound is passed by one batch, and no more
    assert ledger.pending(1, 0, 9) == [3, 7, 8, 9]
    history.accept(session, 2)
    history.settle(1, (1, 99))
    assert (known.backlog_bytes, known.backlog, ledger.watermark(1)) == (0, 0, 10)


def test_i7_a_full_consumer_that_refuses_is_told_of_by_its_routes():
    history, session = ready()
    history.define(consumer("c", "/x", backlog_bytes=6), consumer("all"), consumer("d", "/x"))
    history.accept(session, 1)
    assert not history.ledger.full_routes()
    history.accept(session, 1)
    assert history.ledger.full_routes() == {1: ["c"]}
    history.define(consumer("all", backlog_bytes=1))
    assert history.ledger.full_routes() == {1: ["c", "all"], 2: ["all"]}
    assert history.ledger.full_consumers(2) == ["all"]
    history.accept(session, 1)  # the door is elsewhere: what comes is taken
    assert history.ledger.pending(1, 0, 9) == [1, 2, 3]


def test_messages_that_no_consumer_takes_hold_nothing_up():
    history, session = ready()
    history.define(consumer("xs", "/x"))
    for _ in range(20):
        history.accept(session, 2)
    assert history.ledger.watermark(1) == 20
    history.accept(session, 1, 2, 2)
    history.accept(session, 2)
    assert history.ledger.watermark(1) == 20
    history.settle(1, (21, 21))
    assert history.ledger.watermark(1) == 24


def test_i7_settled_messages_among_others_are_few_ranges():
    """A consumer of every other message settles all but its first: one range, not many."""
    history, session = ready()
    history.define(consumer("xs", "/x"))
    history.accept(session, *[1, 2] * 500)
    for position in range(3, 1000, 4):
        history.settle(1, (position, position))
    assert len(history.ledger.consumers[1].settled) == 250
    for position in range(5, 1000, 4):
        history.settle(1, (position, position))
    assert len(history.ledger.consumers[1].settled) == 1
    assert history.ledger.backlog(1) == 1
    history.settle(1, (1, 1))
    assert history.ledger.watermark(1) == 1000


# --- Releasing and forgetting -------------------------------------------------------------------


def test_i3_entries_are_released_once_no_consumer_needs_them():
    history, session = ready()
    ledger = history.ledger
    history.accept(session, 1, 1)
    first = ledger.applied_index
    changes_nothing(history, Release(first))  # nobody consumes yet, and nobody can have had it
    history.define(consumer("c", from_="beginning"))
    history.settle(1, (1, 1))
    changes_nothing(history, Release(first))  # position 2 stands in that entry too
    history.apply(Release(first - 1))
    assert (ledger.released_index, ledger.beginning) == (first - 1, 0)
    history.settle(1, (2, 2))
    changes_nothing(history, Release(first - 1), Release(first - 2), Release(999))
    history.accept(session, 1)
    history.apply(Release(first))
    assert (ledger.released_index, ledger.beginning) == (first, 2)
    changes_nothing(history, Release(ledger.applied_index))
    history.settle(1, (3, 3))
    history.apply(Release(ledger.applied_index + 1))  # its own entry is the last one applied
    assert (ledger.released_index, ledger.beginning) == (ledger.applied_index, 3)


def test_the_beginning_is_what_no_entry_has_released():
    history, session = ready()
    history.define(consumer("c", from_="beginning"))
    history.accept(session, 1, 2, 1)
    history.settle(1, (1, 3))
    history.apply(Release(history.ledger.applied_index))
    history.accept(session, 2, 1, 2, 2)
    history.define(consumer("all", from_="beginning"), consumer("ys", "/y", from_="beginning"))
    assert history.ledger.pending(2, 0, 9) == [4, 5, 6, 7]
    assert history.ledger.pending(3, 0, 9) == [4, 6, 7]
    assert [history.ledger.backlog(c) for c in (2, 3)] == [4, 3]
    assert [history.ledger.consumers[c].from_position for c in (2, 3)] == [3, 3]


def test_forgetting_does_not_change_the_state_and_never_takes_what_was_not_released():
    history, session = ready()
    history.define(consumer("c"))
    for _ in range(20):
        history.accept(session, 1)
    history.settle(1, (1, 10))
    needed = history.ledger.place(11)
    with pytest.raises(AssertionError):
        history.ledger.forget(needed.index)
    history.apply(Release(needed.index - 1))
    digest = history.ledger.digest()
    assert history.ledger.live_rows == 20
    history.ledger.forget(needed.index)
    assert history.ledger.live_rows == 12  # whole chunks of four
    with pytest.raises(AssertionError):
        history.ledger.forget(needed.index + 1)
    assert history.ledger.digest() == digest
    with pytest.raises(LookupError):
        history.ledger.place(1)
    assert history.ledger.place(11) == needed
    assert history.ledger.pending(1, 0, 3) == [11, 12, 13]


def test_an_empty_ledger_knows_nothing():
    ledger = Ledger()
    assert (ledger.applied_index, ledger.tip, ledger.tag, ledger.backlog_bytes) == (0, 0, None, 0)
    assert not ledger.consumers
    assert not ledger.routes
    assert not ledger.file_hashes
    assert not ledger.session_is_open(1)
    assert ledger.acceptance(1, 1) is None
