"""What a lock server keeps on disk, as the formats of all releases have it."""

import zlib

import pytest
from msgspec.msgpack import encode

from cluck.server.store import FORMAT, Disk
from cpg.replication.electorate import Electorate, View, Voters
from cpg.replication.wire import DurableRecord
from totem.errors import ConfigError

VOTERS = Voters(0xC1, 1, Electorate({1: 1, 2: 2}, 2), view=View(1, 2, 3))


def written(disk, content):
    """Write this into the file, whatever wrote it before."""
    body = encode(content)
    disk.path.write_bytes(zlib.crc32(body).to_bytes(4, "little") + body)


async def test_what_is_saved_is_loaded(tmp_path):
    disk = Disk(tmp_path, 1)
    assert disk.load() is None
    await disk.save(DurableRecord(1, 5.0, VOTERS))
    assert Disk(tmp_path, 1).load() == DurableRecord(1, 5.0, VOTERS)
    assert disk.is_of_this_boot


async def test_no_less_is_known_than_before(tmp_path):
    disk = Disk(tmp_path, 1)
    later = VOTERS.changing(Electorate({1: 1}))
    await disk.save(DurableRecord(1, 5.0, later))
    await disk.save(DurableRecord(2, 1.0, VOTERS))
    assert disk.load() == DurableRecord(2, 5.0, later)


async def test_the_first_format_is_read_and_replaced(tmp_path):
    disk = Disk(tmp_path, 1)
    written(disk, [[7, 12.5], "a boot"])
    assert disk.load() == DurableRecord(7, 12.5)
    assert not disk.is_of_this_boot
    await disk.save(DurableRecord(1, 1.0, VOTERS))
    assert disk.load() == DurableRecord(7, 12.5, VOTERS)


def test_a_later_format_is_not_taken_for_nothing(tmp_path):
    disk = Disk(tmp_path, 1)
    written(disk, [FORMAT + 1, {"whatever": 1}])
    with pytest.raises(ConfigError, match=f"is of a later release: format {FORMAT + 1}, and this one reads {FORMAT}"):
        disk.load()


@pytest.mark.parametrize("content", [[FORMAT, 5], [FORMAT, [[1, 2.0, 3], "a boot"]], [], "a", [[7], "a boot"]])
def test_what_is_no_record_is_damaged(tmp_path, caplog, content):
    disk = Disk(tmp_path, 1)
    written(disk, content)
    assert disk.load() is None
    assert "is damaged: what this node knew of earlier tokens is lost" in caplog.text
