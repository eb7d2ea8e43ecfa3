"""Access to groups: of the users who may connect, only some may join reserved ones."""

import os
import signal
import sys
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

import cpg
from cpg.client.ipc import Kind, Refusal, head
from cpg.daemon.hub import Hub
from cpg.local.access import Access
from tests.cpg.daemon.test_hub import HELLO, Port, items_for
from totem.config import LOCKS_GROUP, Reservation, UserRule

OURS, USER, OTHER = os.geteuid(), 1_000_001, 1_000_002


def test_groups_are_open_but_for_those_that_are_reserved():
    access = Access([UserRule(uid=USER)], [Reservation("mine", uid=USER), Reservation("mine", gid=7)])
    for name in (b"chat", b"cluck\0", b"clucking", b"m"):
        assert access.may_join(name, OTHER, OTHER)
    for uid, gid in ((0, 0), (OURS, 0), (USER, 0), (OTHER, 7)):
        assert access.may_join(b"mine", uid, gid)
    assert not access.may_join(b"mine", OTHER, OTHER)
    assert access.reserved_groups == ("cluck", "mine")


def test_the_lock_servers_group_is_reserved_where_nothing_is_said():
    access = Access([UserRule(uid=USER)])
    assert not access.may_join(b"cluck", USER, USER)
    assert access.may_join(b"cluck", 0, 0)
    assert Access([], [Reservation(LOCKS_GROUP, uid=USER)]).may_join(b"cluck", USER, USER)
    assert access.reserved_groups == ("cluck",)


def test_a_client_is_refused_a_reserved_group_and_stays_in_others():
    hub = Hub(Port(), access=Access([UserRule(uid=USER)]))
    client = hub.connect(7, USER, USER)
    client.receive(b"\0" + HELLO + head(Kind.JOIN, 1, 5) + b"cluck" + head(Kind.JOIN, 2, 1) + b"a")
    assert client.work() is None
    _, refused = items_for(client)
    assert (refused.kind, refused.handle, refused.detail) == (Kind.REFUSED, 1, Refusal.RESERVED)
    for text in ("group 'cluck' is reserved", f"uid {USER} ", "`reserved { group: cluck uid: "):
        assert text in refused.body.decode()
    assert [membership.name for membership in hub.ring.memberships] == [b"a"]


LISTENER = """
import os, sys, cpg, trio

async def main():
    os.setuid(65534)  # here, since this interpreter may not be for everybody
    async with cpg.connect("{path}") as ring:
        print(sorted(await ring.list_groups()))
        try:
            async with ring.join("cluck"):
                print("in")
        except cpg.GroupReserved as error:
            print(error)
        async with ring.join("chat") as group:
            await group.send(b"hello")
            await group.flush()
            print("in chat")

trio.run(main)
"""

USERS = "uidgid {\n    uid: 65534\n}\n"
RULE = "cpgd {\n    reserved {\n        group: cluck\n        uid: 65534\n    }\n}\n"


@asynccontextmanager
async def cpgd_for_users(config):
    """Run a cpgd whose socket everybody can reach."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = Path(folder, "socket")
        command = [sys.executable, "-m", "cpg.daemon", "-c", config, "--node", "1", "--socket", str(path)]
        async with trio.open_nursery() as nursery:
            process = await nursery.start(lambda task_status: trio.run_process(command, task_status=task_status))
            while not path.exists():
                await trio.sleep(0.01)
            yield process, path
            process.send_signal(signal.SIGTERM)


@pytest.mark.skipif(OURS != 0, reason="to be another user needs root")
async def test_a_user_gets_into_a_reserved_group_by_a_rule_alone(config):
    with open(config, "a", encoding="utf-8") as file:
        file.write(USERS)
    with trio.fail_after(60):
        async with cpgd_for_users(config) as (process, path), cpg.connect(path) as ring, ring.join("cluck"):
            listener = [sys.executable, "-c", LISTENER.format(path=path)]
            groups, refusal, *rest = (
                (await trio.run_process(listener, capture_stdout=True)).stdout.decode().splitlines()
            )
            assert groups == "[b'cluck']"
            assert (
                "uid 65534 may not join it: run as root or as the daemon's user (uid 0), or let the user in" in refusal
            )
            assert rest == ["in chat"]
            with open(config, "a", encoding="utf-8") as file:
                file.write(RULE)
            process.send_signal(signal.SIGHUP)
            while b"\nin\n" not in (await trio.run_process(listener, capture_stdout=True)).stdout:
                pass
