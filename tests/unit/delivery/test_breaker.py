"""When a consumer is left alone, and when it is tried again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowd.definition import Breaker as BreakerDefinition
from crowd.delivery.breaker import SEEN_MAX, Breaker, BreakerState

TEN = BreakerDefinition(10, 0.9, 1_000_000, 60_000_000)


def fail(breaker, now_s=0.0, *, probe=False, holds=False):
    return breaker.failed(now_s, "answered 503", probe=probe, holds=holds)


def opened(definition=TEN):
    breaker = Breaker(definition)
    while not fail(breaker):
        pass
    return breaker


def test_it_opens_after_failures_in_a_row():
    """Ten failures in a row open it, and a success between them does not let it come to that."""
    breaker = Breaker(BreakerDefinition(10, 2.0))
    for _ in range(9):
        assert not fail(breaker)
    breaker.lived(probe=False)
    assert [fail(breaker) for _ in range(10)] == [False] * 9 + [True]
    assert (breaker.state, breaker.until_s, breaker.why) == ("open", 1.0, "answered 503")


def test_it_opens_by_the_share_of_failures():
    """A consumer that answers one in twenty is left alone, though never ten failed in a row."""
    breaker = Breaker(BreakerDefinition(10, 0.8))
    for number in range(1, 1_000):
        if number % 6 == 0:
            breaker.lived(probe=False)
        elif fail(breaker):
            break
    assert 10 <= number < SEEN_MAX
    healthy = Breaker(BreakerDefinition(10, 0.8))
    for number in range(1_000):
        assert not (healthy.lived(probe=False) if number % 3 == 0 else fail(healthy))


def test_one_answer_that_holds_is_enough():
    """After a 401 nothing more is tried: the next message would be refused as well."""
    breaker = Breaker(TEN)
    assert fail(breaker, 5.0, holds=True)
    assert breaker.until_s == 6.0


def test_waits_double_up_to_the_most():
    """A consumer that is down for long is probed once a minute."""
    breaker = opened()
    waits = [breaker.until_s]
    now_s = breaker.until_s
    for _ in range(8):
        breaker.started()
        assert breaker.state is BreakerState.PROBING
        assert not fail(breaker, now_s, probe=True)
        waits.append(breaker.until_s - now_s)
        now_s = breaker.until_s
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_probes_success_closes_it_and_forgets():
    """The first success after an outage ends it; the next outage begins with a short wait."""
    breaker = opened()
    breaker.started()
    assert breaker.lived(probe=True)
    assert (breaker.closed, breaker.opened) == (True, 0)
    for _ in range(9):
        assert not fail(breaker, 100.0)
    assert fail(breaker, 100.0)
    assert breaker.until_s == 101.0


def test_answers_from_before_it_opened_do_not_count():
    """What was under way belongs to the time before: only the probe tells of now."""
    breaker = opened()
    assert not breaker.lived(probe=False)
    assert not fail(breaker, 50.0)
    assert (breaker.state, breaker.until_s) == ("open", 1.0)


def test_a_probe_that_was_not_sent_is_made_again():
    breaker = opened()
    breaker.started()
    breaker.abandoned()
    assert (breaker.state, breaker.until_s) == ("open", 1.0)
    with pytest.raises(AssertionError):
        breaker.abandoned()


def test_what_a_probe_lacked_delays_no_other_once_it_is_here():
    """A wait of the breaker's own stays as it is."""
    breaker = opened()
    breaker.started()
    breaker.abandoned(5.0)
    assert breaker.until_s == 5.0
    breaker.hasten()
    assert breaker.until_s == 1.0
    breaker.started()
    fail(breaker, 6.0, probe=True)
    breaker.hasten()
    assert breaker.until_s == 8.0
    breaker.restore(5, 12.0, "as it was")
    breaker.hasten()
    assert breaker.until_s == 12.0


def test_a_new_leader_goes_on_with_the_wait():
    """An outage that a leader has seen for long is not met with a burst by the next one."""
    breaker = Breaker(TEN)
    breaker.restore(5, 12.0, "as it was")
    assert (breaker.state, breaker.until_s) == ("open", 12.0)
    breaker.started()
    fail(breaker, 12.0, probe=True)
    assert breaker.until_s == 12.0 + 32.0


@given(
    definition=st.builds(
        BreakerDefinition, st.integers(1, 100), st.floats(0, 2), st.integers(1, 10**7),
        st.just(10**7),
    ),
    events=st.lists(st.sampled_from(["lived", "failed", "holds", "start", "abandon", "wait"])),
)  # fmt: skip
def test_whatever_happens_its_waits_are_bounded(definition, events):
    """A wait is never longer than `most`, and an open breaker always says until when."""
    breaker, now_s = Breaker(definition), 0.0
    for event in events:
        probe = breaker.state is BreakerState.PROBING
        if event == "lived":
            breaker.lived(probe=probe)
        elif event in {"failed", "holds"}:
            before = breaker.closed
            turned = breaker.failed(now_s, event, probe=probe, holds=event == "holds")
            assert turned == (before and not breaker.closed)
        elif event == "start" and breaker.state is BreakerState.OPEN:
            breaker.started()
        elif event == "abandon" and probe:
            breaker.abandoned()
        else:
            now_s += 3.0
        assert breaker.until_s <= now_s + 10.0
        assert breaker.closed == (breaker.opened == 0) == (breaker.why == "")
