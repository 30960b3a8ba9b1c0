"""Header fields: names, colons, values, folding, line ends, injections, and their number."""

from __future__ import annotations

from tests.unit.web.hostile.case import HEAD, LEADS, LENGTH, NEXT, refused, taken, waits


def _field(line: bytes) -> bytes:
    return LENGTH + line + b"\r\n\r\nabc"


_NO_NAMES = {
    "a blank": b" ", "a tab": b"\t", "a NUL": b"\x00", "a control character": b"\x01",
    "an escape": b"\x1b", "a DEL": b"\x7f", "a slash": b"/", "a backslash": b"\\", "a comma": b",",
    "a semicolon": b";", "an equals sign": b"=", "an at sign": b"@", "a quote": b'"', "a bracket": b"(",
    "a square bracket": b"[", "a brace": b"{", "an angle bracket": b"<", "a question mark": b"?",
    "an octet over 127": b"\x80", "octet 255": b"\xff", "a letter in UTF-8": "é".encode(),
    "a bare CR": b"\r", "a bare LF": b"\n",
}  # fmt: skip
_NO_VALUES = {
    "a NUL": b"\x00", "octet 1": b"\x01", "a bell": b"\x07", "a backspace": b"\x08",
    "a vertical tab": b"\x0b", "a form feed": b"\x0c", "a shift out": b"\x0e", "an escape": b"\x1b",
    "octet 31": b"\x1f", "a DEL": b"\x7f", "a bare CR": b"\r", "a bare LF": b"\n", "LF CR": b"\n\r",
    "CR CR": b"\r\r",
}  # fmt: skip

CASES = (
    taken("a field", _field(b"A: b"), b"abc"),
    taken("an empty value", _field(b"A:"), b"abc"),
    taken("a value of blanks", _field(b"A:   "), b"abc"),
    taken("no blank behind the colon", _field(b"A:b"), b"abc"),
    taken("a tab within a value", _field(b"A: b\tc"), b"abc"),
    taken("octets over 127 in a value", _field(b"A: \x80\xff"), b"abc"),
    taken("colons in a value", _field(b"A: b: c"), b"abc"),
    taken("every sign that a name may have", _field(b"!#$%&'*+-.^_`|~09Az: b"), b"abc"),
    taken("the same field twice", _field(b"A: b\r\nA: c"), b"abc"),
    *(refused(f"{what} in a name", _field(b"A%sB: b" % sign)) for what, sign in _NO_NAMES.items()),
    *(refused(f"{what} in a value", _field(b"A: b%sc" % sign)) for what, sign in _NO_VALUES.items()),
    *(refused(f"{what} at a value's end", _field(b"A: b" + sign)) for what, sign in _NO_VALUES.items()),
    refused("no name", _field(b": b")),
    refused("no colon", _field(b"A b")),
    refused("a name alone", _field(b"A")),
    refused("a blank before the colon", _field(b"A : b")),
    refused("a tab before the colon", _field(b"A\t: b")),
    refused("a NUL before the colon", _field(b"A\x00: b")),
    refused("a blank before a name", _field(b"A: b\r\n B: c")),
    refused("a folded value", _field(b"A: b\r\n c")),
    refused("a value folded with a tab", _field(b"A: b\r\n\tc")),
    refused("a value folded behind the colon", _field(b"A:\r\n b")),
    refused("a fold of blanks alone", _field(b"A: b\r\n  ")),
    refused("a first field that is folded", LEADS + b" A: b\r\nHost: a.test\r\n\r\n"),
    refused("a folded Host", LEADS + b"Host:\r\n a.test\r\n\r\n"),
    refused("a head that ends with two LFs", LEADS + b"Host: a.test\n\n"),
    refused("a head that ends with LF CR LF", HEAD + b"A: b\n\r\n"),
    refused("a head that ends with CR", HEAD + b"\r" + NEXT),
    refused("a head that ends with LF", HEAD + b"\n" + NEXT),
    refused("a head that ends with CR CR LF", HEAD + b"\r\r\n"),
    refused("an injected field behind a bare LF", _field(b"A: b\nHost: b.test")),
    refused("an injected field behind a bare CR", _field(b"A: b\rHost: b.test")),
    refused("an injected request behind bare LFs", _field(b"A: b\n\nPOST /leads HTTP/1.1\nHost: a.test\n\n")),
    refused("an injected request behind a NUL", _field(b"A: b\x00\r\n\r\n" + NEXT)),
    taken("an encoded CR and LF is a value like another", _field(b"A: b%0d%0aHost: b.test"), b"abc"),
    taken("128 fields", LENGTH + b"A: b\r\n" * 126 + b"\r\nabc", b"abc"),
    refused("129 fields", LENGTH + b"A: b\r\n" * 127 + b"\r\nabc", 431),
    refused("2 000 fields", LENGTH + b"A: b\r\n" * 2_000 + b"\r\nabc", 431),
    taken("a field of 30 000 octets", _field(b"A: " + b"b" * 30_000), b"abc"),
    refused("a field of 33 000 octets", _field(b"A: " + b"b" * 33_000), 431),
    refused("a field of 100 000 octets", _field(b"A: " + b"b" * 100_000), 431),
    refused("a name of 40 000 octets", _field(b"A" * 40_000 + b": b"), 431),
    refused("a value without an end", LENGTH + b"A: " + b"b" * 70_000, 431),
    refused("fields of 33 000 octets in all", LENGTH + (b"A: " + b"b" * 990 + b"\r\n") * 34 + b"\r\nabc", 431),
    waits("a head that is not all there", HEAD + b"A: b\r\n"),
    waits("a head without its last octet", HEAD + b"A: b\r\n\r"),
)  # fmt: skip
