"""Programs on a daemon: the same as on every other ring, and what only a daemon can do to them."""

import os
import signal
import socket

import pytest
import trio

import cpg
from tests.cpg.processes import Program
from tests.cpg.ring_programs import PROGRAMS

MEMBER = "tests.interop.member"


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
async def test_on_a_daemon(daemon, program):
    await program(daemon.connect)
    await settled(daemon)


async def settled(daemon):
    """Wait until the daemon knows of no client and no group any more."""
    while daemon.hub.clients or daemon.ring.groups or daemon.hub._stays:
        await trio.sleep(0.01)
    assert daemon.hub.waiting == 0


async def test_two_daemons_and_their_programs_are_one_ring(make_daemon):
    one, two = make_daemon(1), make_daemon(2)
    async with one.running(), two.running(), one.connect() as ring, two.connect() as other:
        await ring.wait_members(2)
        await other.wait_members(2)
        assert ring.ring_id == other.ring_id
        async with ring.join("chat") as group, other.join("chat") as their:
            await group.send([b"a", b"b"], cpg.SAFE)
            heard = [event async for event in until(their, b"b")]
            assert [e.level for e in heard if type(e) is cpg.Message] == [cpg.Level.SAFE] * 2
            assert await ring.list_groups() == {b"chat": (ring.member, other.member)}


async def until(group, data):
    """Return events up to a message."""
    async for event in group:
        yield event
        if type(event) is cpg.Message and event.data == data:
            return


async def test_a_program_that_is_killed_is_reported_as_gone(daemon, nursery):
    async with daemon.connect() as ring, ring.join("chat") as group:
        program = await Program((MEMBER, "chat", "--socket", daemon.path)).start(nursery)
        member = cpg.Member(1, program.process.pid)
        await program.say("send 100")
        async for event in group:
            if type(event) is cpg.Message:
                assert event.sender == member
                break
        program.signal(signal.SIGKILL)
        async for event in group:
            if type(event) is cpg.Confchg:
                assert event.left == {member: cpg.Reason.PROCDOWN}
                break


async def test_a_daemon_that_ends_sends_its_clients_the_reason(make_daemon, nursery):
    daemon = make_daemon()
    there, gone = trio.Event(), trio.Event()

    async def program():
        with pytest.raises(cpg.RingLost, match="the daemon of node 1 has been told to end"):
            await stay(daemon, there)
        gone.set()

    async with daemon.running():
        nursery.start_soon(program)
        await there.wait()
    await gone.wait()


async def stay(daemon, there):
    """Be a client until the daemon ends it."""
    async with daemon.connect():
        there.set()
        await trio.sleep_forever()


async def test_a_lost_ring_is_reported_with_its_reason(make_daemon, nursery):
    daemon = make_daemon()
    there, gone = trio.Event(), trio.Event()

    async def program():
        with pytest.raises(cpg.RingLost, match="node 1: killed by the administrator"):
            await stay(daemon, there)
        gone.set()

    async def lose():
        async with daemon.running():
            nursery.start_soon(program)
            await there.wait()
            daemon.ring._fail(cpg.RingLost("killed by the administrator"))
            await trio.sleep_forever()

    with pytest.raises(cpg.RingLost, match="killed by the administrator"):
        await lose()
    await gone.wait()


async def test_a_user_who_may_not_connect_learns_what_to_do(daemon):
    daemon.access.allows = lambda uid, gid: False
    with pytest.raises(cpg.DaemonUnavailable, match=rf"uid {os.getuid()}.*uidgid"):
        async with daemon.connect():
            pass


async def test_no_daemon(tmp_path):
    with pytest.raises(cpg.DaemonUnavailable, match=r"no daemon listens at .*start it \(cpgd"):
        async with cpg.connect(tmp_path / "nothing"):
            pass


async def test_a_second_daemon_at_the_same_socket_is_refused(daemon, make_daemon):
    second = make_daemon(2)
    second.path = daemon.path
    with pytest.raises(OSError, match="another daemon listens there"):
        async with second.running():
            pass
    async with daemon.connect():
        pass


async def test_the_socket_of_a_dead_daemon_is_replaced(make_daemon):
    daemon = make_daemon()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(daemon.path))
    async with daemon.running(), daemon.connect():
        pass


async def test_a_client_that_does_not_read_is_disconnected_with_the_reason(daemon, nursery, capfd):
    daemon.hub.client_limit = 1 << 20
    stopped = await Program((MEMBER, "chat", "--socket", daemon.path)).start(nursery)
    async with daemon.connect() as ring, ring.join("chat") as group:
        left = trio.Event()
        group.on_message(lambda sender, data: None)

        @group.on_confchg
        def _(members, gone, joined):
            if cpg.Reason.PROCDOWN in gone.values():
                left.set()

        await stopped.until(lambda events: {"quorum"} & {event["event"] for event in events})
        stopped.signal(signal.SIGSTOP)
        while not left.is_set():
            await group.send([bytes(1000)] * 100)
            await group.flush()
        assert daemon.hub.dropped == 1
        await group.send(b"goes on")
        await group.flush()
    stopped.signal(signal.SIGCONT)
    assert await stopped.ended() == 1
    assert "did not read what its groups were sent: more than 1048576 bytes waited for it" in capfd.readouterr().err
