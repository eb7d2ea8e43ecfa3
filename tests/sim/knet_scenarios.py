"""Links of knet in virtual time. Each scenario asserts, so that it serves as a test and as the hunter of a bug."""

from __future__ import annotations

import random

from tests.sim.scenarios import judge
from totem.config import Config, Knet, LinkSettings
from totem.links.arrivals import Arrivals
from totem.links.crypto import seal_of
from totem.links.machine import Links
from totem.testing.cluster import Cluster
from totem.testing.corosync import CorosyncModel
from totem.testing.corosync.knet import KnetModel
from totem.testing.network import Conditions
from totem.wire import knet
from totem.wire.knet import Fragment, Ping

NUMBERS = 65536
SMALL = bytes(20)
"""A packet that nobody understands."""


def cluster_over_knet(count: int = 3, links: int = 1, *, foreign: tuple[int, ...] = (), **settings: object) -> Cluster:
    """Return a cluster over knet, formed, with nothing of its start left to do. `settings`: of `Knet`."""
    numbers = tuple(LinkSettings(number) for number in range(links))
    config = Config.for_nodes(count, transport="knet", token=1.0, knet=Knet(links=numbers, **settings))  # type: ignore[arg-type]
    cluster = Cluster(count, config=config, makers=dict.fromkeys(foreign, CorosyncModel))
    cluster.start()
    cluster.form()
    cluster.run_for(3)
    return cluster


def links_of(cluster: Cluster, node_id: int) -> Links:
    links = cluster[node_id].links
    assert links is not None
    assert isinstance(links.machine, Links)
    return links.machine


def room_of(cluster: Cluster, node_id: int) -> int:
    """Return the bytes of user data that fit in a packet of a node, of whatever make."""
    links = cluster[node_id].links
    assert links is not None
    machine = links.machine
    return machine.data_mtu if isinstance(machine, KnetModel) else links_of(cluster, node_id)._room


def send_some(cluster: Cluster, *sizes: int) -> None:
    for node in cluster.running:
        node.send([node.compose(size) for size in sizes])


def one_of_two_links_may_fail(*foreign: int, link_mode: str = "passive") -> None:
    """No change of the ring, whichever link is cut, in any mode."""
    for number in (0, 1):
        cluster = cluster_over_knet(links=2, foreign=foreign, link_mode=link_mode)
        ring_id = cluster.installed_ring
        cluster.run_for(12)  # the links are no longer young: a silent one is down within a second
        cluster.planes[number].cut([1], [2, 3])
        cluster.planes[number].cut([2, 3], [1])
        for _ in range(20):
            send_some(cluster, 10, 3000)
            cluster.run_for(0.2)
        assert cluster.installed_ring == ring_id
        cluster.network.heal()
        for _ in range(20):
            send_some(cluster, 10, 3000)
            cluster.run_for(0.2)
        judge(cluster)
        assert cluster.installed_ring == ring_id


def a_path_that_carries_less_is_found(*foreign: int) -> None:
    """Packets are cut for all with the next search, and as large as before when it carries them again."""
    cluster = cluster_over_knet(foreign=foreign, mtu_interval=5.0)
    assert {room_of(cluster, node_id) for node_id in (1, 2, 3)} == {1446}
    cluster.network.set_conditions(Conditions(longest=1000), 1, 2)
    cluster.run_for(30)
    assert 800 < room_of(cluster, 1) < 1000 - 26 + 1
    assert room_of(cluster, 3) == 1446
    send_some(cluster, 5000)
    judge(cluster)
    cluster.network.heal()
    cluster.run_for(30)
    assert room_of(cluster, 1) == 1446
    judge(cluster)


def an_mtu_that_the_computer_knows_is_used_at_once(*foreign: int) -> None:
    """It refuses what is larger, and so the first packet shows it."""
    cluster = cluster_over_knet(foreign=foreign)
    cluster[1].mtus[0] = 1000
    for _ in range(10):
        cluster[1].send([cluster[1].compose(5000)])
        cluster.run_for(0.3)
    assert room_of(cluster, 1) == 1000 - 28 - 26
    judge(cluster)


def a_link_is_up_with_the_third_pong() -> None:
    """Not earlier, and not later."""
    cluster = Cluster(2, config=Config.for_nodes(2, transport="knet", token=1.0))
    asked: list[float] = []

    def count(source: int, _target: int, datagram: bytes) -> bool:
        if source == 1 and datagram[1] == knet.PING:
            asked.append(cluster.now)
        return False

    cluster.planes[0].filters.append(count)
    cluster.start()
    links = links_of(cluster, 1)
    assert cluster.run_until(lambda: links.paths(2)[0].is_up, 5)
    assert len(asked) == 3


def pongs_that_nobody_asked_for_bring_nothing_up() -> None:
    """Whoever can send as the peer cannot make a link that does not work look good."""
    cluster = Cluster(2, config=Config.for_nodes(2, transport="knet", token=1.0))
    cluster.start(1)
    links = links_of(cluster, 1)
    for _ in range(40):
        now = cluster.now
        pong = knet.pong(2, knet.ping(1, Ping(0, knet.stamp(round(now * 1e9) - 1000), 0, timed=True)))
        links.receive(0, "127.0.0.2", (pong,), now)
        assert not links.paths(2)[0].is_up
        cluster.run_for(0.05)


def a_restarted_node_is_heard_at_once(*foreign: int) -> None:
    """It numbers its packets from 1 again, while its link has not been down for anybody."""
    cluster = cluster_over_knet(2, foreign=foreign)
    links = cluster[2].links
    assert links is not None
    links.send(1, [SMALL] * 3000, lambda: None)
    cluster.run_for(0.1)
    cluster[2].crash()
    cluster[2].start()
    assert cluster.run_until(cluster.one_ring, 8), cluster
    judge(cluster)


def keys_change_under_load(*foreign: int) -> None:
    """All accept the next key, then each uses it at some moment: the ring stays, and nothing is lost."""
    first, second = (bytes([fill]) * 200 for fill in (1, 2))
    cluster = cluster_over_knet(foreign=foreign, cipher="aes256", hash="sha256", key=first)
    ring_id = cluster.installed_ring
    new = Knet(cipher="aes128", hash="sha512", key=second)
    links = [node.links for node in cluster.running if node.links is not None]
    for one in links:
        one.machine.accept(new, seal_of(new, random.Random(3).randbytes))
    for one in links:
        send_some(cluster, 10, 5000)
        cluster.run_for(0.01)
        one.use_accepted()
    for _ in range(20):
        send_some(cluster, 10, 5000)
        cluster.run_for(0.2)
    assert cluster.installed_ring == ring_id
    assert {room_of(cluster, node_id) for node_id in (1, 2, 3)} == {1365}
    judge(cluster)


def numbers_go_round_without_zero() -> None:
    """65,535 is followed by 1, and whom nothing was sent to still hears what comes then."""
    cluster = cluster_over_knet(3)
    links = cluster[1].links
    assert links is not None
    told: list[Ping] = []
    numbers: list[int] = []

    def look(source: int, target: int, datagram: bytes) -> bool:
        if source == 1 and datagram[1] == knet.DATA:
            numbers.append(knet.read_fragment(datagram).seq)
        elif (source, target, datagram[1]) == (1, 3, knet.PING):
            told.append(knet.read_ping(datagram))
        return False

    cluster.planes[0].filters.append(look)
    for _ in range(9):
        links.send(2, [SMALL] * 8000, lambda: None)
    assert 0 not in numbers
    assert {65535, 1} <= set(numbers)
    forced = [said.seq for said in told if not said.timed]
    assert len(forced) == 8
    judge(cluster)


def arrivals_agree_with_libknet(worlds: int = 150) -> None:
    """Two receivers of the same packets, one of them libknet's model, deliver the same.

    But at the edge of the window behind 65,535: libknet does not count the number 0, which nobody has.
    """
    for seed in range(worlds):
        dice = random.Random(seed)
        ours, theirs = Arrivals(), _theirs()
        seq = dice.choice((0, 0, 4000, 65400, 32700))
        counts: dict[int, int] = {}
        since = 0  # numbers since the sender's start: before that it has sent nothing
        if not seq:
            _ping(ours, theirs, 0, timed=True)
        for step in range(1500):
            kind = dice.random()
            if kind < 0.004:
                seq = (seq + dice.choice((3000, 4090, 4100))) % NUMBERS
            elif kind < 0.006:
                _ping(ours, theirs, 0, timed=True)
                seq = since = 0
                counts.clear()
            elif kind < 0.01 and seq:
                _ping(ours, theirs, seq, timed=False)
                continue
            behind = dice.choice((0, 0, 0, 0, 0, 0, 1, 2, 7, 31, 32, 33, 34, 100, 4000, 4090))
            if behind >= since:
                behind = 0
            if not behind:
                since += 1
                seq = seq % (NUMBERS - 1) + 1
            number = (seq - behind - 1) % (NUMBERS - 1) + 1
            count = counts.setdefault(number, dice.choice((1, 1, 2, 3)))
            said = Fragment(number, 0, count, dice.randint(1, count) if count > 1 else 0, 0)
            _both(ours, theirs, said, f"seed {seed}, step {step}: {said}")
            if behind == 0 and dice.random() < 0.5:
                for part in range(1, count + 1):
                    _both(ours, theirs, said._replace(number=part if count > 1 else 0), f"seed {seed}, step {step}")


def _theirs() -> KnetModel:
    model = KnetModel(Config.for_nodes(2, transport="knet", token=1.0), 1, _Clear())
    model.hosts[2].reachable = True
    return model


class _Clear:
    def seal(self, packets):  # type: ignore[no-untyped-def]
        return packets

    def open(self, packets):  # type: ignore[no-untyped-def]
        return packets


def _ping(ours: Arrivals, theirs: KnetModel, seq: int, *, timed: bool) -> None:
    said = Ping(0, bytes(16), seq, timed)
    ours.note_ping(said)
    for number in (seq or 1, seq) if timed else (seq,):  # libknet looks for a change of what timed pings tell
        theirs.receive(0, "127.0.0.2", (knet.ping(2, said._replace(seq=number)),), 0.0)


def _both(ours: Arrivals, theirs: KnetModel, said: Fragment, where: str) -> None:
    data = bytes(20)
    mine = ours.add(said, data) is not None if said.fragments > 1 else ours.is_new(said.seq)
    their = bool(theirs.receive(0, "127.0.0.2", (knet.data_header(2, said, for_all=True) + data,), 0.0))
    assert mine == their, f"{where}: ours {'delivers' if mine else 'drops'} it"
