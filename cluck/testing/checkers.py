"""What locks, leaders and conditions promise, as checks on records of runs.

A test that runs programs against lock servers, in a simulator or with real processes, fills a `Run`; `check` returns
what is wrong in it. Parts that nobody fills are not looked at. `who` is any hashable name of what holds: a task of a
client, not a client, where several tasks of one client hold locks. All times are seconds of one clock that is true for
all: the simulator's, or the boot-time clock of the one machine on which all processes run.

order       What one lock server made final, in its order (`Order`): at any time there are no incompatible holders of a
            lock, and nothing ends that is not held.
tokens      They grow strictly for each lock, in every server's order and by the time at which they were granted, over
            all restarts; and one token is one grant.
interval    The clients' side in true time (`Holding`), from being told of a grant until the call of its release, its
            loss, its death or its deadline, whatever is first: nobody holds what is incompatible, and later ones have
            larger tokens.
history     What clients requested and were told (`Operation`) is what one lock would have said that does one thing
            after the other, each between its call and its return: linearizability, lock by lock.
leaders     What candidates were told (`Role`): leading and following by turns, beginning with leading; one leader for a
            token; tokens growing; in one configuration no second leader, unless the first one yielded. By their own
            clocks (`LeaderTenure`) no two lead an election at one moment, and later ones have larger tokens. What
            observers were told (`Sight`): the same leaders, tokens never going back.
wake-ups    Each `Notification` woke exactly as many as it said, nobody else was woken, nobody that waited all the time
            was passed over (`ConditionWait`), and everyone woken has the lock again or was told why not.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TypeVar

from cluck.testing.linearizability import Kind, Operation, check_operations, fit
from totem.testing.checkers import Violation

One = TypeVar("One")
Other = TypeVar("Other")

# ---- records


@dataclass(frozen=True, slots=True)
class Grant:
    """A lock server has made it final that a request has its lock."""

    name: bytes
    token: int
    request: Hashable
    kind: Kind
    at: float
    """When it was first granted in that view: a server that stood still learns late that it is final."""


@dataclass(frozen=True, slots=True)
class End:
    """A lock server has made it final that a lock is not held under this token any more, for whatever reason."""

    name: bytes
    token: int


@dataclass(frozen=True, slots=True)
class Load:
    """A lock server has taken over a state in which these hold locks; each with the time of the take-over."""

    grants: tuple[Grant, ...]


@dataclass(slots=True)
class Order:
    """What one life of a lock server made final, in its order, including what a change of servers made final."""

    server: Hashable
    events: list[Grant | End | Load] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Holding:
    """A client relies on a lock.

    One that an administrator took ends with the administrator's call: nobody promises that the holder knew by then.
    """

    who: Hashable
    name: bytes
    kind: Kind
    token: int
    since: float
    """When the client was told."""
    until: float = inf
    """Its call of release, its loss as it was told, its death, or its deadline: whichever was first."""


@dataclass(frozen=True, slots=True)
class Birth:
    """A lock server has begun with a state that was born, and was nobody's before."""

    epoch: int
    view: Hashable
    """The epoch in which it was born."""
    at: float


@dataclass(frozen=True, slots=True)
class Role:
    """A candidate was told that it leads (with a token), or that it does not any more (0)."""

    who: Hashable
    election: bytes
    token: int
    at: float
    stood: float = -inf
    """When it asked to be a candidate. Unknown: no statement about the tokens of others."""
    configuration: Hashable = None
    """The quorate view in which its server told it; None: unknown."""


@dataclass(frozen=True, slots=True)
class LeaderTenure:
    """A candidate believes that it leads an election."""

    who: Hashable
    election: bytes
    token: int
    since: float
    """When it was told."""
    until: float = inf
    """Its stepping down, by itself or as it was told, its death, or its deadline: whichever was first."""


@dataclass(frozen=True, slots=True)
class Sight:
    """An observer, which is one subscription at one server, was told who leads; None: nobody, or not known."""

    observer: Hashable
    election: bytes
    leader: Hashable | None
    token: int


class Waited(enum.Enum):
    """The end of a wait on a condition."""

    WOKEN = "woken"
    """By a notification."""
    OVER = "over"
    """Its time was over, or it was cancelled, before it was notified."""
    STILL = "still"
    """It still waits when the run ends."""
    UNKNOWN = "unknown"
    """Its client has ended, or was cut off: it may have been woken, or not."""


@dataclass(frozen=True, slots=True)
class ConditionWait:
    """A wait on a condition."""

    who: Hashable
    condition: bytes
    invoked: float
    outcome: Waited
    waiting: float = inf
    """When it was told that it waits; never: inf."""
    left: float = inf
    """When it asked not to wait any more, or its time was over; never: inf."""
    ended: float = inf
    """When it was told that it is woken, or over."""
    reacquires: bool = True
    settled: bool = True
    """After waking: when it had its lock again, or was told that it will not, or its client ended."""


@dataclass(frozen=True, slots=True)
class Notification:
    """A call that wakes one waiter of a condition, or everyone."""

    who: Hashable
    condition: bytes
    invoked: float
    returned: float
    count: int | None
    """The number of waiters that it said it woke; None: unknown."""
    everyone: bool = False


@dataclass(slots=True)
class Run:
    """All that is known of a run."""

    orders: list[Order] = field(default_factory=list)
    holdings: list[Holding] = field(default_factory=list)
    births: list[Birth] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    died: dict[Hashable, float] = field(default_factory=dict)
    """When clients ended: from then on the service may take what they hold."""
    roles: list[Role] = field(default_factory=list)
    """Of each candidate, in the order in which it was told."""
    yielded: set[int] = field(default_factory=set)
    """Tokens of leaderships that were resigned or expired, or whose candidates withdrew or ended."""
    tenures: list[LeaderTenure] = field(default_factory=list)
    sights: list[Sight] = field(default_factory=list)
    """Of each observer, in the order in which it was told."""
    waits: list[ConditionWait] = field(default_factory=list)
    notifies: list[Notification] = field(default_factory=list)


def check(run: Run) -> list[Violation]:
    """Return everything that is wrong in a run."""
    return [
        *check_orders(run.orders),
        *check_holdings(run.holdings),
        *check_births(run.births, [*run.holdings, *run.tenures]),
        *check_operations(run.operations, run.died),
        *check_roles(run.roles, run.yielded),
        *check_tenures(run.tenures),
        *check_sights(run.sights, run.roles),
        *check_wakeups(run.waits, run.notifies),
    ]


# ---- the service's order


def check_orders(orders: Iterable[Order]) -> Iterator[Violation]:
    """Find incompatible holders, and tokens that do not grow, in what lock servers made final."""
    first_seen: dict[int, Grant] = {}
    for order in orders:
        yield from _check_order(order)
        for event in order.events:
            for grant in event.grants if isinstance(event, Load) else (event,) if isinstance(event, Grant) else ():
                seen = first_seen.setdefault(grant.token, grant)
                if (seen.name, seen.request) != (grant.name, grant.request):
                    yield Violation("lock tokens", f"{grant} at {order.server}, elsewhere {seen}")
                elif grant.at < seen.at:
                    first_seen[grant.token] = grant
    latest: dict[bytes, Grant] = {}
    for _, grant in sorted(first_seen.items()):
        before = latest.setdefault(grant.name, grant)
        if grant.at < before.at:
            yield Violation("lock tokens", f"{before} was seen first, but only behind {grant}")
        latest[grant.name] = grant


def _check_order(order: Order) -> Iterator[Violation]:
    holders: defaultdict[bytes, dict[int, Grant]] = defaultdict(dict)
    largest: dict[bytes, int] = {}
    for event in order.events:
        match event:
            case Load(grants):
                holders.clear()
                for grant in grants:
                    holders[grant.name][grant.token] = grant
                    largest[grant.name] = max(largest.get(grant.name, 0), grant.token)
                for held in holders.values():
                    yield from _check_holders(order, held)
            case Grant(name, token):
                if token <= largest.get(name, 0):
                    yield Violation("lock tokens", f"{order.server}: {event} behind token {largest[name]}")
                largest[name] = max(largest.get(name, 0), token)
                holders[name][token] = event
                yield from _check_holders(order, holders[name])
            case End(name, token):
                if holders[name].pop(token, None) is None:
                    yield Violation("lock order", f"{order.server}: {event}, which nobody holds")


def _check_holders(order: Order, held: Mapping[int, Grant]) -> Iterator[Violation]:
    if not fit([grant.kind for grant in held.values()]):
        yield Violation("lock order", f"{order.server}: at one time {', '.join(map(str, held.values()))}")


# ---- clients in true time


def check_holdings(holdings: Iterable[Holding]) -> Iterator[Violation]:
    """Find clients that relied on incompatible locks at one time, and later ones without larger tokens."""
    by_name: defaultdict[bytes, list[Holding]] = defaultdict(list)
    for holding in holdings:
        if holding.since < holding.until:
            by_name[holding.name].append(holding)
    for ours in by_name.values():
        ours.sort(key=lambda holding: (holding.since, holding.token))
        yield from _check_intervals(ours)
        yield from _check_later_tokens(ours)


def _check_intervals(holdings: Iterable[Holding]) -> Iterator[Violation]:
    present: list[Holding] = []
    for holding in holdings:
        present = [other for other in present if other.until > holding.since]
        present.append(holding)
        if not fit([other.kind for other in present]):
            yield Violation("lock interval", f"at {holding.since}: {', '.join(map(str, present))}")


def _check_later_tokens(holdings: Iterable[Holding]) -> Iterator[Violation]:
    """Find pairs that exclude each other, by the order of their beginnings."""
    largest = largest_alone = 0
    for holding in holdings:
        is_alone = not fit([holding.kind, holding.kind])
        if holding.token <= (largest if is_alone else largest_alone):
            yield Violation("lock tokens", f"{holding} came behind token {largest if is_alone else largest_alone}")
        largest = max(largest, holding.token)
        if is_alone:
            largest_alone = max(largest_alone, holding.token)


def check_births(births: Iterable[Birth], held: Iterable[Holding | LeaderTenure] = ()) -> Iterator[Violation]:
    """Find states that were born with the epoch of another one, or while somebody held a lock, or led.

    Locks held by a later epoch's token do not matter: a server that stood still learns late of a birth long ago.
    """
    first: dict[int, Birth] = {}
    for birth in sorted(births, key=lambda birth: birth.at):
        other = first.setdefault(birth.epoch, birth)
        if other.view != birth.view:
            yield Violation("births epoch", f"{birth} and {other}")
    for what in held:
        for birth in first.values():
            if what.token >> 32 < birth.epoch and what.since < birth.at < what.until:
                yield Violation("births held", f"{birth}, while {what}")


# ---- leaders


def check_roles(roles: Sequence[Role], yielded: Collection[int] = ()) -> Iterator[Violation]:
    """Find what candidates should not have been told.

    `yielded`: tokens of leaderships that ended though the configuration did not.
    """
    leads: dict[tuple[Hashable, bytes], Role] = {}
    largest: dict[tuple[Hashable, bytes], int] = {}
    for role in roles:
        key = role.who, role.election
        before = leads.pop(key, None)
        if role.token:
            leads[key] = role
            if before is not None:
                yield Violation("leaders paired", f"{role} behind {before}, without an end of it")
            if role.token <= largest.get(key, 0):
                yield Violation("leaders tokens", f"{role} behind token {largest[key]}")
            largest[key] = max(largest.get(key, 0), role.token)
        elif before is None:
            yield Violation("leaders paired", f"{role}: it did not lead")
    leaders = [role for role in roles if role.token]
    yield from _check_one_for_a_token(leaders)
    yield from _check_one_in_a_configuration(leaders, yielded)
    yield from _check_tokens_in_time(leaders)


def _check_one_for_a_token(leaders: Iterable[Role]) -> Iterator[Violation]:
    seen: dict[tuple[bytes, int], Role] = {}
    for role in leaders:
        other = seen.setdefault((role.election, role.token), role)
        if other.who != role.who:
            yield Violation("leaders one", f"{role} and {other}")


def _check_one_in_a_configuration(leaders: Iterable[Role], yielded: Collection[int]) -> Iterator[Violation]:
    together: defaultdict[tuple[bytes, Hashable], dict[int, Role]] = defaultdict(dict)
    for role in leaders:
        if role.configuration is not None:
            together[role.election, role.configuration][role.token] = role
    for ours in together.values():
        *former, latest = (role for _, role in sorted(ours.items()))
        for role in former:
            if role.token not in yielded:
                yield Violation("leaders one", f"{role} and {latest}, in one configuration")


def _check_tokens_in_time(leaders: Sequence[Role]) -> Iterator[Violation]:
    """A candidate that stood when another one was leading already has the larger token."""
    told = sorted(leaders, key=lambda role: role.at)
    largest: dict[bytes, Role] = {}
    place = 0
    for role in sorted(leaders, key=lambda role: role.stood):
        while told[place].at < role.stood:
            latest = largest.setdefault(told[place].election, told[place])
            if told[place].token > latest.token:
                largest[told[place].election] = told[place]
            place += 1
        before = largest.get(role.election)
        if before is not None and role.token <= before.token:
            yield Violation("leaders tokens", f"{role} stood behind {before}")


def check_tenures(tenures: Iterable[LeaderTenure]) -> Iterator[Violation]:
    """Find candidates that led an election at one moment, and later leaderships without larger tokens."""
    latest: dict[bytes, LeaderTenure] = {}
    for tenure in sorted(tenures, key=lambda tenure: (tenure.since, tenure.token)):
        if tenure.since >= tenure.until:
            continue
        before = latest.setdefault(tenure.election, tenure)
        if before is not tenure:
            if before.until > tenure.since:
                yield Violation("leaders one at a time", f"{before} and {tenure}")
            if before.token >= tenure.token:
                yield Violation("leaders tokens", f"{tenure} came behind {before}")
        if tenure.until >= before.until:
            latest[tenure.election] = tenure


def check_sights(sights: Iterable[Sight], roles: Iterable[Role] = ()) -> Iterator[Violation]:
    """Find leaders that observers should not have been told of."""
    leaders: dict[tuple[bytes, int], Hashable] = {(role.election, role.token): role.who for role in roles}
    largest: dict[tuple[Hashable, bytes], int] = {}
    for sight in sights:
        if sight.leader is None:
            continue
        key = sight.observer, sight.election
        if sight.token < largest.get(key, 0):
            yield Violation("leaders tokens", f"{sight} behind token {largest[key]}")
        largest[key] = max(largest.get(key, 0), sight.token)
        leader = leaders.setdefault((sight.election, sight.token), sight.leader)
        if leader != sight.leader:
            yield Violation("leaders one", f"{sight}, but to others it is {leader}")


# ---- conditions


def check_wakeups(waits: Iterable[ConditionWait], notifies: Iterable[Notification]) -> Iterator[Violation]:
    """Find notifications that were lost, or that woke others than they said."""
    for wait in waits:
        if wait.outcome is Waited.WOKEN and wait.reacquires and not wait.settled:
            yield Violation("wake-ups settled", f"{wait}: it was woken and neither has its lock nor knows why")
    by_condition: defaultdict[bytes, tuple[list[ConditionWait], list[Notification]]] = defaultdict(lambda: ([], []))
    for wait in waits:
        by_condition[wait.condition][0].append(wait)
    for notify in notifies:
        by_condition[notify.condition][1].append(notify)
    for ours, theirs in by_condition.values():
        yield from _check_woken(ours, theirs)
        for notify in theirs:
            yield from _check_passed_over(ours, notify)


def _check_woken(waits: Sequence[ConditionWait], notifies: Sequence[Notification]) -> Iterator[Violation]:
    """Find woken waiters without a notification, and notifications without all the waiters that they say they woke.

    If both can be matched, each by itself, they can be matched together (Mendelsohn and Dulmage, 1958).
    """
    woken = [wait for wait in waits if wait.outcome is Waited.WOKEN]
    perhaps = [wait for wait in waits if wait.outcome is Waited.UNKNOWN]
    for notify in notifies:
        if notify.count is not None and notify.count > 1 and not notify.everyone:
            yield Violation("wake-ups count", f"{notify}: it was to wake one")
    sources = [source for notify in notifies for source in [notify] * _most(notify, len(woken))]
    for wait in _unmatched(woken, sources, lambda wait, notify: _may_have_woken(notify, wait)):
        yield Violation("wake-ups count", f"{wait}: nobody says that they woke it")
    told = [notify for notify in notifies for _ in range(notify.count or 0)]
    for notify in dict.fromkeys(_unmatched(told, woken + perhaps, _may_have_woken)):
        yield Violation("wake-ups count", f"{notify}: so many have not been woken")


def _most(notify: Notification, everyone: int) -> int:
    """Return how many waiters a notification may have woken."""
    if notify.count is not None:
        return notify.count
    return everyone if notify.everyone else 1


def _may_have_woken(notify: Notification, wait: ConditionWait) -> bool:
    returned = notify.returned if notify.count is not None else inf
    ended = wait.ended if wait.outcome is Waited.WOKEN else inf
    return notify.invoked <= ended and wait.invoked <= returned


def _unmatched(ones: Sequence[One], others: Sequence[Other], may: Callable[[One, Other], bool]) -> Iterator[One]:
    """Return those without a partner in a largest matching."""
    partners: dict[int, int] = {}
    """Their partners among the others, by place."""
    taken: dict[int, int] = {}
    """The others' partners among them."""

    def find(one: int) -> bool:
        """Find a partner, if need be by having others take another one."""
        came_from: dict[int, int] = {}
        asking = [one]
        while asking:
            asker = asking.pop()
            for other in range(len(others)):
                if other in came_from or not may(ones[asker], others[other]):
                    continue
                came_from[other] = asker
                if other in partners:
                    asking.append(partners[other])
                    continue
                free = other
                while True:
                    mover = came_from[free]
                    before = taken.get(mover)
                    partners[free], taken[mover] = mover, free
                    if before is None:
                        return True
                    free = before
        return False

    yield from (ones[one] for one in range(len(ones)) if not find(one))


def _check_passed_over(waits: Iterable[ConditionWait], notify: Notification) -> Iterator[Violation]:
    """A waiter that waited before the call and after its return was in the queue, and was not woken."""
    if notify.count is None or (notify.count and not notify.everyone):
        return
    for wait in waits:
        is_unwoken = wait.outcome in (Waited.OVER, Waited.STILL)
        if is_unwoken and wait.waiting < notify.invoked and notify.returned < wait.left:
            yield Violation("wake-ups lost", f"{notify}: {wait} waited all the time")
