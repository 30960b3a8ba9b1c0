"""The ledger: the replicated state machine. Pure and deterministic; see ``ledger``."""

from __future__ import annotations

from crowd.ledger.consumers import Consumer
from crowd.ledger.definitions import Route
from crowd.ledger.ledger import Ledger
from crowd.ledger.members import ROSTER_BYTES_MAX, MemberState, roster_bytes
from crowd.ledger.rows import Place

__all__ = [
    "ROSTER_BYTES_MAX", "Consumer", "Ledger", "MemberState", "Place", "Route", "roster_bytes",
]  # fmt: skip
