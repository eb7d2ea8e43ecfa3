"""Items and records: written ones are read again, and wrong ones are refused by name."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpg.client.ipc import (
    RECORD,
    Item,
    Kind,
    Malformed,
    Reader,
    Writer,
    event_item,
    event_of,
    guarantee_of,
    head,
    level_of,
    link_item,
    link_of,
    messages_head,
    pack,
    send_head,
    unpack,
)
from cpg.events import Confchg, Link, Member, Quorum, Reason, TotemConfchg, Transitional
from totem.configuration import Guarantee, Level, RingId

NUMBERS = st.integers(0, 2**32 - 1)
MEMBERS = st.builds(Member, NUMBERS, NUMBERS)
CHANGES = st.dictionaries(MEMBERS, st.sampled_from(Reason), max_size=4)
NODE_IDS = st.lists(NUMBERS, max_size=5).map(tuple)
EVENTS = st.one_of(
    st.builds(Confchg, st.lists(MEMBERS, max_size=5).map(tuple), CHANGES, CHANGES),
    st.builds(Transitional, NODE_IDS),
    st.builds(TotemConfchg, st.builds(RingId, NUMBERS, st.integers(0, 2**64 - 1)), NODE_IDS),
    st.builds(Quorum, st.booleans(), NODE_IDS),
)


def records(*items):
    writer = Writer()
    for item in items:
        writer.add(*item)
    found = []
    while writer.has_records():
        found.append(writer.record())
    assert writer.size == 0
    return found


def read(found, reader=None):
    reader = reader or Reader()
    return [item for record in found for item in reader.items(record)]


@pytest.mark.parametrize("link", [Link(2, 0, True, 1500, 1764590000.25), Link(65535, 7, False, 0, 0.0)])
def test_the_state_of_a_link(link):
    (item,) = read(records(link_item(link)))
    assert (item.kind, item.handle, link_of(item)) == (Kind.LINK, 0, link)
    with pytest.raises(Malformed, match="LINK of 7 bytes"):
        link_of(item._replace(body=item.body[:-1]))


@given(NUMBERS, EVENTS)
def test_events(handle, event):
    (item,) = read(records(event_item(handle, event)))
    assert item.handle == handle
    assert event_of(item) == event


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=20), st.sampled_from(Level), MEMBERS)
def test_messages(payloads, level, sender):
    packed = pack(payloads)
    (item,) = read(records((messages_head(7, level, sender, packed), packed.body)))
    assert (item.kind, item.handle, Member(item.a, item.b), level_of(item)) == (Kind.MESSAGES, 7, sender, level)
    assert unpack(item) == payloads


@pytest.mark.parametrize("payloads", [[b""], [b"", b""], [b"ab", b"cd"], [b"ab", b"c"], [b"x" * 300_000]])
def test_messages_to_be_sent(payloads):
    packed = pack(payloads)
    (item,) = read(records((send_head(3, Guarantee.SAFE, packed), packed.body)))
    assert (item.handle, guarantee_of(item), unpack(item)) == (3, Guarantee.SAFE, payloads)


@given(st.lists(st.integers(0, 3 * RECORD), max_size=12))
def test_items_of_all_lengths_come_whole_and_in_order_in_records_that_fit(lengths):
    items = [(head(Kind.ASK, number, length), bytes([number]) * length) for number, length in enumerate(lengths)]
    found = records(*items)
    assert all(len(record) <= RECORD for record in found)
    assert [(item.handle, item.body) for item in read(found)] == [(n, body) for n, (_, body) in enumerate(items)]


def test_small_items_share_a_record():
    assert len(records(*[(head(Kind.ASK, 1, 10), bytes(10))] * 1000)) == 1


def test_what_was_begun_and_thrown_away_harms_nothing():
    writer = Writer()
    writer.add(head(Kind.ASK, 1, 5 * RECORD), bytes(5 * RECORD))
    found = [writer.record(), writer.record()]
    writer.discard()
    writer.add(head(Kind.GOODBYE, 0, 3), b"bye")
    assert [item.kind for item in read([*found, writer.record()])] == [Kind.GOODBYE]


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (b"", "flags missing"),
        (b"\x08", "flags 08"),
        (b"\x01abc", "continues nothing"),
        (b"\0abc", "3 bytes in place of an item's head, at byte 1"),
        (b"\0" + head(Kind.ASK, 1, 9) + b"abc", "says it has 9 bytes, and 3 follow"),
        (b"\0" + b"\xee" + head(Kind.ASK, 1, 0)[1:], "unknown kind 238"),
    ],
)
def test_a_malformed_record_is_named(record, text):
    with pytest.raises(Malformed, match=text):
        Reader().items(record)


def test_an_item_that_never_ends_is_refused_in_time():
    reader = Reader(largest=3 * RECORD)
    first = head(Kind.SEND, 1, 2 * RECORD).ljust(RECORD - 1, b"x")
    reader.items(b"\x02" + first)
    assert reader.promised == 2 * RECORD + 24
    reader.items(b"\x03" + bytes(RECORD - 1))
    with pytest.raises(Malformed, match=f"more than the {reader.promised} bytes that it has"):
        reader.items(b"\x03" + bytes(RECORD - 1))


def test_an_item_that_would_be_too_long_is_refused_at_its_head():
    reader = Reader(largest=3 * RECORD)
    item = head(Kind.JOIN, 1, 1) + b"a" + head(Kind.SEND, 1, 3 * RECORD - 24)
    with pytest.raises(Malformed, match=f"more than {3 * RECORD} bytes: {3 * RECORD + 25}"):
        reader.items(b"\x02" + item.ljust(RECORD - 1, b"x"))
    full = head(Kind.JOIN, 1, RECORD - 25)
    with pytest.raises(Malformed, match=f"more than the {RECORD - 1} bytes that it has"):
        reader.items(b"\x02" + full.ljust(RECORD - 1, b"x"))  # it is whole, and says that it goes on
    with pytest.raises(Malformed, match="10 bytes in place of an item's head"):
        reader.items(b"\x02" + head(Kind.JOIN, 1, RECORD - 35).ljust(RECORD - 1, b"x"))
    with pytest.raises(Malformed, match=f"a record of 50 bytes, not {RECORD}, of which more is to come"):
        reader.items(b"\x02" + item)


def test_what_is_promised_is_over_with_the_item():
    reader = Reader()
    body = bytes(2 * RECORD)
    item = head(Kind.SEND, 1, len(body)) + body
    first = b"\x02" + item[: RECORD - 1]
    for _ in range(2):
        assert reader.items(first) == []  # the second time, the other side has begun anew
        assert reader.promised == len(item)
    assert reader.items(b"\3" + item[RECORD - 1 : 2 * RECORD - 2]) == []
    (whole,) = reader.items(b"\1" + item[2 * RECORD - 2 :])
    assert (whole.body, reader.promised) == (body, 0)
    reader.items(first)
    assert [whole.kind for whole in reader.items(b"\0" + head(Kind.LEAVE, 1, 0))] == [Kind.LEAVE]
    assert reader.promised == 0


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (Item(Kind.SEND, 0x80, 1, 0, 0, 3, b"abcd"), "3 messages of one length in 4 bytes"),
        (Item(Kind.SEND, 0x80, 1, 0, 0, 0, b""), "0 messages"),
        (Item(Kind.SEND, 0x80, 1, 0, 0, 5, b""), "5 messages"),
        (Item(Kind.SEND, 0, 1, 0, 0, 0, b""), "0 messages"),
        (Item(Kind.SEND, 0, 1, 0, 0, 2**32 - 1, b"1234"), "4294967295 messages in 4 bytes"),
        (Item(Kind.SEND, 0, 1, 0, 0, 1, b"\x09\0\0\0abc"), "1 messages of 9 bytes in a body of 7"),
    ],
)
def test_messages_that_do_not_add_up_are_named(item, text):
    with pytest.raises(Malformed, match=text):
        unpack(item)


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (Item(Kind.CONFCHG, 0, 1, 2, 0, 0, bytes(8)), "2 members, 0 left and 0 joined in 8 bytes"),
        (Item(Kind.CONFCHG, 0, 1, 0, 1, 0, bytes(8) + b"\xff" * 4), "CONFCHG"),
        (Item(Kind.RING, 0, 1, 0, 0, 0, bytes(3)), "RING of 3 bytes"),
        (Item(Kind.QUORUM, 0, 1, 0, 0, 0, bytes(3)), "QUORUM of 3 bytes"),
        (Item(Kind.ANSWER, 0, 1, 0, 0, 0, b""), "in place of an event"),
    ],
)
def test_events_that_do_not_add_up_are_named(item, text):
    with pytest.raises(Malformed, match=text):
        event_of(item)


def test_no_bytes_raise_anything_else():
    dice = random.Random(4711)
    originals = [
        *records(event_item(1, Confchg((Member(1, 2),), {}, {Member(1, 2): Reason.JOIN}))),
        *records((send_head(3, Guarantee.SAFE, pack([b"ab", b"c"])), pack([b"ab", b"c"]).body)),
        *records((head(Kind.ASK, 1, 2 * RECORD), bytes(2 * RECORD))),
    ]
    reader = Reader()
    for _ in range(5000):
        record = bytearray(dice.choice(originals))
        for _ in range(dice.randint(0, 5)):
            record[dice.randrange(min(len(record), 80))] = dice.choice((0, 1, 255, dice.randrange(256)))
        try:
            for item in reader.items(bytes(record)):
                if item.kind in (Kind.SEND, Kind.MESSAGES):
                    unpack(item)
                    guarantee_of(item)
                else:
                    event_of(item)
        except Malformed:
            pass
