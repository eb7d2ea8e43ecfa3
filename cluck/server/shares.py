"""How much the programs of one user may take of what all clients of all lock servers share.

The rule is that of `cpg.local.shares`: as much as stays free for others, and root and the daemon's user may have all.
Each lock server applies it to its own clients, since only there users are known. Beyond that there are the bounds of
the state, which are for everybody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from cluck.commands import Acquire, Command, Publish, Stand, Wait
from cluck.server.local_clients import ADMINISTRATORS, LocalClient
from cluck.state.request_history import Pool
from cpg.local.shares import leaves_room

if TYPE_CHECKING:
    from cluck.state.machine import LockState


def what_lacks(state: LockState, command: Command, local: LocalClient, clients: Collection[LocalClient]) -> str:
    """Return what a client's user has its share of already, where a request needs more; empty: there is room."""
    if local.user == ADMINISTRATORS:
        return ""
    for pool in _needed(state, command):
        if leaves_room(pool.most, pool.taken, pool.taken):
            continue  # even if all of it were this user's
        own = sum(pool.of(other.client) for other in clients if other.user == local.user)
        if not leaves_room(pool.most, pool.taken, own):
            return pool.what
    return ""


def _needed(state: LockState, command: Command) -> Iterator[Pool]:
    yield state.requests.answers
    match command:
        case Acquire():
            yield state.table.places
        case Wait():
            yield state.conditions.places
        case Stand(election=election):
            yield from state.elections.places(election)
        case Publish():
            yield state.elections.attached
