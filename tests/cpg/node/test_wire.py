"""The exec messages of real nodes are read, rebuilt, and written with the same bytes; hostile ones are refused."""

from collections import Counter

import pytest
from construct import Container, ListContainer, StreamError
from hypothesis import given, settings
from hypothesis import strategies as st

from cpg.events import Reason
from cpg.node import schema
from cpg.node.wire import (
    GROUP_A,
    GROUP_SYNC,
    Barrier,
    Downlist,
    Joinlist,
    KeyPhase,
    Killnode,
    Mcast,
    PartialMcast,
    Process,
    Procjoin,
    Procleave,
    Reconfigure,
    Reload,
    ServiceBuild,
    decode,
    decode_label,
    mcast_label,
    mcast_prefix,
)
from tests.totem.wire.captures import CAPTURES, group_messages
from totem.configuration import RingId
from totem.errors import MalformedDatagram

each_capture = pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.name.removesuffix(".pcap.gz"))
hostile = settings(max_examples=300, derandomize=True, deadline=None, database=None)

GROUP_HEADERS = {b"a": GROUP_A, b"sync": GROUP_SYNC}


def exec_messages(path):
    """Return sender and bytes of every exec message of a capture, as totem delivers them."""
    return [(message.sender, GROUP_HEADERS[message.group] + message.data) for message in group_messages(path)]


def parse(message):
    return (schema.MESSAGE_A if message.startswith(GROUP_A) else schema.MESSAGE_SYNC).parse(message)


def build(packet, message):
    return (schema.MESSAGE_A if message.startswith(GROUP_A) else schema.MESSAGE_SYNC).build(packet)


def without_ignored(packet):
    """Return the parsed message with zero in all padding, in the pointer of the source, and behind a name and a list's
    end.
    """
    if isinstance(packet, ListContainer):
        return ListContainer(map(without_ignored, packet))
    if not isinstance(packet, Container):
        return packet
    clean = Container({key: without_ignored(value) for key, value in packet.items() if key != "_io"})
    for key, value in clean.items():
        if key.startswith("pad"):
            clean[key] = bytes(len(value))
    if "conn" in clean:
        clean.conn = 0
    if "length" in clean and "value" in clean:
        clean.value = clean.value[: clean.length].ljust(128, b"\0")
    if "nodeids" in clean:  # a list of before shows behind the end of a shorter one
        clean.nodeids = [*clean.nodeids[: clean.left_nodes], *[0] * (384 - clean.left_nodes)]
    return clean


def encode(noun, sender):
    if isinstance(noun, Mcast | PartialMcast):
        return noun.encode(sender)
    return noun.encode()


@each_capture
def test_the_schema_rebuilds_every_message_garbage_included(path):
    messages = exec_messages(path)
    assert messages
    for _, message in messages:
        packet = parse(message)
        assert packet.header.size == len(message) - len(packet.group)
        assert not isinstance(packet.body, bytes), f"unknown message {packet.header.id:#x}"
        assert build(packet, message) == message


@each_capture
def test_the_codec_reads_what_the_schema_reads_and_writes_it_back_without_garbage(path):
    for sender, message in exec_messages(path):
        noun = decode(message)
        packet = parse(message)
        if noun is None:
            assert packet.header.id >> 16 in {0, 1, 5}
        elif not isinstance(noun, Killnode | Reconfigure | Reload):
            assert encode(noun, sender) == build(without_ignored(packet), message)


def test_the_captures_hold_every_message_that_nodes_send():
    nouns = Counter(type(decode(message)).__name__ for path in CAPTURES for _, message in exec_messages(path))
    assert set(nouns) == {
        "Procjoin",
        "Procleave",
        "Joinlist",
        "Mcast",
        "PartialMcast",
        "Downlist",
        "ServiceBuild",
        "Barrier",
        "Killnode",
        "Reload",
        "Nodeinfo",
        "NoneType",
    }


def test_an_order_to_change_keys():
    phase = bytes.fromhex("0100010061 0400010000000000 1800000000000000 0100000000000000")
    assert decode(phase) == KeyPhase(1)
    with pytest.raises(MalformedDatagram):
        decode(phase[:-1])


def test_garbage_and_every_reason_to_leave_are_among_them():
    messages = [message for path in CAPTURES for _, message in exec_messages(path)]
    assert any(build(without_ignored(parse(message)), message) != message for message in messages)
    nouns = [decode(message) for message in messages]
    assert {noun.reason for noun in nouns if isinstance(noun, Procleave)} == {Reason.LEAVE, Reason.PROCDOWN}
    (order,) = {noun for noun in nouns if isinstance(noun, Killnode | Reconfigure)}
    assert order.node_id == 2


SAMPLES = [
    Procjoin(b"demo", 12727),
    Procleave(b"x" * 128, 2**32 - 1),
    Procleave(b"demo", 1, Reason.PROCDOWN),
    Joinlist(()),
    Joinlist((Process(b"a", 1), Process(b"\0b", 2))),
    Mcast(b"demo", 7, b""),
    Mcast(b"demo", 7, b"payload"),
    PartialMcast(b"demo", 7, 2_000_000, 1, b"first"),
    Downlist(3, (2, 3)),
    Downlist(0, ()),
    ServiceBuild(RingId(1, 2**40), (2,)),
    ServiceBuild(RingId(1, 8), tuple(range(128))),
    Barrier(RingId(3, 4)),
]


@pytest.mark.parametrize("noun", SAMPLES, ids=lambda noun: type(noun).__name__)
def test_every_message_is_read_as_it_was_written_and_by_the_schema_too(noun):
    message = encode(noun, 3)
    assert decode(message) == noun
    assert build(parse(message), message) == message


@pytest.mark.parametrize("noun", SAMPLES, ids=lambda noun: type(noun).__name__)
def test_a_message_that_is_cut_short_is_malformed(noun):
    message = encode(noun, 3)
    for length in range(len(message)):
        try:
            assert decode(message[:length]) is None
        except MalformedDatagram:
            continue
        assert not message[:length].startswith((GROUP_A, GROUP_SYNC))


def test_the_prefix_is_what_stands_before_every_payload_of_its_size():
    assert mcast_prefix(b"demo", 7, 5, 3) + b"12345" == Mcast(b"demo", 7, b"12345").encode(3)


@hostile
@given(st.binary(min_size=1, max_size=128), st.integers(0, 2**32 - 1))
def test_a_label_says_the_same_to_all(name, pid):
    label = mcast_label(name, pid)
    assert label == schema.LABEL.build({"pid": pid, "group_name": name})
    assert decode_label(label) == (name, pid)


@hostile
@given(st.binary(max_size=140))
def test_random_labels(label):
    try:
        name, pid = decode_label(label)
    except MalformedDatagram:
        assert not 5 <= len(label) <= 132
    else:
        assert mcast_label(name, pid) == label


def patched(noun, offset, value):
    """Return the message with a 32-bit field overwritten; `offset` counts from the exec header."""
    message = bytearray(encode(noun, 3))
    at = len(GROUP_SYNC if message.startswith(GROUP_SYNC) else GROUP_A) + offset
    message[at : at + 4] = value.to_bytes(4, "little")
    return bytes(message)


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        (GROUP_A + b"\0" * 15, "short exec header"),
        (patched(Procjoin(b"g", 1), 8, 167), "exec size"),
        (patched(Procjoin(b"g", 1), 8, 169), "exec size"),
        (patched(Procjoin(b"g", 1), 8, 2**32 - 1), "exec size"),
        (patched(Procjoin(b"g", 1), 16, 129), "group name length"),
        (patched(Joinlist((Process(b"g", 1),)), 32, 2**32 - 1), "group name length"),
        (patched(Joinlist(()), 8, 25) + b"\0", "joinlist size"),
        (patched(Mcast(b"g", 1, b"x"), 152, 2), "mcast length"),
        (patched(PartialMcast(b"g", 1, 9, 1, b"x"), 160, 0), "partial mcast length"),
        (patched(PartialMcast(b"g", 1, 9, 1, b"x"), 176, 4), "partial mcast type"),
        (patched(Downlist(0, ()), 24, 385), "downlist count"),
        (patched(ServiceBuild(RingId(1, 4), ()), 32, 129), "service count"),
        (patched(ServiceBuild(RingId(1, 4), ()), 32, 2**32 - 1), "service count"),
    ],
)
def test_what_no_correct_node_sends_is_malformed_and_named(message, cause):
    with pytest.raises(MalformedDatagram) as caught:
        decode(message)
    assert caught.value.cause == cause


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\0",
        b"\2\0\1\0\1\0ab",
        b"\1\0\1\0b" + bytes(16),
        patched(Procjoin(b"g", 1), 0, 0x20004),
        patched(Procjoin(b"g", 1), 0, 0x7F0000),
        patched(Procjoin(b"g", 1), 0, 0xFFFFFFFF),
        patched(Barrier(RingId(1, 4)), 0, 2),
    ],
)
def test_other_groups_services_and_functions_are_ignored(message):
    assert decode(message) is None


def test_bytes_behind_a_message_of_fixed_size_are_ignored():
    assert decode(patched(Procjoin(b"g", 1), 8, 176) + bytes(8)) == Procjoin(b"g", 1)


def test_a_strange_reason_still_takes_a_process_out():
    assert decode(patched(Procleave(b"g", 1), 160, 77)) == Procleave(b"g", 1, Reason.LEAVE)


@hostile
@given(
    st.sampled_from(SAMPLES).map(lambda noun: bytearray(encode(noun, 3))),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6),
    st.binary(max_size=20),
)
def test_any_damage_is_named_or_read_as_the_schema_reads_it(message, damage, tail):
    for offset, value in damage:
        message[offset % len(message)] = value
    message = bytes(message) + tail
    try:
        noun = decode(message)
    except MalformedDatagram:
        return
    if noun is None or tail or isinstance(noun, Procleave | Killnode):
        return
    rebuilt = encode(noun, int.from_bytes(message[173:177], "little") if isinstance(noun, Mcast) else 3)
    assert decode(rebuilt) == noun


@hostile
@given(st.sampled_from([GROUP_A, GROUP_SYNC]), st.sampled_from(range(8)), st.integers(0, 6), st.binary(max_size=700))
def test_random_bodies_are_named_or_read(group, service, function, body):
    exec_id = function if group == GROUP_SYNC else service << 16 | function
    header = exec_id.to_bytes(4, "little") + bytes(4) + (16 + len(body)).to_bytes(4, "little") + bytes(4)
    message = group + header + body
    try:
        noun = decode(message)
    except MalformedDatagram:
        return
    if noun is not None:
        try:
            parse(message)
        except StreamError:
            pytest.fail("the codec accepts what the schema does not")
        except Exception:  # bytes behind a message of fixed size, which the schema does not allow
            assert len(message) > len(encode(noun, 0)) or isinstance(noun, Killnode | Reconfigure)
