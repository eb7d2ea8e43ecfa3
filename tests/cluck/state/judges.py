"""Judges: simple models that believe outcomes alone, and complain about impossible ones."""

import re
from functools import cmp_to_key
from typing import NamedTuple

from cluck.commands import (
    Chosen,
    Close,
    Commit,
    Depose,
    Ended,
    EndWait,
    Expire,
    Gone,
    Granted,
    Lapsed,
    Leadership,
    Mode,
    Next,
    Notified,
    Notify,
    Publish,
    Refused,
    Renew,
    Renewed,
    Resign,
    Revoke,
    RoundOpened,
    Standing,
    Status,
    Wait,
    Waiting,
    Why,
    Withdraw,
    Woken,
)


class TicketJudge:
    """Knows who holds what."""

    def __init__(self):
        self.held = {}
        self.kinds = {}
        """Of each request: name, mode, permits."""
        self.last_token = 0
        self.led = set()
        """Tokens of leaderships."""

    def judge(self, table, outcomes):
        for outcome in outcomes:
            if isinstance(outcome, Granted) and outcome.request not in self.held:
                assert outcome.token > self.last_token
                self.last_token = outcome.token
                self.held[outcome.request] = outcome.token
            elif isinstance(outcome, Ended) and outcome.token == self.held.get(outcome.request):
                del self.held[outcome.request]
            elif isinstance(outcome, Leadership) and outcome.token and outcome.token not in self.led:
                assert outcome.token > self.last_token
                self.last_token = outcome.token
                self.led.add(outcome.token)
        by_name = {}
        for request in self.held:
            name, mode, permits = self.kinds[request]
            by_name.setdefault((name, permits), []).append(mode)
        for (name, permits), held in by_name.items():
            if permits:
                assert len(held) <= permits, name
            elif len(held) > 1:
                assert set(held) == {Mode.SHARED}, name
        for name, lock in table.locks.items():
            assert lock.holders, f"{name} is held by nobody, and {lock.waiting} wait"
            if lock.waiting:
                assert not lock.admits(lock.waiting[0])
        assert {t.request: t.token for t in table.tickets() if t.token} == self.held
        assert not deadlocked(table)


def deadlocked(table):
    """Return the owners of locks in a circle of waiting, found by trying what could still end."""
    alive = {ticket.request.owner for ticket in table.tickets()}
    waits = {}
    for lock in table.locks.values():
        if lock.permits:
            continue
        for place, ticket in enumerate(lock.waiting):
            before = [*lock.holders, *lock.waiting[:place]]
            waits.setdefault(ticket.request.owner, set()).update(
                t.request.owner for t in before if not (ticket.is_shared and t.is_shared)
            )
    ended = True
    while ended:
        ended = {owner for owner in alive if not waits.get(owner, set()) & alive}
        alive -= ended
    return alive


class ConditionJudge:
    """Knows who waits, and who must be woken by what: each once, in order, no client that has ended."""

    def __init__(self):
        self.waiting = {}
        """By condition: requests with the lock that they released."""

    def drop(self, is_dropped):
        for name, waiters in list(self.waiting.items()):
            self.waiting[name] = [waiter for waiter in waiters if not is_dropped(waiter[0])]

    def expected(self, command, tickets):
        """Return whom a new command wakes; of a waiting one, its answer."""
        match command:
            case Wait(request, condition, lock, token):
                waiters = self.waiting.setdefault(condition, [])
                held = {(tickets.kinds[r][0], t): r for r, t in tickets.held.items()}.get((lock, token))
                if held is None or held.owner.client != request.owner.client:
                    return [Refused(request, Why.NOT_HELD)]
                if waiters and waiters[0][1] != lock:
                    return [Refused(request, Why.WRONG_LOCK)]
                waiters.append((request, lock))
                tickets.kinds[request] = tickets.kinds[held]
                return [Waiting(request)]
            case Notify(request, condition, everyone):
                waiters = self.waiting.setdefault(condition, [])
                woken = waiters[:] if everyone else waiters[:1]
                del waiters[: len(woken)]
                return [*(Woken(waiter, True) for waiter, _ in woken), Notified(request, len(woken))]
            case EndWait(request):
                woken = [w for waiters in self.waiting.values() for w, _ in waiters if w == request]
                self.drop(lambda waiter: waiter == request)
                return [Woken(waiter, False) for waiter in woken]
            case Withdraw(request):
                self.drop(lambda waiter: waiter == request)
        return []

    def judge(self, state, command, outcomes, tickets):
        """Judge the outcomes of a command that came for the first time; before the judge of tickets does."""
        expected = self.expected(command, tickets)
        mine = (Waiting, Woken, Notified)
        assert [o for o in outcomes if isinstance(o, mine)] == [o for o in expected if isinstance(o, mine)]
        assert all(o in outcomes for o in expected)
        for place, outcome in enumerate(outcomes):
            if isinstance(outcome, Woken) and state.present(outcome.request):
                assert outcomes[place + 1].request == outcome.request, "its lock follows"
        self.compare(state)

    def compare(self, state):
        there = {name: c.waiters for name, c in state.conditions.by_name.items()}
        assert {name: [w.ticket.request for w in waiters] for name, waiters in there.items()} == {
            name: [request for request, _ in waiters] for name, waiters in self.waiting.items() if waiters
        }


class Standings:
    """What a judge knows of one election."""

    def __init__(self):
        self.standing = {}
        self.round = 0
        self.asked = None
        """While a round is open: the answer of each."""
        self.winner = self.named = self.leader = self.lately = None
        self.token = self.version = self.renewals = 0
        self.lasts = False
        """Something may be done by the leadership with this token, which was that of `lately` or `leader`."""


class Restarted(NamedTuple):
    """Machines were restarted: in the place of a command."""

    clients: list
    """The clients that have ended with them."""


class ElectionJudge:
    """There is at most one leader, chosen by the rules, and none while the one before may act. Events come in pairs,
    and something can move every election on.
    """

    def __init__(self):
        self.elections = {}
        self.last_token = 0

    def drop(self, is_dropped):
        """The candidates that withdrew; the end of a leadership is to be reported for it."""
        for election in self.elections.values():
            election.standing = {r: c for r, c in election.standing.items() if not is_dropped(r)}
            if election.asked is not None:
                election.asked = {r: s for r, s in election.asked.items() if r in election.standing}

    def judge(self, state, command, outcomes, is_new=True):
        if isinstance(command, Status):
            for election in self.elections.values():
                asked = election.asked or {}
                if command.round == election.round and asked.get(command.candidate, 0) is None:
                    asked[command.candidate] = command
        for outcome in outcomes if is_new else ():
            if isinstance(outcome, Standing):
                election = self.elections.setdefault(command.election, Standings())
                election.standing[outcome.request] = (command.address, command.port)
            elif isinstance(outcome, Renewed) and isinstance(command, Renew):
                self._judge_renewed(command, outcome)
            elif isinstance(outcome, RoundOpened | Chosen | Leadership | Lapsed):
                name = re.sub("(?<=[a-z])(?=[A-Z])", "_", type(outcome).__name__).lower()
                getattr(self, f"_judge_{name}")(self.elections[outcome.election], command, outcome)
        self.compare(state)

    def _judge_renewed(self, command, renewed):
        leading = (one for one in self.elections.values() if one.lasts and one.token == command.token)
        election = next(leading, None)
        if election is not None:
            assert renewed.request == (election.leader or election.lately) in election.standing
            assert (command.token, renewed.token, renewed.renewals) == (election.token,) * 2 + (election.renewals + 1,)
            election.renewals += 1
            election.asked = election.winner = election.named = None

    def _judge_lapsed(self, election, command, lapsed):
        assert election.lasts
        assert election.leader is None
        assert lapsed.token == election.token
        match command:
            case Expire(_, token, renewals):
                assert (token, renewals) == (election.token, election.renewals)
            case Resign(_, token):
                assert token == election.token
            case Withdraw(request):
                assert request == election.lately
            case Gone(client):
                assert client == election.lately.owner.client
            case Restarted(clients):
                assert election.lately.owner.client in clients
            case _:
                raise AssertionError(f"{command} proves nothing")
        election.lasts = False

    def _judge_round_opened(self, election, command, asked):
        is_sought = election.asked is not None or election.winner is not None or election.named is not None
        assert election.leader is None or is_sought or isinstance(command, Revoke)
        assert asked.round > election.round
        assert asked.candidates
        assert set(asked.candidates) <= set(election.standing)
        others = set(election.standing)
        if isinstance(command, Depose):
            others.discard(command.candidate)
        if isinstance(command, Resign | Expire):
            others.discard(election.lately)
        if isinstance(command, Revoke):
            others.discard(election.leader)
        assert set(asked.candidates) == (others or set(election.standing))
        election.round, election.asked = asked.round, dict.fromkeys(asked.candidates)
        election.winner = election.named = None

    def _judge_chosen(self, election, command, chosen):
        if not chosen.is_next:
            assert chosen.round == election.round
            answered = {r: s for r, s in election.asked.items() if s is not None}
            assert answered == election.asked or isinstance(command, Close)
            assert chosen.candidate == self._best(election, answered)
            election.winner = chosen.candidate
        elif isinstance(command, Resign) and chosen.candidate == command.to:
            assert chosen.round >= election.round
            election.round = chosen.round
        elif isinstance(command, Resign | Expire | Gone | Withdraw | Restarted):
            assert not election.lasts
            assert (chosen.round, chosen.candidate) == (election.round, election.named)
        else:
            assert isinstance(command, Next)
            assert (chosen.round, chosen.candidate) == (election.round, election.winner)
        if chosen.is_next:
            election.named = chosen.candidate
        election.asked = None

    @staticmethod
    def _best(election, answered):
        """As FastDFS does it: sorted with a comparator, the last one wins."""

        def compare(a, b):
            (one, (address, port)), (other, (other_address, other_port)) = (
                (answered[r], election.standing[r]) for r in (a, b)
            )
            for x, y in (
                (one.running - one.running % 300, other.running - other.running % 300),
                (
                    other.restart_interval - other.restart_interval % 300,
                    one.restart_interval - one.restart_interval % 300,
                ),
                (address, other_address),
                (port, other_port),
            ):
                if x != y:
                    return -1 if x < y else 1
            return 0

        return sorted((r for r in reversed(election.standing) if r in answered), key=cmp_to_key(compare))[-1]

    def _judge_leadership(self, election, command, told):
        if told.leader is None:
            assert election.leader is not None, "an end without a beginning"
            election.lately, election.leader = election.leader, None
            assert election.lasts
        elif isinstance(command, Renew):
            assert election.lasts
            assert election.leader is None
            assert (told.leader, told.token, told.version) == (election.lately, election.token, election.version)
            election.leader = told.leader
        elif isinstance(command, Publish):
            election.version += 1
            assert (told.leader, told.token) == (election.leader, election.token) == (told.leader, command.token)
            assert (told.version, told.blob) == (election.version, command.blob)
        else:
            assert isinstance(command, Commit)
            assert election.leader is None
            assert not election.lasts, "two leaders"
            assert told.leader == election.named == command.candidate
            assert command.round == election.round
            assert told.token > self.last_token
            assert (told.version, told.blob) == (0, b"")
            self.last_token = told.token
            election.leader, election.token = told.leader, told.token
            election.lasts, election.renewals, election.version = True, 0, 0
            election.winner = election.named = None
        if told.leader is not None:
            assert (told.address, told.port) == election.standing[told.leader]

    def compare(self, state):
        for name, election in list(self.elections.items()):
            if not election.standing:
                assert election.leader is None
            if not election.standing and not election.lasts:
                assert name not in state.elections.by_name
                del self.elections[name]
                continue
            there = state.elections.by_name[name]
            assert (there.tenure is not None) == election.lasts
            assert [c.request for c in there.candidates] == list(election.standing)
            assert state.elections.of(name).leader == election.leader
            if election.asked:
                assert None in election.asked.values(), "nobody is missing, and the round is open"
            elif election.standing:
                assert (election.leader or election.named or election.winner) in election.standing
        assert set(state.elections.by_name) == set(self.elections)
