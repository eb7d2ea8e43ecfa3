"""The model of libknet against captures of real nodes, and its quirks alone."""

from functools import cache

import pytest

from tests.sim.knet_replay import lives, replay
from tests.totem.links.nets import Net, config, packet
from tests.totem.wire.knet_captures import CAPTURES, FOREIGN, packets
from totem.links.crypto import Clear
from totem.testing.corosync.knet import ALL, KnetModel
from totem.wire import knet
from totem.wire.knet import Fragment, Ping

PERIODIC = 0.008
"""Seconds by which pings and probes of the model may be early or late, after up to 25 s."""
AT_ONCE = 0.003
"""The same for answers."""
PROCESSES = [
    (name, node, number)
    for name in CAPTURES
    for node in sorted({packet.source for packet in packets(name)} - {FOREIGN.get(name)})
    for number in range(len(lives(name, node)))
]
each_process = pytest.mark.parametrize(("name", "node", "number"), PROCESSES)


@cache
def replayed(name, node, number):
    return replay(name, node, *lives(name, node)[number])


def ways(run):
    return sorted({(entry.target, entry.link) for entry in run.sent})


def test_all_processes_of_real_nodes_are_replayed():
    assert len(PROCESSES) == 17


@each_process
def test_pings_leave_when_the_node_sent_them(name, node, number):
    run = replayed(name, node, number)
    for way in ways(run):
        sent, made = run.of(knet.PING, *way)
        assert len(sent) == len(made) > 0
        for one, other in zip(sent, made, strict=True):
            assert abs(one.time - other.time) < PERIODIC
            said, model_said = knet.read_ping(one.packet), knet.read_ping(other.packet)
            assert model_said.seq in run.numbers_about(one.time, PERIODIC) | {said.seq}
            assert said._replace(time=b"", seq=0) == model_said._replace(time=b"", seq=0)
            assert abs(knet.moment(model_said.time) / 1e9 - other.time) < 1e-6


@each_process
def test_pongs_and_replies_are_the_same_bytes(name, node, number):
    run = replayed(name, node, number)
    for kind in (knet.PONG, knet.PROBE_REPLY):
        for way in ways(run):
            sent, made = run.of(kind, *way)
            assert [entry.packet for entry in sent] == [entry.packet for entry in made]
            assert all(abs(one.time - other.time) < AT_ONCE for one, other in zip(sent, made, strict=True))


@each_process
def test_probes_have_the_same_sizes_at_the_same_times(name, node, number):
    run = replayed(name, node, number)
    for way in ways(run):
        sent, made = run.of(knet.PROBE, *way)
        assert [entry.packet for entry in sent] == [entry.packet for entry in made]
        assert all(abs(one.time - other.time) < PERIODIC for one, other in zip(sent, made, strict=True))


@each_process
def test_data_takes_the_same_links_in_the_same_pieces(name, node, number):
    run = replayed(name, node, number)
    for way in ways(run):
        sent, made = run.of(knet.DATA, *way)
        assert [entry.packet for entry in sent] == [entry.packet for entry in made]


@each_process
def test_what_came_is_delivered_once(name, node, number):
    run = replayed(name, node, number)
    assert run.delivered
    assert not run._model.drops.keys() - {"already delivered", "not reachable yet", "not for us"}
    if name != "08-two-links-active":
        assert not run._model.drops["already delivered"]


# Quirks, without a capture.


def model(**settings):
    made = KnetModel(config(2, **settings), 1, Clear())
    made.start(0.0)
    return made


def up(made, now=0.0):
    """Bring the link of a model up, by answering its pings; return the time."""
    for step in range(1, 40):
        now = step * 0.1 + 0.01
        while made.deadline <= now:
            made.advance(made.deadline)
        answer(made, now)
        if made.hosts[2].reachable and made.data_mtu > 1000:
            return now
    raise AssertionError("the link does not come up")


def answer(made, now, *, probes=True):
    """Answer what a model asks; return the rest."""
    rest = []
    while outgoing := made.take():
        for departure in outgoing:
            for data in departure.datagrams:
                if data[1] == knet.PING:
                    made.receive(0, "10.0.0.2", (knet.pong(2, data),), now)
                elif data[1] == knet.PROBE and knet.read_probe(data)[1] > 1500:
                    made.too_large(0, 2, 1500, now)
                elif data[1] == knet.PROBE and probes:
                    made.receive(0, "10.0.0.2", (knet.probe_reply(2, data),), now)
                else:
                    rest.append(data)
    return rest


def data(seq, *, fragments=1, number=0):
    return knet.data_header(2, Fragment(seq, 0, fragments, number, 0), for_all=True) + packet(40)


def arrives(made, seq, now=5.0, **which):
    return bool(made.receive(0, "10.0.0.2", (data(seq, **which),), now))


def test_the_link_is_up_with_the_third_pong_and_reachable_before_the_discovery():
    made = model()
    seen = []
    now = 0.0
    while now < 1.3:
        now = made.deadline
        made.advance(now)
        answer(made, now + 0.0001, probes=False)
        seen.append((round(now, 1), made.hosts[2].link[0].received_pong, made.hosts[2].reachable))
    assert seen[0] == (0.2, 1, False)
    assert (0.6, 2, False) in seen
    assert (1.0, 2, True) in seen
    assert made.data_mtu == 482


def test_a_peer_that_does_not_answer_probes_is_thrown_out_after_24_seconds():
    made = model()
    now = 0.0
    while now < 60:
        now = made.deadline
        made.advance(now)
        answer(made, now + 0.0001, probes=False)
        if now > 5 and not made.hosts[2].reachable:
            break
    assert 20 < now < 30
    assert made.hosts[2].link[0].connected


def test_data_is_taken_from_reachable_hosts_only():
    made = model()
    assert not arrives(made, 1, 0.1)
    up(made)
    assert arrives(made, 1)


def test_numbers_wrap_from_65535_to_1():
    made = model()
    now = up(made)
    made.tx_seq_num = 65534
    made.send(ALL, [packet(20)] * 2, now)
    assert [knet.read_fragment(each).seq for each in answer(made, now)] == [65535, 1]


def test_pings_tell_the_number_after_8191_packets():
    made = model()
    now = up(made)
    made.tx_seq_num = 8190
    made.send(ALL, [packet(20)], now)
    (departure, _) = made.take()
    said = knet.read_ping(departure.datagrams[0])
    assert (said.seq, said.timed) == (8191, False)


def test_the_window_is_4096_numbers():
    made = model()
    up(made)
    assert arrives(made, 5000)
    assert not arrives(made, 5000)
    assert arrives(made, 5000 - 4095)
    assert not arrives(made, 5000 - 4095)
    assert arrives(made, 5000 - 4096)  # far away: a new window begins
    assert arrives(made, 5000)


def test_a_node_that_starts_again_without_a_ping_of_0_is_not_heard():
    made = model()
    up(made)
    for seq in range(1, 40):
        assert arrives(made, seq)
    assert not arrives(made, 1)
    made.receive(0, "10.0.0.2", (knet.ping(2, Ping(0, bytes(16), 39, True)),), 5.0)
    made.receive(0, "10.0.0.2", (knet.ping(2, Ping(0, bytes(16), 0, True)),), 5.0)
    assert arrives(made, 1)


def test_a_fragment_far_behind_is_given_up():
    made = model()
    up(made)
    assert not arrives(made, 100, fragments=2, number=1)
    assert arrives(made, 133)
    assert not arrives(made, 100, fragments=2, number=2)
    assert not arrives(made, 101, fragments=2, number=2)
    assert arrives(made, 101, fragments=2, number=1)


def test_a_late_pong_keeps_a_link_up_and_does_not_bring_it_up():
    made = model()
    ping = knet.ping(1, Ping(0, knet.stamp(1_000_000_000), 0, True))
    for _ in range(5):
        made.receive(0, "10.0.0.2", (knet.pong(2, ping),), 2.0)
    assert made.hosts[2].link[0].received_pong == 0
    assert made.hosts[2].link[0].pong_last == 2.0


def test_a_refusal_takes_a_link_down_at_the_next_heartbeat_which_sends_no_ping():
    made = model()
    now = up(made)
    made.unreachable(0, 2, now)
    assert made.hosts[2].reachable
    before = made._heartbeat
    while made.deadline <= before:
        made.advance(made.deadline)
    assert not made.hosts[2].reachable
    assert not answer(made, before)


@pytest.mark.parametrize("models", [{2}, {1, 2}, set()])
def test_models_and_links_of_this_package_reach_each_other(models):
    net = Net(config(2), models=models).start()
    net.run(3)
    for source, target in ((1, 2), (2, 1)):
        net.send(source, ALL, packet(3000))
        net.send(source, target, packet(50))
        net.run(0.1)
        assert [len(each) for each in net.received[target]] == [3000, 50]
