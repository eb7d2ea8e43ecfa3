"""Elections: rounds, their winners, who leads and until when, and what observers are told."""

import pytest
from msgspec.msgpack import encode

from cluck.commands import (
    Chosen,
    Close,
    Commit,
    Depose,
    Expire,
    Gone,
    Lapsed,
    Leadership,
    Next,
    Publish,
    Published,
    Refused,
    Rejected,
    Renew,
    Renewed,
    RequestId,
    Resign,
    RoundOpened,
    Stand,
    Standing,
    Status,
    Why,
    Withdraw,
)
from cluck.state import elections
from cluck.state.machine import LockState
from cpg.replication.identities import Boot, ServerId
from tests.cluck.server.steps import steps
from tests.cluck.state.bench import FIRST, HERE, THERE, Bench

E = b"election"
NOBODY = Leadership(E, None)


@pytest.fixture
def bench():
    return Bench()


def asked(round, *candidates):
    return RoundOpened(E, round, candidates)


def chosen(round, candidate, is_next=False):
    return Chosen(E, round, candidate, is_next)


def rejected(round, candidate):
    return Rejected(E, round, candidate)


def lapsed(token=FIRST):
    return Lapsed(E, token)


def led_by_first(bench, others="BC"):
    """A leads; then others stand."""
    a, _ = bench.stand("A")
    bench.elect(a)
    return a, *(bench.stand(who)[0] for who in others)


def round_of(bench, **options):
    """A, B and C are asked in round 2, in which nobody leads."""
    first, *rest = led_by_first(bench, "ABC")
    bench.apply(Withdraw(first))
    return rest


# ---- rounds


def test_the_first_candidate_opens_a_round(bench):
    a, outcomes = bench.stand("A")
    assert outcomes == [Standing(a), asked(1, a)]


def test_who_comes_during_a_round_takes_no_part_in_it(bench):
    a, _ = bench.stand("A")
    b, outcomes = bench.stand("B")
    assert outcomes == [Standing(b)]
    assert bench.status(b, running=1e6) == []
    assert bench.status(a) == [chosen(1, a)]


def test_who_comes_while_another_one_leads_opens_no_round(bench):
    led_by_first(bench, "")
    b, outcomes = bench.stand("B")
    assert outcomes == [Standing(b)]


def test_the_last_missing_status_closes_a_round(bench):
    a, b, c = round_of(bench)
    assert bench.status(a, 2) == []
    assert bench.status(b, 2, running=300) == []
    assert bench.status(c, 2) == [chosen(2, b)]


def test_the_departure_of_the_last_missing_one_closes_a_round(bench):
    a, b, c = round_of(bench)
    bench.status(a, 2)
    bench.status(b, 2, running=300)
    assert bench.apply(Withdraw(c)) == [Refused(c, Why.WITHDRAWN), chosen(2, b)]


def test_a_change_of_servers_that_removes_the_last_missing_one_closes_a_round(bench):
    _, b, _ = round_of(bench)
    bench.apply(Stand(b, E), THERE)
    bench.status(b, 2)
    assert bench.state.keep([THERE], {}) == [chosen(2, b)]


def test_a_round_that_is_closed_by_order_counts_those_that_have_answered(bench):
    a, b, c = round_of(bench)
    bench.status(b, 2)
    assert bench.close(1) == [], "another round's"
    assert bench.close(2) == [chosen(2, b)]
    assert bench.status(c, 2, running=1e6) == []
    assert bench.status(a, 2, running=1e6) == []
    assert bench.close(2) == []


def test_a_round_without_any_answer_begins_anew_with_all_that_stand(bench):
    a, _ = bench.stand("A")
    b, _ = bench.stand("B")
    assert bench.close() == [asked(2, a, b)]


def test_a_round_that_all_have_left_begins_anew_with_those_that_came(bench):
    a, _ = bench.stand("A")
    b, _ = bench.stand("B")
    assert bench.apply(Withdraw(a))[1:] == [asked(2, b)]


def test_a_status_for_another_round_is_void(bench):
    a, b, _ = round_of(bench)
    for round in (1, 3):
        assert bench.status(a, round, running=1e6) == []
    bench.status(b, 2)
    assert bench.close(2) == [chosen(2, b)]


def test_a_status_of_nobody_known_is_void(bench):
    assert bench.status(bench.request("A")) == []


def test_the_first_status_in_a_round_counts(bench):
    a, b, c = round_of(bench)
    bench.status(a, 2)
    bench.status(a, 2, running=1e6)
    bench.status(b, 2, running=300)
    assert bench.status(c, 2) == [chosen(2, b)]


def test_rounds_are_counted_as_long_as_the_election_is_known(bench):
    a, b = led_by_first(bench, "B")
    for round in range(2, 5):
        token = FIRST + round - 2
        assert bench.expire_lead(token) == [NOBODY, asked(round, b), lapsed(token)]
        assert bench.elect(b, round)
        a, b = b, a


def test_what_is_waited_for_is_known_at_each_stage(bench):
    """A server that comes to it in a snapshot has seen none of the outcomes."""
    a, b, c = round_of(bench)

    def pending():
        return list(bench.state.elections.pending())

    bench.status(b, 2)
    assert pending() == [asked(2, a, c)], "those who are missing"
    bench.close(2)
    assert pending() == [chosen(2, b)]
    bench.next(b, 2)
    assert pending() == [chosen(2, b, is_next=True)]
    bench.commit(b, 2)
    assert pending() == []


# ---- who wins


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"running": 900}, {"running": 600}),
        ({"running": 900, "restart_interval": 9e5}, {"running": 600}),
        ({"restart_interval": 300}, {"restart_interval": 600}),
        ({"restart_interval": 0, "address": "a"}, {"restart_interval": 300, "address": "b"}),
        ({"running": 300, "address": "b"}, {"running": 599.9, "address": "a"}),
        ({"restart_interval": 599.9, "address": "b"}, {"restart_interval": 300, "address": "a"}),
        ({"address": "9.0.0.1"}, {"address": "10.0.0.1"}),
        ({"address": "b", "port": 1}, {"address": "a", "port": 2}),
        ({"port": 10000}, {"port": 9000}),
    ],
    ids=str,
)
@pytest.mark.parametrize("is_first", [True, False], ids=["first", "last"])
def test_the_order_of_selection(bench, better, worse, is_first):
    first, _ = bench.stand("A")
    candidates = []
    for status in (better, worse) if is_first else (worse, better):
        candidate, _ = bench.stand("BC"[len(candidates)], status.get("address", ""), status.get("port", 0))
        candidates.append((candidate, status))
    bench.apply(Withdraw(first))
    for candidate, status in candidates:
        outcomes = bench.status(candidate, 2, status.get("running", 0.0), status.get("restart_interval", 0.0))
    assert outcomes == [chosen(2, candidates[0 if is_first else 1][0])]


def test_of_equals_the_one_that_has_stood_longer_wins(bench):
    a, b, c = round_of(bench)
    for candidate in (c, b):
        bench.status(candidate, 2)
    assert bench.status(a, 2) == [chosen(2, a)]


# ---- next and commit


def test_the_winner_is_named_and_then_leads_with_a_token(bench):
    a, _ = bench.stand("A", "10.0.0.1", 7000)
    bench.status(a)
    assert bench.next(a) == [chosen(1, a, is_next=True)]
    assert bench.commit(a) == [Leadership(E, a, FIRST, b"10.0.0.1", 7000)]


def test_only_the_winner_can_be_named(bench):
    a, b, _ = round_of(bench)
    assert bench.next(a, 2) == [rejected(2, a)], "the round is open"
    bench.status(b, 2)
    bench.close(2)
    before = encode(bench.state.image())
    assert bench.next(a, 2) == [rejected(2, a)]
    assert bench.next(b, 1) == [rejected(1, b)]
    assert bench.apply(Next(b"unknown", 2, b)) == [Rejected(b"unknown", 2, b)]
    assert encode(bench.state.image()) == before
    assert bench.next(b, 2) == [chosen(2, b, is_next=True)]


def test_only_the_one_that_was_named_can_lead(bench):
    a, b, _ = round_of(bench)
    assert bench.commit(a, 2) == [rejected(2, a)], "the round is open"
    bench.status(b, 2)
    bench.close(2)
    assert bench.commit(b, 2) == [rejected(2, b)], "it is not named"
    bench.next(b, 2)
    assert bench.commit(a, 2) == [rejected(2, a)]
    assert bench.commit(b, 3) == [rejected(3, b)]
    assert bench.apply(Commit(b"unknown", 2, b)) == [Rejected(b"unknown", 2, b)]
    assert bench.commit(b, 2) == [Leadership(E, b, FIRST + 1)]


def test_what_is_said_again_changes_nothing(bench):
    a, _ = bench.stand("A")
    bench.status(a)
    bench.next(a)
    assert bench.next(a) == []
    bench.commit(a)
    before = encode(bench.state.image())
    assert bench.commit(a) == []
    assert bench.next(a) == []
    assert bench.status(a) == []
    assert bench.close() == []
    assert encode(bench.state.image()) == before


def test_tokens_of_leaderships_and_of_locks_are_one_series(bench):
    bench.acquire("A")
    a, _ = bench.stand("A")
    assert bench.elect(a)[0].token == FIRST + 1
    assert bench.acquire("A", "other")[1][0].token == FIRST + 2


@pytest.mark.parametrize("is_next", [False, True], ids=["chosen", "named"])
@pytest.mark.parametrize("how", ["withdrawn", "gone", "stranded"])
def test_a_winner_that_goes_before_it_leads_is_replaced(bench, how, is_next):
    a, b, c = round_of(bench)
    for candidate in (b, c):
        bench.apply(Stand(candidate, E), THERE)
    bench.status(a, 2)
    bench.close(2)
    if is_next:
        bench.next(a, 2)
    outcomes = {
        "withdrawn": lambda: bench.apply(Withdraw(a))[1:],
        "gone": lambda: bench.apply(Gone(a.owner.client)),
        "stranded": lambda: bench.state.keep([THERE], {}),
    }[how]()
    assert outcomes == [asked(3, b, c)], "nobody led, so nothing ended"
    assert bench.commit(a, 2) == [rejected(2, a)]


# ---- the end of a leadership


@pytest.mark.parametrize("how", ["withdrawn", "gone", "stranded"])
def test_a_leader_that_goes_leads_no_more_and_the_others_are_asked(bench, how):
    a, b, c = led_by_first(bench)
    for candidate in (b, c):
        bench.apply(Stand(candidate, E), THERE)
    outcomes = {
        "withdrawn": lambda: bench.apply(Withdraw(a))[1:],
        "gone": lambda: bench.apply(Gone(a.owner.client)),
        "stranded": lambda: bench.state.keep([THERE], {}),
    }[how]()
    assert outcomes == [NOBODY, asked(2, b, c)] + [lapsed()] * (how != "stranded")
    assert bench.state.elections.of(E) == NOBODY


def test_a_leader_stays_when_others_go(bench):
    a, b, _ = led_by_first(bench)
    assert bench.apply(Withdraw(b)) == [Refused(b, Why.WITHDRAWN)]
    bench.apply(Stand(a, E), THERE)
    assert bench.state.keep([THERE], {}) == []
    assert bench.state.elections.of(E) == Leadership(E, a, FIRST)


def test_candidates_that_go_together_are_not_asked(bench):
    """Of one client: the leader, and one that waits for its turn."""
    a, _ = bench.stand("A")
    bench.elect(a)
    bench.stand("A")
    b, _ = bench.stand("B")
    assert bench.apply(Gone(a.owner.client)) == [NOBODY, asked(2, b), lapsed()]


def test_candidates_that_are_stranded_together_are_not_asked(bench):
    _, _, c = led_by_first(bench)
    bench.apply(Stand(c, E), THERE)
    assert bench.state.keep([THERE], {}) == [NOBODY, asked(2, c)]


def test_an_election_without_candidates_is_forgotten(bench):
    a, _ = bench.stand("A")
    bench.elect(a)
    assert bench.apply(Withdraw(a)) == [Refused(a, Why.WITHDRAWN), NOBODY, lapsed()]
    assert not bench.state.elections.by_name
    b, outcomes = bench.stand("B")
    assert outcomes == [Standing(b), asked(1, b)]


def test_who_resigns_sits_out_the_next_round(bench):
    a, b, c = led_by_first(bench)
    assert bench.resign(FIRST) == [NOBODY, asked(2, b, c), lapsed()]
    bench.elect(b, 2)
    assert bench.resign(FIRST + 1) == [NOBODY, asked(3, a, c), lapsed(FIRST + 1)], "it was the next round only"


def test_who_resigns_and_is_alone_takes_part(bench):
    a, _ = bench.stand("A")
    bench.elect(a)
    assert bench.resign(FIRST) == [NOBODY, asked(2, a), lapsed()]


def test_who_resigns_may_name_the_next_one(bench):
    a, _, c = led_by_first(bench)
    assert bench.resign(FIRST, c) == [NOBODY, lapsed(), chosen(2, c, is_next=True)]
    assert bench.commit(a, 1) == [rejected(1, a)]
    assert bench.commit(c, 2) == [Leadership(E, c, FIRST + 1)]


@pytest.mark.parametrize("to", ["unknown", "itself", "in another election"])
def test_who_names_nobody_that_could_be_next_has_a_round_opened(bench, to):
    a, b, c = led_by_first(bench)
    elsewhere = bench.request("D")
    bench.apply(Stand(elsewhere, b"other"))
    wished = {"unknown": RequestId(a.owner, 99), "itself": a, "in another election": elsewhere}[to]
    assert bench.resign(FIRST, wished) == [NOBODY, asked(2, b, c), lapsed()]


def test_only_the_leader_can_resign(bench):
    a, b, _ = led_by_first(bench)
    for candidate, token in ((b, FIRST), (a, 0), (a, FIRST + 1), (bench.request("D"), FIRST)):
        assert bench.apply(Resign(candidate, token)) == []
    bench.resign(FIRST)
    for token in (0, FIRST):
        assert bench.apply(Resign(a, token)) == []
    bench.elect(b, 2)
    assert bench.apply(Resign(a, FIRST)) == []


@pytest.mark.parametrize("is_next", [False, True], ids=["chosen", "named"])
def test_a_winner_that_does_not_come_is_deposed(bench, is_next):
    a, b, c = round_of(bench)
    bench.status(a, 2)
    bench.close(2)
    if is_next:
        bench.next(a, 2)
    assert bench.depose(a, 2) == [asked(3, b, c)]
    assert bench.commit(a, 2) == [rejected(2, a)]


def test_a_deposed_winner_that_is_alone_takes_part(bench):
    a, _ = bench.stand("A")
    bench.status(a)
    assert bench.depose(a) == [asked(2, a)]


def test_only_who_was_chosen_in_this_round_can_be_deposed(bench):
    a, b, _ = round_of(bench)
    assert bench.depose(b, 2) == [], "the round is open"
    bench.status(a, 2)
    bench.close(2)
    assert bench.depose(b, 2) == []
    assert bench.depose(a, 3) == []
    assert bench.apply(Depose(b"unknown", 2, a)) == []
    bench.next(a, 2)
    bench.commit(a, 2)
    assert bench.depose(a, 2) == [], "it leads: its lease decides"


def test_an_election_does_not_touch_another(bench):
    a, _, _ = led_by_first(bench)
    other = bench.request("A")
    assert bench.apply(Stand(other, b"other")) == [Standing(other), RoundOpened(b"other", 1, (other,))]
    assert bench.apply(Status(other, 1, 0.0, 0.0)) == [Chosen(b"other", 1, other, False)]
    assert bench.apply(Close(b"unknown", 1)) == []
    assert bench.state.elections.of(E).leader == a


# ---- leases


def stranded(bench):
    """A led and cannot be reached, B and C are asked."""
    a, b, c = led_by_first(bench)
    for candidate in (b, c):
        bench.apply(Stand(candidate, E), THERE)
    assert bench.state.keep([THERE], {}) == [NOBODY, asked(2, b, c)]
    return a, b, c


def named_behind(bench):
    """A led and cannot be reached, B was named next."""
    a, b, c = stranded(bench)
    bench.status(b, 2)
    bench.close(2)
    assert bench.next(b, 2) == [chosen(2, b, is_next=True)]
    return a, b, c


def test_nobody_leads_before_the_leadership_before_is_over(bench):
    _, b, _ = named_behind(bench)
    for _ in range(3):
        assert bench.commit(b, 2) == []
    assert bench.expire_lead(FIRST) == [lapsed(), chosen(2, b, is_next=True)]
    assert bench.commit(b, 2) == [Leadership(E, b, FIRST + 1)]


@pytest.mark.parametrize("how", ["gone", "resigned", "over"])
def test_a_leadership_that_lasts_on_ends_for_sure(bench, how):
    a, b, _ = named_behind(bench)
    outcomes = {
        "gone": lambda: bench.apply(Gone(a.owner.client)),
        "resigned": lambda: bench.resign(FIRST),
        "over": lambda: bench.expire_lead(FIRST),
    }[how]()
    assert outcomes == [lapsed(), chosen(2, b, is_next=True)]


def test_a_leader_that_stands_no_more_renews_nothing(bench):
    stranded(bench)
    assert bench.renew_lead(FIRST) == []
    assert bench.expire_lead(FIRST) == [lapsed()]


def test_a_leader_that_stands_again_and_renews_in_time_leads_on(bench):
    """For example, its lock server was restarted; another candidate is to lead already."""
    a, b, _ = led_by_first(bench)
    bench.publish("A", FIRST, b"plan")
    bench.apply(Stand(b, E), THERE)
    bench.state.keep([THERE], {})
    bench.status(b, 2)
    bench.next(b, 2)
    assert bench.apply(Stand(a, E)) == [Standing(a)]
    assert bench.state.elections.of(E) == NOBODY, "it may not know that it leads"
    leadership = Leadership(E, a, FIRST, version=1, blob=b"plan")
    assert bench.renew_lead(FIRST) == [leadership, Renewed(a, FIRST, 1)]
    assert bench.commit(b, 2) == [rejected(2, b)]
    assert bench.expire_lead(FIRST) == []
    assert bench.expire_lead(FIRST, 1)[0] == NOBODY


def test_a_leader_that_stands_again_and_does_not_renew_leads_no_more(bench):
    a, b, c = stranded(bench)
    bench.apply(Stand(a, E))
    assert bench.expire_lead(FIRST) == [lapsed()]
    assert bench.renew_lead(FIRST) == []
    assert bench.close(2) == [asked(3, b, c, a)]
    assert bench.elect(a, 3) == [Leadership(E, a, FIRST + 1)]


def test_to_withdraw_ends_what_a_candidate_that_stands_anew_led_before(bench):
    a, _, _ = named_behind(bench)
    bench.apply(Stand(a, E))
    assert lapsed() in bench.apply(Withdraw(a))


def test_the_end_of_a_lease_is_void_where_it_was_renewed(bench):
    a, _ = led_by_first(bench, "B")
    assert bench.renew_lead(FIRST) == [Renewed(a, FIRST, 1)]
    assert bench.expire_lead(FIRST) == []
    assert bench.revoke_lead(FIRST) == []
    assert bench.state.elections.of(E).leader == a
    assert bench.expire_lead(FIRST, 1)[0] == NOBODY


def test_a_leader_whose_lease_is_over_sits_out_the_next_round(bench):
    _, b, c = led_by_first(bench)
    assert bench.expire_lead(FIRST) == [NOBODY, asked(2, b, c), lapsed()]
    assert bench.expire_lead(FIRST) == []


def test_a_leader_that_is_alone_takes_part_when_its_lease_is_over(bench):
    a, _ = bench.stand("A")
    bench.elect(a)
    assert bench.expire_lead(FIRST) == [NOBODY, asked(2, a), lapsed()]
    assert bench.elect(a, 2) == [Leadership(E, a, FIRST + 1)]


def test_of_another_token_or_election_nothing_ends(bench):
    a, b = led_by_first(bench, "B")
    for token in (0, FIRST - 1, FIRST + 1):
        assert bench.expire_lead(token) == bench.revoke_lead(token) == bench.apply(Renew(a, token)) == []
    assert bench.apply(Expire(b"unknown", FIRST, 0)) == []
    assert bench.apply(Renew(b, FIRST)) == bench.apply(Resign(b, FIRST)) == [], "it is another one's"


def test_a_successor_is_chosen_while_a_lease_comes_to_its_end(bench):
    a, b, c = led_by_first(bench)
    assert bench.revoke_lead(FIRST) == [asked(2, b, c)]
    assert bench.revoke_lead(FIRST) == []
    bench.status(b, 2)
    bench.status(c, 2)
    bench.next(b, 2)
    assert bench.state.elections.of(E).leader == a, "it leads until that is over"
    assert bench.commit(b, 2) == []
    assert bench.expire_lead(FIRST) == [NOBODY, lapsed(), chosen(2, b, is_next=True)]
    assert bench.commit(b, 2) == [Leadership(E, b, FIRST + 1)]


def test_a_leader_that_renews_late_needs_no_successor(bench):
    a, b, c = led_by_first(bench)
    bench.revoke_lead(FIRST)
    bench.status(b, 2)
    bench.status(c, 2)
    bench.next(b, 2)
    assert bench.renew_lead(FIRST) == [Renewed(a, FIRST, 1)]
    assert bench.commit(b, 2) == [rejected(2, b)]
    assert list(bench.state.elections.pending()) == []
    assert bench.expire_lead(FIRST) == []
    assert bench.expire_lead(FIRST, 1) == [NOBODY, asked(4, b, c), lapsed()]


def test_nobody_is_asked_for_a_successor_where_nobody_else_stands(bench):
    a, _ = bench.stand("A")
    bench.elect(a)
    assert bench.revoke_lead(FIRST) == []


@pytest.mark.parametrize("stage", list(elections.Stage)[:3])
def test_a_leader_that_goes_while_a_successor_is_chosen_disturbs_nothing(bench, stage):
    _, b, c = led_by_first(bench)
    bench.revoke_lead(FIRST)
    for step in [lambda: bench.status(b, 2) + bench.status(c, 2), lambda: bench.next(b, 2)][: stage.value]:
        step()
    told = [chosen(2, b, is_next=True)] if stage.value >= elections.Stage.NAMED else []
    assert bench.resign(FIRST) == [NOBODY, lapsed(), *told]


def test_a_leadership_without_candidates_lasts_until_it_is_over(bench):
    a, _ = bench.stand("A")
    bench.elect(a)
    assert bench.state.keep([THERE], {}) == [NOBODY]
    assert list(bench.state.elections.pending()) == [], "nobody can be asked"
    b, outcomes = bench.stand("B")
    assert outcomes[0] == Standing(b)
    assert type(outcomes[1]) is RoundOpened
    assert bench.apply(Withdraw(b)) == [Refused(b, Why.WITHDRAWN)]
    assert bench.expire_lead(FIRST) == [lapsed()]
    assert not bench.state.elections.by_name


def test_a_lease_must_be_on_record(bench):
    bench.state.longest_promise = 3.5
    a, outcomes = bench.stand("A")
    assert outcomes == [Refused(a, Why.UNRECORDED)]
    assert bench.apply(Stand(a, E, lease=3.0, grace=0.5))[0] == Standing(a)


@pytest.mark.parametrize("is_last", [False, True], ids=["first", "last"])
def test_a_machine_that_runs_anew_ends_nothing_at_another_node(bench, is_last):
    """Its machine is a copy of the former one, even in its name."""
    bench.acquire("A")
    a, _ = led_by_first(bench, "B")
    former, anew = ServerId(2, 5), ServerId(2, 6)
    bench.state.keep([HERE, former], {HERE: Boot("copy", "1"), former: Boot("copy", "1")})
    boots = [(HERE, Boot("copy", "1")), (anew, Boot("copy", "2"))]
    assert bench.state.keep([HERE, anew], dict(boots if is_last else reversed(boots))) == []
    assert bench.state.elections.of(E).leader == a


# ---- requests


def test_a_withdrawn_candidate_does_not_stand_again_under_its_request(bench):
    a, _ = bench.stand("A")
    bench.apply(Withdraw(a))
    assert bench.apply(Stand(a, E)) == [Refused(a, Why.WITHDRAWN)]


def test_to_stand_again_changes_nothing(bench):
    a, b, _ = led_by_first(bench)
    before = encode(bench.state.image())
    assert bench.apply(Stand(a, E)) == [Standing(a)]
    assert bench.apply(Stand(b, b"other")) == [Standing(b)]
    assert encode(bench.state.image()) == before


def test_a_leaders_attachment_is_reported_with_a_version(bench):
    a, _ = led_by_first(bench, "B")
    p, outcomes = bench.publish("A", FIRST, b"x")
    assert outcomes == [Published(p, 1), Leadership(E, a, FIRST, version=1, blob=b"x")]
    q, outcomes = bench.publish("A", FIRST, b"")
    assert outcomes == [Published(q, 2), Leadership(E, a, FIRST, version=2)]


def test_what_a_leader_attached_ends_with_its_leadership(bench):
    _, b = led_by_first(bench, "B")
    bench.publish("A", FIRST)
    assert bench.resign(FIRST, b)[0] == NOBODY
    assert bench.commit(b, 2) == [Leadership(E, b, FIRST + 1)]


def test_to_publish_needs_the_present_token(bench):
    _, b = led_by_first(bench, "B")
    bench.resign(FIRST)
    for token in (0, FIRST):
        p, outcomes = bench.publish("A", token)
        assert outcomes == [Refused(p, Why.NOT_HELD)]
    bench.elect(b, 2)
    p, outcomes = bench.publish("B", FIRST)
    assert outcomes == [Refused(p, Why.NOT_HELD)]
    assert bench.state.elections.of(E).version == 0


def test_to_publish_takes_the_client_that_leads(bench):
    """All observers know the token."""
    led_by_first(bench, "B")
    p, outcomes = bench.publish("B", FIRST)
    assert outcomes == [Refused(p, Why.NOT_HELD)]


def test_to_publish_again_changes_nothing(bench):
    led_by_first(bench, "")
    p, _ = bench.publish("A", FIRST)
    assert bench.apply(Publish(p, E, FIRST, b"blob"), THERE) == [Published(p, 1)]
    assert bench.state.elections.of(E).version == 1


# ---- bounds


def test_candidates_of_an_election_are_limited(bench, monkeypatch):
    monkeypatch.setattr(elections, "MOST_CANDIDATES", 1)
    bench.stand("A")
    b, outcomes = bench.stand("B")
    assert outcomes == [Refused(b, Why.OVERFLOW)]
    assert len(bench.state.elections.by_name[E].candidates) == 1


def test_elections_are_limited(bench, monkeypatch):
    monkeypatch.setattr(elections, "MOST_ELECTIONS", 1)
    bench.stand("A")
    other = bench.request("B")
    assert bench.apply(Stand(other, b"other")) == [Refused(other, Why.OVERFLOW)]
    assert list(bench.state.elections.by_name) == [E]


def test_candidates_of_all_elections_are_limited(bench, monkeypatch):
    monkeypatch.setattr(elections, "MOST_STANDING", 1)
    a, _ = bench.stand("A")
    b, outcomes = bench.stand("B")
    assert outcomes == [Refused(b, Why.OVERFLOW)]
    bench.apply(Withdraw(a))
    assert bench.stand("B")[1], "it is those who stand now that count"


def test_so_much_may_be_published(bench, monkeypatch):
    monkeypatch.setattr(elections, "MOST_PUBLISHED", 10)
    _, b = led_by_first(bench, "B")
    bench.publish("A", FIRST, bytes(9))
    bench.publish("A", FIRST, bytes(10))
    p, outcomes = bench.publish("A", FIRST, bytes(11))
    assert outcomes == [Refused(p, Why.OVERFLOW)]
    assert bench.state.elections.of(E).blob == bytes(10)
    bench.resign(FIRST, b)
    bench.commit(b, 2)
    p, outcomes = bench.publish("B", FIRST + 1, bytes(10))
    assert outcomes[0] == Published(p, 1), "it is what is attached now that counts"


def test_a_state_made_of_an_image_knows_how_much_is_published(bench, monkeypatch):
    monkeypatch.setattr(elections, "MOST_PUBLISHED", 10)
    led_by_first(bench, "")
    bench.publish("A", FIRST, bytes(9))
    bench.state = LockState.of(bench.state.image())
    other = bench.request("B")
    bench.apply(Stand(other, b"other"))
    bench.apply(Status(other, 1, 0.0, 0.0))
    bench.apply(Next(b"other", 1, other))
    bench.apply(Commit(b"other", 1, other))
    p = bench.request("B")
    assert bench.apply(Publish(p, b"other", FIRST + 1, bytes(2))) == [Refused(p, Why.OVERFLOW)]


def test_the_server_through_which_a_candidate_speaks_is_the_latest(bench):
    a, _ = led_by_first(bench, "B")
    bench.apply(Stand(a, E), THERE)
    assert bench.state.keep([THERE], {}) == []
    assert bench.state.keep([HERE], {}) == [NOBODY]


def test_a_round_of_many_costs_no_more_for_each():
    """Four times as many candidates: four times as much to do for all statuses, renewals and looks at the leader."""

    def cost(count):
        bench = Bench()
        first, _ = bench.stand("A")
        bench.elect(first)
        others = [bench.stand(chr(1000 + number))[0] for number in range(count)]
        bench.resign(FIRST)
        state, named = bench.state, bench.state.elections.of

        def life():
            for other in others[:-1]:
                bench.status(other, 2)
                named(E)
            bench.elect(others[-1], 2)
            for _ in others:
                named(E)
                assert bench.renew_lead(FIRST + 1)

        taken = steps(life)
        assert state.elections.of(E).leader == others[-1]
        return taken

    assert cost(200) < 5 * cost(50)
