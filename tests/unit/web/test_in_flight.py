"""I7: what `limits.in_flight` counts is what is held, and is given back whatever happens."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

LIMITS = {"in_flight_bytes_max": 2_500, "body_bytes_max": 1_000, "request_bytes": 10}
"""Room for two bodies, and half of one."""

CHUNKED = b"POST /leads HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
LONG = b"POST /leads HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\n"
SHORT = LONG.replace(b"900", b"400")
PIECES = st.sampled_from(
    [
        CHUNKED, CHUNKED + b"1\r\na\r\n0\r\n\r\n", b"1\r\na\r\n", b"0\r\n\r\n",
        LONG, LONG + b"x", LONG + b"x" * 900, b"x" * 300, b"x" * 900, SHORT, SHORT + b"x" * 400,
        b"POST /leads HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", b"POST /le",
        b"POST /leads HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 500\r\n\r\n",
        b"GET /leads HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /api/a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /api/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
    ]
)  # fmt: skip
STEPS = st.one_of(
    st.tuples(st.just("send"), st.integers(0, 3), st.lists(PIECES, min_size=1, max_size=4)),
    st.tuples(st.just("end"), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("unread"), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("answer"), st.integers(0, 5), st.none()),
    st.tuples(st.just("wait"), st.sampled_from([0, 0, 11, 61, 121]), st.none()),
)


class Crowded:
    """A door with little room, and four connections at it."""

    def __init__(self, door):
        self.door = door
        self.producers = [door.connect() for _ in range(4)]
        self.answers = []

    def close(self, place):
        producer, self.producers[place] = self.producers[place], self.door.connect()
        producer.channel.connectionLost(Failure(ConnectionDone()))

    def answer(self, place):
        offered = self.door.acceptor.offered
        waiting = [number for number, each in enumerate(offered) if not each[2].called]
        if waiting:
            self.door.acceptor.answer(waiting[place % len(waiting)])

    def step(self, what, number, more):
        if what == "answer":
            self.answer(number)
        elif what == "wait":
            self.door.wait(number) if number else self.door.turn()
        elif what == "send":
            if not self.producers[number].is_paused:
                self.producers[number].send(b"".join(more))
        elif what == "unread":
            channel = self.producers[number].channel
            channel.pauseProducing() if more else channel.resumeProducing()
        elif more:
            self.close(number)
        else:
            self.producers[number].channel.readConnectionLost()
        for place, producer in enumerate(self.producers):
            if producer.transport.aborted or producer.transport.disconnecting:
                self.close(place)


def test_what_came_with_a_body_over_the_bound_is_given_back(make_door):
    """A connection that waits for nothing but room keeps what its next request took meanwhile."""
    door = make_door(**LIMITS)
    first, second, both = (door.connect() for _ in range(3))
    first.send(LONG)
    second.send(LONG)
    held = door.producers.budget.used
    both.send(CHUNKED + b"1\r\na\r\n0\r\n\r\n" + SHORT)
    door.acceptor.answer_all()
    door.turn()
    both.channel.connectionLost(Failure(ConnectionDone()))
    assert door.producers.budget.used == held
    first.channel.connectionLost(Failure(ConnectionDone()))
    second.channel.connectionLost(Failure(ConnectionDone()))
    assert door.producers.budget.used == 0


@settings(max_examples=300, deadline=None)
@given(steps=st.lists(STEPS, max_size=30))
@example(
    steps=[
        ("send", 0, [LONG]),
        ("send", 1, [LONG]),
        ("send", 2, [CHUNKED + b"1\r\na\r\n0\r\n\r\n", SHORT]),
        ("answer", 0, None),
        ("end", 2, True),
    ]
)
def test_nothing_is_held_for_connections_that_are_gone(make_door, steps):
    """Whatever came on them, in whatever order it was answered."""
    door = make_door(**LIMITS)
    crowded = Crowded(door)
    budget = door.producers.budget
    for step in steps:
        crowded.step(*step)
        assert not budget.waiting or budget.used, "who waits is admitted by somebody's answer"
    for place in range(len(crowded.producers)):
        crowded.close(place)
    while [each for each in door.acceptor.offered if not each[2].called]:
        crowded.answer(0)
    assert budget.used == 0
    assert not budget.waiting
