"""The links of nodes: what goes where, what is believed, and who can be reached."""

import random
import zlib
from dataclasses import replace

import pytest

from tests.totem.links.nets import Net, config, packet
from totem.config import IP_UDP_HEADERS
from totem.links.machine import FORCED_EVERY
from totem.links.path import PathChange
from totem.wire import knet
from totem.wire.knet import Fragment, Ping

KEY = random.Random(5).randbytes(256)
SEALED = {"cipher": "aes256", "hash": "sha256", "key": KEY}


@pytest.fixture(params=["clear", "signed", "sealed"])
def secrets(request):
    return {"clear": {}, "signed": {"hash": "sha1", "key": KEY}, "sealed": SEALED}[request.param]


def formed(count=2, links=1, *, seconds=1.0, **settings):
    """Nodes that can reach each other."""
    net = Net(config(count, links, **settings)).start()
    net.run(seconds)
    for node_id in net.links:
        assert all(net[node_id].is_reachable(other) for other in net.links if other != node_id)
    return net


@pytest.mark.parametrize("size", [13, 14, 400, 1400, 1446, 1447, 3000, 65491, 65536])
def test_packets_come_whole(secrets, size):
    net = formed(**secrets)
    sent = [packet(size), packet(13)]
    net.send(1, 0, *sent)
    net.run(0.1)
    assert net.received[2] == sent
    assert max(len(datagram) for *_, datagram in net.wire) + IP_UDP_HEADERS[4] <= 1500


def test_each_is_for_all_or_for_one():
    net = formed(3)
    net.send(1, 0, packet(100))
    net.send(1, 3, packet(200))
    net.run(0.1)
    assert net.received[2] == [packet(100)]
    assert net.received[3] == [packet(100), packet(200, target=3)]


def test_nothing_is_sent_to_whom_cannot_be_reached():
    net = Net(config(3)).start(1, 2)
    net.run(2)
    net.send(1, 0, packet(100))
    net.send(1, 3, packet(100))
    net.run(0.1)
    assert net.received[2] == [packet(100)]
    assert not [way for _, *way, datagram in net.wire if way[1] == 3 and datagram[1] == knet.DATA]


def test_a_narrow_path_is_used_at_once():
    net = Net(config(3))
    net.carries = {(1, 2, 0): 700, (2, 1, 0): 700}
    net.start()
    net.run(0.2)
    net.send(1, 0, packet(5000))
    net.run(0.1)
    assert net.received[2] == net.received[3] == [packet(5000)]


def test_an_unknown_target_is_counted():
    net = formed()
    net.send(1, 7, packet(100))
    assert net[1].drops["unknown target"] == 1


def test_a_node_that_is_silent_goes_down_and_comes_back():
    net = formed(seconds=15)
    net.stop(2)
    net.run(2)
    assert not net[1].is_reachable(2)
    net.start(2)
    net.run(2)
    assert net.whats(1) == [(2, 0, PathChange.UP), (2, 0, PathChange.DOWN), (2, 0, PathChange.UP)]
    net.send(2, 0, packet(50))
    net.run(0.1)
    assert net.received[1] == [packet(50)]


def test_a_quick_restart_is_noticed_by_the_numbers():
    net = formed(seconds=15)
    for _ in range(100):
        net.send(2, 0, packet(50))
    net.run(0.01)
    net.stop(2)
    net.start(2)
    net.run(1)
    assert net.whats(1) == [(2, 0, PathChange.UP)]
    net.send(2, 0, packet(60))
    net.run(0.1)
    assert net.received[1][-1] == packet(60)


def test_what_passes_is_counted_as_libknet_counts(secrets):
    """What is sent as it leaves, but for answers to probes; what has come once it is opened."""
    net = formed(links=2, seconds=3, link_mode="active", **secrets)
    size = len(net.wire[0][-1])  # of a ping, as it leaves
    before = net[1].state(2, 1).sent
    net.send(1, 0, packet(100), packet(5000))
    net.deliver(2, 1, "10.1.0.1", bytes(60))  # does not open, or is of another version
    net.run(0.1)
    leaves = [datagram for _, *way, datagram in net.wire if way == [1, 2, 1]]
    there, here = net[1].state(2, 1).sent, net[2].state(1, 1).received
    assert there[knet.DATA].packets == here[knet.DATA].packets == 5
    assert here[knet.DATA].size == 5 * 14 + 100 + 5000
    assert there[knet.PING].size == size * there[knet.PING].packets
    assert here[knet.PING] == (there[knet.PING].packets, 26 * there[knet.PING].packets)
    assert (there[knet.PROBE].packets, here[knet.PROBE].packets) == (2, 2)  # one was refused here; a reply came there
    assert sum(amount.packets for amount in there.values()) == len(leaves)  # one refused, and one reply
    assert before[knet.DATA] == (0, 0)
    assert 0 < net[1].state(2, 1).shortest <= net[1].state(2, 1).latency <= net[1].state(2, 1).longest


def restarted_in_part(*, models=()):
    """Node 2 has started again; what it sent to node 1 was lost until it had sent data to node 3."""
    net = Net(config(3), models=models).start()
    net.run(3)
    for _ in range(500):
        net.send(2, 0, packet(50))
    net.run(1)
    net.stop(2)
    net.cut.add((2, 1, 0))
    net.start(2)
    net.run(1.5)  # less than the silence at which node 1 takes the path for lost
    for _ in range(20):
        net.send(2, 3, packet(50))
    net.cut.clear()
    net.run(1)
    return net


@pytest.mark.parametrize("models", [(), (1,), (2,)], ids=lambda models: f"real nodes {models}")
def test_a_restart_is_noticed_although_its_first_pings_were_lost(models):
    net = restarted_in_part(models=models)
    net.run(1)
    net.send(2, 0, packet(60))
    net.run(0.1)
    assert net.received[1][-1] == packet(60)
    if 1 not in models:
        assert net.whats(1).count((2, 0, PathChange.UP)) == 1


def test_among_real_nodes_nobody_notices_such_a_restart():
    """This is libknet's own trap: its packets pass for copies until their numbers are higher than the former ones."""
    net = restarted_in_part(models=(1, 2))
    net.run(1)
    net.send(2, 0, packet(60))
    net.run(0.1)
    assert net[1].hosts[2].reachable
    assert packet(60) not in net.received[1]
    assert net[1].drops["already delivered"] == 1


def test_the_state_of_each_link():
    net = formed(count=3, links=2, seconds=15)
    net.stop(3)
    net.run(2)
    states = net[1].states()
    assert [(state.node_id, state.link, state.is_up) for state in states] == [
        (2, 0, True),
        (2, 1, True),
        (3, 0, False),
        (3, 1, False),
    ]
    up, *_, down = states
    assert (up.mtu, up.room, up.ups, up.downs) == (1500, 1446, 1, 0)
    assert up.latency == pytest.approx(2 * net.delay)
    assert up.since < 2
    assert down.since > 15
    assert (down.mtu, down.room, down.ups, down.downs) == (0, 1446, 1, 1)


def test_a_path_that_carries_less_is_found_and_packets_are_cut_for_all():
    net = formed(3)
    net.carries = {(1, 2, 0): 1300, (2, 1, 0): 1300}
    net.run(60)
    assert net[1].paths(2)[0].mtu == 1300
    net.wire.clear()
    net.send(1, 0, packet(1446))
    net.run(0.1)
    assert net.received[2] == net.received[3] == [packet(1446)]
    assert max(len(datagram) for *_, datagram in net.wire) + 28 <= 1300


def test_numbers_go_on_behind_65535_and_are_told_to_whom_nothing_is_sent():
    net = formed(3)
    for _ in range(70):
        net.send(1, 2, *[packet(20)] * 1000)
        net.run(0.01)
    assert len(net.received[2]) == 70000
    forced = [
        knet.read_ping(datagram)
        for _, source, target, _, datagram in net.wire
        if (source, target) == (1, 3) and datagram[1] == knet.PING and not datagram[25]
    ]
    assert len(forced) == 70000 // FORCED_EVERY
    net.send(1, 3, packet(30))
    net.run(0.1)
    assert net.received[3] == [packet(30, target=3)]


# ---- several links


def data_links(net, source=1, target=2):
    return [link for _, *way, link, datagram in net.wire if way == [source, target] and datagram[1] == knet.DATA]


def test_passive_uses_the_best_link_that_works():
    net = formed(links=2, seconds=15)
    net.wire.clear()
    net.send(1, 0, packet(50))
    assert data_links(net) == [0]
    net.cut = {(1, 2, 0), (2, 1, 0)}
    net.run(2)
    assert net[1].is_reachable(2)
    net.send(1, 0, packet(60))
    net.run(0.1)
    assert data_links(net) == [0, 1]
    assert net.received[2] == [packet(50), packet(60)]
    net.cut = set()
    net.run(10)
    net.send(1, 0, packet(70))
    assert data_links(net) == [0, 1, 0]


def test_active_uses_all_links_and_each_packet_comes_once():
    net = formed(links=3, link_mode="active")
    net.wire.clear()
    net.send(1, 0, packet(50), packet(3000))
    net.run(0.1)
    assert net.received[2] == [packet(50), packet(3000)]
    assert sorted(data_links(net)) == sorted([0, 1, 2] * 4)
    assert net[2].drops["knet packet that has come before"] == 2


def test_rr_uses_the_links_in_turn_and_one_for_all_of_a_packet():
    net = formed(links=2, link_mode="rr")
    net.wire.clear()
    for size in (50, 3000, 50, 3000):
        net.send(1, 0, packet(size))
    net.run(0.1)
    assert net.received[2] == [packet(50), packet(3000), packet(50), packet(3000)]
    assert data_links(net) in ([1, 0, 0, 0, 1, 0, 0, 0], [0, 1, 1, 1, 0, 1, 1, 1])


# ---- compression


def test_compressed_packets_are_understood_whatever_the_own_setting():
    plain = config(2)
    net = Net(plain, configs={1: config(2, compression="zlib")}).start()
    net.run(1)
    net.wire.clear()
    incompressible = packet(13) + random.Random(1).randbytes(500)
    sent = [packet(5000), packet(60), incompressible]
    net.send(1, 0, *sent)
    net.run(0.1)
    assert net.received[2] == sent
    sizes = [len(datagram) for *_, datagram in net.wire if datagram[1] == knet.DATA]
    assert sizes == [14 + len(zlib.compress(packet(5000))), 14 + 60, 14 + len(incompressible)]


@pytest.mark.parametrize("model", [1, 2, 5, 6, 99])
def test_what_cannot_be_decompressed_is_dropped(model):
    net = formed()
    header = knet.data_header(2, Fragment(1, model, 1, 0, 0), for_all=True)
    net.deliver(1, 0, "10.0.0.2", header + b"damaged" * 8)
    assert net.received[1] == []
    assert net[1].drops["knet packet that cannot be decompressed"] == 1
    assert len(net.notices) == 1


def test_a_small_packet_does_not_become_a_huge_one():
    net = formed()
    bomb = zlib.compress(bytes(10_000_000), 9)
    for said, piece in [(Fragment(1, 1, 1, 0, 0), bomb)]:
        net.deliver(1, 0, "10.0.0.2", knet.data_header(2, said, for_all=True) + piece)
    assert net.received[1] == []
    assert "more than 65536 bytes" in net.notices[0]


# ---- keys that change

OTHER = {"cipher": "aes128", "hash": "sha512", "key": KEY[::-1]}
CHANGES = [
    (SEALED, OTHER),
    (SEALED, {}),
    ({}, SEALED),
    ({"hash": "sha1", "key": KEY}, SEALED),
    (SEALED, {**SEALED, "key": KEY[::-1]}),
]


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_all_go_on_with_a_new_key_and_nothing_is_lost(before, after):
    net = formed(3, seconds=15, **before)
    sent = []

    def say(size):
        for node_id in net.links:
            net.send(node_id, 0, packet(size, fill=b"%d" % node_id))
            sent.append(packet(size, fill=b"%d" % node_id))
        net.run(0.01)

    say(100)
    for node_id in net.links:
        net.accept(node_id, **after)
        say(3000)
    net[2].use_accepted(net.now)
    for size in (200, 300, 1400):
        say(size)
    net.run(5)
    say(500)
    net.run(1)
    for node_id in net.links:
        assert sorted(net.received[node_id]) == sorted(told for told in sent if told[-1:] != b"%d" % node_id)
        assert net.whats(node_id) == [(other, 0, PathChange.UP) for other in net.links if other != node_id]
        assert net[node_id]._keys.settings == net.knet(**after)
    assert net.notices == []


def test_the_former_key_opens_nothing_after_a_while():
    net = formed(2, seconds=15, **SEALED)
    old = [datagram for *_, target, _, datagram in net.wire if target == 1][-1]
    for node_id in net.links:
        net.accept(node_id, **OTHER)
    net[1].use_accepted(net.now)
    net.run(5)
    net.deliver(1, 0, "10.0.0.2", old)
    assert net[1].drops["sealed otherwise"] == 1


def test_a_single_packet_that_does_not_open_is_no_news():
    net = formed(2, seconds=15, **SEALED)
    for _ in range(10):
        net.deliver(1, 0, "10.0.0.2", b"damaged")
        net.run(1)
    assert net[1].drops["sealed otherwise"] == 10
    assert net.notices == []
    for _ in range(3):
        net.deliver(1, 0, "10.0.0.2", b"damaged")
    assert len(net.notices) == 1


def test_a_key_that_nobody_uses_is_accepted_and_not_used():
    net = formed(2, seconds=15, **SEALED)
    net.accept(1, **OTHER)
    net.run(5)
    assert net[1].is_reachable(2)
    assert net[2].is_reachable(1)
    net.wire.clear()
    net.run(2)
    assert all(net[2]._keys.open([datagram], net.now) != [None] for _, source, *_, datagram in net.wire if source == 1)


def test_a_node_that_has_not_the_new_key_is_left_behind_and_named():
    net = formed(2, seconds=15, **SEALED)
    net.accept(1, **OTHER)
    net[1].use_accepted(net.now)
    net.run(10)
    assert not net[1].is_reachable(2)
    assert any("10.0.0.2 do not open" in text for text in net.notices)
    net.accept(2, **OTHER)
    net.run(3)
    assert net[1].is_reachable(2)
    assert net[2].is_reachable(1)


# ---- strangers


def test_addresses_that_are_not_listed_are_dropped_and_named(secrets):
    net = formed(**secrets)
    net.deliver(1, 0, "10.0.0.9", b"whatever")
    assert net[1].drops["unlisted address"] == 1
    assert "10.0.0.9" in net.notices[0]


def test_what_is_kept_of_strangers_has_a_bound():
    chosen = replace(config(2, **SEALED), block_unlisted_ips=False)
    net = Net(chosen).start()
    causes = set()
    net[1].notice = lambda cause, text: causes.add(cause)
    for number in range(1000):
        net.deliver(1, 0, f"10.1.{number // 250}.{number % 250}", b"damaged")
    assert causes == {"sealed otherwise by an unlisted address"}
    assert len(net[1]._unopened) == 1


def test_another_node_cannot_speak_from_the_address_of_a_third_one():
    net = formed(3)
    for kind in (knet.PING, knet.PONG):
        net.deliver(1, 0, "10.0.0.3", knet.prefix(kind, 2) + knet.ping(2, Ping(0, bytes(16), 0, True))[4:])
    net.deliver(1, 0, "10.0.0.3", knet.data_header(2, Fragment(1, 0, 1, 0, 0), for_all=True) + packet(50))
    assert net[1].drops["address of another node"] == 3
    assert net.received[1] == []


@pytest.mark.parametrize(
    "other",
    [
        {},
        {**SEALED, "key": KEY[::-1]},
        {**SEALED, "cipher": "aes128"},
        {**SEALED, "hash": "sha512"},
        {"hash": "sha256", "key": KEY},
    ],
)
def test_nodes_that_seal_differently_do_not_hear_each_other_and_are_named_at_both(other):
    net = Net(config(2, **SEALED), configs={2: config(2, **other)}).start()
    net.run(10)
    assert not net[1].is_reachable(2)
    assert not net[2].is_reachable(1)
    assert any("10.0.0.2" in text and "crypto_cipher aes256" in text for text in net.notices)
    assert any("10.0.0.1" in text for text in net.notices)
    assert net[1].drops["sealed otherwise"]


@pytest.mark.parametrize("flaw", ["version", "own id", "unknown id", "kind", "short", "channel", "link", "not totem's"])
def test_packets_that_cannot_be_are_dropped_by_cause(flaw):
    net = formed()
    good = knet.data_header(2, Fragment(1, 0, 1, 0, 0), for_all=True) + packet(50)
    ping = knet.ping(2, Ping(0, bytes(16), 0, True))
    flawed = {
        "version": b"\2" + good[1:],
        "own id": knet.prefix(knet.DATA, 1) + good[4:],
        "unknown id": knet.prefix(knet.DATA, 9) + good[4:],
        "kind": b"\1\x85" + good[2:],
        "short": good[:6],
        "channel": good[:13] + b"\1" + good[14:],
        "link": ping[:6] + b"\1" + ping[7:],
        "not totem's": good[:26],
    }[flaw]
    net.deliver(1, 0, "10.0.0.2", flawed)
    assert net.received[1] == []
    assert net[1].drops.total() == 1
    net.deliver(1, 0, "10.0.0.2", knet.data_header(2, Fragment(2, 0, 1, 0, 0), for_all=True) + packet(50))
    assert net.received[1] == [packet(50)]


def test_hostile_packets_raise_nothing(secrets):
    net = formed(3, links=2, **secrets)
    dice = random.Random(7)
    wires = [datagram for *_, datagram in net.wire]
    sealed = net[2]._keys
    for _ in range(20_000):
        datagram = bytearray(dice.choice(wires) if dice.random() < 0.8 else dice.randbytes(dice.randrange(100)))
        for _ in range(dice.randrange(4)):
            if datagram:
                datagram[dice.randrange(len(datagram))] = dice.randrange(256)
        said = bytes(datagram[: dice.randrange(len(datagram) + 1)]) if dice.random() < 0.3 else bytes(datagram)
        if dice.random() < 0.5:  # by one who has the key
            kind = dice.choice([0, 0x81, 0x82, 0x83, 0x84, dice.randrange(256)])
            said = sealed.seal([bytes([1, kind, 0, dice.randrange(4)]) + said[4:]])[0]
        net.deliver(1, dice.randrange(2), f"10.{dice.randrange(2)}.0.{dice.randrange(4)}", said)
    net.run(3)
    assert all(net[node_id].is_reachable(1) for node_id in (2, 3))
