"""The command line: every command's options, help and examples, and the readers of values."""

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
  121    to wait for the lock would be a deadlock
  122    the lock servers are not ready: too few of them are there
  123    refused: nobody holds it, as many wait as may, another number of permits
  124    the time was over (--timeout), the lock is held by others
  125    failed: no daemon, the connection to it was lost, standard input or output
  126    the command is there and cannot be run, or not guarded
  127    there is no such command
  128+N  ended by signal N, cluck or the command
All other codes of run and elect are the command's own."""

LEASE: Final = 15.0
"""Seconds: what `cluck run` asks for where nothing is said. Longer than that of programs, since a machine that is
suspended or overloaded for some seconds should not cost a job its lock."""
GRACE: Final = 5.0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; ends the program where it is wrong. What stands behind `--` is the command to be run."""
    whole = parser()
    if wrong := option_before_command(whole.prog, arguments):
        whole.error(wrong)
    before, behind = list(arguments), []
    if "--" in before:
        place = before.index("--")
        before, behind = before[:place], before[place + 1 :]
    options, unknown = whole.parse_known_args(before)
    options.command_line = behind
    if unknown and options.runs_a_command and not behind and not unknown[0].startswith("-"):
        right = f"cluck {shlex.join(_without(unknown, before))} -- {shlex.join(unknown)}"
        options.parser.error(f"what is to be run stands behind --, cluck's own options before it: {right}")
    if unknown:
        hint = "" if unknown[0].startswith("-") else " (what has blanks in it, as a NAME may, stands in quotes)"
        options.parser.error(f"unrecognized arguments: {shlex.join(unknown)}{hint}")
    if options.runs_a_command and not behind:
        options.parser.error(f"what is to be run is missing: cluck {options.what} NAME -- COMMAND…")
    if behind and not options.runs_a_command:
        options.parser.error(f"cluck {options.what} runs no command: leave out -- and what is behind it")
    return options


def _without(unknown: Sequence[str], before: Sequence[str]) -> list[str]:
    """Return what argparse has understood of a line, in its order, from the words that it has not.

    They are looked for from the end: a NAME may be the same word as the command.
    """
    rest, understood = list(unknown), []
    for word in reversed(before):
        if rest and word == rest[-1]:
            rest.pop()
        else:
            understood.append(word)
    return understood[::-1]


class _Parser(CommandParser):
    """A parser whose exit code for wrong usage is not one that the command to be run is likely to have."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and end."""
        self.print_usage(sys.stderr)
        self.exit(Exit.MISUSED, f"{self.prog}: error: {message}\n")


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    whole = _Parser(
        prog="cluck",
        description="Locks and leaders of the cluster, through this machine's lock server, cluckd.",
        epilog=f"""\
examples:
  cluck run backup -- /usr/local/bin/backup    on one machine of the cluster at a time
  cluck elect scheduler -- scheduler           as long as this machine leads
  cluck list                                   who holds what, and who waits
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
Wait for the lock NAME, run COMMAND while it is held, give it back, and exit as
COMMAND did. The lease is renewed meanwhile. Where the lock is lost, or the
lease ends since the lock servers cannot be reached, COMMAND and all that
descends from it get SIGTERM, and SIGKILL before the grace is over: before that,
nobody else is given the lock (but where an administrator has taken it).

COMMAND has standard input and output as they are, and in its environment
CLUCK_LOCK and CLUCK_TOKEN, the fencing token: a number that is larger for each
later holder. Signals are passed on to all that descends from it; if cluck run
is killed, so is all of it. What COMMAND leaves running has the grace to end,
and is then killed, before the lock is given back. What another daemon starts
for it (docker, systemd-run) is beyond that.""",
        epilog=f"""\
examples:
  cluck run backup -- /usr/local/bin/backup --all
  cluck run backup --timeout 0 -- backup      not at all, if another machine does
  cluck run report --shared -- make report
  cluck run import -- sh -c 'import --fence "$CLUCK_TOKEN"'
  0 3 * * *  root  cluck run nightly --timeout 0 --hold-at-least 120 -- nightly
                                              in each machine's crontab: on one of them

{EXIT_CODES}""",
    )
    _add_name(command)
    _add_wish(command)
    _add_duration(command, LEASE, "the lock kept")
    command.add_argument(
        "--hold-at-least",
        type=seconds(0, LONGEST_LEASE),
        default=0.0,
        metavar="S",
        help="keep the lock for so many seconds from when it was had, also where COMMAND ends before: for a job that "
        "all machines start at one time, by clocks that differ",
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
Stand in the election NAME. While this candidate leads, COMMAND runs, as with
cluck run, with CLUCK_ELECTION and CLUCK_TOKEN in its environment. Where the
leadership is lost, or its lease ends since the lock servers cannot be reached,
COMMAND and all that descends from it is ended (SIGTERM, SIGKILL before the
grace is over), and started again when this candidate leads again. Before that,
nobody else leads. When COMMAND ends by itself, the leadership is given up, and
cluck elect exits as COMMAND did.""",
        epilog=f"""\
examples:
  cluck elect scheduler -- /usr/local/bin/scheduler
  cluck elect web --address 10.0.0.1 --port 8080 -- serve

{EXIT_CODES}""",
    )
    _add_name(command)
    command.add_argument("--address", default="", metavar="TEXT", help="where the leader is found, told to observers")
    command.add_argument("--port", type=integer(0, 65535), default=0, metavar="N", help="the same, its port")
    _add_duration(command, session_elections.LEASE, "the leadership kept")
    _add_grace(command, session_elections.GRACE, "seconds behind the lease, for COMMAND to come to its end")
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
that cannot be one command; those do not learn at once that the lock was lost
(exit code 120), which `cluck run` sees to.""",
        epilog=f"""\
examples:
  coproc lock {{ cluck lock backup; }}             # in bash
  read -r token <&"${{lock[0]}}" || exit             # waits for the lock
  …
  eval "exec ${{lock[1]}}>&-"; wait "$lock_PID"      # gives it back

{EXIT_CODES}""",
    )
    _add_name(command)
    _add_wish(command)
    command.add_argument("--json", action="store_true", help="print the token as JSON")
    command.set_defaults(command=commands.lock, signalled=Exit.DONE)
    return command


def _add_unlock(adder: Any) -> _Parser:
    command: _Parser = adder.add_parser(
        "unlock",
        help="take a lock from its holder, as an administrator",
        description="""\
Take the lock NAME from whoever holds it, or from one holder. The holder is
told; it may go on for a moment (cluck run: for the grace) while the next one
has the lock already, which only a resource that checks fencing tokens is safe
from. For root and the daemon's user; it is recorded in the daemon's log.""",
        epilog=f"""\
examples:
  cluck unlock --force backup
  cluck unlock --force backup --token 4294967301

{EXIT_CODES}""",
    )
    _add_name(command)
    command.add_argument("--force", action="store_true", required=True, help="say that you mean it")
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
until the election NAME has another leader, or none. Print who it is. Locks are
looked at every {commands.LOOK:g} s: one that is had and given back between two looks is
not seen. Leaders are told as they change.""",
        epilog=f"""\
examples:
  cluck wait backup
  while cluck wait web --leader --json; do …; done

{EXIT_CODES}""",
    )
    _add_name(command)
    command.add_argument("--change", action="store_true", help="which is what is waited for anyway")
    command.add_argument("--leader", action="store_true", help="NAME is an election")
    command.add_argument("--timeout", type=seconds(0), metavar="S", help="wait no longer (default: for ever)")
    command.add_argument("--json", action="store_true", help="print a JSON object")
    command.set_defaults(command=commands.wait)
    return command


def _add_list(adder: Any) -> _Parser:
    command: _Parser = adder.add_parser(
        "list",
        help="print who holds which lock, and who waits",
        description="""\
Print all locks that are held or waited for: the holders, with token and rest
of the lease, and who waits. Exit code 122 where this lock server does not
decide: then it shows what it knew last.""",
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
Print whether the lock servers are ready, and if not, why; which are there, and
which are missing. Exit code 122 where they are not ready.""",
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
        help="print which lock servers decide, or change that",
        description="""\
Print which lock servers decide, and how many votes each has; or have one more,
or one less, or one with other votes. Where a cluster begins they are those of
the configuration; from then on this is the way to change them, whatever files
say. Add a node when its lock server runs, remove it before it goes for good.
A majority of the former and one of the new voters must be there; nobody loses
a lock by it. To change it is for root and the daemon's user.""",
        epilog="""\
examples:
  cluck voters
  cluck voters add 4
  cluck voters add 4 --votes 2
  cluck voters remove 1""",
    )
    command.add_argument("change", choices=("add", "remove"), nargs="?", help="what to change; nothing: print")
    command.add_argument("node", type=integer(0, (1 << 32) - 1), nargs="?", metavar="NODE", help="the node's id")
    command.add_argument("--votes", type=integer(0, MOST_VOTES), default=1, metavar="N", help="its votes (default 1)")
    command.add_argument("--json", action="store_true", help="print a JSON object")
    command.set_defaults(command=commands.voters)
    return command


def _add_tie_breaker(adder: Any) -> _Parser:
    command: _Parser = adder.add_parser(
        "tie-breaker",
        help="have an exact half of the votes be enough, with one node",
        description="""\
Have an exact half of the votes be enough where it is that of NODE; where it is
any, which is unsafe: two halves may both grant a lock; or none. It is for root
and the daemon's user.""",
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
Print the leaders of the lock service itself (the first proposes that leases
end, the others stand by), and who leads in each election, with its candidates.""",
        epilog="examples:\n  cluck leaders\n  cluck leaders --json | jq .elections",
    )
    command.add_argument("--json", action="store_true", help="print a JSON object")
    command.set_defaults(command=commands.leaders)
    return command


def _add_info(adder: Any) -> _Parser:
    command: _Parser = adder.add_parser(
        "info",
        help="print all that the lock server knows, as JSON",
        description="Print status, locks, leaders, elections and conditions as one JSON object.",
        epilog="examples:\n  cluck info | jq .status\n  cluck info > report.json",
    )
    command.add_argument("--json", action="store_true", help="which it is anyway")
    command.set_defaults(command=commands.info)
    return command


def _add_name(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", type=_name, metavar="NAME", help=f"1 to {LARGEST_NAME} bytes")


def _add_socket(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--socket",
        type=path,
        metavar="PATH",
        help=f"the lock server that listens there (default: $CLUCKD_SOCKET, else {usual_socket('cluckd')})",
    )


def _add_wish(command: argparse.ArgumentParser) -> None:
    command.add_argument("--shared", action="store_true", help="share it with others that say so")
    command.add_argument(
        "--timeout",
        type=seconds(0),
        metavar="S",
        help="wait so many seconds for the lock, 0: not at all (default: for ever)",
    )
    _add_grace(command, GRACE, "seconds behind the lease, for what is done under the lock to come to its end")


def _add_duration(command: argparse.ArgumentParser, default: float, kept: str) -> None:
    command.add_argument(
        "--duration",
        type=seconds(1, LONGEST_LEASE),
        default=default,
        metavar="S",
        help=f"seconds of the lease: so long is {kept} for this process after the last renewal; several come in that "
        f"time (default {default:g})",
    )


def _add_grace(command: argparse.ArgumentParser, default: float, text: str) -> None:
    command.add_argument(
        "--grace", type=seconds(0, LONGEST_LEASE), default=default, metavar="S", help=f"{text} (default {default:g})"
    )


def _add_leave_daemons(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--leave-daemons",
        action="store_true",
        help="let go what begins a session of its own (setsid, daemons): it is neither ended nor waited for",
    )


def _name(text: str) -> bytes:
    """Read a name, which may be any bytes."""
    name = os.fsencode(text)
    if not 1 <= len(name) <= LARGEST_NAME:
        raise argparse.ArgumentTypeError(f"a name has 1 to {LARGEST_NAME} bytes, this one has {len(name)}")
    return name


def _half(text: str) -> int | str:
    """Read with whom an exact half is enough."""
    return text if text in ("none", "any") else integer(0, (1 << 32) - 1)(text)
