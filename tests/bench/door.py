"""What a door costs a request, part by part: ``python -m tests.bench.door``.

In microseconds, for an ordinary request; and in milliseconds, for one whose body is a few KB of gzip and becomes
`content.decoded` of JSON.
"""

from __future__ import annotations

import gzip
import statistics
import time
import timeit
from functools import partial
from hashlib import sha256

from crowd import garbage
from crowd.config import from_text
from crowd.door.asked import Admitted, Asked
from crowd.door.door import Door

KEY = b"crowd_SrDJXrxrlSLTAdLuZCExgdIiyX-4eA8d4hvBvkTbLRg"
BODY = b'{"message":"this is a lead message", "shop": "a23m07b23", "pad":"%s"}' % (b"x" * 260)
HEADERS = [
    (b"Host", b"crowd.example"), (b"User-Agent", b"curl/8.5.0"), (b"Accept", b"*/*"),
    (b"Content-Type", b"application/json"), (b"Content-Length", b"%d" % len(BODY)),
    (b"Authorization", b"Bearer " + KEY), (b"Origin", b"https://shop.example"),
]  # fmt: skip
SCHEMA = """{"type": "object", "required": ["message", "shop"], "properties":
    {"message": {"type": "string", "maxLength": 10000}, "shop": {"pattern": "^[a-z0-9]{9}$"}}}"""
ROUTE = '[[route]]\npath = "/leads"\n'
KEYED = f'[[route.key]]\nname = "shop"\nsha256 = ["{sha256(KEY).hexdigest()}"]\n'
DOORS = {
    "a key": KEYED,
    "pages": '[route.cors]\norigins = ["https://shop.example"]\n',
    "a type": '[route.content]\ntypes = ["application/json"]\n',
    "JSON, names not looked at": "[route.content]\njson = true\nunique = false\n",
    "JSON": "[route.content]\njson = true\n",
    "a schema": '[route.content]\nschema = "{schema}"\nunique = false\n',
}
TIMES = 20_000
DECODED_BYTES = 1 << 20
DOCUMENTS = {
    "one text": (b'{"message":"%s"}', b"a"),
    "leads": (b"[%s{}]", b'{"message":"this is a lead","shop":"a23m07b23"},'),
    "numbers": (b"[%s1]", b"2.2250738585072012e-308,"),
    "empty objects": (b"[%s{}]", b"{},"),
    "objects 60 deep": (b"[%s{}]", b'{"":' * 60 + b"0" + b"}" * 60 + b","),
    "arrays 60 deep": (b"[%s[]]", b"[" * 60 + b"]" * 60 + b","),
}
"""Each as its frame and what fills it."""


def main() -> None:
    import tempfile
    from pathlib import Path

    asked = Asked(b"POST", HEADERS, BODY, b"192.0.2.7", 0.0, 0.0)
    print(f"{len(BODY)} bytes, {len(HEADERS)} header fields; the best of 5 times {TIMES}")
    with tempfile.TemporaryDirectory() as directory:
        schema = Path(directory) / "schema.json"
        schema.write_text(SCHEMA)
        for name, policy in DOORS.items():
            text = ROUTE + policy.replace("{schema}", str(schema))
            (read,) = from_text(text, "bench").policies
            door = Door(read)
            assert isinstance(door.admit(asked), Admitted)
            took_s = min(timeit.repeat(lambda: door.admit(asked), number=TIMES, repeat=5))  # noqa: B023
            print(f"{took_s / TIMES * 1e6:8.2f} us  {name}")
    decoded()


def decoded() -> None:
    """Print what is longest: JSON that a stranger makes, at the defaults."""
    garbage.settle()  # as in a node
    print(f"{DECODED_BYTES} bytes of JSON, decoded; processor time, the median of 9")
    (read,) = from_text(ROUTE + DOORS["JSON"], "bench").policies
    door = Door(read)
    for name, (frame, part) in DOCUMENTS.items():
        document = frame % (part * ((DECODED_BYTES - len(frame)) // len(part)))
        headers = [*HEADERS[:4], (b"Content-Encoding", b"gzip")]
        asked = Asked(b"POST", headers, gzip.compress(document), b"192.0.2.7", 0.0, 0.0)
        assert isinstance(door.admit(asked), Admitted)
        admit = partial(door.admit, asked)
        took_s = statistics.median(
            timeit.repeat(admit, timer=time.process_time, number=1, repeat=9)
        )
        print(f"{took_s * 1e3:8.1f} ms  {name}, {len(asked.body)} bytes of gzip")


if __name__ == "__main__":
    main()
