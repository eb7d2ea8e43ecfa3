"""A dictionary as a replicated state: the smallest application that shows all that the replica does."""

from msgspec import Struct

from cpg.replication.application import Application
from cpg.replication.electorate import ChangeVoters, Voters
from cpg.replication.identities import Epoch, Number, ServerId
from cpg.replication.wire import Codec, Promise

VERSION = 7
VERSIONS_OF_AN_EPOCH = 1 << 32


class Put(Struct, frozen=True, array_like=True, tag=1):
    """Set a key, unless another request has set it; what was set by this request before stays as it is."""

    server: ServerId
    number: Number
    """Of the request, at its server."""
    key: str
    is_ephemeral: bool = False
    """The key is deleted when its server has left the view."""


class Answer(Struct, frozen=True):
    """What has come of a request."""

    number: int
    version: int
    """Of the value, larger than all before it; 0: another request has set the key."""


class Image(Struct, array_like=True):
    epoch: Epoch
    count: Number
    longest_promise: Promise
    voters: Voters
    items: list[tuple[str, Put, Number]]


class Dictionary:
    def __init__(self, epoch, voters):
        self.epoch, self.count, self.longest_promise, self.voters = epoch, 0, 0.0, voters
        self.items = {}
        """By key: the request that has set it, and the version of its value."""

    def begin_epoch(self, epoch):
        if epoch > self.epoch:
            self.epoch, self.count = epoch, 0

    def apply(self, command, server):
        put, version = self.items.get(command.key, (None, 0))
        if put is None:
            self.count += 1
            version = self.epoch * VERSIONS_OF_AN_EPOCH + self.count
            self.items[command.key] = command, version
        return [Answer(command.number, version if put in (None, command) else 0)]

    def keep(self, servers, boots):
        left = [key for key, (put, _) in self.items.items() if put.is_ephemeral and put.server not in servers]
        for key in left:
            del self.items[key]

    def image(self):
        items = [(key, put, version) for key, (put, version) in sorted(self.items.items())]
        return Image(self.epoch, self.count, self.longest_promise, self.voters, items)

    @classmethod
    def of(cls, image):
        state = cls(image.epoch, image.voters)
        state.count, state.longest_promise = image.count, image.longest_promise
        state.items = {key: (put, version) for key, put, version in image.items}
        return state


CODEC = Codec(
    Application(
        version=VERSION,
        command=Put | ChangeVoters,
        image=Image,
        create=Dictionary,
        restore=Dictionary.of,
        terms="first schema",
        terms_type=str,
        usual_promise=10.0,
        name_difference=lambda theirs, mine: f"it has the {theirs}, and this one the {mine}",
    )
)
