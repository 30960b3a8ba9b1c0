"""Elasticsearch's bulk format, which OpenSearch and others read too.

Decides the two lines that a message is, and what a bulk answer says of each. Pure.

Source: Elasticsearch's reference, "Bulk index or delete documents". The action is ``index``
with the message's id as the document's: the same message again is the same document again,
so that a repeated delivery changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from crowd.command import WORDS_MAX
from crowd.delivery.forms.document import compact, wrapped
from crowd.delivery.outcome import Answered, Failed, FailureKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crowd.delivery.outcome import Answer
    from crowd.delivery.request import Naming
    from crowd.message import Message

MEDIA_TYPE: Final = b"application/x-ndjson"

PATH: Final = b"/_bulk"

_ANSWER_HEAD_BYTES: Final = 64 << 10
_ANSWER_ITEM_BYTES: Final = 2 << 10  # a success takes 200; an error with its causes seldom 1 000
_ANSWER_BYTES_MAX: Final = 16 << 20


def answer_bytes_max(count: int) -> int:
    """Return how many bytes are read of the answer to a batch of `count` messages."""
    return min(_ANSWER_HEAD_BYTES + count * _ANSWER_ITEM_BYTES, _ANSWER_BYTES_MAX)


class _Item(msgspec.Struct, frozen=True, rename={"id": "_id"}):
    status: Annotated[int, Meta(ge=100, le=599)]
    id: str | None = None
    error: msgspec.Raw = msgspec.Raw()


class _BulkAnswer(msgspec.Struct, frozen=True):
    errors: bool
    items: list[dict[str, _Item]] = msgspec.field(default_factory=list)


_decode = msgspec.json.Decoder(_BulkAnswer).decode


def lines(message: Message, naming: Naming) -> bytes:
    """Return a message's action line and its document's line, each with its end.

    A document is an object: a body that is a JSON object stands as it is, on one line, and
    any other as `document.wrapped` says.
    """
    document = compact(message.body)
    if document is None or not document.startswith(b"{"):
        document = wrapped(message)
    return b'{"index":{"_id":"%b"}}\n%b\n' % (naming.id.encode("ascii"), document)


def answers(items: Sequence[tuple[Message, Naming]], answer: Answered, body: bytes) -> list[Answer]:
    """Return what a 2xx answer with this body says of each message, in the batch's order.

    Each item's status is that message's own. A body that does not tell them apart leaves
    unknown what became of any: all are tried again, under the same ids.
    """
    try:
        bulk = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _none(items, "no bulk answer, or one that is too long")
    if not bulk.errors:
        return [answer] * len(items)
    if len(bulk.items) != len(items):
        return _none(items, f"a bulk answer with {len(bulk.items)} items to {len(items)} messages")
    found: list[Answer] = []
    for (_, naming), results in zip(items, bulk.items, strict=True):
        result = next(iter(results.values()), None)
        if result is None or result.id not in {None, naming.id}:
            return _none(items, "a bulk answer whose items are not the batch's")
        piece = bytes(result.error)[:WORDS_MAX]
        found.append(Answered(result.status, answer.retry_after_s, piece))
    return found


def _none(items: Sequence[tuple[Message, Naming]], words: str) -> list[Answer]:
    return [Failed(FailureKind.MALFORMED, words)] * len(items)
