"""Cluster locks, conditions and leaders on closed process groups: tickets in total order, leases, fencing tokens.

A whole program, beside a `cluckd` on each node::

    import cluck, trio

    async def main() -> None:
        async with cluck.connect() as locks:
            async with locks.lock("backup", timeout=5) as held:
                await copy(token=held.token)

    trio.run(main)

The tour, from the top down:

- `connect` makes this program a client of its machine's `cluckd`: `Locks`, on trio and on asyncio (`cluck.aio`);
  `cluck.blocking.connect` is the same for threads. `open` makes it a lock server itself, on any ring of `cpg`.
- `locks.lock`, `locks.shared` and `locks.semaphore` return a `Held`: a lock to hold for the time of a block, or from
  `acquire` to `release`. It has a fencing `token`, `remaining()`, `renew()`, and the events `unlocking` and `lost`. A
  block is never entered without its lock.
- A lock that is lost cancels the body, and `LockLost` comes out of the block, as it is.
- `locks.condition` releases the lock during a wait: `wait`, `wait_for`, `notify`, `notify_all`.
- `locks.candidate` stands in an election: `roles`, `run_while_leader`, `publish`, `resign`; `locks.observe` reports who
  leads.
- `locks.wait_ready`, `locks.status`, `locks.tickets` and `locks.force` are for administrators.
- Errors are a `LockError`: `LockTimeout`, `NotReady`, `DeadlockError`, `LockLost`, `OutcomeUnknown`, ... The last one
  and `DaemonUnavailable` are the classes of `cpg`.

All of this stands on the package `cpg`: groups of processes, and their total order.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cluck.errors import (
    ConnectionLost,
    DaemonUnavailable,
    DeadlockError,
    KindMismatch,
    LeadershipLost,
    LockError,
    LockLost,
    LockTimeout,
    NotReady,
    OutcomeUnknown,
    Overflow,
    WrongLock,
)

if TYPE_CHECKING:
    from cluck import aio, blocking
    from cluck.client.asynchronous import Candidate, Condition, Held, Locks, connect
    from cluck.client.requests import Follower, Leader
    from cluck.commands import Leadership
    from cluck.embedded import open

__all__ = [
    "Candidate",
    "Condition",
    "ConnectionLost",
    "DaemonUnavailable",
    "DeadlockError",
    "Follower",
    "Held",
    "KindMismatch",
    "Leader",
    "Leadership",
    "LeadershipLost",
    "LockError",
    "LockLost",
    "LockTimeout",
    "Locks",
    "NotReady",
    "OutcomeUnknown",
    "Overflow",
    "WrongLock",
    "aio",
    "blocking",
    "connect",
    "open",
]

_LATER = {
    "Candidate": "cluck.client.asynchronous",
    "Condition": "cluck.client.asynchronous",
    "Follower": "cluck.client.requests",
    "Held": "cluck.client.asynchronous",
    "Leader": "cluck.client.requests",
    "Leadership": "cluck.commands",
    "Locks": "cluck.client.asynchronous",
    "connect": "cluck.client.asynchronous",
    "open": "cluck.embedded",
}
"""Loaded when they are used first: a lock server needs no client."""
_ROOMS = ("aio", "blocking")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"cluck.{name}")
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)
