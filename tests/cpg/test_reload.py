"""`Ring.reload`: another configuration for a program that is a node itself."""

import threading
from dataclasses import replace

import pytest
import trio

import cpg
from cpg.cli.demo import free_ports
from cpg.node.wire import Reload
from totem.config import Config, NodeEntry, Quorum
from totem.corosync_conf import ConfigFile
from totem.errors import ConfigError, NotReloadable

PROVIDER = "corosync_votequorum"


@pytest.fixture
def config(tmp_path):
    ports = free_ports(3)
    nodes = tuple(NodeEntry(node, f"node{node}", "127.0.0.1", port) for node, port in enumerate(ports, 1))
    return Config(nodes=nodes, token=1.0, quorum=Quorum(provider=PROVIDER), state_dir=str(tmp_path))


def without(config, node_id):
    return replace(config, nodes=tuple(entry for entry in config.nodes if entry.node_id != node_id))


async def test_votes_follow_the_nodelist_at_all_members(config):
    two = without(config, 3)
    with trio.fail_after(30):
        async with cpg.open_ring(two, 1) as a, cpg.open_ring(two, 2) as b:
            await a.wait_members(2)
            await b.wait_quorate()
            assert b.quorum.expected_votes == 2
            assert await a.reload(config) == ("node 3 (node3, 127.0.0.1) is added",)
            while b.quorum.expected_votes != 3:  # they learn it, as Corosync's nodes do
                await trio.sleep(0.01)
            await b.reload(config)
            async with cpg.open_ring(config, 3) as c:
                await c.wait_members(3)
                assert c.quorum.expected_votes == 3
            while b.node_ids != (1, 2):
                await trio.sleep(0.01)
            assert (b.quorum.expected_votes, b.quorum.quorum) == (3, 2)
            await a.reload(two)
            await b.reload(two)
            while (a.quorum.expected_votes, b.quorum.expected_votes) != (2, 2):
                await trio.sleep(0.01)
            heavy = replace(two, nodes=(two.nodes[0]._replace(votes=3), two.nodes[1]))
            await a.reload(heavy)
            while [node.votes for node in b.quorum.nodes[:2]] != [3, 1]:
                await trio.sleep(0.01)
            assert b.quorum.expected_votes == 4


async def test_what_takes_a_restart_changes_nothing(config):
    with trio.fail_after(30):
        async with cpg.open_ring(config, 1) as ring:
            with pytest.raises(NotReloadable, match=r"totem\.netmtu is 1500 and would be 9000: this takes a restart"):
                await ring.reload(replace(without(config, 3), netmtu=9000))
            assert ring.config is config
            with pytest.raises(NotReloadable, match="node 1, which is this one, would not be in the nodelist"):
                await ring.reload(without(config, 1))
            with pytest.raises(ConfigError, match="made its configuration without a file"):
                await ring.reload()


async def test_a_file_is_read_again(config, tmp_path):
    path = tmp_path / "ring.conf"
    text = f"totem {{\n version: 2\n transport: udpu\n}}\nsystem {{\n state_dir: {tmp_path}\n}}\n"
    node = "nodelist {{\n node {{\n  nodeid: {0}\n  ring0_addr: 127.0.0.{0}\n }}\n {1}\n}}\n"
    path.write_text(text + node.format(1, ""))
    with trio.fail_after(30):
        async with cpg.open_ring(path, 1) as ring:
            assert await ring.reload() == ()
            path.write_text(text + node.format(1, "node {\n  nodeid: 2\n  ring0_addr: localhost\n }"))
            with pytest.raises(ConfigError, match=r"127\.0\.0\.1 port 5405 is wrong"):
                await ring.reload()
            path.write_text(text + node.format(1, "node {\n  nodeid: 2\n  ring0_addr: 127.0.0.2\n }"))
            assert (await ring.reload())[0] == "node 2 (node2, 127.0.0.2) is added"
            assert [entry.node_id for entry in ring.config.nodes] == [1, 2]


async def test_a_name_that_is_new_is_looked_up_beside_the_ring(tmp_path):
    """All are asked to reload, in the order of messages: nobody waits for a name there."""
    threads = []

    def look_up(host, ip_version):
        threads.append((host, threading.current_thread() is threading.main_thread()))
        return "127.0.0.2" if host == "beta" else host

    path = tmp_path / "ring.conf"
    text = f"totem {{\n version: 2\n transport: udpu\n}}\nsystem {{\n state_dir: {tmp_path}\n}}\n"
    node = "node {{\n  nodeid: {}\n  ring0_addr: {}\n }}\n"
    path.write_text(text + f"nodelist {{\n {node.format(1, '127.0.0.1')}}}\n")
    with trio.fail_after(30):
        async with cpg.open_ring(path, 1) as ring, ring.join("chat") as group:
            ring._file = ConfigFile(path, resolve=look_up)
            path.write_text(text + f"nodelist {{\n {node.format(1, '127.0.0.1')} {node.format(2, 'beta')}}}\n")
            ring._announce([Reload().encode()])
            await group.send(b"behind it")
            await group.flush()
            while len(ring.config.nodes) < 2:
                await trio.sleep(0.01)
            assert ring.config.node(2).address == "127.0.0.2"
    assert ("beta", False) in threads
    assert ("beta", True) not in threads
