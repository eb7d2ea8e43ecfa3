"""The numbers are Corosync's: those of the wire document's section 4 were seen in the logs of real nodes."""

import dataclasses

import pytest

from totem.config import Config, Knet, LinkSettings, NodeEntry, default_mcastaddr, milliseconds
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


def knet(*links, **settings):
    return {"transport": "knet", "knet": Knet(links=links or (LinkSettings(),), **settings)}


def on_links(node_id, *links, address=""):
    """A node with addresses on these links, and on the first with this one."""
    places = [(link, f"10.0.{link}.{node_id}") for link in links]
    return NodeEntry(node_id, f"n{node_id}", address or places[0][1], 5405, further=tuple(p for p in places if p[0]))


ZERO, ONE = LinkSettings(), LinkSettings(1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"knet": Knet()}, ["knet", "left out", "the transport is udpu"]),
        ({"nodes": (on_links(1, 0, 1),)}, ["ring1_addr of node 1", "left out", "need knet"]),
        (knet(link_mode="ring"), ["link_mode", "passive, active, rr"]),
        (knet(cipher="aes", hash="md5", key=bytes(128)), ["crypto_cipher", "aes128, aes192, aes256"]),
        (knet(hash="sha2"), ["crypto_hash", "sha256"]),
        (knet(cipher="aes128", key=bytes(128)), ["crypto_hash", "none", "aes128"]),
        (knet(hash="md5", key=bytes(127)), ["key", "127 bytes is wrong", "128 to 4096", "totem keygen"]),
        (knet(hash="md5", key=bytes(4097), key_source="/k"), ["key", "4097 bytes (/k)"]),
        (knet(key=bytes(128)), ["key", "left out", "crypto_hash is none"]),
        (knet(mtu=575), ["knet_mtu", "576 to 65535"]),
        (knet(mtu_interval=0.5), ["knet_pmtud_interval", "0.5", "1 to 86400"]),
        (knet(compression="lz4"), ["knet_compression_model", "none, zlib, bzip2, lzma"]),
        (knet(compression="lzma", compression_level=7), ["knet_compression_level", "0 to 6"]),
        (knet(compression_threshold=-1), ["knet_compression_threshold", "-1"]),
        ({"nodes": (on_links(65536, 0, address="10.0.0.1"),), **knet()}, ["nodeid of node 65536", "1 to 65535"]),
        (knet(ZERO, ZERO), ["linknumber", "[0, 0]", "each once"]),
        (knet(*(LinkSettings(k) for k in range(9))), ["linknumber", "1 to 8 links"]),
        (knet(ZERO, LinkSettings(8)), ["linknumber of link 8", "0 to 7"]),
        (knet(ZERO, LinkSettings(-1)), ["linknumber of link -1", "0 to 7"]),
        (knet(LinkSettings(port=65536)), ["mcastport of link 0", "1 to 65535"]),
        (knet(LinkSettings(priority=256)), ["knet_link_priority of link 0", "0 to 255"]),
        (knet(LinkSettings(pong_count=-1)), ["knet_pong_count of link 0", "-1", "1 to 255"]),
        (knet(LinkSettings(precision=-1)), ["knet_ping_precision of link 0"]),
        (knet(LinkSettings(ping_timeout=0.0001)), ["knet_ping_timeout of link 0", "0 ms", "at least 1 ms"]),
        (knet(LinkSettings(ping_interval=-1)), ["knet_ping_interval of link 0", "-1000 ms"]),
        (knet(ZERO, ONE), ["ring1_addr of node 1", "missing", "each node"]),
        ({"nodes": (on_links(1, 0, 2),), **knet()}, ["ring2_addr of node 1", "no link 2"]),
        ({"nodes": (on_links(1, 1, address="10.0.0.9"),), **knet(ONE)}, ["address of node 1", "on link 1"]),
        (
            {"nodes": (on_links(1, 0, 1, address="10.0.1.1"),), **knet(ZERO, LinkSettings(1, 5405))},
            ["ring1_addr of node 1", "10.0.1.1 port 5405", "link 0 of n1"],
        ),
        (
            {"nodes": (on_links(1, 0, 1), on_links(2, 0)._replace(further=((1, "::1"),))), **knet(ZERO, ONE)},
            ["ring1_addr of node 2", "::1", "IPv4"],
        ),
    ],
)
def test_refused_of_knet(settings, words):
    with pytest.raises(ConfigError) as caught:
        Config(**{"nodes": (FIRST,), **settings})
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert words[0].split(" ")[0] == caught.value.setting


def test_zeros_ask_for_the_defaults_of_a_link():
    zeros = knet(LinkSettings(0, 0, 0, 0, 0, 0, 0), mtu_interval=0, compression_threshold=0)
    assert Config(nodes=(FIRST,), **zeros) == Config(nodes=(FIRST,), transport="knet")


def test_replace_keeps_what_was_computed_until_it_is_zero():
    first = Config(nodes=(FIRST,), transport="knet")
    shorter = dataclasses.replace(first, token=1.0)
    assert (shorter.consensus, shorter.knet.links[0].ping_timeout) == (3.6, 1.5)
    assert dataclasses.replace(first, token=1.0, consensus=0, knet=None).knet.links[0].ping_timeout == 0.5


def test_a_key_is_named_by_its_fingerprint_alone():
    config = Config(nodes=(FIRST,), **knet(hash="md5", key=bytes(range(256))))
    assert config.knet.fingerprint == "40aff2e9d2d8922e"
    assert "x01" not in repr(config)
    assert Config(nodes=(FIRST,), transport="knet").knet.fingerprint == ""


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config.for_nodes(1).token = 1.0
