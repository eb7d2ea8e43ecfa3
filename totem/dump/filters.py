"""Which records are shown, and which of their messages."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

from totem.dump import knet
from totem.dump.order import WholeMessage
from totem.dump.records import END, EVIDENCE, FOREIGN, KINDS, LEAVE, Explanation, Record

MALFORMED: Final = "malformed"
"""Everything that has a fault, its messages included."""
RETRANSMISSION: Final = "retransmission"
"""Everything that was sent again."""
TYPES: Final = frozenset({*KINDS.values(), *knet.KINDS, LEAVE, EVIDENCE, FOREIGN, MALFORMED, RETRANSMISSION})


@dataclass(frozen=True, slots=True)
class Filter:
    """What a person wants to see. An empty collection restricts nothing."""

    types: Collection[str] = ()
    """Names of `TYPES`, of messages (`cpg.mcast`), or of their services (`cpg`)."""
    nodes: Collection[int] = ()
    groups: Collection[bytes] = ()
    links: Collection[int] = ()
    """Links of knet."""
    copies: bool = False
    """Whether to show a packet once for each destination."""
    tokens: bool = True

    def apply(self, record: Record) -> Record | None:
        """Return the record with the messages that match; None if nothing of it does."""
        if (record.copy == "copy" and not self.copies) or (record.kind == "token" and not self._wants_tokens(record)):
            return None
        if self.links and (record.knet is None or record.knet.link not in self.links):
            return None
        messages = [shown for shown in record.messages if self._shows_message(record, *shown)]
        of_itself = (
            not self.groups
            and (not self.nodes or record.node in self.nodes)
            and (not self.types or self._is_of_types(record))
            and record.kind != END
        )
        return replace(record, messages=messages) if of_itself or messages else None

    def _wants_tokens(self, record: Record) -> bool:
        return self.tokens or bool(record.messages)

    def _is_of_types(self, record: Record) -> bool:
        return (
            record.kind in self.types
            or (MALFORMED in self.types and bool(record.faults))
            or (record.copy == RETRANSMISSION and RETRANSMISSION in self.types)
        )

    def _shows_message(self, record: Record, message: WholeMessage, explanation: Explanation) -> bool:
        service = explanation.name.partition(".")[0]
        return (
            (not self.nodes or message.sender in self.nodes)
            and (not self.groups or explanation.group in self.groups)
            and (
                not self.types
                or record.kind in self.types
                or explanation.name in self.types
                or service in self.types
                or (MALFORMED in self.types and bool(explanation.fault))
            )
        )
