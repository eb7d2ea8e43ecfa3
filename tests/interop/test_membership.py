"""Rings of real Corosync nodes and ours: who is first, who comes, who goes; always one order."""

import pytest
import trio

from tests.app.processes import members
from tests.interop.records import differences

PATIENCE = 90


def ring_of(*nodes):
    """Whether the last ring that was told has these nodes."""

    def condition(events):
        rings = [event for event in events if event["event"] == "ring"]
        return bool(rings) and tuple(rings[-1]["members"]) == nodes

    return condition


def messages(count):
    """Whether so many messages came."""
    return lambda events: sum(event["event"] == "message" for event in events) >= count


@pytest.mark.parametrize("theirs", [(1, 2), (1, 3), (2, 3), (1,), (2,), (3,)], ids=str)
async def test_a_ring_comes_together(mixed_ring, theirs):
    """Ours first, then theirs, in every place."""
    with trio.fail_after(PATIENCE), mixed_ring(3, quorum=()) as ring:
        ours = [k for k in (1, 2, 3) if k not in theirs]
        programs = {}
        async with trio.open_nursery() as nursery:
            for k in ours:
                programs[k, "ours"] = await ring.start_member(nursery, k, "chat")
            await ring.start_corosync(*theirs)
            for k in theirs:
                programs[k, "client"] = await ring.start_client(nursery, k, "chat")
            for program in programs.values():
                await program.until(ring_of(1, 2, 3))
                await program.until(members(3))
            for program in programs.values():
                await program.say("send 1 10 100 1000 10000 100000")
            for program in programs.values():
                await program.until(messages(18))
            await ring.check_health(1, 2, 3)
            for program in programs.values():
                await program.finish()
        records = {name: program.events for name, program in programs.items()}
        assert not list(differences(records, theirs))
