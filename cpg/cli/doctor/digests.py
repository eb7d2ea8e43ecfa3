"""Digests of the settings that must be equal at all nodes, for people to compare."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Final, NamedTuple

from totem.config import Config, Knet, NodeEntry

_OWN: Final = frozenset(
    {
        "accelerated_window",
        "block_unlisted_ips",
        "compact_headers",
        "daemon",
        "ip_version",
        "knet",
        "logging",
        "nodes",
        "port",
        "quorum",
        "send_queue_bytes",
        "state_dir",
        "timeouts_configured",
        "token_configured",
        "user_rules",
        "windows_configured",
    }
)
"""Settings in which nodes may differ, and those that are digested apart. Ports are among those of the nodes."""
_OWN_OF_KNET: Final = frozenset({"compression_level", "compression_threshold", "key", "key_source", "links"})


class Digests(NamedTuple):
    """What must be equal at all nodes; the first 16 hexadecimal digits of SHA-256."""

    nodelist: str
    """Ids, names, votes, and addresses with ports, as they resolve here."""
    totem: str
    quorum: str
    key: str
    """The key's fingerprint; `none` where nothing is sealed."""

    def line(self) -> str:
        """Return them as one line."""
        return ", ".join(f"{name} {digest}" for name, digest in self._asdict().items())


def digests(config: Config) -> Digests:
    """Return the digests of a configuration."""
    key = config.knet.fingerprint if config.knet is not None else ""
    return Digests(
        nodelist=_digest([_node(config, node) for node in config.nodes]),
        totem=_digest([*_fields(config, _OWN), *(_knet(config.knet) if config.knet is not None else ())]),
        quorum=_digest(_fields(config.quorum, frozenset())),
        key=key or "none",
    )


def _node(config: Config, node: NodeEntry) -> tuple[object, ...]:
    numbers = [link.number for link in config.knet.links] if config.knet is not None else [0]
    places = [(number, *config.place_on(node, number)) for number in numbers]
    # Each node has its own name for the interface of a link-local address.
    ways = [(number, address.partition("%")[0], port) for number, address, port in places]
    return (node.node_id, node.name, node.votes, *ways)


def _knet(knet: Knet) -> list[tuple[str, object]]:
    links = [(link.number, link.port) for link in knet.links]
    return [*_fields(knet, _OWN_OF_KNET), ("links", links)]


def _fields(settings: object, without: frozenset[str]) -> list[tuple[str, object]]:
    assert dataclasses.is_dataclass(settings)
    names = sorted(field.name for field in dataclasses.fields(settings) if field.name not in without)
    return [(name, getattr(settings, name)) for name in names]


def _digest(values: list[tuple[str, object]] | list[tuple[object, ...]]) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]
