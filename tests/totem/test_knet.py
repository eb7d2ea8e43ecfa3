"""Real sockets on loopback, over knet. Time is virtual: what is sent there arrives at once."""

import errno
import os
import random
import select
import shutil
import socket
import struct
import subprocess
import sys

import pytest

from tests.totem.places import knet_at_addresses
from totem.knet import KnetEndpoint
from totem.outbox import ALL
from totem.sockets import QUOTED, REMEMBERED

EVERYTHING = 10_000
KEY = random.Random(5).randbytes(256)
SECRETS = {
    "clear": {},
    "signed": {"hash": "sha256", "key": KEY},
    "sealed": {"cipher": "aes256", "hash": "sha256", "key": KEY},
}
STEP = 0.01
MOST_TURNS = 1000


class World:
    """The endpoints of all nodes, and their clock."""

    def __init__(self, config, *, trains=True):
        self.now = 100.0
        self.config = config
        self.received = {node.node_id: [] for node in config.nodes}
        self.turns = dict.fromkeys(self.received, 0)
        self.nodes = {k: KnetEndpoint(config, k, trains=trains, clock=lambda: self.now) for k in self.received}
        for node in self.nodes.values():
            node.start(self.now)

    def __getitem__(self, node_id):
        return self.nodes[node_id]

    def run(self, seconds):
        end = self.now + seconds
        while self.now < end:
            self.now += STEP
            for node in self.nodes.values():
                if node.deadline <= self.now:
                    node.advance(self.now)
            self.settle()

    def settle(self):
        """Have all nodes read until there is nothing left."""
        for _ in range(MOST_TURNS):
            ready = [k for k, node in self.nodes.items() if select.select([node], [], [], 0)[0]]
            if not ready:
                return
            for k in ready:
                self.turns[k] += 1
                self.received[k] += self[k].drain(EVERYTHING)
        pytest.fail("there is always something to read")

    def close(self, *node_ids):
        for node_id in node_ids or list(self.nodes):
            self.nodes.pop(node_id).close()

    def send(self, source, target, *packets):
        self[source].send(target, packets)
        self.settle()

    def path(self, source, target, link=0):
        return self[source].links.paths(target)[link]


@pytest.fixture
def world():
    """Make worlds, whose nodes can reach each other."""
    worlds = []

    def make(count=2, links=1, *, trains=True, **knet):
        made = World(knet_at_addresses(count, links, **knet), trains=trains)
        worlds.append(made)
        made.run(1.5)
        for k in made.nodes:
            assert all(
                made.path(k, other, link).is_usable for other in made.nodes if other != k for link in range(links)
            )
        return made

    yield make
    for made in worlds:
        made.close()


def packet(size, target=0, fill=b"x"):
    """A packet of totem, as far as links look at it."""
    return bytes(9) + target.to_bytes(4, "little") + fill * (size - 13)


TRAIN = [packet(1000, fill=bytes([k])) for k in range(40)] + [packet(300)]
SIZES = [13, 14, 1446, 1447, 3000, 65_000, 65_491, 65_536]


@pytest.mark.parametrize("trains", [True, False], ids=["trains", "plain"])
@pytest.mark.parametrize("secrets", SECRETS)
@pytest.mark.parametrize("mtu", [0, 1500], ids=["found", "1500"])
def test_packets_come_whole_and_in_order(world, secrets, mtu, trains):
    nodes = world(3, trains=trains, mtu=mtu, **SECRETS[secrets])
    sent = [packet(size) for size in SIZES]
    nodes.send(1, ALL, *TRAIN)
    nodes.send(1, ALL, *sent)
    nodes.send(1, 3, packet(20))
    assert nodes.received == {1: [], 2: TRAIN + sent, 3: [*TRAIN, *sent, packet(20, target=3)]}
    assert not any(node.drops for node in nodes.nodes.values())


@pytest.mark.parametrize("mode", ["passive", "active", "rr"])
def test_several_links(world, mode):
    nodes = world(2, 3, link_mode=mode, **SECRETS["sealed"])
    nodes.send(1, ALL, *TRAIN)
    nodes.send(2, 1, packet(3000))
    assert nodes.received[2] == TRAIN
    assert nodes.received[1] == [packet(3000, target=1)]


class Spy:
    """A socket that records what it sends, and fails where it is told to."""

    def __init__(self, sock, error=None):
        self._socket, self._error = sock, error
        self.calls = []

    def __getattr__(self, name):
        return getattr(self._socket, name)

    def sendmsg(self, frames, *args):
        self.calls.append(("sendmsg", len(frames)))
        if self._error:
            raise OSError(self._error, "injected")
        return self._socket.sendmsg(frames, *args)

    def sendto(self, frame, place):
        self.calls.append(("sendto", len(frame)))
        return self._socket.sendto(frame, place)


def spy(node, error=None):
    sock = node._sockets[0] = Spy(node._sockets[0], error)
    return sock


@pytest.mark.parametrize("secrets", SECRETS)
def test_trains_are_used_where_the_kernel_has_them(world, secrets):
    nodes = world(**SECRETS[secrets])
    if not (nodes[1].trains_out and nodes[2].trains_in):
        pytest.skip("this kernel has no UDP_SEGMENT or UDP_GRO")
    sock = spy(nodes[1])
    nodes[1].send(ALL, TRAIN)
    assert sock.calls == [("sendmsg", 41)]
    assert nodes[2].drain(1) == TRAIN  # one call, so all of it whatever the limit


def test_fragments_leave_in_trains(world):
    nodes = world(mtu=1500)
    if not nodes[1].trains_out:
        pytest.skip("this kernel has no UDP_SEGMENT")
    sock = spy(nodes[1])
    nodes.send(1, ALL, packet(65_491))
    assert sock.calls == [("sendmsg", 44), ("sendmsg", 2)]  # as many of 1460 bytes as a datagram has room for
    assert nodes.received[2] == [packet(65_491)]


@pytest.mark.parametrize(("error", "tries"), [(errno.EIO, 1), (errno.EOPNOTSUPP, 1), (errno.EINVAL, 2)])
def test_a_kernel_that_cannot_cut_trains_gets_packets_from_then_on(world, error, tries):
    nodes = world()
    nodes[1].trains_out = True
    sock = spy(nodes[1], error)
    nodes.send(1, ALL, *TRAIN)
    nodes.send(1, ALL, *TRAIN)
    assert [name for name, _ in sock.calls].count("sendmsg") == tries
    assert nodes.received[2] == TRAIN + TRAIN


# ---- what the kernel tells


@pytest.mark.parametrize("secrets", SECRETS)
def test_a_closed_port_takes_its_link_down_soon(world, secrets):
    nodes = world(3, **SECRETS[secrets])
    nodes.run(20)
    nodes.close(2)
    nodes.send(1, ALL, packet(50))
    assert nodes.path(1, 2).is_up  # for now: a refusal can be forged
    nodes.run(0.25)
    assert not nodes.path(1, 2).is_up
    assert nodes.path(1, 3).is_up
    nodes.send(1, ALL, packet(60))
    assert nodes.received[3] == [packet(50), packet(60)]


def test_pings_find_a_closed_port_too(world):
    nodes = world()
    nodes.run(20)
    nodes.close(2)
    nodes.run(0.5)
    assert not nodes.path(1, 2).is_up


def forge(nodes, source, target):
    """Have the kernel of node `source` told that the port of `target` is closed."""
    config = nodes.config
    here, there = config.node(source), config.node(target)
    quoted_udp = struct.pack(">HHHH", here.port, there.port, 8 + 100, 0)
    addresses = socket.inet_aton(here.address) + socket.inet_aton(there.address)
    quoted_ip = struct.pack(">BBHHHBBH", 0x45, 0, 128, 1, 0x4000, 64, socket.IPPROTO_UDP, 0) + addresses
    body = struct.pack(">BBHI", 3, 3, 0, 0) + quoted_ip + quoted_udp
    total = sum(struct.unpack(f">{len(body) // 2}H", body))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    body = body[:2] + struct.pack(">H", ~total & 0xFFFF) + body[4:]
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        sock.bind((there.address, 0))
        sock.sendto(body, (here.address, 0))


@pytest.mark.skipif(os.geteuid() != 0, reason="raw sockets need root")
def test_forged_refusals_take_nothing_down(world):
    """They quote nothing that was sent, so the link of a node that does not answer for a moment stays up, too."""
    nodes = world()
    nodes.run(20)
    receive = nodes[2].links.receive
    nodes[2].links.receive = lambda *came: []
    for _ in range(20):
        forge(nodes, 1, 2)
        nodes.run(0.02)
    nodes[2].links.receive = receive
    assert nodes.path(1, 2).is_up
    nodes.send(1, ALL, packet(50))
    assert nodes.received[2] == [packet(50)]


@pytest.mark.skipif(os.geteuid() != 0, reason="raw sockets need root")
def test_a_full_error_queue_is_no_busy_loop(world):
    """Each turn reads many, and when they are read nothing wakes the node."""
    nodes = world()
    nodes.run(20)
    for _ in range(1000):
        forge(nodes, 1, 2)
    before = nodes.turns[1]
    nodes.settle()
    assert nodes.turns[1] - before <= 1000 / 64 + 5
    poll = select.epoll()
    poll.register(nodes[1].fileno(), select.EPOLLIN)
    assert poll.poll(0) == []
    assert nodes.path(1, 2).is_up


def test_trains_and_pings_to_many_nodes_make_nothing_else_forgotten(world):
    nodes = world(12)
    nodes.run(5)
    refused = []
    nodes[1].on_refusal = lambda node_id, now: refused.append(node_id)
    nodes.send(1, 2, packet(1000))
    train = nodes[1]._sent._trains[-1]
    for k in range(REMEMBERED // 4):
        nodes.send(1, ALL, packet(50 + k), packet(60 + k))
    nodes.run(1)
    nodes[1]._sent.refuse((0, 2, True), train[0][:QUOTED])
    nodes[1].advance(nodes.now)
    assert refused == [2]


def test_what_is_refused_is_read_beside_what_comes(world):
    """A node that always has something to read hears of a closed port."""
    nodes = world(3)
    nodes.run(20)
    nodes.close(2)
    for _ in range(30):
        nodes[3].send(1, [packet(50)])
        nodes[1].send(ALL, [packet(50)])
        nodes.now += STEP
        if nodes[1].deadline <= nodes.now:
            nodes[1].advance(nodes.now)
        nodes[1].drain(1)
        nodes[3].drain(EVERYTHING)
    assert not nodes.path(1, 2).is_up


def test_a_machine_without_a_way_there(world):
    """The kernel's refusals to send are counted, and nothing is raised."""

    class Failing(Spy):
        def sendto(self, frame, place):
            raise OSError(errno.ENETUNREACH, "injected")

    nodes = world()
    nodes[1]._sockets[0] = Failing(nodes[1]._sockets[0], errno.ENETUNREACH)
    nodes[1].trains_out = True
    nodes.send(1, ALL, *TRAIN)
    assert nodes[1].drops == {"not sent: ENETUNREACH": len(TRAIN)}
    assert nodes[1].trains_out


SMALL = """
import random, subprocess
from tests.totem.test_knet import ALL, SECRETS, SIZES, TRAIN, World, packet
from tests.totem.places import knet_at_addresses

nodes = World(knet_at_addresses(2, **SECRETS["{secrets}"]), trains={trains})
nodes.run(1.5)
sent = [packet(size) for size in SIZES]
found = []
for mtu in (1400, 1300, 2000):
    if mtu < 2000:
        subprocess.run(["ip", "link", "set", "lo", "mtu", str(mtu)], check=True)
        nodes.send(1, ALL, *sent)  # too large for the way; what the kernel says tells how large they may be
        nodes.run(0.1)
    else:
        subprocess.run(["ip", "link", "set", "lo", "mtu", str(mtu)], check=True)
        nodes.run(31)
    nodes.received[2].clear()
    nodes.send(1, ALL, *TRAIN, *sent)
    try:  # the kernel's note of this is left in the error queue
        nodes[1]._sockets[0].sendto(bytes(5000), nodes[1]._places[0, 2])
    except OSError:
        nodes.settle()
    found.append((nodes.path(1, 2).mtu, nodes.received[2] == TRAIN + sent))
print(found)
"""


@pytest.mark.parametrize("trains", [True, False], ids=["trains", "plain"])
@pytest.mark.parametrize("secrets", ["clear", "sealed"])
def test_the_mtu_of_this_machine_changes(secrets, trains):
    """In a network of its own."""
    if os.geteuid() or not shutil.which("ip") or not shutil.which("unshare"):
        pytest.skip("a network of its own needs root, ip and unshare")
    program = SMALL.format(secrets=secrets, trains=trains)
    command = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$0" -c "$1"', sys.executable, program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and "unshare" in done.stderr:
        pytest.skip(done.stderr)
    assert done.stdout == "[(1400, True), (1300, True), (2000, True)]\n", done.stderr
