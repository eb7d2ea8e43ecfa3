"""The command `cpg`: demo, listen, send, members, quorum, flood.

Each command is a small trio program on the public API. A signal cancels it, so that groups and ring are left in order;
what goes wrong becomes one line that names the thing, the place and what to do, and an exit code.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import trio

from cpg.connect import DaemonRing, connect
from cpg.corosync import CorosyncRing, open_corosync
from cpg.demo import DemoFailed, demo
from cpg.embedded import EmbeddedRing, open_ring
from cpg.events import Quorum
from cpg.flood import STAMP, NoCompany, Plan, flood
from cpg.lines import names, nodes, printable, quorum_to_json, quorum_to_text, to_json, to_text
from cpg.pieces import LARGEST_MESSAGE
from cpg.stage import stage_for
from cpg.wire import LARGEST_NAME
from totem.configuration import Guarantee
from totem.errors import ConfigError, MessageTooLong, TotemError

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction["_TextParser"]

DEFAULT_CONFIG = "/etc/corosync/corosync.conf"

DONE, FAILED, MISUSED, SIGNALLED = 0, 1, 2, 128
EXIT_CODES = """\
exit codes:
  0      done; for listen also: ended by SIGINT or SIGTERM
  1      failed: the ring was lost, members did not come, processes of the demo saw different sequences;
         for quorum: the ring is not quorate
  2      wrong usage, or a configuration that cannot be used
  128+N  ended by signal N, after leaving group and ring in order
"""

COMPANY_HINT = 3.0
"""Seconds of waiting for a majority after which a person is told what is waited for."""
READ_SIZE = 65536

Command = Callable[[argparse.Namespace], Awaitable[int]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    whole = parser()
    options = whole.parse_args(arguments)
    if options.node is not None and options.corosync:
        whole.error("argument --node: not allowed with argument --corosync, where Corosync's configuration says it")
    logging.basicConfig(format="cpg: %(message)s", level=logging.WARNING)
    return trio.run(_until_signal, options)


async def _until_signal(options: argparse.Namespace) -> int:
    """Run the command, and cancel it when a signal comes."""
    code = DONE
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                nonlocal code
                async for number in signals:
                    code = options.signalled if options.signalled is not None else SIGNALLED + number
                    nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            code = await _report_errors(options)
            nursery.cancel_scope.cancel()
    return code


async def _report_errors(options: argparse.Namespace) -> int:
    command: Command = options.command
    try:
        return await command(options)
    except BrokenPipeError:
        return DONE  # who read our output has seen enough
    except ConfigError as error:
        return _complain(str(error), MISUSED)
    except (TotemError, NoCompany, DemoFailed) as error:
        return _complain(str(error), FAILED)
    except ValueError as error:
        return _complain(f"{error} (--node)", MISUSED)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        hint = " (-c names the ring's configuration file)" if error.filename == options.config else ""
        return _complain(f"{place}{error.strerror}{hint}", MISUSED if hint else FAILED)


def _complain(text: str, code: int) -> int:
    print(f"cpg: {text}", file=sys.stderr)
    return code


# ---- the commands


async def _demo(options: argparse.Namespace) -> int:
    stage = stage_for(sys.stdout)
    try:
        return DONE if await demo(options.nodes, stage) else FAILED
    finally:
        stage.close()


async def _listen(options: argparse.Namespace) -> int:
    line = to_json if options.json else to_text
    async with _ring(options) as ring, ring.join(options.group) as group:
        async for batch in group.batches():
            await _print([line(event) for event in batch])
    return DONE


async def _send(options: argparse.Namespace) -> int:
    guarantee = _guarantee(options)
    async with _ring(options) as ring:
        await _wait_company(ring, options)
        async with ring.join(options.group) as group:
            group.on_message(lambda sender, data: None)
            if options.text:
                await group.send([text.encode("utf-8", "surrogateescape") for text in options.text], guarantee)
            else:
                async with aclosing(_standard_input()) as batches:
                    async for lines in batches:
                        await group.send(lines, guarantee)
            await group.flush()
    return DONE


async def _members(options: argparse.Namespace) -> int:
    async with _ring(options) as ring:
        await _wait_company(ring, options)
        groups = await ring.list_groups()
        if options.json:
            await _print([json.dumps({"event": "ring", "ring": ring.ring_id, "members": ring.node_ids})])
            await _print(
                json.dumps({"group": name.decode("utf-8", "backslashreplace"), "members": members})
                for name, members in groups.items()
            )
        else:
            await _print([f"ring {ring.ring_id}: {nodes(ring.node_ids)}"])
            await _print(f"{printable(name)}: {names(members)}" for name, members in groups.items())
    return DONE


async def _quorum(options: argparse.Namespace) -> int:
    async with _ring(options) as ring:
        with trio.move_on_after(COMPANY_HINT):
            await ring.wait_quorate()
        status = ring.quorum if isinstance(ring, EmbeddedRing) else None
        event = Quorum(ring.quorate, ring.node_ids)
        if options.json:
            await _print([quorum_to_json(event, status)])
        else:
            await _print(quorum_to_text(event, status))
        return DONE if ring.quorate else FAILED


async def _flood(options: argparse.Namespace) -> int:
    plan = Plan(
        members=options.members,
        seconds=options.seconds,
        size=options.size,
        rate=options.rate,
        quiet=options.quiet,
        guarantee=_guarantee(options),
    )
    async with _ring(options) as ring, ring.join(options.group) as group:
        report = await flood(group, plan)
    await _print([json.dumps(report)])
    return DONE


def _guarantee(options: argparse.Namespace) -> Guarantee:
    return Guarantee.SAFE if options.safe else Guarantee.AGREED


AnyRing = EmbeddedRing | CorosyncRing | DaemonRing


def _ring(options: argparse.Namespace) -> AbstractAsyncContextManager[AnyRing]:
    if options.corosync:
        return open_corosync()
    if options.config is None and options.node is None:
        return connect()
    return open_ring(options.config or DEFAULT_CONFIG, options.node)


async def _wait_company(ring: AnyRing, options: argparse.Namespace) -> None:
    """Wait for a majority of the nodelist, or for quorum: what is sent to nobody is of no use."""
    if options.alone:
        return
    if not isinstance(ring, EmbeddedRing) or ring.quorum is not None:
        wait, wanted = ring.wait_quorate, "quorum"
        there = nodes(ring.node_ids)
    else:
        majority = len(ring.config.nodes) // 2 + 1
        wait, wanted = partial(ring.wait_members, majority), str(majority)
        there = f"{len(ring.node_ids)} of the nodelist's {len(ring.config.nodes)} nodes"
    with trio.move_on_after(COMPANY_HINT):
        await wait()
        return
    print(f"cpg: {there} here, waiting for {wanted} (--alone does not wait)", file=sys.stderr)
    await wait()


async def _standard_input() -> AsyncGenerator[list[bytes], None]:
    """Read lines as they come, those that come together in one list."""
    rest = b""
    while chunk := await trio.to_thread.run_sync(os.read, 0, READ_SIZE, abandon_on_cancel=True):
        *lines, rest = (rest + chunk).split(b"\n")
        yield lines
        if len(rest) > LARGEST_MESSAGE:  # not to be kept in memory until its end comes, if ever
            raise MessageTooLong(
                f"a line of standard input is longer than {LARGEST_MESSAGE} bytes, the most of a message"
            )
    if rest:
        yield [rest]


async def _print(lines: Iterable[str]) -> None:
    """Print lines in a thread, so that a reader that is slow does not stop the node."""
    text = "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")
    await trio.to_thread.run_sync(_write, text, abandon_on_cancel=True)


def _write(text: bytes) -> None:
    """Write past `sys.stdout`, whose lock a thread that is stuck here would keep at the end of the program."""
    while text:
        text = text[os.write(sys.stdout.fileno(), text) :]


# ---- the command line


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    whole = _Parser(
        prog="cpg",
        description="Closed process groups on a Totem ring: the same messages and changes everywhere, in one order.",
        epilog=f"""\
examples:
  cpg demo                                     see it work, on this machine alone
  cpg listen chat -c ring.conf --node 1        print what happens in group "chat"
  cpg send chat hello -c ring.conf --node 2    say something there
  cpg listen chat --corosync                   the same on a machine where Corosync runs
  cpg COMMAND --help                           more on one command

{EXIT_CODES}""",
    )
    whole.add_argument("--version", action="version", version=f"cpg {own_version()}")
    whole.set_defaults(signalled=None, corosync=False, node=None)
    commands = whole.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_TextParser)
    for add in (_add_demo, _add_listen, _add_send, _add_members, _add_quorum, _add_flood):
        add(commands)
    return whole


def own_version() -> str:
    """The installed version."""
    try:
        return version("totem-cpg")
    except PackageNotFoundError:
        return "from a source tree that is not installed"


class _Parser(argparse.ArgumentParser):
    """A parser whose help shows examples as they were written."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, formatter_class=argparse.RawDescriptionHelpFormatter)


class _TextParser(_Parser):
    """A parser that takes TEXT also behind options: `send chat --node 2 hello`."""

    _intermixed = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does, but with options anywhere."""
        if self._intermixed:
            return super().parse_known_args(args, namespace)
        self._intermixed = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._intermixed = False


def _add_demo(commands: Commands) -> None:
    demo_parser = commands.add_parser(
        "demo",
        help="see it work: some nodes on this machine, a crash, a return",
        description="""\
Start N node processes on this machine. They talk; one is killed with SIGKILL
and comes back. Each column (or line, where the output is no terminal) shows
what one node's process was told. At the end that is compared: exit code 0 if
all saw the same sequence, 1 if not.""",
        epilog="examples:\n  cpg demo\n  cpg demo --nodes 5\n  cpg demo | grep ==",
    )
    demo_parser.add_argument("--nodes", type=_count(2, 16), default=3, metavar="N", help="2 to 16 nodes (default 3)")
    demo_parser.set_defaults(command=_demo)


def _add_listen(commands: Commands) -> None:
    listen = commands.add_parser(
        "listen",
        help="print what happens in a group",
        description="""\
Join a group and print its stream until SIGINT or SIGTERM: messages, who comes
and who goes, rings.""",
        epilog="""\
with --json one object a line, in the order in which this process saw them:
  {"event": "confchg", "members": [[1, 4711]],
   "left": [[2, 4712, "nodedown"]], "joined": [[1, 4711, "join"]]}
  {"event": "ring", "ring": [1, 28], "members": [1, 2, 3]}
  {"event": "message", "sender": [2, 4712], "level": "agreed", "data": "aGkK"}
  {"event": "transitional", "members": [1, 2]}
  {"event": "quorum", "quorate": true, "members": [1, 2, 3]}
A process is [node, pid]; "ring" is [representative, sequence]; "data" is
base64; "level" is "agreed", "safe" or "transitional".

examples:
  cpg listen chat -c ring.conf --node 1
  cpg listen chat -c ring.conf --node 1 --json |
      jq -r 'select(.event == "message") | .data | @base64d'""",
    )
    listen.add_argument("group", type=_group_name, metavar="GROUP")
    _add_ring_options(listen)
    listen.add_argument("--json", action="store_true", help="print JSON, one object a line")
    listen.set_defaults(command=_listen, signalled=DONE)


def _add_send(commands: Commands) -> None:
    send = commands.add_parser(
        "send",
        help="send messages to a group",
        description="""\
Join a group, send each TEXT as a message, or each line of standard input where
there is none, and leave when all of them have been delivered to this node too.
First wait for a majority of the nodelist.""",
        epilog="""\
examples:
  cpg send chat "hello, all" -c ring.conf --node 2
  dmesg --follow | cpg send log -c ring.conf --node 2
  cpg send chat --alone hello -c ring.conf --node 2
  cpg send chat hello --corosync""",
    )
    send.add_argument("group", type=_group_name, metavar="GROUP")
    send.add_argument("text", metavar="TEXT", nargs="*")
    _add_ring_options(send)
    _add_alone(send)
    send.add_argument("--safe", action="store_true", help="deliver only what every node of the ring is known to have")
    send.set_defaults(command=_send)


def _add_members(commands: Commands) -> None:
    members = commands.add_parser(
        "members",
        help="print the nodes of the ring, and the members of its groups",
        description="""\
Join the ring for a moment, print its nodes and the members (node:pid) of all
groups, and leave.""",
        epilog="examples:\n  cpg members -c ring.conf --node 3\n  cpg members --corosync --json",
    )
    _add_ring_options(members)
    _add_alone(members)
    members.add_argument("--json", action="store_true", help="print JSON, one object a line")
    members.set_defaults(command=_members)


def _add_quorum(commands: Commands) -> None:
    quorum = commands.add_parser(
        "quorum",
        help="print whether the ring is quorate, and the votes",
        description="""\
Join the ring for a moment and print whether it has the votes to act for the
cluster, with the figures that corosync-quorumtool -s shows (at a running
Corosync, --corosync, without the figures). Exits with 1 where it has not, after
waiting for some seconds for it.""",
        epilog="examples:\n  cpg quorum -c ring.conf --node 3\n  cpg quorum -c ring.conf --node 3 --json",
    )
    _add_ring_options(quorum)
    quorum.add_argument("--json", action="store_true", help="print a JSON object")
    quorum.set_defaults(command=_quorum)


def _add_flood(commands: Commands) -> None:
    flood_parser = commands.add_parser(
        "flood",
        help="measure a ring",
        description="""\
Measure a ring, as corosync's cpgflood does. Start one for each node: each joins
GROUP and waits for MEMBERS processes; then every sender multicasts messages of
SIZE bytes for SECONDS, as fast as it may, or RATE a second (then each delivery
is timed from its send, so all must share one machine's clock). It ends with one
line of JSON: what this process was delivered, how fast, a digest of the order
(equal wherever the same sequence was seen), and the changes of membership
meanwhile, which must be 0 for the figures to count.""",
        epilog="""\
examples:
  cpg flood -g bench -n 3 -c ring.conf --node 1             one of three
  cpg flood -g bench -n 3 -q -c ring.conf --node 2          only listens
  cpg flood -g bench -n 3 -r 200 -c ring.conf --node 1      tells latencies
  cpg flood -g bench -n 3 --corosync                        as cpgflood does, with which it may share a group""",
    )
    flood_parser.add_argument("-g", "--group", required=True, type=_group_name, metavar="GROUP", help="the group")
    flood_parser.add_argument("-n", "--members", required=True, type=_count(1, 1000), metavar="MEMBERS")
    flood_parser.add_argument("-t", "--seconds", type=_seconds, default=3.0, metavar="SECONDS", help="default 3")
    flood_parser.add_argument("-s", "--size", type=_count(STAMP.size, 16 << 20), default=64, metavar="SIZE")
    flood_parser.add_argument("-r", "--rate", type=_rate, default=0.0, metavar="RATE", help="messages a second")
    flood_parser.add_argument("-q", "--quiet", action="store_true", help="only listen")
    flood_parser.add_argument("--safe", action="store_true", help="send with the guarantee SAFE")
    _add_ring_options(flood_parser)
    flood_parser.set_defaults(command=_flood)


def _add_ring_options(command: argparse.ArgumentParser) -> None:
    which = command.add_mutually_exclusive_group()
    which.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        help="be a node of the ring of this configuration, in corosync.conf's format; without -c and --node the ring "
        "is that of this machine's daemon, cpgd",
    )
    which.add_argument(
        "--corosync", action="store_true", help="the ring of the Corosync that runs on this machine, through its libcpg"
    )
    command.add_argument(
        "--node",
        metavar="ID",
        help="which node of the ring to be, by id or name (default: the one whose address is this machine's); without "
        f"-c, of {DEFAULT_CONFIG}",
    )


def _add_alone(command: argparse.ArgumentParser) -> None:
    command.add_argument("--alone", action="store_true", help="do not wait for a majority of the nodelist")


def _count(lowest: int, highest: int) -> Callable[[str], int]:
    """Make the reader of a number between two bounds."""

    def read(text: str) -> int:
        number = int(text)
        if not lowest <= number <= highest:
            raise argparse.ArgumentTypeError(f"{number} is not between {lowest} and {highest}")
        return number

    read.__name__ = "number"
    return read


def _group_name(text: str) -> bytes:
    """Read the name of a group, which may be any bytes."""
    name = os.fsencode(text)
    if not 1 <= len(name) <= LARGEST_NAME:
        raise argparse.ArgumentTypeError(f"a group name has 1 to {LARGEST_NAME} bytes, this one has {len(name)}")
    return name


def _seconds(text: str) -> float:
    """Read a length of time that is one."""
    seconds = float(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0")
    return seconds


def _rate(text: str) -> float:
    """Read messages a second; 0 is no rate."""
    rate = float(text)
    if not 0 <= rate < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a rate, which is 0 (as fast as it may) or more")
    return rate


_seconds.__name__ = _rate.__name__ = "number"
