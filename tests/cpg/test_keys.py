"""Keys that change while a ring runs, by the messages of Corosync's `corosync-cfgtool -R`."""

import os
import random
from struct import pack

import pytest
import trio

import cpg
from cpg.cli.demo import free_ports
from cpg.node.wire import GROUP_A, KEY_IN_USE
from cpg.status import ring_status

CONFIG = """\
totem {{
    version: 2
    cluster_name: tests
    transport: knet
    token: 1000
    crypto_cipher: {cipher}
    crypto_hash: {hash}
    keyfile: {folder}/key
    interface {{
        mcastport: {port}
    }}
}}
system {{
    state_dir: {folder}
}}
nodelist {{
    node {{
        nodeid: 1
        ring0_addr: 127.0.0.1
    }}
    node {{
        nodeid: 2
        ring0_addr: 127.0.0.2
    }}
}}
"""
RELOAD = GROUP_A + pack("<i4xi4x I4xQ", 1 << 16 | 3, 32, 1, 0)
PHASE = GROUP_A + pack("<i4xi4x I4x", 1 << 16 | 4, 24, KEY_IN_USE)


class Files:
    """The configuration of both nodes, which is one file, and its key."""

    def __init__(self, folder):
        self._folder = folder
        (self._port,) = free_ports(1)
        self.path = folder / "ring.conf"
        self.write("aes256", "sha256")

    def write(self, cipher, hash_name):
        key = self._folder / "key"
        key.unlink(missing_ok=True)
        key.write_bytes(random.Random(cipher).randbytes(256))
        key.chmod(0o400)
        text = CONFIG.format(cipher=cipher, hash=hash_name, folder=self._folder, port=self._port)
        self.path.write_text(text)


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


def order(ring, message):
    """Send what a real node sends."""
    ring._engine.multicast((message,))
    ring._shell.kick()


@pytest.mark.parametrize("after", [("aes128", "sha512"), ("none", "sha1"), ("none", "none")])
async def test_a_ring_goes_on_with_the_key_of_the_new_file(files, after):
    async with cpg.open_ring(files.path, 1) as one, cpg.open_ring(files.path, 2) as two:
        with trio.fail_after(30):
            await two.wait_members(2)
            async with one.join("chat") as sender, two.join("chat") as reader:
                before = one.ring_id
                files.write(*after)
                for number, message in enumerate((RELOAD, PHASE, None)):
                    if message is not None:
                        order(one, message)
                    await sender.send(b"%d" % number)
                received = []
                async for message in reader:
                    if isinstance(message, cpg.Message):
                        received.append(message.data)
                    if len(received) == 3:
                        break
                assert received == [b"0", b"1", b"2"]
                for ring in (one, two):
                    assert (ring.config.knet.cipher, ring.config.knet.hash) == after
                    assert ring._shell.keys.links._keys.settings.hash == after[1]
                assert one.ring_id == two.ring_id == before


@pytest.mark.parametrize("flaw", ["missing", "short"])
async def test_a_node_that_cannot_read_the_new_key_keeps_its_own_and_says_why(files, caplog, flaw):
    async with cpg.open_ring(files.path, 1) as one, cpg.open_ring(files.path, 2) as two:
        with trio.fail_after(30):
            await two.wait_members(2)
            key = files.path.parent / "key"
            key.unlink()
            if flaw == "short":
                key.write_bytes(os.urandom(10))
                key.chmod(0o400)
            async with one.join("chat") as group:
                order(one, RELOAD)
                await group.send(b"behind it")
                await group.flush()
                assert "not reloaded, the former configuration stays in force: " in caplog.text
                assert str(key) in caplog.text
                assert one.config.knet.cipher == two.config.knet.cipher == "aes256"


async def test_a_reload_here_accepts_a_key_and_a_reload_everywhere_uses_it(files):
    async with cpg.open_ring(files.path, 1) as one, cpg.open_ring(files.path, 2) as two:
        with trio.fail_after(30):
            await two.wait_members(2)
            before = one.ring_id
            files.write("aes128", "sha512")
            async with one.join("chat") as group:
                for ring in (one, two):
                    (change,) = await ring.reload()
                    assert change.startswith("keys: cipher aes128, hash sha512")
                    await group.send(b"sealed as before")
                    await group.flush()
                    assert ring_status(ring, 0, 0)["key_waits"]
                    assert ring._shell.keys.links._keys.settings.cipher == "aes256"
                assert await two._reload_everywhere() == ()
                while any(ring._shell.keys.has_accepted for ring in (one, two)):
                    await trio.sleep(0.01)
                await group.send(b"sealed otherwise")
                await group.flush()
            assert {ring._shell.keys.links._keys.settings.cipher for ring in (one, two)} == {"aes128"}
            assert one.ring_id == two.ring_id == before
