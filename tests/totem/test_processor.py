"""The Processor where no other test looks: limits, errors, reports of what is wrong, hostile bytes."""

import random
from dataclasses import replace

import pytest

from totem import Config, MessageTooLong, QueueFull, RingId, State
from totem.config import MAX_NODES
from totem.configuration import NO_RING, Guarantee, Messages, RegularConfiguration
from totem.outbox import ALL
from totem.packing import MAX_MESSAGE
from totem.processor import FEATURES, Processor
from totem.sequence import MASK
from totem.testing.cluster import Cluster
from totem.testing.corosync import CorosyncModel
from totem.timers import Timer
from totem.wire import codec, evidence
from totem.wire.evidence import Evidence, Saying
from totem.wire.messages import Ask, Hello, HoldCancel, Join, Mcast, MergeDetect, Token


def processor(node_id=1, count=3, **settings):
    return Processor(Config.for_nodes(count, **settings), node_id, ring_seq=0, dice=random.Random(0))


def pump(machine, now=0.0):
    """Take until nothing more is ready; return what was sent and delivered."""
    sent, delivered = [], []
    while True:
        ready = machine.take()
        events = list(ready.deliveries)
        for event in events:
            if isinstance(event, RegularConfiguration):
                machine.sync_complete(event.ring_id)
        sent += [(target, frame) for target, train in ready.datagrams for frame in train]
        delivered += events
        if machine.deadline <= now:
            machine.advance(now)
        elif not ready.datagrams and not events:
            return sent, delivered


def ring_of_one(**settings):
    machine = processor(**settings)
    machine.start(0.0)
    pump(machine)
    return machine


def formed(count=3, **kwargs):
    cluster = Cluster(count, **kwargs)
    cluster.start()
    assert cluster.run_until(lambda: all(len(n.machine.members) == count for n in cluster.running), 10)
    cluster.run_for(0.05)
    return cluster


def test_a_processor_without_company_is_a_ring_of_one_at_once():
    machine = ring_of_one()
    assert (machine.state, machine.members, machine.ring_id) == (State.OPERATIONAL, (1,), RingId(1, 5))
    assert machine.pure


def test_the_ring_sequence_is_ready_to_store_before_the_commit_token():
    cluster = Cluster(2)
    cluster.start(1)
    machine = processor(2, 2)
    machine.start(0.0)
    ready = machine.take()
    assert ready.ring_seq == machine.ring_id.seq == 5


def test_a_restart_never_uses_a_ring_id_again():
    first = ring_of_one()
    again = Processor(Config.for_nodes(3), 1, ring_seq=first.ring_id.seq, dice=random.Random(0))
    assert again.ring_id.seq > first.ring_id.seq
    again.start(0.0)
    pump(again)
    assert again.ring_id.seq > first.ring_id.seq + 1


def test_own_messages_come_back_in_a_ring_of_one():
    machine = ring_of_one()
    machine.multicast([b"a", b"b"])
    machine.multicast([b"c"], Guarantee.SAFE)
    _, delivered = pump(machine)
    assert [m for event in delivered for m in event.messages] == [b"a", b"b", b"c"]


def test_a_full_queue_takes_all_or_nothing():
    machine = processor(send_queue_bytes=1 << 20)
    machine.multicast([bytes(1 << 19)])
    with pytest.raises(QueueFull, match="524288 of 1048576 are free"):
        machine.multicast([b"small", bytes(1 << 19)])
    assert machine.statistics().queued_messages == 1
    assert machine.room == 1 << 19


def test_a_message_of_more_than_1_mib_is_refused():
    machine = processor()
    with pytest.raises(MessageTooLong, match=str(MAX_MESSAGE)):
        machine.multicast([b"fine", bytes(MAX_MESSAGE + 1)])
    assert machine.statistics().queued_messages == 0
    machine.multicast([bytes(MAX_MESSAGE)])


def test_a_leave_is_announced_exactly_once():
    machine = ring_of_one()
    machine.leave(1.0)
    machine.leave(1.0)
    sent, _ = pump(machine, 1.0)
    (leave,) = [codec.decode(frame) for _, frame in sent]
    assert leave.is_leave
    assert leave.origin == 1
    assert 1 in leave.failed
    machine.receive(codec.encode(Join(2, 2, 1, (1, 2), ())), 2.0)
    machine.advance(99.0)
    assert pump(machine, 99.0) == ([], [])
    assert machine.state is State.LEFT


def test_the_others_need_no_timeout_after_a_leave():
    cluster = formed()
    cluster[2].leave()
    cluster.run_for(0.04)
    assert {node.machine.members for node in cluster.running} == {(1, 3)}


def test_a_leave_of_a_non_member_is_ignored_while_operational():
    """A late copy would send the ring into Gather again (rulings, F3)."""
    machine = ring_of_one()
    machine.receive(codec.encode(Join(0, 2, 9, (1,), (2,))), 1.0)
    assert machine.state is State.OPERATIONAL


def test_a_second_node_with_my_id_ends_a_processor_that_is_still_alone():
    machine = ring_of_one()
    for _ in range(2):
        machine.receive(codec.encode(Join(1, 1, 400, (1, 2), ())), 1.0)
    assert machine.take().failure is None, "one may be another node's, with a flipped bit"
    machine.receive(codec.encode(Join(1, 1, 400, (1, 2), ())), 1.0)
    failure = machine.take().failure
    assert failure is not None
    assert "node id 1" in failure
    assert machine.state is State.LEFT


def test_a_second_node_with_my_id_is_named_and_ignored_by_a_member():
    cluster = formed()
    machine = cluster[1].machine
    machine.receive(codec.encode(Join(1, 1, 400, (1, 2), ())), cluster.now)
    for _ in range(3):
        machine.receive(codec.encode(MergeDetect(1, 1, RingId(1, 401))), cluster.now)
    ready = machine.take()
    assert ready.failure is None
    assert len([text for text in ready.notices if "node id 1" in text]) == 1
    assert machine.statistics().drops["duplicate node id"] == 4
    assert machine.state is State.OPERATIONAL


def test_what_comes_late_of_my_own_former_life_is_no_second_node():
    machine = Processor(Config.for_nodes(3), 1, ring_seq=400, dice=random.Random(0))
    machine.start(0.0)
    pump(machine)
    machine.receive(codec.encode(Join(1, 1, 400, (1, 2), ())), 1.0)
    machine.receive(codec.encode(MergeDetect(1, 1, RingId(1, 400))), 1.0)
    assert machine.take().failure is None
    assert machine.statistics().drops == {"own packet of a former life": 2}


def test_what_never_ends_to_come_of_a_former_life_is_a_second_node():
    """A double whose ring numbers are lower: it is old, and this node's memory was lost."""
    machine = Processor(Config.for_nodes(3), 1, ring_seq=400, dice=random.Random(0))
    machine.start(0.0)
    pump(machine)
    for second in range(1, 60):
        machine.receive(codec.encode(MergeDetect(1, 1, RingId(1, 12))), float(second))
    failure = machine.take().failure
    assert failure is not None
    assert "node id 1, this node's own" in failure


def test_my_own_multicast_of_a_ring_that_i_have_left_is_no_second_node():
    """A member that is still there repeats it for one that lacked it."""
    cluster = formed()
    machine = cluster[1].machine
    own = codec.encode(Mcast(1, 1, 1, machine.ring.id))
    cluster[3].crash()
    assert cluster.run_until(lambda: machine.state is State.COMMIT, 10)
    machine.receive(own, cluster.now)
    assert cluster.run_until(lambda: machine.state is State.OPERATIONAL, 10)
    machine.receive(own, cluster.now)
    assert machine.statistics().drops["own multicast of a former ring"] == 2
    assert not machine.take().notices


def test_joins_that_name_more_processors_than_a_join_holds_are_dropped():
    cluster = formed()
    machine = cluster[1].machine
    for first in range(10, 2000, MAX_NODES):
        named = tuple(range(first, first + MAX_NODES))
        for failed in ((), named):
            machine.receive(codec.encode(Join(2, 2, machine.ring_id.seq, named, failed)), cluster.now)
    named = (1, 2, *range(5000, 5000 + MAX_NODES - 3))
    machine.receive(codec.encode(Join(2, 2, machine.ring_id.seq, named, ())), cluster.now)
    assert len(machine.membership.candidates) == MAX_NODES
    machine.leave(cluster.now)


def recovering():
    """Return a cluster, and its first node at the beginning of a Recovery with an old ring."""
    cluster = formed()
    machine = cluster[1].machine
    cluster[3].crash()
    assert cluster.run_until(lambda: machine.state is State.RECOVERY, 10)
    return cluster, machine


def encapsulated(machine, origin, seq, inner):
    return codec.encode(Mcast(origin, origin, seq, machine.ring_id, encapsulated=True, data=codec.encode(inner)))


def test_only_what_is_received_counts_as_sent_by_another():
    cluster, machine = recovering()
    old = machine.ring.id
    for old_seq in range(1, 100):
        machine.receive(encapsulated(machine, 2, 9, Mcast(2, 2, old_seq, old)), cluster.now)
        machine.receive(encapsulated(machine, 2, 60_000, Mcast(2, 2, old_seq, old)), cluster.now)
    assert machine._handler.heard == {1}


def test_a_forged_token_beside_the_true_one_does_not_keep_a_recovery_going():
    """Two tokens with near numbers are both accepted, in turn: what one says after the other is no progress (A4)."""
    cluster, machine = recovering()
    now, token_seq = cluster.now, 100
    while machine.state is State.RECOVERY and now < cluster.now + 3 * cluster.config.consensus:
        token_seq += 1
        seq, aru = ((5, 0), (3, 1))[token_seq % 2]
        token = Token(2, machine.ring_id, seq=seq, token_seq=token_seq, aru=aru, aru_holder=2, retransmit_flag=1)
        machine.receive(codec.encode(token), now)
        now += cluster.config.consensus / 50
    assert machine.state is State.GATHER
    assert machine.counters.entered["gather: recovery made no progress"] == 1


def test_nobody_is_obliged_who_was_not_in_the_old_ring():
    cluster, machine = recovering()
    hello = Hello(1, 0, machine.ring.id, 0, tuple(range(1, 1000)), 0, 1400, daemon=False, window=0)
    for origin in (1, 2):
        inner = Mcast(origin, origin, 0, NO_RING, data=codec.encode_hello(hello))
        machine.receive(encapsulated(machine, origin, origin, inner), cluster.now)
    assert machine._handler._obliged() == {1, 2, 3}


def test_a_node_of_another_cluster_is_named_and_ignored():
    machine = ring_of_one()
    stranger = processor(2, cluster_name="elsewhere")
    stranger.start(0.0)
    for _, frame in pump(stranger)[0][:1]:
        machine.receive(frame, 1.0)
    assert machine.state is State.OPERATIONAL
    assert any("'elsewhere'" in text for text in machine.take().notices)


def told_of(machine, text):
    return [notice for notice in machine.take().notices if text in notice]


def test_strangers_cannot_use_up_the_lines_for_an_administrator():
    """Of each cause one text a minute, then the number of the others; also a day later, and beside other causes."""
    machine = ring_of_one()
    machine.take()
    for start in (0.0, 86400.0):
        for number in range(20_000):
            origin = 1000 + number
            machine.receive(codec.encode(MergeDetect(origin, origin, RingId(origin, 4))), start + number * 0.001)
        machine.receive(b"x" * 100, start + 20.0)
        first, second = machine.take().notices
        assert first == "node 1000 is heard but not in the nodelist; add it there, or give it another port"
        assert second.startswith("datagrams come to port")
        machine.advance(start + 59.0)
        assert told_of(machine, "is heard") == []
        machine.advance(start + 61.0)
        assert told_of(machine, "is heard") == [
            "node 20999 is heard but not in the nodelist; add it there, or give it another port "
            "(19999 times more in a minute)"
        ]
        machine.advance(start + 300.0)
        assert told_of(machine, "is heard") == []
    join = codec.encode(Join(2, 2, 9, (1, 2, 7, 9), (9,)))
    machine.receive(join, 86500.0)
    assert len(told_of(machine, "node 2 names 7 for the ring")) == 1


def test_a_node_that_nobody_has_answered_says_so_once():
    machine = ring_of_one()
    patience = 5 * machine.config.consensus
    notices = []
    while machine.deadline < 2 * patience:
        now = machine.deadline
        machine.advance(now)
        assert not notices or now >= patience
        while (ready := machine.take()).datagrams:
            notices += ready.notices
            list(ready.deliveries)
    (text,) = notices
    assert "no other node has answered" in text
    assert f"node 1 at {machine.config.nodes[0].address}" in text


def test_who_is_alone_by_intent_or_has_had_company_does_not():
    for machine in (ring_of_one(count=1), formed()[1].machine):
        machine.diagnostics.report_if_unanswered(1e9)
        assert not machine.take().notices


def test_a_node_that_others_have_in_their_nodelists_only_is_named():
    machine = ring_of_one()
    machine.receive(codec.encode(Join(2, 2, 9, (1, 2, 7, 9), (9,))), 1.0)
    assert any("node 2 names 7 for the ring" in text for text in machine.take().notices)


def test_a_node_outside_the_nodelist_is_named_and_ignored():
    machine = ring_of_one(count=2)
    machine.receive(codec.encode(Join(9, 9, 1, (9,), ())), 1.0)
    assert machine.state is State.OPERATIONAL
    assert any("node 9" in text for text in machine.take().notices)


def test_a_node_with_a_larger_netmtu_is_named():
    machine = ring_of_one(netmtu=600)
    other = processor(2, netmtu=9000)
    other.start(0.0)
    machine.receive(pump(other)[0][0][1], 1.0)
    assert any("netmtu 600" in text for text in machine.take().notices)


def test_datagrams_of_another_transport_are_named_once():
    machine = ring_of_one()
    machine.receive(bytes(60), 1.0)
    machine.receive(bytes(60), 1.0)
    assert machine.counters.drops["foreign magic"] == 2
    assert len([text for text in machine.take().notices if "knet" in text]) == 1


def test_an_impossible_ring_sequence_is_not_believed():
    """Corosync counts on from whatever it hears; one forged Join would exhaust the 64 bits for good."""
    machine = ring_of_one()
    machine.receive(codec.encode(Join(2, 2, (1 << 64) - 1, (1, 2), ())), 1.0)
    assert machine.numbers.highest == 5
    assert machine.statistics().drops == {"impossible ring sequence": 1}
    assert any("node 2 is ignored, because its ring sequence" in text for text in machine.take().notices)


def test_a_repeated_or_foreign_token_has_no_effect():
    """Dropped before anything else (rulings, A8): a real node would count it toward holding and free messages."""
    cluster = formed()
    machine = cluster[2].machine
    ring = machine.ring
    before = (ring.unchanged, ring.safe_line, ring.forwarded_aru, machine.counters.tokens_sent)
    token = codec.decode(ring.last_token)
    token.token_seq = ring.seen_token_seq
    machine.receive(codec.encode(token), cluster.now)
    token.token_seq += 5
    token.ring_id = RingId(1, 999)
    machine.receive(codec.encode(token), cluster.now)
    assert (ring.unchanged, ring.safe_line, ring.forwarded_aru, machine.counters.tokens_sent) == before
    assert machine.statistics().drops["repeated token"] == 1
    assert machine.statistics().drops["token of another ring"] == 1


@pytest.mark.parametrize(
    "flip",
    [{"seq": 20000}, {"aru": 20000}, {"fcc": (1 << 32) - 2}, {"aru_holder": 1 << 20}],
    ids=lambda flip: next(iter(flip)),
)
def test_an_impossible_token_is_dropped_and_the_next_copy_taken(flip):
    """One flipped bit that passes UDP's checksum must not stop a ring (rulings, G15)."""
    cluster = formed()
    machine = cluster[2].machine
    good = codec.decode(machine.ring.last_token)
    good.token_seq += 10
    bad = replace(good, **{name: (getattr(good, name) + change) & MASK for name, change in flip.items()})
    accepted = machine.statistics().tokens_received
    machine.receive(codec.encode(bad), cluster.now)
    assert machine.statistics().drops["token out of range"] == 1
    assert machine.statistics().tokens_received == accepted
    machine.receive(codec.encode(good), cluster.now)
    assert machine.statistics().tokens_received == accepted + 1


def test_a_token_sent_again_to_a_real_node_claims_only_what_is_safe():
    """A copy makes a Corosync node forget messages that those behind it may lack (docs/trials.md, 9)."""
    cluster = Cluster(3, makers={3: CorosyncModel})
    cluster.start()
    machine = cluster[1].machine
    assert cluster.run_until(lambda: machine.members == (1, 2, 3) and not machine.syncing, 10)
    ring = machine.ring
    cluster[1].send([cluster[1].compose(20)])
    assert cluster.run_until(lambda: ring.safe_line != ring.forwarded_aru, 10)
    machine._handler.on_timer(Timer.TOKEN_RETRANSMIT, cluster.now)
    copy = codec.decode(machine.take().datagrams[-1][1][0])
    assert (copy.aru, copy.aru_holder) == (ring.safe_line, 1)
    assert ring.forwarded_aru == ring.safe_line, "what the copy does not claim must not count toward SAFE"


def test_a_token_sent_again_in_a_pure_ring_is_the_same():
    cluster = formed()
    machine = cluster[1].machine
    ring = machine.ring
    cluster[1].send([cluster[1].compose(20)])
    assert cluster.run_until(lambda: ring.safe_line != ring.forwarded_aru, 10)
    last = ring.last_token
    machine._handler.on_timer(Timer.TOKEN_RETRANSMIT, cluster.now)
    assert machine.take().datagrams[-1][1] == [last]


@pytest.mark.parametrize("place", [0, 1])
def test_a_frame_that_came_with_a_token_is_not_missed(place):
    """Also one that its sender sent behind the token (D2)."""
    cluster = formed()
    machine = cluster[2].machine
    ring = machine.ring
    seq = ring.window.aru + 1
    token = Token(1, ring.id, seq, ring.seen_token_seq + 1, aru=seq)
    batch = [codec.encode(token)]
    batch.insert(place, codec.seal_mcast(1, seq, 0, ring.id_bytes, 0, False, [codec.frame([1], 0, 0), b"m"]))
    machine.receive_all(batch, cluster.now)
    ((_, (passed_on,)),) = machine.take().datagrams
    assert codec.decode(passed_on).aru == seq
    assert not ring.misses


def test_features_that_only_others_know_are_not_used():
    cluster = Cluster(3)
    cluster.start()
    cluster[2].machine.own_features |= 1 << 63 | 1 << 40
    cluster.form()
    assert {node.machine.features for node in cluster.running} == {FEATURES}


def test_an_idle_ring_holds_its_token_and_moves_it_for_a_message():
    cluster = formed()
    cluster.run_for(5)
    visits = cluster[2].machine.statistics().tokens_received
    cluster.run_for(10)
    rotations = cluster[2].machine.statistics().tokens_received - visits
    assert rotations <= 10 / cluster.config.hold + 1
    start = cluster.now
    cluster[2].send([cluster[2].compose(10)])
    got = lambda: any(isinstance(event, Messages) for event in cluster[3].trace.events)  # noqa: E731
    assert cluster.run_until(got, 1)
    assert cluster.now - start < cluster.config.hold / 10


def rested(cluster, sender):
    """Make a node send a message, and let the ring come to rest with the token there."""
    cluster[sender].send([cluster[sender].compose(10)])
    cluster.run_for(0.05)
    assert [node.machine.ring.resting is not None for node in cluster.running].count(True) == 1
    assert cluster[sender].machine.ring.resting is not None


@pytest.mark.parametrize("sender", [1, 2, 3])
def test_who_has_sent_last_keeps_the_token_and_sends_with_it_at_once(sender):
    cluster = formed()
    rested(cluster, sender)
    before, start = len(cluster.delivered(sender)), cluster.now
    cancelled = cluster[sender].machine.statistics().holds_cancelled
    cluster[sender].send([cluster[sender].compose(10)])
    assert cluster.run_until(lambda: len(cluster.delivered(sender)) > before, 1)
    assert cluster.now == start
    assert cluster[sender].machine.statistics().holds_cancelled == cancelled + 1


@pytest.mark.parametrize("node_id", [1, 2, 3])
def test_a_pause_is_noticed_also_where_something_was_sent_at_its_end(node_id):
    """A program computes for long, and sends: its first call of the processor is no `overdue` (F2)."""
    cluster = formed()
    rested(cluster, 2)
    machine = cluster[node_id].machine
    now = cluster.now + 2 * cluster.config.token
    machine.multicast([b"after the pause"])
    assert machine.overdue(now)
    assert machine.statistics().pauses == 1


def test_a_rest_is_no_rotation():
    cluster = formed()
    for _ in range(30):
        rested(cluster, 1)
        cluster.run_for(0.1)
    assert all(cluster[node_id].machine.statistics().rotation_time < 0.004 for node_id in (1, 2, 3))


def test_the_hold_cancel_of_another_ring_is_dropped():
    cluster = formed()
    machine = cluster[1].machine
    machine.receive(codec.encode(HoldCancel(2, RingId(7, 7))), cluster.now)
    assert machine.statistics().drops["hold cancel of another ring"] == 1


def test_a_sync_that_is_over_takes_no_messages():
    machine = ring_of_one()
    machine.multicast_sync([b"late"])
    assert pump(machine) == ([], [])


def test_a_sync_that_is_dead_takes_no_messages():
    """While the old ring's last messages are delivered, a new ring is installed already: theirs is no sync of it."""
    machine = processor()
    machine.start(0.0)
    machine.advance(0.0)
    ready = machine.take()
    assert machine.state is State.OPERATIONAL
    machine.multicast_sync([b"too early"])
    assert not machine.sync_packer
    assert [type(event) for event in ready.deliveries] == [RegularConfiguration]
    machine.multicast_sync([b"in time"])
    assert machine.sync_packer


def test_messages_wait_for_the_end_of_the_sync():
    machine = processor()
    machine.start(0.0)
    machine.multicast([b"application"])
    events = []
    for _ in range(40):
        machine.advance(0.0)
        events += machine.take().deliveries
    assert not [event for event in events if isinstance(event, Messages)]
    machine.multicast_sync([b"sync"])
    machine.sync_complete(RingId(1, 1))
    for _ in range(40):
        machine.advance(1.0)
        events += machine.take().deliveries
    assert [event.messages for event in events if isinstance(event, Messages)] == [[b"sync"]]
    machine.sync_complete(machine.ring_id)
    for _ in range(40):
        machine.advance(2.0)
        events += machine.take().deliveries
    assert [event.messages for event in events if isinstance(event, Messages)] == [[b"sync"], [b"application"]]


def test_a_long_pause_stretches_the_token_timeout_within_bounds():
    """Four times the longest pause (F1), but a pause that cost its node the ring must not make a crash cost minutes."""
    cluster = formed(config=Config(nodes=Config.for_nodes(3).nodes, cluster_name="test", token_configured=False))
    token = cluster.config.token
    for pause in (0.6 * token, 60):
        cluster[2].pause()
        cluster.run_for(pause)
        cluster[2].resume()
        assert cluster.run_until(lambda: cluster.one_ring(1, 2, 3), 60)
        cluster[3].crash()
        crashed = cluster.now
        assert cluster.run_until(lambda: cluster.one_ring(1, 2), 120)
        assert cluster.now - crashed < 4 * token + 2 * cluster.config.consensus
        cluster[3].start()
        assert cluster.run_until(lambda: cluster.one_ring(1, 2, 3), 60)


class Mute:
    """An application that never finishes its sync."""

    def __init__(self, node):
        pass

    def on_delivery(self, delivery):
        pass


def test_members_that_do_not_take_part_in_sync_can_be_excluded():
    cluster = formed(application=Mute)
    machine = cluster[1].machine
    assert machine.restart_sync([3, 9], cluster.now)
    cluster[1].kick()
    alone = lambda: cluster[1].machine.members == cluster[2].machine.members == (1, 2)  # noqa: E731
    assert cluster.run_until(alone, 0.1)


def test_a_sync_that_a_real_node_blocks_is_begun_anew_with_everybody():
    """It sends its service_build once a ring, and may have thrown its own away."""
    cluster = formed(application=Mute, makers={3: CorosyncModel})
    machine = cluster[1].machine
    rings = {k: cluster[k].machine.ring_id for k in (1, 2, 3)}
    assert machine.restart_sync([3], cluster.now)
    assert not machine.membership.failed
    cluster[1].kick()
    assert cluster.run_until(lambda: cluster.one_ring(1, 2, 3) and cluster[3].machine.ring_id != rings[3], 0.1)


def test_the_ring_stays_for_a_sync_that_is_over():
    cluster = formed()
    assert not cluster[1].machine.restart_sync([3], cluster.now)
    assert not cluster[1].machine.restart_sync([1], cluster.now)


def test_a_node_that_all_others_have_failed_hesitates_before_it_is_alone():
    """Otherwise nodes that exclude each other would re-form rings of one without end."""
    cluster = formed()
    machine = cluster[1].machine
    now = cluster.now
    for other in (2, 3):
        machine.receive(codec.encode(Join(other, other, machine.ring_id.seq + 1, (1, 2, 3), ())), now)
    for other in (2, 3):
        machine.receive(codec.encode(Join(other, other, machine.ring_id.seq + 1, (1, 2, 3), (1,))), now)
    assert machine.state is State.GATHER
    assert machine.membership.failed == {2, 3}
    machine.advance(now + cluster.config.join)
    assert machine.state is not State.GATHER


def spoil(dice, datagram):
    """Return what a hostile or broken network makes of a datagram."""
    spoiled = bytearray(datagram)
    match dice.randrange(4):
        case 0:
            for _ in range(dice.randrange(1, 4)):
                spoiled[dice.randrange(len(spoiled))] = dice.randrange(256)
        case 1:
            del spoiled[dice.randrange(len(spoiled)) :]
        case 2:
            spoiled += dice.randbytes(dice.randrange(1, 60))
        case _:
            at = dice.randrange(4, max(5, len(spoiled) - 4))
            spoiled[at : at + 4] = dice.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\1\0\0\0"])
    return bytes(spoiled)


@pytest.mark.parametrize("seed", range(20))
def test_hostile_bytes_never_raise(seed):
    """Spoiled copies of a living ring's own packets, at every node, in every state; the ring lives on afterwards."""
    dice = random.Random(seed)
    cluster = Cluster(3, seed=seed)
    heard = []
    for node in cluster.nodes.values():
        original = node.receive

        def receive(datagram, original=original):
            heard.append(datagram)
            original(datagram)

        cluster.network.attach(node.node_id, receive)
    cluster.start()
    for _ in range(400):
        cluster.run_for(0.003)
        node = dice.choice(list(cluster.nodes.values()))
        if node.machine is None:
            node.start()
        if dice.random() < 0.3:
            node.try_send([node.compose(dice.choice([10, 3000]))], dice.choice(list(Guarantee)))
        for _ in range(3):
            if heard and node.machine is not None:
                node.receive(spoil(dice, dice.choice(heard[-200:])))
    for node in cluster.nodes.values():
        if node.machine is None:
            node.start()
    assert cluster.run_until(lambda: all(n.machine.members == (1, 2, 3) for n in cluster.nodes.values()), 60)


def test_every_target_is_all_or_a_member():
    cluster = formed()
    targets = set()
    for node in cluster.running:
        machine = node.machine
        machine.multicast([node.compose(10)])
        machine.receive(machine.ring.last_token, cluster.now)
        targets |= {target for target, _ in machine.take().datagrams}
    assert targets <= {ALL, 1, 2, 3}


@pytest.mark.parametrize(("netmtu", "burst"), [(576, 128), (1500, 128), (9000, 21), (65507, 2)])
def test_what_may_wait_in_a_switch_is_bytes(netmtu, burst):
    machine = processor(netmtu=netmtu)
    assert machine.tokens.burst(machine.ring) == burst


def test_over_knet_it_is_the_packets_of_a_link_that_count():
    machine = processor(transport="knet")
    assert machine.tokens.burst(machine.ring) == 128


def daemons(count=3, **settings):
    """A ring of daemons, at rest."""
    cluster = formed(count, config=Config.for_nodes(count, **settings), daemons=True)
    cluster.run_for(1.0)
    return cluster


def test_who_asks_for_more_and_less_in_turn_is_waited_for_no_longer_than_who_asks_for_most():
    machine = daemons().nodes[1].machine
    most = Ask(2000, 0)
    for _ in range(1000):
        machine._take_ask(machine.ring, 2, most)
        machine._take_ask(machine.ring, 2, Ask(0, 0))
    assert machine.timers.armed(Timer.TOKEN_LOSS)
    assert machine.timers.deadline(Timer.TOKEN_LOSS) <= machine.diagnostics.now + 2.0


def accuse_node_3(machine, now):
    """Have a node refused by node 3, and not answered."""
    machine.on_refusal(3, now)
    machine.on_trial(3, False, now)


def join_of_node_3(machine, hint):
    return codec.encode(Join(3, 3, machine.ring_id.seq, (1, 2, 3), (), hint))


def confirm_by_node_2(machine, now):
    said = Evidence(Saying.CONFIRMS, 2, 3, machine.ring.id)
    machine.receive(said.encode(), now)


def test_one_that_is_started_anew_is_not_put_out_by_what_others_say_late_of_the_process_before():
    cluster = daemons()
    machine = cluster.nodes[1].machine
    accuse_node_3(machine, cluster.now)
    hint = codec.encode_hint(codec.Hint(machine.config.cluster_name, machine.config.frame_size, FEATURES))
    machine.receive(join_of_node_3(machine, hint), cluster.now)
    confirm_by_node_2(machine, cluster.now)
    assert 3 not in machine.membership.failed


def test_where_a_member_comes_back_as_a_real_node_nobody_says_anything_of_trials():
    cluster = daemons()
    machine = cluster.nodes[1].machine
    accuse_node_3(machine, cluster.now)
    pump(machine, cluster.now)
    machine.receive(join_of_node_3(machine, b""), cluster.now)
    machine.on_refusal(2, cluster.now)
    machine.on_trial(2, False, cluster.now)
    confirm_by_node_2(machine, cluster.now)
    sent, _ = pump(machine, cluster.now)
    assert not [datagram for _, datagram in sent if evidence.decode(datagram)]
    assert machine.membership.failed == set()


@pytest.mark.parametrize("settings", [{"hold": 0.4}, {"token": 1.0, "token_retransmits_before_loss_const": 2}])
def test_a_token_that_has_rested_for_long_is_not_late(settings):
    """Else each member would show that it has the token, and an idle ring would never rest."""
    cluster = daemons(**settings)
    sent = [node.machine.counters.multicasts_sent for node in cluster.running]
    cluster.run_for(10.0)
    assert [node.machine.counters.multicasts_sent for node in cluster.running] == sent
