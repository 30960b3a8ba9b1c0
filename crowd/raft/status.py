"""A member's state, as ``/api/status`` and ``crowd status`` show it.

Decides the names and shapes of these fields (``docs/reference/http-api.md``); reads only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from crowd.command import Index

if TYPE_CHECKING:
    from crowd.raft.engine import Engine


def describe(engine: Engine) -> dict[str, Any]:
    """Return an engine's state, ready for JSON: integers, texts, and hexadecimal hashes.

    ``digest`` is the ledger's at the last multiple of 4 096, ``now`` at the applied index.
    """
    raft, journal, ledger = engine.raft, engine.journal, engine.ledger
    latest = max(ledger.digests, default=Index(0))
    return {
        "name": engine.member.node,
        "cluster": engine.member.cluster,
        "role": engine.role,
        "term": raft.term,
        "leader": raft.leader,
        "commit_index": raft.commit_index,
        "applied_index": raft.applied_index,
        "durable_index": journal.durable_index,
        "last_index": journal.last_index,
        "journal_id": journal.journal_id.hex(),
        "members": {
            name: {"address": member.address, "votes": member.votes}
            for name, member in sorted(ledger.members.items())
        },
        "standing": engine.membership.standing.value,
        "released_index": ledger.released_index,
        "first_index": journal.first_index,
        "checkpoints": [checkpoint.index for checkpoint in engine.store.checkpoints],
        "damaged_entries": engine.repairs.holes,
        "mended_entries": engine.repairs.mended_entries,
        "damaged_checkpoints": list(engine.store.damaged),
        "letters": len(ledger.letters),
        "idempotency": {
            "held": ledger.keys_held,
            **msgspec.to_builtins(msgspec.structs.asdict(ledger.key_bounds)),
            **msgspec.to_builtins(ledger.key_tally),
        },
        "lacking_letters": engine.letters.lacking,
        "scrub": msgspec.to_builtins(journal.upkeep_counters),
        "snapshots_sent_bytes": engine.snapshots.sent_bytes,
        "stored_bytes": journal.stored_bytes,
        "digests": {str(index): digest.hex() for index, digest in ledger.digests.items()},
        "digest": {"index": latest, "sha256": ledger.digests.get(latest, b"").hex()},
        "now": {"index": ledger.applied_index, "sha256": ledger.digest().hex()},
        "position": ledger.tip,
        "backlog_bytes": ledger.backlog_bytes,
        "backlog_messages": ledger.backlog_messages,
        "retry_after_s": engine.proposer.retry_after_s,
        "producers_waiting": engine.proposer.waiting_count,
        "peers": {
            name: {
                "connected": engine.membership.is_present(name),
                "votes": engine.membership.is_voter(name),
                "match_index": raft.acked(name),
            }
            for name in sorted(engine.membership.followers)
        },
    }
