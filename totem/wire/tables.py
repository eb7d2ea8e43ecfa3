"""Draw the byte tables of a document from `schema`: `python -m totem.wire.tables docs/wire.md`.

A table stands between the lines `<!-- table NAME -->` and `<!-- end -->`, where NAME is a name of `schema`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from construct import Array, Construct, FocusedSeq, FormatField, GreedyRange, Select, SizeofError, Struct

from totem.wire import schema

_TABLE = re.compile(r"(?<=<!-- table )(?P<name>\w+) -->\n.*?(?=<!-- end -->)", re.DOTALL)


def redraw(document: str) -> str:
    """Return the document with each of its tables drawn anew."""
    return _TABLE.sub(lambda table: f"{table['name']} -->\n\n{draw(table['name'])}\n", document)


def draw(name: str) -> str:
    """Return the table of what `schema` declares under this name: a struct, or the values of a block by their tags."""
    declared = getattr(schema, name)
    if isinstance(declared, dict):
        rows = [("tag", "length", "value", "type", "")]
        rows += [(str(tag), _size(value), value.name, _type(value), value.docs) for tag, value in declared.items()]
    else:
        rows = [("offset", "size", "field", "type", ""), *_fields(declared)]
    rows.insert(1, ("---",) * 5)
    return "".join(f"| {' | '.join(row)} |\n" for row in rows).replace("|  |", "| |")


def _fields(struct: Construct) -> Iterator[tuple[str, str, str, str, str]]:
    fixed, variable = 0, ""
    for field in struct.subcons:
        if field.name is None:  # a check
            continue
        size = _size(field)
        yield f"{fixed}{variable}", size, f"`{field.name}`", _type(field), field.docs
        if size.isdigit():
            fixed += int(size)
        else:
            variable += f" + {size}"


def _core(declared: Construct) -> Construct:
    """Return what is under names, defaults and checks."""
    if isinstance(declared, FocusedSeq | Select):
        return _core(declared.subcons[0])
    if isinstance(declared, Array | GreedyRange | Struct) or not hasattr(declared, "subcon"):
        return declared
    return _core(declared.subcon)


def _field_names(declared: object) -> list[str | None]:
    return [field.name for field in declared.subcons] if isinstance(declared, Struct) else []


def _count(array: Array) -> str:
    return re.sub(r"this\['(\w+)'\]", r"\1", repr(array.count))


def _size(declared: Construct) -> str:
    core = _core(declared)
    try:
        if isinstance(core, Array):
            return f"{core.subcon.sizeof()}·{_count(core)}"
        return str(core.sizeof())
    except (SizeofError, KeyError):  # KeyError: a choice by a field that only a real packet has
        return "…"


def _type(declared: Construct) -> str:
    core = _core(declared)
    match core:
        case Array():
            return f"{_type(core.subcon)}[{_count(core)}]"
        case GreedyRange():
            return f"{_type(core.subcon)}, …"
        case Struct():
            return next(name for name, value in vars(schema).items() if _field_names(value) == _field_names(core))
        case FormatField():
            return f"{'i' if core.fmtstr[-1].islower() else 'u'}{8 * core.sizeof()}"
        case _:
            return "bytes"


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(redraw(path.read_text(encoding="utf-8")), encoding="utf-8")
