"""Measures the ledger: ``python -m tests.unit.ledger.measure [ENTRIES]``, a million by default.

Prints what an entry of one message costs to apply, what `capture` holds the reactor for once
so many are in the ledger and nothing is settled, and again with every other message of the
newest 100 000 settled; and what `restore`, a release and a new consumer of one route cost.
Then the same of as many letters as there may be, and what entries of 1 000 of them cost; and of
half a million idempotency keys, and what it takes to find one.
"""

from __future__ import annotations

import random
import sys
import timeit
import tracemalloc
from time import perf_counter

from crowd.command import (
    TRIALS_MAX,
    Accept,
    Bury,
    Conclude,
    Define,
    Release,
    Remember,
    Replay,
    Settle,
    Trial,
)
from crowd.definition import KeyBounds
from crowd.idempotency import keyed
from crowd.ledger import Ledger
from crowd.ledger.records import RECORDS_MAX
from tests.unit.ledger.history import History, burial, consumer, route

ROUTES = 10
WINDOW = 100_000


def filled(entries: int) -> tuple[Ledger, float]:
    """Return a ledger of so many entries of one message, and the seconds for one of them."""
    history = History(chunk_rows=4096)
    history.define(*(route(f"/{n}") for n in range(ROUTES)))
    history.define(*(consumer(f"c{n}", from_="beginning") for n in range(3)))
    ledger, session = history.ledger, history.open()
    commands = [
        Accept(session, n, n, (1 + n % 7 % ROUTES,), (bytes(300 + n * 7919 % 97),))
        for n in range(1, entries + 1)
    ]
    began_s = perf_counter()
    for command in commands:
        ledger.apply(ledger.applied_index + 1, 1, 1, command)
    return ledger, (perf_counter() - began_s) / entries


def held(ledger: Ledger) -> str:
    """Return how long the reactor is held by a capture: the best and the worst of 20."""
    times_s = timeit.repeat(ledger.capture, number=1, repeat=20)
    return f"{min(times_s) * 1e3:.2f} to {max(times_s) * 1e3:.2f} ms"


def took(ledger: Ledger, *commands: object) -> str:
    """Return how long these commands took to apply."""
    began_s = perf_counter()
    for command in commands:
        ledger.apply(ledger.applied_index + 1, 1, 1, command)
    return f"{(perf_counter() - began_s) * 1e3:.2f} ms"


def main() -> None:
    entries = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    ledger, apply_s = filled(entries)
    print(f"  apply {apply_s * 1e6:.2f} us an entry")
    print(f"  capture, nothing settled: {held(ledger)}")
    tip = ledger.tip
    settled = tuple((n, n) for n in range(tip - WINDOW + 2, tip, 2))
    for start in range(0, len(settled), 16_384):
        ledger.apply(ledger.applied_index + 1, 1, 1, Settle(1, settled[start : start + 16_384]))
    print(f"  capture, {len(settled)} ranges settled: {held(ledger)}")
    sections = ledger.capture()
    print(f"  {len(sections)} sections, {sum(map(len, sections)) / 2**20:.1f} MiB")
    restored = Ledger()
    began_s = perf_counter()
    restored.restore(sections)
    print(f"  restore {perf_counter() - began_s:.2f} s")
    settle = (Settle(number, ((1, tip // 2),)) for number in (1, 2, 3))
    print(f"  settle half, three times: {took(restored, *settle)}")
    floor = restored.place(tip // 2).index
    print(f"  release that half: {took(restored, Release(floor))}")
    one = Define("b", bytes(32), (), (consumer("one", "/1", from_="beginning"),))
    print(f"  a consumer of one route begins in the middle: {took(restored, one)}")
    with_letters()
    with_keys()


def with_letters() -> None:
    """Print what as many letters as there may be cost."""
    history = History(chunk_rows=4096)
    history.define(route("/x"), consumer("c"))
    ledger, session = history.ledger, history.open()
    for _ in range(RECORDS_MAX // 4_000):
        history.accept(session, *[1] * 4_000, size=300)
    message, worst_s = bytes(300), 0.0
    for start in range(1, RECORDS_MAX, 1_000):
        positions = range(start, start + 1_000)
        bury = Bury(1, tuple(burial(n, words="w" * 40, message=message) for n in positions))
        began_s = perf_counter()
        ledger.apply(ledger.applied_index + 1, 1, 1, bury)
        worst_s = max(worst_s, perf_counter() - began_s)
        ledger.take_letter_changes()
    print(
        f"  {len(ledger.letters)} letters; 1 000 of them cost {worst_s * 1e3:.2f} ms at the worst"
    )
    print(f"  capture with them: {held(ledger)}")
    sections = ledger.capture()
    print(f"  {len(sections)} sections, {sum(map(len, sections)) / 2**20:.1f} MiB")
    numbers = tuple(range(1, 1_001))
    print(f"  replay 1 000: {took(ledger, Replay(1, numbers))}")
    print(f"  conclude 1 000: {took(ledger, Conclude(1, numbers))}")
    trials = tuple(Trial(n, 0, 1, 1 << 50, 1 << 50) for n in range(1, TRIALS_MAX + 1))
    print(f"  remember {TRIALS_MAX} trials: {took(ledger, Remember(1, 0, 0, 0, trials))}")
    print(f"  capture with them: {held(ledger)}")
    restored = Ledger()
    began_s = perf_counter()
    restored.restore(ledger.capture())
    print(f"  restore {perf_counter() - began_s:.2f} s")


def with_keys() -> None:
    """Print what as many idempotency keys cost as are remembered by default."""
    history = History(chunk_rows=4096)
    history.define(route("/x"), consumer("c"))
    ledger, session = history.ledger, history.open()
    count, chance = ledger.key_bounds.count_max, random.Random(1)
    plain_s = keyed_s = 0.0
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(1, count // 250):
        keys = b"".join(keyed(place, chance.randbytes(32)) for place in range(250))
        messages = (bytes(300),) * 250
        command = Accept(session, number, number, (1,) * 250, messages, keys)
        ledger.apply(ledger.applied_index + 1, 1, 1, command)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"  {ledger.keys_held} keys, {(after - before) / ledger.keys_held:.0f} bytes each")
    for number in range(count // 250, count // 250 + 40):
        for with_key in (False, True):
            some = range(250) if with_key else ()
            keys = b"".join(keyed(place, chance.randbytes(32)) for place in some)
            number_now = 2 * number + with_key
            command = Accept(session, number_now, number_now, (1,) * 250, messages, keys)
            began_s = perf_counter()
            ledger.apply(ledger.applied_index + 1, 1, 1, command)
            took_s = perf_counter() - began_s
            plain_s, keyed_s = plain_s + took_s * (not with_key), keyed_s + took_s * with_key
    print(f"  a message costs {plain_s * 100:.2f} us, one with a new key {keyed_s * 100:.2f} us")
    index = ledger._keys._index
    unknown = iter([chance.randbytes(16) for _ in range(100_000)])
    find_s = timeit.timeit(lambda: index.find(next(unknown)), number=100_000)
    print(f"  an unknown key takes {find_s * 10:.2f} us to miss")
    print(f"  capture with them: {held(ledger)}")
    sections = ledger.capture()
    print(f"  {len(sections)} sections, {sum(map(len, sections)) / 2**20:.1f} MiB")
    restored = Ledger()
    began_s = perf_counter()
    restored.restore(sections)
    print(f"  restore {perf_counter() - began_s:.2f} s")
    bound = Define("a", b"b" * 32, (), (), KeyBounds(1, 16))
    print(f"  a bound of next to none: {took(restored, bound)}")
    number = 10 * count
    later = Accept(session, number, number, (1,), (b"",), keyed(0, bytes(32)))
    began_s = perf_counter()
    restored.apply(restored.applied_index + 1, 1, 2, later)
    print(
        f"  an entry that drops as much as may go at once: {(perf_counter() - began_s) * 1e3:.2f} ms"
    )


if __name__ == "__main__":
    main()
