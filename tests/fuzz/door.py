"""Coverage-guided fuzzing of the producers' door, with atheris (libFuzzer), where it is installed.

    pip install atheris
    PYTHONPATH=. python tests/fuzz/door.py -max_total_time=300
    PYTHONPATH=. python tests/fuzz/door.py CORPUS_DIRECTORY        # keeps what it finds

The first byte says where the input is cut. Beside libFuzzer's own oracle (nothing raises) this
one's: the outcome does not depend on the cuts, and h11 rejects nothing that crowd accepts
(docs/decisions/0012-strict-requests.md). `tests/unit/web/hostile/` seeds it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-not-found, unused-ignore]  # optional

with atheris.instrument_imports(include=["crowd.web", "h11"]):
    from tests.unit.web.hostile.table import THEMES
    from tests.unit.web.opinions import crowds, h11s, is_comparable

SEED_BYTES_MAX = 2_000


def one(data: bytes) -> None:
    """Look at one input."""
    size, data = (data[0] % 64) + 1 if data else 1, data[1:]
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    (ours, refusal), (others, another) = crowds([data]), crowds(pieces)
    # Of two reasons to refuse, the one that is told may depend on the cuts.
    assert (ours, bool(refusal)) == (others, bool(another)), "the outcome depends on the cuts"
    if not is_comparable(data):
        return
    theirs = h11s(data)[0]
    assert len(ours) <= len(theirs), "crowd accepts what h11 rejects"
    for own, other in zip(ours, theirs, strict=False):
        assert own.method == other.method
        assert own.body == other.body


def main() -> None:
    """Fuzz with the table as seeds; arguments are libFuzzer's."""
    with tempfile.TemporaryDirectory() as seeds:
        cases = [case for cases in THEMES.values() for case in cases]
        for number, case in enumerate(cases):
            if len(case.data) <= SEED_BYTES_MAX:
                Path(seeds, str(number)).write_bytes(b"\x3f" + case.data)
        atheris.Setup([*sys.argv, seeds], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
