"""What may change between two configurations of a node that runs."""

from dataclasses import fields, replace

import pytest

from totem import reconfiguration
from totem.config import Config, Daemon, Knet, LinkSettings, Logging, NodeEntry, Quorum, UserRule
from totem.errors import NotReloadable
from totem.reconfiguration import changes, with_members

THREE, FOUR = Config.for_nodes(3), Config.for_nodes(4)
KEY = bytes(range(200))


def over_knet(count, *links, **settings):
    return Config.for_nodes(count, transport="knet", knet=Knet(links=links or (LinkSettings(),), **settings))


@pytest.mark.parametrize(
    ("new", "texts"),
    [
        (THREE, ()),
        (
            FOUR,
            (
                "node 4 (node4, 127.0.0.4) is added",
                "totem.token: 4300 ms instead of 3650 ms",
                "totem.token_retransmit: 1023 ms instead of 869 ms",
                "totem.hold: 808 ms instead of 685 ms",
                "totem.consensus: 5160 ms instead of 4380 ms",
            ),
        ),
        (replace(THREE, join=0.1), ("totem.join: 100 ms instead of 50 ms",)),
        (
            replace(THREE, window_size=80),
            ("totem.window_size: 80 instead of 50", "totem.window_size or max_messages: set by hand"),
        ),
        (replace(THREE, block_unlisted_ips=False), ("totem.block_unlisted_ips: no instead of yes",)),
        (replace(THREE, quorum=Quorum(expected_votes=5)), ("quorum.expected_votes: 5 instead of 0",)),
        (replace(THREE, logging=Logging(debug="on")), ("section logging is another one",)),
        (replace(THREE, user_rules=(UserRule(uid=7),)), ("section uidgid is another one",)),
        (
            replace(THREE, nodes=(*THREE.nodes[:2], NodeEntry(3, "gamma", "127.0.0.33", 5405, votes=2))),
            (
                "node 3 is called gamma instead of node3",
                "quorum_votes of node 3: 2 instead of 1",
                "node 3 is at 127.0.0.33 instead of 127.0.0.3",
            ),
        ),
    ],
)
def test_what_changes(new, texts):
    assert changes(THREE, new, 1) == texts


def test_a_node_that_is_removed():
    assert changes(FOUR, THREE, 1)[0] == "node 4 (node4) is removed"


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"transport": "udp", "netmtu": 9000}, ["totem.transport", "totem.netmtu"]),
        ({"cluster_name": "other"}, ["totem.cluster_name"]),
        ({"netmtu": 9000}, ["totem.netmtu"]),
        ({"port": 5406}, ["totem.interface.mcastport"]),
        ({"compact_headers": False}, ["totem.compact_headers"]),
        ({"quorum": Quorum(provider="corosync_votequorum")}, ["quorum.provider"]),
        ({"state_dir": "/elsewhere"}, ["system.state_dir"]),
    ],
)
def test_what_takes_a_restart_is_named(settings, names):
    new = replace(THREE, **{"mcastaddr": "", **settings})
    with pytest.raises(NotReloadable) as refusal:
        changes(replace(THREE, mcastaddr=new.mcastaddr), new, 1)
    for name in names:
        assert name in str(refusal.value)
    assert refusal.value.setting == names[0]
    assert str(refusal.value).endswith("this takes a restart of the node")


def test_this_node_stays_where_it_is():
    with pytest.raises(NotReloadable, match="node 4, which is this one, would not be in the nodelist"):
        changes(FOUR, THREE, 4)
    moved = replace(THREE, nodes=(THREE.nodes[0]._replace(address="127.0.0.9"), *THREE.nodes[1:]))
    with pytest.raises(NotReloadable, match=r"ring0_addr of node 1, which is this one, is 127\.0\.0\.1 port 5405"):
        changes(THREE, moved, 1)
    assert changes(THREE, moved, 2) == ("node 1 is at 127.0.0.9 instead of 127.0.0.1",)


def test_links_of_knet():
    one = over_knet(3)
    two = over_knet(3, LinkSettings(0, priority=5), LinkSettings(1))
    assert changes(one, two, 1)[-2:] == ("link 0: knet_link_priority: 5 instead of 1", "link 1 is added")
    assert changes(two, one, 1)[-1] == "link 1 is removed"
    with pytest.raises(NotReloadable, match="ring0_addr of node 1"):
        changes(one, Config.for_nodes(3, transport="knet", port=5500), 1)
    with pytest.raises(NotReloadable, match="ring1_addr of node 1"):
        changes(two, over_knet(3, LinkSettings(0), LinkSettings(1, port=5500)), 1)


def test_keys():
    (change,) = changes(over_knet(3), over_knet(3, cipher="aes256", hash="sha256", key=KEY), 1)
    assert change.startswith("keys: cipher aes256, hash sha256, key ")


def test_members_keep_their_places_until_they_have_left():
    moved = replace(THREE, nodes=(*THREE.nodes[:2], THREE.nodes[2]._replace(address="127.0.0.33", votes=3)))
    kept = with_members(moved, FOUR, {1, 3, 4})
    assert [entry.node_id for entry in kept.nodes] == [1, 2, 3, 4]
    assert kept.node(3) == THREE.node(3)._replace(votes=3)
    assert kept.token == moved.token
    assert with_members(moved, FOUR, ()) is moved


def test_a_member_is_on_links_that_are_added():
    one = over_knet(3)
    two = over_knet(2, LinkSettings(0), LinkSettings(1))
    assert with_members(two, one, {1, 2}) == two


def test_what_is_set_by_hand_counts():
    by_hand = Config.for_nodes(3, token=THREE.token, timeouts_configured=frozenset({"token"}))
    assert changes(THREE, replace(THREE, window_size=80), 1)[-1] == "totem.window_size or max_messages: set by hand"
    assert changes(by_hand, THREE, 1) == ("totem.token: no longer set by hand",)


def test_every_setting_is_compared():
    """A field that `changes` does not know would be taken without a word, or never."""
    fixed = {path for path, _ in reconfiguration._FIXED}
    parts = {"nodes", "knet", "quorum", "logging", "daemon", "user_rules"}
    by_hand = {"token_configured", "timeouts_configured", "windows_configured"}
    known = parts | by_hand | fixed | {*reconfiguration._TIMES, *reconfiguration._NUMBERS}
    assert {field.name for field in fields(Config)} <= known
    known = fixed | {f"quorum.{name}" for name in reconfiguration._QUORUM}
    assert {f"quorum.{field.name}" for field in fields(Quorum)} <= known
    assert {f"daemon.{field.name}" for field in fields(Daemon)} <= fixed | {"daemon.reserved"}
    known = {"links", "cipher", "hash", "key", "key_source", *(name for name, _ in reconfiguration._KNET)}
    assert {field.name for field in fields(Knet)} <= known
    assert {*LinkSettings._fields} <= {"number", "port", *(name for name, _ in reconfiguration._LINK)}
    assert {*NodeEntry._fields} <= {"node_id", "name", "address", "port", "votes", "further"}
