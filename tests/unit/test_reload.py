"""SIGHUP: a file is read again, and what of it can be used is."""

from __future__ import annotations

import os
import signal

import pytest
from twisted.logger import capturedLogs

from crowd.config import load_file
from crowd.errors import ConfigurationError
from crowd.reload import Reload

FILE = """
[node]
directory = "data"
[[route]]
path = "/leads"
[[consumer]]
name = "first"
url = "http://h"
"""
MORE = """
[[consumer]]
name = "second"
url = "http://h2"
"""


class Reactor:
    """Notes what is to be called in its thread."""

    def __init__(self):
        self.calls = []

    def callFromThread(self, call):  # noqa: N802  Twisted's name
        self.calls.append(call)

    def turn(self):
        calls, self.calls = self.calls, []
        for call in calls:
            call()


class Node:
    """Uses configurations, or refuses them."""

    def __init__(self, file):
        self.reactor = Reactor()
        self.used = []
        self.refusal = None
        self.reload = Reload(self.reactor, file, load_file(file), self.use)

    def use(self, configuration):
        if self.refusal is not None:
            raise self.refusal
        self.used.append(configuration)

    def look(self):
        """Return what is logged when the file is read again: level and words."""
        with capturedLogs() as events:
            self.reload.look()
        return [(event["log_level"].name, event["log_format"].format(**event)) for event in events]


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "node.toml"
    file.write_text(FILE)
    return file


@pytest.fixture
def node(file):
    return Node(file)


def test_a_consumer_that_is_new_is_used_and_told(node, file):
    file.write_text(FILE + MORE)
    assert node.look() == [("info", "configuration read again: consumer second is new")]
    (used,) = node.used
    assert [consumer.name for consumer in used.consumers] == ["first", "second"]
    assert used.file_hash == load_file(file).file_hash
    assert node.look() == [("info", "configuration read again: no change")]
    assert len(node.used) == 1


def test_a_policy_that_is_changed_is_used_and_told(node, file):
    keyed = FILE.replace(
        "[[consumer]]", f'[[route.key]]\nname = "a"\nsha256 = ["{"a" * 64}"]\n[[consumer]]'
    )
    for text, count in ((keyed, 1), (keyed.replace("a" * 64, "b" * 64), 2), (FILE, 3)):
        file.write_text(text)
        told = ("info", "configuration read again: route /leads has another policy")
        opens = ("warn", "configuration read again: route /leads does not ask who posts any more")
        assert node.look() == [*([opens] if text == FILE else []), told]
        assert len(node.used) == count


def test_secrets_are_read_again_though_the_file_is_the_same(file):
    """They stand in files of their own: SIGHUP has them hold at once."""
    file.write_text(
        FILE.replace(
            "[[consumer]]", 'signature = {form = "github", secrets = ["env:A"]}\n[[consumer]]'
        )
    )
    node = Node(file)
    for _ in range(2):
        assert node.look() == [("info", "configuration read again: no change")]
    assert len(node.used) == 2


def test_a_consumer_that_is_left_out_stays_and_that_is_told(node, file):
    file.write_text(FILE.replace("first", "third").replace("/leads", "/other"))
    (line,) = node.look()
    for words in (
        "route /other is new", "route /leads is taken here no more", "consumer third is new",
        "consumer first stays: `crowd consumer remove` has it go",
    ):  # fmt: skip
        assert words in line[1]


def test_what_a_node_is_built_of_takes_a_restart(node, file):
    """It is told each time, and what else is changed is used all the same."""
    changed = FILE.replace('"data"', '"other"\nhttp = ["tcp:1"]') + MORE
    file.write_text(changed + '[limits]\nbacklog = "3 GiB"\nacknowledge_within = "9 s"\n')
    lines = node.look()
    warned = [words for level, words in lines if level == "warn"]
    assert [words.split()[3] for words in warned] == [
        "node.directory", "node.http", "limits.backlog", "limits.acknowledge_within",
    ]  # fmt: skip
    assert all(words.endswith("that takes a restart") for words in warned)
    (used,) = node.used
    assert used.node.directory == str(file.parent / "data")
    assert used.limits.acknowledge_within_s == 5.0
    assert len([1 for level, _ in node.look() if level == "warn"]) == 4


def test_the_bounds_of_idempotency_keys_go_through_the_log_and_take_none(node, file):
    file.write_text(FILE + "[limits]\nidempotency_keys = 7\n")
    words = "limits.idempotency_window and limits.idempotency_keys are changed"
    assert node.look() == [("info", f"configuration read again: {words}")]
    (used,) = node.used
    assert used.idempotency.count_max == 7


def test_a_node_on_its_own_does_not_become_a_member_by_that(node, file):
    file.write_text(
        FILE.replace('directory = "data"', 'name = "a"\ndirectory = "data"')
        + '[cluster]\nname = "c"\npeers = { a = "h:1" }\ncertificate = "c"\n'
        'private_key = "k"\nauthority = "a"\n'
    )
    warned = [words.split()[3] for level, words in node.look() if level == "warn"]
    assert warned == ["node.name", "node.peer", "cluster"]
    assert node.used == []


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("x = ", 1),
        (FILE + "[node]", 1),
        (FILE.replace("http://h", "h") + '[[consumer]]\nname = "B"\nurl = "http://h"\n', 2),
        (FILE + 'colour = "red"\n', 1),
        ("\ud800", 1),
        (None, 1),
    ],
)
def test_a_file_with_problems_changes_nothing_and_each_is_a_line(node, file, text, lines):
    if text is None:
        file.unlink()
    else:
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
    told = node.look()
    assert [level for level, _ in told] == ["error"] * lines
    assert all(str(file) in words and "expected" in words for _, words in told)
    assert node.used == []
    file.write_text(FILE + MORE)
    node.look()
    assert len(node.used) == 1


def test_what_cannot_be_used_is_a_line_and_is_tried_again(node, file):
    node.refusal = ConfigurationError(("route: found x; expected y",))
    file.write_text(FILE + MORE)
    assert node.look() == [("error", "configuration not read again: route: found x; expected y")]
    node.refusal = None
    node.look()
    assert len(node.used) == 1


def test_the_signal_asks_the_reactor_for_one_turn(node, file):
    before = signal.getsignal(signal.SIGHUP)
    node.reload.start()
    try:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)
        assert len(node.reactor.calls) == 1
        assert node.used == []
        file.write_text(FILE + MORE)
        node.reactor.turn()
        assert len(node.used) == 1
        os.kill(os.getpid(), signal.SIGHUP)
        assert len(node.reactor.calls) == 1
    finally:
        node.reload.stop()
    assert signal.getsignal(signal.SIGHUP) == before
    node.reload.stop()


def test_a_route_that_opens_is_told(file):
    """An emptied file is a valid one, and takes everything from everybody."""
    key = "[[route.key]]\nname = 'x'\nsha256 = ['" + "a" * 64 + "']\n"
    file.write_text(FILE.replace("[[consumer]]", key + "[[consumer]]", 1))
    node = Node(file)
    file.write_text("")
    warned = [words for level, words in node.look() if level == "warn"]
    assert "configuration read again: route /leads does not ask who posts any more" in warned
