"""The command line: every command's options, help and examples, and the readers of values."""

from __future__ import annotations

import argparse
import math
import os
from typing import TYPE_CHECKING, Any

from cpg.cli import commands as run
from cpg.cli.doctor import doctor
from cpg.cli.flood import STAMP
from cpg.cli.top import top
from cpg.local.client_socket import usual_socket
from cpg.local.command_line import CommandParser, integer, number, path, seconds
from cpg.local.program import DEFAULT_CONFIG, DONE, own_version
from cpg.node.wire import LARGEST_NAME

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction["_TextParser"]

EXIT_CODES = """\
exit codes:
  0      done; for listen also: ended by SIGINT or SIGTERM
  1      failed: the ring was lost, members did not come, processes of the demo saw different sequences;
         for quorum: the ring is not quorate; for doctor: something is a problem
  2      wrong usage, or a configuration that cannot be used
  128+N  ended by signal N, after leaving group and ring in order
"""


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    whole = CommandParser(
        prog="cpg",
        description="Closed process groups on a Totem ring: the same messages and changes everywhere, in one order.",
        epilog=f"""\
examples:
  cpg demo                                     see it work, on this machine alone
  cpg listen chat                              print the events of group "chat", through this machine's cpgd
  cpg send chat hello                          send a message there
  cpg top                                      the state of the ring, live
  cpg doctor                                   why a node does not join, and what to do
  cpg listen chat -c ring.conf --node 1        the same as a node of the ring, without a daemon
  cpg listen chat --corosync                   the same on a machine where Corosync runs
  cpg COMMAND --help                           more on one command

{EXIT_CODES}""",
    )
    whole.add_argument("--version", action="version", version=f"cpg {own_version()}")
    whole.set_defaults(signalled=None, corosync=False, node=None, socket=None, config=None)
    commands = whole.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_TextParser)
    for add in (
        _add_demo,
        _add_listen,
        _add_send,
        _add_members,
        _add_groups,
        _add_quorum,
        _add_status,
        _add_reload,
        _add_top,
        _add_doctor,
        _add_flood,
    ):
        add(commands)
    return whole


class _TextParser(CommandParser):
    """A parser that accepts TEXT also behind options: `send chat --node 2 hello`."""

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
        help="see it work: some nodes on this machine, a crash, a restart",
        description="""\
Start N node processes on this machine. They talk; one is killed with SIGKILL
and restarted. Each column (or line, where the output is no terminal) shows
the events of one node's process. At the end these are compared: exit code 0 if
all saw the same sequence, 1 if not.""",
        epilog="examples:\n  cpg demo\n  cpg demo --nodes 5\n  cpg demo | grep ==",
    )
    demo_parser.add_argument("--nodes", type=integer(2, 16), default=3, metavar="N", help="2 to 16 nodes (default 3)")
    demo_parser.set_defaults(command=run.run_demo)


def _add_listen(commands: Commands) -> None:
    listen = commands.add_parser(
        "listen",
        help="print the events of a group",
        description="""\
Join a group and print its stream until SIGINT or SIGTERM: messages, members
that join and leave, rings.""",
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
  cpg listen chat
  cpg listen chat -c ring.conf --node 1
  cpg listen chat --json |
      jq -r 'select(.event == "message") | .data | @base64d'""",
    )
    listen.add_argument("group", type=_group_name, metavar="GROUP")
    _add_ring_options(listen)
    listen.add_argument("--json", action="store_true", help="print JSON, one object a line")
    listen.set_defaults(command=run.listen, signalled=DONE)


def _add_send(commands: Commands) -> None:
    send = commands.add_parser(
        "send",
        help="send messages to a group",
        description="""\
Join a group, send each TEXT as a message, or each line of standard input where
there is none, and leave when all messages have been delivered to this node too.
First wait for a majority of the nodelist, or for quorum where that is configured.""",
        epilog="""\
examples:
  cpg send chat "hello, all"
  dmesg --follow | cpg send log
  cpg send chat --alone hello -c ring.conf --node 2
  cpg send chat hello --corosync""",
    )
    send.add_argument("group", type=_group_name, metavar="GROUP")
    send.add_argument("text", metavar="TEXT", nargs="*", default=[])
    _add_ring_options(send)
    _add_alone(send)
    send.add_argument(
        "--safe", action="store_true", help="deliver only messages that every node of the ring is known to have"
    )
    send.set_defaults(command=run.send)


def _add_members(commands: Commands) -> None:
    members = commands.add_parser(
        "members",
        help="print the nodes of the ring, and the members of its groups",
        description="""\
Print the nodes of the ring, and the members (node:pid) of all groups. With -c
or --node: join the ring for that time.""",
        epilog="examples:\n  cpg members\n  cpg members -c ring.conf --node 3\n  cpg members --corosync --json",
    )
    _add_ring_options(members)
    _add_alone(members)
    members.add_argument("--json", action="store_true", help="print JSON, one object a line")
    members.set_defaults(command=run.members)


def _add_groups(commands: Commands) -> None:
    groups = commands.add_parser(
        "groups",
        help="print the groups of the ring, with their numbers of members",
        description="Print the names of all groups that have members anywhere in the ring, and the number of members.",
        epilog="""\
with --json one object a line: {"group": "chat", "count": 2}

examples:
  cpg groups
  cpg groups --json""",
    )
    _add_ring_options(groups)
    _add_alone(groups)
    groups.add_argument("--json", action="store_true", help="print JSON, one object a line")
    groups.set_defaults(command=run.groups)


def _add_quorum(commands: Commands) -> None:
    quorum = commands.add_parser(
        "quorum",
        help="print whether the ring is quorate, and the votes",
        description="""\
Print whether the ring has the votes to act for the cluster, with the figures
that corosync-quorumtool -s shows (at a running Corosync, --corosync, without
the figures). Exits with 1 where it has not, after a wait of some seconds. With
-c or --node: join the ring for that time.""",
        epilog="examples:\n  cpg quorum\n  cpg quorum --json\n  cpg quorum -c ring.conf --node 3",
    )
    _add_ring_options(quorum)
    quorum.add_argument("--json", action="store_true", help="print a JSON object")
    quorum.set_defaults(command=run.quorum)


def _add_reload(commands: Commands) -> None:
    reload = commands.add_parser(
        "reload",
        help="have all nodes of the ring read their configuration again",
        description="""\
Have this machine's cpgd read its configuration again, and then all other nodes
of the ring theirs, as corosync-cfgtool -R does. Prints what has changed here.
If this node's file cannot be used, or needs a restart, nothing changes, no other
node is asked, and the exit code is 1. Other nodes say what they did in their logs.
For root, and the user of the daemon.""",
        epilog="examples:\n  cpg reload\n  cpg reload --here\n  cpgd --check      (what a reload would change here)",
    )
    reload.add_argument("--here", action="store_true", help="this node alone, as SIGHUP does")
    reload.add_argument("--json", action="store_true", help="print a JSON object")
    reload.add_argument("--socket", type=path, metavar="PATH", help="the daemon's socket")
    reload.set_defaults(command=run.reload)


def _add_status(commands: Commands) -> None:
    status = commands.add_parser(
        "status",
        help="print the state of the node and its ring, and their rates",
        description="""\
Read the daemon's counters twice, a second apart, and print: node, ring, which
nodes of the nodelist are there, votes; rotations of the token and messages in
that second; waiting messages; retransmissions, dropped datagrams and changes of
the ring, by cause, since the start; groups; the daemon's clients. With -c or
--node: be that node for that second. On Corosync's nodes see corosync-cfgtool -s
and corosync-cmapctl -m stats.""",
        epilog="examples:\n  cpg status\n  cpg status --json | jq .rates\n  cpg status --socket /tmp/node2",
    )
    _add_ring_options(status, corosync=False)
    status.add_argument("--json", action="store_true", help="print a JSON object, with the counters")
    status.set_defaults(command=run.status)


def _add_top(commands: Commands) -> None:
    top_parser = commands.add_parser(
        "top",
        help="show the output of cpg status, live",
        description="""\
Show the output of cpg status, refreshed each second, busy clients first, until
q, SIGINT or SIGTERM. Where the output is no terminal: one line each second.""",
        epilog="examples:\n  cpg top\n  cpg top | tee -a ring.log\n  cpg top -c ring.conf --node 3",
    )
    _add_ring_options(top_parser, corosync=False)
    top_parser.set_defaults(command=top, signalled=DONE)


def _add_doctor(commands: Commands) -> None:
    doctor_parser = commands.add_parser(
        "doctor",
        help="find out why a node does not join",
        description="""\
Check the node of this machine from inside and outside, and say what to do: the
configuration, addresses, ports, firewall, MTU, privileges, buffers, key, clock,
the way to each other node, and what comes from there. Where no node runs here,
it uses the node's port for some seconds; it never takes part in a ring. Where
cpgd runs, it asks that. Each line is ok, warning, problem or not tried.""",
        epilog="""\
with --json one object a line:
  {"outcome": "problem", "subject": "port on link 0", "text": "…", "remedy": "…"}
Exits with 1 where something is a problem. As root it sees more.

examples:
  cpg doctor
  cpg doctor -c ring.conf --node 1
  cpg doctor --fingerprint                     must print the same at all nodes
  cpg doctor --json | jq 'select(.outcome == "problem")'""",
    )
    doctor_parser.add_argument(
        "-c", "--config", type=path, metavar="FILE", help=f"the ring's configuration (default {DEFAULT_CONFIG})"
    )
    doctor_parser.add_argument(
        "--socket",
        dest="daemon",
        type=path,
        metavar="PATH",
        help="the socket of the node's daemon, if it is not the usual one",
    )
    doctor_parser.add_argument(
        "--node", metavar="ID", help="the node to check (default: the one whose address is this machine's)"
    )
    doctor_parser.add_argument(
        "--stay",
        type=seconds(0, 3600),
        default=0.0,
        metavar="SECONDS",
        help="listen, and with knet answer the doctors of other nodes, for so long: before the first node starts",
    )
    doctor_parser.add_argument(
        "--fingerprint", action="store_true", help="print what must be equal at all nodes, as digests, and exit"
    )
    doctor_parser.add_argument("--json", action="store_true", help="print JSON, one object a line")
    doctor_parser.set_defaults(command=doctor)


def _add_flood(commands: Commands) -> None:
    flood_parser = commands.add_parser(
        "flood",
        help="measure a ring",
        description="""\
Measure a ring, as corosync's cpgflood does. Start one for each node: each joins
GROUP and waits for MEMBERS processes. Then every sender multicasts messages of
SIZE bytes for SECONDS, as fast as possible, or RATE a second (then each delivery
is timed from its send, so all must share one machine's clock). It prints one
line of JSON: the messages delivered here, their rate, a digest of the order
(equal wherever the same sequence was seen), and the number of changes of
membership meanwhile, which must be 0 for the figures to count.""",
        epilog="""\
examples:
  cpg flood -g bench -n 3                                   one of three, each on its machine
  cpg flood -g bench -n 3 -q                                only listen
  cpg flood -g bench -n 3 -r 200                            with latencies
  cpg flood -g bench -n 3 -c ring.conf --node 1             as a node, without a daemon
  cpg flood -g bench -n 3 --corosync                        as cpgflood, with which it may share a group""",
    )
    flood_parser.add_argument("-g", "--group", required=True, type=_group_name, metavar="GROUP", help="the group")
    flood_parser.add_argument("-n", "--members", required=True, type=integer(1, 1000), metavar="MEMBERS")
    flood_parser.add_argument("-t", "--seconds", type=_seconds, default=3.0, metavar="SECONDS", help="default 3")
    flood_parser.add_argument("-s", "--size", type=integer(STAMP.size, 16 << 20), default=64, metavar="SIZE")
    flood_parser.add_argument("-r", "--rate", type=_rate, default=0.0, metavar="RATE", help="messages a second")
    flood_parser.add_argument("-q", "--quiet", action="store_true", help="only listen")
    flood_parser.add_argument("--safe", action="store_true", help="send with the guarantee SAFE")
    _add_ring_options(flood_parser)
    flood_parser.set_defaults(command=run.measure)


def _add_ring_options(command: argparse.ArgumentParser, *, corosync: bool = True) -> None:
    which = command.add_mutually_exclusive_group()
    which.add_argument(
        "-c",
        "--config",
        type=path,
        metavar="FILE",
        help="be a node of the ring of this configuration, in corosync.conf's format; without -c and --node the ring "
        "is that of this machine's daemon, cpgd",
    )
    which.add_argument(
        "--socket",
        type=path,
        metavar="PATH",
        help=f"the socket of the daemon (default: $CPGD_SOCKET, else {usual_socket('cpgd')})",
    )
    if corosync:
        which.add_argument(
            "--corosync",
            action="store_true",
            help="the ring of the Corosync that runs on this machine, through its libcpg",
        )
    command.add_argument(
        "--node",
        metavar="ID",
        help="the node of the ring to be, by id or name (default: the one whose address is this machine's); without "
        f"-c, of {DEFAULT_CONFIG}",
    )


def _add_alone(command: argparse.ArgumentParser) -> None:
    command.add_argument("--alone", action="store_true", help="do not wait for a majority of the nodelist, or quorum")


def _group_name(text: str) -> bytes:
    """Read the name of a group, which may be any bytes."""
    name = os.fsencode(text)
    if not 1 <= len(name) <= LARGEST_NAME:
        raise argparse.ArgumentTypeError(f"a group name has 1 to {LARGEST_NAME} bytes, this one has {len(name)}")
    return name


def _seconds(text: str) -> float:
    """Read a positive length of time."""
    value = number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0")
    return value


def _rate(text: str) -> float:
    """Read messages a second; 0 is no rate."""
    rate = number(text)
    if not 0 <= rate < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a rate, which is 0 (as fast as it may) or more")
    return rate
