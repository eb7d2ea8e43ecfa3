"""Key files: what is read, and what is refused with the remedy."""

import os

import pytest

from totem.errors import ConfigError
from totem.key_file import read_key

KEY = bytes(range(256))


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "authkey"
    path.write_bytes(KEY)
    path.chmod(0o400)
    return path


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o700])
def test_a_key_that_only_its_owner_reads(path, mode):
    path.chmod(mode)
    assert read_key(str(path)) == KEY


@pytest.mark.parametrize("mode", [0o404, 0o444, 0o460, 0o602, 0o620, 0o644, 0o666])
def test_a_key_that_others_can_read_or_change(path, mode):
    path.chmod(mode)
    with pytest.raises(ConfigError, match=rf"^the key file {path} has mode {mode:04o}, so that .*: chmod 0400 {path}"):
        read_key(str(path))


def test_the_group_may_read_what_belongs_to_root(path, monkeypatch):
    path.chmod(0o440)
    if os.geteuid() == 0:
        assert read_key(str(path)) == KEY
        os.chown(path, 1234, -1)
        monkeypatch.setattr(os, "geteuid", lambda: 1234)
    with pytest.raises(ConfigError, match="has mode 0440"):
        read_key(str(path))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_key_of_another_user(path):
    os.chown(path, 1234, -1)
    with pytest.raises(ConfigError, match=rf"^the key file {path} belongs to user 1234, .*: chown root {path}"):
        read_key(str(path))


def test_a_key_that_is_missing(tmp_path):
    path = f"{tmp_path}/none"
    with pytest.raises(ConfigError, match=rf"^the key file {path} is missing: .* totem keygen {path}$"):
        read_key(path)


def test_a_key_that_is_no_file(tmp_path):
    with pytest.raises(ConfigError, match=rf"^the key file {tmp_path} is a folder"):
        read_key(str(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="pipe is no regular file"):
        read_key(f"{tmp_path}/pipe")
    with pytest.raises(ConfigError, match="/dev/zero is no regular file"):
        read_key("/dev/zero")


def test_a_key_that_cannot_be_read(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ConfigError, match=rf"^the key file {tmp_path}/loop cannot be read: Too many levels"):
        read_key(f"{tmp_path}/loop")


def test_of_a_longer_file_one_byte_more_than_a_key_has(path):
    path.chmod(0o600)
    path.write_bytes(bytes(5000))
    assert len(read_key(str(path))) == 4097
