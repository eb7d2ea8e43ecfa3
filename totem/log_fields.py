"""What a line of the log tells to programs, beside its text for people: the name of an event, and plain values.

A record of `logging` carries them under one key of its `extra`. What writes records decides how they are shown
(`cpg.local.log`); all other handlers see the text alone. docs/operating.md has the table of all events.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

Value = str | float | tuple[int, ...] | None
"""Numbers and truths are floats to the type checker."""
Fields = Mapping[str, Value]

NO_FIELDS: Final[Fields] = {}
ATTRIBUTE: Final = "totem_event"
"""Of a record: where its fields are."""


def event_fields(name: str, /, **values: Value) -> Fields:
    """Make the fields of an event: its name is `event` among them."""
    return {"event": name, **values}


def extra(fields: Fields, **further: Value) -> dict[str, Fields]:
    """Make the `extra` with which a record carries these fields."""
    return {ATTRIBUTE: {**fields, **further}}


def fields_of(record: object) -> Fields:
    """Return the fields that a record of `logging` carries; none where it tells of no event."""
    fields: Fields = getattr(record, ATTRIBUTE, NO_FIELDS)
    return fields
