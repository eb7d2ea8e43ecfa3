"""What the daemons have in common: a life from start to signal, the service manager, errors as exit codes."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

import trio

from cpg.local.log import start_logging
from cpg.local.program import FAILED, MISUSED, sole
from cpg.local.scheduling import Scheduler
from totem.config import Logging
from totem.errors import ConfigError, TotemError
from totem.store import words
from totem.streams import standard_streams

_log = logging.getLogger(__name__)

_STAYS_WRONG: Final = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EACCES,
    errno.EPERM,
    errno.ELOOP,
    errno.ENAMETOOLONG,
}
"""Errors of a file that does not exist, at least not for this user."""

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

NOT_RELOADED: Final = "not reloaded, the former configuration stays in force: %s"
DESCRIPTORS_FOR_OTHERS: Final = 128
"""Descriptors that no client gets."""
EXIT_CODES: Final = """\
exit codes:
  0  ended by SIGTERM or SIGINT, in order
  1  failed: the ring was lost, or a socket or the disk cannot be had
  2  wrong usage, or a configuration that cannot be used
"""


class Life:
    """A daemon's life, from start to signal: a start is cancelled, a running daemon ends in order."""

    def __init__(self) -> None:
        self.starting = trio.CancelScope()
        """The start, which a signal cancels."""
        self._has_started = False
        self._end = trio.Event()

    @property
    def is_over(self) -> bool:
        """Whether a signal has come: nothing may start any more."""
        return self._end.is_set()

    async def lived(self) -> None:
        """Wait for the end."""
        self._has_started = True
        try:
            await self._end.wait()
        except BaseException:  # something else has ended it, and it may start again
            self._has_started = False
            raise

    def end(self) -> None:
        """End the daemon."""
        self._end.set()
        if not self._has_started:
            self.starting.cancel()


def run_daemon(
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], Awaitable[int]],
    arguments: Sequence[str] | None,
) -> int:
    """Run a daemon from its command line to its end; return its exit code."""
    with standard_streams(parser.prog, FAILED):
        options = parser.parse_args(arguments)
        logging.basicConfig(format=f"{parser.prog}: %(message)s", level=logging.INFO)
        try:
            return trio.run(run, options)
        except Exception as error:
            return explain(error, options.config)


def prepare_process(program: str, settings: Logging) -> None:
    """Start the log, raise the limit of descriptors, and set the umask."""
    start_logging(program, settings)
    _raise_file_limit()
    _guard_files()


async def live(
    scheduler: Scheduler, reload: Callable[[], Awaitable[None]], body: Callable[[Life], Awaitable[None]]
) -> None:
    """Run the body of a daemon, beside what watches its scheduling and its signals."""
    scheduler.begin()
    life = Life()
    with trio.open_signal_receiver(*_SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scheduler.watch)
            nursery.start_soon(_follow_signals, signals, life, reload)
            await body(life)
            nursery.cancel_scope.cancel()


async def reload_settings(read: Callable[[], Awaitable[str]]) -> None:
    """Reload settings; where they cannot be used, log why and keep the former ones.

    Args:
        read: Reads the settings and applies them; returns what was reloaded, for the log.
    """
    try:
        what = await read()
    except (ConfigError, OSError) as error:
        _log.error(NOT_RELOADED, words(error) if isinstance(error, OSError) else error)
        return
    _log.info("reloaded: %s", what)


async def _follow_signals(signals: AsyncIterator[int], life: Life, reload: Callable[[], Awaitable[None]]) -> None:
    """Reload for SIGHUP, and end the daemon for all other signals."""
    async for number in signals:
        if number == signal.SIGHUP:
            notify("RELOADING=1")
            await reload()
            notify("READY=1")
        else:
            life.end()


def explain(error: BaseException, config: str | None) -> int:
    """Log the error in one line; return the exit code. `config`: the path of the configuration.

    Service managers restart a daemon that has failed, but not one whose configuration cannot be used. So the second
    code is only for errors that stay until somebody corrects them. Raises what is a bug.
    """
    error = sole(error)
    code = FAILED
    match error:
        case ConfigError():
            code, text = MISUSED, str(error)
        case TotemError():
            text = str(error)
        case OSError():
            text = words(error)
            if error.filename is not None and error.filename == config and error.errno in _STAYS_WRONG:
                code = MISUSED
        case _:
            raise error
    _log.error("%s", text)
    return code


def _guard_files() -> None:
    """Set the umask so that no other user can write a file of this daemon, whatever it was started with."""
    os.umask(os.umask(0o077) | 0o022)


def _raise_file_limit() -> None:
    """Raise the limit of descriptors as far as the system allows: each client takes one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def descriptors_for_clients() -> int:
    """Return the number of descriptors for all clients; the others are for the ring, its files and the log."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(0, descriptors - DESCRIPTORS_FOR_OTHERS)


def notify(*words: str) -> None:
    """Notify the service manager, if there is one that listens (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto("\n".join(words).encode(), "\0" + address[1:] if address[0] == "@" else address)
        except OSError as error:
            _log.warning("the service manager's socket %s cannot be reached: %s", address, error.strerror)
