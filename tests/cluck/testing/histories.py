"""Histories of clients of one lock: valid ones by a model with dice and a clock, and a simple twin of the check."""

import heapq
from collections import defaultdict
from dataclasses import replace
from math import inf

from cluck.testing.linearizability import EXCLUSIVE, SHARED, Kind, Operation, Outcome, What, fit

LOCK = b"lock"
LEASE = 5.0


class Model:
    """A lock, its clients, and their records. Everything happens where the dice say, at the time of the model."""

    def __init__(self, dice, kinds=(EXCLUSIVE,), clients=4, trouble=0.1):
        """`trouble`: how often an outcome is unknown, or a client ends."""
        self.dice = dice
        self.kinds = kinds
        self.trouble = trouble
        self.now = 0.0
        self.token = 0
        self.holds = {}
        """(kind, deadline, who, token or None), by a number."""
        self.free_at = dict.fromkeys(range(clients), 0.0)
        self.known = defaultdict(list)
        """What each client believes that it holds: numbers of holds."""
        self.kind_of, self.token_of = {}, {}
        self.operations = []
        self.died = {}
        self._later = []

    def run(self, count):
        """Return the operations, and when clients ended."""
        while len(self.operations) < count:
            self.now += self.dice.expovariate(len(self.free_at) / 3)
            while self._later and self._later[0][0] <= self.now:
                self.holds.pop(heapq.heappop(self._later)[1], None)
            for number, (_, deadline, who, _) in list(self.holds.items()):
                if min(deadline, self.died.get(who, inf)) <= self.now and self.dice.random() < 0.3:
                    del self.holds[number]
            idle = [who for who, at in self.free_at.items() if at < self.now and who not in self.died]
            if idle:
                self._act(self.dice.choice(idle))
        return self.operations, self.died

    def _act(self, who):
        known = self.known[who]
        if self.dice.random() < self.trouble / 10 and len(self.died) < len(self.free_at) - 1:
            self.died[who] = self.now
        elif known and self.dice.random() < 0.8:
            self._go_on(who, self.dice.choice(known))
        else:
            self._acquire(who)

    def _times(self, who, until=None):
        """A call and a return around now, and nothing else of this client at that time."""
        now = self.now
        invoked = self.dice.uniform(max(self.free_at[who], now - 20), now)
        returned = (until or now) + self.dice.expovariate(1)
        self.free_at[who] = returned
        return invoked, returned

    def _acquire(self, who):
        kind = self.dice.choice(self.kinds)
        does_fit = fit([*(hold[0] for hold in self.holds.values()), kind])
        is_known = self.dice.random() > self.trouble
        if not does_fit:
            outcome = self.dice.choice([Outcome.BUSY, Outcome.WITHDRAWN]) if is_known else Outcome.UNKNOWN
            if kind.shared and outcome is Outcome.BUSY and self.dice.random() < 0.5:
                outcome = Outcome.FAILED
            self._note(who, What.ACQUIRE, outcome, kind=kind)
            return
        self.token += self.dice.randint(1, 3)
        number = len(self.operations)
        outcome = Outcome.OK if is_known else self.dice.choice([Outcome.UNKNOWN, Outcome.WITHDRAWN])
        end = self.now + self.dice.expovariate(1) if outcome is Outcome.WITHDRAWN else None
        invoked, returned = self._times(who, end)
        until = invoked + LEASE
        self.holds[number] = kind, until, who, self.token
        if end is not None:
            heapq.heappush(self._later, (end, number))
        if outcome is Outcome.OK:
            self.known[who].append(number)
            self.kind_of[number], self.token_of[number] = kind, self.token
        token = self.token if outcome is Outcome.OK else 0
        self.operations.append(Operation(who, LOCK, What.ACQUIRE, invoked, returned, outcome, token, kind, until))

    def _go_on(self, who, number):
        """Renew or release what the client believes that it holds."""
        token = self.token_of[number]
        held = self.holds.get(number)
        is_known = self.dice.random() > self.trouble
        if self.dice.random() < 0.4:
            outcome = (Outcome.OK if held else Outcome.LOST) if is_known else Outcome.UNKNOWN
            one = self._note(who, What.RENEW, outcome, token)
            if held and (is_known or self.dice.random() < 0.5):
                self.holds[number] = (held[0], max(held[1], one.until), *held[2:])
            return
        self.known[who].remove(number)
        self._note(who, What.RELEASE, (Outcome.OK if held else Outcome.LOST) if is_known else Outcome.UNKNOWN, token)
        if is_known:
            self.holds.pop(number, None)
        else:
            heapq.heappush(self._later, (self.now + self.dice.expovariate(0.1), number))

    def _note(self, who, what, outcome, token=0, kind=EXCLUSIVE):
        invoked, returned = self._times(who)
        one = Operation(who, LOCK, what, invoked, returned, outcome, token, kind, invoked + LEASE)
        self.operations.append(one)
        return one


KINDS = {
    "exclusive": (EXCLUSIVE,),
    "shared": (EXCLUSIVE, SHARED, SHARED),
    "semaphore": (Kind(permits=3),),
}


def spoil(dice, operations):
    """Change one of the operations a little; the history may still be valid."""
    place = dice.randrange(len(operations))
    one = operations[place]
    tokens = [other.token for other in operations if other.token]
    changes = [
        {"outcome": dice.choice([Outcome.OK, Outcome.LOST])}
        if one.what is not What.ACQUIRE
        else {"until": one.until + 9},
        {"invoked": one.invoked + dice.choice([-3, 3])},
        {"returned": one.returned + dice.choice([-3, 3])},
        {"token": dice.choice(tokens)} if one.token else {"outcome": Outcome.BUSY},
    ]
    change = dice.choice(changes)
    try:
        spoiled = replace(one, **change)
    except ValueError:  # that is no operation
        return operations
    return [*operations[:place], spoiled, *operations[place + 1 :]]


def is_history(operations, died):
    """Return whether one lock could have said so, by trying everything at every place. For a few operations."""
    told = {}
    for number, one in enumerate(operations):
        if one.what is What.ACQUIRE and one.outcome is Outcome.OK and told.setdefault(one.token, number) != number:
            return False
    steps = [number for number, one in enumerate(operations) if _says_something(one, told)]
    musts = frozenset(number for number in steps if operations[number].outcome is not Outcome.UNKNOWN)
    mays = frozenset(number for number in steps if operations[number].outcome in (Outcome.UNKNOWN, Outcome.WITHDRAWN))
    seen = set()

    def go(musts, mays, holds, latest):
        """`mays`: what may have effect, if it has not had; of withdrawn ones the grant is there, the end in `musts`."""
        if not musts:
            return True
        if (musts, mays, holds, latest) in seen:
            return False
        seen.add((musts, mays, holds, latest))
        horizon = min(operations[number].returned for number in musts)
        for number, until in holds:
            if min(until, died.get(operations[number].who, inf)) <= horizon and go(
                musts, mays, holds - {(number, until)}, latest
            ):
                return True
        for number in (*musts, *mays):
            if operations[number].invoked > horizon:
                continue
            for is_may in {number in mays, number not in musts}:
                done = effect(number, is_may, holds, latest)
                if done is not None and go(musts if is_may else musts - {number}, mays - {number}, *done):
                    return True
        return False

    def effect(number, is_may, holds, latest):
        one = operations[number]
        on = number if one.what is What.ACQUIRE else told[one.token]
        held = next((hold for hold in holds if hold[0] == on), None)
        kinds = [operations[other].kind for other, _ in holds]
        does_fit = fit([*kinds, one.kind])
        less = holds - {held} if held else holds
        match one.what, one.outcome:
            case What.ACQUIRE, Outcome.OK:
                fits = does_fit and one.token > latest
                return (holds | {(number, one.until)}, one.token) if fits else None
            case What.ACQUIRE, Outcome.BUSY:
                return (holds, latest) if kinds and (one.kind.shared or not does_fit) else None
            case What.ACQUIRE, _ if is_may:
                return (holds | {(number, one.until)}, latest) if does_fit else None
            case What.ACQUIRE, Outcome.WITHDRAWN:
                return less, latest
            case _, Outcome.LOST:
                return None if held else (holds, latest)
            case _ if held is None:
                return None
            case What.RELEASE, _:
                return less, latest
            case What.RENEW, _:
                return less | {(on, max(held[1], one.until))}, latest
        raise AssertionError(one)

    return go(musts, mays, frozenset(), 0)


def _says_something(one, told):
    return one.outcome is not Outcome.FAILED and (one.what is What.ACQUIRE or one.token in told)
