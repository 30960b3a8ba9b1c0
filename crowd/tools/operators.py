"""The commands `crowd consumer` and `crowd dead`: their arguments, and what they print.

Decides exit statuses (0 done, 1 not) and when a person is asked first. Leaves what the commands
do to ``consumer`` and ``dead``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from crowd.errors import UsageError
from crowd.quantity import duration_us, rate_per_s, time_us
from crowd.tools import consumer, dead
from crowd.tools.door import find_doors
from crowd.tools.terminal import complain, confirmed, say

if TYPE_CHECKING:
    from collections.abc import Callable

    from crowd.tools.door import Door

    _Commands: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001

STATES = ("dead", "parked", "replay")
REASONS = ("answer", "attempts", "age", "undeliverable", "operator", "window")


def _seconds(text: str) -> float:
    return duration_us(text) / 1e6


_seconds.__name__ = "duration"  # what argparse calls a wrong value


def _doors(options: argparse.Namespace) -> list[Door]:
    return find_doors(options.admin, options.directory, getattr(options, "token_file", None))


def _wait(options: argparse.Namespace) -> consumer.Wait:
    return consumer.Wait(options.wait, say)


def _verb(
    verbs: _Commands,
    name: str,
    words: str,
    run: Callable[[argparse.Namespace], int],
    *,
    token: bool = True,
) -> argparse.ArgumentParser:
    """Add one verb with the options that all have."""
    verb = verbs.add_parser(name, help=words)
    where = verb.add_mutually_exclusive_group()
    where.add_argument("--directory", metavar="DIR", help="with the nodes' *.toml")
    where.add_argument("--admin", metavar="URL", help="a node's admin address")
    if token:
        verb.add_argument("--token-file", metavar="FILE", help="of the node that is asked")
    verb.set_defaults(run=run)
    return verb


def _changing(verb: argparse.ArgumentParser, default_s: float) -> argparse.ArgumentParser:
    verb.add_argument(
        "--wait", type=_seconds, default=default_s, help=f"at most (default {default_s:g}s)"
    )
    return verb


# --- crowd consumer -----------------------------------------------------------------------------


def add_consumer(commands: _Commands) -> None:
    """Add `crowd consumer`."""
    command = commands.add_parser("consumer", help="show or change who is delivered to")
    verbs = command.add_subparsers(title="what to do", required=True, metavar="WHAT")
    listing = _verb(verbs, "list", "show the consumers", _list, token=False)
    listing.add_argument("--json", action="store_true", help="one JSON array")
    showing = _verb(verbs, "show", "show all of one consumer", _show, token=False)
    showing.add_argument("--json", action="store_true", help="one JSON object")
    pausing = _verb(verbs, "pause", "start no attempt until it is resumed", _control)
    resuming = _verb(verbs, "resume", "go on with one that was paused", _control)
    skipping = _verb(verbs, "skip", "give up messages that it was not delivered", _skip)
    removing = _verb(verbs, "remove", "have a consumer go for good", _remove)
    for verb in (showing, pausing, resuming, skipping, removing):
        verb.add_argument("name", metavar="NAME")
    for verb, action in ((pausing, "pause"), (resuming, "resume")):
        verb.set_defaults(action=action)
    skipping.add_argument(
        "--through", type=_count, metavar="POSITION", help="up to it (default all)"
    )
    skipping.add_argument("--yes", action="store_true", help="do not ask")
    removing.add_argument("--backlog", choices=["drop"], help="what becomes of what it has left")
    applying = _verb(verbs, "apply", "add or change the consumers of a file", _apply)
    applying.add_argument("file", metavar="FILE", help="TOML with [[consumer]] tables")
    for verb in (pausing, resuming, skipping, removing, applying):
        _changing(verb, 60.0)


def _list(options: argparse.Namespace) -> int:
    found = consumer.consumers(_doors(options))
    if options.json:
        say(msgspec.json.encode(found).decode())
    else:
        say("\n".join(consumer.consumer_lines(found)))
    return 0


def _show(options: argparse.Namespace) -> int:
    found = consumer.named(consumer.consumers(_doors(options)), options.name)
    if options.json:
        say(msgspec.json.encode(found).decode())
    else:
        say("\n".join(consumer.detail_lines(found)))
    return 0


def _control(options: argparse.Namespace) -> int:
    consumer.control(_doors(options), options.name, options.action, _wait(options))
    return 0


def _skip(options: argparse.Namespace) -> int:
    doors = _doors(options)
    if not options.yes:
        found = consumer.named(consumer.consumers(doors), options.name)
        what = "all" if options.through is None else f"those up to position {options.through}"
        say(f"{options.name} has {found['backlog']} messages left; {what} will be given up for it")
        if not confirmed("Skip them? Type yes: "):
            complain("nothing was changed")
            return 1
    consumer.skip(doors, options.name, options.through, _wait(options))
    return 0


def _remove(options: argparse.Namespace) -> int:
    doors = _doors(options)
    drop = options.backlog == "drop"
    left = consumer.named(consumer.consumers(doors), options.name)["backlog"]
    if left and not drop:
        complain(
            f"{options.name} has {left} messages left, which it would not be delivered any more; "
            "expected none, or --backlog drop; nothing was changed"
        )
        return 1
    consumer.remove(doors, options.name, drop=drop, wait=_wait(options))
    return 0


def _apply(options: argparse.Namespace) -> int:
    consumer.apply(_doors(options), Path(options.file), _wait(options))
    return 0


# --- crowd dead ---------------------------------------------------------------------------------


def add_dead(commands: _Commands) -> None:
    """Add `crowd dead`."""
    command = commands.add_parser("dead", help="show, replay or purge what was not delivered")
    verbs = command.add_subparsers(title="what to do", required=True, metavar="WHAT")
    listing = _verb(verbs, "list", "show the letters", _dead_list)
    listing.add_argument("--limit", type=_count, default=100, metavar="N", help="(default 100)")
    listing.add_argument("--after", type=int, default=0, metavar="NUMBER", help="go on behind it")
    listing.add_argument("--json", action="store_true", help="one JSON object")
    showing = _verb(verbs, "show", "show one letter with its message", _dead_show)
    showing.add_argument("number", type=int, metavar="NUMBER")
    showing.add_argument("--json", action="store_true", help="one JSON object")
    replaying = _verb(verbs, "replay", "have letters delivered again", _replay)
    replaying.add_argument("--to", metavar="NAME", help="to this consumer instead of their own")
    purging = _verb(verbs, "purge", "give letters up for good", _purge)
    purging.add_argument("--yes", action="store_true", help="do not ask")
    for verb in (replaying, purging):
        verb.add_argument("numbers", metavar="NUMBER", type=int, nargs="*")
        verb.add_argument("--all", action="store_true", help="all that --consumer and the rest say")
        verb.add_argument(
            "--rate",
            type=_text_of(rate_per_s),
            metavar="RATE",
            help="not faster than, such as 50/s",
        )
        _changing(verb, 3_600.0)
    for verb in (listing, replaying, purging):
        verb.add_argument("--consumer", metavar="NAME", help="letters of this consumer")
        verb.add_argument("--reason", choices=REASONS)
        verb.add_argument("--state", choices=STATES)
        verb.add_argument(
            "--since",
            type=_text_of(time_us),
            metavar="TIME",
            help="buried then or later (RFC 3339)",
        )
        verb.add_argument(
            "--until", type=_text_of(time_us), metavar="TIME", help="buried before then"
        )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError
    return int(text)


_count.__name__ = "count"  # what argparse calls a wrong value


def _text_of(read: Callable[[str], object]) -> Callable[[str], str]:
    """Return what takes text that `read` can read, which the node does that is asked."""

    def take(text: str) -> str:
        try:
            read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return text

    return take


def _filters(options: argparse.Namespace) -> dead.Filters:
    return dead.Filters(
        options.consumer, options.reason, options.state, options.since, options.until
    )


def _dead_list(options: argparse.Namespace) -> int:
    found, following = dead.letters(
        _doors(options), _filters(options), after=options.after, limit=options.limit
    )
    if options.json:
        say(msgspec.json.encode({"letters": found, "next": following}).decode())
    else:
        say("\n".join(dead.letter_lines(found, following)))
    return 0


def _dead_show(options: argparse.Namespace) -> int:
    found = dead.letter(_doors(options), options.number)
    if options.json:
        say(msgspec.json.encode(found).decode())
    else:
        say("\n".join(dead.whole_lines(found)))
    return 0


def _wanted(options: argparse.Namespace) -> dict[str, Any]:
    """Return which letters an order means, as ``/api/dead`` takes it; raise UsageError."""
    filters: dict[str, Any] = msgspec.to_builtins(_filters(options))
    pace = {} if options.rate is None else {"rate": options.rate}
    if options.numbers and not options.all and not filters:
        return {"letters": options.numbers, **pace}
    if options.all and not options.numbers and options.consumer is not None:
        return {"all": True, **filters, **pace}
    raise UsageError("expected letters' NUMBERs alone, or --consumer NAME --all")


def _replay(options: argparse.Namespace) -> int:
    wanted = _wanted(options)
    if options.to is not None:
        wanted["to"] = options.to
    dead.order(_doors(options), "replay", wanted, _wait(options))
    return 0


def _purge(options: argparse.Namespace) -> int:
    wanted = _wanted(options)
    if not options.yes:
        what = (
            f"{len(options.numbers)} letters"
            if options.numbers
            else f"all {options.state or 'dead'} letters of {options.consumer} that were asked for"
        )
        say(f"{what} will be given up for good, with their messages")
        if not confirmed("Purge them? Type yes: "):
            complain("nothing was changed")
            return 1
    dead.order(_doors(options), "purge", wanted, _wait(options))
    return 0
