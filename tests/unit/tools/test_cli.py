"""The `crowd` command: exit statuses, and words that a person can act on."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from crowd.cli import main, parser

ROOT = Path(__file__).parents[3]


def test_init_then_check_is_good(tmp_path, capsys):
    assert main(["init", str(tmp_path), "--nodes", "1"]) == 0
    file = capsys.readouterr().out.strip()
    assert main(["check", file]) == 0
    assert f"{file}: good" in capsys.readouterr().out


def test_check_shows_every_problem_of_every_file(tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / f"{name}.toml").write_text("[node]\nx = 1\ny = 2\n")
    assert main(["check", str(tmp_path / "a.toml"), str(tmp_path / "b.toml")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 4


def test_init_over_a_cluster_says_what_is_there(tmp_path, capsys):
    assert main(["init", str(tmp_path), "--nodes", "1"]) == 0
    assert main(["init", str(tmp_path), "--nodes", "1"]) == 1
    assert "found a file" in capsys.readouterr().err


def test_a_journal_that_is_not_there_is_told(tmp_path, capsys):
    assert main(["journal", str(tmp_path)]) == 1
    assert str(tmp_path) in capsys.readouterr().err


def test_status_without_a_cluster_is_status_1(capsys):
    assert main(["status", "--admin", "http://127.0.0.1:1"]) == 1
    assert "leader none" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["sink"],
        ["sink", "--port", "0", "--fail", "2"],
        ["sink", "--port", "0", "--delay", "50"],
        ["sink", "--port", "0", "--status", "99"],
        ["load", "--url", "nowhere"],
        ["load", "--url", "http://a", "--header", "x"],
    ],
)
def test_wrong_arguments_are_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_load_with_an_impossible_plan_is_refused(capsys):
    assert main(["load", "--url", "http://127.0.0.1:1/", "--connections", "0"]) == 2
    assert "expected --connections" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["sink", "--port", "70000"], ["sink", "--port", "-1"], ["init", "x", "--port", "70000"],
        ["dead", "list", "--since", "yesterday"], ["dead", "replay", "7", "--rate", "fast"],
        ["consumer", "skip", "a", "--through", "-5"], ["dead", "purge", "--all", "--yes"],
        ["init", "x", "--add", "d", "--nodes", "3"],
    ],
)  # fmt: skip
def test_wrong_arguments_end_with_2_and_a_line(arguments, capsys):
    try:
        status = main(arguments)
    except SystemExit as error:
        status = error.code
    assert status == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize("admin", ["http://a b", "http://127.0.0.1:x", "ftp://a", "http://[::1"])
@pytest.mark.parametrize("command", [["status"], ["member", "list"], ["consumer", "list"]])
def test_an_admin_address_that_is_none_is_told(command, admin, capsys):
    assert main([*command, "--admin", admin]) == 1
    assert f"found {admin!r}; expected a URL such as" in capsys.readouterr().err


def test_every_command_and_option_is_in_the_reference():
    text = (ROOT / "docs/reference/commands.md").read_text("utf-8")
    (commands,) = (
        action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)
    )
    for name, command in commands.choices.items():
        section = re.search(rf"^## `crowd {name}\b.*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
        assert section, name
        for action in command._actions:
            for option in action.option_strings:
                if option not in {"-h", "--help"}:
                    assert f"`{option}" in section[0] or f" {option}" in section[0], (name, option)
