"""Transfer-Encoding: CL.TE, TE.CL and TE.TE, in the disguises that tell two servers apart."""

from __future__ import annotations

from tests.unit.web.hostile.case import HEAD, LEADS, LENGTH, NEXT, refused, taken

_BODY = b"3\r\nabc\r\n0\r\n\r\n"
_HTTP_1_0 = b"POST /leads HTTP/1.0\r\nHost: a.test\r\n"


def _coding(line: bytes, body: bytes = _BODY) -> bytes:
    return HEAD + line + b"\r\n\r\n" + body


CASES = (
    taken("chunked", _coding(b"Transfer-Encoding: chunked"), b"abc"),
    taken("chunked in capitals", _coding(b"Transfer-Encoding: CHUNKED"), b"abc"),
    taken("a name in small letters", _coding(b"transfer-encoding:chunked"), b"abc"),
    taken("a tab before chunked", _coding(b"Transfer-Encoding:\tchunked"), b"abc"),
    taken("blanks around chunked", _coding(b"Transfer-Encoding:   chunked  "), b"abc"),
    refused("CL.TE: a length first", LENGTH + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + NEXT),
    refused("TE.CL: chunked first", HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n" + _BODY),
    refused("CL.TE with a length of zero", HEAD + b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n" + _BODY),
    refused("CL.TE with fields between", LENGTH + b"A: b\r\n" * 9 + b"Transfer-Encoding: chunked\r\n\r\n" + _BODY),
    refused("CL.TE with Connection naming the length", LENGTH + b"Connection: Content-Length\r\nTransfer-Encoding: chunked\r\n\r\n" + _BODY),
    refused("a length and identity", LENGTH + b"Transfer-Encoding: identity\r\n\r\nabc"),
    refused("a length and an empty coding", LENGTH + b"Transfer-Encoding:\r\n\r\nabc"),
    refused("an empty coding", _coding(b"Transfer-Encoding:")),
    refused("a coding of blanks", _coding(b"Transfer-Encoding:   ")),
    refused("identity", _coding(b"Transfer-Encoding: identity"), 501),
    refused("gzip", _coding(b"Transfer-Encoding: gzip"), 501),
    refused("gzip and chunked", _coding(b"Transfer-Encoding: gzip, chunked"), 501),
    refused("chunked and gzip", _coding(b"Transfer-Encoding: chunked, gzip")),
    refused("chunked and identity", _coding(b"Transfer-Encoding: chunked, identity")),
    refused("identity and chunked", _coding(b"Transfer-Encoding: identity, chunked"), 501),
    refused("chunked twice in a list", _coding(b"Transfer-Encoding: chunked, chunked")),
    refused("chunked in two fields", _coding(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked")),
    refused("chunked, then another field of gzip", _coding(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip")),
    refused("gzip, then another field of chunked", _coding(b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked"), 501),
    refused("chunked, then a word", _coding(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: cow")),
    refused("a word, then chunked", _coding(b"Transfer-Encoding: cow\r\nTransfer-Encoding: chunked"), 501),
    refused("a comma behind chunked", _coding(b"Transfer-Encoding: chunked,")),
    refused("a comma before chunked", _coding(b"Transfer-Encoding: ,chunked"), 501),
    refused("xchunked", _coding(b"Transfer-Encoding: xchunked"), 501),
    refused("chunkedx", _coding(b"Transfer-Encoding: chunkedx"), 501),
    refused("x chunked", _coding(b"Transfer-Encoding: x chunked"), 501),
    refused("chunk", _coding(b"Transfer-Encoding: chunk"), 501),
    refused("chunked with a parameter", _coding(b"Transfer-Encoding: chunked;q=1"), 501),
    refused("chunked in quotes", _coding(b'Transfer-Encoding: "chunked"'), 501),
    refused("chunked in apostrophes", _coding(b"Transfer-Encoding: 'chunked'"), 501),
    refused("chunked in brackets", _coding(b"Transfer-Encoding: [chunked]"), 501),
    refused("a vertical tab before chunked", _coding(b"Transfer-Encoding: \x0bchunked")),
    refused("a form feed before chunked", _coding(b"Transfer-Encoding:\x0cchunked")),
    refused("a NUL behind chunked", _coding(b"Transfer-Encoding: chunked\x00")),
    refused("a backspace in chunked", _coding(b"Transfer-Encoding: chunked\x08")),
    refused("an octet over 127 behind chunked", _coding(b"Transfer-Encoding: chunked\xff"), 501),
    refused("a no-break space before chunked", _coding(b"Transfer-Encoding: \xa0chunked"), 501),
    refused("chunked with a Kelvin sign for its k", _coding("Transfer-Encoding: chun\u212aed".encode()), 501),
    refused("a blank before the colon", _coding(b"Transfer-Encoding : chunked")),
    refused("a tab before the colon", _coding(b"Transfer-Encoding\t: chunked")),
    refused("a line that begins with a blank", _coding(b"A: b\r\n Transfer-Encoding: chunked")),
    refused("a first line that begins with a blank", LEADS + b" Transfer-Encoding: chunked\r\nHost: a.test\r\n\r\n" + _BODY),
    refused("a coding folded behind its colon", _coding(b"Transfer-Encoding:\r\n chunked")),
    refused("a coding folded with a tab", _coding(b"Transfer-Encoding:\r\n\tchunked")),
    refused("a coding behind a bare LF", _coding(b"A: b\nTransfer-Encoding: chunked")),
    refused("a coding behind a bare CR", _coding(b"A: b\rTransfer-Encoding: chunked")),
    refused("a coding behind LF CR", _coding(b"A: b\n\rTransfer-Encoding: chunked")),
    refused("a coding behind CR CR LF", _coding(b"A: b\r\r\nTransfer-Encoding: chunked")),
    refused("a bare CR within the name", _coding(b"Transfer-\rEncoding: chunked")),
    refused("a blank within the name", _coding(b"Transfer Encoding: chunked")),
    refused("a NUL within the name", _coding(b"Transfer-Encoding\x00: chunked")),
    refused("an underscore in the name", _coding(b"Transfer_Encoding: chunked")),
    refused("an underscore in the name, beside a length", LENGTH + b"Transfer_Encoding: chunked\r\n\r\nabc"),
    refused("a dot in the name", _coding(b"Transfer.Encoding: chunked")),
    refused("a name that only begins like it", _coding(b"Transfer-Encoding2: chunked"), 400, b""),
    taken("a body of another field's framing", LENGTH + b"X-Transfer-Encoding: chunked\r\n\r\nabc", b"abc"),
    taken("TE is no Transfer-Encoding", LENGTH + b"TE: chunked\r\nConnection: TE\r\n\r\nabc", b"abc"),
    refused("chunked in HTTP/1.0", _HTTP_1_0 + b"Transfer-Encoding: chunked\r\n\r\n" + _BODY),
    refused("chunked and a length in HTTP/1.0", _HTTP_1_0 + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n" + _BODY),
    taken("TE.CL: what looks like a request is a chunk", _coding(b"Transfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (len(NEXT), NEXT)), NEXT),
)  # fmt: skip
