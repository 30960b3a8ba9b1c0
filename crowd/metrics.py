"""The table of metrics: their names, types, help and labels. Pure.

Decides what a metric is called and means; ``crowd/web/admin.py`` shows the values and
``docs/reference/metrics.md`` has a heading for each. Names begin with ``crowd_`` and end with
their base unit; counters end with ``_total``. Ids, paths and URLs are never labels: a label's
values must be few.
"""

from __future__ import annotations

import enum
import re
from typing import Final

import msgspec


class MetricType(enum.Enum):
    """How a metric's value moves."""

    COUNTER = "counter"
    """Only grows while the process lives."""
    GAUGE = "gauge"
    """Goes up and down."""


class Metric(msgspec.Struct, frozen=True):
    """One metric. `help` is one sentence; `labels` are its labels' names, in order."""

    name: str
    type: MetricType
    help: str
    labels: tuple[str, ...] = ()


_COUNTER, _GAUGE = MetricType.COUNTER, MetricType.GAUGE

METRICS: Final = (
    Metric("crowd_accepted_messages_total", _COUNTER, "Messages accepted since the cluster began."),
    Metric("crowd_backlog_bytes", _GAUGE, "Bytes of messages above the lowest watermark."),
    Metric("crowd_backlog_messages", _GAUGE, "Messages above the lowest watermark."),
    Metric("crowd_checkpoint_bytes", _GAUGE, "Size of the newest checkpoint."),
    Metric("crowd_checkpoint_index", _GAUGE, "The last entry that the newest checkpoint covers."),
    Metric("crowd_checkpoints", _GAUGE, "Checkpoints on this node's disk."),
    Metric("crowd_checkpoints_damaged", _GAUGE, "Checkpoints found damaged since the start."),
    Metric("crowd_consumer_attempts_total", _COUNTER, "Attempts to deliver.", ("consumer",)),
    Metric("crowd_consumer_backlog_bytes", _GAUGE, "Bytes not yet settled.", ("consumer",)),
    Metric("crowd_consumer_backlog_messages", _GAUGE, "Messages not yet settled.", ("consumer",)),
    Metric("crowd_consumer_delivered_total", _COUNTER, "Attempts that delivered.", ("consumer",)),
    Metric("crowd_consumer_in_flight", _GAUGE, "Attempts under way.", ("consumer",)),
    Metric("crowd_consumer_letters", _GAUGE, "Letters, by their state.", ("consumer", "state")),
    Metric("crowd_consumer_letters_bytes", _GAUGE, "Bytes of letters.", ("consumer",)),
    Metric(
        "crowd_consumer_letters_expired_total", _COUNTER, "Letters given up for age.", ("consumer",)
    ),
    Metric("crowd_consumer_letters_purged_total", _COUNTER, "Letters purged.", ("consumer",)),
    Metric("crowd_consumer_paused", _GAUGE, "1 where an operator paused it.", ("consumer",)),
    Metric("crowd_consumer_skipped_total", _COUNTER, "Messages skipped.", ("consumer",)),
    Metric("crowd_consumer_watermark", _GAUGE, "All up to it are settled.", ("consumer",)),
    Metric("crowd_door_refused_total", _COUNTER, "Requests refused at the door.", ("reason",)),
    Metric("crowd_http_accept_pauses_total", _COUNTER, "Times that no more were accepted."),
    Metric("crowd_http_accepting", _GAUGE, "1 while connections of producers are accepted."),
    Metric("crowd_http_certificate_end_seconds", _GAUGE, "When the producers' certificate ends."),
    Metric("crowd_http_connections", _GAUGE, "Open connections of producers."),
    Metric("crowd_http_connections_refused_total", _COUNTER, "Connections closed at once."),
    Metric("crowd_http_in_flight_bytes", _GAUGE, "Held for requests not yet answered."),
    Metric("crowd_http_requests_total", _COUNTER, "Requests read from producers."),
    Metric("crowd_idempotency_evicted_total", _COUNTER, "Keys that went before their time."),
    Metric("crowd_idempotency_keys", _GAUGE, "Idempotency keys that are remembered."),
    Metric("crowd_idempotency_keys_max", _GAUGE, "How many may be."),
    Metric("crowd_idempotency_mismatches_total", _COUNTER, "Keys that came with another request."),
    Metric("crowd_idempotency_replays_total", _COUNTER, "First answers that were repeated."),
    Metric("crowd_journal_batches_total", _COUNTER, "Writes, each with one fdatasync."),
    Metric("crowd_journal_damaged_entries", _GAUGE, "Entries known to be damaged, not yet mended."),
    Metric("crowd_journal_durable_index", _GAUGE, "The last entry that is on this node's disk."),
    Metric("crowd_journal_first_index", _GAUGE, "The first entry that this node's log has."),
    Metric("crowd_journal_mended_entries_total", _COUNTER, "Damaged entries mended from a peer."),
    Metric("crowd_journal_mended_total", _COUNTER, "Places mended on this disk, of any kind."),
    Metric("crowd_journal_stored_bytes", _GAUGE, "What the log takes of the disk."),
    Metric("crowd_journal_write_seconds_total", _COUNTER, "Time spent writing and syncing."),
    Metric("crowd_journal_written_bytes_total", _COUNTER, "Bytes written to the journal."),
    Metric("crowd_letters", _GAUGE, "Letters that the ledger has."),
    Metric("crowd_letters_fetched_total", _COUNTER, "Letters had from peers."),
    Metric("crowd_letters_lacking", _GAUGE, "Letters whose bytes this node does not have."),
    Metric("crowd_letters_pending_bytes", _GAUGE, "Letters' bytes not yet durable."),
    Metric("crowd_members", _GAUGE, "Members of the cluster.", ("role",)),
    Metric("crowd_producers_waiting", _GAUGE, "Messages offered and not yet answered."),
    Metric("crowd_raft_applied_index", _GAUGE, "The last entry that the ledger applied."),
    Metric("crowd_raft_commit_index", _GAUGE, "The last entry known to be committed."),
    Metric("crowd_raft_leader", _GAUGE, "1 on the leader, 0 elsewhere."),
    Metric("crowd_raft_term", _GAUGE, "The current term."),
    Metric("crowd_read_answers_total", _COUNTER, "Answers to reads, by their class.", ("status",)),
    Metric("crowd_read_body_bytes_total", _COUNTER, "Bytes of bodies passed on to readers."),
    Metric("crowd_read_failures_total", _COUNTER, "Reads that failed, and why.", ("why",)),
    Metric("crowd_read_seconds_total", _COUNTER, "Time that reads took, until all went out."),
    Metric("crowd_reads_in_flight", _GAUGE, "Reads under way."),
    Metric("crowd_refused_requests_total", _COUNTER, "Requests refused for want of room."),
    Metric("crowd_released_index", _GAUGE, "Entries up to it may leave every node's log."),
    Metric("crowd_retry_after_seconds", _GAUGE, "When refused producers are to come back."),
    Metric("crowd_scrub_flaws_total", _COUNTER, "Damage that the scrub found."),
    Metric("crowd_scrub_passes_total", _COUNTER, "Times that all finished segments were verified."),
    Metric("crowd_scrub_read_bytes_total", _COUNTER, "Bytes verified by the scrub."),
    Metric("crowd_snapshot_sent_bytes_total", _COUNTER, "Bytes of checkpoints sent to followers."),
    Metric("crowd_waits_in_flight", _GAUGE, "Producers that wait for a consumer's answer."),
    Metric("crowd_waits_total", _COUNTER, "Waits that ended, by how.", ("end",)),
    Metric("crowd_worker_in_flight", _GAUGE, "Messages not yet answered.", ("worker",)),
    Metric("crowd_worker_in_flight_bytes", _GAUGE, "Bytes of those messages.", ("worker",)),
    Metric("crowd_worker_restarts_total", _COUNTER, "Workers started again."),
    Metric("crowd_workers", _GAUGE, "Workers that take requests."),
)

BY_NAME: Final = {metric.name: metric for metric in METRICS}

_LABEL: Final = re.compile(r'([a-z_]+)="([^"]*)"')


def parse_sample(key: str) -> tuple[Metric, tuple[str, ...]]:
    """Return the metric that `key` names, and its labels' values in the table's order.

    A key is a metric's name, followed by its labels as Prometheus writes them if it has any:
    ``crowd_consumer_in_flight{consumer="rest-api"}``. Raises LookupError if the table has no
    such metric or it has other labels.
    """
    name, _, rest = key.partition("{")
    metric = BY_NAME[name]
    found = dict(_LABEL.findall(rest))
    if set(found) != set(metric.labels):
        raise LookupError(f"{key}: found labels {sorted(found)}; expected {metric.labels}")
    return metric, tuple(found[label] for label in metric.labels)
