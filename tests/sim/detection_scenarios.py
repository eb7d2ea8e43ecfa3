"""Stories of silent and of late machines, each a function that asserts what must come of it (rulings, F1, F4, F5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tests.sim.scenarios import cluster_of, judge, machine_of, swallow_first
from totem.config import Config
from totem.configuration import RegularConfiguration
from totem.testing.cluster import Cluster
from totem.testing.corosync import CorosyncModel
from totem.testing.detection import silent
from totem.timers import Timer
from totem.transitions import State
from totem.wire import codec


def daemons(count: int = 3, **settings: object) -> Cluster:
    """Return a ring of daemons whose timeouts are not configured."""
    cluster = Cluster(count, config=Config.for_nodes(count, **settings), daemons=True)
    cluster.start()
    cluster.form()
    cluster.run_for(1.0)
    return cluster


def token_of(cluster: Cluster, node_id: int) -> float:
    return machine_of(cluster, node_id).ring.timeouts.token


def out_after(cluster: Cluster, victim: int, limit: float = 60.0) -> float:
    """Cut a machine off; return the seconds until all others have the ring without it."""
    others = [node_id for node_id in cluster.nodes if node_id != victim]
    cluster.network.partition(others, [victim])
    began = cluster.now
    assert cluster.run_until(lambda: cluster.one_ring(*others), limit)
    return cluster.now - began


def rings(cluster: Cluster) -> list[int]:
    return [machine_of(cluster, node.node_id).counters.rings_installed for node in cluster.running]


def a_silent_machine_is_out_in_a_second() -> None:
    """Within 0.9, 1.35 and 2.0 s in rings of 3, 8 and 16 (F1)."""
    for nodes, limit in ((3, 0.9), (8, 1.35), (16, 2.0)):
        assert silent(1, nodes=nodes).seconds < limit


def a_lost_commit_token_costs_a_moment() -> None:
    """All members seem to be ours, so it is sent again long before Corosync would (F4)."""
    cluster = daemons()
    swallow_first(cluster, codec.TYPE_COMMIT_TOKEN, {1}, times=2)
    assert out_after(cluster, 3) < 1.1


def a_lost_token_of_recovery_costs_a_moment() -> None:
    """The same of the token while the ring recovers (F4)."""
    cluster = daemons()
    cluster.network.partition((1, 2), (3,))
    assert cluster.run_until(lambda: machine_of(cluster, 1).state is State.RECOVERY, 2.0)
    began = cluster.now
    lost = swallow_first(cluster, codec.TYPE_TOKEN, {1}, times=2)
    assert cluster.run_until(lambda: cluster.one_ring(1, 2), 5.0)
    assert len(lost) == 2
    assert cluster.now - began < 0.3


def beside_a_real_node_everything_takes_its_time() -> None:
    """With a Corosync node in the ring its timeouts hold (F1)."""
    cluster = Cluster(3, makers={3: CorosyncModel}, daemons=True)
    cluster.start()
    cluster.form()
    assert token_of(cluster, 1) == cluster.config.token
    assert out_after(cluster, 2) > cluster.config.token


def a_program_among_daemons_is_waited_for() -> None:
    """A program that embeds its node begins with Corosync's timeouts, for all members (F1)."""
    cluster = Cluster(3, daemons=True)
    cluster[2].is_daemon = False
    cluster.start()
    cluster.form()
    assert {token_of(cluster, k) for k in (1, 2, 3)} == {cluster.config.token}
    cluster.run_for(130.0)
    assert {token_of(cluster, k) for k in (1, 2, 3)} == {1.5}


def who_joins_is_waited_for_as_corosync_does() -> None:
    """A Gather with a candidate that is no member has Corosync's consensus timeout (F1)."""
    cluster = daemons(4)
    cluster[4].leave()
    cluster.form(1, 2, 3)
    machine = machine_of(cluster, 1)
    assert machine.consensus == machine.ring.timeouts.consensus < 1
    machine.membership.candidates.add(4)
    assert machine.consensus == cluster.config.consensus


def a_member_that_comes_back_as_corosync_is_waited_for() -> None:
    """A Join without a hint shows that its sender is not ours any more (F1)."""
    cluster = daemons()
    cluster[3].crash()
    cluster[3]._maker = CorosyncModel
    cluster[3].foreign = True
    cluster[3].is_daemon = False
    cluster[3].start()
    assert cluster.run_until(lambda: machine_of(cluster, 1).state is State.GATHER, 2.0)
    assert cluster.run_until(lambda: 3 not in machine_of(cluster, 1).ours, 1.0)
    assert machine_of(cluster, 1).consensus == cluster.config.consensus


def who_was_late_is_waited_for_longer() -> None:
    """A node that notices a pause asks all to wait for it, in order; after quiet it asks no more (F1, F2)."""
    cluster = daemons()
    before = rings(cluster)
    busy(cluster)
    cluster[2].pause()
    cluster.run_for(0.3)
    cluster[2].resume()
    cluster.run_for(0.5)
    assert {round(token_of(cluster, k), 1) for k in (1, 2, 3)} == {1.2}
    assert machine_of(cluster, 1).ring.because == "node 2 asks for it: it was not run for a while"
    cluster.run_for(130.0)
    assert {token_of(cluster, k) for k in (1, 2, 3)} == {0.5}
    assert rings(cluster) == before
    assert not any(b"TtmC" in message for message in cluster.delivered(1)), "programs do not see it"


def busy(cluster: Cluster) -> None:
    """Send something each 10 ms from now on."""
    for node in cluster.running:
        if not node.paused:
            node.try_send([node.compose(100)])
    cluster.network.at(cluster.now + 0.01, busy, cluster)


def members_that_are_late_one_after_the_other_are_in() -> None:
    """The wait for the token begins anew where it was last (F5). All of them were late before: none asks for more."""
    for load in (False, True):
        cluster = daemons(5)
        if load:
            busy(cluster)
        before = rings(cluster)
        for node_id in (2, 3, 4, 5, 1, 2, 3, 4):
            cluster[node_id].pause()
            cluster.run_for(0.1)  # the next one is paused before this one runs again
            following = cluster[node_id % 5 + 1]
            cluster.network.at(cluster.now + 0.01, cluster[node_id].resume)
            following.pause()
            cluster.run_for(0.05)
            following.resume()
        cluster.run_for(3.0)
        assert rings(cluster) == before


def a_number_shows_where_the_token_is() -> None:
    """Frames with new numbers postpone the loss of the token, others do not (F5)."""
    cluster = daemons()
    machine = machine_of(cluster, 1)
    frames: list[bytes] = []

    def keep(source: int, target: int, datagram: bytes) -> bool:
        if target == 1 and codec.packet_type(datagram) == codec.TYPE_MCAST:
            frames.append(datagram)
        return bool(frames) and target == 1 and codec.packet_type(datagram) == codec.TYPE_TOKEN

    cluster.network.filters.append(keep)
    cluster[2].send([cluster[2].compose(100)])
    assert cluster.run_until(lambda: frames and frames[0] in machine.ring.window.frames.values(), 0.5)
    deadline = machine.timers.deadline(Timer.TOKEN_LOSS)
    assert deadline == cluster.now + machine.ring.timeouts.token
    cluster.run_for(0.05)
    cluster[1].receive(frames[0])
    assert machine.timers.deadline(Timer.TOKEN_LOSS) == deadline


def a_late_process_asks_before_it_judges() -> None:
    """A process that was late sends its first copy of the token only now, so it waits for the answer (F4)."""
    cluster = daemons()
    machine = machine_of(cluster, 1)
    cluster[1].send([cluster[1].compose(100)])
    swallow_first(cluster, codec.TYPE_TOKEN, {1}, times=1)
    assert cluster.run_until(lambda: machine.tokens._copies == 0 and machine.timers.armed(Timer.TOKEN_LOSS), 1.0)
    machine.timers.arm(Timer.TOKEN_LOSS, cluster.now)
    machine.timers.arm(Timer.TOKEN_RETRANSMIT, cluster.now)
    cluster[1].kick()
    assert machine.state is State.OPERATIONAL
    cluster.run_for(0.2)
    assert machine.state is State.OPERATIONAL


def who_is_late_when_another_ends_is_in() -> None:
    """A round that begins before the token is missed waits for late members as long as the ring would have (F5)."""
    cluster = daemons(16)
    busy(cluster)
    cluster.run_for(0.5)
    cluster[1].pause()
    cluster[9].crash()
    cluster.run_for(1.0)
    states = {machine_of(cluster, k).state for k in (2, 8, 16)}
    assert states == {State.GATHER}
    cluster[1].resume()
    others = [k for k in cluster.nodes if k != 9]
    assert cluster.run_until(lambda: cluster.one_ring(*others), 2.0)
    for k in others[1:]:
        latest = [event for event in cluster.configurations(k) if isinstance(event, RegularConfiguration)]
        assert latest[-1].transitional == tuple(others)


def a_ring_that_does_not_come_about_is_given_up_soon() -> None:
    """Members of a ring of ours do not wait for a lost token of the next one as Corosync does (F1)."""
    cluster = daemons()
    cluster.network.partition((1, 2), (3,))
    machine = machine_of(cluster, 1)
    assert cluster.run_until(lambda: machine.state is State.RECOVERY, 3.0)
    swallow_first(cluster, codec.TYPE_TOKEN, {1, 2}, times=1000)
    assert cluster.run_until(lambda: machine.state is State.GATHER, 2.1)


def a_quick_restart_is_a_leave_and_a_join() -> None:
    """A node that restarts before it was missed comes along with nobody (G10)."""
    cluster = daemons()
    cluster[2].crash()
    cluster.run_for(0.1)
    cluster[2].start()
    cluster.form()
    latest = [event for event in cluster.configurations(1) if isinstance(event, RegularConfiguration)][-1]
    assert (latest.members, latest.transitional) == ((1, 2, 3), (1, 3))
    judge(cluster)


def timeouts_that_are_configured_stay() -> None:
    """Of one node alone, all wait for it as long; it waits as it was told itself (F1)."""
    cluster = Cluster(3, daemons=True)
    cluster[2].config = replace(cluster.config, token=2.0, token_configured=True)
    cluster.start()
    cluster.form()
    assert {token_of(cluster, k) for k in (1, 2, 3)} == {2.0}
    assert token_of(cluster_of(3, token=0.4), 1) == 0.4


SCENARIOS: list[Callable[[], None]] = [
    a_silent_machine_is_out_in_a_second,
    a_lost_commit_token_costs_a_moment,
    a_lost_token_of_recovery_costs_a_moment,
    beside_a_real_node_everything_takes_its_time,
    a_program_among_daemons_is_waited_for,
    who_joins_is_waited_for_as_corosync_does,
    a_member_that_comes_back_as_corosync_is_waited_for,
    who_was_late_is_waited_for_longer,
    members_that_are_late_one_after_the_other_are_in,
    a_number_shows_where_the_token_is,
    a_late_process_asks_before_it_judges,
    who_is_late_when_another_ends_is_in,
    a_ring_that_does_not_come_about_is_given_up_soon,
    a_quick_restart_is_a_leave_and_a_join,
    timeouts_that_are_configured_stay,
]
