"""What a worker asks of the engine's process besides taking messages."""

from __future__ import annotations

import pytest

from crowd.delivery.awaited import Ending
from crowd.errors import DrainingError, MalformedFrameError, RefusedError
from crowd.ledger.standings import Standing, WithConsumer
from crowd.web.messages import Absence
from crowd.workers.questions import QUESTIONS_MAX, LinkQuestions
from crowd.workers.wire import Await, Ended, Found, Leave, Look, State, decode_from_worker, encode


class Link:
    def __init__(self):
        self.asked = []

    def write(self, frames):
        self.asked += frames


@pytest.fixture
def questions():
    asked = LinkQuestions(Link())
    asked.state(State("0123abcd", (("/leads", 1, 7), ("/x", 2, 0)), None, ()))
    return asked


def heard(deferred):
    told = []
    deferred.addCallbacks(told.append, lambda failure: told.append(failure.value))
    return told


def test_each_question_hears_its_own_answer(questions):
    first, second = heard(questions.find(5)), heard(questions.find(6))
    waits = heard(questions.wait(5, 7, 2.5))
    assert questions._link.asked == [Look(1, 5), Look(2, 6), Await(3, 5, 7, 2500)]
    questions.ended(Ended(3, "dead", 422, ((b"A", b"b"),), b"no"))
    questions.found(Found(2, None, "released", ()))
    questions.found(Found(1, "/leads", "retrying", (("api", "retrying", 2),)))
    assert first == [Standing(5, "/leads", "retrying", (WithConsumer("api", "retrying", 2),))]
    assert second == [Absence.RELEASED]
    assert waits == [Ending("dead", 422, ((b"A", b"b"),), b"no")]


@pytest.mark.parametrize("position", [0, 2**63, 2**64 - 1])
def test_what_no_message_is_at_is_unknown_without_a_question(questions, position):
    """Producers may ask for any id: the engine's process would refuse the frame, and end the link."""
    assert heard(questions.find(position)) == [Absence.UNKNOWN]
    assert questions._link.asked == []


def test_the_last_position_that_there_can_be_is_asked_for(questions):
    questions.find(2**63 - 1)
    (look,) = questions._link.asked
    assert decode_from_worker(encode(look)) == look


def test_a_wait_without_an_answer_in_time_is_none(questions):
    told = heard(questions.wait(5, 7, 2.5))
    questions.ended(Ended(1, "unknown", 0, (), b""))
    assert told == [None]


def test_a_producer_that_is_gone_ends_its_wait(questions):
    ended = questions.wait(5, 7, 2.5)
    told = heard(ended)
    questions.leave(5, 7, ended)
    questions.leave(5, 7, ended)
    assert questions._link.asked[1:] == [Leave(1)]
    questions.ended(Ended(1, "dead", 0, (), b""))
    over = questions.wait(5, 7, 2.5)
    questions.ended(Ended(2, "dead", 0, (), b""))
    questions.leave(5, 7, over)
    assert questions._link.asked[2:] == [Await(2, 5, 7, 2500)]
    assert told == []


def test_whom_a_route_s_producers_wait_for_is_what_the_engine_said(questions):
    assert (questions.consumer_of(1), questions.consumer_of(2)) == (7, None)
    assert questions.tag == "0123abcd"


def test_when_the_engine_is_gone_nobody_can_say_and_waits_are_over(questions):
    found, waits = heard(questions.find(5)), heard(questions.wait(5, 7, 1.0))
    questions.end("the node's engine is gone")
    assert isinstance(found[0], DrainingError)
    assert waits == [None]
    assert isinstance(heard(questions.find(5))[0], DrainingError)
    assert heard(questions.wait(5, 7, 1.0)) == [None]
    assert len(questions._link.asked) == 2


def test_i7_open_questions_have_a_bound(questions):
    for _ in range(QUESTIONS_MAX):
        questions.find(5)
    assert isinstance(heard(questions.find(5))[0], RefusedError)
    assert heard(questions.wait(5, 7, 1.0)) == [None]
    questions.found(Found(1, None, "unknown", ()))
    assert heard(questions.find(5)) == []


def test_answers_that_nobody_waits_for_are_nothing_and_no_reason_is_malformed(questions):
    questions.found(Found(9, None, "nonsense", ()))
    questions.ended(Ended(9, "dead", 0, (), b""))
    questions.find(5)
    with pytest.raises(MalformedFrameError):
        questions.found(Found(1, None, "nonsense", ()))
