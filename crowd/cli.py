"""The `crowd` command: what an operator, or someone trying crowd out, types.

Decides each command's arguments and exit status (0 done, 1 not, 2 wrong arguments). Leaves
what a command does to one module each in `crowd/tools`. A node itself is started with
``twistd crowd``.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from crowd import __version__
from crowd.config import explain_file
from crowd.errors import ConfigurationError, CrowdError, UsageError
from crowd.quantity import duration_us
from crowd.raft.journal import describe
from crowd.tools.door import ALONE, CLUSTER_DIRECTORY, find_doors
from crowd.tools.init import PORT, ClusterPlan, add_node, write_cluster
from crowd.tools.key import key_lines, make_key
from crowd.tools.load import BODY_DEFAULT, Load, LoadPlan, Target, parse_target
from crowd.tools.loop import Loop
from crowd.tools.member import Change, change_members, member_lines, members
from crowd.tools.operators import add_consumer, add_dead
from crowd.tools.repair import Place, Repair, place_of
from crowd.tools.sink import SinkPlan, run_sink
from crowd.tools.status import admin_addresses, gather, status_lines
from crowd.tools.tally import report_lines
from crowd.tools.terminal import complain, confirmed, port_number, say

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    options = parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except UsageError as error:
        complain(str(error))
        return 2
    except ConfigurationError as error:
        for problem in error.problems:
            complain(problem)
        return 1
    except BrokenPipeError:
        # Whoever read our lines has had enough (`| head`); nothing else may be written there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (CrowdError, OSError, ValueError) as error:
        complain(str(error))
        return 1
    return status


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; docs/reference/commands.md describes them."""
    top = argparse.ArgumentParser(
        prog="crowd", description="Set up, inspect and try out crowd. A node: twistd crowd."
    )
    top.add_argument("--version", action="version", version=f"crowd {__version__}")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in (
        _add_init, _add_check, _add_key, _add_status, _add_member, add_consumer, add_dead, _add_journal,
        _add_repair, _add_sink, _add_load,
    ):  # fmt: skip
        add(commands)
    return top


_Commands = argparse._SubParsersAction  # noqa: SLF001 - argparse gives the type no public name


def _add_init(commands: _Commands[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("init", help="write a cluster's configurations and certificates")
    command.add_argument("directory", metavar="DIR")
    command.add_argument("--nodes", type=int, help="how many (default 3)")
    command.add_argument("--cluster", help="the cluster's name (default crowd)")
    command.add_argument(
        "--host", action="append", help="a node's address; once for all, or once for each node"
    )
    command.add_argument(
        "--port", type=port_number, help="for producers (default 2104, with --add the next one)"
    )
    command.add_argument("--upstream", metavar="URL", help="deliver writes there, read from there")
    command.add_argument("--add", metavar="NAME", help="files for one more node of DIR's cluster")
    command.set_defaults(run=_init)


def _init(options: argparse.Namespace) -> int:
    hosts = tuple(options.host or ["127.0.0.1"])
    if options.add is not None:
        if len(hosts) > 1:
            raise UsageError(f"--host: found {len(hosts)} of them; expected 1")
        if options.nodes or options.cluster or options.upstream:
            raise UsageError(
                "found --add beside --nodes, --cluster or --upstream; expected it alone"
            )
        print(add_node(Path(options.directory), options.add, hosts[0], options.port))
        return 0
    plan = ClusterPlan(
        cluster=options.cluster or "crowd",
        nodes=3 if options.nodes is None else options.nodes,
        hosts=hosts,
        port=PORT if options.port is None else options.port,
        upstream=options.upstream,
    )
    for path in write_cluster(Path(options.directory), plan):
        print(path)
    return 0


def _add_check(commands: _Commands[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("check", help="say what a configuration means, or its problems")
    command.add_argument("files", metavar="FILE", nargs="+")
    command.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> int:
    problems: list[str] = []
    for file in options.files:
        try:
            _, settings = explain_file(file)
        except ConfigurationError as error:
            problems += error.problems
            continue
        print(f"{file}: good")
        for setting in settings:
            default = "  (default)" if setting.is_default else ""
            print(f"  {setting.key} = {setting.value}{default}")
    for problem in problems:
        complain(problem)
    return 1 if problems else 0


def _add_key(commands: _Commands[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("key", help="make a producer's key, and its table")
    command.add_argument("name", metavar="NAME", help="the producer's")
    command.set_defaults(run=_key)


def _key(options: argparse.Namespace) -> int:
    print("\n".join(key_lines(options.name, make_key())))
    return 0


def _add_status(commands: _Commands[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("status", help="show what each node of a cluster says of itself")
    command.add_argument("--json", action="store_true", help="one JSON object")
    where = command.add_mutually_exclusive_group()
    where.add_argument("--directory", metavar="DIR", help="with the nodes' *.toml")
    where.add_argument("--admin", metavar="URL", nargs="+", help="nodes' admin addresses")
    command.add_argument("--at", type=int, metavar="INDEX", help="show the digest at this index")
    command.set_defaults(run=_status)


def _status(options: argparse.Namespace) -> int:
    addresses = options.admin
    if addresses is None:
        directory = options.directory or CLUSTER_DIRECTORY
        here = options.directory is not None or Path(directory).is_dir()
        addresses = admin_addresses(Path(directory)) if here else [ALONE]
    status = gather(addresses, at=options.at)
    if options.json:
        print(msgspec.json.encode(status).decode())
    else:
        print("\n".join(status_lines(status)))
    return 0 if status["leader"] is not None else 1


def _add_member(commands: _Commands[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("member", help="show or change who belongs to a cluster")
    verbs = command.add_subparsers(title="what to do", required=True, metavar="WHAT")
    listing = verbs.add_parser("list", help="show the members")
    listing.add_argument("--json", action="store_true", help="one JSON array")
    listing.set_defaults(run=_member_list)
    adding = verbs.add_parser("add", help="have a member join, or move to another address")
    adding.add_argument("name", metavar="NAME")
    adding.add_argument("address", metavar="HOST:PORT", help="where its peers find it")
    removing = verbs.add_parser("remove", help="have a member leave for good")
    removing.add_argument("name", metavar="NAME")
    removing.set_defaults(address=None)
    for verb in (adding, removing):
        verb.add_argument("--token-file", metavar="FILE", help="of the node that is asked")
        verb.add_argument("--wait", type=_seconds, default=60.0, help="at most (default 60s)")
        verb.set_defaults(run=_member_change)
    for verb in (listing, adding, removing):
        where = verb.add_mutually_exclusive_group()
        where.add_argument("--directory", metavar="DIR", help="with the nodes' *.toml")
        where.add_argument("--admin", metavar="URL", help="a node's admin address")


def _member_list(options: argparse.Namespace) -> int:
    found = members(
        gather([door.admin for door in find_doors(options.admin, options.directory, None)])
    )
    if options.json:
        print(msgspec.json.encode(found).decode())
    else:
        print("\n".join(member_lines(found)))
    return 0


def _member_change(options: argparse.Namespace) -> int:
    change = Change(options.name, options.address)
    doors = find_doors(options.admin, options.directory, options.token_file)
    change_members(doors, change, wait_s=options.wait, say=say)
    return 0


def _add_repair(commands: _Commands[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("repair", help="set a stopped node's damaged data aside")
    where = command.add_mutually_exclusive_group(required=True)
    where.add_argument("directory", metavar="DIR", nargs="?", help="the node's directory")
    where.add_argument("--config", metavar="FILE", help="the node's configuration")
    command.add_argument("--yes", action="store_true", help="do not ask")
    command.add_argument("--force", action="store_true", help="also where nothing is damaged")
    command.set_defaults(run=_repair)


def _repair(options: argparse.Namespace) -> int:
    place = place_of(options.config) if options.config is not None else Place(options.directory)
    with Repair(place) as repair:
        for line in repair.found():
            print(line)
        repair.check(force=options.force)
        for line in repair.warning():
            print(line)
        if not options.yes and not confirmed("Set it aside? Type yes: "):
            complain("nothing was changed")
            return 1
        for line in repair.set_aside():
            print(line)
    return 0


def _add_journal(commands: _Commands[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("journal", help="read a stopped node's journal for a person")
    command.add_argument("directory", metavar="DIR", help="the node's directory")
    command.set_defaults(run=_journal)


def _journal(options: argparse.Namespace) -> int:
    for line in describe(options.directory):
        print(line)
    return 0


def _add_sink(commands: _Commands[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("sink", help="a consumer that records every request it gets")
    command.add_argument("--port", type=port_number, required=True, help="0 takes a free one")
    command.add_argument("--host", default="127.0.0.1", help="(default 127.0.0.1)")
    command.add_argument("--status", type=_status_code, default=200, help="(default 200)")
    command.add_argument("--fail", type=_share, default=0.0, help="this share gets 500, e.g. 0.1")
    command.add_argument("--fail-status", type=_status_code, default=500, help="(default 500)")
    command.add_argument("--delay", type=_seconds, default=0.0, help="before answers, e.g. 50ms")
    command.add_argument("--log", metavar="FILE", help="append one JSON object for each request")
    command.set_defaults(run=_sink)


def _sink(options: argparse.Namespace) -> int:
    plan = SinkPlan(options.status, options.fail, options.delay, options.fail_status)
    return run_sink(plan, host=options.host, port=options.port, log=options.log, say=say)


def _add_load(commands: _Commands[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("load", help="send requests and measure the answers")
    add = command.add_argument
    add("--url", type=_target, nargs="+", required=True, help="shared among the connections")
    add("--rate", type=float, default=500.0, help="requests a second; 0: closed loop (default 500)")
    add("--seconds", type=float, default=30.0, help="(default 30)")
    add("--requests", type=int, help="end after so many, if that comes first")
    add("--connections", type=int, default=64, help="(default 64)")
    add("--body", metavar="FILE", help="what to send (default: a lead of 57 bytes)")
    add("--method", default="POST", help="(default POST)")
    add("--header", type=_header, action="append", default=[], metavar="'NAME: VALUE'")
    add("--numbered", action="store_true", help="give each request its number, X-Load-Number")
    add("--timeout", type=_seconds, default=30.0, help="for an answer (default 30s)")
    add("--log", metavar="FILE", help="append one JSON object for each request")
    add("--json", action="store_true", help="print one JSON object")
    command.set_defaults(run=_load)


def _load(options: argparse.Namespace) -> int:
    if options.connections < 1 or options.rate < 0 or options.seconds <= 0:
        raise UsageError("expected --connections of 1, --rate of 0 and --seconds above 0, at least")
    plan = LoadPlan(
        targets=tuple(dict.fromkeys(options.url)),
        rate=options.rate,
        seconds=options.seconds,
        requests=options.requests,
        connections=options.connections,
        body=Path(options.body).read_bytes() if options.body else BODY_DEFAULT,
        headers=tuple(options.header),
        method=options.method,
        timeout_s=options.timeout,
        numbered=options.numbered,
    )
    loop = Loop()
    loop.stop_at_signals()
    load = Load(loop, plan, log=options.log)
    load.start()
    loop.run()
    report = load.finish()
    loop.close()
    if options.json:
        print(msgspec.json.encode(report).decode())
    else:
        print("\n".join(report_lines(report)))
    return 0 if report.succeeded else 1


def _target(text: str) -> Target:
    try:
        return parse_target(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seconds(text: str) -> float:
    try:
        return duration_us(text) / 1e6
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"found {text}; expected a share from 0 to 1")
    return share


def _status_code(text: str) -> int:
    if not text.isdecimal() or not 200 <= int(text) <= 599:
        raise argparse.ArgumentTypeError(f"found {text!r}; expected a status from 200 to 599")
    return int(text)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip() or not text.isprintable():
        raise argparse.ArgumentTypeError(f"found {text!r}; expected 'NAME: VALUE'")
    return name.strip(), value.strip()


if __name__ == "__main__":
    sys.exit(main())
