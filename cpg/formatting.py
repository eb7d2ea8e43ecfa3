"""One line for each event of a group's stream: JSON for programs, text for people."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from cpg.events import Confchg, Event, Member, Message, Quorum, Reason, TotemConfchg, Transitional
from totem.config import Knet
from totem.text import printable

if TYPE_CHECKING:
    from cpg.node.quorum import QuorumStatus
    from totem.config import Config


def to_json(event: Event) -> str:
    """Return the event as one JSON object; the data of a message in base64, since it may be any bytes."""
    return json.dumps(_as_dict(event))


def to_text(event: Event) -> str:
    """Return the event as text for people; of a message only what can be printed."""
    match event:
        case Message(sender, data, _):
            return f"{name(sender)}  {printable(data)}"
        case Confchg(members, left, joined):
            changes = [f"{name(member)} went ({reason})" for member, reason in left.items()]
            changes += [f"{name(member)} came ({reason})" for member, reason in joined.items()]
            return f"* {', '.join(changes)}; members: {names(members) or 'none'}"
        case TotemConfchg(ring_id, node_ids):
            return f"* ring {ring_id}: {nodes(node_ids)}"
        case Transitional(node_ids):
            return f"* the ring is changing; still together: {nodes(node_ids)}"
        case Quorum(quorate, node_ids):
            return f"* {'quorate' if quorate else 'not quorate'}: {nodes(node_ids)}"


def quorum_to_json(event: Quorum, status: QuorumStatus | None) -> str:
    """Return the event with its figures as one JSON object."""
    return json.dumps({**(figures(status) if status is not None else {}), **_as_dict(event)})


def figures(status: QuorumStatus) -> dict[str, object]:
    """Return the figures with their names."""
    return status._asdict() | {"nodes": [node._asdict() for node in status.nodes]}


def quorum_to_text(event: Quorum, status: QuorumStatus | None) -> list[str]:
    """Return the event with its figures as lines for people."""
    lines = [f"{'quorate' if event.quorate else 'not quorate'}: {nodes(event.node_ids)}"]
    if status is not None:
        lines += [votes(status), *(f"node {node.node_id}: {node.votes}, {node.state}" for node in status.nodes)]
    return lines


def votes(status: QuorumStatus) -> str:
    """Return the votes there are, those expected, and those needed, as text."""
    options = f" ({', '.join(status.options)})" if status.options else ""
    highest = f", highest {status.highest_expected}" if status.highest_expected != status.expected_votes else ""
    expected = f"{status.expected_votes} expected{highest}"
    return f"votes: {status.total_votes} of {expected}, {status.quorum} needed{options}"


def transport_figures(config: Config) -> dict[str, str]:
    """Return what seals the ring's packets, and with which key, which is only named."""
    knet = config.knet or Knet()
    return {
        "name": config.transport,
        "cipher": knet.cipher,
        "hash": knet.hash,
        "fingerprint": knet.fingerprint,
        "key_source": knet.key_source,
    }


def transport(figures: Mapping[str, str]) -> str:
    """Return these figures as text."""
    if figures["hash"] == "none":
        return f"transport {figures['name']}, in plain text"
    cipher = "in plain text" if figures["cipher"] == "none" else f"encrypted with {figures['cipher']}"
    source = f" of {figures['key_source']}" if figures["key_source"] else ""
    return f"transport {figures['name']}, {cipher}, signed with {figures['hash']}, key {figures['fingerprint']}{source}"


def name(member: Member) -> str:
    """Return a member as `node:pid`."""
    return f"{member.node_id}:{member.pid}"


def names(members: Iterable[Member]) -> str:
    """Return members one behind the other."""
    return " ".join(map(name, members))


def nodes(node_ids: tuple[int, ...]) -> str:
    """Return `node 1` or `nodes 1 2 3`."""
    return f"node{'s' if len(node_ids) != 1 else ''} {' '.join(map(str, node_ids))}"


def _as_dict(event: Event) -> Mapping[str, object]:
    match event:
        case Message(sender, data, level):
            text = base64.b64encode(data).decode()
            return {"event": "message", "sender": sender, "level": level, "data": text}
        case Confchg(members, left, joined):
            return {"event": "confchg", "members": members, "left": _reasons(left), "joined": _reasons(joined)}
        case TotemConfchg(ring_id, node_ids):
            return {"event": "ring", "ring": ring_id, "members": node_ids}
        case Transitional(node_ids):
            return {"event": "transitional", "members": node_ids}
        case Quorum(quorate, node_ids):
            return {"event": "quorum", "quorate": quorate, "members": node_ids}


def _reasons(changes: Mapping[Member, Reason]) -> list[tuple[int, int, Reason]]:
    return [(*member, reason) for member, reason in changes.items()]


def reload_lines(answer: Mapping[str, Any]) -> list[str]:
    """Return what a daemon says to `cpg reload`."""
    return [f"reloaded: {change}" for change in answer["changed"]] or ["nothing has changed"]


def comparison(answer: Mapping[str, Any]) -> list[str]:
    """Return what a daemon says that a reload would do."""
    if answer["refused"]:
        return [f"cpgd, which runs, would not reload it: {answer['refused']}"]
    changes = [f"a reload would change: {change}" for change in answer["changed"]]
    return changes or ["cpgd runs with the same settings"]
