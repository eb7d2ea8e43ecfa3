"""From the command line to an exit code, with errors in one line for people."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

import trio

from cluck.cli.arguments import parse
from cluck.cli.exit_codes import CommandFailed, Exit
from cluck.errors import (
    ConnectionLost,
    DaemonUnavailable,
    DeadlockError,
    LockError,
    LockLost,
    LockTimeout,
    NotReady,
    OutcomeUnknown,
)
from cpg.local.program import run_command, run_until_signal
from totem.errors import TotemError
from totem.store import words
from totem.streams import complain, standard_streams


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    with standard_streams("cluck", Exit.FAILED):
        options = parse(sys.argv[1:] if arguments is None else arguments)
        logging.basicConfig(format="cluck: %(message)s", level=logging.WARNING)
        run = run_command if options.runs_a_command else run_until_signal  # `cluck run` has its own use for signals
        return trio.run(run, options, _explain)


def _explain(error: BaseException) -> Exit:
    """Report the error in one line; return the exit code. Raises what is a bug."""
    match error:
        case BrokenPipeError():
            return Exit.DONE  # the reader of the output has seen enough
        case CommandFailed():
            code = error.code
        case LockLost():
            code = Exit.LOST
        case NotReady():
            code = Exit.NOT_READY
        case LockTimeout():
            code = Exit.TIMEOUT
        case DeadlockError():
            code = Exit.DEADLOCK
        case OutcomeUnknown() | DaemonUnavailable() | ConnectionLost():
            code = Exit.FAILED
        case LockError():
            code = Exit.REFUSED
        case TotemError() | OSError():
            code = Exit.FAILED
        case _:
            raise error
    hint = "; see cluck status" if isinstance(error, NotReady) else ""
    complain("cluck", (words(error) if isinstance(error, OSError) else str(error)) + hint)
    return code
