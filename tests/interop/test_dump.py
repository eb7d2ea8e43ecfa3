"""`totem dump --live` beside real Corosync nodes and ours: everything is explained."""

import pytest
import trio

from tests.cpg.processes import Program, members
from tests.interop.cast import ring_of
from tests.interop.ring import GLANCE

PATIENCE = 120
SIZES = (1, 10, 100, 1000, 10000, 100000)


def starts(events):
    """Whether something was seen."""
    return bool(events)


def messages(count):
    """Whether so many messages came."""
    return lambda events: sum(event["event"] == "message" for event in events) >= count


@pytest.mark.parametrize(
    "settings",
    [
        {"transport": "udpu"},
        {"transport": "udpu", "ipv6": True},
        {"transport": "udp"},
        {"transport": "knet"},
        {"transport": "knet", "links": 2, "link_mode": "active", "secrets": ("aes256", "sha256")},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
async def test_every_packet_is_explained(mixed_ring, settings):
    with trio.fail_after(PATIENCE):
        ring = mixed_ring(3, quorum=(), **settings)
        is_knet = settings["transport"] == "knet"
        conf = ["-c", str(ring.config[3])] if is_knet else []
        await ring.start_corosync(1, 2)
        async with trio.open_nursery() as nursery:
            # At the switch all is seen, at three interfaces each; at a node what it sends and receives.
            everything = await Program(
                ["totem", "dump", "--json", *conf, "--live"], ring.network.switch.command()
            ).start(nursery)
            of_one = await Program(["totem", "dump", "--json", *conf, "--live", "eth0"], ring.place(1).command()).start(
                nursery
            )
            for dump in (everything, of_one):
                await dump.until(starts)
            ours = await ring.start_member(nursery, 3, "chat")
            theirs = await ring.start_client(nursery, 1, "chat")
            for program in (ours, theirs):
                await program.until(ring_of(1, 2, 3))
                await program.until(members(2))
            for program in (ours, theirs):
                await program.say(f"send {' '.join(map(str, SIZES))}")
            for program in (ours, theirs):
                await program.until(messages(2 * len(SIZES)))
            await ring.wait_ring(1, 2, 3)
            for program in (ours, theirs):
                await program.finish()
            for dump in (everything, of_one):
                assert await dump.stop() == 0
        for dump in (everything, of_one):
            *lines, summary = dump.events
            assert not [line for line in lines if "faults" in line]
            assert not summary["summary"]["troubles"].get("packets dropped by the kernel, since this was too slow")
            said = [message for line in lines for message in line.get("messages", ())]
            for sender in (1, 3):
                sizes = [
                    message["fields"]["body"]["msglen"]
                    for message in said
                    if message["name"] == "cpg.mcast" and message["sender"] == sender
                ]
                assert sizes == list(SIZES)
            kinds = {"join", "token", "mcast", "commit_token"} | ({"ping", "pong"} if is_knet else set())
            assert kinds <= {line["type"] for line in lines}
            if is_knet:
                assert {line["knet"]["sealed"] for line in lines} == {"secrets" in settings}
        seen = everything.events[-1]["summary"]
        assert set(seen["sent"]["token"]) == {"1", "2", "3"}
        assert seen["troubles"]["sightings of a datagram at a further interface"]


async def test_what_an_administrator_changes_is_told(mixed_ring):
    with trio.fail_after(PATIENCE):
        ring = mixed_ring(2)
        await ring.start_corosync(1, 2)
        await ring.wait_ring(1, 2)
        async with trio.open_nursery() as nursery:
            dump = await Program(
                ["totem", "dump", "--json", "--type", "votequorum.reconfigure,cfg", "--live"], ring.place(2).command()
            ).start(nursery)

            def told(text):
                return lambda events: any(m["text"] == text for event in events for m in event["messages"])

            while not dump.events:  # it says nothing when it begins to listen
                ring.place(1).run("corosync-cfgtool", "-R")
                await trio.sleep(GLANCE)
            assert told("asked for at node 1")(dump.events)
            ring.place(1).run("corosync-quorumtool", "-e", "3")
            await dump.until(told("node 1 expected_votes 3"))
            ring.place(1).run("corosync-quorumtool", "-n", "2", "-v", "2")
            await dump.until(told("node 2 votes 2"))
            assert await dump.stop() == 0
        *lines, _ = dump.events
        assert not [line for line in lines if "faults" in line]
