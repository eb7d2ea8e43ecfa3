"""Keys that change in a running ring over knet, by Corosync's own procedure, with real nodes and ours."""

import os
import re

import pytest
import trio

from tests.interop.test_knet import SEALED, UNSEALED, knet_ring, linked, long
from tests.interop.test_membership import CHATTER, cast
from tests.interop.test_trials import logged

__all__ = ["knet_ring"]

ORDERED = "kronosnet crypto reconfigured"


def give_keys(ring, cipher, hash_name, *places):
    """Put a new key, and the names of cipher and hash, into place at these nodes."""
    key = os.urandom(256)
    for k in places:
        path = ring.config[k]
        file = path.parent / "authkey"
        file.unlink(missing_ok=True)
        file.touch(0o400)
        file.write_bytes(key)
        text = path.read_text()
        for name, value in (("cipher", cipher), ("hash", hash_name)):
            text = re.sub(rf"crypto_{name}: \w+", f"crypto_{name}: {value}", text)
        path.write_text(text)


async def changed(ring, real, times):
    """Wait until real nodes have changed keys so many times."""
    for k in real:
        with trio.fail_after(30):
            while sum(ORDERED in line for line in ring.log(k)) < times:
                await trio.sleep(0.1)


@pytest.mark.parametrize(
    ("real", "changes"),
    [
        ((1, 3), [("aes128", "sha512"), SEALED]),
        long((2,), [("aes128", "sha512"), ("none", "sha1"), SEALED]),
        long((1, 3), [("none", "none"), ("aes192", "md5"), ("none", "none"), SEALED]),
    ],
)
async def test_keys_change_under_load_and_no_membership(knet_ring, real, changes):
    ring = knet_ring(3, secrets=SEALED)
    ours = sorted({1, 2, 3}.difference(real))
    async with cast(ring, real) as programs:
        await programs.start(1, 2, 3)
        await programs.together(1, 2, 3)
        await linked(ring)
        before = [ring.rings_at(k) for k in real], [programs.rings_at(k) for k in ours]
        await programs.say(CHATTER)
        await programs.heard(300)
        for number, (cipher, hash_name) in enumerate(changes):
            give_keys(ring, cipher, hash_name, 1, 2, 3)
            ring.place(real[0]).run("corosync-cfgtool", "-R")
            await changed(ring, real, number + 1)
            await programs.heard(300)
        await programs.quiet()
        await programs.together(1, 2, 3)
        assert ([ring.rings_at(k) for k in real], [programs.rings_at(k) for k in ours]) == before, "the ring changed"
        mixes = ("none", "none") in changes  # while packets in clear and signed ones mix, they complain of some
        await programs.check_health(1, 2, 3, **({"besides": UNSEALED} if mixes else {}))


@pytest.mark.long
async def test_a_node_without_the_new_key_is_left_behind_says_why_and_comes_back(knet_ring, capfd):
    ring = knet_ring(3, secrets=SEALED)
    async with cast(ring, (1, 3)) as programs:
        await programs.start(1, 2, 3)
        await programs.together(1, 2, 3)
        (ring.config[2].parent / "authkey").unlink()
        give_keys(ring, "aes128", "sha256", 1, 3)
        ring.place(1).run("corosync-cfgtool", "-R")
        await logged(ring, 1, ORDERED)
        await programs.together(1, 3)
        assert "not reloaded, the former configuration stays in force: " in capfd.readouterr().err
        await programs.kill(2)
        give_keys(ring, "aes128", "sha256", 1, 2, 3)
        ring.place(1).run("corosync-cfgtool", "-R")
        await changed(ring, (1, 3), 2)
        await programs.start(2)
        await programs.together(1, 2, 3)
