"""Log time never goes back, and one wrong clock moves it by little."""

from hypothesis import given
from hypothesis import strategies as st

from crowd.raft.logclock import STEP_US, LogClock

WALL = 1_700_000_000_000_000


def test_the_first_stamp_is_the_wall_clock():
    assert LogClock().stamp(WALL, 0.0) == WALL


def test_a_clock_that_is_a_year_ahead_moves_log_time_by_a_second_an_entry():
    clock = LogClock()
    clock.stamp(WALL, 10.0)
    assert clock.stamp(WALL + 10**13, 10.5) == WALL + 500_000 + STEP_US


def test_reading_it_moves_nothing():
    """Whoever asks what time it is in the log does not make it later."""
    clock = LogClock()
    clock.stamp(WALL, 10.0)
    for _ in range(5):
        assert clock.read(WALL + 10**13, 10.5) == WALL + 500_000 + STEP_US
    assert clock.stamp(WALL + 1, 10.5) == WALL + 1


def test_a_new_leader_goes_on_where_the_log_is():
    clock = LogClock()
    clock.follow(WALL)
    assert clock.stamp(WALL - 10**9, 3.0) == WALL


def test_who_leads_again_counts_no_time_that_others_counted():
    clock = LogClock()
    clock.stamp(WALL, 10.0)
    clock.follow(WALL + 3_600_000_000)
    assert clock.stamp(WALL + 10**13, 3610.0) == WALL + 3_600_000_000 + STEP_US


@given(
    st.lists(st.tuples(st.integers(0, 2**62), st.floats(0, 100)), min_size=1, max_size=50),
)
def test_stamps_rise_no_faster_than_time_and_a_second_an_entry(steps):
    clock, now = LogClock(), 0.0
    last = clock.stamp(WALL, now)
    for wall, passed in steps:
        now += passed
        stamped = clock.stamp(wall, now)
        assert 0 <= stamped - last <= int(passed * 1e6) + STEP_US + 1
        last = stamped
