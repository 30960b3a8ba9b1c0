"""A reactor for tests of delivery over real sockets."""

from __future__ import annotations

import time

import pytest
from twisted.internet.selectreactor import SelectReactor


@pytest.fixture
def reactor():
    """Return a reactor of this test's own, with the monotonic clock; nothing of it is global."""
    made = SelectReactor()
    made.seconds = time.monotonic
    yield made
    made.disconnectAll()
    for call in made.getDelayedCalls():
        call.cancel()
    made.iterate(0)
