"""Power cuts: at every step, whatever of it reached the disk."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowd.raft.checkpoints import Checkpoint
from tests.unit.checkpoints.rig import DIRECTORY, Rig, loaded
from tests.unit.journal.fakes import FaultyFileSystem, PowerCutError


def source(index: int, files: dict) -> tuple[Checkpoint, bytes]:
    if index not in files:
        other = Rig()
        taken = other.take(index)
        files[index] = (taken, other.file(taken))
    return files[index]


class Story:
    """What a node does with its checkpoints; and what it was promised, step by step."""

    def __init__(self, system: FaultyFileSystem, files: dict) -> None:
        self.rig = Rig(system=system)
        self.files = files
        self.newest = self.floor = -1
        self.promise()

    def promise(self) -> None:
        store = self.rig.store
        if store.newest is not None:
            self.newest = max(self.newest, store.newest.index)
        if store.floor is not None:
            self.floor = max(self.floor, store.floor.index)

    def run(self) -> None:
        """Do all that is begun, a step at a time, noting what is promised after each."""
        while self.rig.writer.waiting:
            self.rig.writer.work()
            self.promise()

    def do(self, operation: tuple[str, int]) -> None:
        kind, number = operation
        store = self.rig.store
        newest = store.newest.index if store.newest else 0
        if kind == "take":
            if not store.busy:
                self.rig.begin(newest + number)
        elif kind == "release":
            store.released(min(newest, number * 4))
        elif kind == "receive":
            checkpoint, data = source(newest + 5 * number, self.files)
            incoming = store.receive(checkpoint.digest, len(data))
            for offset in range(0, len(data), 128):
                incoming.add(offset, data[offset : offset + 128], lambda _: None)
                self.run()
            incoming.finish(self.install if number % 2 else lambda _: None)
        elif kind == "work":
            for _ in range(number):
                if self.rig.writer.waiting:
                    self.rig.writer.work()
                    self.promise()
            return
        if number % 3:
            self.run()

    def install(self, received: object) -> None:
        store = self.rig.store
        assert isinstance(received, Checkpoint)
        if store.newest is None or store.newest.index < received.index:
            self.received = received.index
            store.installed(received)

    def check(self) -> None:
        """Start again: what was promised is there, and whatever is listed is whole."""
        store = self.rig.open()
        assert not store.damaged
        assert len(store.checkpoints) <= 3
        listed = list(store.checkpoints)
        if store.received is not None:
            assert not listed or store.received.index > listed[-1].index
            listed.append(store.received)
        for checkpoint in listed:
            assert store.load(checkpoint) == loaded(checkpoint.index)
        newest = listed[-1].index if listed else -1
        assert newest >= self.newest
        # An installed one whose name was not durable yet is `received` again, and the log
        # begins there: then it is the floor when the engine installs it.
        floor = store.floor.index if store.floor else -1
        assert floor >= self.floor or (store.received is not None and newest >= self.floor)
        self.rig.writer.finish()
        names = [name for name in self.rig.names if not name.endswith(".install")]
        assert len(names) == len(store.checkpoints)
        assert not [name for name in names if name.endswith(".part")]


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["take", "take", "release", "receive", "work"]), st.integers(1, 6)),
    min_size=1,
    max_size=8,
)


@settings(deadline=None, max_examples=150)
@given(OPERATIONS, st.integers(0, 400), st.integers(0, 1 << 30))
def test_what_was_promised_survives_a_power_cut(operations, steps, seed):
    """After any crash the newest checkpoint that was told of is there, and all listed are whole."""
    system = FaultyFileSystem()
    story = Story(system, {})
    for left in (steps % 97, steps % 41):
        system.steps_left = left
        with contextlib.suppress(PowerCutError):
            for operation in operations:
                story.do(operation)
        system.crash(random.Random(seed))
        story.check()
        story.newest = story.floor = -1
        story.promise()


SCRIPT = [
    ("take", 4), ("take", 4), ("release", 1), ("take", 2), ("release", 2), ("take", 1),
    ("receive", 2), ("receive", 1), ("take", 2), ("release", 40),
]  # fmt: skip


def test_a_power_cut_at_each_step_loses_nothing():
    """One life with everything in it, cut at every single step, four ways each."""
    files: dict = {}
    for steps in range(1000):
        for seed in range(4):
            system = FaultyFileSystem()
            story = Story(system, files)
            system.steps_left = steps
            try:
                for operation in SCRIPT:
                    story.do(operation)
                story.run()
            except PowerCutError:
                pass
            else:
                assert steps > 50
                return
            system.crash(random.Random(1000 * seed + steps))
            story.check()
    pytest.fail("it never came to an end")


def test_a_killed_process_loses_nothing_either():
    """The system keeps what it was given; names that are not durable yet are made so."""
    for steps in range(60):
        system = FaultyFileSystem()
        story = Story(system, {})
        system.steps_left = steps
        with contextlib.suppress(PowerCutError):
            for operation in SCRIPT[:5]:
                story.do(operation)
            story.run()
        system.kill()
        story.check()
        system.crash(random.Random(steps))
        found = story.rig.indices
        story.rig.open()
        assert story.rig.indices == found
        assert story.rig.store.newest is None or system.names(DIRECTORY)
