"""The executive layer's messages declared in `construct`: the reference, and the oracle of `cpg.node.wire`'s tests.

Padding is a field here, so a parsed message is built again byte for byte, garbage included. Field names are Corosync's.
Machines never import this.
"""

from __future__ import annotations

from construct import (
    Array,
    Bytes,
    Const,
    Construct,
    GreedyBytes,
    GreedyRange,
    Int8ul,
    Int16ul,
    Int32sl,
    Int32ul,
    Int64ul,
    Struct,
    Switch,
    Terminated,
    this,
)

from cpg.node.wire import GROUP_A, GROUP_SYNC

PAD4 = Bytes(4)

RING_ID = Struct("rep" / Int32ul, "seq" / Int64ul)

GROUP_NAME = Struct("length" / Int32ul, "pad" / PAD4, "value" / Bytes(128))

SOURCE = Struct("nodeid" / Int32ul, "pad" / PAD4, "conn" / Int64ul)

HEADER = Struct("id" / Int32sl, "pad1" / PAD4, "size" / Int32sl, "pad2" / PAD4)

LABEL = Struct("pid" / Int32ul, "group_name" / GreedyBytes)
"""Ours: what all mcasts of one process to one group share, where they are sent as payloads."""

PROCJOIN = Struct(
    "group_name" / GROUP_NAME,
    "pid" / Int32ul,
    "pad1" / PAD4,
    "reason" / Int32ul,
    "pad2" / PAD4,
)

JOINLIST = Struct(
    "error" / Int32sl,
    "pad" / PAD4,
    "entries" / GreedyRange(Struct("pid" / Int32ul, "pad" / PAD4, "group_name" / GROUP_NAME)),
)

MCAST = Struct(
    "group_name" / GROUP_NAME,
    "msglen" / Int32ul,
    "pad1" / PAD4,
    "pid" / Int32ul,
    "pad2" / PAD4,
    "source" / SOURCE,
    "message" / Bytes(this.msglen),
)

DOWNLIST = Struct(
    "old_members" / Int32ul,
    "pad1" / PAD4,
    "left_nodes" / Int32ul,
    "pad2" / PAD4,
    "nodeids" / Array(384, Int32ul),
)

PARTIAL_MCAST = Struct(
    "group_name" / GROUP_NAME,
    "msglen" / Int32ul,
    "pad1" / PAD4,
    "fraglen" / Int32ul,
    "pad2" / PAD4,
    "pid" / Int32ul,
    "pad3" / PAD4,
    "type" / Int32ul,
    "pad4" / PAD4,
    "source" / SOURCE,
    "message" / Bytes(this.fraglen),
)

CMAP_MCAST = Struct(
    "reason" / Int8ul,
    "pad1" / Bytes(7),
    "nitems" / Int8ul,
    "pad2" / Bytes(7),
    "reserved1" / Int8ul,
    "pad3" / Bytes(7),
    "reserved2" / Int8ul,
    "pad4" / Bytes(7),
    "items"
    / Array(
        this.nitems,
        Struct(
            "key_length" / Int16ul,
            "pad1" / Bytes(6),
            "key" / Bytes(256),
            "value_type" / Int8ul,
            "pad2" / Bytes(7),
            "value_length" / Int64ul,
            "value" / Bytes(lambda item: -item.value_length % 8 + item.value_length),
        ),
    ),
)

KILLNODE = Struct(
    "nodeid" / Int32ul,
    "pad1" / PAD4,
    "reason_length" / Int16ul,
    "pad2" / Bytes(6),
    "reason" / Bytes(256),
)

SHUTDOWN = Struct()

RELOAD = Struct("source" / SOURCE)

VOTEQUORUM_NODEINFO = Struct("nodeid" / Int32ul, "votes" / Int32ul, "expected_votes" / Int32ul, "flags" / Int32ul)

VOTEQUORUM_RECONFIGURE = Struct("nodeid" / Int32ul, "value" / Int32ul, "param" / Int8ul, "pad" / Bytes(7))

BODIES_A = {
    0x00000: CMAP_MCAST,
    0x10001: KILLNODE,
    0x10002: SHUTDOWN,
    0x10003: RELOAD,
    0x20000: PROCJOIN,
    0x20001: PROCJOIN,
    0x20002: JOINLIST,
    0x20003: MCAST,
    0x20005: DOWNLIST,
    0x20006: PARTIAL_MCAST,
    0x50000: VOTEQUORUM_NODEINFO,
    0x50001: VOTEQUORUM_RECONFIGURE,
}

BARRIER = Struct("ring_id" / RING_ID, "pad" / PAD4)

SERVICE_BUILD = Struct(
    "ring_id" / RING_ID,
    "pad1" / PAD4,
    "service_list_entries" / Int32sl,
    "pad2" / PAD4,
    "service_list" / Array(128, Int32sl),
)

BODIES_SYNC = {0: BARRIER, 1: SERVICE_BUILD}


def _message(group: bytes, bodies: dict[int, Construct]) -> Construct:
    return Struct(
        "group" / Const(group),
        "header" / HEADER,
        "body" / Switch(this.header.id, bodies, default=GreedyBytes),
        Terminated,
    )


MESSAGE_A = _message(GROUP_A, BODIES_A)
MESSAGE_SYNC = _message(GROUP_SYNC, BODIES_SYNC)
