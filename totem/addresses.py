"""Host names, IP addresses and this machine: questions that only the operating system can answer."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

# For each `ip_version`: the families to ask for, the preferred one first.
_FAMILIES = {
    "ipv4": (socket.AF_INET,),
    "ipv6": (socket.AF_INET6,),
    "ipv4-6": (socket.AF_INET, socket.AF_INET6),
    "ipv6-4": (socket.AF_INET6, socket.AF_INET),
}


def resolve(host: str, ip_version: str) -> str:
    """Return the IP address of a host name (or address) by Corosync's order of preference; raise `OSError` if none."""
    try:
        answers = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except UnicodeError as error:
        raise OSError(errno.EINVAL, f"not a host name ({error})") from None
    except socket.gaierror:
        _, percent, interface = host.partition("%")
        if percent and interface not in (name for _, name in socket.if_nameindex()):
            raise OSError(errno.ENODEV, f"this machine has no interface {interface}") from None
        raise
    found = {family: _text(address) for family, _, _, _, address in reversed(answers)}
    for family in _FAMILIES[ip_version]:
        if family in found:
            return found[family]
    raise OSError(errno.EADDRNOTAVAIL, f"{host} has no address that ip_version {ip_version} allows")


def _text(place: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]) -> str:
    """Return the address of a socket; one of a single link with its interface, as `fe80::1%eth0`."""
    scope = place[3] if len(place) == 4 else 0
    return f"{place[0]}%{socket.if_indextoname(scope)}" if scope else str(place[0])


def sockaddr(address: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]:
    """Return family and socket address of an IP address (an IPv6 one may name its interface: `fe80::1%eth0`)."""
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    family, _, _, _, place = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM, flags=flags)[0]
    return family, place  # type: ignore[return-value]


def is_local(address: str) -> bool:
    """Return whether this machine has the IP address: whether a socket can be bound to it."""
    family, place = sockaddr(address, 0)
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(place)
        except OSError:
            return False
    return True


def interface_index(address: str) -> int:
    """Return the index of the interface with this IPv6 address, which multicast needs; raise `OSError` if none."""
    _, place = sockaddr(address, 0)
    if len(place) == 4 and place[3]:
        return place[3]  # named in the address itself
    wanted = socket.inet_pton(socket.AF_INET6, place[0]).hex()
    for line in Path("/proc/net/if_inet6").read_text(encoding="ascii").splitlines():
        found, index, *_ = line.split()
        if found == wanted:
            return int(index, 16)
    raise OSError(errno.EADDRNOTAVAIL, f"no interface of this machine has {address}")
