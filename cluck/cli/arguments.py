"""The command line of `cluck`: the options, help and examples of every command, and readers of values."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from cluck.cli import commands, run_command
from cluck.cli.exit_codes import Exit
from cluck.client import session_elections
from cluck.commands import LARGEST_NAME, LONGEST_LEASE
from cpg.local.client_socket import usual_socket
from cpg.local.command_line import CommandParser, integer, option_before_command, path, seconds
from cpg.local.program import own_version
from cpg.replication.electorate import MOST_VOTES

EXIT_CODES: Final = """\
exit codes:
  0      done
  119    wrong usage
  120    the lock was lost; the command was ended
  121    waiting for the lock would be a deadlock
  122    the lock servers are not ready: too few of them are present
  123    refused: no holder, too many waiters, or another number of permits
  124    others held the lock for the whole --timeout
  125    failed: no daemon, the connection to it was lost, standard input or output
  126    the command exists and cannot be run, or cannot be supervised
  127    there is no such command
  128+N  cluck or the command was ended by signal N
All other exit codes of run and elect are those of the command."""

LEASE: Final = 15.0
"""The default lease of `cluck run` in seconds. It is longer than that of programs, so that a job does not lose its lock
while its machine is suspended or overloaded for some seconds."""
GRACE: Final = 5.0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; end the program if it is wrong. The words after `--` are the command to be run."""
    whole = parser()
    if wrong := option_before_command(whole.prog, arguments):
        whole.error(wrong)
    before, after = list(arguments), []
    if "--" in before:
        place = before.index("--")
        before, after = before[:place], before[place + 1 :]
    options, unknown = whole.parse_known_args(before)
    options.command_line = after
    if unknown and options.runs_a_command and not after and not unknown[0].startswith("-"):
        right = f"cluck {shlex.join(_without(unknown, before))} -- {shlex.join(unknown)}"
        options.parser.error(f"the command to be run stands after --, cluck's own options before it: {right}")
    if unknown:
        hint = "" if unknown[0].startswith("-") else " (a NAME that contains blanks must be quoted)"
        options.parser.error(f"unrecognized arguments: {shlex.join(unknown)}{hint}")
    if options.runs_a_command and not after:
        options.parser.error(f"the command to be run is missing: cluck {options.what} NAME -- COMMAND…")
    if after and not options.runs_a_command:
        options.parser.error(f"cluck {options.what} runs no command: leave out -- and the words after it")
    return options


def _without(unknown: Sequence[str], before: Sequence[str]) -> list[str]:
    """Return the words of a line that argparse has recognized, in their order.

    The search for the unknown words begins at the end, because a NAME may be the same word as the command.
    """
    rest, recognized = list(unknown), []
    for word in reversed(before):
        if rest and word == rest[-1]:
            rest.pop()
        else:
            recognized.append(word)
    return recognized[::-1]


class _Parser(CommandParser):
    """A parser whose exit code for wrong usage is not one that the command to be run is likely to have."""

    def error(self, message: str) -> NoReturn:
        """Print the error and exit."""
        self.print_usage(sys.stderr)
        self.exit(Exit.MISUSED, f"{self.prog}: error: {message}\n")


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    whole = _Parser(
        prog="cluck",
        description="Locks and leader election for the cluster, through this machine's lock server, cluckd.",
        epilog=f"""\
examples:
  cluck run backup -- /usr/local/bin/backup    on one machine of the cluster at a time
  cluck elect scheduler -- scheduler           while this machine leads
  cluck list                                   the holders and waiters of all locks
  cluck status                                 whether locks are granted, and why not
  cluck COMMAND --help                         more on one command

{EXIT_CODES}""",
    )
    whole.add_argument("--version", action="version", version=f"cluck {own_version()}")
    whole.set_defaults(signalled=None, runs_a_command=False)
    adder = whole.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser, dest="what")
    for add in (
        _add_run,
        _add_elect,
        _add_lock,
        _add_unlock,
        _add_wait,
        _add_list,
        _add_status,
        _add_voters,
        _add_tie_breaker,
        _add_leaders,
        _add_info,
    ):
        command = add(adder)
        _add_socket(command)
        command.set_defaults(parser=command)
    return whole


def _add_run(adder: Any) -> _Parser:
    command: _Parser = adder.add_parser(
        "run",
        usage="cluck run NAME [options] -- COMMAND [ARGUMENT…]",
        help="run a command while a lock is held",
        description="""\
Wait for the lock NAME, run COMMAND while holding it, release it, and exit with
COMMAND's exit code. The lease is renewed meanwhile. If the lock is lost, or the
lease ends because the lock servers cannot be reached, COMMAND and all its
descendants get SIGTERM, and SIGKILL before the grace is over. Until then nobody
else gets the lock, unless an administrator has taken it.

COMMAND inherits standard input and output. Its environment has CLUCK_LOCK and
CLUCK_TOKEN, the fencing token: a number that grows with each holder. Signals
are forwarded to COMMAND and all its descendants. If cluck run is killed, all of
them are killed too. Processes that outlive COMMAND get the grace to end, and
are then killed, before the lock is released. Processes that another daemon
starts for COMMAND (docker, systemd-run) are out of reach.""",
        epilog=f"""\
examples:
  cluck run backup -- /usr/local/bin/backup --all
  cluck run backup --timeout 0 -- backup      unless another machine runs it now
  cluck run report --shared -- make report
  cluck run import -- sh -c 'import --fence "$CLUCK_TOKEN"'
  0 3 * * *  root  cluck run nightly --timeout 0 --hold-at-least 120 -- nightly
                                              in every crontab, to run on one machine

{EXIT_CODES}""",
    )
    _add_name(command)
    _add_lock_options(command)
    _add_duration(command, LEASE, "the lock")
    command.add_argument(
        "--hold-at-least",
        type=seconds(0, LONGEST_LEASE),
        default=0.0,
        metavar="S",
        help="keep the lock for S seconds from the grant, even if COMMAND ends before: for a job that all machines "
        "start at the same time, by clocks that differ",
    )
    _add_leave_daemons(command)
    command.set_defaults(command=run_command.run, runs_a_command=True)
    return command


def _add_elect(adder: Any) -> _Parser:
    command: _Parser = adder.add_parser(
        "elect",
        usage="cluck elect NAME [options] -- COMMAND [ARGUMENT…]",
        help="run a command while this candidate leads",
        description="""\
Be a candidate in the election NAME. While this candidate leads, COMMAND runs as
with cluck run, with CLUCK_ELECTION and CLUCK_TOKEN in its environment. If the
leadership is lost, or its lease ends because the lock servers cannot be
reached, COMMAND and all its descendants are ended (SIGTERM, then SIGKILL before
the grace is over). Until then nobody else leads. COMMAND is started again when
this candidate leads again. When COMMAND ends by itself, this candidate resigns,
and cluck elect exits with COMMAND's exit code.""",
        epilog=f"""\
examples:
  cluck elect scheduler -- /usr/local/bin/scheduler
  cluck elect web --address 10.0.0.1 --port 8080 -- serve

{EXIT_CODES}""",
    )
    _add_name(command)
    command.add_argument("--address", default="", metavar="TEXT", help="the leader's address, for observers")
    command.add_argument("--port", type=integer(0, 65535), default=0, metavar="N", help="its port, for observers")
    _add_duration(command, session_elections.LEASE, "the leadership")
    _add_grace(command, session_elections.GRACE, "seconds after the lease in which COMMAND can end")
    _add_leave_daemons(command)
    command.set_defaults(command=run_command.elect, runs_a_command=True)
    return command


def _add_lock(adder: Any) -> _Parser:
    command: _Parser = adder.add_parser(
        "lock",
        help="hold a lock until standard input ends",
        description="""\
Wait for the lock NAME, print its fencing token, and hold it until standard
input ends, or SIGTERM or SIGINT comes (exit code 0). It is for shell scripts
that cannot be a single command. Such a script does not learn at once that the
lock was lost (exit code 120); cluck run ends its command then.""",
        epilog=f"""\
examples:
  coproc lock {{ cluck lock backup; }}             # in bash
  read -r token <&"${{lock[0]}}" || exit             # waits for the lock
  …
  eval "exec ${{lock[1]}}>&-"; wait "$lock_PID"      # releases it

{EXIT_CODES}""",
    )
    _add_name(command)
    _add_lock_options(command)
    command.add_argument("--json", action="store_true", help="print the token as JSON")
    command.set_defaults(command=commands.lock, signalled=Exit.DONE)
    return command


def _add_unlock(adder: Any) -> _Parser:
    command: _Parser = adder.add_parser(
        "unlock",
        help="take a lock from its holder, as an administrator",
        description="""\
Take the lock NAME from all its holders, or from one. The holder is notified. It
may continue for a moment (cluck run: for the grace) while the next holder
already has the lock. Only a resource that checks fencing tokens is safe from
that. Only root and the daemon's user may do it. The daemon logs it.""",
        epilog=f"""\
examples:
  cluck unlock --force backup
  cluck unlock --force backup --token 4294967301

{EXIT_CODES}""",
    )
    _add_name(command)
    command.add_argument("--force", action="store_true", required=True, help="required, as a confirmation")
    command.add_argument("--token", type=integer(1, (1 << 63) - 1), metavar="N", help="only from this holder")
    command.add_argument("--json", action="store_true", help="print JSON, one object for each holder")
    command.set_defaults(command=commands.unlock)
    return command


def _add_wait(adder: Any) -> _Parser:
    command: _Parser = adder.add_parser(
        "wait",
        help="wait until a lock or a leadership changes hands",
        description=f"""\
Wait until the lock NAME has other holders than now, or none; with --leader,
until the election NAME has another leader, or none. Print the new state. Locks
are queried every {commands.POLL_INTERVAL:g} s: a lock that is granted and released between two
queries is missed. Changes of leaders are all seen.""",
        epilog=f"""\
examples:
  cluck wait backup
  while cluck wait web --leader --json; do …; done

{EXIT_CODES}""",
    )
    _add_name(command)
    command.add_argument("--change", action="store_true", help="accepted and without effect: it is the default")
    command.add_argument("--leader", action="store_true", help="NAME is an election")
    command.add_argument("--timeout", type=seconds(0), metavar="S", help="seconds to wait (default: no limit)")
    command.add_argument("--json", action="store_true", help="print a JSON object")
    command.set_defaults(command=commands.wait)
    return command


def _add_list(adder: Any) -> _Parser:
    command: _Parser = adder.add_parser(
        "list",
        help="print the holders and waiters of locks",
        description="""\
Print all locks that have holders or waiters: the holders, with token and rest
of the lease, and the waiters. The exit code is 122 if this lock server does not
decide; it then shows the last state that it knew.""",
        epilog="""\
with --json one object a line for each lock:
  {"name": "backup", "permits": 0, "holders": [{"node": 1, "client": 3,
   "task": 1, "mode": "exclusive", "token": 4294967297, "left": 11.2, …}],
   "waiting": [{"node": 2, "client": 1, "task": 1, "mode": "exclusive"}]}

examples:
  cluck list
  cluck list backup
  cluck list --json | jq -r 'select(.waiting | length > 5) | .name'""",
    )
    command.add_argument("name", type=_name, nargs="?", metavar="NAME", help="only this lock")
    command.add_argument("--json", action="store_true", help="print JSON, one object a line")
    command.set_defaults(command=commands.list_locks)
    return command


def _add_status(adder: Any) -> _Parser:
    command: _Parser = adder.add_parser(
        "status",
        help="print whether locks are granted, and if not, why",
        description="""\
Print whether the lock servers are ready, and if not, why; which are present,
and which are missing. The exit code is 122 if they are not ready.""",
        epilog="""\
examples:
  cluck status
  cluck status --json | jq .missing
  cluck status || mail -s "no locks" root""",
    )
    command.add_argument("--json", action="store_true", help="print a JSON object")
    command.set_defaults(command=commands.status)
    return command


def _add_voters(adder: Any) -> _Parser:
    command: _Parser = adder.add_parser(
        "voters",
        usage="cluck voters [add NODE [--votes N] | remove NODE] [options]",
        help="print or change the lock servers that decide",
        description="""\
Print the lock servers that decide, with the number of their votes; or add one,
remove one, or change its votes. When a cluster begins, the configuration names
them. From then on only this command changes them, whatever the files contain.
Add a node when its lock server runs. Remove a node before it goes for good. A
majority of the former voters and one of the new voters must be present. Nobody
loses a lock. Only root and the daemon's user may change the voters.""",
        epilog="""\
examples:
  cluck voters
  cluck voters add 4
  cluck voters add 4 --votes 2
  cluck voters remove 1""",
    )
    command.add_argument("change", choices=("add", "remove"), nargs="?", help="what to do (default: print the voters)")
    command.add_argument("node", type=integer(0, (1 << 32) - 1), nargs="?", metavar="NODE", help="the node's id")
    command.add_argument("--votes", type=integer(0, MOST_VOTES), default=1, metavar="N", help="its votes (default 1)")
    command.add_argument("--json", action="store_true", help="print a JSON object")
    command.set_defaults(command=commands.voters)
    return command


def _add_tie_breaker(adder: Any) -> _Parser:
    command: _Parser = adder.add_parser(
        "tie-breaker",
        help="let an exact half of the votes decide, with one node",
        description="""\
Let an exact half of the votes decide: the half with NODE; or none. With any,
every half decides, which is unsafe: two halves may both grant a lock. Only root
and the daemon's user may change it.""",
        epilog="examples:\n  cluck tie-breaker 1\n  cluck tie-breaker none",
    )
    command.add_argument("half", type=_half, metavar="NODE|none|any", help="the node's id, none, or any")
    command.add_argument("--json", action="store_true", help="print a JSON object")
    command.set_defaults(command=commands.tie_breaker)
    return command


def _add_leaders(adder: Any) -> _Parser:
    command: _Parser = adder.add_parser(
        "leaders",
        help="print the leaders of the lock service, and of elections",
        description="""\
Print the leaders of the lock service itself (the first proposes the end of
leases, the others stand by), and the leader and candidates of each election.""",
        epilog="examples:\n  cluck leaders\n  cluck leaders --json | jq .elections",
    )
    command.add_argument("--json", action="store_true", help="print a JSON object")
    command.set_defaults(command=commands.leaders)
    return command


def _add_info(adder: Any) -> _Parser:
    command: _Parser = adder.add_parser(
        "info",
        help="print everything that the lock server knows, as JSON",
        description="Print status, locks, leaders, elections and conditions as one JSON object.",
        epilog="examples:\n  cluck info | jq .status\n  cluck info > report.json",
    )
    command.add_argument("--json", action="store_true", help="accepted and without effect: it is the default")
    command.set_defaults(command=commands.info)
    return command


def _add_name(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", type=_name, metavar="NAME", help=f"1 to {LARGEST_NAME} bytes")


def _add_socket(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--socket",
        type=path,
        metavar="PATH",
        help=f"the socket of the lock server (default: $CLUCKD_SOCKET, else {usual_socket('cluckd')})",
    )


def _add_lock_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--shared", action="store_true", help="share the lock with others that use --shared")
    command.add_argument(
        "--timeout",
        type=seconds(0),
        metavar="S",
        help="wait at most S seconds for the lock; 0: do not wait (default: no limit)",
    )
    _add_grace(command, GRACE, "seconds after the lease in which work under the lock can end")


def _add_duration(command: argparse.ArgumentParser, default: float, what: str) -> None:
    command.add_argument(
        "--duration",
        type=seconds(1, LONGEST_LEASE),
        default=default,
        metavar="S",
        help=f"the lease: for S seconds after the last renewal {what} is kept for this process; it is renewed several "
        f"times meanwhile (default {default:g})",
    )


def _add_grace(command: argparse.ArgumentParser, default: float, text: str) -> None:
    command.add_argument(
        "--grace", type=seconds(0, LONGEST_LEASE), default=default, metavar="S", help=f"{text} (default {default:g})"
    )


def _add_leave_daemons(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--leave-daemons",
        action="store_true",
        help="leave alone processes that begin a session of their own (setsid, daemons): neither end them nor wait",
    )


def _name(text: str) -> bytes:
    """Read a name, which may be any bytes."""
    name = os.fsencode(text)
    if not 1 <= len(name) <= LARGEST_NAME:
        raise argparse.ArgumentTypeError(f"a name has 1 to {LARGEST_NAME} bytes, this one has {len(name)}")
    return name


def _half(text: str) -> int | str:
    """Read the half of the votes that decides."""
    return text if text in ("none", "any") else integer(0, (1 << 32) - 1)(text)
