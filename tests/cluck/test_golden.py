"""What lock servers say to each other and keep on disk, byte by byte: format 5, which releases must share.

These bytes were written before the replica was taken out of the lock server. A change of any of them is another format.
"""

import hmac

import pytest

from cluck.commands import Acquire, Owner, RequestId, Stand, Wait
from cluck.commands import ClientId as Program
from cluck.server import store
from cluck.server.store import Disk
from cluck.state.application import CODEC
from cluck.state.machine import LockState
from cpg.replication.electorate import Electorate, View, Voters
from cpg.replication.identities import Boot, ServerId
from cpg.replication.wire import (
    Ack,
    Commands,
    DurableRecord,
    Exclude,
    Forgive,
    Lineage,
    Propose,
    Report,
    Round,
    RoundId,
    Snapshot,
    Stored,
)
from tests.cluck.server.orders import started
from tests.cluck.test_commands import examples

BEFORE, AFTER = Electorate({1: 1, 2: 1}, None, True), Electorate({1: 1, 2: 3, 3: 1}, 2)
VOTERS = Voters(0xC1, 7, AFTER, BEFORE, View(3, 40, 2))
ROUND = RoundId(1234567890123, 4)
RECORD = DurableRecord(3, 20.5, VOTERS)

MESSAGES = {
    "a round": Round(ROUND),
    "a report": Report(
        round=ROUND,
        start=99,
        lineage=Lineage(3, 40, 2, 17),
        digest=0xDEADBEEF,
        record=RECORD,
        voters=VOTERS,
        configured=AFTER,
        terms=0.001,
        survivors=True,
        safe=False,
        priority=14,
        in_process=True,
        quorate=True,
        force_birth=False,
        boot=Boot("m" * 32, "r" * 36),
        known=[(1, 2), (3, 4)],
        is_last=True,
    ),
    "a report of who has nothing": Report(
        round=ROUND,
        start=99,
        lineage=None,
        digest=0,
        record=None,
        voters=None,
        configured=BEFORE,
        terms=0.001,
        survivors=False,
        safe=True,
        priority=0,
        in_process=False,
        quorate=False,
        force_birth=True,
    ),
    "an exclusion": Exclude(ROUND, [(1, 2), (3, 4)]),
    "a part of a state": Snapshot(ROUND, 0, 2, 123, b"body"),
    "a proposal": Propose(DurableRecord(4, 10.0, VOTERS)),
    "a birth": Propose(DurableRecord(4, 10.0, VOTERS), ROUND),
    "a record that is stored": Stored(DurableRecord(4, 10.0)),
    "commands": Commands(99, 5, examples()),
    "an acknowledgement": Ack(ROUND, 18),
    "forgiveness": Forgive(),
}
GOLDEN = {
    "a round": "05920192cf0000011f71fb04cb04",
    "a report": (
        "05dc00120292cf0000011f71fb04cb04639403280211cedeadbeef9303cb403480000000000095ccc107938301010203030102c2"
        "938201010201c0c39303280295ccc107938301010203030102c2938201010201c0c393032802938301010203030102c2cb3f5062"
        "4dd2f1a9fcc3c20ec3c3c292d9206d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6dd92472727272"
        "727272727272727272727272727272727272727272727272727272727272727292920102920304c3"
    ),
    "a report of who has nothing": (
        "05dc00120292cf0000011f71fb04cb0463c000c0c0938201010201c0c3cb3f50624dd2f1a9fcc2c300c2c2c3c090c2"
    ),
    "an exclusion": "05930392cf0000011f71fb04cb0492920102920304",
    "a part of a state": "05960492cf0000011f71fb04cb0400027bc404626f6479",
    "a proposal": "0593059304cb402400000000000095ccc107938301010203030102c2938201010201c0c393032802c0",
    "a birth": "0593059304cb402400000000000095ccc107938301010203030102c2938201010201c0c39303280292cf0000011f71fb04cb04",
    "a record that is stored": "0592069304cb4024000000000000c0",
    "commands": (
        "0594076305dc00159901929292920102030405c4046c6f636b0000cb4014000000000000cb4014000000000000c3009202929292"
        "9201020304059303929292920102030405069304929292920102030405069405c4046c6f636b06009406c4046c6f636b06009307"
        "c4046c6f636b06930a0293820101020302c29208929201020392099292929201020304059714929292920102030405c409636f6e"
        "646974696f6ec4046c6f636b06c3009615929292920102030405c409636f6e646974696f6ec2c20092169292929201020304059a"
        "28929292920102030405c408656c656374696f6ec40000cb0000000000000000cb0000000000000000cb4008000000000000cb3f"
        "f000000000000000952992929292010203040501cb4000000000000000cb4008000000000000932ac408656c656374696f6e0194"
        "2bc408656c656374696f6e01929292920102030405942cc408656c656374696f6e01929292920102030405942d92929292010203"
        "040506c0942ec408656c656374696f6e01929292920102030405962f929292920102030405c408656c656374696f6e06c404626c"
        "6f6200"
    ),
    "an acknowledgement": "05930892cf0000011f71fb04cb0412",
    "forgiveness": "059109",
}
STATE = (
    "990302cb403480000000000095ccc107938301010203030102c2938201010201c0c3930328029292929201020393920102008102"
    "9404929292920102030002cf0000000300000002c0929292010204939201020081029403929292920102040002a8646561646c6f"
    "636b91c4046c6f636b919292010292a16da1729192c4046c6f636b9400919a929292920102030001c4046c6f636b00cb40140000"
    "00000000cb4014000000000000cf000000030000000100c2c000919a929292920102040001c4046c6f636b00cb40140000000000"
    "00cb40140000000000000000c2c001909192c40462656c6c92c4056f7468657291939a929292920102030003c4056f7468657200"
    "cb4014000000000000cb40140000000000000000c2c00100c39196c404686561649197929292920102030004c4046164647250cb"
    "4008000000000000cb3ff000000000000001c00100c0c0"
)
ON_DISK = {
    "all": (
        RECORD,
        "794a78a29202929303cb403480000000000095ccc107938301010203030102c2938201010201c0c393032802a66120626f6f74",
    ),
    "no voters": (DurableRecord(1, 10.0), "450893459202929301cb4024000000000000c0a66120626f6f74"),
}


def full_state():
    """A state with something of each kind."""
    here = ServerId(1, 2)
    one, two = Program(here, 3), Program(here, 4)
    state = LockState(3, VOTERS)
    state.longest_promise = 20.5

    def request(program, number):
        return RequestId(Owner(program, 0), number)

    for command in (
        Acquire(request(one, 1), b"lock"),
        Acquire(request(two, 1), b"lock"),
        Acquire(request(one, 2), b"other"),
    ):
        state.apply(command, here)
    token = state.table.ticket(request(one, 2)).token
    for command in (
        Wait(request(one, 3), b"bell", b"other", token),
        Stand(request(one, 4), b"head", b"addr", 80),
        Acquire(request(two, 2), b"lock", waits=False),
    ):
        state.apply(command, here)
    state.keep({here}, {here: Boot("m", "r")})
    return state


def test_there_is_a_message_of_each_kind():
    kinds = {getattr(kind, "__origin__", kind) for kind in CODEC.kinds}
    assert {type(message) for message in MESSAGES.values()} == kinds
    assert MESSAGES.keys() == GOLDEN.keys()


@pytest.mark.parametrize("what", MESSAGES)
def test_messages_are_these_bytes(what):
    assert CODEC.encode(MESSAGES[what]).hex() == GOLDEN[what]
    assert CODEC.decode(bytes.fromhex(GOLDEN[what])) == MESSAGES[what]


def test_a_state_is_these_bytes():
    assert CODEC.freeze(full_state()).hex() == STATE


@pytest.mark.parametrize("what", ON_DISK)
async def test_a_disk_has_these_bytes(what, tmp_path, monkeypatch):
    record, content = ON_DISK[what]
    monkeypatch.setattr(store, "_boot", lambda: "a boot")
    disk = Disk(tmp_path, 1)
    await disk.save(record)
    assert disk.path.read_bytes().hex() == content
    assert disk.load() == record


def test_a_client_resumes_with_a_secret_of_an_earlier_release():
    order = started(1)
    client = Program(ServerId(1, 2), 3)
    words = b"Client(server=Server(node_id=1, start=2), number=3)"
    assert order[1].service._secret(client) == hmac.digest(b"of node 1", words, "sha256")
