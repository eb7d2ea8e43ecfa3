"""Codec and schema say the same of any message, valid or not."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.totem.wire import strategies
from tests.totem.wire.captures import CAPTURES, ring_datagrams
from tests.totem.wire.properties import check_blocks, check_datagram, check_frame, noun
from totem.configuration import RingId
from totem.wire import codec, schema
from totem.wire.messages import Hint, Row
from totem.wire.rows import encode_rows

seeded = settings(derandomize=True, deadline=None, max_examples=300, database=None)


def samples() -> list[bytes]:
    """Return one captured datagram for each type and length."""
    found = {}
    for path in CAPTURES:
        for datagram in ring_datagrams(path):
            found.setdefault((datagram.payload[3], len(datagram.payload)), datagram.payload)
    return list(found.values())


@seeded
@given(strategies.message)
def test_valid_messages(message):
    datagram = codec.encode(message)
    assert codec.decode(datagram) == message
    packet = schema.parse(datagram)
    assert noun(packet) == message
    assert schema.build(packet) == datagram
    assert check_datagram(datagram) is None


@seeded
@given(strategies.message.map(codec.encode), st.binary(min_size=1, max_size=30))
def test_valid_messages_with_something_behind_them(datagram, behind):
    if codec.packet_type(datagram) != codec.TYPE_MCAST:
        assert check_datagram(datagram + behind) is None


@seeded
@given(strategies.mutated(strategies.message.map(codec.encode)))
def test_mutated_messages(datagram):
    check_datagram(datagram)


@seeded
@given(strategies.mutated(st.sampled_from(samples())))
def test_mutated_captures(datagram):
    check_datagram(datagram)


@seeded
@given(strategies.frames())
def test_valid_frames(frame):
    assert check_frame(frame) is None


@seeded
@given(strategies.mutated(strategies.frames()))
def test_mutated_frames(frame):
    check_frame(frame)


@seeded
@given(strategies.hello)
def test_hellos(hello):
    block = codec.encode_hello(hello)
    assert codec.decode_hello(block) == hello
    read = schema.Hello.parse(block)
    assert schema.Hello.build(read) == block
    values = {item.tag: item.value for item in read["values"]}
    absent = {schema.layout.TAG_ASK} if hello.ask is None else set()
    assert set(values) == set(schema.HELLO_VALUES) - absent
    assert list(values[schema.layout.TAG_OBLIGATIONS]) == list(hello.obligations)


@seeded
@given(strategies.hint)
def test_hints(hint):
    block = codec.encode_hint(hint)
    assert codec.decode_hint(block) == hint
    read = schema.Hint.parse(block)
    assert schema.Hint.build(read) == block
    absent = set() if hint.nodelist else {schema.layout.TAG_NODELIST}
    absent |= {schema.layout.TAG_ROWS} if hint.rows is None else set()
    assert {item.tag for item in read["values"]} == set(schema.HINT_VALUES) - absent
    assert named_rows(read) == hint.rows


def named_rows(block):
    """Return the rows of a hint that the schema has read; None where it has none that can be read."""
    said = [item.value for item in block["values"] if item.tag == schema.layout.TAG_ROWS]
    if not said or isinstance(said[-1], bytes):
        return None
    nodes = said[-1].nodes
    return tuple(
        Row(
            nodes[row.place],
            *(row.incarnation, row.number, row.votes, RingId(row.ring_id.rep, row.ring_id.seq)),
            *(
                frozenset(node for place, node in enumerate(nodes) if row[name] >> place & 1)
                for name in ("hears", "lacks", "linked", "unlinked")
            ),
        )
        for row in said[-1].rows
    )


@seeded
@given(strategies.mutated(strategies.rows().map(encode_rows)))
def test_mutated_rows(block):
    hint = codec.encode_hint(Hint("", 0, 0)) + schema.layout.TAG.pack(schema.layout.TAG_ROWS, len(block)) + block
    read = codec.decode_hint(hint)
    assert read is not None
    assert named_rows(schema.Hint.parse(hint)) == read.rows


@seeded
@given(strategies.mutated(strategies.hello.map(codec.encode_hello) | strategies.hint.map(codec.encode_hint)))
def test_mutated_blocks(block):
    check_blocks(block)
