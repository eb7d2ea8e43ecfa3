"""What a lock server keeps on disk: who may read it, and what happens where the disk fails."""

import fcntl
import os
import stat

import pytest

from cluck.server.store import KEY_SIZE, Disk
from cpg.replication.wire import DurableRecord
from totem import store


@pytest.fixture
def open_to_all():
    """A process whose files are everybody's unless it says otherwise."""
    former = os.umask(0)
    yield
    os.umask(former)


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def test_nobody_else_can_read_the_key_at_any_moment(tmp_path, open_to_all, monkeypatch):
    modes = []
    write = os.write

    def watched(file, content):
        modes.append(stat.S_IMODE(os.fstat(file).st_mode))
        return write(file, content)

    (tmp_path / "cluck_1.key.new").touch(0o666)  # left by a crash, or put there
    with open(tmp_path / "cluck_1.key.new", "rb") as spy:
        monkeypatch.setattr(store.os, "write", watched)
        key = Disk(tmp_path, 1).key()
        assert spy.read() == b""
    assert len(key) == KEY_SIZE
    assert modes == [0o600]
    assert mode(tmp_path / "cluck_1.key") == 0o600
    assert Disk(tmp_path, 1).key() == key


def test_a_folder_that_is_made_is_logged(tmp_path, caplog):
    caplog.set_level("INFO")
    for _ in range(2):
        Disk(tmp_path / "deep" / "er", 1)
    assert [record.getMessage() for record in caplog.records] == [
        f"new folder {tmp_path}/deep/er for what lock servers remember"
    ]


async def test_nobody_else_can_keep_the_disk_locked(tmp_path, open_to_all):
    lock = tmp_path / "cluck_1.lock"
    lock.touch(0o666)
    await Disk(tmp_path, 1).save(DurableRecord(1, 10.0))
    assert mode(lock) == 0o600
    with open(lock, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
