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
from collections.abc import Callable, Sequence
from logging.handlers import SysLogHandler
from pathlib import Path
from typing import Final

import trio

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
    except (ConfigError, ValueError) as error:
        return _complain(str(error), MISUSED)
    except TotemError as error:
        return _complain(str(error), FAILED)
    except OSError as error:
        is_config = error.filename == options.config
        place = f"{error.filename}: " if error.filename else ""
        return _complain(f"{place}{error.strerror}", MISUSED if is_config else FAILED)


def _complain(text: str, code: int) -> int:
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
    with listening(path) as listener:
        ring = prepare_ring(ServedRing, config, options.node)
        hub = Hub(ring)
        hub.answers = answers(ring, hub)
        async with serve(listener, ring, hub, access.allows):
            _log.info("node %d serves programs at %s; the ring has %s", ring.node_id, path, nodes(ring.node_ids))
            _notify("READY=1", f"STATUS=node {ring.node_id} serves {path}")
            await _follow_signals(lambda: _reload(options.config, access))
            _notify("STOPPING=1")
    _log.info("node %d has left", ring.node_id)
    return DONE


async def _follow_signals(reload: Callable[[], None]) -> None:
    """Return when the daemon is to end."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for number in signals:
            if number != signal.SIGHUP:
                return
            _notify("RELOADING=1")
            reload()
            _notify("READY=1")


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
