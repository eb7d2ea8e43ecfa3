"""Names of groups that end in NUL, as Pacemaker's do, in rings of real nodes and of ours."""

import pytest

from tests.cpg.libqb.ring import RingOfOurs
from tests.interop.test_libcpg import whole

NAMES = [b"cib\0", b"attrd\0", b"two\0\0", b"\0"]
TWINS = [b"twin", b"twin\0", b"twin\0\0"]
"""A real node takes them for one where nodes come or go, so it may not tell all of it; it must live."""


@pytest.fixture
def ring(tmp_path):
    """A real node and two of ours, whose clients are all on libcpg."""
    with RingOfOurs(tmp_path / "ring", 3, real=(1,), token=1000) as ring:
        yield ring


def members(name, count):
    """Whether the last change of the group left so many members."""

    def condition(events):
        told = [event for event in events if event["event"] == "confchg" and event["group"] == name.hex()]
        return bool(told) and len(told[-1]["members"]) == count

    return condition


async def test_names_that_end_in_nul_do_no_harm(ring, nursery):
    await whole(ring)
    names = [name.hex() for name in NAMES + TWINS]
    programs = [await ring.start_program(nursery, k, "tests.interop.names", *names) for k in (1, 2, 3)]
    for program in programs:
        for name in NAMES + TWINS:
            await program.until(members(name, 3))
    ring.network.split({1, 2}, {3})
    for program in programs[:2]:
        for name in NAMES:
            await program.until(members(name, 2))
    ring.network.heal()
    for program in programs:
        for name in NAMES:
            await program.until(members(name, 3))
    for k, program in enumerate(programs, 1):
        for name in NAMES + TWINS:
            own = {"group": name.hex(), "event": "message", "data": str(k)}
            await program.until(lambda events, own=own: own in events)
    await ring.check_health(1, 2, 3)
    assert ring.groups_at(1).keys() == ring.groups_at(2).keys()
