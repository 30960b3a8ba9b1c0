"""A message as an event: CloudEvents 1.0.

Decides what each attribute of an event is made of, and how an event looks in JSON and in the
headers of a request. Pure. Leaves to ``form`` and ``batch`` what stands around it.

CloudEvents 1.0.2: its core, its JSON format (3.1: data, data_base64) and its HTTP binding
(3.1.3.2: what is percent-encoded in a header).

An event is the same at every attempt: which attempt it is, Crowd-Attempt says.
"""

from __future__ import annotations

import re
from base64 import b64encode
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec

from crowd.delivery.forms.document import (
    compact,
    content_coding,
    header,
    media_type,
    quoted,
    says_json,
)
from crowd.delivery.request import origin_form

if TYPE_CHECKING:
    from crowd.delivery.request import Naming
    from crowd.message import Message

TYPE: Final = b"crowd.message"
"""Every event's type: what a message is about only its producer knows."""

MEDIA_TYPE: Final = b"application/cloudevents+json"
BATCH_MEDIA_TYPE: Final = b"application/cloudevents-batch+json"

# Of a body that is no longer the message's these would be untrue.
_ABOUT_BODY: Final = frozenset(
    {b"content-type", b"content-encoding", b"content-md5", b"content-digest", b"repr-digest",
     b"digest"}
)  # fmt: skip
_YEAR_9999_US: Final = 253_402_300_800_000_000  # RFC 3339 has four digits for a year

_AUTHORITY = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=:\[\]%-]+\Z")
_NOT_IN_PATH = re.compile(rb"[^A-Za-z0-9._~!$&'()*+,;=:@/%-]|%(?![0-9A-Fa-f]{2})")
_NOT_VISIBLE = re.compile(rb"[^\x21-\x7e]")


def attributes(message: Message, naming: Naming) -> list[tuple[bytes, bytes]]:
    """Return a message's attributes, printable ASCII, without its datacontenttype."""
    target = origin_form(message.target)
    found = [
        (b"specversion", b"1.0"),
        (b"id", naming.id.encode("ascii")),
        (b"source", _source(message, target)),
        (b"type", TYPE),
        (b"subject", _NOT_VISIBLE.sub(_percent, target)),
        (b"crowdposition", b"%d" % naming.position),
        (b"crowdmethod", message.method),
    ]
    if 0 <= message.received_us < _YEAR_9999_US:
        seconds, micros = divmod(message.received_us, 1_000_000)
        found.append((b"time", b"%b.%06dZ" % (_second(seconds), micros)))
    return found


def event_json(message: Message, naming: Naming) -> bytes:
    """Return the event in its JSON format, on one line.

    A body that its Content-Type calls JSON, or that is JSON and has none, is embedded as
    ``data``; any other, unless it is empty, is ``data_base64``. A body that the producer
    encoded stays so, and the extension ``contentencoding`` says how.
    """
    members = _members(attributes(message, naming))
    content_type, coding = media_type(message), content_coding(message)
    if content_type is not None:
        members.append(b'"datacontenttype":' + quoted(content_type))
    if coding is not None:
        members.append(b'"contentencoding":' + quoted(coding))
    body = message.body
    if body:
        data = None
        if coding is None and _may_be_json(message, content_type):
            data = compact(body)
        if data is not None:
            members.append(b'"data":' + data)
        else:
            members.append(b'"data_base64":"%b"' % b64encode(body))
    return b"{%b}" % b",".join(members)


def _members(pairs: list[tuple[bytes, bytes]]) -> list[bytes]:
    """Return attributes as members of a JSON object."""
    text = b",".join([b'"%b":"%b"' % pair for pair in pairs])
    if b"\\" in text or text.count(b'"') != 4 * len(pairs):  # seldom, so looked for in all at once
        return [b'"%b":%b' % (name, quoted(value)) for name, value in pairs]
    return [text]


def as_structured(message: Message, naming: Naming) -> Message:
    """Return the message whose body is the event, posted with the original's other headers."""
    kept = tuple(
        (name, value)
        for name, value in message.headers
        if (lowered := name.lower()) not in _ABOUT_BODY and not lowered.startswith(b"ce-")
    )
    return msgspec.structs.replace(
        message,
        method=b"POST",
        headers=(*kept, (b"Content-Type", MEDIA_TYPE)),
        body=event_json(message, naming),
    )


def as_binary(message: Message, naming: Naming) -> Message:
    """Return the message, posted, with its attributes as headers and its body as it is."""
    kept = (
        (name, value)
        for name, value in message.headers
        # No attribute is empty, so neither is what stands for one.
        if not (lowered := name.lower()).startswith(b"ce-")
        and (value or lowered != b"content-type")
    )
    added = ((b"ce-" + name, _in_header(value)) for name, value in attributes(message, naming))
    return msgspec.structs.replace(message, method=b"POST", headers=(*kept, *added))


def _may_be_json(message: Message, content_type: bytes | None) -> bool:
    if content_type is not None:
        return says_json(content_type)
    return not header(message, b"content-type")  # one that says something odd does not say JSON


def _source(message: Message, target: bytes) -> bytes:
    """Return where a message was posted to, as a URI; only its path if Host says nothing."""
    path = _NOT_IN_PATH.sub(_percent, target.partition(b"?")[0])
    host = header(message, b"host")
    if host is not None and _AUTHORITY.match(host):
        return b"%b://%b%b" % (message.scheme, host, path)
    return b"/." + path if path.startswith(b"//") else path  # or it would name an authority


def _percent(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % match[0][0]


def _in_header(value: bytes) -> bytes:
    """Return an attribute as it stands in a header: `%`, `"` and spaces percent-encoded."""
    return value.replace(b"%", b"%25").replace(b'"', b"%22").replace(b" ", b"%20")


@lru_cache(maxsize=64)  # the messages of a batch share a few seconds
def _second(seconds: int) -> bytes:
    """Return seconds since 1970, before the year 10000, as ``1970-01-01T00:00:00``.

    Years are counted from March, so that a leap day is a year's last, and in eras of 400
    years, 146 097 days, after which the Gregorian calendar repeats.
    """
    days, rest = divmod(seconds, 86_400)
    era, day = divmod(days + 719_468, 146_097)  # since 0000-03-01
    year = (day - day // 1_460 + day // 36_524 - day // 146_096) // 365
    day -= 365 * year + year // 4 - year // 100
    month = (5 * day + 2) // 153  # from March; five months of it have 153 days
    date = day - (153 * month + 2) // 5 + 1
    month = month + 3 if month < 10 else month - 9
    year += 400 * era + (month <= 2)
    return b"%04d-%02d-%02dT%02d:%02d:%02d" % (
        year, month, date, rest // 3_600, rest // 60 % 60, rest % 60,
    )  # fmt: skip
