"""A short selection of the faults, as part of the suite; `tests/faults/run` plays them all."""

import pytest

from tests.faults.kills import KILL, PAUSE
from tests.faults.stage import play
from tests.faults.storage import FAILED_SYNC

pytestmark = pytest.mark.processes


@pytest.mark.parametrize(("fault", "rounds"), [(KILL, 3), (PAUSE, 1), (FAILED_SYNC, 2)])
def test_what_was_acknowledged_survives(fault, rounds, tmp_path):
    """I1, I2, I8: under load nodes are killed, stopped and woken, or their disk fails a flush."""
    row = play(fault, rounds, tmp_path / fault.name, seed=1)
    if row.skipped is not None:
        pytest.skip(row.skipped)
    assert row.wrong == []
    assert row.rounds == rounds
    assert row.acknowledged > 100
    assert row.missing == row.failed_on_the_living == 0
