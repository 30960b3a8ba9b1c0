"""When the next call to a peer is due."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock

from crowd.raft.dialer import CONNECT_WITHIN_S, Dialer, delay_s


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_delays_grow_to_a_second_and_are_spread(failures, chance):
    """From 50 ms to 1 s, never less than half of the whole."""
    whole_s = min(1.0, 0.05 * 2.0 ** min(failures - 1, 20))
    assert whole_s / 2 <= delay_s(failures, chance) <= whole_s


class Deaf:
    """An endpoint that refuses, or never answers."""

    def __init__(self, clock, *, refuses):
        self.clock, self.refuses, self.calls_at_s, self.cancelled = clock, refuses, [], 0

    def connect(self, factory):
        self.calls_at_s.append(self.clock.seconds())
        return fail(ConnectionLost()) if self.refuses else Deferred(self._cancel)

    def _cancel(self, deferred):
        self.cancelled += 1


def make(refuses):
    clock = Clock()
    endpoint = Deaf(clock, refuses=refuses)
    words = []
    dialer = Dialer(clock, endpoint, None, failed=words.append, chance=lambda: 0.0)
    dialer.start()
    return clock, endpoint, words, dialer


def test_a_dead_peer_is_called_again_ever_more_rarely():
    """50, 100, 200, 400, 800 ms, then every second."""
    clock, endpoint, words, dialer = make(refuses=True)
    for _ in range(500):
        clock.advance(0.01)
    gaps = [b - a for a, b in zip(endpoint.calls_at_s, endpoint.calls_at_s[1:], strict=False)]
    for gap, expected in zip(gaps, [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0], strict=False):
        assert abs(gap - expected) < 0.02
    assert len(words) == len(endpoint.calls_at_s)
    dialer.stop()
    assert not clock.getDelayedCalls()


def test_a_silent_peer_is_given_up_after_5_s():
    """A call that nobody answers ends, and the next one follows."""
    clock, endpoint, words, dialer = make(refuses=False)
    clock.advance(CONNECT_WITHIN_S)
    assert endpoint.cancelled == 1
    assert len(words) == 1
    clock.advance(1)
    assert len(endpoint.calls_at_s) == 2
    dialer.stop()
    assert endpoint.cancelled == 2
    assert len(words) == 1  # a call given up by this node is no complaint
    assert not clock.getDelayedCalls()


def test_who_is_linked_already_is_called_when_that_is_over():
    """Nothing is called before `ended`."""
    clock = Clock()
    endpoint = Deaf(clock, refuses=True)
    dialer = Dialer(clock, endpoint, None, failed=lambda _: None, chance=lambda: 0.0)
    dialer.start(linked=True)
    assert not clock.getDelayedCalls()
    dialer.ended(served=True)
    clock.advance(0.06)
    assert endpoint.calls_at_s == [0.06]


def test_a_peer_that_called_meanwhile_is_not_called():
    """Neither goes a call on that is under way, nor is one due; no complaint; then as before."""
    for refuses in (True, False):
        clock, endpoint, words, dialer = make(refuses=refuses)
        complaints = len(words)
        dialer.rest()
        assert not clock.getDelayedCalls()
        assert endpoint.cancelled == (not refuses)
        assert len(words) == complaints
        dialer.ended(served=True)
        clock.advance(0.06)
        assert len(endpoint.calls_at_s) == 2
        dialer.stop()


def test_a_link_that_served_is_called_again_at_once():
    """A restarted peer is met after 50 ms; one that keeps refusing, ever more rarely."""
    clock, _, _, dialer = make(refuses=True)
    clock.pump([0.5] * 10)
    dialer.stop()
    dialer._running = True
    dialer.ended(served=False)
    (call,) = clock.getDelayedCalls()
    assert call.getTime() - clock.seconds() == 1.0
    call.cancel()
    dialer._due = None
    dialer.ended(served=True)
    (call,) = clock.getDelayedCalls()
    assert abs(call.getTime() - clock.seconds() - 0.05) < 1e-9
