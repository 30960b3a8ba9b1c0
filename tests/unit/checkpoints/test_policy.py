"""Which checkpoints are kept: never many, never the wrong ones, and the floor moves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crowd.raft.checkpoints.policy import KEPT_MAX, next_floor, superfluous


class Kept:
    """The policy as the store uses it, without a disk."""

    def __init__(self) -> None:
        self.indices: list[int] = []
        self.floor: int | None = None
        self.index = self.released = 0

    def take(self, step: int) -> None:
        self.index += step
        self.indices.append(self.index)
        self.settle()

    def release(self, index: int) -> None:
        self.released = max(self.released, index)
        self.settle()

    def settle(self) -> None:
        moved = next_floor(self.indices, self.floor, self.released)
        self.floor = self.floor if moved is None else moved
        gone = superfluous(self.indices, self.floor)
        self.indices = [index for index in self.indices if index not in gone]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("take"), st.integers(1, 9)),
            st.tuples(st.just("release"), st.integers(0, 60)),
        ),
        max_size=40,
    )
)
def test_three_at_most_and_never_beyond_what_was_released(operations):
    """Floor, newest and what is below the released mark survive anything."""
    kept = Kept()
    for kind, number in operations:
        before = (list(kept.indices), kept.floor)
        if kind == "take":
            kept.take(number)
        else:
            kept.release(min(number, kept.index))
        assert len(kept.indices) <= KEPT_MAX
        if kept.index:
            assert kept.indices[-1] == kept.index
        if kept.floor is not None:
            assert kept.floor <= kept.released
            assert kept.floor == kept.indices[0]
            assert before[1] is None or kept.floor >= before[1]
        assert not [i for i in kept.indices if (kept.floor or -1) < i <= kept.released]
        # The one that is next does not make way for a newer one.
        above = [i for i in before[0] if before[1] is None or i > before[1]]
        if above and above[0] > kept.released:
            assert above[0] in kept.indices


@given(st.integers(1, 200), st.lists(st.integers(1, 9), min_size=30, max_size=60))
def test_the_floor_follows_a_backlog_that_never_drains(lag, steps):
    """Released stays `lag` behind for ever: the floor is at most two waits behind that."""
    kept = Kept()
    for step in steps * 8:
        kept.take(step)
        kept.release(kept.index - lag)
        if kept.index > 2 * lag + 18:
            assert kept.floor is not None
            assert kept.floor >= kept.released - lag - 18


@given(st.lists(st.integers(1, 9), min_size=3, max_size=60))
def test_the_floor_is_two_checkpoints_behind_when_releases_keep_up(steps):
    """Each checkpoint is released before the next but one is taken."""
    kept = Kept()
    taken = [0, 0]
    for step in steps:
        kept.take(step)
        taken.append(kept.index)
        kept.release(taken[-2])
        assert (kept.floor or 0) >= taken[-3]
