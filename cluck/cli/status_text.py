"""Formats the replies of a lock server for people: status, voters, locks, leaders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cpg.replication.electorate import Electorate
from totem.text import printable

Reply = Mapping[str, Any]


def status_lines(status: Reply) -> list[str]:
    """Format whether the lock servers are ready, and which are present."""
    ready = "ready" if status["ready"] else f"not ready: {status['why']}"
    missing = f", missing: {_nodes(status['missing'])}" if status["missing"] else ""
    servers = _nodes(server["node"] for server in status["servers"])
    return [
        f"{ready} ({status['phase']})",
        f"lock servers: {servers or 'none'}; {status['votes']} of {status['expected_votes']} votes{missing}",
        f"leaders: {_nodes(status['leaders']) or 'none'}; this is node {status['node']}, priority {status['priority']}",
        f"locks: {status['locks']}, tickets: {status['tickets']}, clients here: {status['clients']}",
        f"epoch: {status['epoch']}, longest lease with grace: {status['longest_lease']:g} s",
        *((f"the disk here cannot be written: {status['disk']}",) if status["disk"] else ()),
        *voters_lines(status["voters"]),
        *status["differences"],
    ]


def voters_lines(voters: Reply) -> Iterator[str]:
    """Format the voters, and a change of them that is not finished."""
    if not voters["version"]:
        yield f"voters when the cluster begins: {Electorate.from_dict(voters)}"
        return
    yield f"voters: {Electorate.from_dict(voters)}; version {voters['version']} of cluster {voters['cluster']}"
    if voters["former"] is not None:
        former = Electorate.from_dict(voters["former"])
        yield f"a majority of the former voters is needed too, until majorities of both know the new ones: {former}"


def lock_lines(lock: Reply) -> Iterator[str]:
    """Format a lock, with a line for each holder and waiter."""
    permits = f" ({lock['permits']} permits)" if lock["permits"] else ""
    yield f"{printable(lock['name'])}{permits}: {len(lock['holders'])} held, {len(lock['waiting'])} waiting"
    for holder in lock["holders"]:
        unlocking = ", about to be released" if holder["unlocking"] else ""
        yield f"  held    {_who(holder)}  token {holder['token']}  {_left(holder)}{unlocking}"
    for waiter in lock["waiting"]:
        yield f"  waits   {_who(waiter)}"


def leader_lines(known: Reply) -> Iterator[str]:
    """Format the leaders of the service and of elections."""
    leaders = known["leaders"]
    yield f"leaders of the lock service: {_nodes(leader['node'] for leader in leaders) or 'none'}"
    for election in known["elections"]:
        yield f"{printable(election['name'])}: {_leader(election)}"


def change_line(changed: Reply) -> str:
    """Format the new holders of a lock, or the new leader of an election."""
    if "election" in changed:
        place = f"{changed['address']}:{changed['port']}"
        who = f"token {changed['token']} {printable(place)}" if changed["token"] else "nobody leads"
        return f"{printable(changed['election'])}: {who}"
    holders = ", ".join(f"{_who(holder)} token {holder['token']}" for holder in changed["holders"])
    return f"{printable(changed['name'])}: {holders or 'nobody holds it'}"


def _leader(election: Reply) -> str:
    leader, former, candidates = election["leader"], election.get("former"), election["candidates"]
    if leader:
        leads = f"{_client(leader)} leads, token {election['token']}, {_left(election)}"
    elif former:
        left = max(0.0, former["left"] + former["grace"])
        leads = f"nobody leads, for at most {left:.1f} s more: {_client(former)} led, and may not know of its end"
    else:
        leads = "nobody leads"
    return f"{leads}; candidates: {', '.join(map(_candidate, candidates)) or 'none'}"


def _left(lease: Reply) -> str:
    return f"{lease['left']:.1f} s left" if lease["left"] > 0 else "its lease is over"


def _candidate(candidate: Reply) -> str:
    place = f" ({printable(candidate['address'])}:{candidate['port']})" if candidate["address"] else ""
    return f"{_client(candidate)}{place}"


def _who(ticket: Reply) -> str:
    return f"{_client(ticket)} {ticket['mode']}"


def _client(owner: Reply) -> str:
    """Format the node that admitted a program, the program's number there, and its task's number in the program."""
    return f"{owner['node']}:{owner['client']}.{owner['task']}"


def _nodes(node_ids: Iterable[int]) -> str:
    return " ".join(map(str, node_ids))
