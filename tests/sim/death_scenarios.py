"""Processes that end, in virtual time: who is out how soon, and who is not. Each serves as a test and as a hunter."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection
from itertools import pairwise

from totem.config import Config
from totem.configuration import Guarantee
from totem.processor import Processor
from totem.testing.cluster import Cluster, SimulatedNode
from totem.testing.corosync import CorosyncModel
from totem.testing.network import Conditions
from totem.transitions import Cause, State

OUT_WITHIN = 0.35
"""Seconds from the end of a process to the ring without it, whatever the token does: 0.125 until the next ping, 0.14 of
trial, the rest is the new ring."""
TRANSPORTS = ("udpu", "udp", "knet")
PAUSE = 0.2
"""Seconds for which a process may stand still without being taken for dead."""


class Ends:
    """Who is put out because its process has ended, as the members report it, and whether that is so."""

    def __init__(self) -> None:
        self.reports: list[tuple[float, int, int]] = []
        """When, who reports, and whom."""
        self.wrong: list[str] = []

    def on_trace(self, node: SimulatedNode, name: str, *details: object) -> None:
        """Judge each report when it is made."""
        found = re.match(r"node (\d+): its process has ended", str(details[0])) if name == "notice" else None
        if found is None:
            return
        ended = int(found[1])
        now = node.cluster.now
        self.reports.append((now, node.node_id, ended))
        if node.cluster[ended].running:
            self.wrong.append(f"{now:.3f}: node {node.node_id} says that the process of node {ended} has ended")


def ring(
    count: int,
    transport: str = "udpu",
    *,
    seed: object = 0,
    foreign: Collection[int] = (),
    conditions: Conditions | None = None,
) -> tuple[Cluster, Ends]:
    """Return a ring that rests."""
    ends = Ends()
    cluster = Cluster(
        count,
        seed=seed,
        config=Config.for_nodes(count, transport=transport),
        conditions=conditions,
        makers=dict.fromkeys(foreign, CorosyncModel),
        on_trace=ends.on_trace,
    )
    cluster.start()
    cluster.form()
    cluster.run_for(1.0)
    return cluster, ends


def load(cluster: Cluster, until: float) -> None:
    """Have all send all the time."""

    def send(node: SimulatedNode) -> None:
        if cluster.now < until:
            if node.running and not node.paused:
                node.try_send([node.compose(200)], Guarantee.AGREED)
            cluster.network.at(cluster.now + 0.005, send, node)

    for node in cluster.nodes.values():
        send(node)


def seconds_until_out(cluster: Cluster, *dead: int, limit: float = 30.0) -> float:
    """End processes; return how long it took until the others were a ring."""
    for node_id in dead:
        cluster[node_id].crash()
    began = cluster.now
    assert cluster.run_until(cluster.one_ring, limit), str(cluster)
    return cluster.now - began


def a_process_that_ended_is_out_soon() -> None:
    """Idle and loaded, on each transport, in rings of any size, whoever it is."""
    for transport in TRANSPORTS:
        for count, dead, loaded in ((2, 1, False), (3, 3, False), (3, 1, True), (3, 2, False), (8, 5, True)):
            cluster, ends = ring(count, transport)
            if loaded:
                load(cluster, cluster.now + 1.0)
                cluster.run_for(0.3)
            seconds = seconds_until_out(cluster, dead)
            assert seconds < OUT_WITHIN, f"{transport}, {count} nodes, node {dead}: {seconds:.3f} s"
            assert ends.reports
            assert not ends.wrong


def several_that_ended_are_out_soon() -> None:
    """Also where only one is left, which nobody can confirm anything to."""
    for count, dead in ((3, (1, 2)), (5, (2, 3)), (8, (1, 4, 8))):
        cluster, ends = ring(count)
        assert seconds_until_out(cluster, *dead) < OUT_WITHIN
        assert {whom for _, _, whom in ends.reports} == set(dead)


def a_silent_machine_is_left_to_the_timeouts() -> None:
    """Where nothing refuses, nobody is accused."""
    cluster, ends = ring(3)
    cluster.network.silent.add(2)
    assert seconds_until_out(cluster, 2) > cluster.config.token / 10
    assert not ends.reports


def a_ring_with_a_real_node_goes_by_its_rules() -> None:
    """Members of another make are sent nothing of this, and nobody is out before the timeouts."""
    cluster, ends = ring(3, foreign=(3,))
    assert seconds_until_out(cluster, 2) > cluster.config.token / 2
    assert not ends.reports


def who_is_behind_a_firewall_that_rejects_stays() -> None:
    """Rejected in one direction between two members that do not pass the token to each other."""
    for transport in ("udpu", "knet"):
        for source, target in ((1, 3), (3, 1), (2, 4)):
            cluster, ends = ring(4, transport)
            cluster.network.reject({source}, {target})
            ring_id = cluster.installed_ring
            load(cluster, cluster.now + 5.0)
            cluster.run_for(20.0)
            assert not ends.reports
            assert cluster.installed_ring == ring_id, str(cluster)


def a_paused_process_stays_though_refusals_are_forged() -> None:
    """Refusals at one member, which even quote what it has sent, while the accused one stands still."""
    for count, seed in ((3, 0), (3, 1), (4, 2), (8, 3)):
        cluster, ends = ring(count, seed=seed)
        ring_id = cluster.installed_ring
        _forge(cluster, 1, 3, until=cluster.now + 3.0)
        for _ in range(6):
            cluster[3].pause()
            cluster.run_for(PAUSE)
            cluster[3].resume()
            cluster.run_for(0.3)
        assert not ends.reports
        assert cluster.installed_ring == ring_id


def _forge(cluster: Cluster, victim: int, accused: int, until: float, every: float = 0.001) -> None:
    def forge() -> None:
        cluster[victim].on_refusal(0, accused)
        if cluster.now < until:
            cluster.network.at(cluster.now + every, forge)

    forge()


def forged_refusals_cost_few_pings() -> None:
    """A thousand a second for a minute."""
    cluster, ends = ring(3)
    sent = [0]
    send_probe = cluster.network.send_probe

    def count(source: int, target: int, datagram: bytes) -> None:
        sent[0] += 1
        send_probe(source, target, datagram)

    cluster.network.send_probe = count  # type: ignore[method-assign]
    cluster.run_for(60.0)
    usual, sent[0] = sent[0], 0
    _forge(cluster, 1, 3, until=cluster.now + 60.0)
    cluster.run_for(60.0)
    assert sent[0] < 1.25 * usual
    assert not ends.reports


def who_is_restarted_at_once_left_and_joined() -> None:
    """A process that answers for the one before it, on the same port, is another one (G10)."""
    for transport in TRANSPORTS:
        for gap in (0.0, 0.05, 0.1, 0.2, 0.4):
            cluster, ends = ring(3, transport)
            cluster[2].crash()
            cluster.run_for(gap)
            cluster[2].start()
            cluster.form(limit=15.0)
            assert not ends.wrong
            seen = [set(event.members) for event in cluster.configurations(1) if hasattr(event, "transitional")]
            came = [now - before for before, now in pairwise(seen)]
            transitional = [event for event in cluster.configurations(1) if hasattr(event, "transitional")][-1]
            assert {2} in came or 2 not in transitional.transitional


class World:
    """Some minutes of a ring in which processes end, start again and pause, behind firewalls that reject and forgers.

    Promised: nobody is said to have ended whose process runs, and one that has ended is out in time where its machine
    refuses and the ring was whole.
    """

    def __init__(self, seed: int) -> None:
        self.dice = dice = random.Random(f"death {seed}")
        self.seed = seed
        loss = dice.choice((0.0, 0.0, 0.02, 0.05))
        count = dice.randint(2, 8)
        self.cluster, self.ends = ring(
            count,
            dice.choice(TRANSPORTS),
            seed=seed,
            conditions=Conditions(loss=loss, delay=dice.choice((0.0002, 0.005))),
        )
        self.is_lossy = loss > 0
        self.measured = 0

    def run(self, steps: int = 12) -> World:
        """Let things happen; judge each."""
        happenings: tuple[Callable[[], None], ...] = (
            self.kill,
            self.kill,
            self.kill,
            self.pause,
            self.forge,
            self.reject,
        )
        for _ in range(steps):
            self.dice.choice(happenings)()
            assert not self.ends.wrong, f"seed {self.seed}: {self.ends.wrong[0]}"
            self.cluster.network.heal()
            self.cluster.network.silent.clear()
            for node in self.cluster.nodes.values():
                node.resume()
                if not node.running:
                    node.start()
            self.cluster.form(limit=60.0)
            self.cluster.run_for(self.dice.uniform(7.0, 8.0))  # kernels may refuse again
        return self

    def kill(self) -> None:
        """End one process or more, idle or loaded; some machines say nothing."""
        cluster, dice = self.cluster, self.dice
        if dice.random() < 0.5:
            load(cluster, cluster.now + 0.5)
            cluster.run_for(dice.uniform(0.0, 0.4))
        whole = cluster.one_ring()
        count = len(cluster.nodes)
        dead = dice.sample(sorted(cluster.nodes), 1 if dice.random() < 0.7 else dice.randint(1, count - 1))
        is_silent = dice.random() < 0.2
        if is_silent:
            cluster.network.silent.update(dead)
        seconds = seconds_until_out(cluster, *dead)
        if whole and not is_silent and not self.is_lossy and len(dead) == 1:
            self.measured += 1
            rotations = 20 * cluster.network.conditions.delay
            assert seconds < OUT_WITHIN + rotations, f"seed {self.seed}: node {dead[0]} is out after {seconds:.3f} s"

    def pause(self) -> None:
        """Have a process stand still."""
        node = self.dice.choice(list(self.cluster.nodes.values()))
        node.pause()
        self.cluster.run_for(PAUSE)
        node.resume()
        self.cluster.run_for(0.5)

    def forge(self) -> None:
        """Forge refusals at one member while another stands still for a while."""
        victim, accused = self.dice.sample(sorted(self.cluster.nodes), 2)
        if len(self.cluster.nodes) == 2:
            return  # nobody else can be asked
        _forge(self.cluster, victim, accused, until=self.cluster.now + 1.0)
        self.cluster[accused].pause()
        self.cluster.run_for(PAUSE)
        self.cluster[accused].resume()
        self.cluster.run_for(1.0)

    def reject(self) -> None:
        """Have a firewall reject what one member sends to another one, which may be paused."""
        source, target = self.dice.sample(sorted(self.cluster.nodes), 2)
        if len(self.cluster.nodes) == 2:
            return
        self.cluster.network.reject({source}, {target})
        load(self.cluster, self.cluster.now + 1.0)
        self.cluster.run_for(1.0)
        if self.dice.random() < 0.5:
            self.cluster[target].pause()
            self.cluster.run_for(PAUSE)
            self.cluster[target].resume()
        self.cluster.run_for(2.0)


def random_deaths(count: int = 12) -> None:
    """Run the worlds of the first seeds."""
    measured = sum(World(seed).run().measured for seed in range(count))
    assert measured > count


def a_member_says_once_whose_process_ended() -> None:
    """One line at each survivor, and the cause of the new ring is counted."""
    cluster, ends = ring(3)
    seconds_until_out(cluster, 3)
    cluster.run_for(10.0)
    assert sorted((who, whom) for _, who, whom in ends.reports) == [(1, 3), (2, 3)]
    for node in cluster.running:
        machine = node.machine
        assert isinstance(machine, Processor)
        assert machine.counters.entered[f"{State.GATHER.value}: {Cause.PROCESS_ENDED.value}"] == 1
