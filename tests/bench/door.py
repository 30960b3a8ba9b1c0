"""What a door costs a request, in microseconds, part by part: ``python -m tests.bench.door``."""

from __future__ import annotations

import timeit
from hashlib import sha256

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


if __name__ == "__main__":
    main()
