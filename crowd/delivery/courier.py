"""One attempt over HTTP, through treq.

Decides what an attempt's answer was: translates whatever comes back into an `Answer`. Leaves
what is sent to ``forms``, and how treq is asked to ``client``.

Measured with tests/bench/delivery.py; docs/explanation/delivery.md has the figures.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec
from twisted.internet.defer import succeed
from twisted.logger import Logger

from crowd.delivery.agent import ConsumerAgent, PreparedRequest
from crowd.delivery.awaited import BODY_BYTES_MAX
from crowd.delivery.client import Client
from crowd.delivery.connection import PIECE_BYTES_MAX
from crowd.delivery.endpoint import endpoint_to
from crowd.delivery.forms.form import Form
from crowd.delivery.outcome import Answered, Failed, FailureKind, retry_after_s
from crowd.delivery.request import parse_destination
from crowd.delivery.secrets import Keyring
from crowd.errors import AttemptFailedError, SecretUnreadableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from crowd.definition import ConsumerDefinition
    from crowd.delivery.forms.form import Outgoing
    from crowd.delivery.forms.signing import Key
    from crowd.delivery.outcome import Answer
    from crowd.delivery.request import Naming
    from crowd.message import Message


class HTTPCourier:
    """Brings messages to one consumer over its agent; a `ports.Courier`."""

    _log = Logger()

    def __init__(
        self, agent: ConsumerAgent, url: str, form: Form, keyring: Keyring[Key],
        wall_s: Callable[[], float],
    ) -> None:  # fmt: skip
        """Make a courier. `wall_s` is the wall clock, in seconds since 1970; signatures tell it."""
        self._agent = agent
        self._form = form
        self._keyring = keyring
        self._wall_s = wall_s
        self._client = Client(agent, url)

    def attempt(self, message: Message, naming: Naming) -> Deferred[Answer]:
        """Make one attempt; fires with its Answer and never fails."""
        try:
            keys = self._keyring.current()
        except SecretUnreadableError as error:
            return succeed(Failed(FailureKind.UNSIGNED, str(error)))
        outgoing = self._form.request(message, naming, keys, int(self._wall_s()))
        if naming.awaited and self._form.is_plain:
            return self._ask_all(outgoing).addCallbacks(self._answered_all, self._failed)
        return self._ask(outgoing).addCallbacks(self._answered, self._failed)

    def attempt_batch(self, items: Sequence[tuple[Message, Naming]]) -> Deferred[list[Answer]]:
        """Make one attempt with many messages; fires with an Answer for each, in their order."""
        try:
            keys = self._keyring.current()
        except SecretUnreadableError as error:
            return succeed([Failed(FailureKind.UNSIGNED, str(error))] * len(items))
        asked = self._ask(self._form.batch(items, keys, int(self._wall_s())))

        def answered(response: Any) -> list[Answer]:
            return self._form.answers(items, self._answered(response), response.original.body)

        def failed(failure: Failure) -> list[Answer]:
            return self._form.answers(items, self._failed(failure), b"")

        return asked.addCallbacks(answered, failed)

    def _ask(self, outgoing: Outgoing) -> Deferred[Any]:
        return self._client.ask(
            PreparedRequest(outgoing.head, outgoing.body, outgoing.answer_bytes_max)
        )

    def _ask_all(self, outgoing: Outgoing) -> Deferred[Any]:
        """Ask, and have the answer kept as a whole."""
        return self._client.ask(
            PreparedRequest(outgoing.head, outgoing.body, BODY_BYTES_MAX, awaited=True)
        )

    def close(self) -> None:
        """Let attempts under way end, and start no more."""
        self._agent.close()

    def abort(self) -> None:
        """End attempts under way at once."""
        self._agent.abort()

    def _answered(self, response: Any) -> Answer:
        headers = response.headers
        status = response.code
        piece = response.original.body[:PIECE_BYTES_MAX] if status >= 300 else b""
        asked = headers.getRawHeaders(b"retry-after")
        if asked is None:
            return Answered(status, None, piece)
        date = headers.getRawHeaders(b"date")
        return Answered(status, retry_after_s(asked[0], date[0] if date else None), piece)

    def _answered_all(self, response: Any) -> Answer:
        answer, original = self._answered(response), response.original
        if isinstance(answer, Answered) and original.whole:
            whole = tuple(original.fields), original.body
            return msgspec.structs.replace(answer, whole=whole)
        return answer

    def _failed(self, failure: Failure) -> Answer:
        error = failure.value
        if isinstance(error, AttemptFailedError):
            return Failed(FailureKind(error.kind), error.words)
        self._log.failure("an attempt failed in an unforeseen way", failure)
        return Failed(FailureKind.BROKEN, failure.getErrorMessage())


def make_courier(
    reactor: Any,
    definition: ConsumerDefinition,
    may_send: Callable[[], bool],
    spent: Callable[[float], None],
    wall_s: Callable[[], float] = time.time,
) -> HTTPCourier:
    """Return a courier for a consumer; ValueError if its address is none.

    `may_send` and `spent` are as :class:`crowd.delivery.agent.ConsumerAgent` takes them. The
    consumer's secrets are read when they are first needed: one that is missing now may come.
    """
    destination = parse_destination(definition.url, definition.path)
    agent = ConsumerAgent(
        reactor,
        endpoint_to(reactor, destination, definition),
        definition.timeout_us / 1e6,
        may_send,
        spent,
        secure=destination.scheme == "https",
    )
    keyring: Keyring[Key] = Keyring(definition.secrets, reactor.seconds)
    return HTTPCourier(agent, definition.url, Form(definition, destination), keyring, wall_s)
