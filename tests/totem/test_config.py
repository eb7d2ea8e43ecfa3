"""The numbers are Corosync's: those of the wire document's section 4 were seen in the logs of real nodes."""

import dataclasses

import pytest

from totem.config import Config, NodeEntry, default_mcastaddr, milliseconds
from totem.errors import ConfigError


def timeouts(config):
    return [milliseconds(t) for t in (config.token, config.token_retransmit, config.hold, config.consensus)]


@pytest.mark.parametrize(
    ("nodes", "settings", "expected"),
    [
        (1, {}, [3000, 714, 561, 3600]),
        (2, {}, [3000, 714, 561, 3600]),
        (3, {}, [3650, 869, 685, 4380]),
        (5, {}, [4950, 1178, 932, 5940]),
        (3, {"token": 1.65}, [1650, 392, 303, 1980]),
        (2, {"token": 1.0}, [1000, 238, 180, 1200]),
        (2, {"token": 1.0, "token_retransmits_before_loss_const": 10}, [1000, 98, 68, 1200]),
        (2, {"token_retransmit": 0.5}, [3000, 500, 390, 3600]),
        (2, {"hold": 0.1, "consensus": 5.0}, [3000, 714, 100, 5000]),
    ],
)
def test_computed_defaults(nodes, settings, expected):
    assert timeouts(Config.for_nodes(nodes, **settings)) == expected


def test_other_defaults():
    config = Config.for_nodes(3)
    assert [milliseconds(t) for t in (config.join, config.send_join, config.merge, config.downcheck)] == [
        50,
        0,
        200,
        1000,
    ]
    assert (config.window_size, config.max_messages, config.miss_count_const) == (50, 17, 5)
    assert (config.fail_recv_const, config.rest_after(pure=False), config.rest_after(pure=True)) == (2500, 30, 1)
    assert (config.transport, config.port, config.netmtu, config.block_unlisted_ips) == ("udpu", 5405, 1500, True)


def test_a_token_set_by_hand_is_told_from_a_computed_one():
    computed = Config.for_nodes(3)
    assert not computed.token_configured
    assert Config.for_nodes(3, token=3.65).token_configured
    assert not dataclasses.replace(computed, window_size=20).token_configured
    assert dataclasses.replace(computed, token=1.0).token_configured


def test_windows_set_by_hand_are_told_from_those_left_out():
    computed = Config.for_nodes(3)
    assert not computed.windows_configured
    assert not dataclasses.replace(computed, token=1.0).windows_configured
    assert dataclasses.replace(computed, window_size=20).windows_configured
    for settings in ({"window_size": 50}, {"max_messages": 17}, {"window_size": 50, "max_messages": 17}):
        assert Config.for_nodes(3, **settings).windows_configured


def test_nodes_of_a_test_configuration():
    config = Config.for_nodes(300, port=5500)
    assert config.node(1) == NodeEntry(1, "node1", "127.0.0.1", 5500)
    assert config.node(300).address == "127.0.1.44"
    with pytest.raises(KeyError):
        config.node(301)


def ipv6_nodes(*addresses):
    return tuple(NodeEntry(k, f"node{k}", address, 5405) for k, address in enumerate(addresses, start=1))


@pytest.mark.parametrize(("nodes", "headers"), [(Config.for_nodes(1).nodes, 28), (ipv6_nodes("fd00::1"), 48)])
def test_frame_sizes(nodes, headers):
    config = Config(nodes=nodes)
    assert config.max_frame == 1455
    assert config.max_datagram == 1500 - headers
    # An encapsulated frame has 45 bytes more and still fits into one packet.
    assert config.frame_size + 45 + headers == config.netmtu


@pytest.mark.parametrize(
    ("name", "family", "group"),
    [
        ("csring", 4, "239.192.26.33"),  # seen on the wire
        ("x", 4, "239.192.0.120"),
        ("x", 6, "ff15::78"),
        ("ü", 4, "239.192.255.66"),  # C's chars are signed: (0xc3 - 256) * 2 + (0xbc - 256) = 0xff42 mod 2**16
    ],
)
def test_multicast_group_of_a_cluster_name(name, family, group):
    assert default_mcastaddr(name, family) == group


def test_the_group_fits_the_addresses():
    assert Config.for_nodes(2, transport="udp", cluster_name="csring").mcastaddr == "239.192.26.33"
    assert Config(nodes=ipv6_nodes("fd00::1"), transport="udp", cluster_name="csring").mcastaddr == "ff15::1a07"


def entry(node_id=2, name="b", address="127.0.0.2", port=5405, votes=1):
    return NodeEntry(node_id, name, address, port, votes)


FIRST = NodeEntry(1, "a", "127.0.0.1", 5405)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"nodes": ()}, ["nodelist", "0 nodes", "1 to 384"]),
        ({"nodes": (FIRST, FIRST)}, ["nodeid", "1", "127.0.0.1"]),
        ({"nodes": (FIRST, entry(node_id=1))}, ["nodeid of node 1", "one node's", "a (127.0.0.1)"]),
        ({"nodes": (FIRST, entry(name="a"))}, ["name of node 2", "one node's"]),
        ({"nodes": (FIRST, entry(address="127.0.0.1"))}, ["ring0_addr", "127.0.0.1 port 5405", "ring0_port"]),
        ({"nodes": ipv6_nodes("::1", "0:0::1")}, ["ring0_addr", "::1 port 5405", "one node's"]),
        ({"nodes": (FIRST, entry(node_id=0))}, ["nodeid", "1 to 4294967295"]),
        ({"nodes": (FIRST, entry(node_id=2**32))}, ["nodeid", "4294967296", "1 to 4294967295"]),
        ({"nodes": (FIRST, entry(name=""))}, ["name", "not empty"]),
        ({"nodes": (FIRST, entry(port=0))}, ["ring0_port", "1 to 65535"]),
        ({"nodes": (FIRST, entry(votes=-1))}, ["quorum_votes", "-1"]),
        ({"nodes": (FIRST, entry(address="node2"))}, ["ring0_addr", "node2", "an IP address"]),
        ({"nodes": (FIRST, entry(address="0.0.0.0"))}, ["ring0_addr", "0.0.0.0", "one machine"]),
        ({"nodes": (FIRST, entry(address="224.0.0.1"))}, ["ring0_addr", "one machine"]),
        ({"nodes": (FIRST, entry(address="::1"))}, ["ring0_addr", "::1", "IPv4"]),
        ({"transport": "tcp"}, ["transport", "tcp", "udpu, udp, knet"]),
        ({"ip_version": "ipv5"}, ["ip_version", "ipv5", "ipv6-4"]),
        ({"port": 65536}, ["mcastport", "65536", "1 to 65535"]),
        ({"ttl": 2}, ["ttl", "2", "udp"]),
        ({"ttl": 256, "transport": "udp", "cluster_name": "x"}, ["ttl", "256", "0 to 255"]),
        ({"netmtu": 575}, ["netmtu", "575", "576 to 65507"]),
        ({"netmtu": 65508}, ["netmtu", "65508"]),
        ({"transport": "udp"}, ["mcastaddr", "cluster_name"]),
        ({"transport": "udp", "mcastaddr": "10.0.0.1"}, ["mcastaddr", "10.0.0.1", "multicast address"]),
        ({"transport": "udp", "mcastaddr": "group"}, ["mcastaddr", "group", "an IP address"]),
        ({"transport": "udp", "mcastaddr": "ff15::1"}, ["mcastaddr", "ff15::1", "IPv4"]),
        ({"token": 0.029}, ["token", "29 ms", "at least 30 ms"]),
        ({"token": 0.1}, ["token_retransmit", "23 ms", "at least 30 ms", "longer token"]),
        ({"token_retransmit": 0.03, "hold": 0.013}, ["hold", "13 ms", "at least 14 ms"]),
        ({"join": 0.02}, ["join", "20 ms", "at least 30 ms"]),
        ({"merge": 0.0}, ["merge", "0 ms"]),
        ({"downcheck": 0.001}, ["downcheck", "1 ms"]),
        ({"consensus": 0.2, "join": 0.3}, ["consensus", "200 ms", "at least 300 ms", "not below join"]),
        ({"send_join": -0.001}, ["send_join", "-1 ms"]),
        ({"token_retransmits_before_loss_const": 0}, ["token_retransmits_before_loss_const", "at least 1"]),
        ({"window_size": -1}, ["window_size", "-1"]),
        ({"window_size": 16384}, ["window_size", "16384"]),
        ({"max_messages": -1}, ["max_messages"]),
        ({"miss_count_const": 0}, ["miss_count_const"]),
        ({"fail_recv_const": -1}, ["fail_recv_const"]),
        ({"seqno_unchanged_const": 2**32}, ["seqno_unchanged_const"]),
        ({"send_queue_bytes": 1000}, ["send_queue_bytes", "1000"]),
    ],
)
def test_refused(settings, words):
    with pytest.raises(ConfigError) as caught:
        Config(**{"nodes": (FIRST,), **settings})
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert words[0].split(" ")[0] == caught.value.setting


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config.for_nodes(1).token = 1.0
