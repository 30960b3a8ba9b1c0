"""Where heads and chunked bodies end, and what llhttp lets pass in them. Pure.

The second reader of what comes: `intake` cuts its input by it, and gives llhttp one piece after
the other. It knows no more than that a head and a chunked body end with an empty line
(RFC 9112 sections 2.1 and 7.1).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from crowd.web.fields import Field

EMPTY_LINE: Final = b"\r\n"
END: Final = b"\r\n\r\n"

LINE_EXPECTED: Final = "expected METHOD TARGET HTTP/1.1 with one blank between them, and CRLF"

_REQUEST_LINE: Final = re.compile(rb"(?:\r\n)?[A-Z-]+ [!-~]+ HTTP/[0-9]\.[0-9]\r\n")
"""RFC 9112 section 3, with the one empty line that section 2.2 has ignored before it. llhttp takes
any CRs and LFs there, several blanks in the line, and ``RTSP/1.0``."""

_UNTRAILED: Final = frozenset((
    b"connection", b"content-length", b"expect", b"host", b"te", b"trailer",
    b"transfer-encoding", b"upgrade",
))  # fmt: skip
"""RFC 9110 section 6.5.1: what frames or routes a message comes before its content, or is a trap."""


def is_head(raw: bytes) -> bool:
    """Tell whether `raw` begins with a request line and ends as a head does."""
    return _REQUEST_LINE.match(raw) is not None and raw[-4:] == END


def may_be_head(raw: bytes) -> bool:
    """Tell whether `raw`, which has no end yet, may become a head: no more than one line is empty."""
    return EMPTY_LINE.startswith(raw) or raw.removeprefix(EMPTY_LINE)[:1] not in (b"\r", b"\n")


def after_end(known: bytes, data: bytes, start: int) -> int:
    """Return where in `data` the first empty line from `start` on ends, or `data` does.

    `known` is what came just before, at most three bytes: the line may have begun in it.
    """
    across = (known + data[start : start + 3]).find(END)
    if across >= 0:
        return start + across + 4 - len(known)
    end = data.find(END, start)
    return len(data) if end < 0 else end + 4


def misplaced(trailers: list[Field]) -> bool:
    """Tell whether any of `trailers` belongs before the content."""
    return any(name.lower() in _UNTRAILED for name, _ in trailers)
