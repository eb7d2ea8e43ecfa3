"""The bytes of totemsrp and totempg: one `Struct` for each fixed part, little endian, packed, sizes asserted.

Names in the comments are Corosync's, letter by letter, in the order of the wire. Where Corosync declares an `int` this
is `I`. A negative count is then merely too large, and the one field that only grows wraps as Corosync's does.
"""

from struct import Struct
from typing import Final

MAGIC: Final = 0xC070
VERSION: Final = 3

TYPE_TOKEN: Final = 0
TYPE_MCAST: Final = 1
TYPE_MERGE_DETECT: Final = 2
TYPE_JOIN: Final = 3
TYPE_COMMIT_TOKEN: Final = 4
TYPE_HOLD_CANCEL: Final = 5

MESSAGE_ENCAPSULATED: Final = 1
MESSAGE_NOT_ENCAPSULATED: Final = 2

MAX_DATAGRAM: Final = 65536
"""Bytes of the largest packet: knet's. A UDP datagram over IPv4 has at most 65507."""
MAX_PROCESSORS: Final = 384
MAX_REQUESTS: Final = 30
"""Entries of a token's `rtr_list` (RETRANSMIT_ENTRIES_MAX)."""

HEADER: Final = Struct("<HBBBII")  # magic, version, type, encapsulated, nodeid, target_nodeid
RING_ID: Final = Struct("<IQ")  # rep, seq

# What follows the header of each packet.
TOKEN: Final = Struct("<IIIIIQIIII")
#   seq, token_seq, aru, aru_addr, ring_id.rep, ring_id.seq, backlog, fcc, retrans_flg, rtr_list_entries
REQUEST: Final = Struct("<IQI")  # struct rtr_item: ring_id.rep, ring_id.seq, seq
MERGE_DETECT: Final = Struct("<IIQ")  # system_from, ring_id.rep, ring_id.seq
JOIN: Final = Struct("<IIIQ")  # system_from, proc_list_entries, failed_list_entries, ring_seq
COMMIT_TOKEN: Final = Struct("<IIQIII")
#   token_seq, ring_id.rep, ring_id.seq, retrans_flg, memb_index, addr_entries
COMMIT_ENTRY: Final = Struct("<IQIII")
#   struct memb_commit_token_memb_entry: ring_id.rep, ring_id.seq, aru, high_delivered, received_flg
NODE_ID: Final = Struct("<I")

# A multicast with its header, in one piece, because it is packed and read so often. The ring id stays bytes, which is
# what the hot path compares.
MCAST: Final = Struct("<HBBBIIIII12sII")
#   the header's six, system_from, seq, this_seqno, ring_id, node_id, guarantee
MCAST_PREFIX: Final = Struct("<HBBBIII")  # of these: the header's six, system_from
MCAST_NUMBERS: Final = Struct("<II")  # seq, this_seqno
MCAST_SUFFIX: Final = Struct("<II")  # behind the ring id: node_id, guarantee
MCAST_IDENTITY: Final = Struct("<4xBI4xI")  # of these: encapsulated, nodeid, system_from
MCAST_IDENTITY_BYTES: Final = slice(4, 17)
"""Position of the four fields that tell a multicast's kind and sender."""
MCAST_ORIGINATED: Final = Struct("<BIII")  # these: encapsulated, nodeid, target_nodeid, system_from
MCAST_SEQ: Final = Struct("<17xI")
MCAST_ORIGIN: Final = Struct("<13xI")
MCAST_ORIGIN_AND_SEQ: Final = Struct("<13xII")
MCAST_GUARANTEE: Final = Struct("<41xI")
MCAST_RING_ID_OFFSET: Final = 25

# totempg: struct totempg_mcast and its msg_len array.
FRAME: Final = Struct("<HHBBH")  # version, type, fragmented, continuation, msg_count
FRAME_PLAIN: Final = 0
FRAME_COMPACT: Final = 1
"""Type of a frame with run headers, which is this package's own."""
FRAME_CONTROL: Final = 2
"""Type of a frame whose only piece is a control block of this package's ring layer."""
RUN: Final = Struct("<HH")  # ours: number, count

# the hello: This package's own: the hello of recovery and the hint behind a join's lists are a block header and tagged
# values.
BLOCK: Final = Struct("<4sH")  # magic, version
TAG: Final = Struct("<HH")  # tag, length of the value that follows
FLAG: Final = Struct("<?")
ASK: Final = Struct("<IB")  # milliseconds, reason
U32: Final = Struct("<I")
U64: Final = Struct("<Q")

HELLO_MAGIC: Final = b"TtmH"
HELLO_VERSION: Final = 3
HINT_MAGIC: Final = b"TtmJ"
HINT_VERSION: Final = 1
CONTROL_MAGIC: Final = b"TtmC"
CONTROL_VERSION: Final = 1
MAX_BLOCK: Final = 4096

TAG_FEATURES: Final = 1
TAG_FRAME_SIZE: Final = 2
TAG_OLD_RING_ID: Final = 3
TAG_SAFE_LINE: Final = 4
TAG_OBLIGATIONS: Final = 5
TAG_LARGEST_PAUSE_MS: Final = 6
TAG_DAEMON: Final = 7
TAG_CLUSTER_NAME: Final = 8
TAG_WINDOW: Final = 9
TAG_ASK: Final = 10
TAG_ROWS: Final = 11
TAG_NODELIST: Final = 12

assert HEADER.size == 13
assert RING_ID.size == 12
assert HEADER.size + TOKEN.size == 57
assert REQUEST.size == 16
assert HEADER.size + MERGE_DETECT.size == 29
assert HEADER.size + JOIN.size == 33
assert HEADER.size + COMMIT_TOKEN.size == 41
assert NODE_ID.size + COMMIT_ENTRY.size == 28
assert HEADER.size + RING_ID.size == 25  # the whole of token_hold_cancel
assert MCAST.size == 45
assert MCAST_PREFIX.size + MCAST_NUMBERS.size + RING_ID.size + MCAST_SUFFIX.size == MCAST.size
assert MCAST_ORIGINATED.size == MCAST_IDENTITY_BYTES.stop - MCAST_IDENTITY_BYTES.start
assert MCAST_SEQ.size == 21
assert MCAST_ORIGIN.size == 17
assert MCAST_ORIGIN_AND_SEQ.size == 21
assert MCAST_GUARANTEE.size == MCAST.size
assert MCAST_RING_ID_OFFSET + RING_ID.size + 8 == MCAST.size
assert FRAME.size == 8
assert RUN.size == 4
assert BLOCK.size == 6
