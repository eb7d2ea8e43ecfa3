"""How much of a view is final: rulings E3 and E4, without a group."""

import pytest

from cpg.events import Member
from cpg.replication.finality import Finality
from cpg.replication.wire import Lineage

ME, YOU, THEY = (Member(node_id, 1) for node_id in (1, 2, 3))
BEGINNING = Lineage(1, 4, 1, 0)


def finality(*, is_safe):
    return Finality(BEGINNING, ME, is_safe=is_safe, is_quorum=lambda members: len(set(members)) >= 2)


def test_with_safe_all_up_to_a_safe_message_is_final():
    view = finality(is_safe=True)
    assert view.on_safe(0)
    view.on_applied(1)
    assert view.number == 0
    assert view.on_safe(1)
    assert not view.on_safe(1), "it is no news"
    assert view.number == 1
    assert view.lineage == BEGINNING._replace(mark=1)


def test_with_safe_nobody_acknowledges():
    view = finality(is_safe=True)
    assert not view.begin_ack(1)
    assert not view.on_ack(YOU, 1)
    assert view.number == -1


def test_without_safe_a_majority_must_have_acknowledged_with_this_server_among_them():
    view = finality(is_safe=False)
    assert not view.on_safe(1)
    assert not view.on_ack(YOU, 2)
    assert not view.on_ack(THEY, 2)
    assert view.on_ack(ME, 1)
    assert view.number == 1, "no further than this server is"
    assert view.on_ack(ME, 3)
    assert view.number == 2, "no further than the majority is"


def test_one_acknowledgement_is_under_way_at_a_time():
    view = finality(is_safe=False)
    assert view.begin_ack(1)
    assert not view.begin_ack(2)
    view.on_ack(ME, 1)
    assert not view.begin_ack(1), "it was said"
    assert view.begin_ack(2)


@pytest.mark.parametrize("is_safe", [True, False])
def test_the_mark_is_what_counts_for_the_choice_of_a_base(is_safe):
    view = finality(is_safe=is_safe)
    view.on_applied(5)
    assert view.lineage.mark == (5 if is_safe else 0)
    view.on_ack(ME, 4)
    assert view.lineage.mark == (5 if is_safe else 4)
