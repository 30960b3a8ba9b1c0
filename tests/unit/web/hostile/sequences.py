"""What one connection is asked to do: Connection, Expect, Upgrade, and pipelined requests."""

from __future__ import annotations

from tests.unit.web.hostile.case import (
    CHUNKED,
    HEAD,
    LENGTH,
    NEXT,
    Case,
    declined,
    refused,
    taken,
    waits,
)


def _with(line: bytes, body: bytes = b"abc") -> bytes:
    return LENGTH + line + b"\r\n\r\n" + body


def _keyed(*keys: bytes) -> bytes:
    """Requests that differ in their keys alone, or seem to."""
    return b"".join([_with(b"Idempotency-Key: " + key) for key in keys])


_HTTP_1_0 = b"POST /leads HTTP/1.0\r\nContent-Length: 3\r\n"
_H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk"
_LOST = b"POST /nowhere HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\n\r\nlost"

CASES = (
    taken("Connection: close", _with(b"Connection: close"), b"abc", closes=True),
    taken("Connection: CLOSE", _with(b"Connection: CLOSE"), b"abc", closes=True),
    taken("Connection: close in a list", _with(b"Connection: x, close"), b"abc", closes=True),
    taken("Connection: close in a second field", _with(b"Connection: x\r\nConnection: close"), b"abc", closes=True),
    taken("a request behind Connection: close is dropped", _with(b"Connection: close") + NEXT, b"abc", closes=True),
    taken("garbage behind Connection: close is dropped", _with(b"Connection: close") + b"\x00\xff", b"abc", closes=True),
    taken("Connection: keep-alive", _with(b"Connection: keep-alive") + NEXT, b"abc", b"next"),
    taken("Connection names Host", _with(b"Connection: Host"), b"abc"),
    taken("Connection names Content-Length", _with(b"Connection: Content-Length"), b"abc"),
    taken("Connection names both, and itself", _with(b"Connection: Host, Content-Length, Connection"), b"abc"),
    taken("Connection names nothing", _with(b"Connection: , ,"), b"abc"),
    taken("Proxy-Connection: close", _with(b"Proxy-Connection: close") + NEXT, b"abc", closes=True),
    taken("HTTP/1.0 ends its connection", _HTTP_1_0 + b"\r\nabc" + NEXT, b"abc", closes=True),
    taken("HTTP/1.0 with keep-alive", _HTTP_1_0 + b"Connection: keep-alive\r\n\r\nabc" + NEXT, b"abc", b"next"),
    taken("HTTP/1.0 with close", _HTTP_1_0 + b"Connection: close\r\n\r\nabc" + NEXT, b"abc", closes=True),
    taken("two requests in one piece", NEXT + NEXT, b"next", b"next"),
    taken("twenty requests in one piece", NEXT * 20, *([b"next"] * 20)),
    taken("a request behind one without a body", HEAD + b"\r\n" + NEXT, b"", b"next"),
    taken("chunked, with a length, chunked", CHUNKED + b"1\r\na\r\n0\r\n\r\n" + NEXT + CHUNKED + b"0\r\n\r\n", b"a", b"next", b""),
    Case("a request that no route takes between two", NEXT + _LOST + NEXT, (200, 404, 200), (b"next", b"next"), closes=False),
    Case("a method that is not taken between two", NEXT + _LOST.replace(b"POST /nowhere", b"GET /leads") + NEXT, (200, 405, 200), (b"next", b"next"), closes=False),
    refused("a bad request behind two good ones", NEXT + NEXT + b"POST  /leads HTTP/1.1\r\n\r\n" + NEXT, 400, b"next", b"next"),
    refused("a request behind a bad one", b"POST  /leads HTTP/1.1\r\nHost: a.test\r\n\r\n" + NEXT),
    refused("a lenient line behind a strict one in one piece", NEXT + NEXT.replace(b" /", b"  /"), 400, b"next"),
    refused("RTSP behind HTTP in one piece", NEXT + NEXT.replace(b"HTTP/", b"RTSP/"), 400, b"next"),
    refused("a lenient line behind chunked in one piece", CHUNKED + b"0\r\n\r\n" + NEXT.replace(b" /", b"  /"), 400, b""),
    refused("a request hidden behind a bad length", LENGTH + b"Content-Length: 40\r\n\r\nabc" + NEXT),
    refused("a request hidden behind a chunk's end", CHUNKED + b"0\r\n\r\nX" + NEXT, 400, b""),
    waits("a request hidden in a longer body", HEAD + b"Content-Length: 999\r\n\r\n" + NEXT),
    taken("requests that differ in their keys alone", _keyed(b"1", b"2", b'"3"') + NEXT, b"abc", b"abc", b"abc", b"next"),
    taken("a key with a blank behind one without", _keyed(b"1", b'"2 3"', b"4"), b"abc", b"abc", b"abc"),
    taken("a key that brings a field", _keyed(b"1", b"2\r\nX-A: b", b"3"), b"abc", b"abc", b"abc"),
    taken("a key that brings Connection: close", _keyed(b"1", b"2\r\nConnection: close", b"3"), b"abc", b"abc", closes=True),
    refused("a key that brings a length", _keyed(b"1", b"2\r\nContent-Length: 40") + NEXT, 400, b"abc"),
    refused("a key that brings a coding", _keyed(b"1", b"2\r\nTransfer-Encoding: chunked") + NEXT, 400, b"abc"),
    refused("a key that brings a Host", _keyed(b"1", b"2\r\nHost: b.test") + NEXT, 400, b"abc"),
    refused("a key with a bare LF", _keyed(b"1", b"2\nX-A: b") + NEXT, 400, b"abc"),
    refused("a key with a bare CR", _keyed(b"1", b"2\rX-A: b") + NEXT, 400, b"abc"),
    refused("a key with NUL", _keyed(b"1", b"2\x003") + NEXT, 400, b"abc"),
    refused("a key that is folded", _keyed(b"1", b"2\r\n 3") + NEXT, 400, b"abc"),
    Case("a key that is none between two", _keyed(b"1", b"2 3", b"4"), (200, 400, 200), (b"abc", b"abc"), closes=False),
    taken("Expect: 100-continue, and the body at once", _with(b"Expect: 100-continue"), b"abc"),
    taken("Expect: 100-CONTINUE", _with(b"Expect: 100-CONTINUE"), b"abc"),
    taken("Expect without a body", HEAD + b"Expect: 100-continue\r\n\r\n", b""),
    taken("Expect in HTTP/1.0 is not looked at", _HTTP_1_0 + b"Expect: 100-continue\r\n\r\nabc", b"abc", closes=True),
    refused("another expectation", _with(b"Expect: 200-ok"), 417),
    refused("100-continue and another expectation", _with(b"Expect: 100-continue, x"), 417),
    refused("100-continue twice", _with(b"Expect: 100-continue\r\nExpect: 100-continue"), 417),
    refused("an empty expectation", _with(b"Expect:"), 417),
    refused("an expectation with a parameter", _with(b"Expect: 100-continue;q=1"), 417),
    taken("an offer of h2c, with a body", _with(_H2C) + NEXT, b"abc", b"next"),
    taken("an offer of h2c, without a body", HEAD + _H2C + b"\r\n\r\n" + NEXT, b"", b"next"),
    taken("an offer of h2c, chunked", HEAD + _H2C + b"\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + NEXT, b"abc", b"next"),
    taken("an offer of websocket", HEAD + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n" + NEXT, b"", b"next"),
    taken("Upgrade without Connection", _with(b"Upgrade: h2c") + NEXT, b"abc", b"next"),
    refused("h2c smuggling: frames behind the offer", HEAD + _H2C + b"\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, b""),
    refused("an offer behind a lenient line", HEAD.replace(b" /", b"  /") + _H2C + b"\r\n\r\n" + NEXT),
    refused("a lenient line behind an offer", _with(_H2C) + NEXT.replace(b" /", b"  /"), 400, b"abc"),
    refused("CONNECT with a body", b"CONNECT a.test:80 HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabc" + NEXT, 404),
    declined("a body on GET is read over", b"GET /leads HTTP/1.1\r\nHost: a.test\r\nContent-Length: %d\r\n\r\n%s" % (len(NEXT), NEXT), 405),
)  # fmt: skip
