"""What a lock server tells of itself, as people read it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cpg.replication.electorate import Electorate
from totem.text import printable

Shown = Mapping[str, Any]


def status_lines(status: Shown) -> list[str]:
    """Write whether the lock servers are ready, and who is there."""
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


def voters_lines(voters: Shown) -> Iterator[str]:
    """Write who decides, and what is under way."""
    if not voters["version"]:
        yield f"voters, once there is a cluster: {Electorate.from_dict(voters)}"
        return
    yield f"voters: {Electorate.from_dict(voters)}; version {voters['version']} of cluster {voters['cluster']}"
    if voters["former"] is not None:
        former = Electorate.from_dict(voters["former"])
        yield f"until majorities of both know of them, one is needed of the former ones, too: {former}"


def lock_lines(lock: Shown) -> Iterator[str]:
    """Write a lock, a line for each holder and waiter."""
    permits = f" ({lock['permits']} permits)" if lock["permits"] else ""
    yield f"{printable(lock['name'])}{permits}: {len(lock['holders'])} held, {len(lock['waiting'])} waiting"
    for holder in lock["holders"]:
        unlocking = ", to be given back" if holder["unlocking"] else ""
        yield f"  held    {_who(holder)}  token {holder['token']}  {_left(holder)}{unlocking}"
    for waiter in lock["waiting"]:
        yield f"  waits   {_who(waiter)}"


def leader_lines(known: Shown) -> Iterator[str]:
    """Write the leaders of the service, and those of elections."""
    leaders = known["leaders"]
    yield f"leaders of the lock service: {_nodes(leader['node'] for leader in leaders) or 'none'}"
    for election in known["elections"]:
        yield f"{printable(election['name'])}: {_leader(election)}"


def change_line(changed: Shown) -> str:
    """Write who has a lock or an election now."""
    if "election" in changed:
        place = f"{changed['address']}:{changed['port']}"
        who = f"token {changed['token']} {printable(place)}" if changed["token"] else "nobody leads"
        return f"{printable(changed['election'])}: {who}"
    holders = ", ".join(f"{_who(holder)} token {holder['token']}" for holder in changed["holders"])
    return f"{printable(changed['name'])}: {holders or 'nobody holds it'}"


def _leader(election: Shown) -> str:
    leader, former, candidates = election["leader"], election.get("former"), election["candidates"]
    if leader:
        leads = f"{_client(leader)} leads, token {election['token']}, {_left(election)}"
    elif former:
        rest = max(0.0, former["left"] + former["grace"])
        leads = f"nobody leads, for {rest:.1f} s more at most: {_client(former)} did, and may not know that it does not"
    else:
        leads = "nobody leads"
    return f"{leads}; candidates: {', '.join(map(_candidate, candidates)) or 'none'}"


def _left(lease: Shown) -> str:
    return f"{lease['left']:.1f} s left" if lease["left"] > 0 else "its lease is over"


def _candidate(candidate: Shown) -> str:
    place = f" ({printable(candidate['address'])}:{candidate['port']})" if candidate["address"] else ""
    return f"{_client(candidate)}{place}"


def _who(ticket: Shown) -> str:
    return f"{_client(ticket)} {ticket['mode']}"


def _client(owner: Shown) -> str:
    """The node that admitted a program, the program's number there, and its task's in the program."""
    return f"{owner['node']}:{owner['client']}.{owner['task']}"


def _nodes(node_ids: Iterable[int]) -> str:
    return " ".join(map(str, node_ids))
