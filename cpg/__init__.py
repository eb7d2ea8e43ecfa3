"""Closed process groups: every member sees the same messages and the same changes of membership, in the same order.

A whole program::

    import cpg, trio

    async def main() -> None:
        async with cpg.open_ring("ring.conf", node=1) as ring:
            async with ring.join("chat") as group:

                @group.on_message
                def _(sender: cpg.Member, message: bytes) -> None:
                    print(f"{sender.node_id}: {message.decode()}")

                await group.send(b"hello")
                await group.flush()

    trio.run(main)

The tour, from the top down:

- `open_ring` makes this process a member of a ring: a `Ring`, with its nodes, statistics, and groups to join.
- `connect` takes part in the ring of this machine's daemon `cpgd`, as one of any number of programs.
- `CPG` is the same for programs without an event loop (`cpg.blocking`); `cpg.aio` is for programs on asyncio.
- `open_corosync` takes part in the ring of a Corosync that runs on this machine already, through its libcpg.
- `Group` is one membership: callbacks (`on_message`, `on_confchg`, ...) or iteration (`async for event in group`, or
  `group.batches()` for speed), `send`, `send_nowait`, `flush`.
- `Message`, `Confchg`, `Transitional`, `TotemConfchg`, `Quorum` are the events of its stream. `Member` and `Reason` are
  parts of them. A ring has `Link` beside them (`on_link`): the state of its links to other nodes.
- A message that is sent with the `Guarantee` `SAFE` is delivered only when every node of the ring is known to have it.
  The `level` of a `Message` says what was reached (`Level`). `AGREED` is the default, `SAFE_OR_AGREED` accepts both.
- Errors are `TotemError`s: `RingLost`, `SlowConsumer`, `AlreadyJoined`, `QueueFull`, `MessageTooLong`, `ConfigError`,
  ... Only `open_ring` raises `OSError` too, where the node's address, port or state directory is not available.
- `cpg.testing` has the same rings in virtual time and without sockets, to test programs with.

Below is the package `totem`: one ring of processors, total order, membership, recovery.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cpg.client.asynchronous import DaemonRing, connect
from cpg.client.threaded import CPG
from cpg.errors import (
    AlreadyJoined,
    CorosyncLimit,
    CorosyncUnavailable,
    DaemonUnavailable,
    GroupReserved,
    NotJoined,
    NotSupported,
    OutcomeUnknown,
    SlowConsumer,
    StreamBusy,
    TooManyGroups,
)
from cpg.events import Confchg, Event, Link, Member, Message, Quorum, Reason, TotemConfchg, Transitional
from cpg.group import Batches, Group
from cpg.node.quorum import NodeVotes, QuorumStatus
from cpg.payloads import Guarantee
from cpg.ring import Ring
from totem.config import Config
from totem.configuration import Level, RingId
from totem.errors import ConfigError, MessageTooLong, NotReloadable, QueueFull, RingLost, TotemError
from totem.statistics import Statistics

if TYPE_CHECKING:
    from cpg import aio, blocking, testing
    from cpg.embedded import EmbeddedRing, open_ring
    from cpg.libcpg.corosync import CorosyncRing, open_corosync
    from totem.links.machine import LinkState

AGREED = Guarantee.AGREED
"""Deliver a message in the one order: the default."""
SAFE = Guarantee.SAFE
"""Deliver a message only when every node of the ring is known to have it."""
SAFE_OR_AGREED = Guarantee.SAFE_OR_AGREED
"""Deliver as `SAFE` where the ring can, otherwise as `AGREED`."""

__all__ = [
    "AGREED",
    "CPG",
    "SAFE",
    "SAFE_OR_AGREED",
    "AlreadyJoined",
    "Batches",
    "Confchg",
    "Config",
    "ConfigError",
    "CorosyncLimit",
    "CorosyncRing",
    "CorosyncUnavailable",
    "DaemonRing",
    "DaemonUnavailable",
    "EmbeddedRing",
    "Event",
    "Group",
    "GroupReserved",
    "Guarantee",
    "Level",
    "Link",
    "LinkState",
    "Member",
    "Message",
    "MessageTooLong",
    "NodeVotes",
    "NotJoined",
    "NotReloadable",
    "NotSupported",
    "OutcomeUnknown",
    "QueueFull",
    "Quorum",
    "QuorumStatus",
    "Reason",
    "Ring",
    "RingId",
    "RingLost",
    "SlowConsumer",
    "Statistics",
    "StreamBusy",
    "TooManyGroups",
    "TotemConfchg",
    "TotemError",
    "Transitional",
    "aio",
    "blocking",
    "connect",
    "open_corosync",
    "open_ring",
    "testing",
]

_LATER = {
    "CorosyncRing": "cpg.libcpg.corosync",
    "EmbeddedRing": "cpg.embedded",
    "LinkState": "totem.links.machine",
    "open_corosync": "cpg.libcpg.corosync",
    "open_ring": "cpg.embedded",
}
"""Loaded when they are first used: a program on asyncio, or without a loop, runs without trio."""
_MODULES = ("aio", "blocking", "testing")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"cpg.{name}")
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)
