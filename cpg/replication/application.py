"""What the replica needs to know of the state that it replicates: a state machine, and the encoding of its commands.

The state must be a function of the commands that were applied, in their order. So `apply` and `keep` read no clock and
draw no random numbers. Then all servers have the same state, and the same image of it.

To replicate a state of your own, write in this order:

1. The commands: `array_like` msgspec Structs, each with an integer `tag` of its own. `ChangeVoters` has tag 10.
2. The image, a msgspec type, and the `StateMachine` that makes it.
3. An `Application` of these, and its `Codec` (`cpg.replication.wire`).
4. A `Listener` (`cpg.replication.replica`), which hears what was applied and what is final.
5. A host: it makes a `Replica` with `ReplicaSettings`, gives it the events of a group, multicasts what `take` returns,
   stores `record_to_store` and then calls `stored`, and calls `advance` when the `deadline` has come.

Commands may come again: a sender submits again what was not reported as final, though it may have been applied. So each
command must carry what recognizes it, as its server and a number. `apply` must answer a second one as the first, and
must change nothing.

This package is for the lock servers now, and no public API yet.

Three fields of the machine belong to replication, and are part of its image (rulings E5, E6 and E9). A server that gets
the state as a snapshot knows of it what the image says, and nothing else. Without them in the image it would go on with
another electorate, an older epoch or a shorter promise than the others:

- `voters`: who decides. The replica changes it, by ordered commands (`ChangeVoters`) and at each primary view.
- `epoch`: a majority's disks know of it. It grows with each birth of a state, and with `Replica.begin_epoch`.
- `longest_promise`: how long programs may rely on what the state has promised them, whatever becomes of the state.
  A majority's disks know of it before anything is promised for so long. A birth waits until it is over.
  An application that promises nothing leaves it at 0.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from cpg.arguments import whole
from cpg.replication.electorate import Voters
from cpg.replication.identities import Boot, ServerId

LARGEST_VERSION: Final = 31
"""What begins with a larger byte, as text does, comes from no server of any version."""


class StateMachine(Protocol):
    """The state of which each server has a copy."""

    voters: Voters
    """Who decides; the image must have it."""
    longest_promise: float
    """Seconds of the longest promise that may be given; the image must have it."""

    @property
    def epoch(self) -> int:
        """The latest epoch that was begun; the image must have it."""

    def begin_epoch(self, epoch: int) -> None:
        """Begin an epoch, unless it is not later than the present one."""

    def apply(self, command: Any, server: ServerId) -> list[Any]:
        """Apply the next command of the order, which came through this server; return a list of its outcomes. Hot.

        It must not raise. An exception comes out of `Replica.event` at every server, at the same command, and so ends
        them all. The state is then lost, since it is only in their memory. Return an outcome that says what is wrong.
        """

    def keep(self, servers: Collection[ServerId], boots: Mapping[ServerId, Boot]) -> object:
        """Begin a primary view of these servers; what belongs to others is theirs no more.

        `boots`: the runs of the machines that some of these servers, and all their clients, are on.
        """

    def image(self) -> Any:
        """Return the whole state, as a value of `Application.image`.

        Equal states have images of equal bytes, whatever the order in which they came about. So sort what has no order,
        as the items of a dict.
        """


State = TypeVar("State", bound=StateMachine)


@dataclass(frozen=True, slots=True, kw_only=True)
class Application(Generic[State]):
    """One kind of replicated state: how it begins, and how its commands and images are encoded."""

    version: int
    """Of the format of all messages, 1 to 31. Servers of two versions do not count together."""
    command: Any
    """The type of all commands, for msgspec: a union of `array_like` Structs with integer tags, `ChangeVoters` among
    them.
    """
    image: Any
    """The type of images, for msgspec."""
    create: Callable[[int, Voters], State]
    """Makes the first state of an epoch."""
    restore: Callable[[Any], State]
    """Makes the state of an image. `restore(image).image()` must encode to the same bytes as the image, else the
    snapshot is refused. An exception refuses it, too, and is named. No server ends, and each keeps the state it has.
    """
    terms: Any
    """What must be equal at all servers. Those that differ do not count together, and are named."""
    terms_type: Any
    """The type of `terms`, for msgspec, with its limits."""
    name_difference: Callable[[Any, Any], str]
    """Returns what differs, for people: `terms` of another server, and of the one that asks."""
    usual_promise: float = 0.0
    """Seconds of a promise that the disks know of from the beginning, so that none of them has to wait for disks."""
    server: str = "server"
    """What people call a server."""
    promises: str = "promises"
    """What people call what the state promises for a time."""
    how_to_change_voters: str = ""
    """What an administrator uses, for people: the end of a sentence."""

    def __post_init__(self) -> None:
        whole("version", self.version, 1, LARGEST_VERSION)
