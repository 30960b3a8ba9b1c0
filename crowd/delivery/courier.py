"""One attempt over HTTP, through treq: the only place that names it.

Decides how an attempt is asked of treq so that treq changes nothing: no redirects, no
cookies, no decoding, no timeout of its own (the agent's holds for the whole attempt), one
address that is parsed once. Translates whatever comes back into an `Answer`.

Measured with tests/bench/delivery.py; docs/explanation/delivery.md has the figures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hyperlink import EncodedURL
from treq.client import HTTPClient
from treq.cookies import IndexableCookieJar
from twisted.logger import Logger

from crowd.delivery.agent import ConsumerAgent, PreparedRequest
from crowd.delivery.connection import PIECE_BYTES_MAX
from crowd.delivery.endpoint import endpoint_to
from crowd.delivery.outcome import Answered, Failed, FailureKind, retry_after_s
from crowd.delivery.request import parse_destination, request_head
from crowd.errors import AttemptFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from http.cookiejar import Cookie

    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from crowd.command import ConsumerDefinition
    from crowd.delivery.outcome import Answer
    from crowd.delivery.request import Destination, Naming
    from crowd.message import Message


class _NoCookies(IndexableCookieJar):
    """A jar that stays empty, so that no cookie of one answer is in another request."""

    def add_cookie_header(self, request: Any) -> None:
        """Add none."""

    def extract_cookies(self, response: Any, request: Any) -> None:
        """Take none."""

    def __iter__(self) -> Iterator[Cookie]:
        return iter(())


class _ParsedURL(EncodedURL):
    """A consumer's address that treq need not parse and encode anew at each attempt.

    The agent's endpoint is fixed, and the request's own head holds its target, so this says
    only what is asked of whom. Parsing and IDNA would cost more than the rest of treq's work.
    """

    _text = ""

    @classmethod
    def of(cls, text: str) -> _ParsedURL:
        """Return an address, parsed."""
        parsed = EncodedURL.from_text(text)
        url = cls(parsed.scheme, parsed.host, parsed.path, port=parsed.port)
        url._text = parsed.to_uri().to_text()
        return url

    def to_uri(self) -> _ParsedURL:
        """Return itself: it is one."""
        return self

    def to_text(self, with_password: bool = False) -> str:  # noqa: ARG002, FBT001, FBT002  its signature
        """Return the text as it was parsed."""
        return self._text


class HTTPCourier:
    """Brings messages to one consumer over its agent; a `ports.Courier`."""

    _log = Logger()

    def __init__(self, agent: ConsumerAgent, url: str, destination: Destination) -> None:
        self._agent = agent
        self._destination = destination
        self._url = _ParsedURL.of(url)
        self._cookies = _NoCookies()
        under: Any = agent  # an IAgent, which zope says and types do not
        self._treq = HTTPClient(under, self._cookies, data_to_body_producer=lambda data: data)
        self._no_reactor: Any = object()  # treq asks it for its own timeout only; there is none

    def attempt(self, message: Message, naming: Naming) -> Deferred[Answer]:
        """Make one attempt; fires with its Answer and never fails."""
        head = request_head(message, self._destination, naming)
        prepared: Any = PreparedRequest(head, message.body)
        # treq writes methods in capitals; the head has the message's own.
        asked: Deferred[Any] = self._treq.request(
            "POST",
            self._url,
            data=prepared,
            cookies=self._cookies,
            allow_redirects=False,
            unbuffered=True,
            reactor=self._no_reactor,
        )
        return asked.addCallbacks(self._answered, self._failed)

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
) -> HTTPCourier:
    """Return a courier for a consumer; ValueError if its address is none.

    `may_send` and `spent` are as :class:`crowd.delivery.agent.ConsumerAgent` takes them.
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
    return HTTPCourier(agent, definition.url, destination)
