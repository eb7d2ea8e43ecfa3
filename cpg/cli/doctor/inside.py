"""Checks of this machine that send nothing."""

from __future__ import annotations

import errno
import importlib.util
import ipaddress
import os
import resource
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from cpg.cli.doctor.findings import Finding, ok, problem, untried, warning
from cpg.cli.doctor.firewall import Packet, Ruleset, Verdict
from cpg.cli.doctor.machine import Holder, Interface, ThisMachine
from cpg.formatting import nodes
from cpg.local.scheduling import CAP_IPC_LOCK, has_capability
from totem.addresses import is_local
from totem.config import Config, NodeEntry, Scheduling
from totem.corosync_conf import load, load_section, own_node
from totem.errors import ConfigError
from totem.knet import BUFFER_BYTES as KNET_BUFFER
from totem.sockets import SYSCTL, request_buffer
from totem.store import check_folder, default_directory, words
from totem.udp import BUFFER_BYTES as UDP_BUFFER

_ROOM: Final = 1 << 20
"""Bytes of a disk below which there may soon be no room for a ring sequence."""


class LinkPlace(NamedTuple):
    """Where a node is on one link."""

    link: int
    address: str
    port: int


class Way(NamedTuple):
    """From this node to another one, over one link."""

    here: LinkPlace
    there: LinkPlace
    node_id: int
    """The other node."""


def places(config: Config, node: NodeEntry) -> list[LinkPlace]:
    """Return where a node is on each link."""
    numbers = [link.number for link in config.knet.links] if config.knet is not None else [0]
    return [LinkPlace(number, *config.place_on(node, number)) for number in numbers]


def ways(config: Config, own: NodeEntry) -> list[Way]:
    """Return the ways to all other nodes."""
    return [
        Way(here, there, node.node_id)
        for node in config.nodes
        if node is not own
        for here, there in zip(places(config, own), places(config, node), strict=True)
    ]


class FileContent(NamedTuple):
    """What the configuration says to the doctor."""

    config: Config | None = None
    """None where it cannot be used."""
    scheduling: Scheduling = Scheduling()
    socket: str | None = None
    """Where cpgd is to serve its programs; None: at the usual place."""


def check_file(path: str, findings: list[Finding]) -> FileContent:
    """Read the configuration, and add what is to be said of it."""
    content = FileContent()
    try:
        section = load_section(path, "cpgd", {"socket": str})
        content = FileContent(None, section.scheduling, section.values.get("socket"))
        config, warnings = load(path)
    except ConfigError as error:
        findings.append(problem("file", str(error), "correct it, then cpg doctor again"))
        return content
    except OSError as error:
        remedy = "name the configuration with -c, and read it as a user who may"
        findings.append(problem("file", f"{path} cannot be read: {error.strerror or error}", remedy))
        return content
    listed = nodes(tuple(node.node_id for node in config.nodes))
    findings.append(ok("file", f"{path} can be used: transport {config.transport}, {listed}"))
    findings += [warning("file", text, "correct the line, or leave it out") for text in warnings]
    return content._replace(config=config)


def find_node(config: Config, node: str | None, findings: list[Finding]) -> NodeEntry | None:
    """Return which node this is, and add what is to be said of that."""
    try:
        own = config.node(own_node(config, node))
    except ConfigError as error:
        remedy = "name the node with --node, or correct ring0_addr, or give this machine its address"
        findings.append(problem("node", str(error), remedy))
        return None
    findings.append(ok("node", f"this is node {own.node_id} ({own.name})"))
    return own


def check_nodelist(config: Config) -> Iterator[Finding]:
    """Check that addresses can reach other machines."""
    for number in [place.link for place in places(config, config.nodes[0])]:
        here = [node for node in config.nodes if _is_loopback(config.place_on(node, number)[0])]
        if here and len(here) < len(config.nodes):
            for node in here:
                yield problem(
                    f"address of node {node.node_id} on link {number}",
                    f"it is {config.place_on(node, number)[0]}, which no other machine reaches",
                    f"write its IP address as ring{number}_addr, or correct its name in /etc/hosts (Debian writes "
                    "127.0.1.1 there)",
                )


def check_addresses(own: Iterable[LinkPlace], interfaces: list[Interface] | None, mtu: int) -> Iterator[Finding]:
    """Check that this machine has its address on each link, and that the interface is up and carries enough.

    `mtu`: bytes of the IP packets that each link must carry.
    """
    for link, address, _ in own:
        subject = f"address on link {link}"
        if not is_local(address):
            remedy = f"give it to an interface (ip address add {address}/… dev …), or correct ring{link}_addr"
            yield problem(subject, f"this machine has no address {address}", remedy)
            continue
        interface = interface_of(address, interfaces)
        if interface is None:
            yield untried(subject, f"{address} is here; nothing names its interface", "install iproute2")
        elif not interface.is_up:
            remedy = f"ip link set {interface.name} up; check the cable and the switch"
            yield problem(subject, f"{address} is here, but {interface.name} is down", remedy)
        elif interface.mtu < mtu:
            remedy = f"ip link set {interface.name} mtu {mtu}, or netmtu {interface.mtu} at all nodes"
            text = f"{address} is here, but {interface.name} carries packets of {interface.mtu} bytes, not {mtu}"
            yield problem(subject, text, remedy)
        else:
            yield ok(subject, f"{address} is here, on {interface.name}, which carries packets of {interface.mtu} bytes")


def interface_of(address: str, interfaces: list[Interface] | None) -> Interface | None:
    """Return the interface that has an address; one of lo has all of 127.0.0.0/8."""
    wanted = address.partition("%")[0]
    for interface in interfaces or ():
        if wanted in interface.addresses or (interface.name == "lo" and _is_loopback(wanted)):
            return interface
    return None


def check_ports(own: Iterable[LinkPlace], machine: ThisMachine, daemon: int | None) -> Iterator[Finding]:
    """Check that ports are free, or used by a node. `daemon`: the process of the node's cpgd, if one answers."""
    for link, address, port in own:
        subject = f"port on link {link}"
        error = machine.binds(address, port)
        if not error:
            yield ok(subject, f"UDP port {port} is free: no node runs here at {address}")
        elif error == errno.EACCES:
            remedy = "choose another mcastport at all nodes, or run the node as root"
            yield problem(subject, f"this user may not use port {port}", remedy)
        elif error == errno.EADDRINUSE:
            yield _used(subject, port, machine.holders(address, port), daemon)
        else:
            text = f"port {port} could not be tried: {os.strerror(error)}"
            yield untried(subject, text, "first correct the address")


def _used(subject: str, port: int, holders: list[Holder], daemon: int | None) -> Finding:
    if daemon is not None and (not holders or any(holder.pid == daemon for holder in holders)):
        return ok(subject, f"cpgd uses UDP port {port} (process {daemon})")
    if not holders:
        text = f"UDP port {port} is used by a process that this user may not see"
        return untried(subject, text, "run cpg doctor as root to see whether it is a node")
    holder = holders[0]
    name = " ".join(holder.words) or "without a command line"
    text = f"UDP port {port} is used by process {holder.pid} ({name})"
    if is_node(holder):
        return ok(subject, text)
    if "python" in os.path.basename(holder.words[0] if holder.words else ""):
        return warning(subject, text, "if that is no node of this ring (cpg.open_ring), end it")
    return problem(subject, text, "end it, or choose another mcastport at all nodes")


def is_node(holder: Holder) -> bool:
    """Return whether a process is a node by its name: cpgd or Corosync."""
    names = {os.path.basename(word) for word in holder.words[:3]}
    return bool(names & {"cpgd", "corosync", "cpg.daemon"})


def check_buffers(config: Config) -> Iterator[Finding]:
    """Check that sockets get the buffers that the transport requests."""
    wanted = KNET_BUFFER if config.knet is not None else UDP_BUFFER
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            granted = request_buffer(probe, option, wanted)
            name = SYSCTL[option]
            subject = f"socket buffers ({name})"
            if granted >= wanted:
                yield ok(subject, f"{wanted} bytes are granted to this user")
            else:
                text = f"this user gets {granted} bytes instead of {wanted}, so bursts may be lost"
                yield warning(subject, text, f"sysctl -w {name}={wanted}, or run the node as root")


def check_scheduling(settings: Scheduling, machine: ThisMachine, daemon: int | None) -> Iterator[Finding]:
    """Check that the node is, or could be, in real time with its memory locked."""
    subject = "real time"
    remedy = "AmbientCapabilities=CAP_SYS_NICE CAP_IPC_LOCK in its service, or run it as root; else a busy machine may"
    remedy += " stop the ring"
    if settings.sched_rr is False:
        yield ok(subject, "not requested (sched_rr: no)")
        return
    if daemon is not None:
        if machine.policy_of(daemon) == os.SCHED_RR:
            yield ok(subject, f"cpgd is in real time (process {daemon})")
        else:
            yield warning(subject, f"cpgd is not in real time (process {daemon})", remedy)
        return
    if settings.sched_rr is None and os.geteuid():
        yield untried(subject, "only root's daemon requests it by default", "run cpg doctor as the user of the daemon")
        return
    refusal = _refusal_of_real_time()
    yield ok(subject, "is granted to this user") if not refusal else warning(subject, f"refused: {refusal}", remedy)
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if resource.RLIM_INFINITY in (soft, hard) or has_capability(CAP_IPC_LOCK):
        yield ok("locked memory", "this user may lock all its memory")
    else:
        yield warning("locked memory", f"only {hard} bytes may be locked", "LimitMEMLOCK=infinity in its service")


def _refusal_of_real_time() -> str:
    """Try real time for a moment; return why it is refused."""
    policy, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(os.sched_get_priority_min(os.SCHED_RR)))
    except OSError as error:
        return error.strerror or str(error)
    with suppress(OSError):
        os.sched_setscheduler(0, policy, parameter)
    return ""


def check_state(config: Config) -> Iterator[Finding]:
    """Check that the ring sequence can be stored."""
    subject = "state folder"
    try:
        folder = config.state_dir or default_directory()
        check_folder(folder)
    except OSError as error:
        yield problem(subject, words(error), "make it writable for the user of the node")
        return
    place = folder
    while not os.path.exists(place):
        place = os.path.dirname(place) or os.curdir
    disk = os.statvfs(place)
    free = disk.f_bavail * disk.f_frsize
    if free < _ROOM:
        yield problem(subject, f"the disk of {folder} has only {free} bytes free", "make room there")
    else:
        yield ok(subject, f"{folder} can be written, and its disk has room")


def check_clock(machine: ThisMachine) -> Iterator[Finding]:
    """Check that the clock is synchronized: the ring does not need that, people who compare logs do."""
    subject = "clock"
    state = machine.clock_is_synchronized()
    if state is None:
        yield untried(subject, "the kernel does not tell whether it is synchronized")
    elif state:
        yield ok(subject, "it is synchronized")
    else:
        text = "nothing synchronizes it: the ring does not need that, but logs of several nodes cannot be compared"
        yield warning(subject, text, "run chrony or systemd-timesyncd")


def check_key(config: Config) -> Iterator[Finding]:
    """Check what packets are sealed with; a key that may not be used is an error of the file."""
    knet = config.knet
    if knet is None or not knet.is_sealed:
        yield ok("key", "nothing is signed or encrypted: who reaches the port can read and forge all. Keep it private")
        return
    if importlib.util.find_spec("cryptography") is None:
        yield problem("key", "the package cryptography is missing, which a key needs", "pip install cryptography")
    yield ok("key", f"{knet.key_source} has {len(knet.key)} bytes, fingerprint {knet.fingerprint}")


def check_firewall(
    config: Config, own: NodeEntry, machine: ThisMachine, interfaces: list[Interface] | None
) -> Iterator[Finding]:
    """Check that the rules of this machine let the ring's packets pass, in and out."""
    if machine.has_legacy_rules():
        yield untried("firewall here", "there are rules of iptables-legacy", "look at them: iptables-legacy -S")
    rules = machine.rules()
    if rules is None:
        why = "nft is not installed" if not machine.has("nft") else "this user may not read the rules"
        yield untried("firewall here", why, "run cpg doctor as root, with nft installed")
        return
    ruleset = Ruleset(rules)
    found: list[Finding] = []
    for way in ways(config, own):
        interface = interface_of(way.here.address, interfaces)
        found += _judge(ruleset, way, interface.name if interface is not None else "")
    yield from found or [ok("firewall here", "no rule of nftables drops the ring's packets")]


def _judge(ruleset: Ruleset, packets: Way, interface: str) -> Iterator[Finding]:
    here, there, node_id = packets
    for hook, source, target, way, port in (
        ("input", there.address, here.address, "from", here.port),
        ("output", here.address, there.address, "to", there.port),
    ):
        subject = f"firewall here, {way} node {node_id}"
        first, later = (
            ruleset.judge(hook, Packet(source, target, port, interface, is_reply)) for is_reply in (False, True)
        )
        remedy = f"let UDP port {port} pass {way} {there.address}"
        if later.verdict is Verdict.DROP:
            yield problem(subject, f"{later.place} drops UDP port {port}", remedy)
        elif first.verdict is Verdict.DROP:
            yield warning(subject, f"{first.place} drops UDP port {port} but for replies", remedy)
        elif first.verdict is None:
            yield untried(subject, f"not all rules can be understood, for UDP port {port}", "see nft list ruleset")


def needed_mtu(config: Config) -> int:
    """Return the bytes of the IP packets that links must carry; 0 with knet, which finds out what they carry."""
    return config.netmtu if config.knet is None else config.knet.mtu


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback
