"""How long a failed message waits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crowd.command import Retry
from crowd.delivery.backoff import Backoff

BACKOFFS = st.builds(
    Backoff,
    first_s=st.just(0.0) | st.floats(1e-6, 1e6),  # definitions count in microseconds
    factor=st.floats(1, 1_000),
    most_s=st.floats(0, 1e7),
)
CHANCES = st.floats(0, 1, exclude_max=True)


def test_ceilings_double_up_to_the_most():
    """The defaults: 1 s, 2 s, 4 s and so on, never above 5 minutes."""
    backoff = Backoff.from_definition(Retry(1_000_000, 2.0, 300_000_000, 10**12))
    assert [backoff.ceiling_s(n) for n in (1, 2, 3, 9, 10, 10**9)] == [1, 2, 4, 256, 300, 300]


@given(BACKOFFS, st.integers(1, 10**9), CHANCES)
def test_a_wait_is_within_its_bounds(backoff, failures, chance):
    """No wait is negative or above the most, after any number of failures."""
    assert 0 <= backoff.delay_s(failures, chance) <= backoff.most_s


@given(BACKOFFS, st.integers(1, 1_000))
def test_ceilings_never_shrink(backoff, failures):
    """Each failure makes the next wait's ceiling as long or longer."""
    assert backoff.ceiling_s(failures) <= backoff.ceiling_s(failures + 1) * (1 + 1e-9)


@given(BACKOFFS, st.integers(1, 50), CHANCES, st.floats(0, 1e9))
def test_a_consumers_own_wish_is_kept_up_to_the_most(backoff, failures, chance, asked_s):
    """Retry-After lengthens a wait, but no consumer stops its own deliveries for days."""
    delay_s = backoff.delay_s(failures, chance, asked_s)
    assert min(asked_s, backoff.most_s) <= delay_s <= backoff.most_s
