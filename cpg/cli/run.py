"""From the command line to an exit code: signals, and errors as people read them."""

from __future__ import annotations

import argparse
import logging
import signal
from collections.abc import Awaitable, Callable, Sequence

import trio

from cpg.cli.arguments import parser
from cpg.cli.common import DONE, FAILED, MISUSED, SIGNALLED
from cpg.cli.rings import check
from cpg.demo import DemoFailed
from cpg.flood import NoCompany
from totem.errors import ConfigError, TotemError
from totem.store import words
from totem.streams import complain, standard_streams


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    with standard_streams("cpg", FAILED):
        whole = parser()
        options = whole.parse_args(arguments)
        if wrong := check(options):
            whole.error(wrong)
        logging.basicConfig(format="cpg: %(message)s", level=logging.WARNING)
        return trio.run(until_signal, options, _report_errors)


async def until_signal(options: argparse.Namespace, command: Callable[[argparse.Namespace], Awaitable[int]]) -> int:
    """Run a command, and cancel it when a signal comes; `options.signalled` is the exit code then, if it is one."""
    code = DONE
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                nonlocal code
                async for number in signals:
                    code = options.signalled if options.signalled is not None else SIGNALLED + number
                    nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            code = await command(options)
            nursery.cancel_scope.cancel()
    return code


async def _report_errors(options: argparse.Namespace) -> int:
    try:
        code: int = await options.command(options)
    except BrokenPipeError:
        return DONE  # who read our output has seen enough
    except ConfigError as error:
        hint = " (--node)" if error.setting == "node" else ""
        return _complain(f"{error}{hint}", MISUSED)
    except (TotemError, NoCompany, DemoFailed) as error:
        return _complain(str(error), FAILED)
    except OSError as error:
        is_config = error.filename is not None and error.filename == options.config
        hint = " (-c names the ring's configuration file)" if is_config else ""
        return _complain(f"{words(error)}{hint}", MISUSED if hint else FAILED)
    return code


def _complain(text: str, code: int) -> int:
    complain("cpg", text)
    return code
