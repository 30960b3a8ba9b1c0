"""`crowd consumer` and `crowd dead`, asked of an admin port over a real socket."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from crowd.cli import main
from crowd.config import read_consumer
from crowd.consumers import plain
from crowd.tools.consumer import consumer_lines
from crowd.tools.terminal import table_lines

TOKEN = "5e" * 32


def consumer(name="audit", **facts):
    return {
        "name": name, "url": "http://h", "watermark": 7, "backlog": 3, "paused": False,
        "letters": {"dead": 2, "parked": 0, "skipped": 1}, "delivery": {"silent": False},
        "definition": plain(read_consumer({"name": name, "url": "http://h"}, "t", None)),
    } | facts  # fmt: skip


def letter(number):
    return {
        "number": number, "consumer": "audit", "id": f"0123abcd-{number:016x}", "position": number,
        "state": "dead", "target": None, "reason": "answer", "status": 422, "words": "no\x1b[2J",
        "attempts": 1, "first_us": 1, "last_us": 2, "buried_us": 1_795_521_600_000_000, "size": 9,
        "sha256": "ab" * 32,
    }  # fmt: skip


class Port:
    """An admin port: what it has, what it answers to changes, and what was asked of it."""

    def __init__(self):
        self.asked = []
        self.consumers = [consumer()]
        self.letters = [letter(number) for number in range(1, 2_501)]
        self.message = {
            "method": "POST", "target": "/leads", "headers": [["X-Odd", "\x1b]0;x\x07"]],
            "body_bytes": 2, "body": "aGk=", "text": "hi",
        }  # fmt: skip
        self.refusal = None
        self.on_change = lambda path: None
        self.orders = [{"order": 1, "done": 2, "ended": True, "problem": None}]
        port = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                parts = urlsplit(self.path)
                query = {key: values[0] for key, values in parse_qs(parts.query).items()}
                self.reply(*port.get(parts.path, query, self.headers["Authorization"]))

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"] or 0))
                port.asked.append(
                    (self.path, json.loads(body or b"null"), self.headers["Authorization"])
                )
                if port.refusal is not None:
                    self.reply(*port.refusal)
                    return
                port.on_change(self.path)
                self.reply(202, {"order": 1, "through": 20})

            def reply(self, status, value):
                data = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.admin = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def get(self, path, query, token):
        if path == "/api/consumers":
            return 200, {"consumers": self.consumers}
        assert token == f"Bearer {TOKEN}"
        if path == "/api/dead/orders":
            return 200, {"orders": self.orders}
        if path == "/api/dead":
            self.asked.append((path, query))
            after, limit = int(query["after"]), int(query["limit"])
            page = [one for one in self.letters if one["number"] > after][:limit]
            more = page and page[-1] is not self.letters[-1]
            return 200, {"letters": page, "next": page[-1]["number"] if more else None}
        if path == "/api/dead/7":
            return 200, {"letter": letter(7), "message": self.message}
        return 404, {"title": "There is no such dead letter", "detail": "found no letter"}

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def port():
    port = Port()
    yield port
    port.close()


@pytest.fixture
def run(port, tmp_path, capsys):
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")

    def run(*arguments, status=0, token=token):
        where = ["--admin", port.admin]
        reads = arguments[0] == "consumer" and arguments[1] in {"list", "show"}
        if token is not None and not reads:
            where += ["--token-file", str(token)]
        found = main([*arguments, *where])
        out, err = capsys.readouterr()
        assert found == status, (out, err)
        return out if status == 0 else err

    return run


# --- crowd consumer -------------------------------------------------------------------------------


def test_consumers_are_listed_for_people_and_for_programs(run, port):
    assert run("consumer", "list").splitlines() == [
        "name   state       backlog  dead  parked  skipped  url",
        "audit  delivering        3     2       0        1  http://h",
    ]
    assert json.loads(run("consumer", "list", "--json")) == port.consumers
    assert json.loads(run("consumer", "show", "audit", "--json")) == port.consumers[0]
    shown = run("consumer", "show", "audit").splitlines()
    assert "definition.retry.first_us = 1000000" in shown
    assert "definition.rate = null" in shown
    assert "expected one of audit" in run("consumer", "show", "other", status=1)


def test_a_state_is_told_in_a_word():
    states = (
        consumer(paused=True),
        consumer(delivery={"held": "held: 401", "silent": True}),
        consumer(delivery={"silent": True}),
        consumer(delivery=None, letters={}),
    )
    lines = consumer_lines(states)[1:]
    assert [line.split("  ")[1].strip() for line in lines] == [
        "paused", "held: 401", "does not answer", "delivering",
    ]  # fmt: skip
    assert consumer_lines([]) == ["no consumers yet"]
    assert table_lines(("a", "b"), []) == ["a  b"]


def test_a_consumer_is_paused_and_that_is_waited_for(run, port):
    port.on_change = lambda path: port.consumers[0].update(paused=path.endswith("pause"))
    assert run("consumer", "pause", "audit") == "audit is paused\n"
    assert run("consumer", "resume", "audit") == "audit is resumed\n"
    assert port.asked == [
        ("/api/consumers/audit/pause", None, f"Bearer {TOKEN}"),
        ("/api/consumers/audit/resume", None, f"Bearer {TOKEN}"),
    ]
    port.on_change = lambda path: None
    assert "not done within 0 s" in run("consumer", "pause", "audit", "--wait", "0 s", status=1)


def test_messages_are_skipped_only_if_somebody_says_so(run, port, monkeypatch):
    port.on_change = lambda path: port.consumers[0].update(watermark=20)
    assert "expected --yes" in run("consumer", "skip", "audit", status=1)
    assert port.asked == []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "no")
    assert run("consumer", "skip", "audit", status=1) == "nothing was changed\n"
    assert port.asked == []
    monkeypatch.setattr("builtins.input", lambda _: "yes")
    said = run("consumer", "skip", "audit", "--through", "20")
    assert "audit has 3 messages left; those up to position 20 will be given up" in said
    assert said.endswith("audit goes on behind position 20\n")
    assert run("consumer", "skip", "audit", "--yes").startswith("audit goes on")
    assert [asked[1] for asked in port.asked] == [{"through": 20}, None]


def test_a_consumer_with_messages_left_is_removed_only_with_what_becomes_of_them(run, port):
    port.on_change = lambda path: port.consumers.clear()
    said = run("consumer", "remove", "audit", status=1)
    assert said.startswith("audit has 3 messages left, which it would not be delivered any more")
    assert port.asked == []
    said = run("consumer", "remove", "audit", "--backlog", "drop")
    assert said.startswith("audit is removed; take it out of the nodes' files")
    assert port.asked[-1][1] == {"backlog": "drop"}
    port.consumers.append(consumer(backlog=0))
    run("consumer", "remove", "audit")
    assert port.asked[-1][1] is None
    assert "expected one of none" in run("consumer", "remove", "audit", status=1)


def test_consumers_of_a_file_are_applied(run, port, tmp_path):
    file = tmp_path / "file.toml"
    file.write_text(
        '[node]\ndirectory = "d"\n[[consumer]]\nname = "audit"\nurl = "http://h"\n'
        '[[consumer]]\nname = "new"\nurl = "http://h"\nroutes = ["/x"]\n'
    )
    wanted = read_consumer({"name": "new", "url": "http://h", "routes": ["/x"]}, "t", None)
    port.on_change = lambda path: port.consumers.append(
        consumer("new", definition=json.loads(json.dumps(plain(wanted))))
    )
    assert run("consumer", "apply", str(file)).splitlines() == [
        f"audit is as {file} has it", f"new is as {file} has it",
    ]  # fmt: skip
    assert [asked[1] for asked in port.asked] == [
        {"name": "audit", "url": "http://h"},
        {"name": "new", "url": "http://h", "routes": ["/x"]},
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "found no [[consumer]]"),
        ("consumer = 4", "found no [[consumer]]"),
        ("consumer = [", "found what is not TOML"),
        ('[[consumer]]\nname = "x"\n[[consumer]]\nurl = "h"\n', "url: found"),
        ('[[consumer]]\nname = "x"\nurl = "http://h"\n' * 2, 'found "x" twice'),
        ('[[consumer]]\nname = "x"\nurl = "http://h"\nrate = 2026-01-01\n', "rate: found"),
    ],
)
def test_a_file_with_a_problem_asks_nothing(run, port, tmp_path, text, words):
    file = tmp_path / "file.toml"
    file.write_text(text)
    said = run("consumer", "apply", str(file), status=1)
    assert words in said
    assert said.startswith(str(file))
    assert port.asked == []


def test_what_the_node_says_against_it_is_told(run, port):
    port.refusal = (409, {"title": "This cannot be changed so now", "detail": "found 16 orders"})
    said = run("dead", "replay", "7", status=1)
    assert said == f"{port.admin}: This cannot be changed so now: found 16 orders\n"
    port.refusal = (500, [])
    assert run("consumer", "pause", "audit", status=1).endswith("answered 500\n")
    assert "expected --token-file" in run("consumer", "pause", "audit", status=1, token=None)


# --- crowd dead -----------------------------------------------------------------------------------


def test_letters_are_listed_page_by_page(run, port):
    lines = run("dead", "list", "--limit", "2", "--after", "5").splitlines()
    assert lines[0].split() == [
        "number", "consumer", "state", "reason", "status", "attempts", "buried", "size", "id",
    ]  # fmt: skip
    assert lines[1].split() == [
        "6", "audit", "dead", "answer", "422", "1", "2026-11-24T12:00:00Z", "9",
        "0123abcd-0000000000000006",
    ]  # fmt: skip
    assert lines[3] == "more: --after 7"
    port.asked.clear()
    found = json.loads(run("dead", "list", "--limit", "9999", "--json", "--consumer", "audit"))
    assert ([one["number"] for one in found["letters"]], found["next"]) == (
        list(range(1, 2_501)), None,
    )  # fmt: skip
    assert [asked[1]["limit"] for asked in port.asked] == ["1000", "1000", "1000"]
    assert all(asked[1]["consumer"] == "audit" for asked in port.asked)
    port.letters = []
    assert run("dead", "list") == "no letters\n"


def test_a_letter_is_shown_without_what_would_drive_a_terminal(run, port):
    shown = run("dead", "show", "7")
    assert "letter 7 of audit, dead" in shown
    assert "last answer: no\\x1b[2J" in shown
    assert "X-Odd: \\x1b]0;x\\x07" in shown
    assert shown.endswith("\n\nhi\n")
    assert json.loads(run("dead", "show", "7", "--json"))["message"] == port.message
    del port.message["text"]
    assert "(2 bytes that are no text; --json has them)" in run("dead", "show", "7")
    assert "There is no such dead letter" in run("dead", "show", "8", status=1)


def test_letters_are_replayed_and_the_end_is_waited_for(run, port):
    said = run("dead", "replay", "7", "9", "--to", "other", "--rate", "5/s")
    assert said == "2 letters are to be delivered again\n"
    run("dead", "replay", "--consumer", "audit", "--all", "--reason", "age")
    assert [asked[1] for asked in port.asked] == [
        {"letters": [7, 9], "rate": "5/s", "to": "other"},
        {"all": True, "consumer": "audit", "reason": "age"},
    ]
    port.orders[0] = {"order": 1, "done": 1, "ended": False, "problem": None}
    said = run("dead", "replay", "7", "--wait", "0 s", status=1)
    assert said == f"order 1 of {port.admin} goes on: 1 letters in 0 s\n"
    port.orders[0] |= {"ended": True, "problem": "stopped"}
    assert run("dead", "replay", "7", status=1) == "order 1 ended after 1 letters: stopped\n"
    port.orders.clear()
    assert "does not know order 1 any more" in run("dead", "replay", "7", status=1)


def test_letters_are_purged_only_if_somebody_says_so(run, port):
    assert "expected --yes" in run("dead", "purge", "7", status=1)
    assert port.asked == []
    assert run("dead", "purge", "7", "--yes") == "2 letters are purged\n"
    assert port.asked[-1][:2] == ("/api/dead/purge", {"letters": [7]})


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["--all"], ["--consumer", "audit"], ["7", "--all"], ["7", "--consumer", "audit"],
        ["7", "--all", "--consumer", "audit"], ["7", "--state", "dead"],
    ],
)  # fmt: skip
def test_what_means_no_letters_asks_nothing(run, port, arguments):
    for verb in ("replay", "purge"):
        said = run("dead", verb, *arguments, status=2)
        assert said == "expected letters' NUMBERs alone, or --consumer NAME --all\n"
    assert port.asked == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["dead", "list", "--limit", "0"], ["dead", "list", "--state", "gone"],
        ["dead", "show", "x"], ["consumer", "remove", "audit", "--backlog", "keep"],
        ["consumer", "pause"], ["consumer", "skip", "audit", "--wait", "5"],
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "usage: crowd" in capsys.readouterr().err
