"""Many messages in one request, from the door to the answer: a group. Pure.

Decides what is stored of each element, which keys they have, and what the producer hears. Leaves
what an element is to ``crowd/door/elements``, and that all are stored or none to the proposer.
"""

from __future__ import annotations

import gzip
import sys
from array import array
from typing import TYPE_CHECKING, Final

import msgspec

from crowd.door.elements import ELEMENTS_MAX
from crowd.idempotency import NO_KEY, keyed
from crowd.message import MessageStem, message_id
from crowd.raft.proposal import MESSAGE_OVERHEAD_BYTES
from crowd.raft.proposer import BATCH_BYTES_MAX, BATCH_MESSAGES_MAX
from crowd.web.fields import accepts_gzip
from crowd.web.idempotency import digests_of_event
from crowd.web.reply import make_reply

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from crowd.door.elements import Elements
    from crowd.idempotency import Grouped
    from crowd.message import Message
    from crowd.web.fields import Field
    from crowd.web.reply import Reply

assert ELEMENTS_MAX <= BATCH_MESSAGES_MAX, "what passes the door fits an entry"

# Of a body that was taken apart these would be untrue: its form, its digests and its signatures.
# And under a name that is the request's a consumer would take one element for the one before.
_OF_THE_WHOLE: Final = frozenset({
    b"content-length", b"content-encoding", b"content-range",
    b"content-md5", b"content-digest", b"repr-digest", b"digest",
    b"signature", b"signature-input", b"x-hub-signature", b"x-hub-signature-256",
    b"stripe-signature", b"x-shopify-hmac-sha256", b"x-slack-signature",
    b"x-slack-request-timestamp", b"webhook-signature", b"webhook-timestamp",
    b"webhook-id", b"idempotency-key",
})  # fmt: skip
_TYPE: Final = b"content-type"
_COMMON: Final = (
    (b"Content-Type", b"application/json;charset=UTF-8"),
    (b"Vary", b"Accept-Encoding"),
)
_GZIP: Final = (b"Content-Encoding", b"gzip")
_GZIP_LEVEL: Final = 1
"""Ids differ in a few digits: the first level has them in a tenth, and more effort saves little."""


class TooLargeError(Exception):
    """A group is more than an entry holds; the text is for its producer."""


def stored_forms(message: Message, elements: Elements) -> list[bytes]:
    """Return the stored form of a message for each element, all else as `message` has it.

    Raises TooLargeError, before anything was encoded, if one entry does not hold them.
    """
    fields = tuple(_about_element(message.headers, elements.content_type))
    stem = MessageStem(msgspec.structs.replace(message, headers=fields))
    bodies = elements.bodies
    own_bytes = (stem.bytes_max + MESSAGE_OVERHEAD_BYTES + len(keyed(0, bytes(32)))) * len(bodies)
    size = own_bytes + sum(map(len, bodies))
    if size > BATCH_BYTES_MAX and len(bodies) > 1:
        raise TooLargeError(
            f"{len(bodies)} messages take {size} bytes with the header fields of each; "
            f"expected {BATCH_BYTES_MAX} at most: split them over several requests"
        )
    return stem.encode(bodies)


def _about_element(headers: Iterable[Field], content_type: bytes) -> Iterable[Field]:
    """Yield the fields of an element: its request's, with its own type in the place of that one's."""
    for name, value in headers:
        lowered = name.lower()
        if lowered == _TYPE:
            yield name, content_type
        elif lowered not in _OF_THE_WHOLE:
            yield name, value


def keys_of_events(path: str, credential: str, events: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return what a group says of its keys where each of its messages is an event of that name."""
    if not events:
        return NO_KEY
    return b"".join(
        [
            keyed(place, digests_of_event(path, credential, source, event))
            for place, (source, event) in enumerate(events)
        ]
    )


def group_reply(tag: str, grouped: Grouped, encodings: bytes) -> Reply:
    """Return the answer to a request whose messages were accepted, or known."""
    # All ids at once in C: hexadecimal digits of eight bytes each, and what stands between two.
    numbers = array("Q", grouped.positions())
    if sys.byteorder == "little":
        numbers.byteswap()
    ids = f'"{tag}-' + numbers.tobytes().hex("|", 8).replace("|", f'", "{tag}-') + '"'
    replayed = ""
    if grouped.replayed:
        known = [at for place, count, _ in grouped.replayed for at in range(place, place + count)]
        replayed = f', "replayed": {known}'
    body = f'{{"status": "OK", "ids": [{ids}]{replayed}}}'.encode("ascii")
    if encodings and accepts_gzip(encodings):
        return make_reply(200, (*_COMMON, _GZIP), gzip.compress(body, _GZIP_LEVEL, mtime=0))
    return make_reply(200, _COMMON, body)


def first_id(tag: str, grouped: Grouped) -> bytes:
    """Return the id of a group's first message."""
    position = grouped.first
    if grouped.replayed and grouped.replayed[0][0] == 0:
        position = type(position)(grouped.replayed[0][2])
    return message_id(tag, position).encode("ascii")
