"""What servers say to each other: its limits, and what becomes of bytes that are nothing of it."""

import random
from dataclasses import replace

import pytest

from cpg.replication.application import LARGEST_VERSION
from cpg.replication.electorate import Electorate, Voters
from cpg.replication.identities import ServerId
from cpg.replication.wire import (
    PART,
    Codec,
    Commands,
    MalformedMessage,
    NoServer,
    OtherVersion,
    RoundId,
    Stored,
    cut,
    digest,
)
from tests.cpg.replication.dictionary import CODEC, VERSION, Dictionary, Put
from tests.cpg.replication.values import Maker, Spoiler

encode, decode = CODEC.encode, CODEC.decode
PUT = Put(ServerId(1, 2), 3, "key")


def name(kind):
    return kind.__name__


@pytest.mark.parametrize("kind", CODEC.kinds, ids=name)
def test_what_is_within_the_limits_is_read_by_every_server(kind):
    maker = Maker(random.Random(name(kind)))
    for _ in range(100):
        said = maker.make(kind)
        assert decode(encode(said)) == said


@pytest.mark.parametrize("kind", [kind for kind in CODEC.kinds if name(kind) not in ("Commands", "Forgive")], ids=name)
def test_what_is_beyond_a_limit_is_no_message(kind):
    spoiler = Spoiler(random.Random(name(kind)))
    for _ in range(100):
        with pytest.raises(MalformedMessage) as malformed:
            decode(encode(spoiler.spoil(kind)))
        assert malformed.value.rest is None


def test_a_malformed_command_takes_no_other_with_it():
    with pytest.raises(MalformedMessage) as malformed:
        decode(encode(Commands(1, 2, [PUT, Put(ServerId(1, 2), -1, "key"), PUT])))
    assert malformed.value.rest == Commands(1, 2, [PUT, PUT])


@pytest.mark.parametrize("data", [b"", b"\x00", bytes((LARGEST_VERSION + 1,)), b"hello"])
def test_what_no_server_sends(data):
    with pytest.raises(NoServer, match="that no server sends"):
        decode(data)


@pytest.mark.parametrize("version", [1, LARGEST_VERSION])
def test_another_version_is_named(version):
    with pytest.raises(OtherVersion, match=f"it speaks version {version}, and this is version {VERSION}"):
        decode(bytes((version,)) + b"whatever")


# ---- states in parts


def broken_codec(error):
    """Return a codec whose application cannot restore a state."""

    def restore(image):
        raise error

    return Codec(replace(CODEC.application, restore=restore))


def state(count=1):
    """Return a state with this many long keys."""
    made = Dictionary(3, Voters(1, 1, Electorate({1: 1})))
    for number in range(count):
        made.apply(Put(ServerId(1, 2), number, f"key {number} ".ljust(1000)), ServerId(1, 2))
    return made


@pytest.mark.parametrize("count", [0, 1, 600])
def test_a_state_is_what_its_parts_say(count):
    frozen = CODEC.freeze(state(count))
    parts = [decode(encode(part)) for part in cut(frozen, RoundId(1, 2))]
    assert len(parts) == 1 + len(frozen) // PART
    assert CODEC.freeze(CODEC.thaw(parts, digest(frozen))) == frozen


def test_a_state_without_one_of_its_parts_is_refused():
    frozen = CODEC.freeze(state(600))
    with pytest.raises(MalformedMessage, match="with a wrong checksum"):
        CODEC.thaw(cut(frozen, RoundId(1, 2))[1:], digest(frozen))


@pytest.mark.parametrize("garbage", [b"", b"\x90", encode(Stored((1, 2.0))), CODEC.freeze(state()) + b"\x00"])
def test_garbage_is_refused_as_a_state(garbage):
    parts = cut(garbage, RoundId(1, 2)) if garbage else []
    with pytest.raises(MalformedMessage, match="a snapshot of"):
        CODEC.thaw(parts, digest(garbage))


def test_an_image_that_a_state_would_not_make_is_refused():
    image = state(2).image()
    image.items.reverse()
    frozen = CODEC._encoder.encode(image)
    with pytest.raises(MalformedMessage, match="that is not what a state looks like: `restore`"):
        CODEC.thaw(cut(frozen, RoundId(1, 2)), digest(frozen))


def test_an_image_of_which_no_state_can_be_made_is_refused():
    codec = broken_codec(KeyError("gone"))
    frozen = codec.freeze(state())
    text = f"a snapshot of {len(frozen)} bytes: no state can be made of it: KeyError: 'gone'"
    with pytest.raises(MalformedMessage, match=text):
        codec.thaw(cut(frozen, RoundId(1, 2)), digest(frozen))


def test_an_image_that_the_state_cannot_make_again_is_refused():
    class Incomplete(Dictionary):
        def image(self):
            raise AttributeError("items")

    codec = Codec(replace(CODEC.application, restore=Incomplete.of))
    frozen = codec.freeze(state())
    with pytest.raises(MalformedMessage, match="no state can be made of it: AttributeError: items"):
        codec.thaw(cut(frozen, RoundId(1, 2)), digest(frozen))


def test_a_lack_of_memory_says_nothing_of_an_image():
    codec = broken_codec(MemoryError())
    frozen = codec.freeze(state())
    with pytest.raises(MemoryError):
        codec.thaw(cut(frozen, RoundId(1, 2)), digest(frozen))


@pytest.mark.parametrize("version", [0, LARGEST_VERSION + 1, -1])
def test_an_application_has_a_version_that_no_text_begins_with(version):
    with pytest.raises(ValueError, match=f"version={version}.*1.*{LARGEST_VERSION}"):
        replace(CODEC.application, version=version)
