"""What programs say wrongly is told at once, by name, on all shells; and nothing has been done."""

import math

import pytest
import trio

import cluck
from cluck.blocking import connect
from cluck.commands import RequestId
from cpg.testing import World
from tests.cluck.client.servers import Cluster, Handed, SocketServer
from tests.cluck.server.test_host import Memory

NAN, INF = math.nan, math.inf
BAD_NAMES = [5, True, None, ["a"], b"", "", "x" * 1025, "\udcff"]
BAD_TIMES = ["5", True, NAN, -1, [1]]
BAD_LEASES = ["5", True, NAN, INF, -INF, -1, 0, 5e-324, 0.09, 1e11]

LOCKS = [
    *[(call, {"name": name}, "name") for call in ("lock", "shared", "semaphore") for name in BAD_NAMES],
    *[(call, {"timeout": time}, "timeout") for call in ("lock", "shared", "semaphore") for time in BAD_TIMES],
    *[("lock", {"duration": lease}, "duration") for lease in BAD_LEASES],
    *[("lock", {"grace": grace}, "grace") for grace in ("5", None, False, NAN, INF, -1, 1e11)],
    *[("lock", {"priority": flag}, "priority") for flag in (1, "no", None)],
    *[("lock", {"on_queued": call}, "on_queued") for call in (5, "print")],
    *[("semaphore", {"permits": permits}, "permits") for permits in (0, -1, 1.0, "1", True, None, 1 << 63)],
    *[("condition", {"name": name}, "name") for name in BAD_NAMES],
    *[("condition", {"lock": name}, "name") for name in BAD_NAMES],
    *[("condition", {"timeout": time}, "timeout") for time in BAD_TIMES],
    *[("candidate", {"name": name}, "name") for name in BAD_NAMES],
    *[("candidate", {"address": address}, "address") for address in (5, None, True, bytes(257), ["a"])],
    *[("candidate", {"port": port}, "port") for port in ("1", -1, 1 << 16, 1.0, True, None)],
    *[("candidate", {"restart_interval": time}, "restart_interval") for time in ("1", NAN, INF, -1, 1e11, None)],
    *[("candidate", {"duration": lease}, "duration") for lease in BAD_LEASES],
    *[("observe", {"name": name}, "name") for name in BAD_NAMES],
]
DEFAULTS = {
    "lock": {"name": "name"},
    "shared": {"name": "name"},
    "semaphore": {"name": "name", "permits": 1},
    "condition": {"name": "name", "lock": "lock"},
    "candidate": {"name": "name"},
    "observe": {"name": "name"},
}


def test_blocks_of_trio():
    cluster = Cluster()

    async def main():
        async with cluck.client.asynchronous.over(Handed(cluster)) as locks:
            cluster.said.clear()
            for call, wrong, what in LOCKS:
                with pytest.raises((TypeError, ValueError), match=rf"{what}\b|a name of \d+ bytes"):
                    async with getattr(locks, call)(**{**DEFAULTS[call], **wrong}):
                        raise AssertionError(f"{call}({wrong})")
            assert not cluster.said

    trio.run(main)


def test_blocks_of_threads(tmp_path):
    cluster = Cluster()
    with SocketServer(tmp_path / "s", cluster), connect(tmp_path / "s") as locks:
        cluster.said.clear()
        for call, wrong, what in LOCKS:
            with (
                pytest.raises((TypeError, ValueError), match=rf"{what}\b|a name of \d+ bytes"),
                getattr(locks, call)(**{**DEFAULTS[call], **wrong}),
            ):
                raise AssertionError(f"{call}({wrong})")
        assert not cluster.said


def wrong_calls(condition, candidate, locks):
    """Calls within blocks, and what is wrong with each."""
    return [
        *[(lambda time=time: condition.wait(time), "timeout") for time in BAD_TIMES],
        (lambda: condition.wait(reacquire=1), "reacquire"),
        (lambda: condition.wait_for(5), "predicate"),
        *[(lambda time=time: condition.wait_for(bool, time), "timeout") for time in BAD_TIMES],
        *[(lambda n=n: condition.notify(n), "n=") for n in (-1, 1.0, "1", True, None, 1025)],
        (lambda: condition.notify(priority="no"), "priority"),
        (lambda: condition.notify_all(priority=0), "priority"),
        *[(lambda blob=blob: candidate.publish(blob), "blob|bytes to publish") for blob in (5, None, bytes(65537))],
        *[(lambda to=to: candidate.resign(to), "to=") for to in (5, "other", (1, 2))],
        *[(lambda name=name: locks.force(name, 1), "name") for name in BAD_NAMES],
        *[(lambda token=token: locks.force("name", token), "token") for token in (0, -1, "1", None, True, 1.0)],
        *[(lambda question=question: locks.query(question), "question") for question in (5, None, b"status", "x" * 65)],
        *[(lambda votes=votes: locks.change_voters(votes), "votes") for votes in ({"1": 1}, {1: 1.0}, {1: 0})],
        (lambda: locks.change_voters({1: 1}, unsafe_half="no"), "unsafe_half"),
    ]


def test_calls_of_trio():
    cluster = Cluster()

    async def main():
        async with (
            cluck.client.asynchronous.over(Handed(cluster)) as locks,
            locks.condition("full", lock="queue") as condition,
            locks.candidate("head") as candidate,
        ):
            while not candidate.is_leader:
                await trio.sleep(0.001)
            cluster.said.clear()
            for call, what in [
                *wrong_calls(condition, candidate, locks),
                (lambda: candidate.run_while_leader(5), "fn"),
            ]:
                with pytest.raises((TypeError, ValueError), match=what):
                    await call()
            assert not cluster.said
            condition.held.check()

    trio.run(main)


def test_calls_of_threads(tmp_path):
    cluster = Cluster()
    with (
        SocketServer(tmp_path / "s", cluster),
        connect(tmp_path / "s") as locks,
        locks.condition("full", lock="queue") as condition,
        locks.candidate("head") as candidate,
    ):
        assert candidate.wait_leader(10)
        cluster.said.clear()
        for call, what in [
            *wrong_calls(condition, candidate, locks),
            *[(lambda time=time: locks.wait_ready(time), "timeout") for time in BAD_TIMES],
            *[(lambda time=time: candidate.wait_leader(time), "timeout") for time in BAD_TIMES],
        ]:
            with pytest.raises((TypeError, ValueError), match=what):
                call()
        assert not [said for said in cluster.said if type(said).__name__ != "Pong"]
        assert isinstance(candidate.id, RequestId)
        assert locks.wait_ready(INF)


def test_connecting(tmp_path):
    with pytest.raises(TypeError, match="reconnect='no'"):
        connect(tmp_path / "s", reconnect="no")

    async def main():
        async with cluck.connect(tmp_path / "s", reconnect=0):
            raise AssertionError

    with pytest.raises(TypeError, match="reconnect=0"):
        trio.run(main)


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"servers": ["1"]}, "servers='1'"),
        ({"servers": {1: "1"}}, "votes of node 1='1'"),
        ({"servers": [True]}, "servers=True"),
        ({"servers": [-1]}, "servers=-1"),
        ({"priority": 15}, "priority=15"),
        ({"priority": "1"}, "priority='1'"),
        ({"clock": 5}, "clock=5"),
        ({"store": ""}, "store=''"),
        ({"group": 5}, "name=5"),
    ],
)
async def test_being_a_lock_server(wrong, what, autojump_clock):
    async with World(1).open_ring(1) as ring:
        with pytest.raises((TypeError, ValueError), match=what):
            async with cluck.open(ring, **{"servers": [1], "store": Memory(), "clock": trio.current_time, **wrong}):
                raise AssertionError
