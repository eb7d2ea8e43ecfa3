"""docs/configuration.md has a row for each field, with the default that the field has."""

import dataclasses
import re
from pathlib import Path

import pytest

import totem
from totem.config import Config, Knet, LinkSettings, NodeEntry, Quorum
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


def words(cell):
    return set(re.findall(r"`(\w+)`", cell))


def test_each_field_has_a_row():
    assert [row[0].strip("`") for row in rows("Python")] == [field.name for field in dataclasses.fields(Config)]
    assert [row[0].strip("`") for row in rows("`NodeEntry`")] == list(NodeEntry._fields)
    assert [row[0].strip("`") for row in rows("`Quorum`")] == [field.name for field in dataclasses.fields(Quorum)]


KNET_ROWS = [(row[0].partition(", ")[0], words(row[1]), row[2].strip("`")) for row in rows("section and key")]


@pytest.mark.parametrize(("section", "kind"), [("totem", Knet), ("interface", LinkSettings)])
def test_each_field_of_knet_has_a_row_with_its_default(section, kind):
    found = {field: default for where, fields, default in KNET_ROWS if where == section for field in fields}
    whole = Config.for_nodes(1, transport="knet").knet
    fields = kind._fields if kind is LinkSettings else {field.name for field in dataclasses.fields(kind)} - {"links"}
    assert set(found) == set(fields)
    for name, default in found.items():
        value = getattr(whole if kind is Knet else whole.links[0], name)
        match default:
            case text if text.removesuffix(" s").isdigit():
                assert value == int(text.removesuffix(" s")), name
            case "passive" | "none":
                assert value == default
            case text:
                assert re.match(r"$|/etc/corosync/authkey|5405 \+|token /", text), name


def test_the_words_of_knet_have_rows():
    told = {word for row in rows("section and key") for word in words(row[0])}
    others = {"secauth", "linknumber", "mcastport"}
    assert told == {*vocabulary.KNET_TOTEM, *vocabulary.KNET_INTERFACE} | others


def test_the_examples_of_knet_are_good():
    conf, python = PAGE.split("## knet")[1].split("```")[1:4:2]
    nodes = [f"node {{\nnodeid: {k}\nname: n{k}\nring0_addr: ::{k}\nring1_addr: 10.1.0.{k}\n}}\n" for k in (1, 2)]
    config, warnings = parse(f"{conf}nodelist {{\n{''.join(nodes)}}}\n", "example", read_key=lambda _: bytes(256))
    assert (config.knet.cipher, config.knet.links[1].priority, warnings) == ("aes256", 2, ())
    place = {"totem": totem}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("totem.key_file.read_key", lambda _: bytes(256))
        exec(python.removeprefix("python"), place)
    assert place["config"].knet == dataclasses.replace(config.knet, key_source="")


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
