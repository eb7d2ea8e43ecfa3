"""Programs without an event loop: the class CPG, beside a daemon in another thread of the test."""

import gc
import itertools
import os
import select
import sys
import textwrap
import threading

import pytest
import trio

import cpg

CHAT = b"chat"


async def beside(daemon, program, *arguments):
    """Run a blocking program in a thread."""
    return await trio.to_thread.run_sync(program, daemon.path, *arguments)


def collected(chat):
    """Return everything that is dispatched to an object, from now on."""
    seen = []
    chat.on_message(lambda sender, data: seen.append((sender, data)))
    chat.on_confchg(lambda *change: seen.append(change))
    chat.on_totem_confchg(lambda *ring: seen.append(ring))
    return seen


def dispatch_on(chat):
    """Dispatch until something ends it."""
    while chat.dispatch():
        pass


async def test_the_life_of_a_program(daemon):
    def program(path):
        with cpg.CPG("chat", path=path) as chat:
            seen = collected(chat)
            assert (chat.group, chat.nodeid, chat.member) == (CHAT, 1, cpg.Member(1, os.getpid()))
            chat.send(b"one")
            chat.send([b"two", b"three"])
            while len(seen) < 5:
                assert chat.dispatch()
            assert chat.members == (chat.member,)
            assert chat.dispatch(0) is chat.dispatch(0.01) is False
            own = chat.member
            chat.leave()
            assert chat.group is None
            with pytest.raises(cpg.NotJoined, match="in no group"):
                chat.send(b"too late")
            assert chat.dispatch(10)
            assert (chat.ring_id, chat.node_ids, chat.quorate) == (daemon.ring.ring_id, (1,), True)
            return own, seen

    own, seen = await beside(daemon, program)
    assert seen == [
        ((own,), {}, {own: cpg.Reason.JOIN}),
        (daemon.ring.ring_id, (1,)),
        (own, b"one"),
        (own, b"two"),
        (own, b"three"),
        ((), {own: cpg.Reason.LEAVE}, {}),
    ]
    assert not daemon.ring.groups


async def test_one_event_a_dispatch_and_exceptions_of_callbacks_come_out(daemon):
    def program(path):
        with cpg.CPG("chat", path=path) as chat:
            while chat.dispatch(0):
                pass
            chat.send([b"1", b"2", b"3"])
            seen = []

            @chat.on_message
            def _(sender, data):
                seen.append(data)
                if data == b"2":
                    raise LookupError(data)

            assert chat.dispatch()
            assert seen == [b"1"]
            with pytest.raises(LookupError, match="2"):
                chat.dispatch()
            chat.on_message(None)
            assert chat.dispatch()
            return seen

    assert await beside(daemon, program) == [b"1", b"2"]


async def test_it_can_be_waited_for_with_others(daemon):
    def program(path):
        with cpg.CPG("chat", path=path) as chat:
            seen = collected(chat)
            chat.send([b"%d" % number for number in range(100)])
            while len(seen) < 102:
                readable, _, _ = select.select([chat], [], [], 20)
                assert readable == [chat]
                chat.dispatch(0)
            while chat.dispatch(0):
                pass
            assert select.select([chat.fd], [], [], 0) == ([], [], [])

    await beside(daemon, program)


async def test_many_threads_send_while_one_dispatches(daemon):
    def program(path):
        with cpg.CPG("chat", path=path) as chat:
            seen = collected(chat)

            def send(name):
                for number in range(50):
                    chat.send(b"%d %d" % (name, number) + bytes(20_000))

            threads = [threading.Thread(target=send, args=(name,)) for name in range(4)]
            for thread in threads:
                thread.start()
            while len(seen) < 202:
                assert chat.dispatch(20)
            for thread in threads:
                thread.join()
            found = [data[:20].rstrip(b"\0").split() for _, data in seen[2:]]
            for name in range(4):
                assert [int(number) for who, number in found if int(who) == name] == list(range(50))

    await beside(daemon, program)


async def test_a_program_that_only_sends_does_not_stop_itself(daemon):
    """Own messages that come back are read while it waits for room."""

    def program(path):
        with cpg.CPG("chat", path=path) as chat:
            for _ in range(30):
                chat.send([bytes(10_000)] * 100)
            assert chat.flush(40)
            return chat._streams[-1].own_arrived

    assert await beside(daemon, program) == 3000


async def test_what_is_not_dispatched_is_bounded(daemon):
    def program(path):
        with cpg.CPG("chat", path=path, limit=100_000) as chat:
            chat.send([bytes(1000)] * 200)
            chat.flush()
            with pytest.raises(cpg.SlowConsumer, match="100000 bytes"):
                dispatch_on(chat)
            assert chat.group is None
            chat.join("other")
            assert chat.dispatch()

    await beside(daemon, program)


async def test_a_group_is_left_and_joined_again(daemon):
    def program(path):
        with cpg.CPG("chat", path=path) as chat:
            seen = collected(chat)
            chat.leave()
            chat.join("chat")
            while len(seen) < 5:
                assert chat.dispatch(20)
            return [joined for _, left, joined in (change for change in seen if len(change) == 3)]

    own = cpg.Member(1, os.getpid())
    assert await beside(daemon, program) == [{own: cpg.Reason.JOIN}, {}, {own: cpg.Reason.JOIN}]


async def test_what_a_join_refuses(daemon):
    def program(path):
        with cpg.CPG("chat", path=path) as chat, cpg.CPG(path=path) as other:
            with pytest.raises(cpg.AlreadyJoined):
                other.join("chat")
            with pytest.raises(ValueError, match="1 to 128 bytes"):
                other.join("")
            other.join("fine")
            with pytest.raises(RuntimeError, match="leave it first"):
                chat.join("second")

    await beside(daemon, program)


async def test_without_a_daemon(tmp_path):
    with pytest.raises(TypeError, match="path=5: a path"):
        cpg.CPG("chat", path=5)
    with pytest.raises(cpg.DaemonUnavailable, match="no daemon listens"):
        cpg.CPG("chat", path=tmp_path / "nothing")
    with pytest.raises(cpg.NotJoined, match="not connected"):
        cpg.CPG(path=tmp_path / "nothing").dispatch()


async def test_the_end_of_a_daemon_is_reported_after_all_that_came(make_daemon):
    daemon = make_daemon()

    def program(path, joined):
        with cpg.CPG("chat", path=path, reconnect=False) as chat:
            seen = collected(chat)
            trio.from_thread.run_sync(joined.set)
            with pytest.raises(cpg.RingLost, match="told to end"):
                dispatch_on(chat)
            return seen

    async with trio.open_nursery() as nursery:
        joined, seen = trio.Event(), []

        async def run():
            seen.extend(await beside(daemon, program, joined))

        async with daemon.running():
            nursery.start_soon(run)
            await joined.wait()
    assert len(seen) >= 2


async def test_finalize_from_another_thread_ends_a_dispatch(daemon):
    def program(path):
        chat = cpg.CPG("chat", path=path)
        while chat.dispatch(0):
            pass
        threading.Timer(0.05, chat.finalize).start()
        with pytest.raises(cpg.NotJoined, match="not connected"):
            chat.dispatch()
        chat.finalize()

    await beside(daemon, program)


async def test_nothing_is_left_open(daemon):
    def program(path):
        gc.collect()
        before = set(os.listdir("/proc/self/fd"))
        with cpg.CPG("chat", path=path):
            pass
        return len(set(os.listdir("/proc/self/fd")) - before)

    assert await beside(daemon, program) <= 2  # those of the daemon's side, which shares this process


async def test_no_trio_is_needed():
    assert "trio" not in cpg.blocking.__dict__


async def test_what_comes_while_an_event_is_dispatched_shows_at_the_descriptor(daemon):
    def program(path):
        with cpg.CPG("chat", path=path) as chat:
            while not chat.quorate or chat.dispatch(0.1):
                pass
            exchange, turns = chat._line.exchange, []

            def exchange_when_something_has_come():
                turns.append(len(turns))
                if len(turns) <= 2:
                    trio.from_thread.run_sync(daemon.ring._admit, CHAT, len(turns), Silent())
                    trio.from_thread.run_sync(daemon.ring._send_soon)
                    assert select.select([chat._line._records.sock], [], [], 20)[0]
                exchange()

            chat._line.exchange = exchange_when_something_has_come
            assert chat.dispatch()
            assert len(turns) == 2
            assert select.select([chat], [], [], 5)[0]
            assert chat.dispatch(0)

    await beside(daemon, program)


class Silent:
    """A member that ignores all events."""

    def messages(self, sender, level, payloads):
        pass

    def event(self, event):
        pass


async def test_a_list_of_one_thread_is_not_mixed_with_those_of_others(daemon):
    def program(path):
        with cpg.CPG("chat", path=path) as chat:
            seen = collected(chat)

            def send(name):
                chat.send([b"%d" % name + bytes(20_000)] * 200)

            threads = [threading.Thread(target=send, args=(name,)) for name in range(3)]
            for thread in threads:
                thread.start()
            while len(seen) < 602:
                assert chat.dispatch(20)
            for thread in threads:
                thread.join()
            names = [data[:1] for _, data in seen[2:]]
            assert sum(one != two for one, two in itertools.pairwise(names)) == 2

    await beside(daemon, program)


async def test_a_stream_that_was_left_long_ago_does_not_end_the_present_group(daemon):
    def program(path):
        with cpg.CPG("chat", path=path, limit=100_000) as chat:
            chat.send([bytes(1000)] * 200)
            chat.flush()
            chat.leave()
            chat.join("other")
            with pytest.raises(cpg.SlowConsumer, match="100000 bytes"):
                dispatch_on(chat)
            assert chat.group == b"other"
            chat.send(b"still here")
            assert chat.flush(20)

    await beside(daemon, program)


async def test_flush_outside_of_a_group(daemon):
    def program(path):
        with cpg.CPG(path=path) as chat, pytest.raises(cpg.NotJoined, match="in no group"):
            chat.flush()

    await beside(daemon, program)


async def test_times_may_be_as_long_as_one_likes(daemon):
    def program(path):
        with cpg.CPG("chat", path=path) as chat:
            assert chat.dispatch(float("inf"))
            chat.on_message(lambda sender, data: None)
            while chat.dispatch(0.1):
                pass
            late = threading.Timer(0.05, chat.send, [b"late"])
            late.start()
            assert chat.dispatch(1e12)
            late.join()  # it may still be in its call when the message is here, and this connection ends next

    await beside(daemon, program)


PROGRAM_THAT_ENDS_BY_A_SIGNAL = """
    import os, signal, sys, threading
    import cpg

    chat = cpg.CPG("chat", path=sys.argv[1])
    while chat.dispatch(0.2):
        pass
    signal.signal(signal.SIGTERM, lambda *_: chat.finalize())
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    try:
        chat.dispatch()
    except cpg.NotJoined as error:
        print(error)
"""


async def test_finalize_from_a_signal_handler_ends_a_dispatch(daemon):
    done = await trio.run_process(
        [sys.executable, "-c", textwrap.dedent(PROGRAM_THAT_ENDS_BY_A_SIGNAL), str(daemon.path)], capture_stdout=True
    )
    assert done.stdout == b"not connected: connect or join first\n"


async def test_finalize_from_a_callback(daemon):
    def program(path):
        chat = cpg.CPG("chat", path=path)
        chat.on_confchg(lambda *change: chat.finalize())
        assert chat.dispatch()
        with pytest.raises(cpg.NotJoined, match="not connected"):
            chat.dispatch()
        chat.join("chat")
        assert chat.dispatch()
        chat.finalize()

    await beside(daemon, program)


async def test_dispatch_from_a_callback(daemon):
    def program(path):
        with cpg.CPG("chat", path=path) as chat:
            seen = collected(chat)
            chat.on_confchg(None)
            chat.on_confchg(lambda *change: seen.append(chat.dispatch()))
            assert chat.dispatch()
            assert [type(entry) for entry in seen] == [tuple, bool]

    await beside(daemon, program)


PROGRAM_THAT_FORKS = """
    import os, sys
    import cpg

    with cpg.CPG("chat", path=sys.argv[1]) as chat:
        child = os.fork()
        if not child:
            try:
                chat.send(b"from the child")
            except RuntimeError as error:
                print(error)
            sys.exit()  # through the end of the block
        os.waitpid(child, 0)
        chat.send(b"still a member")
        assert chat.flush(20)
        print(len(chat.members))
"""


async def test_a_process_that_was_forked_does_not_end_its_parents_connection(daemon):
    done = await trio.run_process(
        [sys.executable, "-c", textwrap.dedent(PROGRAM_THAT_FORKS), str(daemon.path)], capture_stdout=True
    )
    assert b"open one of its own in this" in done.stdout


async def test_finalize_returns_when_the_group_is_left(daemon):
    def program(path):
        for _ in range(20):
            with cpg.CPG("chat", path=path) as chat:
                chat.send([bytes(1000)] * 10)
            assert trio.from_thread.run_sync(lambda: CHAT not in daemon.ring.groups)

    await beside(daemon, program)


async def test_an_exception_in_the_midst_of_a_write_loses_nothing_in_silence(daemon):
    def program(path):
        with cpg.CPG("chat", path=path, reconnect=False) as chat:
            record = chat._line.session.writer.record

            def interrupted():
                record()
                raise KeyboardInterrupt

            chat._line.session.writer.record = interrupted
            with pytest.raises(KeyboardInterrupt):
                chat.send(b"lost")
            chat._line.session.writer.record = record
            with pytest.raises(cpg.RingLost, match="interrupted"):
                chat.send(b"not sent")
            chat.finalize()
            with pytest.raises(cpg.NotJoined):
                chat.send(b"not sent either")

    await beside(daemon, program)


async def test_arguments_are_looked_at_before_anything_is_done(daemon):
    def program(path):
        for arguments, error in (
            ({"group": 5}, TypeError),
            ({"group": ["chat"]}, TypeError),
            ({"limit": -1}, ValueError),
            ({"limit": "1"}, TypeError),
            ({"reconnect": "no"}, TypeError),
        ):
            with pytest.raises(error, match=f"{next(iter(arguments))}="):
                cpg.CPG(path=path, **arguments)
        with cpg.CPG("chat", path=path) as chat:
            for call in (chat.dispatch, chat.flush):
                for timeout, error in (("5", TypeError), (None, TypeError), (float("nan"), ValueError)):
                    with pytest.raises(error, match="timeout="):
                        call(timeout)
            assert chat.flush(float("inf"))
            for data in ({}, 5, "text", [5]):
                with pytest.raises(TypeError, match="a message is bytes-like"):
                    chat.send(data)
            with pytest.raises(TypeError, match="guarantee="):
                chat.send(b"message", "safe")
            with pytest.raises(TypeError, match="callback="):
                chat.on_message("print")

    await beside(daemon, program)
