"""Random messages, and what a bad network makes of their bytes."""

from hypothesis import strategies as st

from totem.configuration import RingId
from totem.wire import codec
from totem.wire.messages import (
    Ask,
    CommitEntry,
    CommitToken,
    Hello,
    Hint,
    HoldCancel,
    Join,
    Mcast,
    MergeDetect,
    Row,
    Token,
)

u8 = st.integers(0, 0xFF)
u32 = st.integers(0, 0xFFFFFFFF)
u64 = st.integers(0, 0xFFFFFFFFFFFFFFFF)
node_id = st.integers(1, 0xFFFFFFFF)
ring_id = st.builds(RingId, u32, u64)

token = st.builds(
    Token,
    sender=node_id,
    ring_id=ring_id,
    seq=u32,
    token_seq=u32,
    aru=u32,
    aru_holder=u32,
    backlog=u32,
    fcc=u32,
    retransmit_flag=u32,
    requests=st.lists(st.tuples(ring_id, u32), max_size=30),
)


def frames(max_pieces: int = 8, max_length: int = 40) -> st.SearchStrategy[bytes]:
    """Return whole frames, header and pieces."""
    return st.builds(
        lambda pieces, fragmented, continuation: b"".join(
            (codec.frame([len(piece) for piece in pieces], fragmented, continuation), *pieces)
        ),
        st.lists(st.binary(max_size=max_length), min_size=1, max_size=max_pieces),
        u8,
        u8,
    )


plain_mcast = st.builds(
    Mcast,
    sender=node_id,
    origin=node_id,
    seq=u32,
    ring_id=ring_id,
    this_seqno=u32,
    guarantee=u32,
    data=frames(),
)
mcast = plain_mcast | st.builds(
    Mcast,
    sender=node_id,
    origin=node_id,
    seq=u32,
    ring_id=ring_id,
    this_seqno=u32,
    guarantee=u32,
    encapsulated=st.just(True),
    data=plain_mcast.map(codec.encode),
)
node_ids = st.lists(node_id, max_size=12).map(tuple)
join = st.builds(
    Join,
    sender=u32,
    origin=node_id,
    ring_seq=u64,
    candidates=node_ids,
    failed=node_ids,
    hint=st.binary(max_size=20),
)


@st.composite
def commit_tokens(draw):
    members = tuple(sorted(draw(st.sets(node_id, min_size=1, max_size=8))))
    entry = st.builds(CommitEntry, ring_id, u32, u32, u32)
    return CommitToken(
        sender=draw(node_id),
        token_seq=draw(u32),
        ring_id=draw(ring_id),
        members=members,
        entries=[draw(entry) for _ in members],
        index=draw(st.integers(0, len(members))),
        retransmit_flag=draw(u32),
    )


merge_detect = st.builds(MergeDetect, node_id, node_id, ring_id)
hold_cancel = st.builds(HoldCancel, node_id, ring_id)
message = st.one_of(token, mcast, join, commit_tokens(), merge_detect, hold_cancel)

hello = st.builds(
    Hello,
    version=st.integers(1, 0xFFFF),
    features=u64,
    old_ring_id=ring_id,
    safe_line=u32,
    obligations=node_ids,
    window=u32,
    largest_pause_ms=u32,
    frame_size=u32,
    daemon=st.booleans(),
    ask=st.none() | st.builds(Ask, u32, st.integers(0, 255)),
)


@st.composite
def rows(draw):
    """Return rows of some of a few nodes, each of which says at most one thing of each node."""
    table = sorted(draw(st.sets(node_id, min_size=1, max_size=10)))
    found = []
    for origin in draw(st.lists(st.sampled_from(table), min_size=1, unique=True)):
        said = [draw(st.lists(st.integers(0, 2), min_size=len(table), max_size=len(table))) for _ in range(2)]
        sets = [frozenset(n for n, what in zip(table, of, strict=True) if what == k) for of in said for k in (0, 1)]
        found.append(Row(origin, draw(u64), draw(u32), draw(u32), draw(ring_id), *sets))
    return tuple(found)


hint = st.builds(
    Hint,
    cluster_name=st.text(max_size=40),
    frame_size=u32,
    features=u64,
    nodelist=st.frozensets(node_id, max_size=5),
    rows=st.none() | rows(),
)


@st.composite
def mutated(draw, originals):
    """Return bytes of one of the originals, some of them changed, cut or inserted, more often at the front."""
    data = bytearray(draw(originals))
    for _ in range(draw(st.integers(1, 4))):
        front = min(len(data), 60)
        place = draw(st.integers(0, front) | st.integers(0, len(data)))
        match draw(st.sampled_from(["flip", "byte", "cut", "insert", "word"])):
            case "flip" if place < len(data):
                data[place] ^= 1 << draw(st.integers(0, 7))
            case "byte" if place < len(data):
                data[place] = draw(u8)
            case "cut":
                del data[place:]
            case "insert":
                data[place:place] = draw(st.binary(min_size=1, max_size=4))
            case "word":
                data[place : place + 4] = draw(u32).to_bytes(4, "little")
    return bytes(data)
