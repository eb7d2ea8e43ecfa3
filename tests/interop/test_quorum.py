"""Quorum in rings of real Corosync nodes and ours: everywhere the figures that `corosync-quorumtool` shows."""

import re

import pytest
import trio

from tests.interop.test_membership import QUICK, cast, long

OPTIONS = {
    "2Node": "two_node",
    "WaitForAll": "wait_for_all",
    "LastManStanding": "last_man_standing",
    "AutoTieBreaker": "auto_tie_breaker",
    "AllowDownscale": "allow_downscale",
}


def figures_of_theirs(ring, k):
    """What corosync-quorumtool shows at a real node, in the form of `cpg quorum --json`."""
    text = ring.place(k).run("corosync-quorumtool", "-s", check=False)

    def value(name):
        match = re.search(rf"^{name}: +(.*)$", text, re.MULTILINE)
        assert match, text
        return match[1].split()

    nodes = re.findall(r"^ +(\d+) +(\d+) ", text.partition("Membership information")[2], re.MULTILINE)
    return {
        "quorate": value("Quorate") == ["Yes"],
        "expected_votes": int(value("Expected votes")[0]),
        "highest_expected": int(value("Highest expected")[0]),
        "total_votes": int(value("Total votes")[0]),
        "quorum": int(value("Quorum")[0]),
        "options": sorted(OPTIONS[flag] for flag in value("Flags") if flag != "Quorate"),
        "members": {int(node): int(votes) for node, votes in nodes},
    }


def figures_of_ours(program):
    """The same of one of our nodes, from what it printed last."""
    told = [event for event in program.events if event["event"] == "figures"][-1]
    members = {node["node_id"]: node["votes"] for node in told["nodes"] if node["node_id"] in told["members"]}
    figures = {key: told[key] for key in ("quorate", "expected_votes", "highest_expected", "total_votes", "quorum")}
    return figures | {"options": sorted(told["options"]), "members": members}


async def agree(ring, programs, *nodes, **expected):
    """Wait until theirs and ours, of these nodes or all, show the same figures, and these."""
    differences = None
    with trio.move_on_after(15):
        while True:
            theirs = {k: figures_of_theirs(ring, k) for k in ring.corosyncs if k in (nodes or ring.corosyncs)}
            ours = {}
            for k, program in programs.programs.items():
                if k not in programs.real and k in (nodes or programs.programs):
                    before = len(program.events)
                    await program.say("figures")
                    await program.until(lambda events, n=before: any(e["event"] == "figures" for e in events[n:]))
                    ours[k] = figures_of_ours(program)
            figures = list((theirs | ours).values())
            differences = theirs | ours
            if all(one == figures[0] for one in figures) and expected.items() <= figures[0].items():
                return figures[0]
            await trio.sleep(0.2)
    raise AssertionError(f"not {expected} everywhere: {differences}")


@pytest.mark.parametrize("real", [(1, 2), long((3,))], ids=["2+1", "1+2"])
async def test_who_leaves_is_killed_or_comes_back(mixed_ring, real):
    ring = mixed_ring(3, **QUICK)
    ours = [k for k in (1, 2, 3) if k not in real]
    async with cast(ring, real) as programs:
        await programs.start(1, 2, 3)
        await agree(ring, programs, quorate=True, total_votes=3, quorum=2, expected_votes=3, members={1: 1, 2: 1, 3: 1})
        await programs.kill(ours[0])
        rest = {k: 1 for k in (1, 2, 3) if k != ours[0]}
        await agree(ring, programs, quorate=True, total_votes=2, members=rest)
        await programs.start(ours[0])
        await agree(ring, programs, quorate=True, total_votes=3)
        await programs.leave(real[0])
        await agree(ring, programs, quorate=True, total_votes=2) if len(real) > 1 else None
        await programs.leave(ours[0])
        last = ({1, 2, 3} - {real[0], ours[0]}).pop()
        await agree(ring, programs, quorate=False, total_votes=1, quorum=2, members={last: 1})
        await programs.start(real[0])
        await agree(ring, programs, quorate=True, total_votes=2)


async def test_an_administrator_changes_votes(mixed_ring):
    ring = mixed_ring(3, **QUICK)
    async with cast(ring, (1, 2)) as programs:
        await programs.start(1, 2, 3)
        await agree(ring, programs, quorate=True, total_votes=3)
        ring.place(1).run("corosync-quorumtool", "-e", "5")
        await agree(ring, programs, expected_votes=5, quorum=3, quorate=True)
        ring.place(2).run("corosync-quorumtool", "-v", "3", "-n", "3")
        await agree(ring, programs, total_votes=5, quorum=3, members={1: 1, 2: 1, 3: 3})
        await programs.kill(1)
        await agree(ring, programs, quorate=True, total_votes=4)
        await programs.kill(3)
        await agree(ring, programs, quorate=False, total_votes=1)
        await programs.start(1, 3)
        await programs.together(1, 2, 3)
        # Who did what first decides whether 5 or 3 votes are expected now, at real nodes too.
        assert all(figures_of_theirs(ring, k)["quorate"] for k in (1, 2))


@pytest.mark.parametrize("parts", [((1, 2), (3,)), long(((1,), (2, 3)))], ids=str)
async def test_a_partition_and_a_merge(mixed_ring, parts):
    ring = mixed_ring(3, nodelist=[[], ["quorum_votes: 2"], []], **QUICK)
    async with cast(ring, (1, 3)) as programs:
        await programs.start(1, 2, 3)
        await agree(ring, programs, quorate=True, total_votes=4, expected_votes=4, quorum=3)
        ring.network.split(*parts)
        for part in parts:
            await programs.together(*part)
        for k in (1, 3):
            assert figures_of_theirs(ring, k)["quorate"] is (2 in next(part for part in parts if k in part))
        told = [event for event in programs.programs[2].events if event["event"] == "quorum"][-1]
        assert told["quorate"]
        ring.network.heal()
        await programs.together(1, 2, 3)
        await agree(ring, programs, quorate=True, total_votes=4, expected_votes=4, quorum=3)


PROVIDER = "provider: corosync_votequorum"


async def test_two_nodes_wait_for_each_other_once(mixed_ring):
    ring = mixed_ring(2, quorum=(PROVIDER, "two_node: 1"), **QUICK)
    async with cast(ring, (1,)) as programs:
        await programs.start(2)
        program = programs.programs[2]
        await program.until(lambda events: any(event["event"] == "quorum" for event in events))
        assert not any(event["event"] == "quorum" and event["quorate"] for event in program.events)
        await programs.start(1)
        figures = await agree(ring, programs, quorate=True, quorum=1, total_votes=2)
        assert figures["options"] == ["two_node", "wait_for_all"]
        await programs.kill(1)
        await agree(ring, programs, quorate=True, total_votes=1)
        await programs.start(1)
        await agree(ring, programs, quorate=True, total_votes=2)
        await programs.kill(2)
        await agree(ring, programs, quorate=True, total_votes=1)


@pytest.mark.parametrize("breaker", ["lowest", long("highest"), long("2 3")])
async def test_a_tie_is_broken(mixed_ring, breaker):
    quorum = (PROVIDER, "auto_tie_breaker: 1", f"auto_tie_breaker_node: {breaker}")
    ring = mixed_ring(4, quorum=quorum, **QUICK)
    async with cast(ring, (1, 3)) as programs:
        await programs.start(1, 2, 3, 4)
        await agree(ring, programs, quorate=True, total_votes=4, quorum=3)
        ring.network.split((1, 2), (3, 4))
        await programs.together(1, 2)
        await programs.together(3, 4)
        low_half_wins = breaker != "highest"
        for k, wins in ((1, low_half_wins), (3, not low_half_wins)):
            assert figures_of_theirs(ring, k)["quorate"] is wins
        for k, wins in ((2, low_half_wins), (4, not low_half_wins)):
            told = [event for event in programs.programs[k].events if event["event"] == "quorum"][-1]
            assert told["quorate"] is wins
        ring.network.heal()
        await programs.together(1, 2, 3, 4)
        await agree(ring, programs, quorate=True, total_votes=4)


@pytest.mark.parametrize("real", [long((1, 4)), long((2, 3))], ids=str)
async def test_a_node_that_was_alone_breaks_ties_by_what_it_remembers(mixed_ring, real):
    ring = mixed_ring(4, quorum=(PROVIDER, "auto_tie_breaker: 1"), **QUICK)
    async with cast(ring, real) as programs:
        await programs.start(1, 2, 3, 4)
        await agree(ring, programs, quorate=True, total_votes=4, quorum=3)
        for parts in (((1,), (2, 3, 4)), ((1, 3), (2, 4))):
            ring.network.split(*parts)
            for part in parts:
                await programs.together(*part)
        await agree(ring, programs, 1, quorate=True, total_votes=2, members={1: 1, 3: 1})
        await agree(ring, programs, 3, quorate=False, total_votes=2, members={1: 1, 3: 1})
        await agree(ring, programs, 2, 4, quorate=True, total_votes=2)


@pytest.mark.long
async def test_the_last_man_stands(mixed_ring):
    quorum = (PROVIDER, "last_man_standing: 1", "last_man_standing_window: 1000", "wait_for_all: 1")
    ring = mixed_ring(4, quorum=quorum, **QUICK)
    async with cast(ring, (1, 3)) as programs:
        await programs.start(1, 2, 3, 4)
        await agree(ring, programs, quorate=True, total_votes=4, quorum=3)
        await programs.kill(4)
        await agree(ring, programs, quorate=True, expected_votes=3, quorum=2)
        await programs.kill(3)
        await agree(ring, programs, quorate=True, expected_votes=2, quorum=2)


async def test_who_leaves_in_order_says_so(mixed_ring):
    """With `allow_downscale` it may be counted out, though never below what was expected at the start."""
    ring = mixed_ring(4, quorum=(PROVIDER, "allow_downscale: 1", "expected_votes: 2"), **QUICK)
    async with cast(ring, (1, 3)) as programs:
        await programs.start(1, 2, 3, 4)
        await agree(ring, programs, quorate=True, total_votes=4)
        await programs.leave(4)
        await agree(ring, programs, quorate=True, total_votes=3, quorum=3)
        assert any("flags: quorate: Yes Leaving: Yes" in line for line in ring.log(1)), "ours says that it leaves"
        await programs.leave(3)
        await agree(ring, programs, quorate=False, total_votes=2)


HALVES = {
    "no option": ((), (1, 1, 1, 1), [(False, 4, 3), (False, 4, 3)], (True, 4, 3), [(False, 4, 3), (False, 4, 3)]),
    "votes": ((), (2, 1, 1, 1), [(True, 5, 3), (False, 5, 3)], (True, 5, 3), [(True, 5, 3), (False, 5, 3)]),
    "5 expected": (
        ("expected_votes: 5",),
        (1, 1, 1, 1),
        [(False, 5, 3), (False, 5, 3)],
        (True, 5, 3),
        [(False, 5, 3), (False, 5, 3)],
    ),
    "2 expected": (
        ("expected_votes: 2",),
        (1, 1, 1, 1),
        [(True, 2, 2), (True, 2, 2)],
        (True, 4, 3),
        [(False, 4, 3), (False, 4, 3)],
    ),
    "wait_for_all": (
        ("wait_for_all: 1",),
        (2, 1, 1, 1),
        [(False, 5, 3), (False, 5, 3)],
        (True, 5, 3),
        [(True, 5, 3), (False, 5, 3)],
    ),
    "auto_tie_breaker": (
        ("auto_tie_breaker: 1",),
        (1, 1, 1, 1),
        [(False, 4, 3), (False, 4, 3)],
        (True, 4, 3),
        [(True, 4, 3), (False, 4, 3)],
    ),
    "auto_tie_breaker_node: 3": (
        ("auto_tie_breaker: 1", "auto_tie_breaker_node: 3"),
        (1, 1, 1, 1),
        [(False, 4, 3), (True, 4, 3)],
        (True, 4, 3),
        [(False, 4, 3), (True, 4, 3)],
    ),
    "last_man_standing": (
        ("auto_tie_breaker: 1", "last_man_standing: 1", "last_man_standing_window: 1000"),
        (1, 1, 1, 1),
        [(False, 4, 3), (False, 4, 3)],
        (True, 4, 3),
        [(True, 2, 2), (False, 4, 3)],
    ),
}
"""The options, the votes, and (quorate, highest expected, quorum) by hand: in halves, as a whole, in halves again."""


@pytest.mark.parametrize("case", [long(name) for name in HALVES])
async def test_halves_that_start_apart_meet_and_part(mixed_ring, case):
    """Each half has a node of theirs and one of ours, which have seen the same and show the same."""
    options, votes, apart, whole, parted = HALVES[case]
    lines = [[f"quorum_votes: {its}"] for its in votes]
    ring = mixed_ring(4, quorum=(PROVIDER, *options), nodelist=lines, **QUICK)
    halves = ((1, 2), (3, 4))

    async def show(figures, *nodes):
        quorate, highest, quorum = figures
        await agree(ring, programs, *nodes, quorate=quorate, highest_expected=highest, quorum=quorum)

    async with cast(ring, (1, 3)) as programs:
        ring.network.split(*halves)
        await programs.start(1, 2, 3, 4)
        for half, figures in zip(halves, apart, strict=True):
            await programs.together(*half)
            await show(figures, *half)
        ring.network.heal()
        await programs.together(1, 2, 3, 4)
        await show(whole)
        ring.network.split(*halves)
        for half, figures in zip(halves, parted, strict=True):
            await programs.together(*half)
            await show(figures, *half)
        ring.network.heal()
        await programs.together(1, 2, 3, 4)
        await show(whole)


async def test_an_administrator_ends_the_wait_for_all(mixed_ring):
    ring = mixed_ring(3, quorum=(PROVIDER, "wait_for_all: 1"), **QUICK)
    async with cast(ring, (1,)) as programs:
        await programs.start(1, 2)
        await programs.together(1, 2)
        await agree(ring, programs, quorate=False, total_votes=2, quorum=2)
        ring.place(1).run("corosync-cmapctl", "-s", "quorum.cancel_wait_for_all", "u8", "1")
        await agree(ring, programs, quorate=True, total_votes=2, quorum=2)


@pytest.mark.long
async def test_the_highest_number_ever_expected_is_remembered(mixed_ring):
    ring = mixed_ring(3, quorum=(PROVIDER, "expected_votes_tracking: 1"), **QUICK)
    async with cast(ring, (1,)) as programs:
        await programs.start(1, 2, 3)
        await agree(ring, programs, quorate=True, expected_votes=3)
        ring.place(1).run("corosync-quorumtool", "-e", "5")
        await agree(ring, programs, quorate=True, expected_votes=5, quorum=3)
        ring.place(1).run("corosync-quorumtool", "-e", "3")
        await agree(ring, programs, expected_votes=5, quorum=3)
        for k in (1, 2, 3):
            await programs.kill(k)
        await programs.start(1, 2)
        await programs.together(1, 2)
        await agree(ring, programs, 2, quorate=False, expected_votes=5, highest_expected=5, quorum=3)
        # Corosync 3.1.7 closes its file before it writes to it, and forgets; it follows the one that remembers.
        assert any("Unable to update ev_tracking_barrier on disk data" in line for line in ring.log(1))
        await agree(ring, programs, 1, quorate=False, expected_votes=3, highest_expected=5, quorum=3)
