"""Format a node's status (`cpg.status`) for people: the ring, its traffic, its members."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, NamedTuple

from cpg.formatting import nodes, transport, votes
from cpg.node.quorum import NodeVotes, QuorumStatus
from totem.configuration import RingId
from totem.text import printable

Status = Mapping[str, Any]

_CLIENT_COLUMNS: Final = ("pid", "uid", "sent/s", "received/s", "sent", "received", "waiting", "name", "groups")


class Rates(NamedTuple):
    """Rates per second, from two reports of one node."""

    rotations: float
    """Visits of the token."""
    messages: float
    """Messages delivered by the ring."""
    sent: float
    """Messages of this node."""
    bytes_sent: float
    clients: dict[int, tuple[float, float]]
    """Messages sent and received, by the client's number."""

    def as_dict(self) -> dict[str, float]:
        """Return the ring's rates."""
        values = self._asdict()
        del values["clients"]
        return values


def rates(before: Status, after: Status) -> Rates:
    """Compute the rates between two reports."""
    seconds = max(after["uptime"] - before["uptime"], 1e-9)
    counted, earlier = after["counters"], before["counters"]
    known = {client["number"]: client for client in before.get("clients", ())}
    new = {"sent": 0, "received": 0}
    return Rates(
        rotations=(counted["tokens_received"] - earlier["tokens_received"]) / seconds,
        messages=(after["messages"] - before["messages"]) / seconds,
        sent=(counted["messages_sent"] - earlier["messages_sent"]) / seconds,
        bytes_sent=(counted["bytes_sent"] - earlier["bytes_sent"]) / seconds,
        clients={
            client["number"]: (
                (client["sent"] - known.get(client["number"], new)["sent"]) / seconds,
                (client["received"] - known.get(client["number"], new)["received"]) / seconds,
            )
            for client in after.get("clients", ())
        },
    )


def one_line(status: Status, measured: Rates) -> str:
    """Return the most important figures on one line."""
    counted = status["counters"]
    words = [
        f"ring {RingId(*status['ring'])}",
        nodes(tuple(status["members"])),
        f"{status['state']}{'' if status['quorate'] else ', not quorate'}",
        f"{measured.rotations:.0f} rotations/s",
        f"{measured.messages:.0f} messages/s",
        f"{measured.sent:.0f} sent/s",
        f"{counted['queued_messages']} queued",
        f"{counted['retransmits_requested']} requested again",
        _number(len(status["groups"]), "group"),
    ]
    if "clients" in status:
        words.append(_number(len(status["clients"]), "client"))
    return "  ".join(words)


def ring_lines(status: Status, measured: Rates) -> list[str]:
    """Return all figures as lines."""
    return [
        *_ring(status),
        *_links(status),
        *_traffic(status, measured),
        *_trouble(status),
        *(_clients(status, measured) if "clients" in status else ()),
        *_groups(status),
    ]


def _ring(status: Status) -> list[str]:
    listed = {node["node"]: node for node in status["nodes"]}
    lines = [
        f"node {status['node']} ({listed[status['node']]['name']}), process {status['pid']}, "
        f"up {timedelta(seconds=int(status['uptime']))}",
        f"ring {RingId(*status['ring'])}: {status['state']} for {timedelta(seconds=int(status['state_seconds']))}, "
        f"{'quorate' if status['quorate'] else 'not quorate'}"
        f"{'' if status['pure'] else ', with nodes of another make'}",
        *_table(
            [
                "",
                str(node["node"]),
                node["name"],
                f"{node['address']}:{node['port']}",
                "" if node["member"] else "absent",
            ]
            for node in status["nodes"]
        ),
    ]
    waits = ": accepted, and not used before `cpg reload`" if status["key_waits"] else ""
    lines.append(printable(transport(status["transport"])) + waits)
    if lacks := status.get("libqb", {}).get("lacks"):
        lines.append(f"programs that use libcpg are not served: {lacks}")
    if status["silent"]:
        lines.append(f"sync waits for {nodes(tuple(status['silent']))}")
    if status["standstill"]:
        lines.append(f"the ring makes no progress: {status['standstill']}")
    for absent in status["left_out"]:
        who = "this node" if absent["node"] == status["node"] else f"node {absent['node']}"
        lines.append(f"{who} is left out for another {absent['seconds']:.0f} s: {absent['reason']}")
    for apart in status["apart"]:
        pause = f"; tried again in {apart['seconds']:.0f} s at the earliest" if apart["seconds"] else ""
        lines.append(f"node {apart['node']} stays apart: {apart['reason']}{pause}")
    if status["apart"] and status["asks_in"]:
        lines.append(f"this node asks for no other ring for {status['asks_in']:.0f} s")
    if status["quorum"] is None:
        return [*lines, "votes: not counted, no quorum provider is configured"]
    return [*lines, votes(_quorum_status(status["quorum"]))]


def _links(status: Status) -> list[str]:
    """Return a line for each link to another node."""
    if not status["links"]:
        return []
    down = sum(not link["up"] for link in status["links"])
    rows = [
        [
            "",
            f"to node {link['node']}",
            f"link {link['link']}",
            link["address"],
            f"{'up' if link['up'] else 'down'} for {timedelta(seconds=int(link['seconds']))}"
            f"{', but heard' if link['heard'] and not link['up'] else ''}",
            (f"packets of {link['mtu']} bytes" if link["mtu"] else "carries nothing") if link["up"] else "",
            f"{1000 * link['latency']:.2f} ms" if link["up"] else "",
        ]
        for link in status["links"]
    ]
    return [f"links: {len(rows)}{f', {down} down' if down else ''}", *_table(rows)]


def _quorum_status(values: Mapping[str, Any]) -> QuorumStatus:
    return QuorumStatus(**{**values, "nodes": tuple(NodeVotes(**node) for node in values["nodes"])})


def _traffic(status: Status, measured: Rates) -> list[str]:
    counted = status["counters"]
    waiting = f", {status['waiting']} bytes for clients" if "waiting" in status else ""
    return [
        _timeouts(status["timeouts"]),
        f"token: {measured.rotations:.0f} rotations/s, {1000 * counted['rotation_time']:.2f} ms the last ones",
        f"messages: {measured.messages:.0f}/s delivered; "
        f"{measured.sent:.0f}/s, {measured.bytes_sent / 1e6:.2f} MB/s sent by this node",
        f"waiting: {_number(counted['queued_messages'], 'message')} ({counted['queued_bytes']} bytes) for the token, "
        f"{_number(counted['window_frames'], 'frame')} until all nodes have them{waiting}",
    ]


def _timeouts(timeouts: Mapping[str, Any]) -> str:
    because = f": {printable(timeouts['because'])}" if timeouts["because"] else ""
    return f"timeouts: token {timeouts['token']:.2f} s, consensus {timeouts['consensus']:.2f} s{because}"


def _trouble(status: Status) -> list[str]:
    counted = status["counters"]
    lines = [
        f"again: {_number(counted['retransmits_requested'], 'frame')} requested, {counted['retransmits_sent']} sent; "
        f"{_number(counted['token_retransmits'], 'token')} sent"
    ]
    if counted["pauses"]:
        lines.append(f"pauses: {counted['pauses']}, the longest {counted['largest_pause']:.1f} s")
    lines += _causes("dropped", counted["drops"])
    gathers = {cause.removeprefix("gather: "): n for cause, n in counted["entered"].items() if cause[:7] == "gather:"}
    return [*lines, f"rings: {counted['rings_installed']} installed", *_causes("gathers", gathers)]


def _causes(title: str, counts: Mapping[str, int]) -> list[str]:
    if not counts:
        return []
    often = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [f"{title}: {sum(counts.values())}", *_table(["", str(count), cause] for cause, count in often)]


def _groups(status: Status) -> list[str]:
    sizes = status["groups"]
    return [f"groups: {len(sizes)}", *_table(["", printable(name), str(count)] for name, count in sizes.items())]


def _clients(status: Status, measured: Rates) -> list[str]:
    clients = sorted(status["clients"], key=lambda client: (-sum(measured.clients[client["number"]]), client["number"]))
    put_out = f", {status['dropped']} disconnected since they did not read" if status["dropped"] else ""
    return [
        f"clients: {len(clients)}{put_out}",
        *_table([["", *_CLIENT_COLUMNS], *(_client(client, measured.clients[client["number"]]) for client in clients)]),
    ]


def _client(client: Mapping[str, Any], a_second: tuple[float, float]) -> list[str]:
    sent, received = a_second
    who, counts = (client["pid"], client["uid"]), (client["sent"], client["received"], client["waiting"])
    numbers = (*who, round(sent), round(received), *counts)
    return ["", *map(str, numbers), printable(client["name"]), " ".join(map(printable, client["groups"]))]


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _table(rows: Iterable[Sequence[str]]) -> list[str]:
    """Return rows with aligned columns, numbers to the right."""
    rows = list(rows)
    if not rows:
        return []
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [column[-1][:1].isdigit() and column[-1].isdigit() for column in columns]
    return [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in rows
    ]
