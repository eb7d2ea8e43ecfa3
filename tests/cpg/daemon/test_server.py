"""Local programs that misuse a daemon's socket harm neither the daemon nor anybody else."""

import contextlib
import gc
import os
import random
import socket

import trio

import cpg
from cpg.client.ipc import RECORD, Kind, head, pack, send_head
from totem.configuration import Guarantee
from totem.log_fields import fields_of

HELLO = b"\0" + head(Kind.HELLO, 0, 4, a=1) + b"test"
PACKED = pack([b"x", b"yz"])
GOOD = [
    HELLO[1:],
    head(Kind.JOIN, 1, 1) + b"a",
    head(Kind.JOIN, 2, 1) + b"b",
    head(Kind.LEAVE, 1, 0),
    head(Kind.ASK, 1, 6) + b"groups",
    send_head(1, Guarantee.AGREED, PACKED) + PACKED.body,
]


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def memory():
    """Return the bytes of this process's memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def spoiled(dice):
    """A record that is random, or nearly right."""
    if dice.random() < 0.5:
        return dice.randbytes(dice.randint(1, 200))
    record = bytearray(b"\0" + b"".join(dice.choices(GOOD, k=3)))
    for _ in range(dice.randint(1, 3)):
        record[dice.randrange(len(record))] = dice.choice((0, 1, 255, dice.randrange(256)))
    return bytes(record)


def trouble(path, dice, records):
    """Send spoiled records on one connection after the other, until so many have been sent."""
    while records > 0:
        with connected(path) as sock, contextlib.suppress(OSError):
            for _ in range(10):
                sock.send(spoiled(dice))
                records -= 1
    return records


def connected(path):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(str(path))
    sock.settimeout(20)
    sock.send(HELLO)
    return sock


async def exchange(daemon):
    """A well-behaved program is served as usual."""
    async with daemon.connect() as ring, ring.join("well") as group:
        group.on_message(lambda sender, data: None)
        await group.send([b"behaved"] * 10)
        await group.flush()


async def settled(daemon, groups=0):
    while daemon.hub.clients or len(daemon.ring.groups) > groups or daemon.hub._stays:
        await trio.sleep(0.01)
    gc.collect()


async def test_spoiled_records_and_what_they_leave_behind(daemon):
    dice = random.Random(4711)
    await trio.to_thread.run_sync(trouble, daemon.path, dice, 1000)
    await exchange(daemon)
    await settled(daemon)
    before = descriptors(), memory()
    await trio.to_thread.run_sync(trouble, daemon.path, dice, 10_000)
    await exchange(daemon)
    await settled(daemon)
    assert daemon.hub.waiting == 0
    assert descriptors() == before[0]
    assert memory() - before[1] < 8 << 20


def knock(path, times):
    """Connect, be sent goodbye, and connect again."""
    for _ in range(times):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(str(path))
            sock.recv(1 << 16)


async def test_who_comes_again_and_again_does_not_fill_the_log(daemon, caplog):
    await trio.to_thread.run_sync(trouble, daemon.path, random.Random(1), 500)
    await exchange(daemon)
    await settled(daemon)
    daemon.access.allows = lambda uid, gid: False
    await trio.to_thread.run_sync(knock, daemon.path, 100)
    await settled(daemon)
    goodbyes, refusals = (
        [record for record in caplog.records if text in record.getMessage()]
        for text in ("a client's connection is ended: ", "may not connect (uidgid)")
    )
    assert (len(goodbyes), len(refusals)) == (1, 1)
    fields = fields_of(goodbyes[0])
    assert fields.items() >= {"event": "client_ended", "reason": "malformed", "pid": os.getpid()}.items()
    who = f"process {os.getpid()} of the user with uid {os.geteuid()})"
    assert who in goodbyes[0].getMessage()


def vanish(path, dice, times):
    """Connect, begin something, and disconnect."""
    for number in range(times):
        with connected(path) as sock, contextlib.suppress(OSError):
            if number % 4:
                sock.send(b"\0" + GOOD[1] + GOOD[5])
            if number % 4 == 2:
                sock.send((b"\2" + send_head(1, Guarantee.AGREED, pack([bytes(300_000)]))).ljust(RECORD, b"x"))
            if number % 4 == 3:
                sock.recv(1 << 17)


async def test_clients_that_vanish(daemon):
    dice = random.Random(4711)
    await trio.to_thread.run_sync(vanish, daemon.path, dice, 100)
    await settled(daemon)
    before = descriptors(), memory()
    await trio.to_thread.run_sync(vanish, daemon.path, dice, 1000)
    await exchange(daemon)
    await settled(daemon)
    assert descriptors() == before[0]
    assert memory() - before[1] < 8 << 20


async def test_many_programs_at_once(daemon):
    """Each is in a group of its own, and gets only its own messages."""
    heard = []

    async def program(number):
        async with daemon.connect() as ring, ring.join(f"group {number}") as group:
            group.on_message(lambda sender, data: heard.append((number, data)))
            await group.send(b"%d" % number)
            await group.flush()
            together.append(number)
            while len(together) < 100:
                await trio.sleep(0.01)

    together = []
    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(program, number)
    assert sorted(heard) == [(number, b"%d" % number) for number in range(100)]
    await settled(daemon)


def talk_and_not_listen(path):
    """Send to a group until the daemon reads no more, then disconnect."""
    with connected(path) as sock:
        sock.send(b"\0" + GOOD[1])
        packed = pack([bytes(60_000)])
        sock.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            while True:
                sock.send(b"\0" + send_head(1, Guarantee.AGREED, packed) + packed.body)


class Witness:
    """A member that notes who has left."""

    def __init__(self):
        self.left = {}

    def messages(self, sender, level, payloads):
        pass

    def event(self, event):
        if type(event) is cpg.Confchg:
            self.left |= event.left


async def test_a_client_that_is_gone_while_it_is_behind_is_noticed(daemon):
    daemon.hub.client_limit = 8 << 20
    witness = Witness()
    daemon.ring._admit(b"a", 4711, witness)
    await trio.to_thread.run_sync(talk_and_not_listen, daemon.path)
    with trio.fail_after(10):
        await settled(daemon, groups=1)
    assert witness.left == {cpg.Member(1, os.getpid()): cpg.Reason.PROCDOWN}
    assert daemon.hub.dropped == 0
