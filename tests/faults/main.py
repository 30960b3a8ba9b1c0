"""Faults on three real nodes under load, and one table at the end.

    tests/faults/run                                everything, in five to six minutes
    tests/faults/run --faults kill,pause            these
    tests/faults/run --rounds kill=100,pause=3      more or fewer rounds
    tests/faults/run --json                         one JSON object instead of the table

docs/how-to/faults.md says what each fault is and what is checked. Exit status 0 only if every
row is well. What this machine cannot do (no root, no C compiler) is skipped and says so.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tests.faults.damage import REPAIR, ROT
from tests.faults.kills import KILL, PAUSE, ROLLING
from tests.faults.leftovers import sweep
from tests.faults.members import MEMBERS
from tests.faults.partitions import ALONE, BRIDGE, ONE_WAY
from tests.faults.power import LYING_DISK, POWER_LOSS
from tests.faults.stage import Fault, Row, play
from tests.faults.storage import FAILED_SYNC, FULL_DISK, WIPED

if TYPE_CHECKING:
    from types import FrameType

FAULTS: dict[str, Fault] = {
    fault.name: fault
    for fault in (
        KILL, PAUSE, ROLLING, ALONE, ONE_WAY, BRIDGE, FULL_DISK, FAILED_SYNC, WIPED, POWER_LOSS, MEMBERS, REPAIR, ROT,
        LYING_DISK,
    )
}  # fmt: skip

EVERYTHING = [name for name in FAULTS if name != LYING_DISK.name]

HEAD = ("fault", "rounds", "acknowledged", "missing", "duplicates", "failed live", "longest pause")


def table(rows: list[Row]) -> str:
    """Return the rows for a person."""
    cells = [HEAD]
    for row in rows:
        if row.skipped is not None:
            cells.append((row.fault, "-", "-", "-", "-", "-", f"skipped: {row.skipped}"))
            continue
        numbers = (row.rounds, row.acknowledged, row.missing, row.duplicates)
        cells.append((
            row.fault, *map(str, numbers), str(row.failed_on_the_living),
            f"{row.longest_pause_s:.2f} s" + ("  WRONG" if row.wrong else ""),
        ))  # fmt: skip
    played = [row for row in rows if row.skipped is None]
    total = [sum(getattr(row, key) for row in played) for key in (
        "rounds", "acknowledged", "missing", "duplicates", "failed_on_the_living")]  # fmt: skip
    most_s = max((row.longest_pause_s for row in played), default=0.0)
    cells.append(("all", *map(str, total), f"{most_s:.2f} s"))
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEAD) - 1)]
    lines = []
    for line in cells:
        first, *rest = line
        shown = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=False)]
        lines.append("  ".join([first.ljust(widths[0]), *shown, rest[-1]]))
    lines.insert(1, "-" * len(lines[0]))
    lines.insert(-1, "-" * len(lines[0]))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Play the faults; print the table; return the exit status."""
    options = _options(arguments)
    rows: list[Row] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    signal.signal(signal.SIGALRM, _out_of_time)
    signal.alarm(options.seconds)
    sweep()
    directory = Path(options.directory or tempfile.mkdtemp(prefix="crowd-faults-"))
    begun_s = time.monotonic()
    ended: str | None = None
    try:
        for name in options.faults:
            fault = FAULTS[name]
            rounds = options.rounds.get(name, fault.rounds)
            print(f"{name}: {rounds} rounds ...", file=sys.stderr, flush=True)
            row = _play(fault, rounds, directory / name, options.seed)
            rows.append(row)
            words = row.skipped and f"skipped: {row.skipped}"
            figures = f"{row.rounds} rounds in {row.seconds} s, {row.acknowledged} acknowledged"
            print(f"{name}: {words or figures} {row.notes or ''}", file=sys.stderr)
            for wrong in row.wrong:
                print(f"{name}: WRONG: {wrong}", file=sys.stderr, flush=True)
    except TimeoutError:
        ended = f"out of time: not done within {options.seconds} s"
    except KeyboardInterrupt:
        ended = "interrupted"
    finally:
        signal.alarm(0)
    well = bool(rows) and ended is None and not any(row.wrong for row in rows)
    if options.json:
        print(json.dumps({
            "well": well, "ended": ended, "seconds": round(time.monotonic() - begun_s, 1),
            "seed": options.seed, "rows": [dataclasses.asdict(row) for row in rows],
        }, indent=1))  # fmt: skip
    else:
        print(table(rows))
        print(ended or ("all is well" if well else "not all is well"))
    if well and not options.keep:
        shutil.rmtree(directory)
    else:
        print(f"logs and data: {directory}", file=sys.stderr)
    return 0 if well else 1


def _play(fault: Fault, rounds: int, directory: Path, seed: int) -> Row:
    """Play a fault; a failure of this very program is a row like any other, and not well."""
    try:
        return play(fault, rounds, directory, seed)
    except TimeoutError:
        raise
    except Exception as error:  # noqa: BLE001 - the other faults are still worth playing
        traceback.print_exc()
        return Row(fault.name, wrong=[f"the program failed: {error!r}"])


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests/faults/run", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--faults", type=_names, default=EVERYTHING, metavar="NAME,...",
                        help=f"of {', '.join(FAULTS)} (default all)")  # fmt: skip
    parser.add_argument("--rounds", type=_rounds, default={}, metavar="NAME=N,...")
    parser.add_argument("--seconds", type=int, default=900, help="the whole run's bound")
    parser.add_argument("--seed", type=int, default=1, help="which nodes, when (default 1)")
    parser.add_argument("--directory", help="a new one for logs and data (default: temporary)")
    parser.add_argument("--keep", action="store_true", help="keep logs and data if all is well")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


def _names(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in FAULTS:
            raise argparse.ArgumentTypeError(f"found {name!r}; expected some of {list(FAULTS)}")
    return names


def _rounds(text: str) -> dict[str, int]:
    rounds = {}
    for one in text.split(","):
        name, _, count = one.partition("=")
        if name not in FAULTS or not count.isdecimal() or int(count) < 1:
            raise argparse.ArgumentTypeError(f"found {one!r}; expected such as kill=20")
        rounds[name] = int(count)
    return rounds


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    _only_once()
    raise KeyboardInterrupt


def _out_of_time(number: int, frame: FrameType | None) -> NoReturn:
    _only_once()
    raise TimeoutError


def _only_once() -> None:
    """What comes next is cleaning up: no second signal may interrupt that."""
    signal.alarm(0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
