"""What disks know of a state, so that a later one can be born (rulings E5, E6 and E9).

That is its epoch, its longest promise and its voters. Nothing is done under an epoch, by other voters, or promised for
longer, before a majority's disks know of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import reduce

from cpg.events import Member
from cpg.replication.electorate import Voters
from cpg.replication.wire import DurableRecord

IsQuorum = Callable[[Collection[Member]], bool]


class DurableRecords:
    """What the own disk knows and is to know, and what the others' disks have come to know in a view."""

    def __init__(self, record: DurableRecord | None) -> None:
        """`record`: what the own disk says."""
        self.on_disk = record
        self.to_store: DurableRecord | None = None
        """What is to be made durable next."""
        self.proposed: DurableRecord | None = None
        """What this server has proposed last in this view, or what all are to begin anew with."""
        self._stored: dict[Member, DurableRecord] = {}

    def forget_view(self) -> None:
        """Begin another view: what was said in the former one is void. Disks remember."""
        self.proposed = None
        self._stored = {}

    # ---- the own disk

    def merged(self, record: DurableRecord) -> DurableRecord:
        """Return a record that knows no less than the disk does, or is about to."""
        return reduce(
            DurableRecord.and_, (known for known in (self.to_store, self.on_disk) if known is not None), record
        )

    def store(self, record: DurableRecord) -> None:
        """Have at least this made durable, and announced."""
        self.to_store = self.merged(record)

    def remember(self, record: DurableRecord) -> None:
        """Have at least this made durable, if it is not."""
        if self.on_disk is None or not self.on_disk.covers(record):
            self.store(record)

    def on_stored(self, record: DurableRecord) -> None:
        """Note that it is durable."""
        self.on_disk = record
        if self.to_store == record:
            self.to_store = None

    def propose(self, record: DurableRecord) -> bool:
        """Return whether to propose it: this server has proposed nothing larger in this view."""
        if self.proposed is not None and self.proposed[:2] >= record[:2]:
            return False
        self.proposed = record
        return True

    # ---- all disks

    def hear(self, member: Member, record: DurableRecord) -> None:
        """Note that a server of this view has made this durable."""
        self._stored[member] = record.and_(self._stored.get(member, record))

    def covering(self, record: DurableRecord) -> set[Member]:
        """Return the servers whose disks know of a record."""
        return {member for member, stored in self._stored.items() if stored.covers(record)}

    def is_known(self, record: DurableRecord, is_quorum: IsQuorum) -> bool:
        """Return whether a majority's disks know of a record."""
        return is_quorum(self.covering(record))

    def known(self, is_quorum: IsQuorum) -> DurableRecord | None:
        """Return the largest epoch and promise of which a majority's disks know."""
        return next((record for record in self._records if self.is_known(record, is_quorum)), None)

    @property
    def _records(self) -> Iterator[DurableRecord]:
        for record in sorted({stored[:2] for stored in self._stored.values()}, reverse=True):
            yield DurableRecord(*record)

    def are_known(self, voters: Voters, is_quorum: IsQuorum) -> bool:
        """Return whether a majority's disks say that these are the voters."""
        knowing = [member for member, stored in self._stored.items() if voters.says_what(stored.voters)]
        return is_quorum(knowing)
