"""Where tests put nodes: loopback addresses and ports that are free at this moment."""

import os
import socket

import pytest

from totem.config import Config, Knet, LinkSettings, NodeEntry


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


def _network():
    """Return the first bytes of addresses that are this process's own, so that tests may run side by side."""
    return f"127.{1 + os.getpid() % 250}.{os.getpid() // 250 % 250}"


def at_addresses(count, **settings):
    """Return nodes at 127.0.x.1 to 127.0.x.N on one port."""
    network = _network()
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


def knet_at_addresses(count, links=1, *, token=1.0, state_dir="", **knet):
    """Return nodes over knet, each with an address of its own on each link. Two links can share no address."""
    network = _network()
    ports = [free_ports(f"{network}.{1 + 10 * link}", 1)[0] for link in range(links)]
    nodes = tuple(
        NodeEntry(
            *(k, f"node{k}", f"{network}.{k}", ports[0]),
            further=tuple((link, f"{network}.{k + 10 * link}") for link in range(1, links)),
        )
        for k in range(1, count + 1)
    )
    settings = Knet(links=tuple(LinkSettings(link, port) for link, port in enumerate(ports)), **knet)
    return Config(
        nodes=nodes,
        cluster_name="test",
        transport="knet",
        port=ports[0],
        token=token,
        state_dir=state_dir,
        knet=settings,
    )
