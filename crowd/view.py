"""What the doors see of the engine: adapters between ``crowd/web``'s ports and the rooms below.

Decides names: readiness in an operator's words, counters under their metrics' names; and which
changes of members are refused before the log is asked. `EngineView` reads only.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from crowd.command import MEMBERS_MAX
from crowd.errors import ChangeRefusedError, UnknownMemberError
from crowd.ledger import ROSTER_BYTES_MAX, roster_bytes, standings
from crowd.raft.membership import Standing
from crowd.raft.status import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from crowd.archive import Archive
    from crowd.delivery.dispatcher import Dispatcher
    from crowd.ledger.members import MemberState
    from crowd.message import Position
    from crowd.raft.engine import Engine
    from crowd.reads.upstream import Tally
    from crowd.waits import EngineWaits
    from crowd.web.listener import Producers
    from crowd.web.tls import ProducerTLS

_STANDING: Final = {
    Standing.VOTER: "voter",
    Standing.LEARNER: "learner: it gets everything from the others, and votes then",
    Standing.OUTSIDER: "outsider: no member of the cluster; see `crowd member add`",
    Standing.UNBORN: "unborn: it knows no cluster yet, and waits for the members of its file",
}


RENEW_WITHIN: Final = timedelta(days=14)
"""Renewals are made some 30 days ahead: one that is not there by now was not made."""


class EngineAcceptor:
    """The engine as `crowd.web.ingest.Acceptor` asks for it."""

    def __init__(self, engine: Engine) -> None:
        self._ledger = engine.ledger
        self.accept: Any = engine.proposer.accept
        self.accept_group: Any = engine.proposer.accept_group
        self.route_id = engine.ledger.route_id

    @property
    def tag(self) -> str:
        """The cluster's tag; there is one before any route is defined."""
        assert self._ledger.tag is not None
        return self._ledger.tag


class EngineStandings:
    """The engine's ledger as `crowd.web.messages.Standings` asks for it."""

    def __init__(self, engine: Engine) -> None:
        self._ledger = engine.ledger

    @property
    def tag(self) -> str | None:
        """The cluster's tag."""
        return self._ledger.tag

    @property
    def tip(self) -> Position:
        """The position of the message accepted last."""
        return self._ledger.tip

    def standing(self, position: Position) -> standings.Standing | None:
        """Return where a message up to the tip stands; None if it was released."""
        try:
            return standings.standing_of(self._ledger, position)
        except LookupError:
            return None


class Aside(NamedTuple):
    """What goes on beside messages and their delivery: reads, and waits for consumers."""

    reads: Tally
    waits: EngineWaits


class EngineView:
    """A node as `crowd.web.admin.NodeView` asks for it."""

    def __init__(
        self,
        engine: Engine,
        dispatcher: Dispatcher,
        producers: Producers,
        within_s: float,
        archive: Archive,
        aside: Aside,
        tls: ProducerTLS | None = None,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Look at these parts; an election may last `within_s` before the node is unready."""
        self._waits = aside.waits
        self._reads = aside.reads
        self._tls = tls
        self._wall = wall
        self._archive = archive
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
                    "letters": self._archive.counts(consumer.id),
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
        leader = engine.raft.leader
        if leader is not None:
            quorum = f"{leader} leads term {engine.raft.term}"
        else:
            since = "since the start" if math.isinf(without_s) else f"for {without_s:.1f} s"
            quorum = f"no leader {since}"
        return [
            ("quorum", without_s < self._within_s, quorum),
            ("member", standing is Standing.VOTER, _STANDING[standing]),
            ("members", True, self._members()),
            ("session", engine.proposer.has_session, self._session()),
            ("journal", not engine.journal.full, self._journal()),
            ("damage", True, self._damage()),
            ("letters", not engine.letters.stuck, self._letters()),
            ("idempotency", True, self._idempotency()),
            ("draining", not self._producers.draining, "yes" if self._producers.draining else "no"),
            ("certificate", True, self._certificate()),
            ("accepting", True, self._accepting()),
            (
                "configuration",
                True,
                "the nodes' files differ" if len(hashes) > 1 else "the nodes' files agree",
            ),
        ]

    def _session(self) -> str:
        is_open = self._engine.proposer.has_session
        return "opened by the log" if is_open else "the log has not opened it yet"

    def _accepting(self) -> str:
        """Return what producers hear who are refused, in words."""
        proposer = self._engine.proposer
        refusals = [proposer.refusal] if proposer.refusal is not None else []
        reasons = {each.reason for each in refusals or proposer.refusals.values()}
        if not reasons:
            return "yes"
        words = "; ".join(sorted(reasons))
        where = "" if refusals else "not on every route: "
        return f"{where}{words}; Retry-After is {proposer.retry_after_s} s or a little more"

    def _members(self) -> str:
        """Return who votes and who learns, in words."""
        members = self._engine.ledger.members
        voters = sorted(name for name, member in members.items() if member.votes)
        learners = sorted(members.keys() - set(voters))
        words = f"{len(voters)} vote ({', '.join(voters)})" if voters else "none yet"
        return words + (f", {len(learners)} learn ({', '.join(learners)})" if learners else "")

    def _journal(self) -> str:
        journal = self._engine.journal
        words = f"entries {journal.first_index} to {journal.last_index}"
        full = "; no space: nothing more becomes durable" if journal.full else ""
        return f"{words}, durable to {journal.durable_index}{full}"

    def _damage(self) -> str:
        """Return what of this node's disk is damaged, in words: it goes on, and is not unready."""
        holes, places = self._engine.repairs.holes, self._engine.store.damaged
        entries = [f"{holes} damaged entries, asked of the others"] if holes else []
        return "; ".join([*entries, *places]) or "none known"

    def _certificate(self) -> str:
        """Return how long producers will take the certificate of this node, in words."""
        if self._tls is None:
            return "none, as no port does TLS"
        expires = self._tls.expires
        left = expires - self._wall()
        day = f"{expires:%Y-%m-%d}"
        if left <= timedelta():
            return f"ENDED on {day}: producers refuse it"
        words = f"ends in {left.days} days, on {day}"
        return f"WARNING: it {words}" if left < RENEW_WITHIN else words

    def _letters(self) -> str:
        """Return whether this node has the bytes of all letters, in words."""
        letters = self._engine.letters
        if letters.stuck:
            return "no space: nothing more is applied"
        if letters.lacking:
            return f"{letters.lacking} are lacking, asked of the others"
        return "all are here" if letters.whole else "being compared with the ledger"

    def _idempotency(self) -> str:
        """Return how many idempotency keys are remembered, and whether that was too few."""
        ledger = self._engine.ledger
        bounds, tally = ledger.key_bounds, ledger.key_tally
        if not bounds.count_max:
            return "Idempotency-Key is not looked at: limits.idempotency_keys is 0"
        words = f"{ledger.keys_held} of {bounds.count_max} keys are remembered"
        if tally.evicted and tally.evicted_us + bounds.window_us > ledger.log_time_us:
            window_h = bounds.window_us / 3_600_000_000
            words += f"; some went early, within the last {window_h:g} h: {tally.evicted} ever"
        return words

    def counters(self) -> Mapping[str, float]:
        """Return the metrics' values by name, labels in braces as in the exposition format."""
        engine, ledger, journal = self._engine, self._engine.ledger, self._engine.journal
        store, scrub = engine.store, journal.upkeep_counters
        votes = [member.votes for member in ledger.members.values()]
        keys = ledger.key_tally
        values: dict[str, float] = {
            "crowd_raft_term": engine.raft.term,
            "crowd_raft_leader": engine.raft.is_leader,
            "crowd_raft_commit_index": engine.raft.commit_index,
            "crowd_raft_applied_index": engine.raft.applied_index,
            "crowd_journal_durable_index": journal.durable_index,
            "crowd_journal_batches_total": journal.counters.batches,
            "crowd_journal_written_bytes_total": journal.counters.written_bytes,
            "crowd_journal_write_seconds_total": journal.counters.write_s,
            "crowd_journal_first_index": journal.first_index,
            "crowd_journal_stored_bytes": journal.stored_bytes,
            "crowd_journal_damaged_entries": engine.repairs.holes,
            "crowd_journal_mended_entries_total": engine.repairs.mended_entries,
            "crowd_journal_mended_total": scrub.mended,
            "crowd_letters": len(ledger.letters),
            "crowd_letters_lacking": engine.letters.lacking,
            "crowd_letters_fetched_total": engine.letters.fetched_letters,
            "crowd_letters_pending_bytes": engine.letters.pending_bytes,
            "crowd_scrub_read_bytes_total": scrub.scrubbed_bytes,
            "crowd_scrub_passes_total": scrub.passes,
            "crowd_scrub_flaws_total": scrub.flaws,
            "crowd_checkpoints": len(store.checkpoints),
            "crowd_checkpoints_damaged": len(store.damaged),
            "crowd_snapshot_sent_bytes_total": engine.snapshots.sent_bytes,
            "crowd_released_index": ledger.released_index,
            'crowd_members{role="voter"}': votes.count(True),
            'crowd_members{role="learner"}': votes.count(False),
            "crowd_accepted_messages_total": ledger.tip,
            "crowd_backlog_bytes": ledger.backlog_bytes,
            "crowd_backlog_messages": ledger.backlog_messages,
            "crowd_refused_requests_total": engine.proposer.refused,
            "crowd_retry_after_seconds": engine.proposer.retry_after_s,
            "crowd_idempotency_keys": ledger.keys_held,
            "crowd_idempotency_keys_max": ledger.key_bounds.count_max,
            "crowd_idempotency_evicted_total": keys.evicted,
            "crowd_idempotency_mismatches_total": keys.mismatches,
            "crowd_idempotency_replays_total": keys.replays,
            "crowd_producers_waiting": engine.proposer.waiting_count,
            "crowd_http_requests_total": self._producers.requests,
            "crowd_http_accepting": self._producers.acceptance.goes_on,
            "crowd_http_accept_pauses_total": self._producers.acceptance.pauses,
            "crowd_http_connections": self._producers.connections,
            "crowd_http_connections_refused_total": self._producers.connections_refused,
            "crowd_http_in_flight_bytes": self._producers.budget.used,
        }
        values |= _reads(self._reads)
        values["crowd_waits_in_flight"] = self._waits.in_flight
        for end, count in msgspec.structs.asdict(self._waits.tally).items():
            values[f'crowd_waits_total{{end="{end}"}}'] = count
        if self._tls is not None:
            values["crowd_http_certificate_end_seconds"] = self._tls.expires.timestamp()
        if store.newest is not None:
            values["crowd_checkpoint_index"] = store.newest.index
            values["crowd_checkpoint_bytes"] = store.newest.size_bytes
        for reason, count in self._producers.tally.refused.items():
            values[f'crowd_door_refused_total{{reason="{reason.value}"}}'] = count
        for consumer in ledger.consumers.values():
            label = f'{{consumer="{consumer.definition.name}"}}'
            values["crowd_consumer_backlog_bytes" + label] = consumer.backlog_bytes
            values["crowd_consumer_backlog_messages" + label] = consumer.backlog
            values["crowd_consumer_watermark" + label] = ledger.watermark(consumer.id)
            values["crowd_consumer_paused" + label] = consumer.paused
            values |= _letters(consumer.definition.name, self._archive.counts(consumer.id))
        for lane in self._dispatcher.progress():
            label = f'{{consumer="{lane.name}"}}'
            values["crowd_consumer_in_flight" + label] = lane.in_flight
            values["crowd_consumer_attempts_total" + label] = lane.attempts
            values["crowd_consumer_delivered_total" + label] = lane.delivered
        return values


class EngineChanges:
    """The engine as `crowd.web.members.Changes` asks for it.

    What is refused here is what could never have an effect, or would leave the voters without
    a majority; the ledger decides again when the change stands in the log.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def enroll(self, name: str, address: str) -> None:
        """Ask for a member to join or to move. Raises ChangeRefusedError."""
        members = self._members()
        if name not in members and len(members) >= MEMBERS_MAX:
            raise ChangeRefusedError(f"found {len(members)} members; expected fewer, to add one")
        for other, member in members.items():
            if other != name and member.address == address:
                raise ChangeRefusedError(
                    f"found member {other} at {address}; expected nobody there"
                )
        addresses = {other: member.address for other, member in members.items()} | {name: address}
        size_bytes = roster_bytes(addresses)
        if size_bytes > ROSTER_BYTES_MAX:
            raise ChangeRefusedError(
                f"found names and addresses of {size_bytes} bytes in all; expected shorter ones, "
                f"as a node keeps {ROSTER_BYTES_MAX} bytes of them"
            )
        self._engine.changes.enroll(name, address)

    def expel(self, name: str) -> None:
        """Ask for a member to leave. Raises UnknownMemberError and ChangeRefusedError."""
        members = self._members()
        if name not in members:
            names = ", ".join(sorted(members))
            raise UnknownMemberError(f"found no member {name}; expected one of {names}")
        left = {other for other, member in members.items() if member.votes} - {name}
        if not left:
            raise ChangeRefusedError(f"found {name} to be the last voter; expected another one")
        there = {other for other in left if self._engine.membership.is_voter(other)}
        if members[name].votes and len(there) <= len(left) // 2:
            raise ChangeRefusedError(
                f"found {len(there)} of the {len(left)} voters that would be left connected; "
                "expected a majority of them, or nothing could be accepted any more"
            )
        self._engine.changes.expel(name)

    def _members(self) -> Mapping[str, MemberState]:
        if not self._engine.member.peers:
            raise ChangeRefusedError(
                "found a node on its own; expected one with [cluster] in its configuration"
            )
        if self._engine.ledger.tag is None:
            raise ChangeRefusedError("the cluster is not born yet; expected a leader, and its log")
        return self._engine.ledger.members


def _reads(tally: Tally) -> dict[str, float]:
    """Return the metrics of reads."""
    answers = {
        f'crowd_read_answers_total{{status="{status}"}}': count
        for status, count in tally.answers.items()
    }
    failures = {
        f'crowd_read_failures_total{{why="{why}"}}': count for why, count in tally.failures.items()
    }
    return {
        "crowd_reads_in_flight": tally.in_flight,
        "crowd_read_seconds_total": tally.seconds,
        "crowd_read_body_bytes_total": tally.body_bytes,
        **answers,
        **failures,
    }


_TOTALS: Final = {
    "bytes": "crowd_consumer_letters_bytes",
    "skipped": "crowd_consumer_skipped_total",
    "purged": "crowd_consumer_letters_purged_total",
    "expired": "crowd_consumer_letters_expired_total",
}
"""The metric of each figure that is no state's."""


def _letters(name: str, counts: Mapping[str, int]) -> dict[str, float]:
    """Return the metrics of a consumer's letters; all else that is counted is a state."""
    return {
        f'{_TOTALS[key]}{{consumer="{name}"}}'
        if key in _TOTALS
        else f'crowd_consumer_letters{{consumer="{name}",state="{key}"}}': count
        for key, count in counts.items()
    }


def _progress(progress: Any) -> dict[str, Any] | None:
    """Return a lane's progress for JSON, or None where this node does not deliver."""
    return None if progress is None else msgspec.to_builtins(progress)
