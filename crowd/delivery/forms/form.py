"""What one consumer is sent, by its definition.

Decides the order of what is done to a message: it becomes an event, the body is compressed,
the bytes that will be sent are signed, and the head is made. Pure. A consumer whose
definition asks for none of it gets the original request (I9).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from crowd.delivery.forms import batch as batches
from crowd.delivery.forms import bulk
from crowd.delivery.forms.compression import as_gzipped, gzipped
from crowd.delivery.forms.event import as_binary, as_structured
from crowd.delivery.forms.signing import as_signed, signature_headers
from crowd.delivery.request import request_head

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crowd.definition import ConsumerDefinition
    from crowd.delivery.forms.batch import Items
    from crowd.delivery.forms.signing import Key
    from crowd.delivery.outcome import Answer
    from crowd.delivery.request import Destination, Naming
    from crowd.message import Message


class Outgoing(NamedTuple):
    """A request as it goes over the wire: its head, with the empty line, and its body.

    Of the answer's body as many bytes are wanted as ``answer_bytes_max`` says.
    """

    head: bytes
    body: bytes
    answer_bytes_max: int = 0


class Form:
    """What is made of messages for one consumer."""

    def __init__(self, definition: ConsumerDefinition, destination: Destination) -> None:
        self._batch = definition.batch
        self._destination = destination
        self._gzip = definition.gzip
        self._event = {
            "request": None,
            "cloudevents-binary": as_binary,
            "cloudevents-structured": as_structured,
        }[definition.form]

    @property
    def is_plain(self) -> bool:
        """Whether a consumer's answer is one to the producer's own request."""
        return self._event is None and self._batch is None

    def request(
        self, message: Message, naming: Naming, keys: Sequence[Key] = (), now_s: int = 0
    ) -> Outgoing:
        """Return the request for one message, signed by each of `keys` at `now_s`.

        `now_s` is in whole seconds since 1970, and looked at only if there are keys.
        """
        if self._event is not None:
            message = self._event(message, naming)
        if self._gzip:
            message = as_gzipped(message)
        if keys:
            message = as_signed(message, keys, naming.id.encode("ascii"), now_s)
        return Outgoing(request_head(message, self._destination, naming), message.body)

    def batch(self, items: Items, keys: Sequence[Key] = (), now_s: int = 0) -> Outgoing:
        """Return the request for many messages, at least one, of a consumer that takes batches."""
        batch = self._batch
        assert batch is not None, "the consumer takes no batches"
        body = batches.batch_body(batch.form, items)
        extra: list[tuple[bytes, bytes]] = []
        if self._gzip and (smaller := gzipped(body)) is not None:
            body = smaller
            extra.append((b"Content-Encoding", b"gzip"))
        if keys:
            extra += signature_headers(keys, batches.batch_id(items), now_s, body)
        head = batches.batch_head(batch, self._destination, items, len(body), extra)
        wanted = bulk.answer_bytes_max(len(items)) if batch.form == "bulk" else 0
        return Outgoing(head, body, wanted)

    def answers(self, items: Items, answer: Answer, body: bytes) -> list[Answer]:
        """Return each message's own answer; `body` is what was read of the answer's."""
        assert self._batch is not None, "the consumer takes no batches"
        return batches.answers(self._batch, items, answer, body)
