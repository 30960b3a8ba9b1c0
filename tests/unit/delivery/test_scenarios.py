"""Delivery's behaviour as readable scripts: events in, attempts out (scenarios/*.txt)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.delivery.scenario import Scenario

SCRIPTS = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_scenario(path):
    """What follows from each event is what its script says.

    ``python -m tests.unit.delivery.test_scenarios`` writes down what follows now, to be read.
    """
    script = path.read_text("utf-8")
    scenario = Scenario()
    assert scenario.run(script) == script
    assert scenario.node.fatal == []


if __name__ == "__main__":
    for script in SCRIPTS:
        script.write_text(Scenario().run(script.read_text("utf-8")), "utf-8")
