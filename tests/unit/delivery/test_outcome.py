"""What answers mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowd.delivery.outcome import (
    Answered,
    Failed,
    FailureKind,
    Outcome,
    outcome_of,
    retry_after_s,
    shows_life,
)


@given(st.integers(100, 999))
def test_only_a_2xx_delivers(status):
    """A message is done with when, and only when, its consumer says 2xx."""
    outcome = outcome_of(Answered(status))
    assert outcome is (Outcome.DELIVERED if status // 100 == 2 else Outcome.RETRY)


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        (FailureKind.CONNECT, Outcome.RETRY),
        (FailureKind.TLS, Outcome.RETRY),
        (FailureKind.FENCED, Outcome.RETRY),
        (FailureKind.UNSIGNED, Outcome.RETRY),
        (FailureKind.UNDELIVERABLE, Outcome.RETRY),
        (FailureKind.TIMEOUT, Outcome.UNKNOWN),
        (FailureKind.BROKEN, Outcome.UNKNOWN),
        (FailureKind.MALFORMED, Outcome.UNKNOWN),
        (FailureKind.STOPPED, Outcome.UNKNOWN),
    ],
)
def test_what_may_have_arrived_is_unknown_not_failed(kind, outcome):
    """A request that was sent may have had its effect, whatever came back."""
    assert outcome_of(Failed(kind, "why")) is outcome


@pytest.mark.parametrize(
    ("answer", "alive"),
    [
        (Answered(200), True),
        (Answered(302), True),
        (Answered(400), True),
        (Answered(404), True),
        (Answered(408), False),
        (Answered(429), False),
        (Answered(500), False),
        (Answered(503), False),
        (Failed(FailureKind.CONNECT, ""), False),
        (Failed(FailureKind.TIMEOUT, ""), False),
        (Failed(FailureKind.UNSIGNED, ""), False),
        (Failed(FailureKind.UNDELIVERABLE, ""), True),
    ],
)
def test_a_refused_message_is_a_sign_of_life(answer, alive):
    """A 4xx is about the message; a 5xx or silence is about the consumer."""
    assert shows_life(answer) is alive


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
