"""The known faults of the systems that this one learns from, each as a test that passes here.

*cluck* is the C++ lock daemon of that name, *FastDFS* its trackers' leader. What is told of them was read in their code
and documents.
"""

import pytest
import trio

import cluck.embedded
from cluck.commands import (
    Close,
    Commit,
    Ended,
    Leadership,
    Mode,
    Next,
    Owner,
    Refused,
    Rejected,
    Release,
    RequestId,
    Stand,
    Status,
    Why,
    Withdraw,
)
from cluck.errors import LockTimeout
from cluck.protocol import Failed, LockHeld, Malformed, Pong, Readiness
from cluck.state.application import DRIFT
from cpg.replication.replica import Phase
from cpg.testing import World
from tests.cluck.server.orders import Order, started
from tests.cluck.server.test_host import Memory
from tests.cluck.state.bench import Bench

# ---- cluck: names and parameters


@pytest.mark.parametrize("name", [b"a/b/c/d", b"a|b", b"%7C", b"\0", b" ", "schlüssel".encode(), b"x" * 1024])
def test_a_name_may_have_any_bytes(name):
    """cluck: a slash broke its ALIVE message, a bar its serialised tickets."""
    order = started()
    order[1].acquire(name)
    order.settle()
    order.restart(2)
    order.ring([1, 2, 3])  # a snapshot goes to 2
    order.settle()
    assert order[2].state.table.holder(name, order[1].held[0]) is not None


def test_what_is_left_out_has_the_default():
    """cluck: a client that left the duration out was refused, since the daemon required it."""
    order = started()
    order[1].acquire()
    order.settle()
    assert order[1].of(LockHeld)[0].deadline == pytest.approx(order.now + 5.0, rel=0.01)


def test_the_kind_of_a_lock_counts():
    """cluck: shared and exclusive could be asked for, and the daemon ignored it."""
    order = started()
    for node in (1, 2, 3):
        order[node].acquire(mode=Mode.SHARED)
    order.settle()
    assert all(len(order[node].held) == 1 for node in (1, 2, 3))
    order[1].acquire(b"lock", task=1, mode=Mode.EXCLUSIVE)
    order.settle()
    assert len(order[1].held) == 1


@pytest.fixture
async def taken(autojump_clock):
    """A client of a lone lock server, where another task holds the lock `taken`."""
    world, disk = World(1), Memory()
    async with (
        world.open_ring(1) as ring,
        cluck.embedded.open(ring, store=disk, clock=trio.current_time) as locks,
        trio.open_nursery() as nursery,
    ):

        async def hold(task_status):
            async with locks.lock("taken"):
                task_status.started()
                await trio.sleep_forever()

        await nursery.start(hold)
        yield locks
        nursery.cancel_scope.cancel()


async def test_half_a_second_to_wait_is_half_a_second(taken):
    """cluck: three seconds were the least."""
    began = trio.current_time()
    with pytest.raises(LockTimeout):
        await taken.lock("taken", timeout=0.5).__aenter__()
    assert 0.5 <= trio.current_time() - began < 0.6


async def test_a_timeout_is_called_a_timeout(taken):
    """cluck: the daemon's timeout arrived as `failed`, and was shown as INVALID."""
    with pytest.raises(LockTimeout, match="taken"):
        await taken.lock("taken", timeout=1).__aenter__()


# ---- cluck: releasing


def test_a_delayed_release_frees_no_later_lock_of_the_same_thread():
    """cluck: UNLOCK was matched by server and thread alone."""
    order = started()
    order[1].acquire()
    order.settle()
    (first,) = order[1].held
    order[1].release(first)
    order.settle()
    order[1].acquire()
    order.settle()
    order[1].release(first)
    order.settle()
    (second,) = order[1].held
    assert order[2].state.table.holder(b"lock", second) is not None


def test_nobody_else_can_destroy_a_lock():
    """cluck: a LOCK_FAILED from anybody removed a live ticket."""
    order = started()
    order[1].acquire()
    order.settle()
    (token,) = order[1].held
    request = RequestId(Owner(order[1].client, 0), 1)
    for command in (Withdraw(request), Release(request, token)):
        with pytest.raises(Malformed):
            order[2].say(command)
    order.settle()
    assert order[1].held == [token]


def test_a_release_while_nobody_decides_is_kept_and_done():
    """cluck: an UNLOCK while not ready was dropped, and the lock stayed until its timeout."""
    order = started()
    order[1].acquire(lease=600.0)
    order.settle()
    order[2].acquire()
    order.settle()
    (token,) = order[1].held
    order.ring([1], [2], [3])
    order.settle()
    order[1].release(token)
    order.settle()
    order.ring([1, 2, 3])
    order.settle()
    assert len(order[2].held) == 1


def test_a_release_is_answered_when_it_is_final():
    """cluck: UNLOCKED was sent before the other leaders knew."""
    order = started(safe=False)
    order[1].acquire()
    order.settle()
    order[1].release(order[1].held[0])
    messages = order.said(1)
    order.deliver(messages, [1])
    assert order[1].of(Ended) == []
    order.deliver(messages, [2, 3])
    order.settle()
    assert len(order[1].of(Ended)) == 1


# ---- cluck: leaders, readiness, state


def test_three_survive_the_loss_of_one():
    """cluck: clusters of two or three needed all of their nodes, to elect and to stay ready."""
    order = started()
    order.ring([1, 2])
    order.settle()
    assert order[1].ready


def test_any_two_leaders_may_be_lost_at_once():
    """cluck: two leaders lost at once could take tickets with them."""
    order = started(5)
    order[4].acquire(lease=600.0)
    order.settle()
    order[5].acquire()
    order.settle()
    (token,) = order[4].held
    lost = [member.node_id for member in order[4].service.replica.leaders if member.node_id not in (4, 5)][:2]
    rest = [node for node in order.servers if node not in lost]
    order.ring(rest)
    for node in lost:
        del order.rings[node]
    order.settle()
    assert order[4].held == [token]
    order[4].release(token)
    order.settle()
    assert len(order[5].held) == 1


def test_who_waits_keeps_its_place_when_the_leader_dies():
    """cluck: waiting tickets of a dead leader were begun anew, with another ticket's serial."""
    order = started()
    first = order[1].service.replica.leaders[0].node_id
    a, b = (node for node in order.servers if node != first)
    for node, task in ((a, 0), (b, 0), (a, 1), (b, 1)):
        order[node].acquire(task=task)
        order.settle()
    order.ring([a, b])
    del order.rings[first]
    order.settle()
    waiting = [ticket.request.owner for ticket in order[a].state.table.locks[b"lock"].waiting]
    assert waiting == [Owner(order[b].client, 0), Owner(order[a].client, 1), Owner(order[b].client, 1)]


def test_a_snapshot_has_all_tickets():
    """cluck: only the first ticket of a payload was read right."""
    order = started()
    for number in range(100):
        order[1].acquire(b"%d" % number)
        order[3].acquire(b"%d" % number)
    order.settle()
    order.restart(2)
    order.ring([1, 2, 3])
    order.settle()
    assert repr(order[2].state.image()) == repr(order[1].state.image())
    assert len(order[2].state.table.locks) == 100


def test_leaders_are_the_same_at_all_and_do_not_change_without_cause():
    """cluck: a later LOCK_LEADERS replaced an earlier one unconditionally, and a daemon's id changed meanwhile."""
    order = started()
    before = order[1].service.replica.leaders
    for _ in range(3):
        order.ring([1, 2, 3])
        order.settle()
    assert all(order[node].service.replica.leaders == before for node in (1, 2, 3))


def test_a_smaller_priority_number_leads_and_off_never_does():
    """cluck: priorities were random where they were equal, and `off` nodes counted until an election failed."""
    order = Order()
    order.restart(2, priority=1)
    order.restart(1, priority=0)
    order.ring([1, 2, 3])
    order.settle()
    assert [member.node_id for member in order[1].service.replica.leaders] == [2, 3]
    assert order[1].ready


def test_the_loss_of_any_server_is_noticed_at_once():
    """cluck: only the loss of a leader made a daemon look whether it was ready."""
    order = started()
    last = order[1].service.replica.leaders[-1].node_id
    rest = [node for node in order.servers if node != last]
    order.ring(*[[node] for node in rest])
    order.settle()
    for node in rest:
        assert order[node].of(Readiness)[-1].ready is False
        assert order[node].service.replica.phase is Phase.MINORITY


def test_a_server_that_comes_back_counts_again():
    """cluck: a STATUS up was answered by nothing."""
    order = started()
    order.ring([1], [2, 3])
    order.settle()
    order.ring([1, 2, 3])
    order.settle()
    assert order[1].of(Readiness)[-1].ready


def test_tokens_never_begin_anew():
    """cluck: ticket numbers began with 1 whenever a queue was empty."""
    order = started()
    tokens = []
    for _ in range(3):
        order[1].acquire()
        order.settle()
        tokens += order[1].held
        order[1].release(tokens[-1])
        order.settle()
    assert tokens == sorted(set(tokens))


def test_clocks_may_be_anywhere():
    """cluck: dates of the wall clock went over the wire, and a daemon without NTP was never ready."""
    order = started()
    order[1].acquire()
    messages = order.said(1)
    order.deliver(messages, [1])
    order.now += 1e6  # the other servers' clock
    order.deliver(messages, [2, 3])
    for node in (2, 3):
        order[node].service.advance(order.now)
    order.deliver(order.said(2, 3), [1, 2, 3])
    order.now -= 1e6
    assert len(order[1].held) == 1


def test_a_deadlock_is_found_and_named():
    """cluck: DEADLOCK was declared, and never produced."""
    order = started()
    order[1].acquire(b"x")
    order[2].acquire(b"y")
    order.settle()
    order[1].acquire(b"y")
    order.settle()
    order[2].acquire(b"x")
    order.settle()
    refused = order[2].of(Refused)[-1]
    assert refused.why is Why.DEADLOCK
    assert set(refused.circle) == {b"x", b"y"}


def test_what_fails_is_one_request_and_not_the_process():
    """cluck: a failed transmission failed every lock of a process."""
    order = started()
    order[1].acquire(b"held")
    order.settle()
    order.ring([1], [2], [3])
    order.settle()
    order[1].acquire(b"tried", waits=False)
    waiting = order[1].acquire(b"waits", task=1)
    assert len(order[1].of(Failed)) == 1
    order.ring([1, 2, 3])
    order.settle()
    assert order[1].of(LockHeld)[-1].request == waiting


def test_one_thread_may_ask_for_several_locks():
    """cluck: a second request of a thread for one object was a `duplicate`; here it is a deadlock with itself."""
    order = started()
    order[1].acquire(b"a")
    order[1].acquire(b"b")
    order.settle()
    assert len(order[1].held) == 2
    order[1].acquire(b"a")
    order.settle()
    assert order[1].of(Refused)[-1].why is Why.DEADLOCK


def test_the_grace_is_waited_for_before_the_next_one_is_granted():
    """cluck: the next ticket was activated while the former client might still be working."""
    order = started()
    order[1].acquire(lease=5.0, grace=3.0)
    order[2].acquire()
    order.settle()
    order[1].connection.lost(order.now, dead=False)
    order.pass_time(5.0 * (1 + DRIFT) + 2.9)
    assert order[2].held == []
    order.pass_time(0.7)
    assert len(order[2].held) == 1


# ---- FastDFS: who leads


@pytest.fixture
def bench():
    return Bench()


def stand(bench, *who, addresses=()):
    requests = []
    for place, name in enumerate(who):
        request = bench.request(name)
        address = addresses[place] if addresses else b""
        requests.append(request)
        bench.apply(Stand(request, b"election", address))
    return requests


def round_of(bench, requests, running, restarts=None):
    """Have the first candidate's lonely round end without an answer, then all answer in the next one."""
    election = bench.state.elections.by_name[b"election"]
    bench.apply(Commit(b"election", election.round, requests[0]))  # void
    bench.apply(Close(b"election", election.round))
    outcomes = []
    for place, request in enumerate(requests):
        restart = restarts[place] if restarts else 0.0
        outcomes = bench.apply(Status(request, election.round, running[place], restart))
    return outcomes[-1].candidate


def test_the_shorter_restart_interval_wins(bench):
    """FastDFS: its description says longer, its code shorter."""
    a, b = stand(bench, "A", "B")
    assert round_of(bench, [a, b], [900.0, 900.0], [3000.0, 600.0]) == b


def test_addresses_are_compared_as_bytes_by_all_alike(bench):
    """FastDFS: as text of each one's own configuration, so that lists had to match."""
    a, b = stand(bench, "A", "B", addresses=(b"10.0.0.9", b"9.0.0.1"))
    assert round_of(bench, [a, b], [0.0, 0.0]) == b


def test_nobody_leads_who_was_not_named_next(bench):
    """FastDFS: COMMIT was compared with NEXT at each tracker by itself."""
    a, b = stand(bench, "A", "B")
    winner = round_of(bench, [a, b], [900.0, 0.0])
    number = bench.state.elections.by_name[b"election"].round
    assert winner == a
    assert isinstance(bench.apply(Commit(b"election", number, a))[0], Rejected)
    assert isinstance(bench.apply(Next(b"election", number, b))[0], Rejected)
    bench.apply(Next(b"election", number, a))
    assert isinstance(bench.apply(Commit(b"election", number, b))[0], Rejected)
    (leadership,) = bench.apply(Commit(b"election", number, a))
    assert isinstance(leadership, Leadership)
    assert leadership.leader == a


def test_a_candidate_that_is_alone_in_its_part_does_not_elect_itself():
    """FastDFS: no quorum at all."""
    order = started()
    order.ring([1], [2, 3])
    order.settle()
    order[1].numbers += 1
    order[1].say(Stand(RequestId(Owner(order[1].client, 0), 1), b"election"))
    order.pass_time(10)
    assert not order[1].state.elections.by_name


def test_a_new_leader_is_not_deposed_for_what_its_predecessor_missed():
    """FastDFS: failed pings were counted on when the leader had changed."""
    order = started()
    candidates = {}
    for node in (1, 2):
        order[node].numbers += 1
        candidates[node] = RequestId(Owner(order[node].client, 0), 1)
        order[node].say(Stand(candidates[node], b"election"))
        order.settle()
    election = order[3].state.elections.by_name[b"election"]
    first = next(node for node, candidate in candidates.items() if candidate == election.chosen)
    other = 3 - first
    for _ in range(12):  # the leader is stuck, the other one answers
        order.pass_time(1)
        order[other].say(Pong())
        order[other].renew_lead()
    leadership = order[3].state.elections.of(b"election")
    assert leadership.leader == candidates[other]
    for _ in range(5):
        order.pass_time(1)
        order[other].say(Pong())
        order[other].renew_lead()
    assert order[3].state.elections.of(b"election") == leadership


def test_acquiring_and_releasing_need_one_order_each():
    """cluck: four acknowledged rounds between leaders, with acknowledgements of different ones."""
    order = started()
    order[1].acquire()
    messages = order.said(1)
    assert len(messages) == 1
    order.deliver(messages, [1, 2, 3])
    assert len(order[1].held) == 1
    assert order.said(1, 2, 3) == []
