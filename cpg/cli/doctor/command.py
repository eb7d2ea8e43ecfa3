"""The command: all checks in their order, each line as soon as it is known."""

from __future__ import annotations

import argparse
import errno
import json
import logging
from collections.abc import AsyncGenerator, Callable, Container, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final

import trio

from cpg.cli.doctor import inside, listening, outside, running
from cpg.cli.doctor.digests import digests
from cpg.cli.doctor.findings import Finding, Outcome, ok, problem, summary, untried, warning
from cpg.cli.doctor.inside import Way
from cpg.cli.doctor.machine import Interface, ThisMachine
from cpg.cli.doctor.outside import Echo
from cpg.client.asynchronous import connect
from cpg.local.client_socket import NoDaemon
from cpg.local.program import DEFAULT_CONFIG, DONE, FAILED
from cpg.local.standard_io import print_lines
from totem.addresses import is_local
from totem.config import Config, NodeEntry
from totem.corosync_conf import load
from totem.errors import TotemError
from totem.knet import mtu_to
from totem.links.path import LARGEST_PACKET

_NOBODY: Final = (Echo.NO_MACHINE, Echo.NO_ROUTE)
_PATIENCE: Final = 5.0
"""Seconds for the daemon's answer."""


async def doctor(options: argparse.Namespace) -> int:
    """`cpg doctor`."""
    path = options.config or DEFAULT_CONFIG
    logging.getLogger("totem").setLevel(logging.ERROR)  # what it would warn of are findings here
    if options.fingerprint:
        config, _ = await trio.to_thread.run_sync(load, path)
        found = digests(config)
        await print_lines([json.dumps(found._asdict()) if options.json else found.line()])
        return DONE
    findings: list[Finding] = []
    async with aclosing(examine(path, options.node, options.daemon, options.stay)) as checks:
        async for finding in checks:
            findings.append(finding)
            await print_lines([json.dumps(finding.as_dict()) if options.json else finding.line()])
    if not options.json:
        await print_lines([summary(findings)])
    return FAILED if any(finding.outcome is Outcome.PROBLEM for finding in findings) else DONE


async def examine(path: str, node: str | None, socket_path: str | None, stay: float) -> AsyncGenerator[Finding, None]:
    """Yield what is found of the node of a configuration, after at least `stay` seconds if no node runs here."""
    machine, findings = ThisMachine(), list[Finding]()
    config, scheduling, configured = await trio.to_thread.run_sync(inside.check_file, path, findings)
    status = await _status(socket_path, configured, findings)
    for finding in findings:
        yield finding
    for finding in await _in_thread(lambda: inside.check_clock(machine)):
        yield finding
    if config is None:
        return
    findings.clear()
    own = inside.find_node(config, node, findings)
    for finding in [*findings, *inside.check_nodelist(config), *await _in_thread(lambda: _settings(config))]:
        yield finding
    if own is None:
        return
    if status is not None and not running.is_status_of(status, own):
        yield warning(
            "cpgd",
            f"the daemon that answers is node {status['node']} of another nodelist, or another node of this one",
            "name its socket with --socket, or its configuration with -c",
        )
        status = None
    pid = status["pid"] if status is not None else None
    for finding in await _in_thread(lambda: inside.check_scheduling(scheduling, machine, pid)):
        yield finding
    interfaces = await trio.to_thread.run_sync(machine.interfaces)
    for finding in await _in_thread(lambda: _network(config, own, machine, interfaces, pid)):
        yield finding
    ways = inside.ways(config, own)
    echoes = await _echoes(ways, inside.needed_mtu(config))
    members = status["members"] if status is not None else ()
    for finding in [*_routes(ways, machine, interfaces), *_said_by_echoes(config, echoes, members)]:
        yield finding
    if status is not None:
        found = list(running.explain_status(status, config))
    else:
        lost = {(way.node_id, way.there.link) for way, (answer, _) in echoes.items() if answer in _NOBODY}
        found = await _hear(config, own, lost, stay)
    for finding in found:
        yield finding
    yield untried(
        "files of all nodes",
        digests(config).line(),
        "cpg doctor --fingerprint must print this at each node",
    )


def _settings(config: Config) -> Iterator[Finding]:
    yield from inside.check_key(config)
    yield from inside.check_state(config)
    yield from inside.check_buffers(config)


def _network(
    config: Config, own: NodeEntry, machine: ThisMachine, interfaces: list[Interface] | None, daemon: int | None
) -> Iterator[Finding]:
    here = inside.places(config, own)
    yield from inside.check_addresses(here, interfaces, inside.needed_mtu(config))
    yield from inside.check_ports(here, machine, daemon)
    yield from inside.check_firewall(config, own, machine, interfaces)


async def _in_thread(checks: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """Return what checks find that ask the disk or other programs."""
    return await trio.to_thread.run_sync(lambda: list(checks()), abandon_on_cancel=True)


async def _status(path: str | None, configured: str | None, findings: list[Finding]) -> dict[str, Any] | None:
    """Return the status of the cpgd at a path, or at the configured or the usual one, if one answers."""
    try:
        with trio.fail_after(_PATIENCE):
            async with connect(path or configured, reconnect=False) as ring:
                status: dict[str, Any] = await ring.query("status")
    except NoDaemon as error:
        if path is not None:
            findings.append(problem("cpgd", str(error), "name the socket of the node's daemon"))
    except trio.TooSlowError:
        findings.append(problem("cpgd", f"it has not answered for {_PATIENCE:.0f} s", "look at its log"))
    except TotemError as error:
        findings.append(untried("cpgd", str(error), "run cpg doctor as a user who may connect"))
    else:
        findings.append(ok("cpgd", f"it runs: node {status['node']}, process {status['pid']}"))
        return status
    return None


def _routes(ways: Sequence[Way], machine: ThisMachine, interfaces: list[Interface] | None) -> Iterator[Finding]:
    for way in ways:
        interface = inside.interface_of(way.here.address, interfaces)
        yield from outside.check_route(way, machine, interface)


def _said_by_echoes(
    config: Config, echoes: Mapping[Way, tuple[Echo, Finding]], members: Sequence[int]
) -> Iterator[Finding]:
    """Yield what echoes say, but for silence where the node itself is asked: at an unused port it says little."""
    for way, (answer, finding) in echoes.items():
        if answer is not Echo.SILENCE or (config.knet is None and way.node_id not in members):
            yield finding


async def _echoes(ways: Sequence[Way], mtu: int) -> dict[Way, tuple[Echo, Finding]]:
    """Return what comes back over all ways, in their order."""
    found: dict[Way, tuple[Echo, Finding]] = {}

    async def check(way: Way) -> None:
        source = way.here.address if is_local(way.here.address) else ""
        found[way] = await outside.check_way(way, mtu, source)

    async with trio.open_nursery() as nursery:
        for way in ways:
            nursery.start_soon(check, way)
    return {way: found[way] for way in ways}


async def _hear(config: Config, own: NodeEntry, lost: Container[tuple[int, int]], stay: float) -> list[Finding]:
    """Return what the other nodes send means, but over links where there is no machine."""
    if len(config.nodes) == 1:
        return []
    try:
        if config.knet is None:
            heard_ring = await listening.hear_ring(config, own.node_id, stay)
            return list(listening.explain_ring(heard_ring, config, own.node_id))
        heard_links = await listening.hear_knet(config, own.node_id, stay)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            remedy = "ask it (corosync-cfgtool -n), or name its socket with --socket"
            return [untried("other nodes", "a node runs here that cpg doctor cannot ask", remedy)]
        return [untried("other nodes", f"cpg doctor cannot listen here: {error.strerror or error}", "see above")]
    except ImportError:
        return [untried("other nodes", "without cryptography nothing that they send can be opened", "see above")]
    return [
        listening.explain_knet(heard, config, mtu=min(mtu_to(heard.there.address, heard.there.port), LARGEST_PACKET))
        for heard in heard_links
        if (heard.node_id, heard.there.link) not in lost
    ]
