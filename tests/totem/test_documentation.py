"""docs/configuration.md has a row for each field, with the default that the field has."""

import dataclasses
import re
from pathlib import Path

import pytest

from totem.config import Config, NodeEntry, Quorum
from totem.corosync_conf import parse, vocabulary

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")


def rows(first_header):
    lines = iter(PAGE.splitlines())
    for line in lines:
        if line.startswith(f"| {first_header} |"):
            break
    next(lines)
    for line in lines:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split("|")]


def test_each_field_has_a_row():
    assert [row[0].strip("`") for row in rows("Python")] == [field.name for field in dataclasses.fields(Config)]
    assert [row[0].strip("`") for row in rows("`NodeEntry`")] == list(NodeEntry._fields)
    assert [row[0].strip("`") for row in rows("`Quorum`")] == [field.name for field in dataclasses.fields(Quorum)]


@pytest.mark.parametrize("row", list(rows("Python")), ids=lambda row: row[0].strip("`"))
def test_the_default_is_true(row):
    value = getattr(Config.for_nodes(2, cluster_name=""), row[0].strip("`"))
    match row[2].strip("`"):
        case "yes":
            assert value is True
        case "empty":
            assert value == ""
        case text if text.endswith(" ms") and text[0].isdigit() and "×" not in text:
            assert value == float(text.removesuffix(" ms")) / 1000
        case text if text.isdigit():
            assert value == int(text)
        case "udpu" | "ipv6-4" as text:
            assert value == text
        case "4 MiB":
            assert value == 4 * 2**20
        case text:
            assert text == "" or re.match(r"from|token /|1\.2 ×|0\.8 ×|none", text), text


def words(cell):
    return set(re.findall(r"`(\w+)`", cell))


def test_the_words_of_files_are_those_that_the_reader_knows():
    table = {re.match(r"`([\w.]+)`", row[0])[1]: row[1:] for row in rows("section")}
    assert {*table, "", "cpgd.reserved"} == vocabulary.WORDS.keys()
    for name, (taken, silent, warned, sections) in table.items():
        known = vocabulary.WORDS[name]
        assert (words(taken), words(silent), words(warned)) == (known.taken, known.idle, known.undone.keys())
        assert words(sections) == known.sections


def test_the_example_is_a_good_file():
    example = PAGE.split("```")[1]
    config, warnings = parse(example, "example")
    assert [node.name for node in config.nodes] == ["alpha", "beta"]
    assert warnings == ()
