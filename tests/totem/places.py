"""Where tests put nodes: loopback addresses and ports that are free at this moment."""

import os
import socket

import pytest

from totem.config import Config, NodeEntry


def free_ports(address, count):
    """Return ports that no socket of this machine has at this address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sockets = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind((address, 0))
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


def at_one_address(count, address="127.0.0.1", **settings):
    """Return nodes at one address, distinguished by ports."""
    ports = free_ports(address, count)
    nodes = tuple(NodeEntry(k, f"node{k}", address, port) for k, port in enumerate(ports, start=1))
    return Config(nodes=nodes, cluster_name="test", **{"port": ports[0], **settings})


def at_addresses(count, **settings):
    """Return nodes at 127.0.x.1 to 127.0.x.N on one port; x by process, so that tests may run side by side."""
    network = f"127.{1 + os.getpid() % 250}.{os.getpid() // 250 % 250}"
    (port,) = free_ports(f"{network}.1", 1)
    nodes = tuple(NodeEntry(k, f"node{k}", f"{network}.{k}", port) for k in range(1, count + 1))
    return Config(nodes=nodes, cluster_name="test", port=port, **settings)


def at_ipv6(count, **settings):
    """Return nodes at ::1; skip where the machine has no IPv6."""
    try:
        free_ports("::1", 1)
    except OSError as error:
        pytest.skip(f"no IPv6 on this machine: {error.strerror}")
    return at_one_address(count, "::1", **settings)
