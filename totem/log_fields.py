"""What a line of the log tells programs, beside its text for people: the name of an event, and plain values.

A record of `logging` carries them under one key of its `extra`. The handler that writes records decides how they are
shown (`cpg.local.log`); all other handlers see only the text. docs/operating.md has the table of all events.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

Value = str | float | tuple[int, ...] | None
"""A plain value; to the type checker, integers and booleans are floats."""
Fields = Mapping[str, Value]

NO_FIELDS: Final[Fields] = {}
ATTRIBUTE: Final = "totem_event"
"""Name of a record's attribute that holds its fields."""


def event_fields(name: str, /, **values: Value) -> Fields:
    """Return the fields of an event, its name as `event` among them."""
    return {"event": name, **values}


def extra(fields: Fields, **further: Value) -> dict[str, Fields]:
    """Return the `extra` with which a record carries these fields."""
    return {ATTRIBUTE: {**fields, **further}}


def fields_of(record: object) -> Fields:
    """Return the fields that a record of `logging` carries; none if it reports no event."""
    fields: Fields = getattr(record, ATTRIBUTE, NO_FIELDS)
    return fields
