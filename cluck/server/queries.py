"""What a lock server reports about itself to people and their programs: plain values, sent as JSON.

An answer may be long, and there is other work. So it is made part by part, one in a turn, for the clients in turn. Two
locks of one answer may be shown as of different moments.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from heapq import heapify, heappop
from typing import TYPE_CHECKING, Any, Final, TypeVar

from msgspec import json

from cluck.commands import RequestId
from cluck.protocol import MOST_QUESTIONS, Answer, Ask, Malformed
from cluck.server.local_clients import LocalClient
from cpg.replication.electorate import Voters

if TYPE_CHECKING:
    from cluck.server.service import Service
    from cluck.state.conditions import ConditionQueue
    from cluck.state.elections import Election, Tenure
    from cluck.state.lock_table import Lock, Ticket

Named = TypeVar("Named")

PART: Final = 64 * 1024
"""Bytes of a part of an answer."""


class Queries:
    """The questions of a lock server's clients that are not answered yet."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._open: dict[LocalClient, deque[Iterator[Answer]]] = {}
        """By client; the client that comes first in the next turn is first."""

    def add(self, local: LocalClient, query: Ask) -> None:
        """Take a question. Raises Malformed where the client has too many open."""
        waiting = self._open.setdefault(local, deque())
        if len(waiting) >= MOST_QUESTIONS:
            raise Malformed(f"a question with {MOST_QUESTIONS} others open")
        waiting.append(answers(self._service, query))

    @property
    def are_open(self) -> bool:
        """Return whether there are any. Hot: once for each turn."""
        return bool(self._open)

    @property
    def are_due(self) -> bool:
        """Return whether a part can be sent now."""
        return any(not local.is_behind() for local in self._open)

    def advance(self) -> None:
        """Send one part of one answer to the next client that reads."""
        for local in list(self._open):
            waiting = self._open.pop(local)
            if local.send is None:
                continue  # it asks again when it is back
            self._open[local] = waiting
            if not local.is_behind():
                part = next(waiting[0])
                local.reply(part)
                if part.is_last:
                    waiting.popleft()
                if not waiting:
                    del self._open[local]
                return


def answers(service: Service, query: Ask) -> Iterator[Answer]:
    """Answer a client's question, in parts that are made as they are taken."""
    body = bytearray()
    for piece in pieces(service, query.question):
        body += piece
        while len(body) > PART:
            yield Answer(query.number, bytes(body[:PART]), False)
            del body[:PART]
    yield Answer(query.number, bytes(body), True)


def pieces(service: Service, question: str) -> Iterator[bytes]:
    """Return the JSON that answers a question, in pieces."""
    state = service.replica.state
    match question:
        case "status":
            yield json.encode(status(service))
        case "leaders":
            yield json.encode(leaders(service))
        case "tickets":
            locks = state.table.locks if state is not None else {}
            yield from _array(_lock(service, name, lock) for name, lock in _by_name(locks))
        case "elections":
            elections = state.elections.by_name if state is not None else {}
            yield from _array([json.encode(_election(service, election))] for _, election in _by_name(elections))
        case "conditions":
            conditions = state.conditions.by_name if state is not None else {}
            yield from _array([json.encode(_condition(*item))] for item in _by_name(conditions))
        case _:
            text = f"{question!r} is no question: status, tickets, leaders, elections, conditions"
            yield json.encode({"error": text})


def _by_name(named: Mapping[bytes, Named]) -> Iterator[tuple[bytes, Named]]:
    """Return named things by name, each as it is when its turn comes."""
    names = list(named)
    heapify(names)  # to sort all of them would take long, with many
    while names:
        name = heappop(names)
        if name in named:
            yield name, named[name]


def _array(items: Iterable[Iterable[bytes]]) -> Iterator[bytes]:
    """Join JSON values to an array."""
    between = b"["
    for item in items:
        yield between
        yield from item
        between = b","
    yield b"[]" if between == b"[" else b"]"


def status(service: Service) -> dict[str, Any]:
    """Return whether requests are answered, and why not; who is there."""
    replica, state = service.replica, service.replica.state
    voters = replica.voters or Voters(0, 0, replica.settings.electorate)
    electorate = voters.electorate
    ready, why = service.readiness
    present = {member.node_id for member in replica.servers}
    return {
        "ready": ready,
        "why": why,
        "phase": str(replica.phase),
        "node": replica.member.node_id,
        "priority": replica.settings.priority or "off",
        "servers": [{"node": member.node_id, "pid": member.pid} for member in sorted(replica.servers)],
        "leaders": [member.node_id for member in replica.leaders],
        "votes": sum(electorate.votes.get(node, 0) for node in present),
        "expected_votes": sum(electorate.votes.values()),
        "missing": list(voters.missing(present)),
        "voters": {
            "cluster": f"{voters.cluster:x}",
            "version": voters.version,
            **electorate.to_dict(),
            "former": voters.former.to_dict() if voters.former is not None else None,
        },
        "differences": list(replica.differences),
        "epoch": state.tokens.epoch if state is not None else 0,
        "longest_lease": state.longest_promise if state is not None else 0.0,
        "locks": len(state.table.locks) if state is not None else 0,
        "tickets": len(state.table.tickets()) if state is not None else 0,
        "clients": len(service.clients),
        "disk": replica.disk_fault,
    }


def _lock(service: Service, name: bytes, lock: Lock) -> Iterator[bytes]:
    """Return a lock with its holders and waiters."""
    yield b'{"name":%b,"permits":%d,"holders":' % (json.encode(name_as_text(name)), lock.permits)
    yield from _array([json.encode(_holder(service, ticket))] for ticket in tuple(lock.holders))
    yield b',"waiting":'
    yield from _array(
        [json.encode({**who(ticket.request), "mode": ticket.mode.name.lower()})] for ticket in lock.waiting
    )
    yield b"}"


def _holder(service: Service, ticket: Ticket) -> dict[str, Any]:
    return {
        **who(ticket.request),
        "mode": ticket.mode.name.lower(),
        "token": ticket.token,
        "left": max(0.0, round(service.leases.left(ticket, service.now), 3)),
        "grace": ticket.grace,
        "unlocking": ticket.is_revoked,
    }


def leaders(service: Service) -> list[dict[str, Any]]:
    """Return the leaders of the service: the first proposes, the others stand by."""
    replica = service.replica
    return [{"node": member.node_id, "pid": member.pid} for member in replica.leaders]


def _election(service: Service, election: Election) -> dict[str, Any]:
    """Return an election with its candidates and its leader."""
    return {
        "name": name_as_text(election.name),
        "round": election.round,
        **_leader(service, election.tenure),
        "candidates": [
            {**who(candidate.request), "address": name_as_text(candidate.address), "port": candidate.port}
            for candidate in election.candidates
        ],
    }


def _leader(service: Service, tenure: Tenure | None) -> dict[str, Any]:
    """Return the leader; or the `former` one, which may not know that it leads no more."""
    shown: dict[str, Any] = {"leader": None, "token": 0, "version": 0}
    if tenure is None:
        return shown
    lease = {"left": round(service.leases.left(tenure, service.now), 3), "grace": tenure.grace}
    if tenure.is_ending:
        return {**shown, "former": {**who(tenure.request), "token": tenure.token, **lease}}
    return {"leader": who(tenure.request), "token": tenure.token, "version": tenure.version, **lease}


def _condition(name: bytes, condition: ConditionQueue) -> dict[str, Any]:
    """Return a condition with its waiters."""
    return {
        "name": name_as_text(name),
        "lock": name_as_text(condition.lock),
        "waiting": [who(waiter.ticket.request) for waiter in condition.waiters],
    }


def who(request: RequestId) -> dict[str, Any]:
    """Return the owner of a request."""
    client = request.owner.client
    return {"node": client.server.node_id, "client": client.number, "task": request.owner.task}


def name_as_text(name: bytes) -> str:
    """Return a name as text, whatever its bytes are."""
    return name.decode(errors="backslashreplace")
