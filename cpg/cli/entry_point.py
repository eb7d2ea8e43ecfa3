"""From the command line to an exit code: signals, and errors as text for people."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from functools import partial

import trio

from cpg.cli.arguments import parser
from cpg.cli.demo import DemoFailed
from cpg.cli.flood import MembersMissing
from cpg.cli.rings import check
from cpg.local.command_line import option_before_command
from cpg.local.program import DONE, FAILED, MISUSED, run_until_signal
from totem.errors import ConfigError, TotemError
from totem.store import words
from totem.streams import StreamFailed, complain, give_up, standard_streams


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    with standard_streams("cpg", FAILED):
        whole = parser()
        said = sys.argv[1:] if arguments is None else arguments
        if wrong := option_before_command(whole.prog, said):
            whole.error(wrong)
        options = whole.parse_args(said)
        if wrong := check(options):
            whole.error(wrong)
        logging.basicConfig(format="cpg: %(message)s", level=logging.WARNING)
        return trio.run(run_until_signal, options, partial(_explain, options))


def _explain(options: argparse.Namespace, error: BaseException) -> int:
    """Print in one line what went wrong; return the exit code. Raises what is a bug."""
    code, hint = FAILED, ""
    match error:
        case BrokenPipeError():
            return DONE  # the reader of our output has ended
        case ConfigError():
            code, text = MISUSED, str(error)
            hint = " (--node)" if error.setting == "node" else ""
        case TotemError() | MembersMissing() | DemoFailed():
            text = str(error)
        case StreamFailed():
            give_up("stdout")  # buffered output would fail once more
            text = words(error)
        case OSError():
            text = words(error)
            if error.filename is not None and error.filename == options.config:
                code, hint = MISUSED, " (-c names the ring's configuration file)"
        case _:
            raise error
    complain("cpg", text + hint)
    return code
