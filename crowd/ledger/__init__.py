"""The ledger: the replicated state machine. Pure and deterministic; see ``ledger``."""

from __future__ import annotations

from crowd.ledger.consumers import Consumer
from crowd.ledger.definitions import Gone, Route
from crowd.ledger.ledger import Ledger
from crowd.ledger.letters import NOBODY, Letter, Tally
from crowd.ledger.members import ROSTER_BYTES_MAX, MemberState, roster_bytes
from crowd.ledger.rows import Place

__all__ = [
    "NOBODY", "ROSTER_BYTES_MAX", "Consumer", "Gone", "Ledger", "Letter", "MemberState", "Place",
    "Route", "Tally", "roster_bytes",
]  # fmt: skip
