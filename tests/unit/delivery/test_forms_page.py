"""docs/reference/forms.md shows what is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from crowd.definition import Batch
from crowd.delivery.forms.batch import MEDIA_TYPES, batch_body, batch_head
from crowd.delivery.forms.event import as_binary, attributes, event_json
from crowd.delivery.forms.signing import Secret, parse_key, signature_headers
from crowd.delivery.request import Naming, parse_destination
from crowd.message import Message, Position, message_id

PAGE = (Path(__file__).parents[3] / "docs/reference/forms.md").read_text("utf-8")
BLOCKS = [
    [line.strip() for line in block.splitlines()]
    for block in PAGE.split("\n\n")
    if all(line.startswith("    ") for line in block.splitlines())
]
JSON = (b"Content-Type", b"application/json")
MESSAGE = Message(
    b"PUT", b"/leads?x=1", ((b"Host", b"leads.example:2104"), JSON), b'{"a": 1}',
    1_700_000_000_000_001, b"192.0.2.1", b"https",
)  # fmt: skip
NAMING = Naming(message_id("0123abcd", Position(7)), Position(7), 1)
ITEMS = [
    (
        Message(b"POST", b"/", (JSON,), body, 1, b"", b"http"),
        Naming(message_id("0123abcd", Position(number)), Position(number), 1),
    )
    for number, body in enumerate((b'{ "a": 1 }', b"[2, 3]", b"plain"), 1)
]


def test_events():
    """Headers of the binary mode, and the body of the structured one."""
    headers = as_binary(MESSAGE, NAMING).headers[2:]
    assert [f"{name.decode()}: {value.decode()}" for name, value in headers] in BLOCKS
    assert event_json(MESSAGE, NAMING).decode() in ["".join(block) for block in BLOCKS]
    for name, _ in attributes(MESSAGE, NAMING):
        assert f"\n| `{name.decode()}` | " in PAGE


@pytest.mark.parametrize("form", ["ndjson", "bulk"])
def test_batches(form):
    """The body of three messages."""
    assert batch_body(form, ITEMS).decode().splitlines() in BLOCKS


def test_a_batchs_head():
    """Its lines, and the type of each form's body."""
    destination = parse_destination("http://es:9200/in", None)
    head = batch_head(Batch("ndjson"), destination, ITEMS, 6, ())
    assert head.decode().splitlines()[:-1] in BLOCKS
    for form, media_type in MEDIA_TYPES.items():
        assert f'\n| `"{form}"` | `{media_type.decode()}` | ' in PAGE


def test_a_signature():
    """That of the published vectors."""
    keys = [
        parse_key(Secret(text))
        for text in (
            b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            b"whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==",
        )
    ]
    headers = signature_headers(
        keys, b"msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}'
    )
    assert [f"{name.decode()}: {value.decode()}" for name, value in headers] in BLOCKS
