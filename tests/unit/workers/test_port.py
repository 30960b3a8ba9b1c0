# ruff: noqa: N802 - Twisted's names
"""Accepting from a socket that others accept from, too."""

from __future__ import annotations

import errno

import pytest
from twisted.internet.task import Clock

from crowd.web.listener import narrow
from crowd.workers.port import ACCEPTS_MAX, REST_S, SharedEndpoint


class Accepted:
    """A connection."""

    family = 2

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closed = True

    def setblocking(self, wanted):
        assert not wanted

    def fileno(self):
        return 9


class Listening:
    """A listening socket with connections, or errors, queued."""

    def __init__(self):
        self.queue, self.closed = [], False

    def accept(self):
        if not self.queue:
            raise BlockingIOError(errno.EAGAIN, "none")
        one = self.queue.pop(0)
        if isinstance(one, OSError):
            raise one
        return one, ("h", 1)

    def fileno(self):
        return -1 if self.closed else 5

    def close(self):
        self.closed = True


class Reactor(Clock):
    """Knows who is read."""

    def __init__(self):
        super().__init__()
        self.readers, self.adopted, self.fails = set(), [], False

    def addReader(self, reader):
        assert reader.fileno() >= 0
        self.readers.add(reader)

    def removeReader(self, reader):
        self.readers.discard(reader)

    def adoptStreamConnection(self, descriptor, family, factory):
        if self.fails:
            raise OSError(errno.ENOTCONN, "gone")
        self.adopted.append((descriptor, family, factory))


@pytest.fixture
def stage():
    reactor, listening, ports = Reactor(), Listening(), []
    SharedEndpoint(reactor, listening).listen("factory").addCallback(ports.append)
    return reactor, listening, ports[0]


def test_one_turn_takes_a_few_and_leaves_the_rest_to_the_others(stage):
    reactor, listening, port = stage
    listening.queue = [Accepted() for _ in range(50)]
    port.doRead()
    assert reactor.adopted == [(9, 2, "factory")] * ACCEPTS_MAX
    assert len(listening.queue) == 50 - ACCEPTS_MAX


def test_who_comes_too_late_goes_on(stage):
    reactor, _, port = stage
    port.doRead()
    assert reactor.readers == {port}


@pytest.mark.parametrize("fails", [True, False])
def test_a_connection_that_is_gone_already_is_nothing(stage, fails):
    reactor, listening, port = stage
    reactor.fails = fails
    taken = Accepted()
    listening.queue = [taken] if fails else [OSError(errno.ECONNABORTED, "gone")]
    port.doRead()
    assert reactor.readers == {port}
    assert not fails or taken.closed


@pytest.mark.parametrize("reason", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_without_descriptors_it_rests_a_moment(stage, reason):
    """The socket stays readable: without a rest the reactor would do nothing else."""
    reactor, listening, port = stage
    listening.queue = [OSError(reason, "none left"), Accepted()]
    port.doRead()
    assert reactor.readers == set()
    reactor.advance(REST_S)
    assert reactor.readers == {port}
    listening.queue.insert(0, OSError(reason, "none left"))
    port.doRead()
    port.stopListening()
    reactor.advance(REST_S)
    assert reactor.readers == set()


def test_closing_it_closes_this_process_s_own(stage):
    reactor, listening, port = stage
    port.stopListening()
    port.stopListening()
    assert listening.closed
    assert reactor.readers == set()


def test_a_port_that_is_paused_takes_nobody_even_after_a_rest(stage):
    """A worker that is full leaves who connects to the others."""
    reactor, listening, port = stage
    listening.queue = [OSError(errno.EMFILE, "none left")]
    port.doRead()
    port.stopReading()
    reactor.advance(REST_S)
    assert reactor.readers == set()
    port.startReading()
    assert reactor.readers == {port}


def test_a_port_that_stops_leaves_the_queue_of_the_others_as_it_is(stage):
    """The system's queue is the socket's, which all workers have."""
    _, _, port = stage
    narrow(port)
