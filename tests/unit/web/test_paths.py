"""Which other paths one might be taken for."""

from __future__ import annotations

import posixpath
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowd.web.paths import BadPathError, readings


@pytest.mark.parametrize(
    ("path", "others"),
    [
        (b"/", ()),
        (b"/leads/7/", ()),
        (b"/caf%C3%A9", ()),
        (b"/a/./b", ("/a/b",)),
        (b"/a/x/../b/", ("/a/b/",)),
        (b"/a/x/..", ("/a/",)),
        (b"/a//b", ("/a/b",)),
        (b"/a//../b", ("/a/b", "/b")),
        (b"/a%2f%2e%2e%2fb", ("/b",)),
        (b"/a/%252e%252e/b", ("/a/%2e%2e/b", "/b")[1:]),
        (b"/a\\..\\b", ("/b",)),
        (b"/a/..;x/b", ("/b",)),
        (b"/a/b;x", ("/a/b",)),
        (b"/a/%c0%ae%c0%ae/b", ("/b",)),
        (b"/a/%e0%80%ae%f0%80%80%ae/b", ("/b",)),
        (b"/a/%fc%80%80%80%80%ae%f8%80%80%80%ae/b", ("/b",)),
        (b"/a/..%e0%80%afb", ("/b",)),
        (b"/a/..%e0%81%9cb", ("/b",)),
        (b"/a/..%c0%bb/b", ("/b",)),
        (b"/a/%c0%a52e%e0%80%a52e/b", ("/b",)),
        (b"/a/%e0%80%b7", ("/a/7",)),
    ],
)  # fmt: skip
def test_what_a_consumer_might_read(path, others):
    text, *found = readings(path)
    assert text == unquote_to_bytes(path).decode("utf-8", "replace")
    assert set(others) <= set(found)
    if not others:
        assert found == []


@pytest.mark.parametrize(
    "path",
    [
        b"/..",
        b"/a/../..",
        b"/a/%2e%2e/..",
        b"//a",
        b"/%2fa",
        b"/\\a",
        b"/%5ca",
        b"/a%00",
        b"/a%c0%80",
        b"/a%e0%80%80",
        b"/%e0%80%afa",
        b"/a/%f0%80%80%ae%c0%ae/%c0%ae%e0%80%ae",
        b"/a%",
        b"/a%4",
        b"/%zz",
    ],
)
def test_paths_that_are_nobodys(path):
    with pytest.raises(BadPathError):
        readings(path)


def overlong(octet, length):
    """Return an ASCII octet in as many octets as `length`, percent-encoded."""
    lead = {2: 0xC0, 3: 0xE0, 4: 0xF0, 5: 0xF8, 6: 0xFC}[length]
    octets = [0x80 | octet >> 6 * place & 0x3F for place in range(length)][::-1]
    octets[0] = lead | octet >> 6 * (length - 1)
    return "".join(f"%{each:02x}" for each in octets).encode()


@pytest.mark.parametrize("length", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("octet", range(1, 128))
def test_overlong_forms_are_seen_as_what_they_mean(octet, length):
    """To old decoders they are that character, wherever it stands."""
    plain = b"/a/..%%%02x" % octet + b"b/..%%%02x" % octet
    try:
        text, *others = readings(plain)
        meant = set(others or [text])
    except BadPathError:
        meant = None
    found = plain.replace(b"%%%02x" % octet, overlong(octet, length))
    if meant is None:
        with pytest.raises(BadPathError):
            readings(found)
    else:
        assert meant <= set(readings(found))


SEGMENTS = st.sampled_from(
    [
        "a",
        "b",
        ".",
        "..",
        "",
        "%2e",
        "%2E%2e",
        "..;x",
        "%2f",
        "%5c",
        "\\",
        "a;b",
        "%252e%252e",
        "%e0%80%ae.",
        "%c3%a9",
    ]
)


@given(st.lists(SEGMENTS, max_size=8))
def test_no_reading_has_dot_segments_left(segments):
    """Whatever a consumer resolves is among the readings, and those have nothing left to resolve."""
    path = ("/" + "/".join(segments)).encode()
    try:
        text, *others = readings(path)
    except BadPathError:
        return
    for other in others:
        assert not {".", ".."} & set(other.split("/"))
    resolved = posixpath.normpath(text)
    assert resolved.rstrip("/") in {reading.rstrip("/") for reading in (text, *others)}
