"""The keys of a node: what it seals with, and what it opens, also while they change.

All nodes change together, as Corosync's do: each *accepts* the new key, then each *uses* it. The former key is accepted
for a while more. A node uses the new key with the first packet that comes sealed with it, since others drop the old one
soon.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from totem.config import Knet
from totem.links.crypto import Clear, Seal
from totem.wire.knet import VERSION

OVERLAP: Final = 2.0
"""Seconds for which packets sealed as before are accepted, once this node seals otherwise."""
_BEGINNING: Final = bytes((VERSION,))
"""How every packet begins, once it is opened."""


class Keyring:
    """The keys of one node."""

    def __init__(self, settings: Knet, seal: Seal, on_change: Callable[[float], None]) -> None:
        """Begin with one key.

        Args:
            settings: The transport's.
            seal: How packets are protected.
            on_change: Called with the time when this node seals otherwise from now on.
        """
        self.settings = settings
        """Those of now: key, cipher and hash change."""
        self._seal = seal
        self._on_change = on_change
        self._coming: tuple[Knet, Seal] | None = None
        """What is accepted already, and not used yet."""
        self._former: Seal | None = None
        """What was used before, and is still accepted."""
        self._former_until = 0.0

    def accept(self, settings: Knet, seal: Seal) -> None:
        """Open what is sealed with another key, cipher or hash, too.

        Args:
            settings: Those of the new configuration; only key, cipher and hash are taken from them.
            seal: How packets are protected then.
        """
        self._coming = settings, seal

    @property
    def has_accepted(self) -> bool:
        """Whether something is accepted that is not used yet."""
        return self._coming is not None

    def reconfigure(self, settings: Knet) -> None:
        """Take other settings of the transport; key, cipher and hash stay as they are."""
        now = self.settings
        self.settings = replace(settings, cipher=now.cipher, hash=now.hash, key=now.key, key_source=now.key_source)

    def use_accepted(self, now: float) -> None:
        """Seal with what was accepted last, if that is not done yet."""
        if self._coming is None:
            return
        self._former, self._former_until = self._seal, now + OVERLAP
        (coming, self._seal), self._coming = self._coming, None
        self.settings = replace(
            self.settings, cipher=coming.cipher, hash=coming.hash, key=coming.key, key_source=coming.key_source
        )
        self._on_change(now)

    def seal(self, packets: Sequence[bytes]) -> Sequence[bytes]:
        """Return what leaves for each packet."""
        return self._seal.seal(packets)

    def open(self, datagrams: Sequence[bytes], now: float) -> Sequence[bytes | None]:
        """Return the packets, or None where one does not open. Hot: there is one seal but for moments."""
        if self._former is not None and now >= self._former_until:
            self._former = None
        if self._coming is None and self._former is None:
            return self._seal.open(datagrams)
        return [self._open_with_any(datagram, now) for datagram in datagrams]

    def _open_with_any(self, datagram: bytes, now: float) -> bytes | None:
        coming = self._coming[1] if self._coming is not None else None
        seals = [seal for seal in (coming, self._seal, self._former) if seal is not None]
        seals.sort(key=lambda seal: isinstance(seal, Clear))  # in clear everything opens, so that comes last
        for seal in seals:
            (packet,) = seal.open((datagram,))
            if packet is None:
                continue
            is_packet = packet.startswith(_BEGINNING)
            if seal is coming and is_packet:
                self.use_accepted(now)
            if is_packet or not isinstance(seal, Clear):
                return packet
        return None
