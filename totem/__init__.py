"""One ring of processors: total order, membership and recovery by the Totem single-ring protocol, on Corosync's wire.

The tour, from the bytes up:

- `totem.wire`: Corosync 3.1's packets as bytes and as objects.
- `Processor`: the protocol without I/O or clock. Datagrams and time go in, `Ready` comes out.
- `Config`: every timeout and limit under corosync.conf's name; `load` reads such a file.
- `Messages`, `TransitionalConfiguration`, `RegularConfiguration`: what is delivered, in one order everywhere.
- `totem.node`: a `Processor` on UDP sockets, under trio.
- `totem.testing`: many `Processor`s on a virtual network in virtual time, and checkers of what they promise.

Programs usually build on the package `cpg`, one layer above.
"""

from totem.config import Config, NodeEntry
from totem.configuration import (
    Configuration,
    Delivery,
    Feature,
    Guarantee,
    Level,
    Messages,
    RegularConfiguration,
    RingId,
    TransitionalConfiguration,
)
from totem.corosync_conf import load
from totem.errors import (
    ConfigError,
    MalformedDatagram,
    MessageTooLong,
    NotReloadable,
    QueueFull,
    RingLost,
    TotemError,
)
from totem.outbox import ALL
from totem.processor import Processor, Ready
from totem.statistics import Statistics
from totem.transitions import Cause, State

__all__ = [
    "ALL",
    "Cause",
    "Config",
    "ConfigError",
    "Configuration",
    "Delivery",
    "Feature",
    "Guarantee",
    "Level",
    "MalformedDatagram",
    "MessageTooLong",
    "Messages",
    "NodeEntry",
    "NotReloadable",
    "Processor",
    "QueueFull",
    "Ready",
    "RegularConfiguration",
    "RingId",
    "RingLost",
    "State",
    "Statistics",
    "TotemError",
    "TransitionalConfiguration",
    "load",
]
