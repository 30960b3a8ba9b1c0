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
        b"/a%",
        b"/a%4",
        b"/%zz",
    ],
)
def test_paths_that_are_nobodys(path):
    with pytest.raises(BadPathError):
        readings(path)


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
