"""Records for programs: one JSON object a line, with the schema's own fields, and nothing lost.

A string inside `packet` or `fields` is always bytes in hex: `schema.build` makes the datagram from them again.
"""

from __future__ import annotations

import json
from typing import Any

from construct import Container

from totem.dump.records import Record
from totem.dump.text import endpoint


def to_json(record: Record, *, hexdump: bool = False) -> str:
    """Return one record as a line."""
    datagram = record.datagram
    line: dict[str, Any] = {
        "time": round(datagram.time, 9),
        "source": endpoint(datagram.source, datagram.source_port),
        "destination": endpoint(datagram.destination, datagram.destination_port),
        "type": record.kind,
        "node": record.node,
        "length": datagram.length,
    }
    if record.copy:
        line["copy"] = record.copy
    if record.position[1] > 1:
        line["train"] = record.position
    if record.knet is not None:
        said = record.knet
        line["knet"] = {"node": said.node, "link": said.link, "sealed": said.is_sealed, **said.values}
    if record.packet is not None:
        line["packet"] = _packet(record)
    for name, block in (("hello", record.hello), ("hint", record.hint), ("control", record.control)):
        if block is not None:
            line[name] = plain(block)
    if record.messages:
        line["messages"] = [
            {
                "name": explanation.name,
                "ring": message.ring_id,
                "seq": message.seq,
                "sender": message.sender,
                **({"label": message.label.hex()} if message.label else {}),
                **({"group": explanation.group.decode("utf-8", "backslashreplace")} if explanation.group else {}),
                "text": explanation.text,
                **({"fault": explanation.fault} if explanation.fault else {}),
                "fields": message.data.hex() if explanation.fields is None else plain(explanation.fields),
            }
            for message, explanation in record.messages
        ]
    if record.faults:
        line["faults"] = record.faults
    if record.notes:
        line["notes"] = record.notes
    if hexdump or (record.packet is None and (record.knet is None or record.faults)):
        line["hex"] = datagram.payload.hex()
    return json.dumps(line)


def _packet(record: Record) -> Any:
    """Return the packet's fields; where its data, or that of the old multicast in it, is a frame, the frame's
    fields."""
    packet = plain(record.packet)
    if record.frame is not None:
        inner = packet if record.inner is record.packet else packet["data"]
        inner["data"] = plain(record.frame)
    return packet


def plain(value: Any) -> Any:
    """Return what `construct` has read in types that JSON has."""
    if isinstance(value, Container):
        return {name: plain(field) for name, field in value.items() if name != "_io"}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.hex() if isinstance(value, bytes) else value
