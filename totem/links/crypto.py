"""Packets of knet sealed and opened: AES in CBC mode, then HMAC over what that has made, or HMAC alone.

    sealed     salt (16 bytes) | AES-CBC(packet | padding) | HMAC
    signed     packet | HMAC

Nothing names cipher, hash or key. What does not open is a stranger's, or damaged: it is no packet. Each packet has its
own random salt. There is no protection against packets that are sent again but the numbers of data packets, and whoever
has the key may be any node.

`cryptography` is loaded where a key is configured, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hmac import compare_digest
from typing import Final, Protocol

from totem.config import CIPHER_BLOCK, CIPHERS, HASHES, Knet


class Seal(Protocol):
    """How packets are protected."""

    def seal(self, packets: Sequence[bytes]) -> Sequence[bytes]:
        """Return what leaves for each packet. Packets of one size become packets of one size."""

    def open(self, packets: Sequence[bytes]) -> Sequence[bytes | None]:
        """Return each packet, or None where it does not open."""


class Clear:
    """No protection."""

    def seal(self, packets: Sequence[bytes]) -> Sequence[bytes]:
        """Return the packets."""
        return packets

    def open(self, packets: Sequence[bytes]) -> Sequence[bytes | None]:
        """Return the packets."""
        return packets


class _Mac:
    """HMAC with one key."""

    def __init__(self, name: str, key: bytes) -> None:
        from cryptography.hazmat.primitives import hashes, hmac  # noqa: PLC0415 - only where there is a key

        self._keyed = hmac.HMAC(key, getattr(hashes, name.upper())())
        self.size = HASHES[name]

    def digest(self, data: bytes) -> bytes:
        """Return the HMAC of data. Hot: a copy of the keyed state costs less than to begin with the key."""
        mac = self._keyed.copy()
        mac.update(data)
        return mac.finalize()


class Signed:
    """Packets in clear, with an HMAC behind them."""

    def __init__(self, hash_name: str, key: bytes) -> None:
        """`key`: the whole key file."""
        self._mac = _Mac(hash_name, key)

    def seal(self, packets: Sequence[bytes]) -> Sequence[bytes]:
        """Sign packets."""
        digest = self._mac.digest
        return [packet + digest(packet) for packet in packets]

    def open(self, packets: Sequence[bytes]) -> Sequence[bytes | None]:
        """Return the packets that are signed, without their signatures."""
        size, digest, equal = self._mac.size, self._mac.digest, compare_digest
        opened: list[bytes | None] = []
        for packet in packets:
            said = packet[:-size]
            opened.append(said if said and equal(digest(said), packet[-size:]) else None)
        return opened


class Sealed:
    """Encrypted packets, with an HMAC over what was encrypted.

    One state of CBC serves all packets each way. To encrypt, a packet has 16 random bytes before it, which become its
    salt. To decrypt, the salt is a block like others, and what comes of it is dropped. The bytes are those of a new
    state for each packet with the salt as its first vector.
    """

    def __init__(self, cipher: str, hash_name: str, key: bytes, random_bytes: Callable[[int], bytes]) -> None:
        """`key`: the whole key file."""
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes  # noqa: PLC0415 - only where there is a key

        self._mac = _Mac(hash_name, key)
        self._random_bytes = random_bytes
        state = Cipher(algorithms.AES(key[: CIPHERS[cipher]]), modes.CBC(random_bytes(CIPHER_BLOCK)))
        self._encrypt = state.encryptor().update
        self._decrypt = state.decryptor().update

    def seal(self, packets: Sequence[bytes]) -> Sequence[bytes]:
        """Encrypt and sign packets. Hot: all together."""
        salts = self._random_bytes(CIPHER_BLOCK * len(packets))
        pieces: list[bytes] = []
        ends: list[int] = []
        end = 0
        for number, packet in enumerate(packets):
            padding = CIPHER_BLOCK - len(packet) % CIPHER_BLOCK
            pieces += (salts[CIPHER_BLOCK * number : CIPHER_BLOCK * (number + 1)], packet, _PADDINGS[padding])
            end += CIPHER_BLOCK + len(packet) + padding
            ends.append(end)
        encrypted, digest = self._encrypt(b"".join(pieces)), self._mac.digest
        sealed, start = [], 0
        for end in ends:
            said = encrypted[start:end]
            sealed.append(said + digest(said))
            start = end
        return sealed

    def open(self, packets: Sequence[bytes]) -> Sequence[bytes | None]:
        """Check and decrypt packets. Hot: all that are signed together."""
        size, digest, equal = self._mac.size, self._mac.digest, compare_digest
        opened: list[bytes | None] = [None] * len(packets)
        signed: list[tuple[int, bytes]] = []
        for place, packet in enumerate(packets):
            said = packet[:-size]
            if len(said) >= 2 * CIPHER_BLOCK and not len(said) % CIPHER_BLOCK and equal(digest(said), packet[-size:]):
                signed.append((place, said))
        clear, start = self._decrypt(b"".join([said for _, said in signed])), 0
        for place, said in signed:
            end = start + len(said)
            padding = clear[end - 1]
            if padding <= CIPHER_BLOCK:
                opened[place] = clear[start + CIPHER_BLOCK : end - padding]
            start = end
        return opened


_PADDINGS: Final = [bytes([size]) * size for size in range(CIPHER_BLOCK + 1)]


def seal_of(settings: Knet, random_bytes: Callable[[int], bytes]) -> Seal:
    """Make the seal that the configuration asks for. `random_bytes` makes salts."""
    if settings.cipher != "none":
        return Sealed(settings.cipher, settings.hash, settings.key, random_bytes)
    return Signed(settings.hash, settings.key) if settings.is_sealed else Clear()
