"""Messages of ours that a change of ring cuts, on the wire: behind a reset frame real nodes stay in step with us."""

from contextlib import asynccontextmanager

import pytest
import trio

from tests.cpg.processes import Program
from tests.interop.cast import Cast, ring_of
from tests.interop.test_membership import QUICK, long
from tests.interop.test_trials import OF_FLUSH, given, rewrite, statistics

OURS = 2


@asynccontextmanager
async def seen_at(ring, k, nursery):
    """A live `totem dump` at a real node, of all multicasts that come from ours."""
    command = ["totem", "dump", "--json", "--type", "mcast", "--node", OURS, "--live", "eth0"]
    dump = await Program(command, ring.place(k).command()).start(nursery)
    yield dump
    assert await dump.stop() == 0
    assert not [line for line in dump.events if "faults" in line]


def is_reset(line):
    """Whether this datagram is a reset frame that is sent for the first time."""
    return "reset frame" in line.get("notes", ()) and "copy" not in line


def is_cut(line):
    """Whether the last message in this datagram goes on in the next one."""
    return line["type"] == "mcast" and isinstance(frame := line["packet"]["data"], dict) and frame.get("fragmented", 0)


def resets(lines):
    """For each reset frame the name of the first message behind it."""
    names = []
    for number, line in enumerate(lines):
        if is_reset(line):
            names += next(([m["name"]] for later in lines[number:] for m in later.get("messages", ())), [])
    return names


@pytest.mark.parametrize("cuts", [long(10)])
async def test_messages_of_programs(mixed_ring, cuts):
    """Ours sends long messages while the third node goes and comes, until so many were cut; nobody lacks one."""
    ring = mixed_ring(3, **QUICK)
    with trio.fail_after(60 + 20 * cuts):
        async with trio.open_nursery() as nursery, seen_at(ring, 1, nursery) as dump:
            programs = Cast(ring, nursery, (1, 3))
            await programs.start(1, 2, 3)
            await programs.together(1, 2, 3)
            await programs.say("chatter 20 500 2000", 1, 3)
            await programs.say("chatter 20 300000 1000000", OURS)
            while resets(dump.events).count("cpg.mcast") < cuts:
                for parts in (((1, 2), (3,)), ((1, 2, 3),)):
                    ring.network.split(*parts)
                    for part in parts:
                        for k in part:
                            await programs.programs[k].until(ring_of(*part))
            await programs.quiet()
            await programs.together(1, 2, 3)
            events = {k: programs.programs[k].events for k in (1, 2)}
            assert given(events[1], OURS) == given(events[2], OURS)
            assert given(events[1], OURS) == [event["data"] for event in events[2] if event["event"] == "sent"]
            await ring.check_health(1, 2, 3, besides=OF_FLUSH)
            await programs.finish()


@pytest.mark.parametrize("cuts", [long(5)])
async def test_messages_of_sync(mixed_ring, cuts):
    """Ours may send one frame at a visit of the token, what it says in sync takes two, and the ring breaks between.

    Behind the reset frame comes what begins the next sync, which is completed only if all have heard it.
    """
    ring = mixed_ring(3, **QUICK)
    rewrite(ring, OURS, "version: 2", "version: 2\n    max_messages: 1")
    with trio.fail_after(60 + 40 * cuts):
        async with trio.open_nursery() as nursery, seen_at(ring, 1, nursery) as dump:
            programs = Cast(ring, nursery, (1, 3))
            await programs.start(1, 2, 3)
            await programs.together(1, 2, 3)
            while resets(dump.events).count("sync.service_build") < cuts:
                mark = len(dump.events)
                for k in (1, 2, 3):
                    ring.network.drop(k, kind="token", percent=25)
                ring.network.split((1, 2), (3,))
                await dump.until(lambda lines, mark=mark: any(map(is_cut, lines[mark:])))
                before = tokens_lost(ring)
                ring.network.drop(OURS, kind="token")
                while tokens_lost(ring) == before:
                    await trio.sleep(0.1)
                ring.network.heal()
                await programs.together(1, 2, 3)
            await ring.check_health(1, 2, 3, besides=OF_FLUSH)
            await programs.finish()


def tokens_lost(ring):
    """How often the real node 1 has waited for the token in vain."""
    counters = statistics(ring, 1)
    return counters["operational_token_lost"] + counters["recovery_token_lost"]
