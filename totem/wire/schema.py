"""The same formats declared in `construct`, field by field with Corosync's names: the reference.

The tests check `codec` against it, and the tables of `docs/wire.md` are drawn from it. It is far too slow for the core,
which never imports it. A packet is rebuilt exactly as it was parsed, with the garbage in ignored fields.
"""

from __future__ import annotations

from construct import (
    Array,
    Bytes,
    BytesInteger,
    Check,
    Const,
    Construct,
    Container,
    Default,
    Flag,
    FocusedSeq,
    GreedyBytes,
    GreedyRange,
    GreedyString,
    IfThenElse,
    Int8sl,
    Int8ul,
    Int16ub,
    Int16ul,
    Int32ul,
    Int64ul,
    NoneOf,
    OneOf,
    Prefixed,
    Rebuild,
    Select,
    Struct,
    Switch,
    Terminated,
    len_,
    this,
)

from totem.wire import knet, layout
from totem.wire.layout import (
    FRAME_COMPACT,
    FRAME_CONTROL,
    FRAME_PLAIN,
    MAGIC,
    MAX_PROCESSORS,
    MAX_REQUESTS,
    MESSAGE_ENCAPSULATED,
    MESSAGE_NOT_ENCAPSULATED,
    TYPE_COMMIT_TOKEN,
    TYPE_HOLD_CANCEL,
    TYPE_JOIN,
    TYPE_MCAST,
    TYPE_MERGE_DETECT,
    TYPE_TOKEN,
    VERSION,
)
from totem.wire.rows import MOST_ROWS

NodeId = NoneOf(Int32ul, [0])


def header(kind: Construct, nodeid: Construct = NodeId, encapsulated: Construct = Int8ul) -> Construct:
    """Return the header of packets of one kind."""
    return Struct(
        "magic" / Const(MAGIC, Int16ul) * "0xc070",
        "version" / Const(VERSION, Int8ul) * "3",
        "type" / kind * "0 orf_token, 1 mcast, 2 merge_detect, 3 join, 4 commit_token, 5 token_hold_cancel",
        "encapsulated" / encapsulated * "mcast: 2, or 1 if its data is an old mcast; else 0, and not read",
        "nodeid" / nodeid * "sender; of a token the last forwarder; of a leave message 0",
        "target_nodeid" / Int32ul * "not used by udp and udpu: garbage from Corosync, 0 from this package",
    )


Header = header(OneOf(Int8ul, list(range(TYPE_HOLD_CANCEL + 1))), nodeid=Int32ul)

Rest = "rest" / Default(GreedyBytes, b"") * "tolerated; nothing from Corosync"

RingId = Struct(
    "rep" / Int32ul * "node id of the representative",
    "seq" / Int64ul * "never used twice by one representative",
)

RtrItem = Struct(
    "ring_id" / RingId,
    "seq" / Int32ul * "number of the missing message",
)

OrfToken = Struct(
    "header" / header(Const(TYPE_TOKEN, Int8ul)),
    "seq" / Int32ul * "highest number given out on this ring",
    "token_seq" / Int32ul * "one more at each hop; a token that is not newer than the last one seen is a copy",
    "aru" / Int32ul * "all received up to",
    "aru_addr" / Int32ul * "node id of the one that lowered aru; 0: none",
    "ring_id" / RingId,
    "backlog" / Int32ul * "sum of the members' send queues, in frames",
    "fcc" / Int32ul * "frames sent in the last rotation by all",
    "retrans_flg" / Int32ul * "recovery: some member still has old messages to send",
    "rtr_list_entries" / Rebuild(Int32ul, len_(this.rtr_list)) * "at most 30",
    Check(this.rtr_list_entries <= MAX_REQUESTS),
    "rtr_list" / Array(this.rtr_list_entries, RtrItem) * "messages that some member misses",
    Rest,
)


def mcast(encapsulated: Construct, data: Construct) -> Construct:
    """Return a multicast whose field `encapsulated` and data are of these kinds."""
    return Struct(
        "header" / header(Const(TYPE_MCAST, Int8ul), encapsulated=encapsulated),
        "system_from" / NodeId * "originator",
        "seq" / Int32ul * "number in the ring's total order: 1, 2, 3 …",
        "this_seqno" / Int32ul * "the sender's own count of frames; no node reads it",
        "ring_id" / RingId * "ring in which seq is valid",
        "node_id" / Int32ul * "always 0",
        "guarantee"
        / Int32ul
        * "0 from Corosync, which does not read it; 1 from this package in frames with SAFE messages",
        "data" / data * "a totempg frame; if encapsulated = 1 a whole old multicast",
    )


Encapsulated = OneOf(Int8ul, [MESSAGE_ENCAPSULATED, MESSAGE_NOT_ENCAPSULATED])
InnerMcast = mcast(Encapsulated, GreedyBytes)
Mcast = mcast(Encapsulated, IfThenElse(this.header.encapsulated == MESSAGE_ENCAPSULATED, InnerMcast, GreedyBytes))

MembMergeDetect = Struct(
    "header" / header(Const(TYPE_MERGE_DETECT, Int8ul)),
    "system_from" / NodeId * "sender",
    "ring_id" / RingId,
    Rest,
)

MembJoin = Struct(
    "header" / header(Const(TYPE_JOIN, Int8ul), nodeid=Int32ul),
    "system_from" / NodeId * "sender, also in a leave message",
    "proc_list_entries" / Rebuild(Int32ul, len_(this.proc_list)) * "at most 384",
    "failed_list_entries" / Rebuild(Int32ul, len_(this.failed_list)) * "at most 384",
    "ring_seq" / Int64ul * "seq of the sender's current ring id",
    Check(this.proc_list_entries <= MAX_PROCESSORS),
    Check(this.failed_list_entries <= MAX_PROCESSORS),
    "proc_list"
    / Array(this.proc_list_entries, NodeId)
    * "nodes that the sender would have in the ring; a set, in any order",
    "failed_list" / Array(this.failed_list_entries, NodeId) * "nodes that it considers failed",
    "rest" / Default(GreedyBytes, b"") * "a hint from this package; nothing from Corosync",
)

MembCommitTokenMembEntry = Struct(
    "ring_id" / RingId * "the member's old ring",
    "aru" / Int32ul * "all of the old ring received up to",
    "high_delivered" / Int32ul * "delivered up to",
    "received_flg" / Int32ul * "1: has all that is known to exist of the old ring",
)


def ascending(node_ids: list[int]) -> bool:
    """Return whether these are distinct and in the order of the ring."""
    return node_ids == sorted(set(node_ids))


MembCommitToken = Struct(
    "header" / header(Const(TYPE_COMMIT_TOKEN, Int8ul)),
    "token_seq" / Int32ul * "one more before each sending; 1 in the first packet",
    "ring_id" / RingId * "the ring being formed",
    "retrans_flg" / Int32ul * "always 0",
    "memb_index" / Int32ul * "entries filled in so far",
    "addr_entries" / Rebuild(Int32ul, len_(this.addr)) * "1 to 384",
    Check(this.addr_entries >= 1),
    Check(this.addr_entries <= MAX_PROCESSORS),
    Check(this.memb_index <= this.addr_entries),
    "addr" / Array(this.addr_entries, NodeId) * "members, ascending, which is the ring's order",
    Check(lambda context: ascending(context.addr)),
    "memb_entry" / Array(this.addr_entries, MembCommitTokenMembEntry) * "all zero until filled",
    Rest,
)

TokenHoldCancel = Struct(
    "header" / header(Const(TYPE_HOLD_CANCEL, Int8ul)),
    "ring_id" / RingId,
    Rest,
)

PACKETS = {
    TYPE_TOKEN: OrfToken,
    TYPE_MCAST: Mcast,
    TYPE_MERGE_DETECT: MembMergeDetect,
    TYPE_JOIN: MembJoin,
    TYPE_COMMIT_TOKEN: MembCommitToken,
    TYPE_HOLD_CANCEL: TokenHoldCancel,
}


def parse(datagram: bytes) -> Container:
    """Return the totemsrp packet in a datagram, every byte of it; raise ConstructError if there is none."""
    return PACKETS[Header.parse(datagram).type].parse(datagram)


def build(packet: Container) -> bytes:
    """Return the datagram of a packet: what `parse` was given."""
    built: bytes = PACKETS[packet.header.type].build(packet)
    return built


TotempgMcast = Struct(
    "version" / Const(0, Int16ul) * "0",
    "type" / OneOf(Int16ul, [FRAME_PLAIN, FRAME_COMPACT]) * "0; from this package 1 if it has run headers",
    "fragmented" / Int8ul * "0: the last piece ends a message; else the number of this fragment",
    "continuation" / Int8ul * "0: the first piece begins a message; else `fragmented` of the frame that it continues",
    "msg_count" / Rebuild(Int16ul, len_(this.pieces)) * "pieces in the frame, at least 1",
    Check(this.msg_count >= 1),
    "msg_len"
    / Rebuild(Array(this.msg_count, Int16ul), lambda context: [len(piece) for piece in context.pieces])
    * "length of each",
    "pieces" / Array(this.msg_count, Bytes(lambda context: context.msg_len[context._index])) * "back to back",
    Terminated,
)

RunHeader = Struct(
    "number" / Int16ul * "of the label, at most 1024; 0: these messages have none",
    "count" / Int16ul * "messages of the run that the frame ends; it may begin one more",
    "label" / GreedyBytes * "at most 255 bytes: what the number stands for from here on; empty if that is known",
)

GroupHeader = Struct(
    "group_count" / Rebuild(Int16ul, len_(this.group_name)) * "always 1",
    "group_len"
    / Rebuild(Array(this.group_count, Int16ul), lambda context: [len(name) for name in context.group_name])
    * "length of each name",
    "group_name"
    / Array(this.group_count, Bytes(lambda context: context.group_len[context._index]))
    * "`a`: executive messages; `sync`: messages of the sync layer",
    "message" / GreedyBytes * "of the layer above",
)


def exactly(value: Construct) -> Construct:
    """Return a value with nothing behind it."""
    return FocusedSeq("value", "value" / value, Terminated)


def tagged(value: Construct) -> Construct:
    """Return a value with its tag."""
    return Struct(
        "tag" / Int16ul,
        "value" / Prefixed(Int16ul, value) * "a u16, which is the length of what follows, and the value",
    )


TaggedValue = tagged(GreedyBytes)


def block(magic: bytes, values: dict[int, Construct]) -> Construct:
    """Return one of this package's own blocks: values by their tags, unknown ones as bytes."""
    return Struct(
        "magic" / Const(magic) * f"`{magic.decode()}`",
        "version" / Int16ul * "1; grows when tags are added",
        "values" / GreedyRange(tagged(Switch(this.tag, values, GreedyBytes))) * "in any order",
        Terminated,
    )


FEATURES = "features" / exactly(Int64ul) * "bit set of extensions"
FRAME_SIZE = "frame_size" / exactly(Int32ul) * "largest datagram sent in plain, bytes"
Ask = Struct(
    "milliseconds" / Int32ul * "the token timeout that the member needs",
    "reason" / Int8ul * "1: it is configured, 2: a program embeds the node, 3: a pause, 4: its links",
)
ASK = "ask" / exactly(Ask) * "for how long the others should wait for the node"
HELLO_VALUES = {
    layout.TAG_FEATURES: FEATURES,
    layout.TAG_FRAME_SIZE: FRAME_SIZE,
    layout.TAG_OLD_RING_ID: "old_ring_id" / exactly(RingId) * "the ring that the node comes from",
    layout.TAG_SAFE_LINE: "safe_line" / exactly(Int32ul) * "the old ring's messages up to here are safe",
    layout.TAG_OBLIGATIONS: "obligations"
    / GreedyRange(NodeId)
    * "node ids whose old messages the node must deliver past a gap",
    layout.TAG_LARGEST_PAUSE_MS: "largest_pause_ms"
    / exactly(Int32ul)
    * "longest time that the process was seen not to run",
    layout.TAG_DAEMON: "daemon" / exactly(Flag) * "1: nothing but the node runs in the process",
    layout.TAG_WINDOW: "window" / exactly(Int32ul) * "frames that may wait for the node; 0: its windows are configured",
    layout.TAG_ASK: ASK,
}
CONTROL_VALUES = {layout.TAG_ASK: ASK}
NODE_SET = BytesInteger((this._.count + 7) // 8, swapped=True)
"""A set of nodes: bit i is set if it holds `nodes[i]`."""


def names_none_twice(row: Container) -> bool:
    """Return whether a row says no more than one thing of each node."""
    table = (1 << row._.count) - 1
    return not (row.hears & row.lacks | row.linked & row.unlinked) & table


Row = Struct(
    "place" / Int8ul * "whose row it is: its place in `nodes`",
    Check(this.place < this._.count),
    "incarnation" / Int64ul * "which life of the node this is",
    "number" / Int32ul * "which row of this life",
    "votes" / Int32ul * "its own votes",
    "ring_id" / RingId * "the ring that it was in",
    "hears" / NODE_SET * "bits in the order of `nodes`, lowest first: nodes whose Joins have come lately",
    "lacks" / NODE_SET * "nodes from which none comes",
    "linked" / NODE_SET * "nodes with which packets pass both ways, as probes say",
    "unlinked" / NODE_SET * "nodes with which they do not",
    Check(names_none_twice),
)
Rows = Struct(
    "count" / Rebuild(Int8ul, len_(this.nodes)) * f"1 to {MOST_ROWS}",
    Check(lambda context: 1 <= context.count <= MOST_ROWS),
    "nodes" / Array(this.count, NodeId) * "all nodes that the rows name, ascending",
    Check(lambda context: ascending(context.nodes)),
    "rows" / GreedyRange(Row) * "at most one of each node; the sender's own is the first",
    Check(lambda context: len({row.place for row in context.rows}) == len(context.rows)),
)

HINT_VALUES = {
    layout.TAG_FEATURES: FEATURES,
    layout.TAG_FRAME_SIZE: FRAME_SIZE,
    layout.TAG_CLUSTER_NAME: "cluster_name" / GreedyString("utf8") * "`totem.cluster_name`, UTF-8",
    layout.TAG_NODELIST: "nodelist" / GreedyRange(NodeId) * "node ids of the nodelist, up to 64; else left out",
    layout.TAG_ROWS: "rows"
    / Select(exactly(Rows), GreedyBytes)
    * "who hears whom (ruling F7); left out with more nodes than that. Malformed ones count as left out",
}
Hello = block(layout.HELLO_MAGIC, HELLO_VALUES)
Hint = block(layout.HINT_MAGIC, HINT_VALUES)
Control = block(layout.CONTROL_MAGIC, CONTROL_VALUES)
ControlFrame = Struct(
    "version" / Const(0, Int16ul) * "0",
    "type" / Const(FRAME_CONTROL, Int16ul) * "2",
    "fragmented" / Const(0, Int8ul) * "0",
    "continuation" / Const(0, Int8ul) * "0",
    "msg_count" / Const(1, Int16ul) * "1",
    "block" / Prefixed(Int16ul, Control) * "a u16, which is the length of what follows, and a block of control",
    Terminated,
)


# knet


def knet_header(kind: Construct) -> Construct:
    """Return the header of knet's packets of some kinds."""
    return Struct(
        "kh_version" / Const(knet.VERSION, Int8ul) * "1",
        "kh_type" / kind * "0x00 data, 0x81 ping, 0x82 pong, 0x83 probe of the MTU, 0x84 its answer",
        "kh_node" / Int16ub * "big endian: node id of the sender",
        "kh_max_ver" / Int8ul * "0; not read",
        "kh_pad1" / Int8ul * "0; not read",
    )


KnetHeader = knet_header(OneOf(Int8ul, [knet.DATA, knet.PING, knet.PONG, knet.PROBE, knet.PROBE_REPLY]))

KnetPing = Struct(
    "header" / knet_header(OneOf(Int8ul, [knet.PING, knet.PONG])),
    "khp_ping_link" / Int8ul * "number of the link, the same at both ends",
    "khp_ping_time" / Bytes(16) * "the clock of the node that asks: i64 seconds, i64 nanoseconds",
    "khp_ping_seq_num" / Int16ub * "big endian: number of its last data packet; 0: none since its start",
    "khp_ping_timed" / Int8ul * "1: regular; 0: it only tells the number",
    Rest,
)

KnetProbe = Struct(
    "header" / knet_header(OneOf(Int8ul, [knet.PROBE, knet.PROBE_REPLY])),
    "khp_pmtud_link" / Int8ul * "number of the link",
    "khp_pmtud_size" / Int16ul * "size of the IP packet that is tried; only given back",
    "khp_pmtud_data" / GreedyBytes * "of a probe: zeros up to the size; of an answer: nothing",
)

KnetData = Struct(
    "header" / knet_header(Const(knet.DATA, Int8ul)),
    "khp_data_seq_num" / Int16ub * "big endian: number of the user packet, the same in all fragments and to all nodes",
    "khp_data_compress" / Int8ul * "0 none, 1 zlib, 5 lzma, 6 bzip2: of the whole user packet",
    "khp_data_pad1" / Int8ul * "0; not read",
    "khp_data_bcast" / Int8ul * "1: for all; not read",
    "khp_data_frag_num" / Int8ul * "number of fragments; 1: it is whole",
    "khp_data_frag_seq" / Int8ul * "which fragment, from 1 on; 0 where it is whole",
    "khp_data_channel" / Int8sl * "0; packets of others are dropped",
    "khp_data_userdata" / GreedyBytes * "a packet of totemsrp, or a fragment of one",
)


def knet_format(packet: bytes) -> Struct:
    """Return the format of a packet by its type."""
    kind = KnetHeader.parse(packet)["kh_type"]
    return {knet.DATA: KnetData, knet.PING: KnetPing, knet.PONG: KnetPing}.get(kind, KnetProbe)
