"""Named scenarios: each drives a cluster into one corner of the protocol, then lets the checkers judge it.

Each is a plain function that asserts, so that it serves as a test and as the hunter of a planted bug.
"""

from __future__ import annotations

import re
from dataclasses import replace

from bench import accelerated
from totem.config import Config
from totem.configuration import Guarantee, Level, Messages
from totem.processor import Processor
from totem.sequence import up_to
from totem.testing.checkers import check
from totem.testing.cluster import BarrierSync, Cluster, Maker, SimulatedNode, Stamp
from totem.testing.corosync import CorosyncModel
from totem.testing.network import Cables, Conditions, Filter, flip_or_cut
from totem.transitions import State
from totem.wire import codec
from totem.wire.messages import Token

AGREED, SAFE = Guarantee.AGREED, Guarantee.SAFE


def cluster_of(count: int, **settings: object) -> Cluster:
    """Return a cluster with short timers, formed."""
    config = Config.for_nodes(count, **{"token": 0.2, "merge": 0.03, "seqno_unchanged_const": 3, **settings})
    cluster = Cluster(count, config=config)
    cluster.start()
    cluster.form()
    return cluster


def judge(cluster: Cluster, *, settle: bool = True) -> None:
    if settle:
        assert cluster.settle(), f"no common ring that delivers all: {cluster}"
    assert check(cluster.history(quiescent=settle)) == []


def swallow_multicasts(cluster: Cluster, sources: set[int], targets: set[int]) -> None:
    """From now on lose multicasts from these nodes to those, and nothing else."""

    def swallows(source: int, target: int, datagram: bytes) -> bool:
        is_plain = codec.packet_type(datagram) == codec.TYPE_MCAST and not codec.mcast_is_encapsulated(datagram)
        return is_plain and source in sources and target in targets

    cluster.network.filters.append(swallows)


def swallow_first(cluster: Cluster, kind: int, sources: set[int], *, times: int = 1) -> list[float]:
    """Lose the next packets of this type from these nodes; return the times at which they are sent."""
    lost: list[float] = []

    def swallows(source: int, _target: int, datagram: bytes) -> bool:
        if source not in sources or codec.packet_type(datagram) != kind or len(lost) == times:
            return False
        lost.append(cluster.now)
        return True

    cluster.network.filters.append(swallows)
    return lost


def frameful(cluster: Cluster, node_id: int) -> bytes:
    """Return a message that fills a frame of its own."""
    return cluster[node_id].compose(cluster.config.frame_size - codec.MCAST_HEADER - 10)


def machine_of(cluster: Cluster, node_id: int) -> Processor:
    machine = cluster[node_id].machine
    assert machine is not None
    return machine


def state(cluster: Cluster, node_id: int) -> State:
    return machine_of(cluster, node_id).state


def was_told(cluster: Cluster, node_id: int, message: bytes) -> Level | None:
    """Return the level with which the present process of this node was given the message; None if it was not."""
    for event in cluster[node_id].trace.events:
        if isinstance(event, Messages) and message in event.messages:
            return event.level
    return None


def a_lost_frame_is_sent_again() -> None:
    """One loss costs some rotations, and no change of the ring."""
    cluster = cluster_of(3)
    ring_id = cluster.installed_ring
    swallow_multicasts(cluster, {1}, {3})
    messages = [cluster[1].compose(300) for _ in range(20)]
    cluster[1].send(messages)
    cluster.run_for(0.01)
    assert not cluster.delivered(3)
    cluster.network.filters.clear()
    assert cluster.run_until(lambda: cluster.delivered(3) == messages, 0.1)
    assert cluster.installed_ring == ring_id
    judge(cluster)


def safe_waits_for_the_member_that_lacks_it() -> None:
    """No other member is given a SAFE message before the last one has it; then all are."""
    cluster = cluster_of(3)
    swallow_multicasts(cluster, {1, 2, 3}, {3})
    message = cluster[1].compose(100)
    cluster[1].send([message], SAFE)
    cluster.run_for(0.1)
    assert [was_told(cluster, node_id, message) for node_id in (1, 2, 3)] == [None, None, None]
    cluster.network.filters.clear()
    assert cluster.run_until(lambda: was_told(cluster, 1, message), 0.1)
    judge(cluster)
    assert {was_told(cluster, node_id, message) for node_id in (1, 2, 3)} == {Level.SAFE}


def safe_needs_two_visits() -> None:
    """Node 1 lowers the aru and raises it again while node 2, hidden behind that, lacks another message (B1)."""
    _one_lacks_what_another_hides(cluster_of(3), sender=3, behind=1, hidden=2)


def safe_needs_two_visits_where_somebody_was_behind() -> None:
    """The same where the node before the sender sees an aru that node 4 has raised past what node 3 lacks (B1)."""
    _one_lacks_what_another_hides(cluster_of(4), sender=2, behind=4, hidden=3)


def _one_lacks_what_another_hides(cluster: Cluster, *, sender: int, behind: int, hidden: int) -> None:
    late, lost = frameful(cluster, sender), frameful(cluster, sender)

    def swallows(source: int, target: int, datagram: bytes) -> bool:
        if target == behind and late in datagram:
            between_two_visits = cluster.now + 0.0015
            cluster.network.at(between_two_visits, cluster[behind].receive, datagram)
            return True
        return target == hidden and lost in datagram

    cluster.network.filters.append(swallows)
    cluster[sender].send([late, lost], SAFE)
    assert cluster.run_until(lambda: lost in cluster_frames(cluster, behind), 1)
    cluster.run_for(0.01)
    cluster.network.filters.clear()
    others = sorted(set(cluster.nodes) - {hidden})
    cluster.network.partition(others, [hidden])
    assert cluster.run_until(lambda: cluster.one_ring(*others) and cluster.one_ring(hidden), 10)
    cluster.network.heal()
    judge(cluster)


def resting_cluster() -> Cluster:
    """Return three nodes whose token rests at the second, which has sent last."""
    cluster = cluster_of(3, seqno_unchanged_const=None)
    cluster[2].send([cluster[2].compose(10)])
    cluster.run_for(0.02)
    assert machine_of(cluster, 2).ring.resting is not None
    return cluster


def a_resting_token_is_no_second_visit() -> None:
    """A SAFE message that goes out with a token that rested reaches no node (B1)."""
    cluster = resting_cluster()
    swallow_multicasts(cluster, {1, 2, 3}, {1, 3})
    cluster[2].send([cluster[2].compose(10)], SAFE)
    cluster.run_for(0.004)
    cluster.network.partition([1, 3], [2])
    assert cluster.run_until(lambda: cluster.one_ring(1, 3) and cluster.one_ring(2), 10)
    cluster.network.filters.clear()
    cluster.network.heal()
    judge(cluster)


def is_told_soon(cluster: Cluster, node_id: int, seconds: float = 0.0) -> None:
    """Check that what a node sends now comes without a wait for the end of a hold, or within `seconds`."""
    start, message = cluster.now, cluster[node_id].compose(10)
    cluster[node_id].send([message])
    assert cluster.run_until(lambda: all(message in cluster.delivered(other) for other in cluster.nodes), 1)
    assert cluster.now - start < (seconds or cluster.config.hold / 2), "it waited for the end of a hold"


def a_token_that_is_called_for_does_not_rest() -> None:
    """A node calls for the token just before it would come to rest; none needs to call again."""
    for wait in range(24):
        cluster = resting_cluster()
        cluster[2].send([cluster[2].compose(10)])
        cluster.run_for(wait / 2000)
        is_told_soon(cluster, 3, 0.004)


def a_lost_call_for_the_token_is_made_again() -> None:
    """A node with something to send, while the token rests elsewhere, calls again if nothing comes of it (D7)."""
    cluster = resting_cluster()
    lost = swallow_first(cluster, codec.TYPE_HOLD_CANCEL, {3}, times=2)
    is_told_soon(cluster, 3, 0.03)
    assert len(lost) == 2


def a_token_is_missed_soon_where_somebody_has_just_sent() -> None:
    """A node sends on a visit at which the token would come to rest; the token that leaves then is lost (F4)."""
    for wait in range(24):
        cluster = resting_cluster()
        cluster[2].send([cluster[2].compose(10)])
        cluster.run_for(wait / 2000)
        cluster[3].send([cluster[3].compose(10)])
        lost = swallow_first(cluster, codec.TYPE_TOKEN, {3})
        cluster.run_until(lambda lost=lost: lost, 0.1)
        is_told_soon(cluster, 1, 0.02)
        assert lost


def a_new_ring_does_not_rest_too_soon() -> None:
    """Each of three sends something soon after the install."""
    for wait in range(24):
        for sender in (1, 2, 3):
            cluster = cluster_of(3, seqno_unchanged_const=None)
            cluster.run_for(wait / 2000)
            is_told_soon(cluster, sender)


def a_repeated_token_is_no_visit() -> None:
    """The same token twice proves nothing about the others (B1)."""
    cluster = cluster_of(3)
    swallow_multicasts(cluster, {1, 2, 3}, {3})
    tokens: list[bytes] = []

    def keep(source: int, target: int, datagram: bytes) -> bool:
        if target == 2 and datagram[3] == codec.TYPE_TOKEN:
            tokens.append(datagram)
        return False

    cluster.network.filters.append(keep)
    message = cluster[1].compose(100)
    cluster[1].send([message], SAFE)
    assert cluster.run_until(lambda: tokens and message in cluster_frames(cluster, 2), 1)
    for _ in range(3):
        cluster[2].receive(tokens[-1])
        cluster.run_for(0.0001)
    assert was_told(cluster, 2, message) is None
    cluster.network.filters.clear()
    judge(cluster)


def cluster_frames(cluster: Cluster, node_id: int) -> bytes:
    return b"".join(machine_of(cluster, node_id).ring.window.frames.values())


def _attempt_that_only_node_1_finishes() -> tuple[Cluster, bytes]:
    """Nodes 1, 2 and 3 recover from ring {1, 2, 3, 4}; node 1 installs, and then is heard no more.

    Of the old ring only node 4, which has crashed, has the last number but one. The last number, SAFE and from node 1,
    comes past that gap. Node 1 delivered it as transitional.
    """
    cluster = cluster_of(4)
    swallow_multicasts(cluster, {1, 4}, {1, 2, 3, 4})
    lost, message = cluster[4].compose(100), cluster[1].compose(100)
    cluster[4].send([lost])
    assert cluster.run_until(lambda: lost in cluster_frames(cluster, 4), 1)
    cluster[1].send([message], SAFE)
    assert cluster.run_until(lambda: message in cluster_frames(cluster, 1), 1)
    cluster[4].crash()
    cluster.network.filters.append(lambda source, *_: source == 1 and state(cluster, 1) is State.OPERATIONAL)
    assert cluster.run_until(lambda: was_told(cluster, 1, message), 5)
    assert {state(cluster, 2), state(cluster, 3)} == {State.RECOVERY}
    cluster.network.filters.clear()
    cluster.network.partition([1], [2, 3])
    return cluster, message


def _go_on_without_node_1(cluster: Cluster, message: bytes) -> None:
    assert cluster.run_until(lambda: cluster.one_ring(2, 3), 10)
    assert was_told(cluster, 1, message) is was_told(cluster, 2, message) is Level.TRANSITIONAL
    cluster.network.heal()
    judge(cluster)


def what_an_attempt_brought_outlives_it() -> None:
    """Nodes 2 and 3 must deliver what node 1 delivered as theirs, too, though its sender is gone (A5, A6)."""
    _go_on_without_node_1(*_attempt_that_only_node_1_finishes())


def what_a_member_owes_all_deliver() -> None:
    """The same where node 3 has promised nothing (A6)."""
    cluster, message = _attempt_that_only_node_1_finishes()
    machine_of(cluster, 3).membership.obligations = set()
    _go_on_without_node_1(cluster, message)


def nobody_installs_while_somebody_has_more_to_send() -> None:
    """Node 3 alone has old messages to send, for eight visits; the others' queues are empty long before (A3)."""
    cluster = cluster_of(6, max_messages=4)
    senders = {3, 4, 5, 6}
    swallow_multicasts(cluster, senders, {1, 2})
    for node_id in senders:
        messages = [frameful(cluster, node_id) for _ in range(8)]
        cluster[node_id].send(messages)
    assert cluster.run_until(lambda: messages[7] in cluster_frames(cluster, 3), 5)
    for node_id in senders - {3}:
        cluster[node_id].crash()
    assert cluster.run_until(lambda: cluster.one_ring(1, 2, 3), 10)
    cluster.network.filters.clear()
    judge(cluster)


def an_attempt_counts_afresh() -> None:
    """An attempt breaks when it is nearly complete; in the next one no node gets node 1's message, and it is cut off.

    What node 1 is given then must claim nothing for the two others (A3).
    """
    cluster = cluster_of(4)
    swallow_multicasts(cluster, {1}, {2, 3, 4})
    message = cluster[1].compose(100)
    cluster[1].send([message], SAFE)
    assert cluster.run_until(lambda: message in cluster_frames(cluster, 1), 1)
    cluster[4].crash()
    assert cluster.run_until(lambda: state(cluster, 1) is State.RECOVERY, 10)
    cluster.network.filters.append(lambda source, target, datagram: message in datagram)
    cluster.run_for(0.02)
    assert {state(cluster, node_id) for node_id in (1, 2, 3)} == {State.RECOVERY}
    swallow_tokens(cluster)
    assert cluster.run_until(lambda: state(cluster, 1) is State.GATHER, 10)
    cluster.network.filters.pop()
    assert cluster.run_until(lambda: state(cluster, 1) is State.RECOVERY, 10)
    cluster.run_for(0.02)
    cluster.network.partition([1], [2, 3])
    assert cluster.run_until(lambda: cluster.one_ring(1) and cluster.one_ring(2, 3), 10)
    cluster.network.filters.clear()
    cluster.network.heal()
    judge(cluster)


def a_mixed_ring_installs_in_one_rotation() -> None:
    """Node 1 has messages to send the moment it installs; its Corosync neighbours must have installed by then (A3).

    A neighbour in Recovery would take such a message for one of its old ring, which has a gap at some number.
    """
    for before in range(8):
        _install_beside_corosync(before)


def _install_beside_corosync(frames_before_the_gap: int) -> None:
    makers = {2: CorosyncModel, 3: CorosyncModel}
    cluster = Cluster(4, config=Config.for_nodes(4, token=0.2, merge=0.03), makers=makers)
    cluster.start()
    cluster.form()
    swallow_multicasts(cluster, {4}, {1, 2, 3})
    for node_id, count in ((1, frames_before_the_gap), (4, 1), (1, 3)):
        cluster[node_id].send([frameful(cluster, node_id) for _ in range(count)])
        cluster.run_for(0.01)
    cluster[4].crash()
    assert cluster.run_until(lambda: state(cluster, 1) is State.RECOVERY, 10)
    cluster[1].send([cluster[1].compose(100)])
    cluster.form()
    judge(cluster)


def what_waits_gets_the_form_of_the_ring() -> None:
    """Nodes join and leave under load, which decides who is sent labels; all deliver all, in one order (D3).

    Node 3 is a Corosync node, node 4 one of this package that knows no labels. Node 1 always has more in its queue than
    goes out before the next change of the ring, and a message that each change cuts.
    """
    config = Config.for_nodes(4, token=0.2, merge=0.03, seqno_unchanged_const=3)
    cluster = Cluster(4, config=config, makers={3: CorosyncModel})
    cluster[4].config = replace(config, compact_headers=False)
    stamps = [Stamp(number) for number in range(3)]
    cluster.start(1, 2)
    cluster.form()
    for together in ({1, 2}, {1, 2, 3}, {1, 2}, {1, 2, 4}, {1, 2}, {1, 2, 3, 4}, {2, 4}, {1, 2}):
        _load(cluster, stamps)
        for node in cluster.nodes.values():
            if node.node_id in together and not node.running:
                node.start()
            elif node.node_id not in together and node.running:
                node.leave()
        cluster.form()
        before = cluster.labelled
        _load(cluster, stamps)
        assert cluster.run_until(lambda: cluster.labelled > before, 0.1) is (together == {1, 2})  # noqa: B023
    judge(cluster)


def _load(cluster: Cluster, stamps: list[Stamp]) -> None:
    for node in cluster.running:
        for size in (20, 60, 300, 30_000):
            messages = [node.compose(size, b"") for _ in range(20)]
            node.try_send(messages, AGREED, cluster.dice.choice(stamps))
            node.try_send([node.compose(size)], AGREED if node.foreign else SAFE)


def swallow_tokens(cluster: Cluster) -> None:
    """From now on lose tokens, and nothing else."""
    cluster.network.filters.append(lambda source, target, datagram: codec.packet_type(datagram) == codec.TYPE_TOKEN)


def a_paused_process_drops_what_it_learned_too_late() -> None:
    """A pause shorter than the token timeout is noticed by no other node."""
    cluster = cluster_of(3)
    ring_id = cluster.installed_ring
    cluster[2].pause()
    cluster.run_for(0.9 * cluster.config.token)
    cluster[2].resume()
    cluster[1].send([cluster[1].compose(0)])
    judge(cluster)
    assert cluster.installed_ring == ring_id


def a_long_pause_costs_one_change() -> None:
    """The others go on without it. It drains its sockets, believes its own timers then, and comes back."""
    cluster = cluster_of(3)
    cluster[2].pause()
    cluster[1].send([cluster[1].compose(0)], SAFE)
    cluster.form(1, 3)
    cluster[1].send([cluster[1].compose(0)], SAFE)
    cluster.run_for(1)
    cluster[2].resume()
    judge(cluster)


def a_leave_needs_no_timeout() -> None:
    """The others have their next ring within a fraction of the token timeout."""
    cluster = cluster_of(3)
    cluster[2].leave()
    assert cluster.run_until(lambda: cluster.one_ring(1, 3), cluster.config.token / 2)
    judge(cluster)


def a_deaf_member_is_put_out() -> None:
    """A node that gets tokens but no multicasts gives itself up, and comes back when it can hear (A9)."""
    cluster = cluster_of(3, fail_recv_const=30)
    swallow_multicasts(cluster, {1, 2}, {3})
    cluster[1].send([cluster[1].compose(100)], SAFE)
    assert cluster.run_until(lambda: cluster.one_ring(1, 2) and state(cluster, 3) is not State.RECOVERY, 20)
    cluster.network.filters.clear()
    judge(cluster)


Said = list[tuple[int, str]]
"""What nodes have reported to their operators, by node."""

LARGE = 1350


def _ring_to_narrow(count: int = 3, makers: dict[int, Maker] | None = None) -> tuple[Cluster, Said]:
    """Return a ring with default timers."""
    said: Said = []

    def on_trace(node: SimulatedNode, what: str, detail: str) -> None:
        if what == "notice":
            said.append((node.node_id, detail))

    cluster = Cluster(count, makers=makers, on_trace=on_trace)
    cluster.start()
    cluster.form()
    cluster.run_for(3)
    return cluster, said


def _narrow(cluster: Cluster, source: int | None = None, target: int | None = None) -> None:
    """From now on no link from, to, or between these nodes carries frames of more than 1,300 bytes.

    Probes of that size pass, so that the ring must do without what they would find.
    """
    cluster.network.filters.append(
        lambda here, there, datagram: len(datagram) > 1272 and source in (None, here) and target in (None, there)
    )


def _send_large(cluster: Cluster, sender: int) -> None:
    for _ in range(3):
        cluster[sender].send([cluster[sender].compose(LARGE)])


def a_link_that_loses_large_frames_costs_seconds() -> None:
    """The ring reports within ten seconds which node does not receive what, and goes on without it (A9)."""
    cluster, said = _ring_to_narrow()
    _narrow(cluster, target=3)
    begin = cluster.now
    _send_large(cluster, 1)
    assert cluster.run_until(lambda: cluster.one_ring(1, 2), 10)
    told = re.match(r"node 3 gets the token but not the messages of node 1 in frames of (\d+) bytes", said[0][1])
    assert told is not None
    assert LARGE < int(told[1]) <= LARGE + 55
    assert ("what its links carry" if cluster.config.knet else "(netmtu 1500)") in said[0][1]
    message = cluster[2].compose(100)
    cluster[2].send([message])
    assert cluster.run_until(lambda: was_told(cluster, 1, message), begin + 10 - cluster.now)
    judge(cluster, settle=False)


def a_node_whose_large_frames_reach_nobody_costs_seconds() -> None:
    """All others lack them, so the ring goes on without the sender."""
    cluster, said = _ring_to_narrow()
    _narrow(cluster, source=3)
    _send_large(cluster, 3)
    assert cluster.run_until(lambda: cluster.one_ring(1, 2), 10)
    assert said[0][0] == 3
    assert "(FAILED TO RECEIVE), nor does any other node: the ring goes on without node 3" in said[0][1]
    judge(cluster, settle=False)


def who_does_not_receive_stays_away_for_growing_times() -> None:
    """A port is narrow in both directions, and is not repaired for ten minutes: the others lose only some seconds."""
    cluster, _ = _ring_to_narrow()
    _narrow(cluster, target=3)
    _narrow(cluster, source=3)
    machine = machine_of(cluster, 1)
    installed = machine.counters.rings_installed
    at_once = 0
    for _ in range(600):
        if cluster.one_ring(1, 2, 3):
            _send_large(cluster, 2)
        message = cluster[1].compose(60)
        cluster[1].send([message])
        cluster.run_for(1)
        at_once += was_told(cluster, 2, message) is not None
    assert at_once > 540
    assert machine.counters.rings_installed - installed < 20
    cluster.network.filters.clear()
    assert cluster.run_until(lambda: cluster.one_ring(1, 2, 3), 320)
    judge(cluster)


def who_does_not_receive_is_left_out_by_all() -> None:
    """Also by those that have not judged themselves, but follow the Join of the one that has."""
    cluster, _ = _ring_to_narrow(4)
    _narrow(cluster, target=3)
    _send_large(cluster, 1)
    assert cluster.run_until(lambda: cluster.one_ring(1, 2, 4), 10)
    assert all(machine_of(cluster, node_id).left_out.has(3, cluster.now) for node_id in (1, 2, 4))


def who_did_not_receive_comes_back_when_it_is_started_anew() -> None:
    """A leave shows that an operator has looked at it."""
    cluster, _ = _ring_to_narrow()
    _narrow(cluster, target=3)
    _send_large(cluster, 1)
    assert cluster.run_until(lambda: cluster.one_ring(1, 2), 10)
    cluster.run_for(1)
    cluster.network.filters.clear()
    cluster[3].leave()
    cluster[3].start()
    assert cluster.run_until(lambda: cluster.one_ring(1, 2, 3), 2)
    judge(cluster)


def a_deaf_member_does_not_break_each_recovery() -> None:
    """It delays two recoveries; then the others form their ring without it."""
    cluster, said = _ring_to_narrow(4)
    _narrow(cluster, target=3)
    swallow_multicasts(cluster, {1}, {2})
    _send_large(cluster, 1)
    cluster.run_for(0.05)
    cluster.network.filters.pop()
    cluster[4].crash()
    assert cluster.run_until(lambda: cluster.one_ring(1, 2), 30)
    assert said
    judge(cluster, settle=False)


def a_mixed_ring_says_who_does_not_receive() -> None:
    """It reports within ten seconds, though it waits, as real nodes do, until that node gives itself up."""
    cluster, said = _ring_to_narrow(makers={3: CorosyncModel})
    _narrow(cluster, target=3)
    _send_large(cluster, 1)
    cluster.run_for(10)
    assert {node for node, text in said if text.startswith("node 3 gets the token but not the messages of")} == {1, 2}
    assert "node 3" in machine_of(cluster, 1).statistics().standstill


def nobody_repeats_what_others_refuse() -> None:
    """A multicast that no member has sent, with a number ahead, reaches one node; then the ring changes."""
    cluster = cluster_of(3)
    machine = machine_of(cluster, 1)
    seq = machine.ring.window.aru + 9
    forged = codec.seal_mcast(2, seq, 0, machine.ring.id_bytes, 0, False, [codec.frame([3], 0, 0), b"abc"])
    of_nobody = forged[:13] + b"\t\0\0\0" + forged[17:]
    cluster[1].receive(of_nobody)
    machine.receive_all([of_nobody, of_nobody], cluster.now)
    cluster[3].crash()
    assert cluster.run_until(lambda: cluster.one_ring(1, 2), 2)
    assert machine.counters.drops["multicast of a non-member"] == 3
    assert not machine.counters.retransmits_sent
    cluster[3].start()
    judge(cluster)


def what_a_real_node_repeats_stops_nobody() -> None:
    """A Corosync node checks no sender, and brings such a multicast into the next Recovery."""
    config = Config.for_nodes(4, token=0.2, merge=0.03)
    cluster = Cluster(4, config=config, makers={1: CorosyncModel})
    cluster.start()
    cluster.form()
    ring = machine_of(cluster, 2).ring
    forged = codec.seal_mcast(2, ring.window.aru + 9, 0, ring.id_bytes, 0, False, [codec.frame([3], 0, 0), b"abc"])
    cluster[1].receive(forged[:13] + bytes(4) + forged[17:])
    cluster[3].crash()
    assert cluster.run_until(lambda: cluster.one_ring(1, 2, 4), 2)
    cluster[3].start()
    judge(cluster)


def a_member_that_never_syncs_is_put_out() -> None:
    """The layer above names the members that are silent in sync, and the others go on without them (C4)."""

    class SilentFirst(BarrierSync):
        def _send(self, kind: bytes, size: int = 0) -> None:
            if self._node.node_id != 3 or self._node.incarnation > 1:
                super()._send(kind, size)

    config = Config.for_nodes(3, token=0.2, merge=0.03)
    cluster = Cluster(3, config=config, application=SilentFirst)
    cluster.start()
    cluster.form()
    cluster.run_for(2 * config.consensus)
    machine_of(cluster, 1).restart_sync([3], cluster.now)
    cluster[1].turn()
    assert cluster.run_until(lambda: cluster.one_ring(1, 2), 1)
    cluster[3].crash()
    cluster[3].start()
    judge(cluster)


def cut_messages_come_whole() -> None:
    """Large messages are cut by changes of the ring at every place; none is lost or comes twice (C2)."""
    cluster = cluster_of(3, window_size=4, max_messages=2)
    for turn in range(12):
        for node in cluster.running:
            node.try_send([node.compose(30_000), node.compose(10)], Guarantee(turn % 2))
        cluster.run_for(0.004 + 0.001 * turn)
        if turn % 2:
            cluster.network.heal()
        else:
            cluster.network.partition([1, 2], [3])
        cluster.run_for(0.5)
    cluster.network.heal()
    judge(cluster)


def a_sender_dies_in_the_middle_of_a_message() -> None:
    """What it had begun is dropped whole, and what its next incarnation sends is not mixed with it (C3)."""
    cluster = cluster_of(3, window_size=4, max_messages=2)
    for _ in range(6):
        cluster[3].send([cluster[3].compose(50_000)])
        cluster.run_for(0.01)
        cluster[3].crash()
        cluster[3].start()
        cluster[3].send([cluster[3].compose(20_000)])
        cluster.form()
    judge(cluster)


def crash_at_every_step_of_a_start() -> None:
    """A node crashes before each step of its first second, and starts again: no ring id is ever used twice (G3)."""
    for steps in range(1, 60):
        cluster = Cluster(3, seed=steps, config=Config.for_nodes(3, token=0.2, merge=0.03))
        cluster.start()
        cluster[1].crash(steps)
        cluster.run_for(1)
        if not cluster[1].running:
            cluster[1].start()
        cluster[1].disarm()
        judge(cluster)


def numbers_wrap_while_traffic_goes_on() -> None:
    """Both counts pass 2**32 on a busy ring, with losses."""
    config = Config.for_nodes(3, token=0.4)
    cluster = Cluster(3, config=config, first_seq=2**32 - 60, first_token_seq=2**32 - 100)
    cluster.start()
    cluster.form()
    ring_id = cluster.installed_ring
    swallow: Filter = lambda source, target, datagram: cluster.dice.random() < 0.02  # noqa: E731
    cluster.network.filters.append(swallow)
    behind = BehindTheToken(cluster)
    for turn in range(60):
        for node in cluster.running:
            node.send([node.compose(400) for _ in range(3)], Guarantee(turn % 2))
        cluster.run_for(0.005)
    cluster.network.filters.clear()
    judge(cluster)
    assert cluster.installed_ring == ring_id
    assert {codec.mcast_seq(frame) > 2**31 for _, frame in behind.frames} == {False, True}


def a_node_id_in_use_is_refused() -> None:
    """A second node with an id that is taken gives up and says why (G4)."""
    cluster = cluster_of(3)
    impostor = Cluster(3, seed="impostor", config=cluster.config)
    impostor.network.filters.append(lambda source, target, datagram: source != 2)
    impostor[2].start()
    for source, target, datagram in _overheard(cluster, 0.5):
        if target != source and impostor[2].running:
            impostor[2].receive(datagram)
    assert any("node id 2" in text for text in impostor.failures)


def _overheard(cluster: Cluster, seconds: float) -> list[tuple[int, int, bytes]]:
    heard: list[tuple[int, int, bytes]] = []
    cluster.network.filters.append(lambda *packet: bool(heard.append(packet)))
    for _ in range(5):
        cluster[2].send([cluster[2].compose(50)])
        cluster.run_for(seconds / 5)
    cluster.network.filters.pop()
    return heard


class BehindTheToken:
    """The frames of a cluster that have left their senders behind the token that names them, as they leave."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._told: dict[int, int] = {}
        """The highest number in each node's last token."""
        self._sent: set[bytes] = set()
        self.frames: list[tuple[int, bytes]] = []
        """(source, datagram)"""
        self.of_syncing = 0
        """Those of nodes in the middle of their sync."""
        cluster.network.filters.append(self._look)

    def _look(self, source: int, target: int, datagram: bytes) -> bool:
        kind = codec.packet_type(datagram)
        if kind == codec.TYPE_TOKEN:
            token = codec.decode(datagram)
            assert isinstance(token, Token)
            self._told[source] = token.seq
        elif kind == codec.TYPE_MCAST and codec.mcast_origin(datagram) == source and datagram not in self._sent:
            self._sent.add(datagram)
            if source in self._told and up_to(codec.mcast_seq(datagram), self._told[source]):
                self.frames.append((source, datagram))
                self.of_syncing += machine_of(self._cluster, source).syncing
        return False


def busy(cluster: Cluster, seconds: float = 0.1) -> None:
    """Make all nodes send enough for the token to go first."""
    for _ in range(10):
        for node in cluster.running:
            node.send([frameful(cluster, node.node_id) for _ in range(3)])
        cluster.run_for(seconds / 10)


def the_token_goes_first() -> None:
    """In a ring of nodes that all do this, no node requests what is on its way (D2)."""
    cluster = cluster_of(3)
    behind = BehindTheToken(cluster)
    busy(cluster)
    assert len(behind.frames) > 50
    judge(cluster)
    for node in cluster.running:
        assert node.machine is not None
        assert not node.machine.counters.retransmits_requested


def the_token_waits_for_one_who_does_not() -> None:
    """One member has it switched off, so no node does it, until the ring is formed without that member (D1, D2)."""
    cluster = Cluster(3, config=Config.for_nodes(3, token=0.2, merge=0.03))
    cluster[2].config = replace(cluster.config, accelerated_window=0)
    cluster.start()
    cluster.form()
    behind = BehindTheToken(cluster)
    busy(cluster)
    assert not behind.frames
    cluster[2].crash()
    cluster.form(1, 3)
    busy(cluster)
    assert behind.frames
    cluster[2].start()
    judge(cluster)


def the_token_waits_beside_corosync() -> None:
    """A real node knows nothing of it (D2)."""
    config = Config.for_nodes(3, token=0.2)
    cluster = Cluster(3, config=config, makers={2: CorosyncModel})
    cluster.start()
    cluster.form()
    behind = BehindTheToken(cluster)
    busy(cluster)
    assert not behind.frames
    judge(cluster)


def the_token_waits_while_sync_runs() -> None:
    """Recovery and the sync of the layer above run on the plain ring, however much they send (D2)."""

    class LongSync(BarrierSync):
        def _send(self, kind: bytes, size: int = 0) -> None:
            super()._send(kind, 5 * size)

    cluster = Cluster(4, config=Config.for_nodes(4, token=0.2, merge=0.03), application=LongSync)
    behind = BehindTheToken(cluster)
    cluster.start()
    cluster.form()
    busy(cluster)
    cluster[3].crash()
    cluster.form(1, 2, 4)
    busy(cluster)
    judge(cluster)
    assert behind.frames
    assert not behind.of_syncing


def safe_waits_for_what_is_behind_the_token() -> None:
    """The token names SAFE messages that one member does not get: no node delivers them as safe (B1)."""
    cluster = cluster_of(3)
    behind = BehindTheToken(cluster)

    def swallows(source: int, target: int, datagram: bytes) -> bool:
        return target == 3 and any(datagram == frame for _, frame in behind.frames)

    cluster.network.filters.append(swallows)
    messages = [frameful(cluster, 2) for _ in range(6)]
    cluster[2].send(messages, SAFE)
    assert cluster.run_until(lambda: len(behind.frames) == 6, 0.1)
    cluster.run_for(0.02)
    assert not any(was_told(cluster, node_id, messages[-1]) for node_id in (1, 2, 3))
    cluster.network.filters.pop()
    assert cluster.run_until(lambda: was_told(cluster, 2, messages[-1]) is Level.SAFE, 1)
    judge(cluster)


def a_node_dies_behind_its_token() -> None:
    """It has passed the token on and sends none of the frames that the token names, or sends them to some nodes (A6).

    The others' messages behind that hole wait until a recovery has settled it.
    """
    for sends in range(16):
        _die_behind_the_token(sends)


def _die_behind_the_token(sends: int) -> None:
    cluster = cluster_of(4)

    def kills(source: int, target: int, datagram: bytes) -> bool:
        if source == 2 and codec.packet_type(datagram) == codec.TYPE_TOKEN and lost[0] in cluster_frames(cluster, 2):
            cluster[2].crash(1 + sends)
        return False

    lost = [frameful(cluster, 2) for _ in range(5)]
    later = {node_id: cluster[node_id].compose(100) for node_id in (1, 3, 4)}
    cluster.network.filters.append(kills)
    cluster[2].send(lost)
    assert cluster.run_until(lambda: not cluster[2].running, 1)
    cluster.network.filters.pop()
    for node_id, message in later.items():
        cluster[node_id].send([message])
    ring_id = machine_of(cluster, 3).ring.id
    assert cluster.run_until(lambda: later[4] in cluster_frames(cluster, 1), 0.1)
    complete = [node_id for node_id in later if cluster.delivered(node_id)[:5] == lost]
    for node_id in later:
        assert machine_of(cluster, node_id).ring.id == ring_id
        assert node_id in complete or not any(was_told(cluster, node_id, message) for message in later.values())
    cluster.form(1, 3, 4)
    for node_id in later:
        *of_the_dead, first, second, third = cluster.delivered(node_id)
        assert of_the_dead == lost[: len(of_the_dead)]
        assert {first, second, third} == set(later.values())
    judge(cluster)


def damaged_datagrams_break_nothing() -> None:
    """Bits flip and ends are cut off on all links: nothing raises, and afterwards the nodes form a ring again.

    No promise holds for what is delivered meanwhile, because nothing protects the bytes of a message.
    """
    for seed in range(5):
        cluster = Cluster(4, seed=seed, config=Config.for_nodes(4, token=0.2, merge=0.03))
        cluster.start()
        cluster.form()
        cluster.network.set_conditions(Conditions(corrupt=0.1, duplicate=0.05, damage=flip_or_cut))
        for turn in range(50):
            for node in cluster.running:
                node.try_send([node.compose(cluster.dice.randrange(2000))], Guarantee(turn % 2))
            cluster.run_for(0.01)
        cluster.network.heal()
        cluster.form()
        assert not cluster.failures


KERNEL_BYTES = 425_984
"""Bytes that the kernel keeps for a process without privileges that does not read."""


def _busy_ring(*buffers: int, labour: float = 0.00003, **settings: object) -> Cluster:
    """Return a ring whose members take some time for each datagram, with these receive buffers."""
    cluster = Cluster(
        len(buffers), config=Config.for_nodes(len(buffers), **settings), conditions=Conditions(delay=8e-5)
    )
    for node, buffer in zip(cluster.nodes.values(), buffers, strict=True):
        node.socket_buffer = buffer
        node.labour = labour
    cluster.start()
    cluster.form()
    return cluster


def _flood(cluster: Cluster, senders: int, size: int, seconds: float) -> int:
    """Keep the queues of some nodes full; return the bytes that came to the node that got least."""
    before = {node: len(node.trace.events) for node in cluster.running}
    end = cluster.now + seconds
    while cluster.now < end:
        for node in cluster.running[:senders]:
            while node.try_send([node.compose(size)]):
                pass
        cluster.run_for(0.01)
    return min(
        sum(
            len(message)
            for event in node.trace.events[start:]
            if isinstance(event, Messages)
            for message in event.messages
        )
        for node, start in before.items()
    )


def a_ring_finds_its_pace() -> None:
    """A ring that chooses its windows carries about what it carries with the best fixed ones (D4)."""
    for senders in (1, 3):
        rates = [
            _flood(_busy_ring(*[4 << 20] * 3, send_queue_bytes=1 << 20, **windows), senders, 60_000, 0.15)
            for windows in ({}, {"window_size": 50, "max_messages": 17}, {"window_size": 1000, "max_messages": 400})
        ]
        assert rates[0] > 0.85 * max(rates)
        assert senders > 1 or rates[0] > 1.3 * rates[1]


def who_falls_behind_loses_nothing() -> None:
    """No member's receive buffer is given more than it holds, even one smaller than the others' (D4)."""
    buffers = (4 << 20, 4 << 20, KERNEL_BYTES)
    by_itself = _busy_ring(*buffers, send_queue_bytes=1 << 20)
    too_wide = _busy_ring(*buffers, send_queue_bytes=1 << 20, window_size=1000, max_messages=400)
    rates = [_flood(cluster, 3, 65_000, 0.15) for cluster in (by_itself, too_wide)]
    _flood(by_itself, 1, 65_000, 0.05)
    assert too_wide[3].overflows
    assert not any(node.overflows for node in by_itself.running)
    assert rates[0] > 10 * rates[1]
    judge(by_itself)


def senders_use_their_cables_at_the_same_time() -> None:
    """Where cables are the limit, a ring that chooses carries much more than one of them does (D2).

    Each of three sends two copies, so one cable carries 42,000 messages a second, and all together 126,000.
    """
    assert accelerated.Ring("udpu", (0, 0), accelerated.ACCELERATED).flood() > 90_000


def a_small_switch_loses_nothing() -> None:
    """The frames of all members behind their tokens fit into 128 KiB for each port (D2)."""
    for senders in (2, 3):
        ring = accelerated.Ring("udpu", (0, 0), accelerated.ACCELERATED, Cables(buffer=128 << 10))
        ring.flood(senders)
        assert not ring.network.overruns


def a_slow_member_does_not_make_the_token_late() -> None:
    """However wide the window, a rotation takes no longer than with Corosync's when a member is slow (D4)."""
    cluster = _busy_ring(4 << 20, 4 << 20, 4 << 20, send_queue_bytes=1 << 20)
    cluster[3].labour = 0.001
    visits = machine_of(cluster, 1).counters.tokens_received
    _flood(cluster, 2, 8000, 1.0)
    assert machine_of(cluster, 1).counters.tokens_received - visits > 1.0 / 0.06


def who_sends_little_is_not_kept_waiting() -> None:
    """Beside senders that keep their queues full, a burst goes out at the next visit."""
    cluster = _busy_ring(4 << 20, 4 << 20, 4 << 20, send_queue_bytes=1 << 20)
    _flood(cluster, 2, 8000, 0.1)
    burst = [frameful(cluster, 3) for _ in range(20)]
    cluster[3].send(burst)
    assert cluster.run_until(lambda: burst[-1] in cluster.delivered(1), 0.03, 0.001)


def windows_are_as_configured_unless_all_choose() -> None:
    """With a Corosync node in the ring, or one whose windows are configured, no node chooses (D4)."""
    pure = Cluster(3, config=Config.for_nodes(3))
    mixed = Cluster(3, config=Config.for_nodes(3), makers={3: CorosyncModel})
    told = Cluster(3, config=Config.for_nodes(3))
    told[3].config = Config.for_nodes(3, window_size=50, max_messages=17)
    windows = []
    for cluster in (pure, mixed, told):
        cluster.start()
        cluster.form()
        windows.append(machine_of(cluster, 1).ring.flow.window_size)
    assert windows[0] > 50
    assert windows[1:] == [50, 50]


def _time_of_a_lost_token(cluster: Cluster, *, times: int = 1) -> float:
    """Return the seconds from the loss of a token that node 1 has passed on, `times` times, until it comes to node
    2."""
    machine = machine_of(cluster, 2)
    lost = swallow_first(cluster, codec.TYPE_TOKEN, {1}, times=times)
    assert cluster.run_until(lambda: lost, 0.1)
    visits = machine.counters.tokens_received
    assert cluster.run_until(lambda: machine.counters.tokens_received > visits, cluster.config.token)
    return cluster.now - lost[0]


def a_lost_token_is_missed_soon() -> None:
    """A pure ring at work soon sends the token again; a mixed one, and one at rest, as configured (F4)."""
    for makers in ({}, {3: CorosyncModel}):
        cluster = Cluster(3, config=Config.for_nodes(3, seqno_unchanged_const=30), makers=makers)
        cluster.start()
        cluster.form()
        cluster.run_for(2.0)
        machines = [cluster[node_id].machine for node_id in (1, 2, 3)]
        resent = [each.counters.token_retransmits for each in machines if isinstance(each, Processor)]
        cluster.run_for(5.0)
        assert [each.counters.token_retransmits for each in machines if isinstance(each, Processor)] == resent
        cluster[1].send([cluster[1].compose(100)])
        cluster.run_for(0.01)
        seconds = _time_of_a_lost_token(cluster)
        assert seconds > 0.99 * cluster.config.token_retransmit if makers else seconds < 0.01


def a_token_lost_again_is_missed_soon_too() -> None:
    """It comes as soon as possible without more and more copies where a node has only stopped for a while (F4)."""
    cluster = Cluster(3, config=Config.for_nodes(3, seqno_unchanged_const=30))
    cluster.start()
    cluster.form()
    cluster.run_for(7.0)
    cluster[1].send([cluster[1].compose(100)])
    cluster.run_for(0.01)
    assert 0.034 <= _time_of_a_lost_token(cluster, times=3) < 0.06


def many_lost_tokens_are_missed_as_soon_as_one() -> None:
    """A ring at work that loses one token in ten waits for each no longer than for the first (F4)."""
    cluster = Cluster(3, config=Config.for_nodes(3))
    cluster.start()
    cluster.form()
    swallow: Filter = lambda source, target, datagram: (  # noqa: E731
        codec.packet_type(datagram) == codec.TYPE_TOKEN and cluster.dice.random() < 0.1
    )
    cluster.network.filters.append(swallow)
    _flood(cluster, 2, 1000, 2.0)
    assert machine_of(cluster, 1).statistics().rotation_time < 0.004


SCENARIOS = [
    a_link_that_loses_large_frames_costs_seconds,
    a_node_whose_large_frames_reach_nobody_costs_seconds,
    who_does_not_receive_is_left_out_by_all,
    who_does_not_receive_stays_away_for_growing_times,
    who_did_not_receive_comes_back_when_it_is_started_anew,
    a_deaf_member_does_not_break_each_recovery,
    a_mixed_ring_says_who_does_not_receive,
    nobody_repeats_what_others_refuse,
    what_a_real_node_repeats_stops_nobody,
    a_lost_token_is_missed_soon,
    many_lost_tokens_are_missed_as_soon_as_one,
    a_token_lost_again_is_missed_soon_too,
    a_ring_finds_its_pace,
    who_falls_behind_loses_nothing,
    senders_use_their_cables_at_the_same_time,
    a_small_switch_loses_nothing,
    a_slow_member_does_not_make_the_token_late,
    who_sends_little_is_not_kept_waiting,
    windows_are_as_configured_unless_all_choose,
    a_lost_frame_is_sent_again,
    safe_waits_for_the_member_that_lacks_it,
    safe_needs_two_visits,
    safe_needs_two_visits_where_somebody_was_behind,
    a_repeated_token_is_no_visit,
    a_resting_token_is_no_second_visit,
    a_token_that_is_called_for_does_not_rest,
    a_lost_call_for_the_token_is_made_again,
    a_token_is_missed_soon_where_somebody_has_just_sent,
    a_new_ring_does_not_rest_too_soon,
    what_an_attempt_brought_outlives_it,
    what_a_member_owes_all_deliver,
    nobody_installs_while_somebody_has_more_to_send,
    an_attempt_counts_afresh,
    a_mixed_ring_installs_in_one_rotation,
    what_waits_gets_the_form_of_the_ring,
    a_paused_process_drops_what_it_learned_too_late,
    a_long_pause_costs_one_change,
    a_leave_needs_no_timeout,
    a_deaf_member_is_put_out,
    a_member_that_never_syncs_is_put_out,
    cut_messages_come_whole,
    a_sender_dies_in_the_middle_of_a_message,
    crash_at_every_step_of_a_start,
    numbers_wrap_while_traffic_goes_on,
    the_token_goes_first,
    the_token_waits_for_one_who_does_not,
    the_token_waits_beside_corosync,
    the_token_waits_while_sync_runs,
    safe_waits_for_what_is_behind_the_token,
    a_node_dies_behind_its_token,
    a_node_id_in_use_is_refused,
    damaged_datagrams_break_nothing,
]
