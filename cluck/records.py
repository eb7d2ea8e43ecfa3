"""What disks know of a state, so that a later one can be born: its epoch, and its longest lease (rulings E5 and E6).

Nothing is granted under an epoch, nor for longer, before a majority's disks know of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from cluck.wire import Record
from cpg.events import Member


class Records:
    """What the own disk knows and is to know, and what those of the others have come to know in a view."""

    def __init__(self, record: Record | None) -> None:
        """`record`: what the own disk says."""
        self.on_disk = record
        self.to_store: Record | None = None
        """What is to be made durable next."""
        self.proposed: Record | None = None
        """What this server has proposed last in this view, or what all are to begin anew with."""
        self._stored: dict[Member, Record] = {}

    def forget_view(self) -> None:
        """Another view: what was said in the former one is void. Disks remember."""
        self.proposed = None
        self._stored = {}

    # ---- the own disk

    def merged(self, record: Record) -> Record:
        """A record, and no less than the disk knows, or is about to."""
        return _most([record, *(known for known in (self.on_disk, self.to_store) if known is not None)])

    def store(self, record: Record) -> None:
        """Have at least this made durable, and told."""
        self.to_store = self.merged(record)

    def remember(self, record: Record) -> None:
        """Have at least this made durable, if it is not."""
        if self.merged(record) != self.on_disk:
            self.store(record)

    def on_stored(self, record: Record) -> None:
        """It is durable."""
        self.on_disk = record
        if self.to_store == record:
            self.to_store = None

    def propose(self, record: Record) -> bool:
        """Whether to say it: nothing larger was proposed by this server in this view."""
        if self.proposed is not None and self.proposed >= record:
            return False
        self.proposed = record
        return True

    # ---- all disks

    def hear(self, member: Member, record: Record) -> None:
        """A server of this view has made this durable."""
        self._stored[member] = _most([record, self._stored.get(member, record)])

    def is_known(self, record: Record, is_quorum: Callable[[Collection[Member]], bool]) -> bool:
        """Whether a majority's disks know of a record."""
        return is_quorum(
            [
                member
                for member, stored in self._stored.items()
                if stored.epoch >= record.epoch and stored.longest >= record.longest
            ]
        )

    def known(self, is_quorum: Callable[[Collection[Member]], bool]) -> Record | None:
        """Return the largest of which a majority's disks know."""
        records = sorted(self._stored.values(), reverse=True)
        return next((record for record in records if self.is_known(record, is_quorum)), None)


def _most(records: list[Record]) -> Record:
    return Record(max(record.epoch for record in records), max(record.longest for record in records))
