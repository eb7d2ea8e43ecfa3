"""The commands that run nothing themselves: small trio programs on the public API, each to its exit code."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Collection
from functools import partial
from typing import Any, Final

import trio

from cluck.cli.connect import connected
from cluck.cli.exit_codes import CommandFailed, Exit
from cluck.cli.status_text import change_line, leader_lines, lock_lines, status_lines, voters_lines
from cluck.client import asynchronous
from cluck.client.session_locks import ANSWER_PATIENCE
from cluck.client.transport import CLUCKD
from cpg.local.standard_io import print_lines, read
from cpg.replication.electorate import Electorate
from totem.streams import complain
from totem.text import quoted

LOOK: Final = 0.5
"""Seconds between two looks at a lock that is waited for to change hands."""
QUESTIONS: Final = ("status", "tickets", "leaders", "elections", "conditions")


async def lock(options: argparse.Namespace) -> int:
    """`cluck lock`: held until standard input ends."""
    async with connected(options.socket, options.timeout) as (locks, timeout):
        kind = locks.shared if options.shared else locks.lock
        async with kind(options.name, timeout=timeout, grace=options.grace) as held:
            name = os.fsdecode(options.name)
            await print_lines([json.dumps({"name": name, "token": held.token}) if options.json else str(held.token)])
            while await read():
                pass
    return Exit.DONE


async def _ask(locks: asynchronous.Locks, question: str) -> Any:
    return await CLUCKD.answered(partial(locks.query, question), partial(complain, "cluck"))


async def unlock(options: argparse.Namespace) -> int:
    """`cluck unlock --force`: of all holders, or of one."""
    async with asynchronous.connect(options.socket) as locks:
        status = await _ask(locks, "status")
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
    """`cluck wait --change`."""
    async with connected(options.socket, options.timeout) as (locks, timeout):
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
        await trio.sleep(LOOK)
        now = await _known(locks, name)
    return {"name": os.fsdecode(name), "holders": now.get("holders", [])}


async def _known(locks: asynchronous.Locks, name: bytes) -> dict[str, Any]:
    """Look at a lock where that is decided: a server that was cut off shows what was before."""
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
    raise AssertionError("what is observed has no end")


async def _lock_of(locks: asynchronous.Locks, name: bytes) -> dict[str, Any]:
    """Everything about one lock; nothing where nobody holds it or waits."""
    shown = name.decode(errors="backslashreplace")
    for known in await _ask(locks, "tickets"):
        if known["name"] == shown:
            return dict(known)
    return {}


def _tokens(known: dict[str, Any]) -> list[int]:
    return sorted(holder["token"] for holder in known.get("holders", ()))


async def list_locks(options: argparse.Namespace) -> int:
    """`cluck list`."""
    async with asynchronous.connect(options.socket) as locks:
        status = await _ask(locks, "status")
        found = [await _lock_of(locks, options.name)] if options.name else await _ask(locks, "tickets")
    if options.json:
        await print_lines(json.dumps(known) for known in found if known)
    else:
        await print_lines(line for known in found if known for line in lock_lines(known))
    return _code(status)


def _code(status: dict[str, Any]) -> Exit:
    """Say so where the lock server does not decide: what it shows may have changed since."""
    if status["ready"]:
        return Exit.DONE
    complain("cluck", _undecided(status))
    return Exit.NOT_READY


def _undecided(status: dict[str, Any]) -> str:
    return f"this lock server does not decide now, others may hold what it shows: {status['why']}"


async def status(options: argparse.Namespace) -> int:
    """`cluck status`."""
    async with asynchronous.connect(options.socket) as locks:
        known = await _ask(locks, "status")
    await print_lines([json.dumps(known)] if options.json else status_lines(known))
    return Exit.DONE if known["ready"] else Exit.NOT_READY


async def voters(options: argparse.Namespace) -> int:
    """`cluck voters`: list them, or change them by one."""
    if options.change is not None and options.node is None:
        raise CommandFailed(f"which node? cluck voters {options.change} NODE", Exit.MISUSED)
    async with asynchronous.connect(options.socket) as locks:
        status = await _ask(locks, "status")
        if options.change is not None:
            await _change_voters(locks, options, status)
            status = await _ask(locks, "status")
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
            f"no lock server of node {options.node} is there: its votes are missing until it is started, or "
            f"cluck voters remove {options.node}",
        )


async def tie_breaker(options: argparse.Namespace) -> int:
    """`cluck tie-breaker`: have an exact half with one node be enough, or any, or none."""
    node = options.half if isinstance(options.half, int) else None
    async with asynchronous.connect(options.socket) as locks:
        votes = Electorate.from_dict((await _ask(locks, "status"))["voters"]).votes
        if node is not None:
            _check_voter(node, votes)
        await locks.change_voters(votes, tie_breaker=node, unsafe_half=options.half == "any")
        known = (await _ask(locks, "status"))["voters"]
    await print_lines([json.dumps(known)] if options.json else voters_lines(known))
    return Exit.DONE


def _check_voter(node: int, votes: Collection[int]) -> None:
    if node not in votes:
        raise CommandFailed(f"node {node} is none of the voters: {', '.join(map(str, votes))}", Exit.REFUSED)


async def leaders(options: argparse.Namespace) -> int:
    """`cluck leaders`."""
    async with asynchronous.connect(options.socket) as locks:
        status = await _ask(locks, "status")
        known = {"leaders": await _ask(locks, "leaders"), "elections": await _ask(locks, "elections")}
    await print_lines([json.dumps(known)] if options.json else leader_lines(known))
    return _code(status)


async def info(options: argparse.Namespace) -> int:
    """`cluck info`."""
    async with asynchronous.connect(options.socket) as locks:
        known = {question: await _ask(locks, question) for question in QUESTIONS}
    await print_lines([json.dumps(known)])
    return _code(known["status"])
