"""treq, over an agent of crowd's own: the only place that names it.

Decides how treq is asked so that it changes nothing: no redirects, no cookies, no decoding, no
buffer, no timeout of its own (the agent's holds), one address that is parsed once. Leaves what
is sent, and what an answer means, to whoever asks.

Measured with tests/bench/delivery.py; docs/explanation/delivery.md has the figures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hyperlink import EncodedURL
from treq.client import HTTPClient
from treq.cookies import IndexableCookieJar

from crowd.delivery.agent import NO_HEADERS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.cookiejar import Cookie

    from twisted.internet.defer import Deferred

    from crowd.delivery.agent import PreparedRequest


class _NoCookies(IndexableCookieJar):
    """A jar that stays empty, so that no cookie of one answer is in another request."""

    def add_cookie_header(self, request: Any) -> None:
        """Add none."""

    def extract_cookies(self, response: Any, request: Any) -> None:
        """Take none."""

    def __iter__(self) -> Iterator[Cookie]:
        return iter(())


class _ParsedURL(EncodedURL):
    """An address that treq need not parse and encode anew at each attempt.

    The agent's endpoint is fixed, and the request's own head holds its target, so this says
    only what is asked of whom. Parsing and IDNA would cost more than the rest of treq's work,
    and IDNA knows neither IPv6 addresses nor names with underscores.
    """

    _text = ""

    @classmethod
    def of(cls, text: str) -> _ParsedURL:
        """Return an address, parsed."""
        parsed = EncodedURL.from_text(text)
        url = cls(parsed.scheme, parsed.host, parsed.path, port=parsed.port)
        url._text = text
        return url

    def to_uri(self) -> _ParsedURL:
        """Return itself: it is one."""
        return self

    def to_text(self, with_password: bool = False) -> str:  # noqa: ARG002, FBT001, FBT002  its signature
        """Return the text as it was parsed."""
        return self._text


class Client:
    """Asks one address, through treq and `agent`: an IAgent that takes a `PreparedRequest`."""

    def __init__(self, agent: Any, url: str) -> None:
        self._url = _ParsedURL.of(url)
        self._cookies = _NoCookies()
        self._treq = HTTPClient(agent, self._cookies, data_to_body_producer=lambda data: data)
        self._no_reactor: Any = object()  # treq asks it for its own timeout only; there is none

    def ask(self, prepared: PreparedRequest) -> Deferred[Any]:
        """Ask. Fires with treq's response, whose ``original`` is the agent's, or fails as that does.

        Cancelling it cancels the agent's.
        """
        data: Any = prepared
        # treq writes methods in capitals; the head has the request's own.
        asked: Deferred[Any] = self._treq.request(
            "POST",
            self._url,
            headers=NO_HEADERS,
            data=data,
            cookies=self._cookies,
            allow_redirects=False,
            unbuffered=True,
            reactor=self._no_reactor,
        )
        return asked
