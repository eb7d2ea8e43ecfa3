"""The commands that run no other program: small trio programs on the public API, each with its exit code."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Collection
from functools import partial
from typing import Any, Final

import trio

from cluck.cli.connect import connect_in_time
from cluck.cli.exit_codes import CommandFailed, Exit
from cluck.cli.status_text import change_line, leader_lines, lock_lines, status_lines, voters_lines
from cluck.client import asynchronous
from cluck.client.session_locks import ANSWER_PATIENCE
from cluck.client.transport import CLUCKD
from cpg.local.standard_io import print_lines, read
from cpg.replication.electorate import Electorate
from totem.streams import complain
from totem.text import quoted

POLL_INTERVAL: Final = 0.5
"""Seconds between two queries of a lock whose change is waited for."""
QUERIES: Final = ("status", "tickets", "leaders", "elections", "conditions")


async def lock(options: argparse.Namespace) -> int:
    """`cluck lock`: hold a lock until standard input ends."""
    async with connect_in_time(options.socket, options.timeout) as (locks, timeout):
        kind = locks.shared if options.shared else locks.lock
        async with kind(options.name, timeout=timeout, grace=options.grace) as held:
            name = os.fsdecode(options.name)
            await print_lines([json.dumps({"name": name, "token": held.token}) if options.json else str(held.token)])
            while await read():
                pass
    return Exit.DONE


async def _query(locks: asynchronous.Locks, name: str) -> Any:
    return await CLUCKD.answered(partial(locks.query, name), partial(complain, "cluck"))


async def unlock(options: argparse.Namespace) -> int:
    """`cluck unlock --force`: take a lock from all holders, or from one."""
    async with asynchronous.connect(options.socket) as locks:
        status = await _query(locks, "status")
        if not status["ready"]:
            raise CommandFailed(_undecided(status), Exit.NOT_READY)
        found = await _lock_of(locks, options.name)
        holders = [h for h in found.get("holders", ()) if options.token in (None, h["token"])]
        if not holders:
            with_token = f" with token {options.token}" if options.token is not None else ""
            raise CommandFailed(f"nobody holds lock {quoted(options.name)}{with_token}", Exit.REFUSED)
        for holder in holders:
            await locks.force(options.name, holder["token"])
    if options.json:
        await print_lines(json.dumps({"name": found["name"], **holder}) for holder in holders)
    else:
        await print_lines(f"taken from client {h['node']}:{h['client']}, token {h['token']}" for h in holders)
    return Exit.DONE


async def wait(options: argparse.Namespace) -> int:
    """`cluck wait`: wait until a lock or a leadership changes hands."""
    async with connect_in_time(options.socket, options.timeout) as (locks, timeout):
        with trio.move_on_after(timeout if timeout is not None else float("inf")):
            changed = await (_new_leader if options.leader else _new_holders)(locks, options.name)
            await print_lines([json.dumps(changed) if options.json else change_line(changed)])
            return Exit.DONE
        if not locks.ready:
            raise CommandFailed(f"this lock server does not decide now: {locks.why_not_ready}", Exit.NOT_READY)
        with trio.move_on_after(ANSWER_PATIENCE):
            await locks.status()
            raise CommandFailed(f"{quoted(options.name)} has not changed hands in {options.timeout:g} s", Exit.TIMEOUT)
    raise CommandFailed(CLUCKD.silence(ANSWER_PATIENCE), Exit.FAILED)


async def _new_holders(locks: asynchronous.Locks, name: bytes) -> dict[str, Any]:
    before = now = await _known(locks, name)
    while _tokens(now) == _tokens(before):
        await trio.sleep(POLL_INTERVAL)
        now = await _known(locks, name)
    return {"name": os.fsdecode(name), "holders": now.get("holders", [])}


async def _known(locks: asynchronous.Locks, name: bytes) -> dict[str, Any]:
    """Query a lock while the server decides: one that was cut off shows the former state."""
    await locks.wait_ready()
    return await _lock_of(locks, name)


async def _new_leader(locks: asynchronous.Locks, name: bytes) -> dict[str, Any]:
    async with locks.observe(name) as leaderships:
        before = None
        async for leadership in leaderships:
            now = leadership.token if leadership.leader is not None else 0
            if before is not None and now != before:
                return {
                    "election": os.fsdecode(name),
                    "token": now,
                    "address": os.fsdecode(leadership.address),
                    "port": leadership.port,
                }
            before = now
    raise AssertionError("an observation has no end")


async def _lock_of(locks: asynchronous.Locks, name: bytes) -> dict[str, Any]:
    """Return what is known of a lock; empty if it has neither holders nor waiters."""
    shown = name.decode(errors="backslashreplace")
    for known in await _query(locks, "tickets"):
        if known["name"] == shown:
            return dict(known)
    return {}


def _tokens(known: dict[str, Any]) -> list[int]:
    return sorted(holder["token"] for holder in known.get("holders", ()))


async def list_locks(options: argparse.Namespace) -> int:
    """`cluck list`."""
    async with asynchronous.connect(options.socket) as locks:
        status = await _query(locks, "status")
        found = [await _lock_of(locks, options.name)] if options.name else await _query(locks, "tickets")
    if options.json:
        await print_lines(json.dumps(known) for known in found if known)
    else:
        await print_lines(line for known in found if known for line in lock_lines(known))
    return _code(status)


def _code(status: dict[str, Any]) -> Exit:
    """Return the exit code for a status; warn if the lock server does not decide, since its reply may be outdated."""
    if status["ready"]:
        return Exit.DONE
    complain("cluck", _undecided(status))
    return Exit.NOT_READY


def _undecided(status: dict[str, Any]) -> str:
    return f"this lock server does not decide now, and what it shows may be outdated: {status['why']}"


async def status(options: argparse.Namespace) -> int:
    """`cluck status`."""
    async with asynchronous.connect(options.socket) as locks:
        known = await _query(locks, "status")
    await print_lines([json.dumps(known)] if options.json else status_lines(known))
    return Exit.DONE if known["ready"] else Exit.NOT_READY


async def voters(options: argparse.Namespace) -> int:
    """`cluck voters`: print the voters, or add, change or remove one."""
    if options.change is not None and options.node is None:
        raise CommandFailed(f"which node? cluck voters {options.change} NODE", Exit.MISUSED)
    async with asynchronous.connect(options.socket) as locks:
        status = await _query(locks, "status")
        if options.change is not None:
            await _change_voters(locks, options, status)
            status = await _query(locks, "status")
    await print_lines([json.dumps(status["voters"])] if options.json else voters_lines(status["voters"]))
    return _code(status)


async def _change_voters(locks: asynchronous.Locks, options: argparse.Namespace, status: dict[str, Any]) -> None:
    known = status["voters"]
    votes = dict(Electorate.from_dict(known).votes)
    if options.change == "add":
        votes[options.node] = options.votes
    else:
        _check_voter(options.node, votes)
        del votes[options.node]
    tie_breaker = known["tie_breaker"] if known["tie_breaker"] in votes else None
    await locks.change_voters(votes, tie_breaker=tie_breaker, unsafe_half=known["unsafe_half"])
    if options.change == "add" and options.node not in {server["node"] for server in status["servers"]}:
        complain(
            "cluck",
            f"node {options.node} has no lock server now: its votes are missing until one is started there; to undo "
            f"this: cluck voters remove {options.node}",
        )


async def tie_breaker(options: argparse.Namespace) -> int:
    """`cluck tie-breaker`: set whether an exact half of the votes is enough: with one node, always, or never."""
    node = options.half if isinstance(options.half, int) else None
    async with asynchronous.connect(options.socket) as locks:
        votes = Electorate.from_dict((await _query(locks, "status"))["voters"]).votes
        if node is not None:
            _check_voter(node, votes)
        await locks.change_voters(votes, tie_breaker=node, unsafe_half=options.half == "any")
        known = (await _query(locks, "status"))["voters"]
    await print_lines([json.dumps(known)] if options.json else voters_lines(known))
    return Exit.DONE


def _check_voter(node: int, votes: Collection[int]) -> None:
    if node not in votes:
        raise CommandFailed(f"node {node} is not a voter; the voters are {', '.join(map(str, votes))}", Exit.REFUSED)


async def leaders(options: argparse.Namespace) -> int:
    """`cluck leaders`."""
    async with asynchronous.connect(options.socket) as locks:
        status = await _query(locks, "status")
        known = {"leaders": await _query(locks, "leaders"), "elections": await _query(locks, "elections")}
    await print_lines([json.dumps(known)] if options.json else leader_lines(known))
    return _code(status)


async def info(options: argparse.Namespace) -> int:
    """`cluck info`."""
    async with asynchronous.connect(options.socket) as locks:
        known = {name: await _query(locks, name) for name in QUERIES}
    await print_lines([json.dumps(known)])
    return _code(known["status"])
