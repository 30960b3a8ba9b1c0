"""crowd's own sizes, made small, so that a short run meets their ends.

Decides how small. They are constants of crowd's modules, each with its reason there; here they
are set before a run begins, to what its plan says, so that a run's course depends on nothing
that an earlier one left.
"""

from __future__ import annotations

from crowd.delivery import backlog, dispatcher
from crowd.raft import proposer
from crowd.raft.letters import audit, fetching

EXPIRE_EVERY_S = 0.5
READ_MAX = 8
FRESH_MAX = 32
ASKED_AT_ONCE = 3
ROWS_AT_ONCE = 8
BATCH_MESSAGES = 12
"""So that groups meet the end of a batch."""
_OWN = tuple(
    (module, name, getattr(module, name))
    for module, names in (
        (backlog, ("WINDOW", "PARK_SPAN", "LINES_MAX", "READ_MAX", "FRESH_MAX")),
        (dispatcher, ("EXPIRE_EVERY_S",)),
        (fetching, ("ASKED_AT_ONCE",)),
        (audit, ("ROWS_AT_ONCE",)),
        (proposer, ("BATCH_MESSAGES_MAX",)),
    )
    for name in names
)


def use(plan):
    """Have crowd's modules go by a plan's sizes."""
    put_back()
    backlog.WINDOW = plan.window
    backlog.PARK_SPAN = max(1, plan.window // 10)
    backlog.LINES_MAX = max(2 * FRESH_MAX, min(plan.window, 10_000))
    backlog.READ_MAX, backlog.FRESH_MAX = READ_MAX, FRESH_MAX
    dispatcher.EXPIRE_EVERY_S = EXPIRE_EVERY_S
    fetching.ASKED_AT_ONCE = ASKED_AT_ONCE
    audit.ROWS_AT_ONCE = ROWS_AT_ONCE
    if plan.keys:
        proposer.BATCH_MESSAGES_MAX = BATCH_MESSAGES


def put_back():
    """Have crowd's modules go by their own sizes."""
    for module, name, value in _OWN:
        setattr(module, name, value)
