"""What answers mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowd.command import WORDS_MAX
from crowd.definition import Answers
from crowd.delivery.outcome import (
    Answered,
    Failed,
    FailureKind,
    Outcome,
    asks_for_less,
    is_overload,
    is_there,
    last_words,
    outcome_of,
    retry_after_s,
    shows_life,
)

TABLE = """
    what happened            by default  as configured
    200 201 204 299          delivered   delivered
    300 301 304 307 399      hold        retry
    400 405 409 410 413      dead        dead
    415 418 422 451 499      dead        dead
    401                      hold        dead
    403                      hold        retry
    404                      hold        hold
    407                      hold        hold
    408 425                  retry       retry
    429                      retry       hold
    500 502 504 599          retry       dead
    503                      retry       retry
    600 999                  retry       retry
    connect tls fenced       retry       retry
    timeout broken           unknown     unknown
    malformed stopped        unknown     unknown
    unsigned                 hold        hold
    undeliverable            dead        dead
"""
CONFIGURED = Answers(retry=("3xx", "403", "503"), hold=("429",), dead=("401", "5xx"))


def table():
    for line in TABLE.strip().splitlines()[1:]:
        *happened, default, configured = line.split()
        for what in happened:
            answer = Answered(int(what)) if what.isdigit() else Failed(FailureKind(what), "why")
            yield pytest.param(answer, Answers(), Outcome(default), id=f"{what}-default")
            yield pytest.param(answer, CONFIGURED, Outcome(configured), id=f"{what}-configured")


@pytest.mark.parametrize(("answer", "answers", "outcome"), list(table()))
def test_the_table_of_outcomes(answer, answers, outcome):
    """Each answer, under each configuration, means what docs/explanation/delivery.md says."""
    assert outcome_of(answer, answers) is outcome


@given(
    st.integers(200, 999),
    st.builds(
        Answers, *[st.lists(st.sampled_from(["3xx", "4xx", "5xx", "404", "503"])).map(tuple)] * 3
    ),
)
def test_only_a_2xx_delivers(status, answers):
    """A message is done with when its consumer says 2xx, and no configuration changes that."""
    delivered = outcome_of(Answered(status), answers) is Outcome.DELIVERED
    assert delivered == (status // 100 == 2)


def test_the_exact_status_decides_before_its_class():
    """`dead = ["4xx"]` with `retry = ["409"]` retries a 409 alone."""
    answers = Answers(retry=("409",), dead=("4xx",))
    assert outcome_of(Answered(409), answers) is Outcome.RETRY
    assert outcome_of(Answered(404), answers) is Outcome.DEAD


@pytest.mark.parametrize(
    ("answer", "answers", "alive"),
    [
        (Answered(200), Answers(), True),
        (Answered(302), Answers(), False),
        (Answered(400), Answers(), True),
        (Answered(404), Answers(), False),
        (Answered(404), Answers(retry=("404",)), True),
        (Answered(404), Answers(dead=("404",)), True),
        (Answered(408), Answers(), False),
        (Answered(425), Answers(), False),
        (Answered(429), Answers(), False),
        (Answered(500), Answers(), False),
        (Answered(503), Answers(dead=("503",)), True),
        (Failed(FailureKind.CONNECT, ""), Answers(), False),
        (Failed(FailureKind.TIMEOUT, ""), Answers(), False),
        (Failed(FailureKind.UNDELIVERABLE, ""), Answers(), None),
        (Failed(FailureKind.STOPPED, ""), Answers(), None),
    ],
)
def test_a_refused_message_is_a_sign_of_life(answer, answers, alive):
    """What ends a message is about it; a 5xx, a hold or silence is about the consumer."""
    assert shows_life(answer, outcome_of(answer, answers)) is alive


@given(st.binary(max_size=3_000) | st.text(max_size=3_000).map(str.encode))
def test_what_a_letter_keeps_of_an_answer_is_plain_text(piece):
    """Whatever a consumer answers, a terminal or a page that shows it sees one line of text."""
    words = last_words(Answered(400, None, piece))
    assert len(words) <= WORDS_MAX
    assert words.isprintable()


def test_a_letter_keeps_an_answers_text():
    assert last_words(Answered(422, None, b'{"error":\n\t"no such \xc3\xa9tat"}\x1b[2J')) == (
        '{"error": "no such état"} [2J'
    )
    assert last_words(Failed(FailureKind.CONNECT, "refused")) == "connect: refused"


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        (None, None, None),
        (b"120", None, 120.0),
        (b" 7 ", None, 7.0),
        (b"-1", None, None),
        (b"soon", None, None),
        (b"9" * 40, None, None),
        (b"Fri, 31 Dec 1999 23:59:59 GMT", None, None),
        (b"Fri, 31 Dec 1999 23:59:59 GMT", b"Fri, 31 Dec 1999 23:59:29 GMT", 30.0),
        (b"Fri, 31 Dec 1999 23:59:29 GMT", b"Fri, 31 Dec 1999 23:59:59 GMT", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date_against_the_answers_own(value, date, seconds):
    """A wrong clock, the consumer's or ours, changes no wait."""
    assert retry_after_s(value, date) == seconds


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_any_retry_after_is_a_wait_or_nothing(value, date):
    """Whatever a consumer writes there, delivery goes on."""
    seconds = retry_after_s(value, date)
    assert seconds is None or seconds >= 0


def test_who_asks_for_less_and_who_only_fails():
    """A plain 503 and a timeout may have reasons that fewer attempts do not change."""
    assert asks_for_less(Answered(429))
    assert asks_for_less(Answered(503, 0.0))
    late = Failed(FailureKind.TIMEOUT, "late")
    assert not any(map(asks_for_less, (Answered(503), Answered(500, 1.0), late)))
    assert all(map(is_overload, (Answered(429), Answered(503), late)))


@pytest.mark.parametrize(
    ("answer", "there"),
    [(Answered(status), True) for status in (400, 500, 501, 505, 599, 600)]
    + [(Answered(status), False) for status in (408, 425, 429, 502, 503, 504)]
    + [(Failed(kind, ""), False) for kind in FailureKind],
)
def test_who_is_there(answer, there):
    """A proxy's word for a consumer that is gone is not the consumer's."""
    assert is_there(answer) is there
