"""When producers are refused, and what they hear: a real ledger, a clock, and a disk of words."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from twisted.internet.task import Clock

from crowd.command import Dismiss
from crowd.errors import BacklogFullError
from crowd.raft.drain import STALLED_S
from crowd.raft.room import DISK_S, Room
from crowd.raft.seams import Bounds, Space
from tests.unit.ledger.history import History, consumer, route

GIB = 1 << 30
ROOMY = Space(100 * GIB, 200 * GIB)


class Rig:
    """A room, the history of its ledger, and time that passes."""

    def __init__(self, *consumers, backlog_bytes=0, backlog_messages=0):
        self.clock, self.space = Clock(), ROOMY
        self.journal = SimpleNamespace(full=False, pending_bytes=0, retry=lambda: None)
        self.history = History()
        self.history.define(route("/x"), route("/y"), *(consumers or [consumer("c")]))
        self.session = self.history.open()
        bounds = Bounds(5.0, backlog_bytes, backlog_messages=backlog_messages)
        self.room = Room(self.clock, self.journal, self.history.ledger, bounds, lambda: self.space)

    def accept(self, count, *, on=1):
        """Accept so many messages of 100 bytes."""
        for _ in range(count):
            self.history.accept(self.session, on, size=100)
        return self

    def drain(self, rate, seconds, *, who=1):
        """Have the first unsettled messages of a consumer settled, `rate` in each second."""
        self.room.look()
        for _ in range(seconds):
            self.clock.advance(1.0)
            first = self.history.ledger.watermark(who) + 1
            if rate:
                self.history.settle(who, (first, first + rate - 1))
            self.room.look()
        return self

    @property
    def hears(self):
        """What every producer hears, as (reason, seconds)."""
        error = self.room.refusal()
        return None if error is None else (error.reason, error.retry_after_s)

    @property
    def hears_on(self):
        """What they hear on single routes."""
        found = self.room.refusals().items()
        return {number: (error.reason, error.retry_after_s) for number, error in found}


FULL = "the configured backlog is reached"


@pytest.mark.parametrize(
    ("bounds", "accepted", "rate", "hears"),
    [
        ({"backlog_bytes": 10_000}, 99, 0, None),
        ({"backlog_bytes": 10_000}, 100, 0, (FULL, 10)),  # at the bound, and not above it
        ({"backlog_messages": 100}, 99, 0, None),
        ({"backlog_messages": 100}, 100, 0, (FULL, 10)),
        ({"backlog_bytes": 10_000, "backlog_messages": 100}, 100, 0, (FULL, 10)),
        ({"backlog_messages": 100}, 140, 2, (FULL, 11)),  # 120 left, 20 over, and some room
        ({"backlog_bytes": 10_000}, 140, 2, (FULL, 11)),
        ({"backlog_messages": 1_000}, 1_200, 1, (FULL, 200)),
        ({"backlog_messages": 100}, 110, 2, None),  # that drained
        ({}, 1_000, 0, None),  # no bound
    ],
)
def test_a_node_refuses_at_its_bounds_and_says_when_there_is_room(bounds, accepted, rate, hears):
    """Ten seconds of draining before: what is said follows from them."""
    assert Rig(**bounds).accept(accepted).drain(rate, 10).hears == hears


def test_a_producer_that_keeps_to_it_finds_room():
    rig = Rig(backlog_messages=50).accept(100).drain(3, 10)
    _, after_s = rig.hears
    assert rig.drain(3, after_s - 2).hears is not None
    assert rig.drain(3, 2).hears is None


def test_what_stops_draining_is_told_so_within_a_minute():
    rig = Rig(backlog_messages=50).accept(400).drain(2, 30)
    assert rig.hears == (FULL, 146)
    assert rig.drain(0, 60).hears == (FULL, STALLED_S)


def test_a_full_consumer_is_told_of_by_its_own_rate_on_its_own_routes():
    """Of two that are full the slower one decides; one that skips closes nothing."""
    rig = Rig(
        consumer("slow", "/x", backlog_messages=10),
        consumer("fast", "/x", backlog_bytes=1_000),
        consumer("skips", backlog_messages=5, when_full="skip"),
    ).accept(400)
    rig.drain(2, 10, who=1).drain(0, 60).drain(10, 10, who=2)
    assert rig.hears is None
    reason = "the backlog of slow, fast is full"
    assert rig.hears_on == {1: (reason, STALLED_S)}
    rig.drain(10, 10, who=1)  # and none of the other's
    assert rig.hears_on == {1: (reason, 175)}


def test_consumers_come_and_go():
    rig = Rig(consumer("c", backlog_messages=10)).accept(20).drain(1, 5)
    assert rig.hears_on == {1: ("the backlog of c is full", 6), 2: ("the backlog of c is full", 6)}
    rig.history.apply(Dismiss(consumer=1, backlog="drop"))
    assert rig.hears_on == {}
    rig.history.define(consumer("d", from_="beginning", backlog_messages=10))
    assert {after_s for _, after_s in rig.hears_on.values()} == {1}, "nothing is known of it"
    rig.drain(0, 7, who=2)
    assert {after_s for _, after_s in rig.hears_on.values()} == {7}


@pytest.mark.parametrize(
    ("space", "journal_is_full", "refused"),
    [
        (Space(100 * GIB, 200 * GIB), False, False),
        (Space(4 * GIB, 200 * GIB), False, False),  # 2 %
        (Space(4 * GIB - 1, 200 * GIB), False, True),
        (Space(256 << 20, 1 * GIB), False, False),
        (Space((256 << 20) - 1, 1 * GIB), False, True),
        (Space(100 * GIB, 200 * GIB), True, True),
    ],
)
def test_a_disk_without_room_refuses_for_a_fixed_time(space, journal_is_full, refused):
    rig = Rig()
    rig.space, rig.journal.full = space, journal_is_full
    expected = ("the disk's floor of free space is reached", DISK_S)
    assert rig.hears == (expected if refused else None)


def test_a_ledger_that_was_replaced_begins_anew():
    """A snapshot's counts are others: none of what is known of the old ones is kept."""
    rig = Rig(consumer("c", backlog_bytes=1_000)).accept(100).drain(2, 10)
    rig.history.ledger.restore(rig.history.ledger.capture())
    rig.room.look()
    error = rig.room.refusals()[1]
    assert isinstance(error, BacklogFullError)
    assert error.retry_after_s == 1
    assert rig.drain(2, 10).hears_on[1][1] == 26
