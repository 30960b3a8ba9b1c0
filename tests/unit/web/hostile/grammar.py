"""Requests made by grammar and then mutated, for the fuzz tests: most are nearly right."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.unit.web.hostile.table import THEMES

SEEDS = [case.data for cases in THEMES.values() for case in cases if 0 < len(case.data) <= 2_000]

BLANKS = st.sampled_from([b" ", b"", b"  ", b"\t", b" \t", b"\x0b", b"\xa0", b"\r\n "])
ENDS = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b"\r\r\n", b"\n\r", b"\r\n\r\n", b""])
BETWEEN = st.sampled_from([b" "] * 12 + [b"  ", b"\t", b"", b" \r"])
METHODS = st.sampled_from(
    [b"POST"] * 6 + [b"PUT", b"GET", b"CONNECT", b"post", b"PO ST", b"PRI", b"OPTIONS"]
)
TARGETS = st.sampled_from(
    [b"/leads"] * 6
    + [b"/any/a", b"/any/../leads", b"*", b"http://a.test/leads", b"a.test:80", b"/leads?a=b", b"/le ads", b"//leads", b""]
)  # fmt: skip
VERSIONS = st.sampled_from(
    [b"HTTP/1.1"] * 8 + [b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b"RTSP/1.0", b"HTTP/1.1 ", b""]
)  # fmt: skip
NAMES = st.sampled_from(
    [b"Host"] * 2 + [b"Content-Length"] * 3 + [b"Transfer-Encoding"] * 3
    + [b"Connection", b"Proxy-Connection", b"Expect", b"Upgrade", b"A", b"Content_Length", b"Trailer", b"TE", b"host", b"A b", b"", b"\xe9"]
)  # fmt: skip
VALUES = st.sampled_from(
    [b"a.test", b"0", b"3", b"3", b"5", b"03", b"+3", b"3, 3", b"0x3", b"", b"chunked", b"chunked", b"Chunked",
     b"gzip, chunked", b"chunked, chunked", b"close", b"keep-alive", b"upgrade", b"100-continue", b"h2c", b"a:b", b"a b",
     b"\xff", b"a\x00", b"[::1]:80", b"1" * 25]
)  # fmt: skip
SIZES = st.sampled_from(
    [b"3"] * 6 + [b"0", b"03", b"3;a", b"3;a=b", b'3;a="b"', b"3 ", b" 3", b"0x3", b"-3", b"4", b"2", b"", b"1" + b"0" * 16]
)  # fmt: skip
HOSTED = st.sampled_from([b"Host: a.test\r\n"] * 8 + [b"", b"Host: a.test\r\nHost: a.test\r\n"])


@st.composite
def fields(draw: st.DrawFn) -> bytes:
    """One header field, or something like it."""
    parts = [
        draw(NAMES),
        draw(st.sampled_from([b":"] * 10 + [b" :", b"", b"::"])),
        b" ",
        draw(VALUES),
        draw(ENDS),
    ]
    return b"".join(parts)


@st.composite
def chunked(draw: st.DrawFn) -> bytes:
    """A chunked body, or something like it."""
    chunks = draw(st.lists(st.tuples(SIZES, ENDS, ENDS), max_size=3))
    body = b"".join(size + end + b"abc" + after for size, end, after in chunks)
    last = draw(
        st.sampled_from(
            [b"0\r\n\r\n"] * 8
            + [b"00\r\n\r\n", b"0\n\n", b"0\r\nA: b\r\n\r\n", b"0\r\nHost: b\r\n\r\n", b""]
        )
    )
    return body + last


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """One request, or something like it."""
    line = (
        draw(METHODS) + draw(BETWEEN) + draw(TARGETS) + draw(BETWEEN) + draw(VERSIONS) + draw(ENDS)
    )
    head = line + draw(HOSTED) + b"".join(draw(st.lists(fields(), max_size=3)))
    kind = draw(st.sampled_from(["none", "length", "chunked", "any"]))
    if kind == "length":
        return head + b"Content-Length: 3" + draw(ENDS) + draw(ENDS) + b"abc"
    if kind == "chunked":
        return head + b"Transfer-Encoding: chunked" + draw(ENDS) + draw(ENDS) + draw(chunked())
    return head + draw(ENDS) + (draw(st.binary(max_size=8)) if kind == "any" else b"")


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Bytes of a few requests, one after the other, with some octets changed, doubled, or lost."""
    parts = draw(
        st.lists(st.one_of(requests(), requests(), st.sampled_from(SEEDS)), min_size=1, max_size=3)
    )
    data = bytearray(b"".join(parts))
    signs = st.sampled_from(
        [b"\r", b"\n", b"\r\n", b" ", b"\t", b"\x00", b":", b";", b",", b"0", b"\xff", b"%2e", b"/"]
    )
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        how = draw(st.sampled_from(["insert", "lose", "double", "replace"]))
        if how == "insert":
            data[at:at] = draw(signs)
        elif how == "lose":
            del data[at : at + draw(st.integers(1, 6))]
        elif how == "double":
            data[at:at] = data[at : at + draw(st.integers(1, 40))]
        else:
            data[at : at + 1] = draw(signs)
    return bytes(data)


CUTS = st.lists(st.integers(1, 200), min_size=1, max_size=8)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """Return `data` in pieces of `sizes`, over and over."""
    found, at, turn = [], 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        found.append(data[at : at + size])
        at, turn = at + size, turn + 1
    return found
