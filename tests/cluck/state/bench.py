"""A replicated state on the bench, and short names for the commands of clients A, B, C …."""

from cluck.commands import (
    Acquire,
    ClientId,
    Close,
    Commit,
    Depose,
    Expire,
    Granted,
    Leadership,
    Mode,
    Next,
    Notify,
    Owner,
    Publish,
    Release,
    Renew,
    RequestId,
    Resign,
    Revoke,
    Stand,
    Status,
    Wait,
)
from cluck.state.machine import LockState
from cluck.state.tokens import TOKENS_OF_AN_EPOCH
from cpg.replication.electorate import Electorate, Voters
from cpg.replication.identities import ServerId

FIRST = 7 * TOKENS_OF_AN_EPOCH + 1
HERE, THERE = ServerId(1, 99), ServerId(1, 98)
"""Two lives of one node's server."""


class Bench:
    """Each client has one task, and speaks through the server here, unless said otherwise."""

    def __init__(self):
        self.state = LockState(7, Voters(1, 1, Electorate({1: 1})))
        self.state.longest_promise = 86400.0
        self.table = self.state.table
        self.numbers = {}
        self.granted = {}
        """By token: the request that was granted it, or the candidate that was to lead under it."""

    def apply(self, command, server=HERE):
        outcomes = self.state.apply(command, server)
        for outcome in outcomes:
            if isinstance(outcome, Granted):
                self.granted[outcome.token] = outcome.request
            elif isinstance(outcome, Leadership):
                self.granted[outcome.token] = outcome.leader
        return outcomes

    def request(self, who, task=0):
        client = ClientId(HERE, ord(who))
        self.numbers[client] = self.numbers.get(client, 0) + 1
        return RequestId(Owner(client, task), self.numbers[client])

    # ---- locks

    def acquire(self, who, name="lock", mode=Mode.EXCLUSIVE, task=0, **options):
        request = self.request(who, task)
        return request, self.apply(Acquire(request, name.encode(), mode, **options))

    def release(self, token):
        return self.apply(Release(self.granted[token], token))

    # ---- conditions

    def wait(self, who, token, condition="condition", lock="lock", server=HERE, **options):
        request = self.request(who)
        return request, self.apply(Wait(request, condition.encode(), lock.encode(), token, **options), server)

    def acquire_and_wait(self, who, condition="condition", lock="lock", mode=Mode.EXCLUSIVE, permits=0, **options):
        _, outcomes = self.acquire(who, lock, mode, permits=permits)
        request, outcomes = self.wait(who, outcomes[0].token, condition, lock, **options)
        return request

    def notify(self, condition="condition", **options):
        """Return the outcomes without the answer to the client that notifies."""
        *outcomes, notified = self.apply(Notify(self.request("N"), condition.encode(), **options))
        assert notified.request.owner.client.number == ord("N")
        return outcomes

    # ---- elections

    def stand(self, who, address="", port=0, server=HERE, **options):
        request = self.request(who)
        return request, self.apply(Stand(request, b"election", address.encode(), port, **options), server)

    def status(self, candidate, round=1, running=0.0, restart_interval=0.0):
        return self.apply(Status(candidate, round, running, restart_interval))

    def close(self, round=1):
        return self.apply(Close(b"election", round))

    def next(self, candidate, round=1):
        return self.apply(Next(b"election", round, candidate))

    def commit(self, candidate, round=1):
        return self.apply(Commit(b"election", round, candidate))

    def elect(self, candidate, round=1):
        """Give the commands that remain when the others have answered."""
        self.status(candidate, round, running=1e6)
        self.close(round)
        self.next(candidate, round)
        return self.commit(candidate, round)

    def resign(self, token, to=None):
        return self.apply(Resign(self.granted[token], token, to))

    def renew_lead(self, token):
        return self.apply(Renew(self.granted[token], token))

    def revoke_lead(self, token, renewals=0):
        return self.apply(Revoke(b"election", token, renewals))

    def expire_lead(self, token, renewals=0):
        return self.apply(Expire(b"election", token, renewals))

    def depose(self, candidate, round=1):
        return self.apply(Depose(b"election", round, candidate))

    def publish(self, who, token, blob=b"blob", **options):
        request = self.request(who)
        return request, self.apply(Publish(request, b"election", token, blob, **options))
