"""The ring sequence survives a crash at every step, and damage to every byte."""

import errno
import logging
import os

import pytest

from tests.totem.disk import Disk, PowerCut
from totem import store
from totem.ring_numbers import LIMIT, STEP
from totem.store import RingStore, default_directory, write_durably

PLAIN, CHECK = "/state/ringid_3", "/state/ringid_3.check"
COROSYNC = "/corosync/ringid_3"
NOW = 1_790_000_000


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Return a clock that is of no help unless a test says so."""
    times = [0.0]
    monkeypatch.setattr(store.time, "time", lambda: times[0])
    return times


def on(disk, monkeypatch):
    monkeypatch.setattr(store, "os", disk)
    return RingStore("/state", 3, corosync_directory="/corosync")


def eight(seq):
    return seq.to_bytes(8, "little")


def healthy(seq, monkeypatch):
    disk = Disk()
    ring_store = on(disk, monkeypatch)
    ring_store.store(seq)
    return {name: file.content for name, file in disk.names.items()}


def test_a_real_folder(tmp_path):
    folder = tmp_path / "new" / "state"
    first = RingStore(str(folder), 3, corosync_directory=str(tmp_path))
    assert first.load() == 1
    first.store(9)
    assert (folder / "ringid_3").read_bytes() == eight(9)
    assert sorted(os.listdir(folder)) == ["ringid_3", "ringid_3.check"]
    assert RingStore(str(folder), 3, corosync_directory=str(tmp_path)).load() == 9


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="file: File exists; name a folder with state_dir"):
        RingStore(str(tmp_path / "file"), 3).load()


def test_a_sequence_never_goes_back(monkeypatch):
    disk = Disk()
    ring_store = on(disk, monkeypatch)
    ring_store.store(100)
    calls = disk.calls
    ring_store.store(99)
    assert disk.names[PLAIN].content == eight(100)
    assert disk.calls == calls


def live_and_crash(disk, monkeypatch, sequences):
    """Store the sequences until the power is cut; return the largest that was reported as stored."""
    reported = 0
    try:
        ring_store = on(disk, monkeypatch)
        reported = ring_store.load()
        for seq in sequences:
            ring_store.store(seq)
            reported = seq
    except PowerCut:
        return reported, True
    return reported, False


@pytest.mark.parametrize("before", [{}, {COROSYNC: eight(6)}, 8])
def test_power_cut_at_every_step(before, monkeypatch):
    """In no world that a cut leaves is less read than was reported, and the same holds after a second cut."""
    files = healthy(before, monkeypatch) if isinstance(before, int) else before
    worlds = fuse = 0
    cut = True
    while cut:
        disk = Disk(files, fuse)
        reported, cut = live_and_crash(disk, monkeypatch, [9, 13, 14, 400])
        for left in disk.outcomes():
            worlds += 1
            survivor = Disk(left)
            read = on(survivor, monkeypatch).load()
            assert read >= reported
            assert on(survivor, monkeypatch).load() == read
        fuse += 1
    assert reported == 400
    assert worlds > fuse > 50


def test_without_fsync_the_power_cut_would_be_noticed(monkeypatch):
    """The test above can fail: it does for a store that forgets to sync its files."""
    disk = Disk()
    monkeypatch.setattr(disk, "fsync", lambda number: None)
    reported, _ = live_and_crash(disk, monkeypatch, [9, 13])
    assert any(on(Disk(left), monkeypatch).load() < reported for left in disk.outcomes())


def test_first_start_and_lost_files_go_on_from_the_clock(monkeypatch, clock, caplog):
    clock[0] = NOW
    assert on(Disk(), monkeypatch).load() == NOW
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"{PLAIN} is lost" in caplog.text
    assert str(NOW) in caplog.text


def test_a_new_folder_is_no_cause_for_alarm(tmp_path, clock, caplog):
    clock[0] = NOW
    with caplog.at_level(logging.INFO):
        assert RingStore(str(tmp_path / "new"), 3, corosync_directory=str(tmp_path)).load() == NOW
    assert [record.levelname for record in caplog.records] == ["INFO"]


@pytest.mark.parametrize("content", [b"", b"\x09", eight(9)[:7], eight(9) + b"\0", b"\xff" * 8])
def test_a_torn_plain_file(content, monkeypatch, clock, caplog):
    """The companion may be older than what Corosync wrote last, so the clock decides too."""
    files = healthy(9, monkeypatch) | {PLAIN: content}
    assert on(Disk(files), monkeypatch).load() == 9
    assert "is damaged" in caplog.text
    clock[0] = NOW
    assert on(Disk(files), monkeypatch).load() == NOW


@pytest.mark.parametrize("bit", range(12 * 8))
def test_every_flipped_bit_of_the_companion_is_noticed(bit, monkeypatch, clock, caplog):
    files = healthy(9, monkeypatch)
    damaged = int.from_bytes(files[CHECK], "little") ^ 1 << bit
    files[CHECK] = damaged.to_bytes(12, "little")
    clock[0] = NOW
    assert on(Disk(files), monkeypatch).load() == NOW
    assert "is damaged" in caplog.text


def test_another_nodes_companion_is_noticed(monkeypatch, clock, caplog):
    disk = Disk()
    monkeypatch.setattr(store, "os", disk)
    RingStore("/state", 4, corosync_directory="/corosync").store(9)
    files = {PLAIN: eight(9), CHECK: disk.names["/state/ringid_4.check"].content}
    clock[0] = NOW
    assert on(Disk(files), monkeypatch).load() == NOW


def test_damage_is_healed(monkeypatch, clock, caplog):
    clock[0] = NOW
    disk = Disk({PLAIN: b"?"})
    assert on(disk, monkeypatch).load() == NOW
    clock[0] = NOW + 1000
    caplog.clear()
    assert on(disk, monkeypatch).load() == NOW
    assert not caplog.records


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({PLAIN: eight(17)}, 17),  # Corosync's, in this folder
        ({COROSYNC: eight(17)}, NOW),  # or ours was lost
        ({COROSYNC: eight(NOW + 5)}, NOW + 5),
        ({COROSYNC: b"?"}, NOW),
    ],
)
def test_taking_over_from_corosync(files, expected, monkeypatch, clock):
    clock[0] = NOW
    assert on(Disk(files), monkeypatch).load() == expected


@pytest.mark.parametrize(("theirs", "expected"), [(8, 9), (10, 10), (1 << 60, 9)])
def test_the_larger_of_corosyncs_and_ours(theirs, expected, monkeypatch, caplog):
    files = healthy(9, monkeypatch) | {COROSYNC: eight(theirs)}
    assert on(Disk(files), monkeypatch).load() == expected
    assert not caplog.records


@pytest.mark.parametrize(("stored", "expected"), [(1 << 50, 1 << 50), (LIMIT, LIMIT), (LIMIT + 1, NOW)])
def test_what_we_have_stored_is_believed_to_the_limit_of_all_sequences(stored, expected, monkeypatch, clock, caplog):
    clock[0] = NOW
    assert on(Disk(healthy(stored, monkeypatch)), monkeypatch).load() == expected


@pytest.mark.parametrize(("far", "expected"), [(NOW + STEP, NOW + STEP), (NOW + STEP + 1, NOW), (1 << 50, NOW)])
@pytest.mark.parametrize("path", [PLAIN, COROSYNC])
def test_what_has_no_checksum_is_believed_near_the_clock_only(path, far, expected, monkeypatch, clock):
    clock[0] = NOW
    assert on(Disk({path: eight(far)}), monkeypatch).load() == expected


def test_what_has_no_checksum_is_believed_near_what_has_one(monkeypatch, clock):
    files = healthy(1 << 50, monkeypatch) | {PLAIN: eight((1 << 50) + 8)}
    assert on(Disk(files), monkeypatch).load() == (1 << 50) + 8


def test_corosync_went_on_in_our_folder(monkeypatch, caplog):
    files = healthy(9, monkeypatch) | {PLAIN: eight(21)}
    assert on(Disk(files), monkeypatch).load() == 21
    assert not caplog.records


def test_corosyncs_folder_that_is_not_for_us(monkeypatch):
    class Closed(Disk):
        def open(self, path, flags, mode=0o777):
            if path == COROSYNC:
                raise PermissionError(path)
            return super().open(path, flags, mode)

    assert on(Closed(healthy(9, monkeypatch)), monkeypatch).load() == 9


@pytest.mark.parametrize(
    ("uid", "state_home", "expected"),
    [
        (0, "/ignored", "/var/lib/totem"),
        (1000, "/home/a/state", "/home/a/state/totem"),
        (1000, "", "/home/a/.local/state/totem"),
        (1000, "relative", "/home/a/.local/state/totem"),
    ],
)
def test_default_directory(uid, state_home, expected, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setenv("HOME", "/home/a")
    monkeypatch.setenv("XDG_STATE_HOME", state_home)
    assert default_directory() == expected


def test_a_user_without_a_home_learns_what_to_do(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where HOME is not set and no such user is known
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    with pytest.raises(OSError, match=r"no home directory.*state_dir"):
        default_directory()


def test_a_full_disk_is_no_success(monkeypatch):
    disk = Disk(healthy(9, monkeypatch))
    ring_store = on(disk, monkeypatch)
    monkeypatch.setattr(disk, "write", lambda number, data: len(data) - 1)
    with pytest.raises(OSError, match="written whole"):
        ring_store.store(13)
    monkeypatch.undo()
    assert on(Disk({name: file.content for name, file in disk.names.items()}), monkeypatch).load() == 9


@pytest.mark.parametrize(("mode", "warns"), [(0o755, False), (0o700, False), (0o777, True), (0o1777, True)])
def test_a_folder_that_is_not_this_users_alone(mode, warns, tmp_path, caplog):
    folder = tmp_path / "state"
    folder.mkdir()
    folder.chmod(mode)
    for _ in range(2):
        RingStore(str(folder), 3, corosync_directory=str(tmp_path)).load()
    told = [record for record in caplog.records if "users other than this one may write" in record.message]
    assert len(told) == warns
    if warns:
        assert f"{folder} (owner: uid {os.geteuid()}, mode {mode:o})" in told[0].message


def test_what_was_half_written_gives_its_room_back(tmp_path, monkeypatch):
    def full(file, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "file"
    write_durably(str(path), b"old")
    monkeypatch.setattr(store.os, "write", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_durably(str(path), b"new")
    assert caught.value.filename == str(path)
    assert os.listdir(tmp_path) == ["file"]
    assert path.read_bytes() == b"old"


def test_a_folder_that_goes_and_comes(tmp_path):
    """What is put in its place meanwhile is not taken for it: it may be below the place where a disk was mounted."""
    folder = tmp_path / "state"
    ring_store = RingStore(str(folder), 3, corosync_directory=str(tmp_path))
    ring_store.load()
    folder.rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError) as caught:
        ring_store.store(100)
    assert caught.value.filename == str(folder / "ringid_3.check")
    assert not folder.exists()
    (tmp_path / "away").rename(folder)
    ring_store.store(100)
    assert RingStore(str(folder), 3, corosync_directory=str(tmp_path)).load() == 100


def test_a_file_in_the_present_folder_is_named_without_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_durably("cluck_1", b"content")
    assert (tmp_path / "cluck_1").read_bytes() == b"content"
