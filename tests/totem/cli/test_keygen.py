"""`totem keygen`: the file that it makes, and what it refuses."""

import errno
import hashlib
import os
import shutil
import subprocess
import sys

import pytest

from totem.cli import main
from totem.cli.arguments import parser
from totem.config import DEFAULT_KEY_FILE
from totem.key_file import read_key


def keygen(capsys, *arguments, code=0):
    assert main(["keygen", *map(str, arguments)]) == code
    return capsys.readouterr()


def test_a_new_key(tmp_path, capsys):
    path = tmp_path / "ring.key"
    printed = keygen(capsys, path).out
    key = path.read_bytes()
    fingerprint = hashlib.sha256(key).hexdigest()[:16]
    assert printed == f"{path} has a new key of 256 bytes, with fingerprint {fingerprint}\n"
    assert (len(key), path.stat().st_mode & 0o7777) == (256, 0o400)
    assert read_key(str(path)) == key
    keygen(capsys, tmp_path / "other")
    assert (tmp_path / "other").read_bytes() != key


@pytest.mark.parametrize("size", [128, 1024, 4096])
def test_its_size(tmp_path, capsys, size):
    path = tmp_path / "ring.key"
    assert f"of {size} bytes" in keygen(capsys, path, "-s", size).out
    assert path.stat().st_size == size


@pytest.mark.parametrize("size", ["127", "4097", "x", "-1", "1e3"])
def test_sizes_that_no_key_has(tmp_path, capsys, size):
    with pytest.raises(SystemExit) as ended:
        main(["keygen", str(tmp_path / "ring.key"), f"--size={size}"])
    assert ended.value.code == 2
    assert f"{size} is not a whole number between 128 and 4096" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path, capsys):
    path, link = tmp_path / "ring.key", tmp_path / "link"
    path.write_bytes(b"")
    link.symlink_to("nowhere")
    for taken in (path, link, tmp_path):
        said = keygen(capsys, taken, code=1)
        assert said.err == f"totem: {taken} exists, and is not overwritten: give the new key another name\n"
        assert said.out == ""
    assert path.read_bytes() == b""
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_that_is_missing(tmp_path, capsys):
    path = tmp_path / "none" / "ring.key"
    assert keygen(capsys, path, code=1).err == f"totem: {path} cannot be made: No such file or directory\n"


@pytest.mark.parametrize("failing", ["write", "fsync"])
def test_of_a_key_that_cannot_be_stored_nothing_is_left(tmp_path, capsys, monkeypatch, failing):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(f"totem.key_file.os.{failing}", fail)
    path = tmp_path / "ring.key"
    assert keygen(capsys, path, code=1).err == f"totem: {path} cannot be made: No space left on device\n"
    assert not list(tmp_path.iterdir())


def test_the_key_is_stored_before_its_folder_is(tmp_path, capsys, monkeypatch):
    stored = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: stored.append(os.readlink(f"/proc/self/fd/{file}")) or fsync(file))
    keygen(capsys, tmp_path / "ring.key")
    assert stored == [str(tmp_path / "ring.key"), str(tmp_path)]


def test_the_usual_file_is_corosyncs():
    assert parser().parse_args(["keygen"]).file == DEFAULT_KEY_FILE == "/etc/corosync/authkey"


def test_no_path_is_not_the_usual_file(capsys):
    with pytest.raises(SystemExit):
        main(["keygen", ""])
    assert "the path is empty" in capsys.readouterr().err


def test_as_a_program(tmp_path):
    command = [sys.executable, "-m", "totem", "keygen", "ring.key"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.startswith("ring.key has a new key")
    assert (tmp_path / "ring.key").stat().st_mode & 0o7777 == 0o400


def test_help_has_lines_that_fit(capsys):
    with pytest.raises(SystemExit):
        main(["keygen", "--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 100


@pytest.mark.corosync
@pytest.mark.skipif(shutil.which("corosync-keygen") is None, reason="needs Corosync")
def test_the_keys_of_corosync_keygen_are_read(tmp_path):
    path = tmp_path / "authkey"
    subprocess.run(["corosync-keygen", "-k", path], capture_output=True, check=True, timeout=30)
    assert len(read_key(str(path))) == 256
