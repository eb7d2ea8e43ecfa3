"""A daemon in real time: its requests to the system, refusals, and that it never holds a processor for long."""

import errno
import os
import resource
import signal
import subprocess
import sys

import pytest
import trio

from cpg.local import scheduling
from cpg.local.scheduling import PAUSE, Scheduler
from tests.cpg.daemon.test_command import Cpgd
from tests.cpg.processes import write_config
from totem.config import Scheduling

REAL_TIME = os.SCHED_RR | os.SCHED_RESET_ON_FORK
PLAIN = os.SCHED_OTHER | os.SCHED_RESET_ON_FORK
HIGHEST = os.sched_get_priority_max(os.SCHED_RR)


class System:
    """The requests to the system, and what it grants."""

    def __init__(self, monkeypatch):
        self.asked = []
        self.refuses = set()
        self.limits = {resource.RLIMIT_RTTIME: (-1, -1), resource.RLIMIT_MEMLOCK: (-1, -1)}
        monkeypatch.setattr(os, "sched_setscheduler", lambda pid, *what: self.ask("scheduler", what[0]))
        monkeypatch.setattr(os, "setpriority", lambda which, who, value: self.ask("nice", value))
        monkeypatch.setattr(resource, "getrlimit", self.limits.get)
        monkeypatch.setattr(resource, "setrlimit", self.limit)
        monkeypatch.setattr(scheduling.ctypes, "CDLL", lambda *args, **options: self)
        monkeypatch.setattr(signal, "signal", lambda number, handler: self.ask("signal", number))
        monkeypatch.setattr(scheduling, "has_capability", lambda number: False)

    def ask(self, *what):
        if what[0] in self.refuses:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        self.asked.append(what)

    def limit(self, which, values):
        if which == resource.RLIMIT_MEMLOCK and "limit" in self.refuses:
            raise ValueError("not allowed to raise maximum limit")
        self.limits[which] = values

    def mlockall(self, flags):
        self.asked.append(("memory", flags))
        return 0


@pytest.fixture
def system(monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return System(monkeypatch)


def test_root_is_in_real_time_unless_configured_otherwise(system, caplog):
    Scheduler(Scheduling()).begin()
    # The handler first: without it the limit would end the process.
    assert system.asked == [("signal", signal.SIGXCPU), ("scheduler", REAL_TIME), ("memory", 7)]
    assert system.limits[resource.RLIMIT_RTTIME] == (10_000_000, -1)
    assert caplog.messages == [f"in real time: round robin, priority {HIGHEST}; memory locked"]


def test_what_stands_on_another_daemon_is_below_it(system, caplog):
    Scheduler(Scheduling(), below=1).begin()
    assert f"priority {HIGHEST - 1};" in caplog.text


@pytest.mark.parametrize(("sched_rr", "uid"), [(False, 0), (None, 1000)])
def test_who_is_not_in_real_time_may_have_a_nice_value(system, monkeypatch, sched_rr, uid):
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    Scheduler(Scheduling(sched_rr=sched_rr)).begin()
    assert system.asked == []
    Scheduler(Scheduling(sched_rr=sched_rr, priority=-5)).begin()
    assert system.asked == [("nice", -5)]


def test_what_is_refused_is_a_line_and_no_failure(system, caplog):
    system.refuses = {"scheduler"}
    Scheduler(Scheduling()).begin()
    assert system.asked[1:] == [("nice", -20)]
    refused = "not in real time, the system refuses it (Operation not permitted): a busy machine may stop the ring"
    assert caplog.messages == [refused]
    system.refuses = {"scheduler", "nice"}
    Scheduler(Scheduling(sched_rr=True)).begin()
    assert caplog.messages[-1] == "the nice value stays what it is, the system refuses -20: Operation not permitted"


def test_memory_is_not_locked_under_a_limit_at_which_it_would_be_refused(system, monkeypatch, caplog):
    system.refuses = {"limit"}
    system.limits[resource.RLIMIT_MEMLOCK] = (65536, 65536)
    Scheduler(Scheduling()).begin()
    assert "memory not locked (only 65536 bytes may be)" in caplog.text
    assert not [what for what, _ in system.asked if what == "memory"]
    monkeypatch.setattr(scheduling, "has_capability", lambda number: number == 14)
    Scheduler(Scheduling()).begin()
    assert "memory locked" in caplog.messages[-1]


def test_the_hard_limit_at_which_the_kernel_kills_is_never_met(system):
    system.limits[resource.RLIMIT_RTTIME] = (4_000_000, 4_000_000)
    Scheduler(Scheduling()).begin()
    assert system.limits[resource.RLIMIT_RTTIME] == (2_000_000, 4_000_000)


async def test_who_spins_gives_real_time_up_and_takes_it_again(system, autojump_clock, caplog, nursery):
    scheduler = Scheduler(Scheduling())
    scheduler.begin()
    nursery.start_soon(scheduler.watch)
    await trio.sleep(PAUSE + 1)
    system.asked.clear()
    for _ in range(3):  # the kernel says it each second
        system.limits[resource.RLIMIT_RTTIME] = (11_000_000, -1)  # and is silent for a second longer the next time
        scheduler._on_spin(signal.SIGXCPU, None)
    assert set(system.asked) == {("scheduler", PLAIN)}
    assert caplog.messages[-1].startswith("no longer in real time: 10 s of computing without a pause")
    await trio.sleep(PAUSE)
    assert system.asked[-1] == ("scheduler", REAL_TIME)
    assert system.limits[resource.RLIMIT_RTTIME] == (10_000_000, -1)
    assert caplog.messages[-1] == "in real time again"
    assert len(caplog.messages) == 3
    nursery.cancel_scope.cancel()


def may_be_in_real_time():
    command = [sys.executable, "-c", "import os; os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


needs_real_time = pytest.mark.skipif(not may_be_in_real_time(), reason="the system lets this user not be in real time")

SPINNER = """
import logging, os
from cpg.local import scheduling
from totem.config import Scheduling

logging.basicConfig(level=logging.INFO)
scheduling.LONGEST_RUN = 1
scheduling.Scheduler(Scheduling(sched_rr=True), below=98).begin()
assert os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_RR
while os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_RR:
    pass
print("plain again")
"""


@needs_real_time
def test_a_process_that_spins():
    done = subprocess.run([sys.executable, "-c", SPINNER], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "plain again\n", done.stderr
    assert "no longer in real time" in done.stderr


def in_real_time(config):
    with open(config, encoding="utf-8") as file:
        text = file.read()
    with open(config, "w", encoding="utf-8") as file:
        file.write(text.replace("sched_rr: no", "sched_rr: yes"))
    return config


@needs_real_time
async def test_a_daemon_in_real_time(tmp_path):
    cpgd = Cpgd(in_real_time(write_config(tmp_path, 1)), tmp_path)
    with trio.fail_after(60):
        await cpgd.notice()
        assert os.sched_getscheduler(cpgd.process.pid) == REAL_TIME
        with open(f"/proc/{cpgd.process.pid}/status", encoding="ascii") as file:
            status = dict(line.split(":", 1) for line in file)
        assert not status["VmLck"].strip().startswith("0 ")
        code, log = await cpgd.end()
    cpgd.close()
    assert code == 0
    assert "in real time: round robin" in log


@pytest.mark.skipif(os.geteuid() != 0, reason="to drop privileges needs root")
async def test_a_daemon_that_may_not_be_in_real_time(tmp_path):
    drop = ("setpriv", "--bounding-set", "-sys_nice,-ipc_lock,-sys_resource", "--inh-caps", "-sys_nice")
    cpgd = Cpgd(in_real_time(write_config(tmp_path, 1)), tmp_path, prefix=drop)
    with trio.fail_after(60):
        await cpgd.notice()
        assert os.sched_getscheduler(cpgd.process.pid) == os.SCHED_OTHER
        code, log = await cpgd.end()
    cpgd.close()
    assert code == 0
    assert log.count("not in real time, the system refuses it (Operation not permitted)") == 1
