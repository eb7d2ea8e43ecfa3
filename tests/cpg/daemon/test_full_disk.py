"""A node whose disk is full stays alive, stays out of rings that it could not store, and comes back."""

from contextlib import ExitStack

import pytest
import trio

import cpg
from tests.cpg.daemon.full_disk import can_mount, empty, fill, on_own_disk
from tests.cpg.daemon.test_command import Cpgd
from tests.cpg.processes import write_config
from totem.node import STANDING_STILL

pytestmark = pytest.mark.skipif(not can_mount(), reason="a disk of its own needs root, and leave to mount")


async def test_cpgd_starts_when_there_is_room(tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    path = write_config(tmp_path, 1)
    with open(path, encoding="utf-8") as file:
        text = file.read()
    with open(path, "w", encoding="utf-8") as file:
        file.write(text.replace(f"state_dir: {tmp_path}", f"state_dir: {state}"))
    fill_first = ("sh", "-c", f'cat /dev/zero > {state}/full 2>/dev/null; exec "$@"', "sh")
    cpgd = Cpgd(path, tmp_path, prefix=(*on_own_disk(state), *fill_first))
    with ExitStack() as daemons, trio.fail_after(60):
        daemons.callback(cpgd.close)
        assert (await cpgd.notice()).startswith("STATUS=waiting for the disk: ring sequences cannot be kept in ")
        empty(cpgd.process, state)
        assert (await cpgd.notice()).startswith("READY=1")
        code, log = await cpgd.end()
    assert code == 0
    for text in ("waiting for the disk: ", "No space left on device", "; make room there"):
        assert log.count(text) == 1
    assert log.count("(or this is the first start)") == 1
    assert "it is there, after" in log


async def test_cpgd_goes_on_when_there_is_room(tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    path = write_config(tmp_path, 2)
    with open(path, encoding="utf-8") as file:
        text = file.read()
    with open(path, "w", encoding="utf-8") as file:
        file.write(text.replace(f"state_dir: {tmp_path}", f"state_dir: {state}"))
    with ExitStack() as daemons, trio.fail_after(90):
        one = Cpgd(path, tmp_path, prefix=on_own_disk(state))
        daemons.callback(one.close)
        await one.notice()
        async with cpg.connect(one.path) as ring:
            fill(one.process, state)
            (tmp_path / "two").mkdir()
            two = Cpgd(path, tmp_path / "two", node=2)
            daemons.callback(two.close)
            while (await ring.query("status"))["state"] != STANDING_STILL:
                await trio.sleep(0.1)
            await two.notice()  # it is in a ring, alone
            async with cpg.connect(two.path) as other:
                assert other.node_ids == (2,)
                assert not (await ring.query("status"))["quorate"]
                empty(one.process, state)
                await ring.wait_members(2)
                await other.wait_members(2)
        code, log = await one.end()
    assert code == 0
    assert log.count(f"out of the ring, because the sequence of a new ring cannot be stored: {state}/ringid_1") == 1
    assert log.count("No space left on device") == 1
    assert log.count("its disk can be written again, after") == 1
