"""Links of several nodes, joined by networks without sockets, in virtual time."""

import heapq
import random
from dataclasses import replace
from math import inf

from totem.config import Config, Knet, LinkSettings, NodeEntry
from totem.links.crypto import seal_of
from totem.links.machine import Links
from totem.links.path import PathChange
from totem.testing.corosync.knet import KnetModel

IP_UDP = 28


def config(count=2, links=1, **settings):
    """Nodes 1 to `count` with this number of links."""
    knet = Knet(links=tuple(LinkSettings(number) for number in range(links)), **settings)
    nodes = tuple(
        NodeEntry(k, f"node{k}", f"10.0.0.{k}", 5405, further=tuple((n, f"10.{n}.0.{k}") for n in range(1, links)))
        for k in range(1, count + 1)
    )
    return Config(nodes=nodes, cluster_name="test", transport="knet", token=1.0, knet=knet)


class Net:
    """The links of all nodes, and what is between them."""

    def __init__(self, config, *, delay=0.0005, seed=1, configs=None, models=()):
        """`configs`: by node id, where nodes are configured differently. `models`: the nodes that are real ones."""
        self.config = config
        self.now = 0.0
        self.delay = delay
        self.mtu = 1500
        """Of each machine."""
        self.dice = random.Random(seed)
        self.loss = 0.0
        self.cut = set()
        """(source, target, link) over which nothing passes."""
        self.carries = {}
        """The largest IP packet, by (source, target, link), where it is less than the machine's."""
        self.wire = []
        """All datagrams that were sent: (time, source, target, link, datagram)."""
        self.received = {node.node_id: [] for node in config.nodes}
        self.changes = []
        """(time, node, change)."""
        self.notices = []
        self.links = {}
        self._configs = configs or {}
        self._models = models
        self._heap = []
        self._order = 0

    def start(self, *node_ids):
        for node_id in node_ids or self.received:
            chosen = self._configs.get(node_id, self.config)
            maker = KnetModel if node_id in self._models else Links
            links = self.links[node_id] = maker(chosen, node_id, seal_of(chosen.knet, self.dice.randbytes))
            links.notice = lambda cause, text: self.notices.append(text)
            links.start(self.now)
            self.flush(node_id)
        return self

    def knet(self, **settings):
        """The settings of the net, with other keys."""
        return replace(self.config.knet, **{"cipher": "none", "hash": "none", "key": b"", **settings})

    def accept(self, node_id, **settings):
        """Have a node accept another key."""
        chosen = self.knet(**settings)
        self[node_id].accept(chosen, seal_of(chosen, self.dice.randbytes))

    def stop(self, node_id):
        del self.links[node_id]

    def __getitem__(self, node_id):
        return self.links[node_id]

    def send(self, source, target, *packets):
        self[source].send(target, packets, self.now)
        self.flush(source)

    def flush(self, node_id):
        links = self[node_id]
        while departures := links.take():
            for departure in departures:
                for datagram in departure.datagrams:
                    self._carry(node_id, departure, datagram)
        if node_id in self._models:
            return
        self.changes += [(round(self.now, 3), node_id, change) for change in links.take_changes()]

    def _carry(self, source, departure, datagram):
        way = source, departure.node_id, departure.link
        size = len(datagram) + IP_UDP
        if size > self.mtu:
            self[source].too_large(departure.link, departure.node_id, self.mtu, self.now)
            return
        self.wire.append((self.now, *way, datagram))
        if way in self.cut or size > self.carries.get(way, inf) or self.dice.random() < self.loss:
            return
        self._order += 1
        heapq.heappush(self._heap, (self.now + self.delay, self._order, way, datagram))

    def run(self, seconds):
        end = self.now + seconds
        while True:
            due = min([self._heap[0][0] if self._heap else inf, *(links.deadline for links in self.links.values())])
            if due > end:
                break
            self.now = max(due, self.now)
            while self._heap and self._heap[0][0] <= self.now:
                _, _, (source, target, link), datagram = heapq.heappop(self._heap)
                self.deliver(target, link, self.config.node(source).address_on(link), datagram)
            for node_id, links in list(self.links.items()):
                if links.deadline <= self.now:
                    links.advance(self.now)
                    self.flush(node_id)
        self.now = end

    def deliver(self, target, link, source, *datagrams):
        if target in self.links:
            self.received[target] += self[target].receive(link, source, datagrams, self.now)
            self.flush(target)

    def whats(self, node_id, link=None):
        """What has become of a node's links, in order."""
        return [
            (change.node_id, change.link, change.what)
            for _, node, change in self.changes
            if node == node_id and change.what is not PathChange.MTU and link in (None, change.link)
        ]


def packet(size, target=0, fill=b"x"):
    """A packet of totem, as far as links look at it."""
    return bytes(9) + target.to_bytes(4, "little") + fill * (size - 13)
