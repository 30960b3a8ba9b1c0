"""The channel under mutated requests, random cuts, slow time and failing acceptance.

The oracle: an answer or an end for whatever came, never a hang once the deadlines are over, and
nothing stored that was not answered 2xx, while the producer stayed.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from crowd.errors import BacklogFullError, OutcomeUnknownError
from crowd.message import Position
from tests.unit.web.hostile.grammar import CUTS, cut, mutated

STEPS = st.lists(
    st.sampled_from(["feed", "feed", "feed", "feed", "accept", "refuse", "unknown", "turn", "wait", "stall", "read"]),
    max_size=25,
)  # fmt: skip
ERRORS = {"refuse": BacklogFullError, "unknown": OutcomeUnknownError}


@settings(max_examples=200, deadline=None)
@given(data=mutated(), sizes=CUTS, steps=STEPS, ends=st.booleans())
def test_an_answer_or_an_end(make_door, data, sizes, steps, ends):
    door = make_door(
        pipeline_max=4, in_flight_bytes_max=20_000,
        head_s=4.0, body_s=5.0, idle_s=6.0, answer_s=8.0, linger_s=1.0,
    )  # fmt: skip
    producer = door.connect()
    waiting = cut(data, sizes)
    outcomes: list[int] = []

    def settle(how: str) -> None:
        """Decide the oldest message that is not decided yet, as the cluster might."""
        if len(outcomes) < len(door.acceptor.offered):
            accepted = door.acceptor.offered[len(outcomes)][2]
            outcomes.append(200 if how == "accept" else 503)
            if how == "accept":
                accepted.callback(Position(len(outcomes)))
            else:
                accepted.errback(ERRORS[how]("as told"))

    def feed() -> None:
        # A transport that was paused or closed hands nothing on.
        if waiting and not producer.is_paused and not producer.transport.disconnecting:
            producer.channel.dataReceived(waiting.pop(0))

    for step in steps:
        if step == "feed":
            feed()
        elif step == "turn":
            door.turn()
        elif step == "wait":
            door.clock.advance(0.5)
        elif producer.transport.disconnecting and step in ("stall", "read"):
            pass  # it has no producer any more
        elif step == "stall":
            producer.channel.pauseProducing()
        elif step == "read":
            producer.channel.resumeProducing()
        else:
            settle(step)
    if not producer.transport.disconnecting:
        producer.channel.resumeProducing()
    for _ in range(len(waiting) * 3 + 10):
        door.turn()
        feed()
        settle("accept")
    if ends and not producer.is_ending:
        producer.channel.readConnectionLost()
    door.turn()
    statuses = [status for status in producer.statuses if status != 100]
    assert statuses.count(200) == outcomes.count(200)
    assert len(door.acceptor.offered) == len(outcomes)
    assert statuses.count(503) == outcomes.count(503)
    door.wait(30)
    assert producer.is_ending
    assert not door.producers.budget.waiting
