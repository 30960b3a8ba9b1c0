"""Many messages in one request.

Decides the bodies of batches and their heads, and what an answer means for each message.
Pure. Leaves to ``gathering`` which messages go together, and to ``bulk`` and ``event`` how
one looks in their formats.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, TypeAlias

from crowd.delivery.forms import bulk
from crowd.delivery.forms.document import compact, wrapped
from crowd.delivery.forms.event import BATCH_MEDIA_TYPE, event_json
from crowd.delivery.outcome import Answered, Outcome, outcome_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crowd.definition import Batch
    from crowd.delivery.outcome import Answer
    from crowd.delivery.request import Destination, Naming
    from crowd.message import Message

Items: TypeAlias = "Sequence[tuple[Message, Naming]]"

MEDIA_TYPES: Final = {
    "ndjson": b"application/x-ndjson",
    "json": b"application/json",
    "cloudevents": BATCH_MEDIA_TYPE,
    "bulk": bulk.MEDIA_TYPE,
}


def batch_body(form: str, items: Items) -> bytes:
    """Return the body of a batch of at least one message, in the order of `items`."""
    if form == "bulk":
        return b"".join([bulk.lines(message, naming) for message, naming in items])
    if form == "cloudevents":
        return b"[%b]" % b",\n".join([event_json(message, naming) for message, naming in items])
    values = [compact(message.body) or wrapped(message) for message, _ in items]
    if form == "json":
        return b"[%b]" % b",\n".join(values)
    assert form == "ndjson", form
    values.append(b"")  # the last line has an end too
    return b"\n".join(values)


def batch_target(form: str, destination: Destination) -> bytes:
    """Return where batches go: the path of the consumer's address, and its ``path`` if any."""
    if destination.path is not None:
        return destination.prefix + destination.path
    if form == "bulk" and not destination.prefix.endswith(bulk.PATH):
        return destination.prefix + bulk.PATH
    return destination.prefix or b"/"


def batch_id(items: Items) -> bytes:
    """Return a name for a batch: the same messages in the same order have the same one."""
    ids = "\n".join([naming.id for _, naming in items])
    return b"batch-" + hashlib.sha256(ids.encode("ascii")).hexdigest()[:32].encode("ascii")


def batch_head(
    batch: Batch, destination: Destination, items: Items, length: int,
    extra: Sequence[tuple[bytes, bytes]],
) -> bytes:  # fmt: skip
    """Return the head of a batch's request, with its empty line.

    `length` is the body's, in bytes as sent; `extra` are headers that what was done to the
    body asks for. Letters that an operator replays go alone, and say so. The positions are the lowest and the highest one, whatever their order.
    """
    positions = [naming.position for _, naming in items]
    replay = [b"Crowd-Replay: 1"] if all(naming.replay for _, naming in items) else []
    lines = [
        b"POST %b HTTP/1.1" % batch_target(batch.form, destination),
        b"Host: " + destination.authority,
        b"Content-Type: " + MEDIA_TYPES[batch.form],
        b"Content-Length: %d" % length,
        *[b"%b: %b" % pair for pair in extra],
        b"Via: 1.1 crowd",
        *replay,
        b"Crowd-Batch: %d" % len(items),
        b"Crowd-Position-First: %d" % min(positions),
        b"Crowd-Position-Last: %d" % max(positions),
        b"Crowd-Attempt: %d\r\n\r\n" % max([naming.attempt for _, naming in items]),
    ]
    return b"\r\n".join(lines)


def answers(batch: Batch, items: Items, answer: Answer, body: bytes) -> list[Answer]:
    """Return each message's own answer, in the order of `items`.

    Only a bulk answer tells them apart. Otherwise, and where a bulk request as a whole was
    not answered 2xx, all messages have the answer of the request.
    """
    delivered = outcome_of(answer) is Outcome.DELIVERED
    if batch.form == "bulk" and isinstance(answer, Answered) and delivered:
        return bulk.answers(items, answer, body)
    return [answer] * len(items)


def is_shared(answers: Sequence[Answer]) -> bool:
    """Return whether a batch's messages, more than one, have the request's answer in common.

    Such an answer may be about one of them only: none is to be given up before it was
    attempted alone.
    """
    return len(answers) > 1 and all(answer is answers[0] for answer in answers)
