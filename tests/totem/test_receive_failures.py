"""How long the aru may stall, and for how long a node that does not receive is excluded (rulings, A9)."""

from __future__ import annotations

from totem.exclusions import Exclusions
from totem.receive_failures import AruStall


def test_a_fast_ring_is_judged_by_visits_and_a_second():
    standstill = AruStall()
    standstill.end(10.0)
    for _ in range(101):
        standstill.note_visit(100, 10.9)
    assert 0.5 < standstill.lasts < 1
    standstill.note_visit(100, 11.1)
    assert 1 < standstill.by_visits == standstill.lasts
    standstill.end(12.0)
    assert (standstill.by_visits, standstill.lasts) == (0, 0)


def test_a_ring_that_rests_is_judged_by_seconds_and_some_visits():
    standstill = AruStall()
    standstill.end(10.0)
    for _ in range(19):
        standstill.note_visit(2500, 15.0)
    assert standstill.lasts < 0.1, "so few may have been lost"
    standstill.note_visit(2500, 15.0)
    assert standstill.lasts == 1.25
    assert standstill.by_visits < 0.1


def test_terms_grow_to_a_bound_and_begin_anew_after_long():
    left_out = Exclusions()
    now, terms = 0.0, []
    for _ in range(8):
        terms.append(left_out.next_term(2, now))
        left_out.add(2, now, "why")
        assert left_out.has(2, now + terms[-1] - 0.1)
        now += terms[-1]
        assert not left_out.has(2, now)
        now += 5.0
    assert terms == [10, 20, 40, 80, 160, 300, 300, 300]
    assert left_out.next_term(2, now + 700) == 10
    assert left_out.next_term(3, now) == 10


def test_a_term_may_end_a_little_sooner_and_at_once():
    left_out = Exclusions()
    left_out.add(2, 0.0, "why", early=1.0)
    assert (left_out.has(2, 8.9), left_out.has(2, 9.1)) == (True, False)
    left_out.add(2, 20.0, "why", early=100.0)
    assert (left_out.has(2, 35.9), left_out.has(2, 36.1)) == (True, False)
    left_out.add(2, 40.0, "why")
    left_out.end(2)
    assert not left_out.has(2, 41.0)
    left_out.end(3)
