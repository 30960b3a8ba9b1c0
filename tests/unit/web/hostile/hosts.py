"""Host: one, and a name or an address (RFC 9110 section 7.2, RFC 9112 section 3.2)."""

from __future__ import annotations

from tests.unit.web.hostile.case import LEADS, refused, taken


def _host(value: bytes) -> bytes:
    return LEADS + b"Host: " + value + b"\r\nContent-Length: 3\r\n\r\nabc"


_GOOD = (
    b"a", b"a.test", b"A.TEST", b"a.test.", b"a-b.test", b"a_b.test", b"xn--a.test", b"192.0.2.1", b"a.test:80",
    b"a.test:", b"a.test:65535", b"[2001:db8::1]", b"[2001:db8::1]:2104", b"[::ffff:192.0.2.1]", b"1",
)  # fmt: skip
_BAD = {
    "an empty one": b"",
    "a port alone": b":80",
    "a port of letters": b"a.test:http",
    "a port of 65536": b"a.test:65536",
    "a port of six digits": b"a.test:000080",
    "a negative port": b"a.test:-80",
    "a port with a sign": b"a.test:+80",
    "a hexadecimal port": b"a.test:0x50",
    "two ports": b"a.test:80:81",
    "junk behind a port": b"a.test:80x",
    "a path behind a port": b"a.test:80/leads",
    "a user": b"u@a.test",
    "a user and a password": b"u:p@a.test",
    "another host behind an at sign": b"a.test@b.test",
    "a path": b"a.test/leads",
    "a query": b"a.test?x",
    "a fragment": b"a.test#x",
    "a backslash": b"a.test\\b.test",
    "a URL": b"http://a.test",
    "a list": b"a.test, b.test",
    "a list without a blank": b"a.test,b.test",
    "a blank within": b"a.test b.test",
    "a tab within": b"a.test\tb.test",
    "a semicolon": b"a.test;b",
    "quotes": b'"a.test"',
    "angle brackets": b"<a.test>",
    "a percent sign": b"a%2etest",
    "an octet over 127": b"\xe9.test",
    "UTF-8": "é.test".encode(),
    "a bracket alone": b"[a.test",
    "a name in brackets": b"[a.test]",
    "an IPv4 address in brackets": b"[192.0.2.1]",
    "an IPv6 address without brackets": b"2001:db8::1",
    "an IPv6 address that is none": b"[2001:db8:::1]",
    "an IPv6 address with a zone": b"[fe80::1%25eth0]",
    "junk behind brackets": b"[::1]x",
    "an asterisk": b"*",
    "a dollar sign": b"${a}.test",
    "a NUL": b"a\x00.test",
    "a bare CR": b"a.test\rb.test",
    "a bare LF": b"a.test\nb.test",
}

CASES = (
    *(taken(f"Host of {value.decode()}", _host(value), b"abc") for value in _GOOD),
    *(refused(f"Host with {what}", _host(value)) for what, value in _BAD.items()),
    taken("blanks around Host", _host(b"  a.test  "), b"abc"),
    refused("no Host", LEADS + b"Content-Length: 3\r\n\r\nabc"),
    refused("no field at all", LEADS + b"\r\n"),
    refused("two Hosts", LEADS + b"Host: a.test\r\nHost: b.test\r\n\r\n"),
    refused("the same Host twice", LEADS + b"Host: a.test\r\nHost: a.test\r\n\r\n"),
    refused("two Hosts in two spellings", LEADS + b"Host: a.test\r\nhOST: a.test\r\n\r\n"),
    refused("two Hosts, one empty", LEADS + b"Host: a.test\r\nHost:\r\n\r\n"),
    refused("a blank before Host", LEADS + b" Host: a.test\r\n\r\n"),
    refused("a blank before Host's colon", LEADS + b"Host : a.test\r\n\r\n"),
    refused("Host with a NUL in its name", LEADS + b"Ho\x00st: a.test\r\n\r\n"),
    refused("X-Host is no Host", LEADS + b"X-Host: a.test\r\n\r\n"),
    refused("two Hosts in HTTP/1.0", b"POST /leads HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"),
    refused("a bad Host in HTTP/1.0", b"POST /leads HTTP/1.0\r\nHost: a b\r\n\r\n"),
    refused("an empty Host in HTTP/1.0", b"POST /leads HTTP/1.0\r\nHost:\r\n\r\n"),
)  # fmt: skip
