"""What is ready is called as Twisted's own reactor calls it, but for the context of its log."""

from __future__ import annotations

import socket

import pytest
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import MemoryReactorClock
from twisted.python import context

from crowd.polling import call_directly


class Reader:
    """A socket's end that the reactor watches; `calls` are what came of it."""

    def __init__(self, calls, answer=None):
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.calls, self._answer = calls, answer

    def fileno(self):
        return self.near.fileno()

    def logPrefix(self):  # noqa: N802  Twisted's name
        raise AssertionError("nobody asks whose line it would be")

    def doRead(self):  # noqa: N802  Twisted's name
        assert context.get("system") is None
        self.calls.append((self, self.near.recv(10)))
        return self._answer() if self._answer is not None else None

    def connectionLost(self, reason):  # noqa: N802  Twisted's name
        self.calls.append((self, reason.type))

    def close(self):
        self.near.close()
        self.far.close()


@pytest.fixture
def reactor():
    made = EPollReactor()
    assert call_directly(made)
    yield made
    for reader in made.removeAll():
        reader.close()
    made._poller.close()


def test_what_is_ready_is_read(reactor):
    calls = []
    ready, idle = Reader(calls), Reader(calls)
    reactor.addReader(ready)
    reactor.addReader(idle)
    ready.far.send(b"x")
    reactor.iterate(0)
    assert calls == [(ready, b"x")]
    reactor.iterate(0)
    assert calls == [(ready, b"x")]


def test_one_that_fails_is_let_go_and_the_others_are_read(reactor):
    calls = []

    def fail():
        raise ZeroDivisionError

    broken, sound = Reader(calls, fail), Reader(calls)
    for each in (broken, sound):
        reactor.addReader(each)
        each.far.send(b"x")
    reactor.iterate(0)
    assert sorted(calls, key=str) == sorted(
        [(broken, b"x"), (broken, ZeroDivisionError), (sound, b"x")], key=str
    )
    assert reactor.getReaders().count(broken) == 0
    broken.close()


def test_one_that_ends_hears_why(reactor):
    calls = []
    ended = Reader(calls, ConnectionDone)
    reactor.addReader(ended)
    ended.far.close()
    reactor.iterate(0)
    assert calls == [(ended, b""), (ended, ConnectionDone)]
    ended.close()


def test_one_that_was_taken_out_by_another_is_not_called(reactor):
    calls = []
    both = [Reader(calls), Reader(calls)]
    for each, other in (both, both[::-1]):
        each._answer = lambda other=other: reactor.removeReader(other)
        reactor.addReader(each)
        each.far.send(b"x")
    reactor.iterate(0)
    assert len(calls) == 1
    for each in both:
        reactor.removeReader(each)
        each.close()


def test_other_reactors_stay_as_they_are():
    assert not call_directly(MemoryReactorClock())


@pytest.mark.parametrize("name", ["_poller", "_selectables", "_doReadOrWrite"])
def test_a_reactor_without_a_name_that_is_used_stays_as_it_is(name, monkeypatch):
    made = EPollReactor()
    poller = made._poller
    for each in made.removeAll():
        each.connectionLost(None)
    if name == "_doReadOrWrite":
        monkeypatch.delattr("twisted.internet.posixbase._PollLikeMixin._doReadOrWrite")
    else:
        delattr(made, name)
    assert not call_directly(made)
    assert "doIteration" not in vars(made)
    poller.close()
