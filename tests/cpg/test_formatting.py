"""One line for each event: the JSON of the documentation, and the text for people."""

import json

import pytest

from cpg.events import Confchg, Member, Message, Quorum, Reason, TotemConfchg, Transitional
from cpg.formatting import to_json, to_text, transport, transport_figures
from totem.config import Config, Knet
from totem.configuration import Level, RingId

ONE, TWO = Member(1, 11), Member(2, 22)


@pytest.mark.parametrize(
    ("event", "data", "text"),
    [
        (
            Message(ONE, b"hello", Level.SAFE),
            {"event": "message", "sender": [1, 11], "level": "safe", "data": "aGVsbG8="},
            "1:11  hello",
        ),
        (
            Message(ONE, b"\x1b[2J\xc3\xa9\xff\n", Level.AGREED),
            {"event": "message", "sender": [1, 11], "level": "agreed", "data": "G1sySsOp/wo="},
            "1:11  \\x1b[2Jé\\xff\\n",
        ),
        (
            Confchg((ONE,), {TWO: Reason.NODEDOWN}, {ONE: Reason.JOIN}),
            {
                "event": "confchg",
                "members": [[1, 11]],
                "left": [[2, 22, "nodedown"]],
                "joined": [[1, 11, "join"]],
            },
            "* 2:22 went (nodedown), 1:11 came (join); members: 1:11",
        ),
        (
            Confchg((), {ONE: Reason.LEAVE}, {}),
            {"event": "confchg", "members": [], "left": [[1, 11, "leave"]], "joined": []},
            "* 1:11 went (leave); members: none",
        ),
        (
            TotemConfchg(RingId(1, 28), (1, 2)),
            {"event": "ring", "ring": [1, 28], "members": [1, 2]},
            "* ring 1.1c: nodes 1 2",
        ),
        (
            Transitional((2,)),
            {"event": "transitional", "members": [2]},
            "* the ring is changing; still together: node 2",
        ),
        (
            Quorum(False, (1,)),
            {"event": "quorum", "quorate": False, "members": [1]},
            "* not quorate: node 1",
        ),
    ],
)
def test_lines(event, data, text):
    assert json.loads(to_json(event)) == data
    assert "\n" not in to_json(event)
    assert to_text(event) == text


SEALED = Config.for_nodes(
    1,
    transport="knet",
    knet=Knet(cipher="aes256", hash="sha256", key=bytes(range(256)), key_source="/etc/corosync/authkey"),
)


def test_what_seals_a_ring():
    figures = transport_figures(SEALED)
    assert transport(figures) == (
        "transport knet, encrypted with aes256, signed with sha256, key 40aff2e9d2d8922e of /etc/corosync/authkey"
    )
    signed = figures | {"cipher": "none", "key_source": ""}
    assert transport(signed) == "transport knet, in plain text, signed with sha256, key 40aff2e9d2d8922e"
    assert transport(transport_figures(Config.for_nodes(1))) == "transport udpu, in plain text"
