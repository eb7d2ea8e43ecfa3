"""Packets sealed and opened; one was sealed by a real node."""

import hashlib
import hmac
import itertools
import os
import random
import subprocess
import sys

import pytest

from totem.config import CIPHERS, HASHES, Knet
from totem.links.crypto import Clear, seal_of

KEY = random.Random(1).randbytes(256)
KINDS = [("none", "none"), *(("none", name) for name in HASHES), *itertools.product(CIPHERS, HASHES)]


def settings(cipher, hash_name, key=KEY):
    return Knet(cipher=cipher, hash=hash_name, key=key)


def packets(count=5, low=7, high=1412):
    dice = random.Random(2)
    return [dice.randbytes(dice.randint(low, high)) for _ in range(count)]


@pytest.mark.parametrize(("cipher", "hash_name"), KINDS)
def test_what_is_sealed_opens_at_another_node(cipher, hash_name):
    mine, theirs = seal_of(settings(cipher, hash_name), os.urandom), seal_of(settings(cipher, hash_name), os.urandom)
    for batch in (packets(), packets(1), packets(40)):
        assert list(theirs.open(mine.seal(batch))) == batch
        shuffled = list(mine.seal(batch))
        random.Random(3).shuffle(shuffled)
        assert sorted(theirs.open(shuffled)) == sorted(batch)


@pytest.mark.parametrize(("cipher", "hash_name"), KINDS[1:])
def test_what_was_changed_does_not_open(cipher, hash_name):
    mine, theirs = seal_of(settings(cipher, hash_name), os.urandom), seal_of(settings(cipher, hash_name), os.urandom)
    sealed = mine.seal([b"abcdefgh"])[0]
    for place in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[place] ^= 1
        assert list(theirs.open([bytes(damaged)])) == [None]
    assert not any(theirs.open([sealed[:size] for size in range(len(sealed))]))
    assert list(theirs.open([b"", sealed, b"x" * 2000])) == [None, b"abcdefgh", None]


@pytest.mark.parametrize(("cipher", "hash_name"), KINDS[1:])
def test_another_key_does_not_open(cipher, hash_name):
    sealed = seal_of(settings(cipher, hash_name), os.urandom).seal(packets())
    assert not any(seal_of(settings(cipher, hash_name, KEY[:-1] + b"x"), os.urandom).open(sealed))


def test_the_bytes_are_those_of_a_new_state_for_each_packet():
    """Each packet decrypts by itself, its salt being the first vector, and its HMAC is over salt and ciphertext."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    for sealed, packet in zip(
        seal_of(settings("aes256", "sha256"), os.urandom).seal(packets()), packets(), strict=True
    ):
        said, signature = sealed[:-32], sealed[-32:]
        assert hmac.digest(KEY, said, hashlib.sha256) == signature
        state = Cipher(algorithms.AES(KEY[:32]), modes.CBC(said[:16])).decryptor()
        clear = state.update(said[16:]) + state.finalize()
        assert clear[: -clear[-1]] == packet


def test_no_two_salts_are_equal():
    seal = seal_of(settings("aes128", "md5"), os.urandom)
    assert len({sealed[:16] for _ in range(20) for sealed in seal.seal([b"same"] * 20)}) == 400


@pytest.mark.parametrize(
    ("cipher", "hash_name", "room"),
    [
        ("none", "none", 1446),
        ("none", "md5", 1430),
        ("none", "sha256", 1414),
        ("aes256", "md5", 1413),
        ("aes256", "sha1", 1397),
        ("aes128", "sha256", 1397),
        ("aes192", "sha384", 1381),
        ("aes256", "sha512", 1365),
    ],
)
def test_room_for_user_data_in_1472_bytes_is_that_of_real_nodes(cipher, hash_name, room):
    chosen = settings(cipher, hash_name)
    assert chosen.user_data_room(1472) == room
    largest = bytes(chosen.packet_room(1472))
    assert len(seal_of(chosen, os.urandom).seal([largest])[0]) <= 1472
    assert len(seal_of(chosen, os.urandom).seal([largest + b"x"])[0]) > 1472


def test_packets_of_one_size_become_packets_of_one_size():
    for kind in KINDS:
        sizes = {len(sealed) for sealed in seal_of(settings(*kind), os.urandom).seal([bytes(100)] * 8)}
        assert len(sizes) == 1


def test_the_library_is_loaded_for_a_key_alone():
    program = (
        "import sys; import totem.knet; from totem.config import Knet; from totem.links.crypto import seal_of;"
        "seal_of(Knet(), bytes);"
        "assert 'cryptography' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_in_clear_nothing_is_changed():
    batch = packets()
    assert Clear().seal(batch) is batch
