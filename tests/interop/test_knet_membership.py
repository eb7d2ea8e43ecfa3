"""What `test_membership` and `test_flood` show, over knet: in clear, and sealed."""

import pytest

from tests.interop.test_flood import test_all_see_one_order  # noqa: F401
from tests.interop.test_membership import (  # noqa: F401
    test_a_cut_in_one_direction,
    test_a_network_that_loses_packets,
    test_a_node_is_killed_and_comes_back,
    test_a_node_stands_still_for_longer_than_the_token_timeout,
    test_a_partition_and_a_merge_with_messages_on_their_way,
    test_a_ring_comes_together,
    test_five_nodes_come_and_go_for_two_minutes,
    test_messages_of_all_sizes,
    test_one_of_ours_is_added_to_a_running_cluster,
    test_real_nodes_join_a_ring_of_ours_at_work,
)

pytestmark = pytest.mark.long


@pytest.fixture(params=[None, ("aes256", "sha256")], ids=["clear", "sealed"])
def mixed_ring(mixed_ring, request):
    """Rings as there, over knet."""

    def make(count, **settings):
        return mixed_ring(count, **(settings | {"transport": "knet", "secrets": request.param}))

    return make
