"""Each checker finds the fault that was planted for it, and passes random histories without fault."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluck.commands import Mode
from cluck.testing.checkers import (
    Birth,
    ConditionWait,
    End,
    Grant,
    Holding,
    LeaderTenure,
    Load,
    Notification,
    Order,
    Role,
    Run,
    Sight,
    Waited,
    check,
    check_births,
    check_holdings,
    check_orders,
    check_roles,
    check_sights,
    check_tenures,
    check_wakeups,
)
from cluck.testing.linearizability import EXCLUSIVE, SHARED, Kind, Operation, Outcome, What, fit

SEEDS = given(seed=st.integers(0, 1 << 32))
LOCK = b"lock"
TWO = Kind(permits=2)


def clauses(violations):
    return {violation.clause for violation in violations}


def test_a_run_in_which_nothing_happened_is_fine():
    assert check(Run()) == []


def test_a_run_is_looked_at_in_all_its_parts():
    run = Run(
        orders=[Order("1", [End(LOCK, 1)])],
        holdings=[Holding("A", LOCK, EXCLUSIVE, 1, 0), Holding("B", LOCK, EXCLUSIVE, 2, 1)],
        births=[Birth(1, "view", 0.5)],
        operations=[Operation("A", LOCK, What.ACQUIRE, 0, 1, Outcome.BUSY)],
        roles=[Role("A", b"", 0, 0)],
        tenures=[LeaderTenure("A", b"", 1, 0), LeaderTenure("B", b"", 2, 1)],
        sights=[Sight("O", b"", "A", 2), Sight("O", b"", "A", 1)],
        notifies=[Notification("A", b"", 0, 1, count=1)],
    )
    assert clauses(check(run)) == {
        "lock order",
        "lock interval",
        "births held",
        "lock history",
        "leaders paired",
        "leaders one at a time",
        "leaders tokens",
        "wake-ups count",
    }


def test_kinds_are_those_of_requests():
    assert Kind.of(Mode.EXCLUSIVE) == Kind.of(Mode.PRIORITY) == EXCLUSIVE
    assert Kind.of(Mode.SHARED) == SHARED
    assert Kind.of(Mode.SHARED, 2) == TWO


# ---- the service's order


def grant(token, at=0.0, kind=EXCLUSIVE, request=None, name=LOCK):
    return Grant(name, token, request or f"request {token}", kind, at)


GOOD_ORDERS = {
    "one after the other": [[grant(1), End(LOCK, 1), grant(2), End(LOCK, 2)]],
    "readers together": [[grant(1, kind=SHARED), grant(2, kind=SHARED), End(LOCK, 1), End(LOCK, 2), grant(3)]],
    "two of two": [[grant(1, kind=TWO), grant(2, kind=TWO)]],
    "a state taken over": [[grant(1), Load((grant(5),)), End(LOCK, 5), grant(6)]],
    "two servers, one late": [
        [grant(1, 1), End(LOCK, 1), grant(2, 2)],
        [grant(1, 3), End(LOCK, 1), grant(2, 4)],
    ],
    "one server saw the first one late": [[grant(1, 5)], [grant(1, 1), End(LOCK, 1), grant(2, 2)]],
    "other locks": [[grant(1), grant(2, name=b"other")]],
}
BAD_ORDERS = {
    "two holders": ("lock order", [[grant(1), grant(2)]]),
    "a writer beside a reader": ("lock order", [[grant(1, kind=SHARED), grant(2)]]),
    "three of two": ("lock order", [[grant(token, kind=TWO) for token in (1, 2, 3)]]),
    "two holders in a state": ("lock order", [[Load((grant(1), grant(2)))]]),
    "a holder beside that of a state": ("lock order", [[Load((grant(1),)), grant(2)]]),
    "an end of nothing": ("lock order", [[grant(1), End(LOCK, 1), End(LOCK, 1)]]),
    "a token comes again": ("lock tokens", [[grant(1), End(LOCK, 1), grant(1)]]),
    "a token goes back": ("lock tokens", [[grant(2), End(LOCK, 2), grant(1)]]),
    "a token below that of a state": ("lock tokens", [[Load((grant(5),)), End(LOCK, 5), grant(4)]]),
    "one token for two": ("lock tokens", [[grant(1, request="A")], [grant(1, request="B")]]),
    "one token for two locks": ("lock tokens", [[grant(1, request="A"), grant(1, request="A", name=b"other")]]),
    "tokens begin anew behind a restart": ("lock tokens", [[grant(5, 1)], [grant(4, 2)]]),
    "an epoch comes again": ("lock tokens", [[grant(2 << 32, 1)], [grant(1 << 32 | 5, 2)]]),
}


@pytest.mark.parametrize("name", GOOD_ORDERS)
def test_orders_without_fault(name):
    assert not list(check_orders([Order(number, events) for number, events in enumerate(GOOD_ORDERS[name])]))


@pytest.mark.parametrize("name", BAD_ORDERS)
def test_orders_with_a_fault(name):
    clause, orders = BAD_ORDERS[name]
    assert clauses(check_orders([Order(number, events) for number, events in enumerate(orders)])) == {clause}


class Service:
    """A lock service by dice, with servers that lag, end, and begin with the state of the others."""

    def __init__(self, seed):
        self.dice = random.Random(seed)
        self.log = []
        """Everything that became final, with the state after it."""
        self.orders = [Order(number) for number in range(3)]
        self.places = [0] * 3
        self.now = 0.0

    def run(self):
        held, token = {}, 0
        for _ in range(200):
            name = self.dice.choice([b"a", b"b"])
            kind = self.dice.choice([EXCLUSIVE, SHARED, SHARED])
            here = [grant for grant in held.values() if grant.name == name]
            if fit([*(grant.kind for grant in here), kind]):
                token += self.dice.randint(1, 3)
                event = held[token] = Grant(name, token, f"request {token}", kind, 0)
            else:
                ended = self.dice.choice(here)
                del held[ended.token]
                event = End(name, ended.token)
            self.log.append((event, tuple(held.values())))
            self._deliver()
        return self.orders

    def _deliver(self):
        for number, order in enumerate(self.orders):
            self.now += 1
            if self.dice.random() < 0.02:
                self.places[number] = self.dice.randint(self.places[number], len(self.log))
                if self.places[number]:
                    state = self.log[self.places[number] - 1][1]
                    order.events.append(Load(tuple(replace(grant, at=self.now) for grant in state)))
            while self.places[number] < len(self.log) and self.dice.random() < 0.8:
                event = self.log[self.places[number]][0]
                order.events.append(replace(event, at=self.now) if isinstance(event, Grant) else event)
                self.places[number] += 1


@settings(max_examples=40, deadline=None)
@SEEDS
def test_orders_of_a_service_without_fault(seed):
    assert not list(check_orders(Service(seed).run()))


@settings(max_examples=40, deadline=None)
@SEEDS
def test_a_service_that_forgets_an_end_or_a_token_is_found(seed):
    dice = random.Random(seed)
    for forgotten in (End, Grant):
        orders = Service(seed).run()
        order = max(orders, key=lambda order: len(order.events))
        place = dice.choice([place for place, event in enumerate(order.events) if isinstance(event, forgotten)])
        if forgotten is Grant:
            order.events[place] = replace(order.events[place], token=1)
            if order.events[place] == order.events[0]:
                continue
        elif any(isinstance(event, Load) for event in order.events[place:]):
            continue  # that says it again
        else:
            name = order.events.pop(place).name
            if not any(event.name == name and event.kind is EXCLUSIVE for event in grants(order.events[place:])):
                continue  # nobody notices
        assert list(check_orders(orders))


def grants(events):
    return [event for event in events if isinstance(event, Grant)]


# ---- clients in true time


def hold(who, since, until, token, kind=EXCLUSIVE):
    return Holding(who, LOCK, kind, token, since, until)


def test_holdings_without_fault():
    readers = [hold("A", 0, 2, 1, SHARED), hold("B", 1, 9, 2, SHARED), hold("C", 9, 10, 3)]
    other = Holding("X", b"other", EXCLUSIVE, 4, 0)
    was_told_late = hold("D", 9.5, 9, 2)
    assert not list(check_holdings([*readers, other, was_told_late]))


@pytest.mark.parametrize(
    "holdings",
    [
        [hold("A", 0, 2, 1), hold("B", 1.9, 3, 2)],
        [hold("A", 0, 5, 1), hold("B", 1, 2, 2)],
        [hold("A", 0, 5, 1, SHARED), hold("B", 1, 2, 2)],
        [hold(who, at, 9, at + 1, TWO) for at, who in enumerate("ABC")],
    ],
)
def test_clients_that_hold_at_one_time_are_found(holdings):
    assert clauses(check_holdings(holdings)) == {"lock interval"}


@pytest.mark.parametrize(
    "holdings",
    [
        [hold("A", 0, 1, 2), hold("B", 1, 2, 1)],
        [hold("A", 0, 1, 2), hold("B", 1, 2, 2)],
        [hold("A", 0, 1, 2, SHARED), hold("B", 1, 2, 1)],
        [hold("A", 0, 1, 2), hold("B", 1, 2, 1, SHARED)],
    ],
)
def test_later_clients_without_larger_tokens_are_found(holdings):
    assert clauses(check_holdings(holdings)) == {"lock tokens"}


def test_births_without_fault():
    at_all_servers = [Birth(1, "view", 1), Birth(1, "view", 2)]
    holdings = [hold("A", 2, 3, 1 << 32), hold("A", 5, 6, 2 << 32)]
    assert not list(check_births([*at_all_servers, Birth(2, "other", 4), Birth(2, "other", 5.5)], holdings))
    assert not list(check_births([Birth(1, "view", 5.5)], holdings[1:]))


@pytest.mark.parametrize(
    ("birth", "clause"), [(Birth(1, "other", 4), "births epoch"), (Birth(2, "other", 2.5), "births held")]
)
def test_births_with_a_fault(birth, clause):
    for held in (hold("A", 2, 3, 1 << 32), LeaderTenure("A", b"head", 1 << 32, 2, 3)):
        assert clauses(check_births([Birth(1, "view", 1), birth], [held])) == {clause}


def test_tokens_of_those_who_may_hold_together_have_no_order():
    assert not list(check_holdings([hold("A", 0, 1, 2, SHARED), hold("B", 2, 3, 1, SHARED)]))


@settings(max_examples=40, deadline=None)
@SEEDS
def test_holdings_by_dice(seed):
    """Without fault; and where one client continues for longer than it may, unless all share."""
    dice = random.Random(seed)
    holdings, now = [], 0.0
    for turn in range(50):
        kind = dice.choice([EXCLUSIVE, SHARED, TWO])
        for number in range(1 if kind is EXCLUSIVE else 2):
            holdings.append(hold(number, now + dice.random(), now + 1 + dice.random(), 2 * turn + 1 + number, kind))
        now += 2
    dice.shuffle(holdings)
    assert not list(check_holdings(holdings))
    place = dice.randrange(len(holdings))
    longer = replace(holdings[place], until=holdings[place].until + 200)
    alone = [one for one in holdings if one.since >= holdings[place].until and one.kind != longer.kind]
    assert bool(list(check_holdings([*holdings[:place], longer, *holdings[place + 1 :]]))) >= bool(alone)


# ---- leaders


def leads(who, token, at=0.0, **more):
    return Role(who, b"election", token, at, **more)


def follows(who, at=0.0):
    return leads(who, 0, at)


GOOD_ROLES = {
    "by turns": [leads("A", 1), follows("A"), leads("B", 2), leads("A", 3), follows("B")],
    "others elsewhere": [leads("A", 1, 1, configuration="r1"), leads("B", 2, 2, configuration="r2")],
    "an old one is told late": [leads("B", 2, 1, stood=0), leads("A", 1, 2, stood=0), follows("A")],
}
BAD_ROLES = {
    "follows without having led": ("leaders paired", [follows("A")]),
    "leads twice": ("leaders paired", [leads("A", 1), leads("A", 2)]),
    "follows twice": ("leaders paired", [leads("A", 1), follows("A"), follows("A")]),
    "a token goes back": ("leaders tokens", [leads("A", 2), follows("A"), leads("A", 1)]),
    "a token comes again": ("leaders tokens", [leads("A", 2), follows("A"), leads("A", 2)]),
    "two for one token": ("leaders one", [leads("A", 1), leads("B", 1)]),
    "two in one view": ("leaders one", [leads("A", 1, configuration="r"), leads("B", 2, configuration="r")]),
    "tokens begin anew": ("leaders tokens", [leads("A", 5, 1, stood=0), leads("B", 4, 3, stood=2)]),
}


@pytest.mark.parametrize("name", GOOD_ROLES)
def test_roles_without_fault(name):
    assert not list(check_roles(GOOD_ROLES[name]))


@pytest.mark.parametrize("name", BAD_ROLES)
def test_roles_with_a_fault(name):
    clause, roles = BAD_ROLES[name]
    assert clauses(check_roles(roles)) == {clause}


def test_who_yields_may_have_a_successor_in_the_same_view():
    assert not list(check_roles(BAD_ROLES["two in one view"][1], yielded={1}))
    assert list(check_roles(BAD_ROLES["two in one view"][1], yielded={2}))


def test_elections_are_looked_at_apart():
    assert not list(check_roles([leads("A", 1), Role("A", b"other", 1, 0)]))


def tenure(who, token, since, until, election=b"election"):
    return LeaderTenure(who, election, token, since, until)


GOOD_TENURES = {
    "one after the other": [tenure("A", 1, 0, 2), tenure("B", 2, 2, 5), tenure("A", 3, 6, 7)],
    "over before it was told": [tenure("A", 1, 0, 5), tenure("B", 2, 3, 3), tenure("B", 3, 4, 3)],
    "of two elections": [tenure("A", 2, 0, 5), tenure("B", 1, 1, 5, b"other")],
}
BAD_TENURES = {
    "two at one moment": ("leaders one at a time", [tenure("A", 1, 0, 2), tenure("B", 2, 1.9, 5)]),
    "one within another": ("leaders one at a time", [tenure("A", 1, 0, 9), tenure("B", 2, 1, 2), tenure("C", 3, 8, 9)]),
    "the same one twice": ("leaders tokens", [tenure("A", 1, 0, 2), tenure("A", 1, 3, 5)]),
    "an older token": ("leaders tokens", [tenure("A", 2, 0, 2), tenure("B", 1, 3, 5)]),
}


@pytest.mark.parametrize("name", GOOD_TENURES)
def test_tenures_without_fault(name):
    assert not list(check_tenures(reversed(GOOD_TENURES[name])))


@pytest.mark.parametrize("name", BAD_TENURES)
def test_tenures_with_a_fault(name):
    clause, tenures = BAD_TENURES[name]
    assert clauses(check_tenures(reversed(tenures))) == {clause}


def test_each_leader_within_another_ones_time_is_found():
    assert len(list(check_tenures(BAD_TENURES["one within another"][1]))) == 2


def sight(observer, leader, token):
    return Sight(observer, b"election", leader, token)


def test_what_observers_see():
    assert not list(check_sights([sight("O", "A", 1), sight("O", "A", 1), sight("O", None, 0), sight("O", "B", 2)]))
    assert clauses(check_sights([sight("O", "B", 2), sight("O", "A", 1)])) == {"leaders tokens"}
    assert clauses(check_sights([sight("O", "A", 1), sight("P", "B", 1)])) == {"leaders one"}
    assert clauses(check_sights([sight("O", "A", 1)], [leads("B", 1)])) == {"leaders one"}


@settings(max_examples=40, deadline=None)
@SEEDS
def test_leaders_by_dice(seed):
    """Without fault; and with one event missing, or reported once more."""
    dice = random.Random(seed)
    roles, now = [], 0.0
    for token in range(1, 30):
        who = dice.choice("ABC")
        stood = max((role.at for role in roles if role.who == who), default=-1.0) + 0.1
        roles += [leads(who, token, now, stood=stood, configuration=token // 2), follows(who, now + 1)]
        now += 2
    yielded = set(range(1, 30))
    assert not list(check_roles(roles, yielded))
    place = dice.randrange(len(roles) - 1)
    again = [*roles[:place], roles[place], *roles[place:]]
    assert list(check_roles(again, yielded))
    assert list(check_roles(roles, set()))


# ---- conditions


def wait(who, outcome=Waited.WOKEN, invoked=0.0, waiting=1.0, **more):
    more = {"ended": 5.0} | more if outcome is Waited.WOKEN else more
    return ConditionWait(who, b"condition", invoked, outcome, waiting, **more)


def notify(count, invoked=2.0, returned=3.0, **more):
    return Notification("N", b"condition", invoked, returned, count, **more)


GOOD_WAKEUPS = {
    "one of two": ([wait("A"), wait("B", Waited.STILL)], [notify(1)]),
    "everyone": ([wait("A"), wait("B")], [notify(2, everyone=True)]),
    "nobody there": ([wait("A", Waited.STILL, 4, 5)], [notify(0), notify(0, everyone=True)]),
    "perhaps not there yet": ([wait("A", Waited.STILL, 0, 2.5)], [notify(0)]),
    "perhaps not there any more": ([wait("A", Waited.OVER, left=2.5, ended=4)], [notify(0)]),
    "a client ended": ([wait("A", Waited.UNKNOWN)], [notify(1)]),
    "a notifier ended": ([wait("A")], [notify(None)]),
    "a notifier of all ended": ([wait("A"), wait("B")], [notify(None, everyone=True)]),
    "must change partners": (
        [wait("A", invoked=0, ended=9), wait("B", invoked=0, ended=2.5)],
        [notify(1, 2, 3), notify(1, 4, 5)],
    ),
}
BAD_WAKEUPS = {
    "lost": ("wake-ups lost", [wait("A", Waited.STILL)], [notify(0)]),
    "lost, and then over": ("wake-ups lost", [wait("A", Waited.OVER, left=4)], [notify(0)]),
    "one forgotten": ("wake-ups lost", [wait("A"), wait("B", Waited.STILL)], [notify(1, everyone=True)]),
    "nobody woken": ("wake-ups count", [], [notify(1)]),
    "spent on one that is over": ("wake-ups count", [wait("A", Waited.OVER, left=4)], [notify(1)]),
    "two of one notification": ("wake-ups count", [wait("A"), wait("B")], [notify(1)]),
    "woken by nobody": ("wake-ups count", [wait("A")], []),
    "woken before": ("wake-ups count", [wait("A", ended=1.5)], [notify(None)]),
    "more than one": ("wake-ups count", [wait("A"), wait("B")], [notify(2)]),
    "the waiter came later": ("wake-ups count", [wait("A", invoked=4)], [notify(1)]),
    "not settled": ("wake-ups settled", [wait("A", settled=False)], [notify(1)]),
}


@pytest.mark.parametrize("name", GOOD_WAKEUPS)
def test_wakeups_without_fault(name):
    assert not list(check_wakeups(*GOOD_WAKEUPS[name]))


@pytest.mark.parametrize("name", BAD_WAKEUPS)
def test_wakeups_with_a_fault(name):
    clause, waits, notifies = BAD_WAKEUPS[name]
    assert clauses(check_wakeups(waits, notifies)) == {clause}


def test_who_does_not_reacquire_has_nothing_to_settle():
    assert not list(check_wakeups([wait("A", reacquires=False, settled=False)], [notify(1)]))


def wakeups(dice):
    """A condition by dice: waits and notifications, each with its effect somewhere between call and return."""
    queue, waits, notifies, now = [], [], [], 0.0
    for number in range(60):
        now += 1
        before, after = now - dice.random() * 3, now + dice.random() * 3
        match dice.random():
            case what if what < 0.5:
                queue.append(ConditionWait(number, b"condition", before, Waited.STILL, after))
            case what if what < 0.6 and queue:
                gone = queue.pop(dice.randrange(len(queue)))
                waits.append(replace(gone, outcome=Waited.OVER, left=before, ended=max(after, gone.waiting)))
            case what:
                everyone = what > 0.9
                woken, queue = (queue, []) if everyone else (queue[:1], queue[1:])
                count = None if dice.random() < 0.1 else len(woken)
                notifies.append(Notification(number, b"condition", before, after, count, everyone))
                for each in woken:
                    outcome = Waited.UNKNOWN if dice.random() < 0.1 else Waited.WOKEN
                    ended = max(each.waiting, now + dice.random() * 5)
                    waits.append(replace(each, outcome=outcome, ended=ended))
    return [*waits, *queue], notifies


@settings(max_examples=60, deadline=None)
@SEEDS
def test_wakeups_by_dice(seed):
    """Without fault; and where one says that it woke one more than it did, and all is known."""
    waits, notifies = wakeups(random.Random(seed))
    assert not list(check_wakeups(waits, notifies))
    place = random.Random(seed).randrange(len(notifies))
    if all(wait.outcome is not Waited.UNKNOWN for wait in waits) and all(one.count is not None for one in notifies):
        one = notifies[place]
        assert list(check_wakeups(waits, [*notifies, replace(one, count=1, everyone=True)]))
