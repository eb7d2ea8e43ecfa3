"""Corosync's tools change a ring of ours while it runs: nodes, votes, log files, keys."""

import random
import re
import signal

import pytest
import trio

from tests.cpg.libqb.ring import RingOfOurs
from tests.interop.ring import GLANCE

PATIENCE = 60
RELOADED = "Reloading corosync.conf...\nDone\n"


def rewrite(ring, node, old, new):
    path = ring.config[node]
    path.write_text(path.read_text().replace(old, new))


def section(ring, node):
    """The lines of a node in the nodelist."""
    found = re.search(rf"node {{\s+nodeid: {node}\n.*?}}\n", ring.config[1].read_text(), re.DOTALL)
    return found[0]


def rings(ring, node):
    return int(ring.cmap(node, "stats.srp.operational_entered", "stats")["stats.srp.operational_entered"])


async def until(condition):
    with trio.fail_after(PATIENCE):
        while not condition():
            await trio.sleep(GLANCE)


def expected_votes(ring, node):
    shown = ring.place(node).run("corosync-quorumtool", "-s", check=False)
    return int(re.search(r"^Expected votes: +(\d+)$", shown, re.MULTILINE)[1])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"transport": "udp"},
        {"transport": "knet"},
        {"transport": "knet", "links": 2, "secrets": ("aes256", "sha256")},
    ],
    ids=["udpu", "udp", "knet", "knet-sealed"],
)
@pytest.mark.parametrize("by", ["cfgtool", "SIGHUP"])
async def test_a_node_is_added_and_removed(has_libraries, tmp_path, settings, by):
    """Without a change of ring but when it comes and when it goes."""
    with RingOfOurs(tmp_path, 3, **settings) as ring:
        whole, third = {node: ring.config[node].read_text() for node in (1, 2, 3)}, section(ring, 3)

        async def write_and_reload(*nodes, added):
            for node in nodes:
                ring.config[node].write_text(whole[node] if added else whole[node].replace(third, ""))
                if by == "SIGHUP":
                    ring.corosyncs[node].send_signal(signal.SIGHUP)
                    await until(lambda node=node: ("node3" in ring.cmap(node, "nodelist.").values()) is added)
            if by == "cfgtool":
                assert ring.place(nodes[0]).run("corosync-cfgtool", "-R") == RELOADED
                for node in nodes:
                    await until(lambda node=node: ("node3" in ring.cmap(node, "nodelist.").values()) is added)

        for node in (1, 2):
            rewrite(ring, node, third, "")
        await ring.start_corosync(1, 2)
        await ring.wait_ring(1, 2)
        before = rings(ring, 1)
        assert expected_votes(ring, 1) == 2
        await write_and_reload(2, 1, added=True)
        await until(lambda: expected_votes(ring, 1) == expected_votes(ring, 2) == 3)
        await ring.start_corosync(3)
        await ring.wait_ring(1, 2, 3)
        assert rings(ring, 1) == before + 1
        await ring.stop_corosync(3)
        await ring.wait_ring(1, 2)
        await write_and_reload(1, 2, added=False)
        await until(lambda: expected_votes(ring, 1) == expected_votes(ring, 2) == 2)
        assert "Quorate:          Yes" in ring.place(2).run("corosync-quorumtool", "-s")
        assert rings(ring, 1) == before + 2


async def test_a_link_is_added_and_removed(has_libraries, tmp_path):
    with RingOfOurs(tmp_path, 2, transport="knet", links=2) as ring:
        whole = {node: ring.config[node].read_text() for node in (1, 2)}
        for node in (1, 2):
            ring.config[node].write_text(re.sub(r" +ring1_addr.*\n| +link_mode.*\n", "", whole[node]))
        await ring.start_corosync(1, 2)
        await ring.wait_ring(1, 2)
        before = rings(ring, 1)
        for links in (2, 1):
            for node in (1, 2):
                text = whole[node] if links == 2 else re.sub(r" +ring1_addr.*\n| +link_mode.*\n", "", whole[node])
                ring.config[node].write_text(text)
            assert ring.place(1).run("corosync-cfgtool", "-R") == RELOADED
            for node in (1, 2):

                def connected(node=node, links=links):
                    shown = ring.place(node).run("corosync-cfgtool", "-s")
                    return shown.count("LINK ID") == links == shown.count("\tconnected")

                await until(connected)
        assert rings(ring, 1) == before


async def test_a_key_is_changed(has_libraries, tmp_path):
    with RingOfOurs(tmp_path, 3, transport="knet", secrets=("aes256", "sha256")) as ring:
        await ring.start_corosync(1, 2, 3)
        await ring.wait_ring(1, 2, 3)
        before = rings(ring, 1)
        former = "aes256"
        for number, cipher in enumerate(("aes128", "aes192")):
            key = random.Random(number).randbytes(256)
            for node in (1, 2, 3):
                path = ring.config[node].parent / "authkey"
                path.unlink()
                path.touch(0o400)
                path.write_bytes(key)
                rewrite(ring, node, f"crypto_cipher: {former}", f"crypto_cipher: {cipher}")
            assert ring.place(2).run("corosync-cfgtool", "-R") == RELOADED
            for node in (1, 2, 3):
                await until(lambda node=node, cipher=cipher: cipher in ring.cmap(node, "totem.crypto_cipher").values())
            await trio.sleep(3)  # the former key is accepted no longer
            former = cipher
        assert rings(ring, 1) == before
        assert all("\tconnected" in ring.place(node).run("corosync-cfgtool", "-s") for node in (1, 2, 3))


async def test_votes(two_nodes):
    one, two = two_nodes.place(1), two_nodes.place(2)
    assert one.run("corosync-quorumtool", "-e", "3") == ""
    await until(lambda: expected_votes(two_nodes, 2) == 3)
    refused = one.run("corosync-quorumtool", "-e", "1", check=False)
    assert "Unable to set expected votes: CS_ERR_INVALID_PARAM" in refused
    assert two.run("corosync-quorumtool", "-v", "2", "-n", "1") == ""
    await until(lambda: "Total votes:      3" in one.run("corosync-quorumtool", "-s"))
    refused = one.run("corosync-quorumtool", "-v", "2", "-n", "7", check=False)
    assert "Unable to set votes 2 for nodeid: 7: CS_ERR_NAME_NOT_FOUND" in refused
    two.run("corosync-quorumtool", "-v", "1", "-n", "1")
    await until(lambda: "Total votes:      2" in one.run("corosync-quorumtool", "-s"))
    one.run("corosync-quorumtool", "-e", "2")
    await until(lambda: expected_votes(two_nodes, 2) == 2)


async def test_the_wait_for_all_is_ended(has_libraries, tmp_path):
    quorum = ("provider: corosync_votequorum", "wait_for_all: 1")
    with RingOfOurs(tmp_path, 3, quorum=quorum) as ring:
        await ring.start_corosync(1, 2)
        await ring.wait_ring(1, 2)
        assert "Quorate:          No" in ring.place(1).run("corosync-quorumtool", "-s", check=False)
        ring.place(2).run("corosync-cmapctl", "-s", "quorum.cancel_wait_for_all", "u8", "1")
        await until(lambda: "Quorate:          Yes" in ring.place(1).run("corosync-quorumtool", "-s", check=False))


async def test_what_takes_a_restart_is_refused(has_libraries, tmp_path):
    with RingOfOurs(tmp_path, 1) as ring:
        await ring.start_corosync(1)
        rewrite(ring, 1, "cluster_name: interop", "cluster_name: other")
        refused = ring.place(1).run("corosync-cfgtool", "-R", check=False)
        assert "Could not reload configuration. Error CS_ERR_INVALID_PARAM" in refused
        lines = [line for line in ring.log(1) if "totem.cluster_name is interop and would be other" in line]
        assert lines
        rewrite(ring, 1, "cluster_name: other", "cluster_name: interop")
        ring.complaints = lambda k: []  # it has complained of that


async def test_log_files_are_opened_again(has_libraries, tmp_path):
    with RingOfOurs(tmp_path, 1) as ring:
        log, moved = tmp_path / "cpgd.log", tmp_path / "cpgd.log.1"
        rewrite(ring, 1, "to_syslog: no", f"to_syslog: no\n    to_logfile: yes\n    logfile: {log}")
        await ring.start_corosync(1)
        log.rename(moved)
        assert ring.place(1).run("corosync-cfgtool", "-L") == ""
        ring.corosyncs[1].send_signal(signal.SIGHUP)
        await until(log.exists)
        assert "reloaded: nothing has changed" not in moved.read_text()


@pytest.mark.parametrize("transport", ["udpu", "knet"])
@pytest.mark.parametrize("asked", [1, 2])
async def test_nodes_come_and_go_beside_a_real_node(has_libraries, tmp_path, transport, asked):
    """Node 2 is a Corosync: a reload that is asked for at either is one of both."""
    with RingOfOurs(tmp_path, 3, real=(2,), transport=transport) as ring:
        whole, third = {node: ring.config[node].read_text() for node in (1, 2)}, section(ring, 3)
        for node in (1, 2):
            rewrite(ring, node, third, "")
        await ring.start_corosync(1, 2)
        await ring.wait_ring(1, 2)
        before = rings(ring, 1)
        for added in (True, False):
            for node in (1, 2):
                ring.config[node].write_text(whole[node] if added else whole[node].replace(third, ""))
            assert "ERROR" not in ring.place(asked).run("corosync-cfgtool", "-R")
            for node in (1, 2):
                await until(lambda node=node, added=added: ("node3" in ring.cmap(node, "nodelist.").values()) is added)
                await until(lambda node=node, added=added: expected_votes(ring, node) == 2 + added)
            if added:
                await ring.start_corosync(3)
                await ring.wait_ring(1, 2, 3)
                await ring.stop_corosync(3)
                await ring.wait_ring(1, 2)
        assert rings(ring, 1) == before + 2
