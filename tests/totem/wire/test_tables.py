"""docs/wire.md shows what the schema says."""

import re
from pathlib import Path

from construct import Struct

from totem.wire import knet, layout, schema, tables

DOCUMENT = Path(tables.__file__).parents[2] / "docs" / "wire.md"


def test_the_tables_are_up_to_date():
    document = DOCUMENT.read_text(encoding="utf-8")
    assert tables.redraw(document) == document, "run: python -m totem.wire.tables docs/wire.md"


def test_every_format_has_its_table():
    drawn = set(re.findall(r"<!-- table (\w+) -->", DOCUMENT.read_text(encoding="utf-8")))
    declared = {name for name, value in vars(schema).items() if isinstance(value, Struct)}
    variants = {"InnerMcast", "Hint", "Control"}  # of Mcast and Hello
    assert drawn - {"HELLO_VALUES", "HINT_VALUES", "CONTROL_VALUES"} == declared - variants


def test_fixed_parts_are_as_long_as_in_the_layout():
    fixed = {
        "rest",
        "data",
        "rtr_list",
        "proc_list",
        "failed_list",
        "addr",
        "memb_entry",
        "msg_len",
        "pieces",
        "values",
        "block",
        "hears",
        "lacks",
        "linked",
        "unlinked",
        "khp_pmtud_data",
        "khp_data_userdata",
    }

    def size(struct: Struct) -> int:
        return sum(field.sizeof() for field in struct.subcons if field.name and field.name not in fixed)

    header = layout.HEADER.size
    assert size(schema.Header) == header
    assert size(schema.RingId) == layout.RING_ID.size
    assert size(schema.OrfToken) == header + layout.TOKEN.size
    assert size(schema.RtrItem) == layout.REQUEST.size
    assert size(schema.Mcast) == layout.MCAST.size
    assert size(schema.MembMergeDetect) == header + layout.MERGE_DETECT.size
    assert size(schema.MembJoin) == header + layout.JOIN.size
    assert size(schema.MembCommitToken) == header + layout.COMMIT_TOKEN.size
    assert size(schema.MembCommitTokenMembEntry) == layout.COMMIT_ENTRY.size
    assert size(schema.TokenHoldCancel) == header + layout.RING_ID.size
    assert size(schema.TotempgMcast) == layout.FRAME.size
    assert size(schema.KnetPing) == knet.PING_BYTES
    assert size(schema.KnetProbe) == knet.PROBE_BYTES
    assert size(schema.KnetData) == knet.DATA_HEADER
    assert size(schema.Hello) == size(schema.Hint) == layout.BLOCK.size
