"""What the status of a running node (`cpg.status`) says of the other nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from cpg.cli.doctor.findings import Finding, ok, problem, warning
from totem.admission import DUPLICATE_NODE_ID, UNLISTED_NODE
from totem.config import Config, NodeEntry

Status = Mapping[str, Any]

_CAUSES: Final = {
    "sealed otherwise": (
        "do not open with the key, cipher and hash here",
        "copy the key file of a node that works; compare cpg doctor --fingerprint at all nodes",
    ),
    "knet packet of another version": (
        "are no packets of knet in clear: most likely their sender encrypts",
        "set the same crypto_cipher and crypto_hash at all nodes",
    ),
    "unlisted address": (
        "come from an address that is not in the nodelist",
        "the log names it; use the same nodelist at all nodes, or another port",
    ),
    "address of another node": (
        "come from another address than the one that their sender has in the nodelist",
        "use the same nodelist at all nodes; look for a second way (ip route get)",
    ),
    "foreign magic": (
        "are of another transport",
        "set the same transport at all nodes",
    ),
    UNLISTED_NODE: ("are of a node that is not in the nodelist", "use the same nodelist at all nodes"),
    DUPLICATE_NODE_ID: ("bear this node's own id", "give each node an id of its own at all nodes"),
    "receive buffer overflow": ("found the receive buffer full", "see the findings about socket buffers and real time"),
}
"""What dropped datagrams mean, and what to do, by the cause that the node counts."""


def is_status_of(status: Status, own: NodeEntry) -> bool:
    """Return whether a status is that of a node: with its id, address and port."""
    return status["node"] == own.node_id and any(
        (node["node"], node["address"], node["port"]) == (own.node_id, own.address, own.port)
        for node in status["nodes"]
    )


def explain_status(status: Status, config: Config) -> Iterator[Finding]:
    """Yield what the status of this node says of the others."""
    known = [(node["node"], node["name"], node["address"], node["port"], node["votes"]) for node in status["nodes"]]
    if known != [(node.node_id, node.name, node.address, node.port, node.votes) for node in config.nodes]:
        text = "cpgd runs with another nodelist than this file has now"
        yield warning("file", text, "restart cpgd (systemctl restart cpgd), or name its file with -c")
    for node in status["nodes"]:
        if node["node"] != status["node"]:
            yield from _explain_node(node, [link for link in status["links"] if link["node"] == node["node"]])
    if status["standstill"]:
        yield problem("ring", f"it makes no progress: {status['standstill']}", "look at that node: cpg doctor there")
    for absent in status["left_out"]:
        subject = f"node {absent['node']}"
        yield problem(subject, f"it is left out of the ring: {absent['reason']}", "look at its network")
    for apart in status["apart"]:
        remedy = "look at the network between the two: cable, switch, firewall; the ring takes it back by itself"
        yield problem(f"node {apart['node']}", f"it stays apart from the ring: {apart['reason']}", remedy)
    for cause, count in status["counters"]["drops"].items():
        if cause in _CAUSES:
            meaning, remedy = _CAUSES[cause]
            yield warning("drops", f"{count} datagrams since the start of cpgd {meaning}", remedy)


def _explain_node(node: Mapping[str, Any], links: list[Mapping[str, Any]]) -> Iterator[Finding]:
    subject = f"node {node['node']}"
    if node["member"]:
        yield ok(subject, "it is in the ring with this node")
    elif any(link["up"] for link in links):
        text = "it answers on its links, but is not in the ring"
        yield problem(subject, text, "look at its log; compare cpg doctor --fingerprint there and here")
    else:
        text = f"it is not in the ring; nothing tells whether {node['address']} port {node['port']} is reached"
        if links:
            text = "it is not in the ring, and answers on no link"
        yield problem(subject, text, "see whether it runs, and look at that machine: cpg doctor there")
    for link in links:
        where = f"{subject} on link {link['link']}"
        if not link["up"]:
            text = f"it has not answered for {link['seconds']:.0f} s, at {link['address']}"
            yield problem(where, text, "look at cables and firewalls of this link: cpg doctor there")
        elif not link["mtu"]:
            yield problem(where, "it answers, but its MTU is not known: only small packets pass", "look at the way")
        else:
            yield ok(where, f"it answers, in {1000 * link['latency']:.2f} ms; packets of {link['mtu']} bytes get there")
