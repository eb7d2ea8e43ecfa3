"""The command `cpgd` as a service manager runs it: readiness, reload, orderly end, exit codes, log."""

import os
import signal
import socket
import sys
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

import cpg

PATIENCE = 40


@asynccontextmanager
async def running(config, path, *, log):
    """The daemon, and what it tells its service manager."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, trio.fail_after(PATIENCE):
        manager.bind(f"{path}.notify")
        manager.setblocking(False)
        command = [sys.executable, "-m", "cpg.daemon", "-c", config, "--node", "1", "--socket", str(path)]
        environment = {**os.environ, "NOTIFY_SOCKET": f"{path}.notify"}
        async with trio.open_nursery() as nursery:
            run = partial(trio.run_process, command, env=environment, stderr=log, check=False, deliver_cancel=kill)
            process = await nursery.start(run)
            yield process, trio.socket.from_stdlib_socket(manager)
            nursery.cancel_scope.cancel()


async def kill(process):
    process.kill()


async def told(manager, word):
    """Wait until the service manager is told this."""
    while word not in (await manager.recv(4096)).decode().splitlines():
        pass


async def test_it_tells_its_service_manager_how_it_is(tmp_path, config):
    path = tmp_path / "socket"
    with open(tmp_path / "log", "wb") as log:
        async with running(config, path, log=log) as (process, manager):
            await told(manager, "READY=1")
            async with cpg.connect(path) as ring:
                assert ring.node_id == 1
            process.send_signal(signal.SIGHUP)
            await told(manager, "RELOADING=1")
            await told(manager, "READY=1")
            Path(config).write_text("totem {\n    version: 9\n}\n")
            process.send_signal(signal.SIGHUP)
            await told(manager, "READY=1")
            process.send_signal(signal.SIGTERM)
            await told(manager, "STOPPING=1")
            assert await process.wait() == 0
    assert not path.exists()
    text = (tmp_path / "log").read_text()
    lines = [line.split("cpgd: ", 1)[1] for line in text.splitlines()]
    assert lines[-4] == f"node 1 serves programs at {path}; the ring has node 1"
    assert lines[-3] == "reloaded: who may connect, and what is logged; all else needs a restart"
    assert lines[-2].startswith(f"not reloaded, the former configuration stays in force: {config}:2")
    assert lines[-1] == "node 1 has left"


@pytest.mark.parametrize(
    ("text", "arguments", "code", "said"),
    [
        (None, [], 2, "ring.conf: No such file"),
        ("totem {\n  version: 2\n  transport: udpu\n  token: never\n}\n", [], 2, "ring.conf:4: "),
        ("", ["--node", "9"], 2, "node 9 is not in the nodelist"),
        ("", ["--node", "1", "--socket", "{folder}/ring.conf"], 1, "something that is no socket is in the way"),
    ],
    ids=["no file", "bad file", "no node", "no socket"],
)
async def test_what_cannot_be_is_said_with_an_exit_code(config, text, arguments, code, said):
    path = Path(config)
    if text is None:
        path.unlink()
    elif text:
        path.write_text(text)
    words = [word.format(folder=path.parent) for word in ["--socket", "{folder}/socket", *arguments]]
    command = [sys.executable, "-m", "cpg.daemon", "-c", config, *words]
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(command, capture_stderr=True, check=False)
    assert done.returncode == code
    assert said in done.stderr.decode()
