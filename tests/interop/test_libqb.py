"""A real node and one of ours are asked the same, in bytes, over libqb's sockets: they answer the same."""

import json
import struct
import sys

import pytest
import trio

from tests.cpg.libqb.client import (
    FINALIZE,
    ITERATE,
    ITERATED,
    LOCAL_GET,
    MEMBERSHIP,
    NEXT,
    join,
    leave,
    mcast,
    name,
    piece,
    request,
)
from tests.cpg.libqb.ring import RingOfOurs
from tests.interop.ring import PATIENCE, MixedRing
from tests.interop.test_libcpg import whole

PID = 4711
HEADER = struct.Struct("<i4xi4xi4x")
EVENT = "?"
DELIVERS = {(5, 184 + length) for length in (0, 5)}
"""Ids and sizes of events in which a real node leaves the error as it finds it."""


def uint32(*values):
    return b"".join(struct.pack("<I4x", value) for value in values)


def key(text):
    return struct.pack("<H6x256s", len(text), text.encode())


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Ask both: a function of a service and requests that returns two lists of what came."""
    theirs = MixedRing(tmp_path_factory.mktemp("theirs"), 1, totem=["}", "system {", "qb_ipc_type: socket"])
    with theirs, RingOfOurs(tmp_path_factory.mktemp("ours"), 1) as ours:
        for ring in (theirs, ours):
            trio.run(whole, ring)

        def ask(service, *requests):
            lines = []
            for each in requests:
                silent = "!" if each != EVENT and each[:4] == b"\2\0\0\0" and service == "cpg" else ""
                lines.append(each if each == EVENT else silent + each.hex())
            command = (sys.executable, "-m", "tests.cpg.libqb.ask", service)
            found = [place.run(*command, stdin="\n".join(lines)) for place in (theirs.place(1), ours.place(1))]
            return [[bytes.fromhex(line) for line in lines.split()] for lines in found]

        yield ask


def header(answer):
    number, size, error = HEADER.unpack_from(answer)
    return number, size, None if (number, size) in DELIVERS else error


def same(answers, *layouts):
    """Whether two lists of answers are the same but for padding; layouts are of what follows each header."""
    theirs, ours = answers
    assert [header(each) for each in ours] == [header(each) for each in theirs]
    for layout, one, other in zip(layouts, theirs, ours, strict=True):
        if layout is not None:
            fields = struct.Struct("<" + layout)
            assert fields.unpack_from(other, HEADER.size) == fields.unpack_from(one, HEADER.size)


CONFCHG = "I4x128s I4x I4x I4x I4x I4x I4x"
DELIVER = "I4x128s I4x I4x I4x"


def test_groups(both):
    same(
        both(
            "cpg",
            leave(b"chat", PID),
            request(MEMBERSHIP, name(b"chat")),
            piece(b"data", 8, 1),
            join(b"chat", PID),
            EVENT,
            join(b"chat", PID),
            join(b"other", PID),
            mcast(b"hello"),
            EVENT,
            mcast(b""),
            EVENT,
            piece(b"he", 5, 1),
            piece(b"llo", 5, 3),
            request(MEMBERSHIP, name(b"chat")),
            request(LOCAL_GET),
            leave(b"chat", PID),
            leave(b"chat", PID),
            request(FINALIZE),
        ),
        None,
        "I4x",
        None,
        None,
        CONFCHG + "I4x I4x I4x",  # one member, one joined
        None,
        None,
        DELIVER + "5s",
        DELIVER,
        None,
        None,
        "I4x I4x I4x",
        "I4x",
        None,
        None,
        None,
    )


def test_leave_is_told(both):
    same(
        both("cpg", join(b"chat", PID, flags=1), EVENT, EVENT, leave(b"chat", PID), EVENT),
        None,
        CONFCHG + "I4x I4x I4x",
        "I4x 8x I I",
        None,
        CONFCHG,
    )


def test_iteration(both):
    description = "I4x128s II"
    for kind in (1, 2, 3):
        theirs, ours = both("cpg", join(b"chat", PID), EVENT, request(ITERATE, name(b"chat") + uint32(kind)))
        same(([theirs[2][:24]], [ours[2][:24]]), None)
    # Handles are the server's own: theirs is asked for its first on a connection of its own.
    theirs, ours = both("cpg", request(NEXT, bytes(8)), request(ITERATED, bytes(8)))
    assert [HEADER.unpack_from(each) for each in ours] == [HEADER.unpack_from(each) for each in theirs]
    assert struct.calcsize("<" + description) == len(ours[0]) - HEADER.size


def test_requests_that_are_not_known(both):
    for service in ("cpg", "quorum", "votequorum", "cmap", "cfg"):
        same(both(service, request(99, bytes(8))), None)


@pytest.mark.parametrize("flags", [1, 2, 4])
def test_quorum(both, flags):
    events = [] if flags == 4 else [EVENT]
    same(
        both("quorum", request(3), request(0), request(1, uint32(flags)), *events, request(2)),
        "I",
        "I",
        None,
        *["i4x 8x I I"] * len(events),
        None,
    )


def test_quorum_of_the_second_model(both):
    same(
        both("quorum", request(4, uint32(7)), request(4, uint32(1)), request(1, uint32(2)), EVENT, EVENT, request(2)),
        None,
        "I4x",
        None,
        "I4x 8x I4x I4x I I",
        "i4x I4x 8x I I",
        None,
    )


def test_votequorum(both):
    info = "9I 255s"
    same(
        both(
            "votequorum",
            request(0, uint32(1)),
            request(0, uint32(0)),
            request(0, uint32(77)),
            request(4),
            request(3, struct.pack("<QI4x", 5, 2)),
            EVENT,
            EVENT,
            request(3, struct.pack("<QI4x", 5, 4)),
            request(4),
        ),
        info,
        info,
        None,
        None,
        None,
        "Q I4x 8x I4x I",
        "I4x Q I4x II",
        None,
        None,
    )


def test_cfg(both):
    same(
        both("cfg", request(6), request(9, uint32(1, 1)), request(9, uint32(1, 2)), request(5, uint32(0)), request(10)),
        "I",
        "II 6B2x 3Bx I 256s256s",
        None,
        "II 4s",
        None,
    )


SETS_OF_KEYS = {
    0: [
        "totem.version",
        "totem.cluster_name",
        "totem.transport",
        "nodelist.local_node_pos",
        "nodelist.node.0.nodeid",
        "nodelist.node.0.name",
        "nodelist.node.0.ring0_addr",
        "quorum.provider",
        "runtime.config.totem.token",
        "runtime.config.totem.token_retransmit",
        "runtime.config.totem.hold",
        "runtime.config.totem.join",
        "runtime.config.totem.send_join",
        "runtime.config.totem.consensus",
        "runtime.config.totem.merge",
        "runtime.config.totem.downcheck",
        "runtime.config.totem.token_retransmits_before_loss_const",
        "runtime.config.totem.window_size",
        "runtime.config.totem.max_messages",
        "runtime.config.totem.miss_count_const",
        "runtime.members.1.config_version",
        "runtime.members.1.ip",
        "runtime.members.1.join_count",
        "runtime.members.1.status",
        "runtime.votequorum.this_node_id",
        "runtime.votequorum.lowest_node_id",
        "runtime.votequorum.highest_node_id",
        "runtime.votequorum.two_node",
        "no.such.key",
    ],
    1: [
        "stats.srp.orf_token_tx",
        "stats.srp.orf_token_rx",
        "stats.srp.memb_join_tx",
        "stats.srp.memb_join_rx",
        "stats.srp.mcast_tx",
        "stats.srp.mcast_retx",
        "stats.srp.mcast_rx",
        "stats.srp.memb_commit_token_tx",
        "stats.srp.memb_commit_token_rx",
        "stats.srp.operational_entered",
    ],
}


@pytest.mark.parametrize("which", SETS_OF_KEYS)
def test_keys(both, which):
    keys = SETS_OF_KEYS[which]
    gets = [request(2, key(text) + struct.pack("<Q", 64)) for text in keys]
    theirs, ours = both("cmap", request(9, uint32(which)), *gets)
    for text, one, other in zip(["set map", *keys], theirs, ours, strict=True):
        assert HEADER.unpack_from(other) == HEADER.unpack_from(one), text
        if len(one) > HEADER.size:
            fields = struct.Struct("<Q B")
            assert fields.unpack_from(other, HEADER.size) == fields.unpack_from(one, HEADER.size), text
        if which == 0 and len(one) > 40:
            assert other[40:] == one[40:], text


def test_what_cmap_refuses(both):
    sizes = (
        request(2, key("totem.transport") + struct.pack("<Q", 0)),
        request(2, key("totem.transport") + struct.pack("<Q", 2)),
    )
    theirs, ours = both("cmap", *sizes, request(5, bytes(8)), request(9, uint32(7)))
    same((theirs, ours), "Q B", None, None, None)


@pytest.mark.parametrize("size", [64, pytest.param(5000, marks=pytest.mark.long)])
async def test_libcpg_on_real_nodes_and_on_ours_sees_one_order(mixed_nodes, cpgflood, size):
    """Two real nodes and two of ours in a ring, a client in C on each."""
    reports = []

    async def flood(k):
        command = mixed_nodes.place(k).command(cpgflood, "-g", "bench", "-n", "4", "-t", "2", "-s", size)
        reports.append(json.loads((await trio.run_process(command, capture_stdout=True)).stdout))

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for k in (1, 2, 3, 4):
                nursery.start_soon(flood, k)
    assert len({report["order"] for report in reports}) == 1, reports
    assert {report["confchgs"] for report in reports} == {0}
    assert {report["delivered"] for report in reports} == {sum(report["sent"] for report in reports)}
    assert all(report["sent"] for report in reports)
    await mixed_nodes.check_health(1, 2, 3, 4)
    assert mixed_nodes.groups_at(1) == mixed_nodes.groups_at(2) == {}


@pytest.fixture
def mixed_nodes(tmp_path):
    """Real nodes at places 1 and 3, ours at 2 and 4."""
    with RingOfOurs(tmp_path, 4, real=(1, 3)) as ring:
        trio.run(whole, ring)
        yield ring
