"""The daemons' log on a disk that is full, and beside a syslog that is away."""

import errno
import io
import logging
import resource
import socket
from contextlib import closing, contextmanager, suppress

import pytest

from cpg.daemon import log
from cpg.daemon.log import LogFile, StandardError, SysLog
from tests.app.processes import write_config
from tests.daemon.test_command import Cpgd


@pytest.fixture
def said():
    """A logger without other handlers."""
    logger = logging.getLogger("tests.daemon.log")
    logger.propagate = False
    yield logger
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        with suppress(OSError):  # what is left cannot be written either
            handler.close()


def test_a_full_disk_is_told_once_and_what_is_missing_behind_it(said, tmp_path, capsys):
    said.addHandler(handler := LogFile("/dev/full"))
    for _ in range(3):
        said.warning("unheard")
    assert capsys.readouterr().err == "/dev/full takes no lines of the log for now: No space left on device\n"

    with open(tmp_path / "log", "w", encoding="utf-8") as room:
        full, handler.stream = handler.stream, room
        said.warning("heard")
        said.warning("too")
        handler.stream = full
    assert (tmp_path / "log").read_text() == "3 lines are missing here\nheard\ntoo\n"
    said.warning("unheard")
    assert capsys.readouterr().err.count("\n") == 1


@contextmanager
def full(path):
    """A file cannot grow."""
    usual, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (usual, hard))


@pytest.mark.parametrize("handler", [LogFile, StandardError])
def test_lines_that_are_missing_do_not_come_later(said, tmp_path, monkeypatch, handler):
    path = tmp_path / "log"
    with open(path, "a", encoding="utf-8") as file:
        monkeypatch.setattr("sys.stderr", file)
        said.addHandler(LogFile(str(path)) if handler is LogFile else StandardError())
        said.warning("heard")
        with full(path), monkeypatch.context() as patch:
            patch.setattr("sys.stderr", io.StringIO())
            for _ in range(3):
                said.warning("unheard")
        said.warning("heard again")
    assert path.read_text() == "heard\n3 lines are missing here\nheard again\n"


def test_a_bug_in_a_line_is_shown_with_all_that_there_is(tmp_path, capsys):
    with closing(LogFile(str(tmp_path / "log"))) as handler:
        handler.handle(logging.LogRecord("", logging.WARNING, "", 0, "%d", ("no number",), None))
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_file_for_which_there_is_no_room_may_come_later(said, tmp_path, capsys, monkeypatch, number):
    def no_room(self):
        raise OSError(number, "no room")

    with monkeypatch.context() as patch:
        patch.setattr(LogFile, "_open", no_room)
        said.addHandler(LogFile(str(tmp_path / "log")))
        said.warning("unheard")
        assert capsys.readouterr().err == f"{tmp_path}/log takes no lines of the log for now: no room\n"
    said.warning("heard")
    assert (tmp_path / "log").read_text() == "1 line is missing here\nheard\n"


def test_a_file_that_cannot_be_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        LogFile(str(tmp_path / "no" / "such" / "folder"))


def test_a_syslog_that_goes_and_comes(said, tmp_path, capsys, monkeypatch):
    path = tmp_path / "syslog"
    monkeypatch.setattr(log.SysLog, "place", str(path))

    def listening():
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.bind(str(path))
        return sock

    with listening():
        said.addHandler(SysLog(str(path)))
    said.warning("unheard")
    said.warning("unheard")
    assert capsys.readouterr().err.count("takes no lines of the log for now") == 1
    path.unlink()
    with listening() as again:
        said.warning("heard")
        assert b"2 lines are missing here" in again.recv(1000)
        assert b"heard" in again.recv(1000)


def test_a_syslog_that_does_not_read_stops_nobody(said, tmp_path, capsys, monkeypatch):
    path = tmp_path / "syslog"
    monkeypatch.setattr(log.SysLog, "place", str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(path))
        said.addHandler(handler := SysLog(str(path)))
        while not handler.missing:
            said.warning("unread")
        said.warning("unread")
        assert capsys.readouterr().err.count("takes no lines of the log for now") == 1
        while handler.missing:
            for _ in range(2):  # for what tells how many are missing, and for the line
                syslog.recv(1000)
            said.warning("read")


async def test_a_node_lives_with_a_full_disk_under_its_log(tmp_path):
    config = write_config(tmp_path, 1)
    with open(config, "a", encoding="utf-8") as file:
        file.write("logging {\n    to_logfile: yes\n    logfile: /dev/full\n    to_syslog: no\n}\n")
    cpgd = Cpgd(config, tmp_path)
    await cpgd.notice()
    code, err = await cpgd.end()
    cpgd.close()
    assert code == 0
    assert err.count("/dev/full takes no lines of the log for now: No space left on device") == 1
    assert "Traceback" not in err
    assert "node 1 has left" in err
