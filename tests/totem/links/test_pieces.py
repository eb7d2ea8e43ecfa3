"""Frames that a narrow path carries in pieces only."""

import random

import pytest

from totem.links.path import SMALLEST_MTU
from totem.links.pieces import LONGEST, MOST_OPEN, MOST_PARTS, PATIENCE, Pieces, cut
from totem.wire import probes

ROOM = 548


def said(datagram, number, room=ROOM):
    return [probes.decode_piece(piece) for piece in cut(datagram, number, 3, room)]


def test_pieces_in_any_order_and_doubled_make_the_datagram():
    dice = random.Random(1)
    for number in range(100):
        datagram = dice.randbytes(dice.randrange(1, 3000))
        pieces = [*cut(datagram, number, 3, ROOM)]
        assert max(map(len, pieces)) <= ROOM
        dice.shuffle(pieces)
        taken = Pieces()
        whole = [taken.add(probes.decode_piece(piece), 1.0) for piece in [*pieces[:-1], *pieces]]
        assert datagram in whole
        assert {one for one in whole if one is not None} == {datagram}


def test_pieces_of_several_datagrams_may_mix_and_the_oldest_are_forgotten():
    datagrams = [bytes([k]) * 1000 for k in range(MOST_OPEN + 1)]
    taken = Pieces()
    firsts, lasts = zip(*(said(datagram, number) for number, datagram in enumerate(datagrams)), strict=True)
    assert {taken.add(piece, 1.0) for piece in firsts} == {None}
    assert [taken.add(piece, 1.0) for piece in lasts[1:]] == datagrams[1:]
    assert taken.add(lasts[0], 1.0) is None


def test_what_nobody_cuts_so_is_dropped():
    taken = Pieces()
    assert taken.add(probes.Piece(3, 1, 0, 2, b"a"), 1.0) is None
    assert taken.add(probes.Piece(3, 1, 5, 6, b"b"), 1.0) is None, "another number of parts"
    assert taken.add(probes.Piece(3, 1, 1, 2, b"c"), 1.0) is None
    for part in range(200):
        assert taken.add(probes.Piece(3, 2, part, 200, bytes(LONGEST // 100)), 1.0) is None, "longer than any datagram"
    assert probes.decode_piece(probes.piece(3, 1, 2, 2, b"x")) is None
    assert probes.decode_piece(probes.piece(3, 1, 0, 0, b"x")) is None
    assert probes.decode_piece(probes.piece(3, 1, 0, 1, b"")) is None
    assert probes.decode_piece(b"TtmX" + bytes(40)) is None


def test_pieces_that_never_become_whole_cost_little_and_are_forgotten():
    taken = Pieces()
    for number in range(100):
        for part in range(MOST_PARTS):
            assert taken.add(probes.Piece(3, number, part, 65535, b"x"), 1.0) is None
    assert not taken._begun, "nobody cuts a datagram into so many"
    narrowest = SMALLEST_MTU // 4 - 48
    assert len([*cut(bytes(LONGEST), 1, 3, narrowest)]) < MOST_PARTS


@pytest.mark.parametrize(("later", "whole"), [(PATIENCE / 2, b"new"), (2 * PATIENCE, None)])
def test_what_a_sender_has_begun_before_it_was_started_anew_is_mixed_with_nothing(later, whole):
    taken = Pieces()
    assert taken.add(probes.Piece(3, 1, 1, 2, b"w"), 1.0) is None
    assert taken.add(probes.Piece(3, 1, 0, 2, b"ne"), 1.0 + later) == whole
