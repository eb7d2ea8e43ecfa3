"""What is asked of programs on real nodes, of libcpg on nodes of ours: the same tests."""

import pytest

from tests.cpg.libqb.ring import RingOfOurs
from tests.interop.test_libcpg import (  # noqa: F401 - tests, and what they ask for
    ring,
    test_a_client_that_is_killed_goes_down_as_a_process,
    test_a_daemon_that_is_killed_takes_its_clients_with_it,
    test_a_daemon_that_stops_stops_nobody_and_loses_nothing,
    test_a_program_ends_though_its_daemon_is_stopped,
    test_cpg_flood_and_cpgflood_see_one_order,
    test_listen_send_and_members,
    test_messages_of_16_mib_from_all_sides,
    test_quorum_is_told_as_quorumtool_tells_it,
    test_the_ring_changes_under_load,
)

pytestmark = pytest.mark.long  # all together; tests/libqb has less of each


@pytest.fixture
def mixed_ring(tmp_path):
    """Make rings of our nodes, which are taken away when the test ends."""
    rings = []

    def make(count, **settings):
        made = RingOfOurs(tmp_path / f"ring{len(rings)}", count, **settings)
        rings.append(made)
        return made

    yield make
    for made in rings:
        made.close()
