"""What the doors see of the engine: adapters between ``crowd/web``'s ports and the rooms below.

Decides nothing but names: readiness in an operator's words, counters under their metrics'
names. Reads only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from crowd.raft.membership import Standing
from crowd.raft.status import describe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crowd.delivery.dispatcher import Dispatcher
    from crowd.raft.engine import Engine
    from crowd.web.listener import Producers


class EngineAcceptor:
    """The engine as `crowd.web.ingest.Acceptor` asks for it."""

    def __init__(self, engine: Engine) -> None:
        self._ledger = engine.ledger
        self.accept: Any = engine.proposer.accept
        self.route_id = engine.ledger.route_id

    @property
    def tag(self) -> str:
        """The cluster's tag; there is one before any route is defined."""
        assert self._ledger.tag is not None
        return self._ledger.tag


class EngineView:
    """A node as `crowd.web.admin.NodeView` asks for it."""

    def __init__(
        self, engine: Engine, dispatcher: Dispatcher, producers: Producers, within_s: float
    ) -> None:
        """Look at these parts; an election may last `within_s` before the node is unready."""
        self._engine = engine
        self._dispatcher = dispatcher
        self._producers = producers
        self._within_s = within_s

    def status(self) -> dict[str, Any]:
        """Return this node's state for ``/api/status``."""
        engine = self._engine
        delivering = {progress.name: progress for progress in self._dispatcher.progress()}
        return {
            **describe(engine),
            "ready": all(ok for _, ok, _ in self.readiness()),
            "connections": self._producers.connections,
            "consumers": [
                {
                    "name": consumer.definition.name,
                    "url": consumer.definition.url,
                    "watermark": engine.ledger.watermark(consumer.id),
                    "backlog": engine.ledger.backlog(consumer.id),
                    "paused": consumer.paused,
                    "delivery": _progress(delivering.get(consumer.definition.name)),
                }
                for consumer in engine.ledger.consumers.values()
            ],
        }

    def readiness(self) -> list[tuple[str, bool, str]]:
        """Return (part, is it well, in words) for ``/readyz``."""
        engine = self._engine
        without_s = engine.without_quorum_s
        standing = engine.membership.standing
        hashes = set(engine.ledger.file_hashes.values())
        refusal = engine.proposer.refusal
        leader = engine.raft.leader
        if leader is not None:
            quorum = f"{leader} leads term {engine.raft.term}"
        else:
            quorum = f"no leader for {without_s:.1f} s"
        return [
            ("quorum", without_s < self._within_s, quorum),
            ("member", standing is Standing.VOTER, standing.value),
            ("session", engine.proposer.has_session, "opened by the log, or not yet"),
            ("journal", not engine.journal.full, f"durable to {engine.journal.durable_index}"),
            ("draining", not self._producers.draining, "yes" if self._producers.draining else "no"),
            ("accepting", True, "yes" if refusal is None else refusal.reason),
            (
                "configuration",
                True,
                "the nodes' files differ" if len(hashes) > 1 else "the nodes' files agree",
            ),
        ]

    def counters(self) -> Mapping[str, float]:
        """Return the metrics' values by name, labels in braces as in the exposition format."""
        engine, ledger, journal = self._engine, self._engine.ledger, self._engine.journal
        values: dict[str, float] = {
            "crowd_raft_term": engine.raft.term,
            "crowd_raft_leader": engine.raft.is_leader,
            "crowd_raft_commit_index": engine.raft.commit_index,
            "crowd_raft_applied_index": engine.raft.applied_index,
            "crowd_journal_durable_index": journal.durable_index,
            "crowd_journal_batches_total": journal.counters.batches,
            "crowd_journal_written_bytes_total": journal.counters.written_bytes,
            "crowd_journal_write_seconds_total": journal.counters.write_s,
            "crowd_accepted_messages_total": ledger.tip,
            "crowd_backlog_bytes": ledger.backlog_bytes,
            "crowd_producers_waiting": engine.proposer.waiting_count,
            "crowd_http_requests_total": self._producers.requests,
            "crowd_http_connections": self._producers.connections,
            "crowd_http_connections_refused_total": self._producers.connections_refused,
            "crowd_http_in_flight_bytes": self._producers.budget.used,
        }
        for consumer in ledger.consumers.values():
            label = f'{{consumer="{consumer.definition.name}"}}'
            values["crowd_consumer_backlog_messages" + label] = ledger.backlog(consumer.id)
            values["crowd_consumer_watermark" + label] = ledger.watermark(consumer.id)
        for lane in self._dispatcher.progress():
            label = f'{{consumer="{lane.name}"}}'
            values["crowd_consumer_in_flight" + label] = lane.in_flight
            values["crowd_consumer_attempts_total" + label] = lane.attempts
            values["crowd_consumer_delivered_total" + label] = lane.delivered
        return values


def _progress(progress: Any) -> dict[str, Any] | None:
    """Return a lane's progress for JSON, or None where this node does not deliver."""
    return None if progress is None else msgspec.to_builtins(progress)
