"""The command `cpgd`: one node of the ring, for all programs of its machine.

It runs in the foreground, as service managers want it: SIGTERM and SIGINT end it in order (clients are told, the leave
is announced), SIGHUP reads again what can be read again: who may connect, and how much is logged.
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from logging.handlers import SysLogHandler
from pathlib import Path
from typing import Final

import trio

from cpg import libqb
from cpg.cli import DEFAULT_CONFIG, DONE, FAILED, MISUSED, own_version
from cpg.connect import default_socket
from cpg.daemon.access import Access
from cpg.daemon.hub import Hub
from cpg.daemon.server import ServedRing, listening, serve
from cpg.daemon.status import answers
from cpg.embedded import prepare_ring
from cpg.lines import nodes
from totem.config import Config
from totem.corosync_conf import load
from totem.errors import ConfigError, TotemError

_log = logging.getLogger(__name__)

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

EXIT_CODES: Final = """\
exit codes:
  0  ended by SIGTERM or SIGINT, in order
  1  failed: the ring was lost, or an address or a socket cannot be had
  2  wrong usage, or a configuration that cannot be used
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon; return its exit code."""
    options = parser().parse_args(arguments)
    logging.basicConfig(format="cpgd: %(message)s", level=logging.INFO)
    try:
        return trio.run(_run, options)
    except Exception as error:
        return _explain(error, options)


def _explain(error: Exception, options: argparse.Namespace) -> int:
    """Say in one line what went wrong; return the exit code."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    code = FAILED
    match error:
        case ConfigError() | ValueError():
            code, text = MISUSED, str(error)
        case TotemError():
            text = str(error)
        case OSError():
            text = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
            code = MISUSED if error.filename == options.config else FAILED
        case _:
            raise error
    _log.error("%s", text)
    return code


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    whole = argparse.ArgumentParser(
        prog="cpgd",
        description="Run a node of a ring for the programs of this machine, until SIGTERM.",
        epilog=f"examples:\n  cpgd\n  cpgd -c ring.conf --node 2 --socket /tmp/node2\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument(
        "-c",
        "--config",
        default=DEFAULT_CONFIG,
        metavar="FILE",
        help=f"the ring's configuration, in corosync.conf's format (default {DEFAULT_CONFIG})",
    )
    whole.add_argument(
        "--node", metavar="ID", help="which node of it to be (default: the one whose address is this machine's)"
    )
    whole.add_argument(
        "--socket", metavar="PATH", help=f"where programs connect (default: as configured, or {default_socket()})"
    )
    whole.add_argument("--version", action="version", version=f"cpgd {own_version()}")
    return whole


async def _run(options: argparse.Namespace) -> int:
    config, warnings = load(options.config)
    _start_logging(config)
    for warning in warnings:
        _log.warning("%s", warning)
    _raise_file_limit()
    path = Path(options.socket or config.daemon.socket or default_socket())
    access = Access(config.user_rules)
    life = _Life()
    with trio.open_signal_receiver(*SIGNALS) as signals, listening(path) as listener:
        ring = prepare_ring(ServedRing, config, options.node)
        async with trio.open_nursery() as watchers:
            watchers.start_soon(_follow_signals, signals, life, lambda: _reload(options.config, access))
            with life.starting:
                await _serve(ring, listener, access, life)
            watchers.cancel_scope.cancel()
    _log.info("node %d has left", ring.node_id)
    return DONE


async def _serve(ring: ServedRing, listener: socket.socket, access: Access, life: _Life) -> None:
    hub = Hub(ring, client_limit=ring.config.daemon.client_queue)
    hub.answers = answers(ring, hub)
    async with serve(listener, ring, hub, access.allows), trio.open_nursery() as nursery:
        await _serve_libqb(ring, access, nursery)
        path = listener.getsockname()
        _log.info("node %d serves programs at %s; the ring has %s", ring.node_id, path, nodes(ring.node_ids))
        _notify("READY=1", f"STATUS=node {ring.node_id} serves {path}")
        await life.lived()
        _notify("STOPPING=1")
        nursery.cancel_scope.cancel()


async def _serve_libqb(ring: ServedRing, access: Access, nursery: trio.Nursery) -> None:
    """Answer programs that use libcpg, if that is wanted, or nothing was said and nobody else does."""
    wanted = ring.config.daemon.libqb
    if wanted is False:
        return
    try:
        await nursery.start(partial(libqb.serve, ring, may_connect=access.allows))
    except OSError as error:
        if wanted:
            raise
        _log.warning(
            "programs that use libcpg are not served: %s (`libqb: no` in section cpgd says so)", error.strerror
        )


class _Life:
    """From the start to the signal that ends it: a start is broken off, what has started ends in order."""

    def __init__(self) -> None:
        self.starting = trio.CancelScope()
        self._has_started = False
        self._end = trio.Event()

    async def lived(self) -> None:
        """Wait for the end."""
        self._has_started = True
        await self._end.wait()

    def end(self) -> None:
        """End it."""
        self._end.set()
        if not self._has_started:
            self.starting.cancel()


async def _follow_signals(signals: AsyncIterator[int], life: _Life, reload: Callable[[], None]) -> None:
    async for number in signals:
        if number == signal.SIGHUP:
            _notify("RELOADING=1")
            reload()
            _notify("READY=1")
        else:
            life.end()


def _reload(path: str, access: Access) -> None:
    try:
        config, _ = load(path)
    except (ConfigError, OSError) as error:
        _log.error("not reloaded, the former configuration stays in force: %s", error)
        return
    access.rules = config.user_rules
    _set_level(config)
    _log.info("reloaded: who may connect, and what is logged; all else needs a restart")


# ---- surroundings


def _start_logging(config: Config) -> None:
    """Log where the configuration says; where a service manager reads standard error, it adds the time."""
    settings = config.logging
    handlers: list[logging.Handler] = []
    if settings.to_stderr:
        handlers.append(logging.StreamHandler(sys.stderr))
    if settings.to_logfile and settings.logfile:
        handlers.append(logging.FileHandler(settings.logfile))
    if settings.to_syslog and Path("/dev/log").exists() and "JOURNAL_STREAM" not in os.environ:
        handlers.append(SysLogHandler("/dev/log", settings.syslog_facility))
    stamp = "" if "JOURNAL_STREAM" in os.environ or settings.timestamp == "off" else "%(asctime)s "
    logging.basicConfig(format=f"{stamp}%(levelname)s cpgd: %(message)s", handlers=handlers, force=True)
    _set_level(config)


def _set_level(config: Config) -> None:
    logging.getLogger().setLevel(logging.DEBUG if config.logging.debug != "off" else logging.INFO)


def _raise_file_limit() -> None:
    """Each client takes a descriptor: have as many as the system lets this process have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _notify(*words: str) -> None:
    """Tell the service manager, if there is one that wants to know (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto("\n".join(words).encode(), "\0" + address[1:] if address[0] == "@" else address)
        except OSError as error:
            _log.warning("the service manager's socket %s cannot be reached: %s", address, error.strerror)
