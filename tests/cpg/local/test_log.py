"""The daemons' log, for people and programs: on a full disk, and without syslog or journal."""

import errno
import io
import json
import logging
import re
import resource
import socket
from contextlib import closing, contextmanager, suppress

import pytest

from cpg.local import log
from cpg.local.log import JsonLines, LogFile, StandardError, SysLog, Text, start_logging
from tests.cpg.daemon.test_command import Cpgd
from tests.cpg.local.journal import entry, listening, stream_of
from tests.cpg.processes import write_config
from totem.config import Logging
from totem.log_fields import event_fields, extra


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


def test_a_full_disk_is_logged_once_and_then_what_is_missing(said, tmp_path, capsys):
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
    """Limit the size of files to zero."""
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


HOSTILE = 'a\nINFO cpgd: forged\r\n\x1b[2J\u2028{"event": "forged"}\nTOTEM_EVENT=forged\nPRIORITY=0\n\n'
"""A name that somebody may have given a lock."""


def written(tmp_path, formatter):
    """Return the text in a file for a record with a hostile name."""
    handler = LogFile(str(tmp_path / "log"))
    handler.setFormatter(formatter)
    with closing(handler):
        fields = event_fields("lock_forced", lock=HOSTILE, token=7)
        record = logging.makeLogRecord({"msg": "lock %s", "args": (HOSTILE,), "levelname": "WARNING", **extra(fields)})
        handler.handle(record)
    return (tmp_path / "log").read_text()


def test_a_line_for_people_is_one_line(tmp_path):
    text = written(tmp_path, Text("%(levelname)s cpgd: %(message)s"))
    assert text.startswith(r"WARNING cpgd: lock a\nINFO cpgd: forged\r\n\x1b[2J\u2028")
    assert len(text.splitlines()) == 1


def test_a_line_for_programs_is_one_object(tmp_path):
    text = written(tmp_path, JsonLines("cpgd"))
    assert text.isascii()
    assert len(text.splitlines()) == 1
    line = json.loads(text)
    time = line.pop("time")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time)
    assert line.pop("message").startswith(r"lock a\nINFO cpgd: forged")
    assert line == {"level": "warning", "program": "cpgd", "event": "lock_forced", "lock": HOSTILE, "token": 7}


def test_the_time_for_programs_is_that_of_greenwich():
    record = logging.makeLogRecord({"created": 1_000_000_000.0456, "levelname": "INFO"})
    assert json.loads(JsonLines("cpgd").format(record))["time"] == "2001-09-09T01:46:40.045Z"


def test_what_goes_wrong_in_a_library_is_one_line_for_programs():
    error = RuntimeError("first\nsecond")
    record = logging.makeLogRecord({"msg": "a bug", "exc_info": (RuntimeError, error, None), "levelname": "ERROR"})
    (line,) = JsonLines("cpgd").format(record).splitlines()
    assert json.loads(line)["message"] == "a bug\nRuntimeError: first\nsecond"


def test_lines_that_are_missing_are_counted_for_programs(said, tmp_path, capsys):
    said.addHandler(handler := LogFile("/dev/full"))
    handler.setFormatter(JsonLines("cpgd"))
    said.warning("unheard")
    with open(tmp_path / "log", "w", encoding="utf-8") as room:
        full, handler.stream = handler.stream, room
        said.warning("heard")
        handler.stream = full
    gap, heard = map(json.loads, (tmp_path / "log").read_text().splitlines())
    assert (gap["level"], gap["message"], gap["event"]) == ("warning", "1 line is missing here", "lines_missing")
    assert (gap["lines"], heard["message"]) == (1, "heard")


# ---- the journal


class Stderr:
    """Standard error that the journal reads, as systemd makes it: a stream."""

    def __init__(self, patch):
        self._patch = patch
        self._here, self._there = socket.socketpair()

    def fileno(self):
        return self._there.fileno()

    def write(self, text):
        raise AssertionError(f"{text!r} might have had to wait")

    def close(self):
        self._here.close()
        self._there.close()

    def start(self, **settings):
        """Start logging as a daemon does; return a logger. Only a running test has its own standard error."""
        self._patch.setattr("sys.stderr", self)
        start_logging("cpgd", Logging(**settings))
        return logging.getLogger("tests.daemon.daemon")

    def heard(self):
        """Return what has arrived since the last call."""
        with suppress(BlockingIOError):
            return self._here.recv(1 << 20, socket.MSG_DONTWAIT).decode()
        return ""

    def fill(self):
        """Fill the socket."""
        with suppress(BlockingIOError):
            while True:
                self._there.send(b"x" * 1000, socket.MSG_DONTWAIT)


@pytest.fixture
def stderr(monkeypatch, tmp_path):
    """Under systemd: no journal listens at its native socket yet."""
    stderr = Stderr(monkeypatch)
    monkeypatch.setenv("JOURNAL_STREAM", stream_of(stderr.fileno()))
    monkeypatch.setattr(log, "JOURNAL", str(tmp_path / "journal"))
    monkeypatch.setattr(log, "SYSLOG", str(tmp_path / "syslog"))
    root = logging.getLogger()
    level = root.level
    yield stderr
    for handler in list(root.handlers):
        if isinstance(handler, log._Patient):
            root.removeHandler(handler)
            handler.close()
    root.setLevel(level)
    stderr.close()


def test_the_journal_gets_fields(stderr, tmp_path):
    said = stderr.start(syslog_facility="local3", format="json")
    with listening(tmp_path / "journal") as journal:
        fields = {"node": 1, "ring": "1.20", "lost": (), "came": (2, 3), "seconds": 0.014, "cause": None}
        said.info("ring %s", "1.20", extra=extra(event_fields("ring", **fields), quorate=True))
        assert entry(journal.recv(10000)) == [
            ("MESSAGE", "ring 1.20"),
            ("PRIORITY", "6"),
            ("SYSLOG_FACILITY", "19"),
            ("SYSLOG_IDENTIFIER", "cpgd"),
            ("TOTEM_EVENT", "ring"),
            ("TOTEM_NODE", "1"),
            ("TOTEM_RING", "1.20"),
            ("TOTEM_CAME", "2"),
            ("TOTEM_CAME", "3"),
            ("TOTEM_SECONDS", "0.014"),
            ("TOTEM_QUORATE", "true"),
        ]
        for level, priority in ((logging.WARNING, "4"), (logging.ERROR, "3"), (logging.CRITICAL, "2")):
            said.log(level, "no event")
            assert entry(journal.recv(10000)) == [
                ("MESSAGE", "no event"),
                ("PRIORITY", priority),
                ("SYSLOG_FACILITY", "19"),
                ("SYSLOG_IDENTIFIER", "cpgd"),
            ]
    assert stderr.heard() == ""


def test_nobody_forges_fields_of_the_journal(stderr, tmp_path):
    said = stderr.start()
    with listening(tmp_path / "journal") as journal:
        said.warning("lock %s", HOSTILE, extra=extra(event_fields("lock_forced", lock=HOSTILE, why="\udcff")))
        fields = entry(journal.recv(10000))
    assert [name for name, _ in fields] == [
        *("MESSAGE", "PRIORITY", "SYSLOG_FACILITY", "SYSLOG_IDENTIFIER"),
        *("TOTEM_EVENT", "TOTEM_LOCK", "TOTEM_WHY"),
    ]
    assert dict(fields)["TOTEM_LOCK"] == HOSTILE
    assert dict(fields)["TOTEM_EVENT"] == "lock_forced"
    assert "\n" not in dict(fields)["MESSAGE"]


def test_a_journal_that_does_not_read_stops_nobody(stderr, tmp_path):
    said = stderr.start()
    (handler,) = (each for each in logging.getLogger().handlers if isinstance(each, log.Journal))
    with listening(tmp_path / "journal") as journal:
        sent = 0
        while not handler.missing:
            said.warning("unread")
            sent += 1
        said.warning("unread")
        for _ in range(sent - 1):
            journal.recv(10000)
        said.warning("read")
        gap, read = (dict(entry(journal.recv(10000))) for _ in range(2))
    assert (gap["MESSAGE"], gap["TOTEM_EVENT"]) == ("2 lines are missing here", "lines_missing")
    assert (gap["TOTEM_LINES"], read["MESSAGE"]) == ("2", "read")
    assert stderr.heard() == ""


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_journal_that_is_away_reads_standard_error(stderr, tmp_path, form):
    said = stderr.start(format=form)
    said.warning("first", extra=extra(event_fields("waiting", why="?")))
    heard = stderr.heard()
    if form == "text":
        assert heard == "WARNING cpgd: first\n"  # the journal knows when
    else:
        assert json.loads(heard)["event"] == "waiting"
    with listening(tmp_path / "journal") as journal:
        said.warning("second")
        assert ("MESSAGE", "second") in entry(journal.recv(10000))
        (handler,) = (each for each in logging.getLogger().handlers if isinstance(each, log.Journal))
        handler._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        said.warning("third %s", "x" * 10_000)  # is too long for a datagram
        assert "third" in stderr.heard()
    said.warning("fourth")
    assert "fourth" in stderr.heard()


def test_standard_error_that_is_full_stops_nobody_without_a_journal(stderr):
    said = stderr.start()
    stderr.fill()
    said.warning("unheard")
    stderr.heard()
    said.warning("heard")
    assert stderr.heard() == "WARNING cpgd: 1 line is missing here\nWARNING cpgd: heard\n"


def test_a_line_of_which_standard_error_takes_a_part_is_missing(stderr):
    said = stderr.start()
    said.warning("x" * (1 << 21))
    while stderr.heard():
        pass
    said.warning("heard")
    assert stderr.heard() == "WARNING cpgd: 1 line is missing here\nWARNING cpgd: heard\n"


def test_a_bug_in_a_line_for_the_journal_stops_nobody(stderr, tmp_path, monkeypatch):
    said = stderr.start()
    monkeypatch.setattr("sys.stderr", shown := io.StringIO())
    with listening(tmp_path / "journal"):
        said.warning("%d", "no number")
    assert "Traceback" in shown.getvalue()


@pytest.mark.parametrize("where", ["journal", "elsewhere"])
def test_what_is_written_where(stderr, tmp_path, monkeypatch, where):
    """JOURNAL_STREAM may come from a parent whose standard error was another one."""
    if where == "elsewhere":
        monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    with listening(tmp_path / "syslog") as syslog, listening(tmp_path / "journal") as journal:
        said = stderr.start(to_logfile=True, logfile=str(tmp_path / "log"), format="json")
        said.warning("something", extra=extra(event_fields("waiting", why="?")))
        syslog.setblocking(False)
        journal.setblocking(False)
        assert json.loads((tmp_path / "log").read_text())["event"] == "waiting"
        if where == "journal":
            assert journal.recv(10000)
            assert stderr.heard() == ""
            with pytest.raises(BlockingIOError):
                syslog.recv(10000)
        else:
            assert json.loads(stderr.heard())["event"] == "waiting"
            assert re.fullmatch(rb"<\d+>\d{4}-.* WARNING cpgd: something\0", syslog.recv(10000))
            with pytest.raises(BlockingIOError):
                journal.recv(10000)


def test_standard_error_that_is_a_file_is_no_journal(stderr, tmp_path, monkeypatch):
    with open(tmp_path / "file", "w", encoding="utf-8") as file:
        monkeypatch.setenv("JOURNAL_STREAM", stream_of(file.fileno()))
        monkeypatch.setattr("sys.stderr", file)
        start_logging("cpgd", Logging())
        logging.getLogger("tests.daemon.daemon").warning("something")
    assert re.fullmatch(r"\d{4}-.*,\d{3} WARNING cpgd: something\n", (tmp_path / "file").read_text())


def test_syslog_is_there_for_those_who_want_no_standard_error(stderr, tmp_path):
    with listening(tmp_path / "syslog") as syslog:
        stderr.start(to_stderr=False).warning("something")
        assert b"something" in syslog.recv(10000)


def test_only_lines_of_which_the_journal_knows_the_time_have_none(stderr, tmp_path):
    stderr.start(to_logfile=True, logfile=str(tmp_path / "log")).warning("something")
    assert stderr.heard() == "WARNING cpgd: something\n"
    assert re.fullmatch(r"\d{4}-.*,\d{3} WARNING cpgd: something\n", (tmp_path / "log").read_text())
