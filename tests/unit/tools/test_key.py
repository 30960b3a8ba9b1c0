"""`crowd key` makes a key that a node's file and a producer can use as they are."""

from __future__ import annotations

from hashlib import sha256

from crowd.cli import main
from crowd.config import from_text


def test_what_is_printed_fits_into_a_file(capsys):
    assert main(["key", "shop-a"]) == 0
    key, empty, *table = capsys.readouterr().out.splitlines()
    assert empty == ""
    assert key.startswith("crowd_")
    assert len(key) == 49
    (policy,) = from_text('[[route]]\npath = "/leads"\n' + "\n".join(table), "a.toml").policies
    assert policy.path == "/leads"
    (producer,) = policy.keys
    assert (producer.name, producer.sha256) == ("shop-a", (sha256(key.encode()).hexdigest(),))


def test_each_key_is_another_one(capsys):
    for _ in range(2):
        main(["key", "a"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] != lines[5]


def test_a_name_that_cannot_be_is_told(capsys):
    assert main(["key", "Shop A"]) == 1
    assert 'found "Shop A"; expected a name' in capsys.readouterr().err
