"""Explain the executive layer's messages to `totem dump`, from the declarations in `schema`.

`LAYER` is named in the package's metadata as the entry point `cpg` of `totem.dump`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from construct import ConstructError, Container

from cpg.node import schema, wire
from totem.dump.records import Explanation, Layer
from totem.dump.text import payload, shortened_hex
from totem.errors import MalformedDatagram
from totem.text import printable

_SERVICES: Final = {0: "cmap", 1: "cfg", 2: "cpg", 3: "quorum", 4: "pload", 5: "votequorum", 6: "mon", 7: "wd"}
_NAMES: Final = {
    0x00000: "cmap.mcast",
    0x10000: "cfg.ringreenable",
    0x10001: "cfg.killnode",
    0x10002: "cfg.shutdown",
    0x10003: "cfg.reload",
    0x10004: "cfg.crypto",
    0x20000: "cpg.procjoin",
    0x20001: "cpg.procleave",
    0x20002: "cpg.joinlist",
    0x20003: "cpg.mcast",
    0x20004: "cpg.downlist_old",
    0x20005: "cpg.downlist",
    0x20006: "cpg.partial_mcast",
    0x50000: "votequorum.nodeinfo",
    0x50001: "votequorum.reconfigure",
    0x50002: "votequorum.qdevice_reg",
    0x50003: "votequorum.qdevice_reconfigure",
}
_SYNC_NAMES: Final = {0: "sync.barrier", 1: "sync.service_build"}

_REASONS: Final = {0: "undefined", 1: "join", 2: "leave", 3: "nodedown", 4: "nodeup", 5: "procdown"}
_PIECES: Final = {wire.PIECE_FIRST: "first", wire.PIECE_CONTINUED: "continued", wire.PIECE_LAST: "last"}
_NODE_FLAGS: Final = {
    1: "quorate",
    2: "leaving",
    4: "wait_for_all",
    8: "first",
    16: "qdevice_registered",
    32: "qdevice_alive",
    64: "qdevice_cast_vote",
    128: "qdevice_master_wins",
}
_RECONFIGURED: Final = {1: "expected_votes", 2: "votes", 3: "cancel wait_for_all"}
_CMAP_REASONS: Final = {0: "sync", 1: "new config_version"}
_SIGNED: Final = {1, 3, 5, 7}
_UNSIGNED: Final = {2, 4, 6, 8}
_STRING: Final = 11


def explain(message: bytes) -> Explanation | None:
    """Explain a message of the groups "a" or "sync", group header included; None if it is for another group."""
    if message.startswith(wire.GROUP_A):
        declared, names, header_at = schema.MESSAGE_A, _NAMES, len(wire.GROUP_A)
    elif message.startswith(wire.GROUP_SYNC):
        declared, names, header_at = schema.MESSAGE_SYNC, _SYNC_NAMES, len(wire.GROUP_SYNC)
    else:
        return None
    exec_id = int.from_bytes(message[header_at : header_at + 4], "little")
    name = names.get(exec_id) or _unknown(exec_id)
    size = f"{len(message)} bytes"
    fault = _fault(message)
    try:
        fields = declared.parse(message)
    except ConstructError:
        return Explanation(name, size, None, fault=fault or "not as the schema has it")
    write = _TEXTS.get(name, _fields)
    text = write(fields.body) if isinstance(fields.body, Container) else payload(fields.body)
    return Explanation(name, text, fields, _group_of(fields.body), fault)


def explain_payload(label: bytes, message: bytes) -> Explanation | None:
    """Explain an mcast that is a payload, from its label."""
    name = "cpg.mcast"
    try:
        wire.decode_label(label)
        fields = schema.LABEL.parse(label)
    except (MalformedDatagram, ConstructError) as fault:
        return Explanation(name, payload(message), None, fault=str(fault) or "not as the schema has it")
    fields.message = message
    text = f'"{_text(fields.group_name)}" pid {fields.pid}: {payload(message)}'
    return Explanation(name, text, fields, fields.group_name)


def _unknown(exec_id: int) -> str:
    service, function = exec_id >> 16, exec_id & 0xFFFF
    return f"{_SERVICES.get(service, f'service_{service}')}.function_{function}"


def _fault(message: bytes) -> str:
    """Return why a node would drop the message."""
    try:
        wire.decode(message)
    except MalformedDatagram as malformed:
        return malformed.cause
    return ""


def _group_of(body: object) -> bytes:
    return _name(body.group_name) if isinstance(body, Container) and "group_name" in body else b""


def _name(group_name: Container) -> bytes:
    name: bytes = group_name.value[: group_name.length]
    return name


def _quoted(group_name: Container) -> str:
    return f'"{printable(_name(group_name))}"'


def _fields(body: Container) -> str:
    """Return all fields by their names in the schema, without padding."""
    return " ".join(f"{name} {value}" for name, value in body.items() if not name.startswith(("_", "pad", "reserved")))


def _process(body: Container) -> str:
    return f"{_quoted(body.group_name)} pid {body.pid} reason {_REASONS.get(body.reason, body.reason)}"


def _joinlist(body: Container) -> str:
    entries = ", ".join(f"{_quoted(entry.group_name)} pid {entry.pid}" for entry in body.entries)
    return entries or "nobody"


def _mcast(body: Container) -> str:
    return f"{_quoted(body.group_name)} pid {body.pid}: {payload(body.message)}"


def _partial_mcast(body: Container) -> str:
    piece = _PIECES.get(body.type, body.type)
    return f"{_quoted(body.group_name)} pid {body.pid} {piece} piece of {body.msglen} bytes: {payload(body.message)}"


def _downlist(body: Container) -> str:
    left = body.nodeids[: min(body.left_nodes, len(body.nodeids))]
    return f"of {body.old_members} left {_numbers(left)}"


def _cmap(body: Container) -> str:
    items = ", ".join(f"{_text(item.key[: item.key_length])} = {_cmap_value(item)}" for item in body["items"])
    return f"{_CMAP_REASONS.get(body.reason, body.reason)}: {items}"


def _cmap_value(item: Container) -> str:
    value = item.value[: item.value_length]
    if item.value_type == 0:
        return "absent"
    if item.value_type in _SIGNED | _UNSIGNED:
        return str(int.from_bytes(value, "little", signed=item.value_type in _SIGNED))
    return f'"{_text(value)}"' if item.value_type == _STRING else shortened_hex(value)


def _killnode(body: Container) -> str:
    return f'node {body.nodeid}, reason "{_text(body.reason[: body.reason_length])}"'


def _reload(body: Container) -> str:
    return f"asked for at node {body.source.nodeid}"


def _nodeinfo(body: Container) -> str:
    flags = [name for bit, name in _NODE_FLAGS.items() if body.flags & bit]
    rest = body.flags & ~sum(_NODE_FLAGS)
    flags += [f"{rest:#x}"] if rest else []
    who = f"node {body.nodeid}" if body.nodeid else "qdevice"
    return f"{who} votes {body.votes} expected_votes {body.expected_votes} flags {' '.join(flags) or '-'}"


def _reconfigure(body: Container) -> str:
    return f"node {body.nodeid} {_RECONFIGURED.get(body.param, f'parameter {body.param}')} {body.value}"


def _barrier(body: Container) -> str:
    return f"ring {body.ring_id.rep}.{body.ring_id.seq:x}"


def _service_build(body: Container) -> str:
    ids = body.service_list[: max(0, min(body.service_list_entries, len(body.service_list)))]
    services = " ".join(_SERVICES.get(number, str(number)) for number in ids)
    return f"ring {body.ring_id.rep}.{body.ring_id.seq:x} services {services or '-'}"


def _numbers(numbers: Iterable[int]) -> str:
    return " ".join(map(str, numbers)) or "-"


def _text(data: bytes) -> str:
    return printable(data.rstrip(b"\0"))


_TEXTS: Final[dict[str, Callable[[Container], str]]] = {
    "cmap.mcast": _cmap,
    "cfg.killnode": _killnode,
    "cfg.reload": _reload,
    "cpg.procjoin": _process,
    "cpg.procleave": _process,
    "cpg.joinlist": _joinlist,
    "cpg.mcast": _mcast,
    "cpg.partial_mcast": _partial_mcast,
    "cpg.downlist": _downlist,
    "votequorum.nodeinfo": _nodeinfo,
    "votequorum.reconfigure": _reconfigure,
    "sync.barrier": _barrier,
    "sync.service_build": _service_build,
}

LAYER: Final = Layer(frozenset({*_NAMES.values(), *_SYNC_NAMES.values()}), explain, explain_payload)
