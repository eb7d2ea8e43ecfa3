"""Real sockets on loopback."""

import errno
import logging
import os
import select
import shutil
import socket
import subprocess
import sys
from math import inf

import pytest

from tests.totem.places import at_addresses, at_ipv6, at_one_address
from totem import addresses, sockets, udp
from totem.config import Config, NodeEntry
from totem.udp import ALL, UdpEndpoint

EVERYTHING = 10_000


class Opened(list):
    """Endpoints of all nodes of a configuration, counted from 1."""

    def __getitem__(self, node_id):
        return super().__getitem__(node_id - 1)


@pytest.fixture
def open_all():
    opened = Opened()

    def open_all(config, trains=True):
        opened.extend(UdpEndpoint(config, node.node_id, trains=trains) for node in config.nodes)
        return opened

    yield open_all
    for endpoint in opened:
        endpoint.close()


def udp_at_addresses(count, **settings):
    return at_addresses(count, transport="udp", **settings)


def udp_at_one_address(count, **settings):
    return at_one_address(count, transport="udp", **settings)


EVERYWHERE = pytest.mark.parametrize(
    "place", [at_one_address, at_addresses, at_ipv6, udp_at_addresses, udp_at_one_address]
)
TRAINS = pytest.mark.parametrize("trains", [True, False], ids=["trains", "plain"])

TRAIN = [bytes([k]) * 1000 for k in range(40)] + [b"end" * 100]
ODD = [b"a" * 900, b"b" * 100, b"c" * 1000, b"d", b"e" * 1000, b"f" * 1000, b"g" * 10, b"h" * 10]
HUGE = [b"i" * 60_000, b"j" * 1400, b"k" * 1400]


@EVERYWHERE
@TRAINS
def test_all_others_hear_a_multicast_and_one_hears_a_token(place, trains, open_all):
    nodes = open_all(place(3), trains)
    sent = [*TRAIN, *ODD, *HUGE, b"single"]
    for train in (TRAIN, ODD, HUGE, [b"single"]):
        nodes[1].send(ALL, train)
    nodes[1].send(3, [b"token"])
    assert nodes[1].drain(EVERYTHING) == []
    assert nodes[2].drain(EVERYTHING) == sent
    assert nodes[3].drain(EVERYTHING) == [*sent, b"token"]
    assert not nodes[1].drops


@pytest.mark.parametrize(("sends", "hears"), [(True, False), (False, True)])
def test_trains_and_plain_nodes_understand_each_other(sends, hears, open_all):
    config = at_one_address(2)
    speaker, listener = UdpEndpoint(config, 1, trains=sends), UdpEndpoint(config, 2, trains=hears)
    try:
        speaker.send(ALL, TRAIN)
        assert listener.drain(EVERYTHING) == TRAIN
    finally:
        speaker.close()
        listener.close()


def test_trains_are_used_where_the_kernel_has_them(open_all):
    nodes = open_all(at_one_address(2))
    if not (nodes[1].trains_out and nodes[2].trains_in):
        pytest.skip("this kernel has no UDP_SEGMENT or UDP_GRO")
    calls = []
    nodes[1]._socket = Spy(nodes[1]._socket, calls)
    nodes[1].send(ALL, TRAIN)
    assert calls == [("sendmsg", 41)]
    assert nodes[2].drain(1) == TRAIN  # one call, so all of it whatever the limit


class Spy:
    """A socket that records what it sends."""

    def __init__(self, sock, calls, error=None):
        self._socket, self._calls, self._error = sock, calls, error

    def __getattr__(self, name):
        return getattr(self._socket, name)

    def sendmsg(self, frames, *args):
        self._calls.append(("sendmsg", len(frames)))
        if self._error:
            raise OSError(self._error, "injected")
        return self._socket.sendmsg(frames, *args)

    def sendto(self, frame, place):
        self._calls.append(("sendto", len(frame)))
        return self._socket.sendto(frame, place)


@pytest.mark.parametrize("error", [errno.EINVAL, errno.EMSGSIZE])
def test_a_way_that_carries_less_for_a_while_gets_frames_one_by_one_for_as_long(error, open_all):
    """One ICMP says so of one way, and anybody can forge it."""
    nodes = open_all(at_one_address(3))
    spy = nodes[1]._socket = Spy(nodes[1]._socket, [], error)
    nodes[1].trains_out = True
    nodes[1].send(ALL, TRAIN)
    assert nodes[2].drain(EVERYTHING) == nodes[3].drain(EVERYTHING) == TRAIN
    assert not nodes[1].drops
    spy._calls.clear()
    spy._error = None
    nodes[1].send(ALL, TRAIN)
    assert {name for name, _ in spy._calls} == {"sendmsg"}


@pytest.mark.parametrize("error", [errno.EIO, errno.EOPNOTSUPP])
def test_a_kernel_that_cannot_cut_trains_gets_frames_from_then_on(error, open_all):
    nodes = open_all(at_one_address(3))
    calls = []
    nodes[1]._socket = Spy(nodes[1]._socket, calls, error)
    nodes[1].trains_out = True
    nodes[1].send(ALL, TRAIN)
    nodes[1].send(ALL, TRAIN)
    assert [name for name, _ in calls].count("sendmsg") == 2, "the first error may be of what was sent before"
    assert nodes[2].drain(EVERYTHING) == nodes[3].drain(EVERYTHING) == TRAIN + TRAIN
    assert not nodes[1].drops


@pytest.mark.parametrize(
    ("lengths", "runs"),
    [
        ([5], [[5]]),
        ([5, 5, 5], [[5, 5, 5]]),
        ([5, 5, 3], [[5, 5, 3]]),
        ([5, 3, 3], [[5, 3], [3]]),
        ([3, 5, 5], [[3], [5, 5]]),
        ([11, 11], [[11], [11]]),  # longer than a segment may be
        ([11, 3, 3], [[11], [3, 3]]),
        ([10, 11, 10], [[10], [11], [10]]),
        ([10] * 130, [[10] * 64, [10] * 64, [10] * 2]),
    ],
)
def test_runs(lengths, runs):
    train = [bytes(length) for length in lengths]
    assert [list(map(len, run)) for run in sockets.runs(train, 10)] == runs


def test_a_run_is_no_longer_than_a_datagram():
    assert [len(run) for run in sockets.runs([bytes(1427)] * 64, 1472)] == [45, 19]


def test_the_limit_leaves_the_rest_for_later(open_all):
    nodes = open_all(at_one_address(2), trains=False)
    nodes[1].send(ALL, TRAIN)
    assert nodes[2].drain(10) == TRAIN[:10]
    assert nodes[2].drain(EVERYTHING) == TRAIN[10:]


@TRAINS
def test_multicasts_come_before_the_token_that_follows_them(trains, open_all):
    nodes = open_all(udp_at_addresses(2), trains)
    nodes[1].send(2, [b"token"])
    nodes[1].send(ALL, [b"multicast"])
    assert nodes[2].drain(EVERYTHING) == [b"multicast", b"token"]


@EVERYWHERE
async def test_wait_readable(place, open_all):
    nodes = open_all(place(2))
    for target in (ALL, 2):
        nodes[1].send(target, [b"x"])
        await nodes[2].wait_readable()
        assert nodes[2].drain(EVERYTHING) == [b"x"]


def stranger(address):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, 0))
    return sock


@TRAINS
@pytest.mark.parametrize("blocks", [True, False])
def test_unlisted_addresses(blocks, trains, open_all):
    config = at_addresses(2, block_unlisted_ips=blocks)
    nodes = open_all(config, trains)
    to = config.nodes[0]
    notices = []
    nodes[1].notice = lambda cause, text: notices.append(text)
    with stranger("127.0.0.254") as sock:
        sock.sendto(b"from a stranger", (to.address, to.port))
    with stranger(config.nodes[1].address) as sock:  # a real node sends multicasts from further ports
        sock.sendto(b"from a friend", (to.address, to.port))
    assert nodes[1].drain(EVERYTHING) == ([] if blocks else [b"from a stranger"]) + [b"from a friend"]
    assert nodes[1].drops == ({"unlisted address": 1} if blocks else {})
    assert [text.split(",")[0] for text in notices] == ["datagrams come from 127.0.0.254"] * blocks


def test_strangers_cannot_hold_a_turn_for_ever(open_all):
    config = at_addresses(2)
    nodes = open_all(config, trains=False)
    with stranger("127.0.0.254") as sock:
        for _ in range(20):
            sock.sendto(b"x", (config.nodes[0].address, config.port))
    assert nodes[1].drain(5) == []
    assert nodes[1].drops == {"unlisted address": 5}


def test_a_node_that_is_down_and_one_that_does_not_exist():
    config = at_one_address(2)
    node = UdpEndpoint(config, 1)
    try:
        for _ in range(3):
            node.send(ALL, TRAIN)
            node.send(2, [b"token"])
            assert node.drain(EVERYTHING) == []
        assert not node.drops
        node.send(3, [b"token"])
        assert node.drops == {"unknown target": 1}
    finally:
        node.close()


def close(endpoint):
    """End the process, as far as others can tell."""
    for sock in endpoint._sockets:
        sock.close()


def refusals_of(endpoint):
    """Return whose machines have refused something, as the node is told in its next turn."""
    told = []
    endpoint.on_refusal = lambda node_id, now: told.append(node_id)
    if endpoint.deadline < inf:
        endpoint.advance(max(1.0, endpoint.deadline))
    return told


def nodes_with_one_that_ended(place, trains, open_all, transport="udpu"):
    nodes = open_all(place(3, transport=transport), trains)
    close(nodes[2])
    return nodes


@pytest.mark.parametrize("place", [at_one_address, at_addresses, at_ipv6])
@TRAINS
def test_what_a_machine_refuses_is_told_and_costs_nobody_else_a_datagram(place, trains, open_all):
    nodes = nodes_with_one_that_ended(place, trains, open_all)
    for _ in range(5):
        nodes[1].send(ALL, TRAIN)
        nodes[1].send(2, [b"token"])
        nodes[1].send(3, [b"token"])
    assert nodes[3].drain(EVERYTHING) == 5 * [*TRAIN, b"token"]
    assert refusals_of(nodes[1]) == [2]
    assert not nodes[1].drops
    assert nodes[1].deadline == inf, "it was told"


@pytest.mark.parametrize("place", [at_one_address, at_ipv6])
@pytest.mark.parametrize("transport", ["udpu", "udp"])
@TRAINS
def test_a_refusal_that_comes_before_what_others_send_hides_none_of_it(place, transport, trains, open_all):
    nodes = nodes_with_one_that_ended(place, trains, open_all, transport)
    nodes[1].send(2, [b"token"])
    nodes[3].send(1, [b"mine"])
    assert nodes[1].drain(EVERYTHING) == [b"mine"]
    assert refusals_of(nodes[1]) == [2]
    assert not nodes[1].drops


@TRAINS
def test_a_refusal_that_quotes_nothing_that_was_sent_is_no_refusal(trains, open_all):
    nodes = nodes_with_one_that_ended(at_one_address, trains, open_all)
    for forged in (b"token", b"", TRAIN[0][:10]):
        nodes[1]._socket.sendto(forged, nodes[1]._places[2])
        assert nodes[1].drain(EVERYTHING) == []
        assert refusals_of(nodes[1]) == []
    nodes[1].send(2, [b"token"])
    nodes[1].drain(EVERYTHING)
    assert refusals_of(nodes[1]) == [2]


def test_beats_to_many_nodes_make_nothing_else_forgotten(open_all):
    nodes = open_all(at_one_address(40))
    nodes[1].send(2, [b"token"])
    nodes[1].ping(range(1, 41), 1.0)
    nodes[1].advance(2.0)
    close(nodes[2])
    nodes[1]._socket.sendto(b"token", nodes[1]._places[2])
    nodes[1].drain(EVERYTHING)
    assert refusals_of(nodes[1]) == [2]


def test_a_refusal_of_what_was_sent_long_ago_is_no_refusal(open_all):
    nodes = open_all(at_one_address(3))
    nodes[1].send(3, [b"token"])
    for k in range(sockets.REMEMBERED):
        nodes[1].send(3, [b"%d" % k])
    close(nodes[2])
    nodes[1]._socket.sendto(b"token", nodes[1]._places[2])
    nodes[1].drain(EVERYTHING)
    assert refusals_of(nodes[1]) == []


@TRAINS
def test_what_was_refused_wakes_the_node_once(trains, open_all):
    nodes = nodes_with_one_that_ended(at_one_address, trains, open_all)
    poll = select.epoll()
    poll.register(nodes[1].fileno(), select.EPOLLIN)
    for train in ([b"token"], TRAIN, [bytes(70_000)]):
        nodes[1].send(2, train)
        nodes[1].drain(EVERYTHING)
        assert poll.poll(0) == []


@pytest.mark.parametrize("error", [errno.EAGAIN, errno.ENOBUFS, errno.ENETUNREACH, errno.EPERM])
def test_failures_of_sending_are_counted(error, open_all):
    class Failing(Spy):
        def sendto(self, frame, place):
            raise OSError(error, "injected")

    nodes = open_all(at_one_address(2))
    nodes[1]._socket = Failing(nodes[1]._socket, [], error)
    nodes[1].trains_out = True
    nodes[1].send(ALL, TRAIN)
    nodes[1].send(2, [b"token"])
    assert nodes[1].drops == {f"not sent: {errno.errorcode[error]}": len(TRAIN) + 1}
    assert nodes[1].trains_out


def test_failures_of_receiving_are_counted(open_all):
    class Failing(Spy):
        def recvfrom(self, size):
            raise OSError(errno.ECONNREFUSED, "injected")

    nodes = open_all(at_one_address(2), trains=False)
    nodes[1]._socket = Failing(nodes[1]._socket, [])
    assert nodes[1].drain(EVERYTHING) == []
    assert nodes[1].drops == {"not received: ECONNREFUSED": 1}


def test_a_full_receive_buffer_is_counted(open_all):
    nodes = open_all(at_one_address(2), trains=False)
    nodes[2]._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    nodes[1].send(ALL, TRAIN)
    heard = len(nodes[2].drain(EVERYTHING))
    assert heard < len(TRAIN)
    assert nodes[2].overflows() == len(TRAIN) - heard


def test_one_place_for_one_node(open_all):
    config = at_one_address(2)
    open_all(config)
    with pytest.raises(OSError, match=r"node 1 cannot listen at 127.0.0.1 port \d+: .*started twice") as caught:
        UdpEndpoint(config, 1)
    assert caught.value.errno == errno.EADDRINUSE


def test_an_address_of_another_machine():
    config = Config(nodes=(NodeEntry(1, "far", "192.0.2.1", 5405),))
    with pytest.raises(OSError, match="this machine has no such address"):
        UdpEndpoint(config, 1)


def test_a_group_that_cannot_be_joined(monkeypatch):
    def is_local(address):
        raise OSError(errno.ENODEV, "no such device")

    monkeypatch.setattr(udp, "is_local", is_local)
    with pytest.raises(OSError, match="no such device"):
        UdpEndpoint(udp_at_one_address(2), 1)


@pytest.mark.parametrize("trains", [True, False])
def test_a_kernel_without_trains(trains, monkeypatch, open_all):
    monkeypatch.setattr(udp, "UDP_SEGMENT", 9999)
    monkeypatch.setattr(udp, "UDP_GRO", 9999)
    nodes = open_all(at_one_address(2), trains)
    assert (nodes[1].trains_out, nodes[1].trains_in) == (False, False)
    nodes[1].send(ALL, TRAIN)
    assert nodes[2].drain(EVERYTHING) == TRAIN


def test_small_buffers_are_warned_of(monkeypatch, caplog):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        monkeypatch.setattr(sockets, "_FORCED", {socket.SO_RCVBUF: socket.SO_RCVBUF})  # as if without privileges
        sockets.enlarge(sock, socket.SO_RCVBUF, 1 << 30)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "net.core.rmem_max to 1073741824" in record.getMessage()


def test_large_buffers_are_not(caplog, open_all, monkeypatch):
    monkeypatch.setattr(udp, "BUFFER_BYTES", 65536)
    open_all(at_one_address(1))
    assert not caplog.records


def test_own_addresses():
    assert addresses.is_local("127.0.0.1")
    assert not addresses.is_local("192.0.2.1")
    assert addresses.resolve("127.0.0.1", "ipv6-4") == "127.0.0.1"
    with pytest.raises(OSError, match="ip_version ipv6"):
        addresses.resolve("127.0.0.1", "ipv6")
    with pytest.raises(OSError, match="not a host name"):
        addresses.resolve("x" * 64 + ".de", "ipv6")


def test_an_address_of_one_link_keeps_its_interface():
    at_ipv6(1)
    assert addresses.resolve("fe80::1%lo", "ipv6-4") == "fe80::1%lo"
    with pytest.raises(OSError, match="no interface nowhere"):
        addresses.resolve("fe80::1%nowhere", "ipv6-4")


LINK_LOCAL = r"""
import totem
from totem.config import NodeEntry
from totem.udp import ALL, UdpEndpoint

node = "node {{ \n nodeid: {0} \n ring0_addr: fe80::{0}%lo \n }} \n"
text = "totem {\n transport: udpu \n } \n nodelist { \n" + node.format(1) + node.format(2) + "} \n"
config, warnings = totem.corosync_conf.parse(text, "x")
one, two = UdpEndpoint(config, 1), UdpEndpoint(config, 2)
one.send(ALL, [b"multicast"])
one.send(2, [b"token"])
two.send(1, [b"back"])
print(two.drain(9), one.drain(9), dict(one.drops), dict(two.drops))
"""


def test_nodes_at_addresses_of_one_link():
    """In a network of its own, which has such addresses."""
    if os.geteuid() or not shutil.which("ip") or not shutil.which("unshare"):
        pytest.skip("a network of its own needs root, ip and unshare")
    add = " && ".join(f"ip address add fe80::{k}/64 dev lo nodad" for k in (1, 2))
    script = f"ip link set lo up && {add} && exec {sys.executable} -c '{LINK_LOCAL}'"
    done = subprocess.run(["unshare", "--net", "sh", "-c", script], capture_output=True, text=True, check=False)
    if done.returncode and "unshare" in done.stderr:
        pytest.skip(done.stderr)
    assert done.stdout == "[b'multicast', b'token'] [b'back'] {} {}\n", done.stderr


def test_the_interface_of_an_address():
    at_ipv6(1)
    assert addresses.interface_index("::1") == socket.if_nametoindex("lo")
    assert addresses.interface_index("fe80::1%lo") == socket.if_nametoindex("lo")
    with pytest.raises(OSError, match="no interface"):
        addresses.interface_index("2001:db8::1")


@pytest.mark.parametrize(
    ("version", "expected"), [("ipv4", "10.0.0.1"), ("ipv6", "fd00::1"), ("ipv4-6", "10.0.0.1"), ("ipv6-4", "fd00::1")]
)
def test_the_preferred_family(version, expected, monkeypatch):
    def getaddrinfo(host, port, type):
        return [
            (socket.AF_INET, type, 17, "", ("10.0.0.1", 0)),
            (socket.AF_INET, type, 17, "", ("10.0.0.2", 0)),
            (socket.AF_INET6, type, 17, "", ("fd00::1", 0, 0, 0)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert addresses.resolve("alpha", version) == expected
