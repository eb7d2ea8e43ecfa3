"""What the daemons have in common: exit codes, and the end of a life."""

import errno
import os

import pytest
import trio

from cpg.local.lifecycle import Life, _guard_files, explain
from totem.errors import AddressUnavailable, ConfigError, RingLost

FILE = "/etc/ring.conf"


@pytest.mark.parametrize(
    ("error", "config", "code", "text"),
    [
        (ConfigError(f"{FILE}:3: wrong"), FILE, 2, f"{FILE}:3: wrong"),
        (AddressUnavailable("no address"), FILE, 2, "no address"),
        (FileNotFoundError(errno.ENOENT, "No such file", FILE), FILE, 2, f"{FILE}: No such file"),
        (PermissionError(errno.EACCES, "Permission denied", FILE), FILE, 2, f"{FILE}: Permission denied"),
        (OSError(errno.EIO, "Input/output error", FILE), FILE, 1, f"{FILE}: Input/output error"),
        (OSError(errno.EMFILE, "Too many open files", FILE), FILE, 1, "Too many open files"),
        (FileNotFoundError(errno.ENOENT, "No such file", "/var/x"), FILE, 1, "/var/x: No such file"),
        (OSError(errno.ENOSPC, "No space left on device"), FILE, 1, "No space left on device"),
        (OSError(errno.ENOSPC, "No space left on device"), None, 1, "No space left on device"),
        (OSError(errno.EADDRINUSE, "another daemon listens there"), None, 1, "another daemon listens there"),
        (OSError("timed out"), None, 1, "timed out"),
        (RingLost("the ring was lost"), None, 1, "the ring was lost"),
        (ExceptionGroup("", [ExceptionGroup("", [RingLost("the ring was lost")])]), None, 1, "the ring was lost"),
    ],
)
def test_only_what_somebody_has_to_mend_is_exit_code_2(error, config, code, text, caplog):
    assert explain(error, config) == code
    assert text in caplog.messages[-1]


@pytest.mark.parametrize("bug", [ValueError("not enough values"), KeyError("x"), AssertionError()])
def test_a_bug_is_shown_with_all_that_there_is(bug):
    with pytest.raises(type(bug)):
        explain(bug, FILE)


async def test_a_life_that_has_not_begun_is_broken_off():
    life = Life()
    life.end()
    with life.starting:
        await trio.sleep_forever()
    assert life.is_over


def test_files_are_not_writable_for_others():
    former = os.umask(0)
    try:
        _guard_files()
        assert os.umask(0) == 0o022
        os.umask(0o077)
        _guard_files()
        assert os.umask(0) == 0o077
    finally:
        os.umask(former)
