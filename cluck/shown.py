"""What a lock server tells of itself to people and their programs: plain values, as JSON on the way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from msgspec import json

from cluck.commands import RequestId
from cluck.protocol import Answer, Ask

if TYPE_CHECKING:
    from cluck.service import Service
    from cluck.tickets import Lock

PART: Final = 64 * 1024
"""Bytes of a part of an answer."""


def answers(service: Service, ask: Ask, now: float) -> Iterator[Answer]:
    """Answer a client's question, in parts."""
    try:
        shown = answer(service, ask.question, now)
    except ValueError as error:
        shown = {"error": str(error)}
    body = json.encode(shown)
    for place in range(0, len(body), PART):
        yield Answer(ask.number, body[place : place + PART], place + PART >= len(body))


def answer(service: Service, question: str, now: float) -> Any:
    """Return what is to be shown; ValueError for a question that is none."""
    match question:
        case "status":
            return status(service)
        case "tickets":
            return tickets(service, now)
        case "leaders":
            return leaders(service)
        case "elections":
            return elections(service)
        case "conditions":
            return conditions(service)
    raise ValueError(f"{question!r} is no question: status, tickets, leaders, elections, conditions")


def status(service: Service) -> dict[str, Any]:
    """Whether requests are answered, and why not; who is there."""
    replica, state = service.replica, service.replica.state
    voters = replica.voters
    electorate = voters.electorate if voters is not None else replica.settings.electorate
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
        "missing": sorted(electorate.votes.keys() - present),
        "cluster": f"{voters.cluster:x}" if voters is not None else None,
        "differences": list(replica.differences),
        "epoch": state.tokens.epoch if state is not None else 0,
        "longest_lease": state.longest if state is not None else 0.0,
        "locks": len(state.table.locks) if state is not None else 0,
        "tickets": sum(1 for _ in state.table.tickets()) if state is not None else 0,
        "clients": len(service.clients),
        "disk": replica.disk_fault,
    }


def tickets(service: Service, now: float) -> list[dict[str, Any]]:
    """Every lock, who holds it and who waits."""
    state = service.replica.state
    if state is None:
        return []
    return [_lock(service, name, lock, now) for name, lock in sorted(state.table.locks.items())]


def _lock(service: Service, name: bytes, lock: Lock, now: float) -> dict[str, Any]:
    return {
        "name": text(name),
        "permits": lock.permits,
        "holders": [
            {
                **who(ticket.request),
                "mode": ticket.mode.name.lower(),
                "token": ticket.token,
                "left": round(service.leases.left(ticket, now), 3),
                "grace": ticket.grace,
                "unlocking": ticket.is_revoked,
            }
            for ticket in lock.holders
        ],
        "waiting": [{**who(ticket.request), "mode": ticket.mode.name.lower()} for ticket in lock.waiting],
    }


def leaders(service: Service) -> list[dict[str, Any]]:
    """The leaders of the service: the first proposes, the others stand by."""
    replica = service.replica
    return [{"node": member.node_id, "pid": member.pid} for member in replica.leaders]


def elections(service: Service) -> list[dict[str, Any]]:
    """Every election, who stands, and who leads."""
    state = service.replica.state
    if state is None:
        return []
    return [
        {
            "name": text(name),
            "round": election.round,
            "leader": who(election.chosen) if election.token and election.chosen is not None else None,
            "token": election.token,
            "version": election.version,
            "candidates": [
                {**who(candidate.request), "address": text(candidate.address), "port": candidate.port}
                for candidate in election.candidates
            ],
        }
        for name, election in sorted(state.leaders.elections.items())
    ]


def conditions(service: Service) -> list[dict[str, Any]]:
    """Every condition on which somebody waits."""
    state = service.replica.state
    if state is None:
        return []
    return [
        {
            "name": text(name),
            "lock": text(condition.lock),
            "waiting": [who(waiter.ticket.request) for waiter in condition.waiters],
        }
        for name, condition in sorted(state.conditions.conditions.items(), key=lambda item: item[0])
    ]


def who(request: RequestId) -> dict[str, Any]:
    """Name the owner of a request."""
    client = request.owner.client
    return {"node": client.server.node_id, "client": client.number, "task": request.owner.task}


def text(name: bytes) -> str:
    """Show a name, whatever its bytes are."""
    return name.decode(errors="backslashreplace")
