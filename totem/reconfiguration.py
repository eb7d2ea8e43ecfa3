"""Reconfiguration: what differs between two configurations of a node, and what of that can change while it runs.

    for change in changes(old, new, node_id): ...     # texts for people; `NotReloadable` where one takes a restart
    config = with_members(new, old, members)          # what a node goes by until removed members have left

A node that is removed may still be a member of the ring. The ring is not broken for it: the node stays known until it
has left, and is not let in again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Any, Final

from totem.config import Config, Knet, LinkSettings, NodeEntry, milliseconds
from totem.errors import NotReloadable

_FIXED: Final = (
    ("transport", "totem.transport"),
    ("cluster_name", "totem.cluster_name"),
    ("netmtu", "totem.netmtu"),
    ("ip_version", "totem.ip_version"),
    ("port", "totem.interface.mcastport"),
    ("mcastaddr", "totem.interface.mcastaddr"),
    ("ttl", "totem.interface.ttl"),
    ("compact_headers", "totem.compact_headers"),
    ("accelerated_window", "totem.accelerated_window"),
    ("state_dir", "system.state_dir"),
    ("quorum.provider", "quorum.provider"),
    ("quorum.wait_for_all", "quorum.wait_for_all"),
    ("quorum.auto_tie_breaker", "quorum.auto_tie_breaker"),
    ("quorum.auto_tie_breaker_node", "quorum.auto_tie_breaker_node"),
    ("quorum.last_man_standing", "quorum.last_man_standing"),
    ("quorum.last_man_standing_window", "quorum.last_man_standing_window"),
    ("quorum.allow_downscale", "quorum.allow_downscale"),
    ("quorum.expected_votes_tracking", "quorum.expected_votes_tracking"),
    ("daemon.socket", "cpgd.socket"),
    ("daemon.libqb", "cpgd.libqb"),
    ("daemon.client_queue", "cpgd.client_queue"),
)
"""Settings that take a restart, and their names in a file."""
_TIMES: Final = ("token", "token_retransmit", "hold", "join", "send_join", "consensus", "merge", "downcheck")
_NUMBERS: Final = (
    "token_retransmits_before_loss_const",
    "fail_recv_const",
    "seqno_unchanged_const",
    "miss_count_const",
    "window_size",
    "max_messages",
    "block_unlisted_ips",
    "send_queue_bytes",
)
_QUORUM: Final = ("expected_votes", "two_node")
"""Votequorum reads only these again, and the votes of nodes (exec/votequorum.c, `votequorum_readconfig`)."""
_KNET: Final = (
    ("link_mode", "link_mode"),
    ("mtu", "knet_mtu"),
    ("mtu_interval", "knet_pmtud_interval"),
    ("compression", "knet_compression_model"),
    ("compression_threshold", "knet_compression_threshold"),
    ("compression_level", "knet_compression_level"),
)
_LINK: Final = (
    ("priority", "knet_link_priority"),
    ("ping_interval", "knet_ping_interval"),
    ("ping_timeout", "knet_ping_timeout"),
    ("pong_count", "knet_pong_count"),
    ("precision", "knet_ping_precision"),
)


def changes(old: Config, new: Config, node_id: int) -> tuple[str, ...]:
    """Return what would change at the node, a text for each setting; empty where nothing would.

    Raises `NotReloadable`, which names all that takes a restart.
    """
    if refusals := tuple(_refusals(old, new, node_id)):
        settings, texts = zip(*refusals, strict=True)
        raise NotReloadable(f"{'; '.join(texts)}: this takes a restart of the node", setting=settings[0])
    return tuple(
        chain(
            _nodes(old, new),
            _pairs(old, new, zip(_TIMES, _TIMES, strict=True), "totem.", _in_milliseconds),
            _pairs(old, new, zip(_NUMBERS, _NUMBERS, strict=True), "totem."),
            _chosen(old, new),
            _pairs(old.quorum, new.quorum, zip(_QUORUM, _QUORUM, strict=True), "quorum."),
            _knet(old.knet, new.knet),
            _differ("logging", old.logging, new.logging),
            _differ("uidgid", old.user_rules, new.user_rules),
            _differ("cpgd.reserved", old.daemon.reserved, new.daemon.reserved),
        )
    )


def with_members(new: Config, old: Config, members: Collection[int]) -> Config:
    """Return the new configuration, in which these nodes have the places that they had.

    Those that it lacks are in it, too. So nothing is lost of what they send, or are sent, while they are members.
    """
    former = {entry.node_id: entry for entry in old.nodes if entry.node_id in members}
    nodes = {entry.node_id: entry for entry in new.nodes}
    for node_id, entry in former.items():
        nodes[node_id] = _placed(entry, nodes.get(node_id, entry), new)
    kept = tuple(nodes[node_id] for node_id in sorted(nodes))
    return new if kept == new.nodes else replace(new, nodes=kept)


def _placed(former: NodeEntry, entry: NodeEntry, config: Config) -> NodeEntry:
    """Return a node's entry with its former addresses on the links that there still are."""
    addresses = [(link, former.address_on(link) or entry.address_on(link)) for link in config.link_numbers]
    further = tuple((link, address) for link, address in addresses if link)
    return entry._replace(address=addresses[0][1], port=former.port, further=further)


def _refusals(old: Config, new: Config, node_id: int) -> Iterator[tuple[str, str]]:
    """Yield what cannot change: the setting, and the text."""
    for path, name in _FIXED:
        before, after = _value(old, path), _value(new, path)
        if before != after and not (path == "port" and old.knet is not None):  # there each link has its own
            yield name, f"{name} is {_shown(before)} and would be {_shown(after)}"
    entry = next((entry for entry in new.nodes if entry.node_id == node_id), None)
    if entry is None:
        yield "nodeid", f"node {node_id}, which is this one, would not be in the nodelist"
        return
    if old.transport != new.transport:
        return
    own = old.node(node_id)
    for link in sorted({*old.link_numbers} & {*new.link_numbers}):
        before, after = old.place_on(own, link), new.place_on(entry, link)
        if before != after:
            name = f"ring{link}_addr of node {node_id}"
            yield name, f"{name}, which is this one, is {_place(*before)} and would be {_place(*after)}"


def _nodes(old: Config, new: Config) -> Iterator[str]:
    before = {entry.node_id: entry for entry in old.nodes}
    after = {entry.node_id: entry for entry in new.nodes}
    for node_id, entry in after.items():
        addresses = " ".join(address for _, address in new.addresses_of(entry))
        if node_id not in before:
            yield f"node {node_id} ({entry.name}, {addresses}) is added"
            continue
        former = before[node_id]
        if former.name != entry.name:
            yield f"node {node_id} is called {entry.name} instead of {former.name}"
        if former.votes != entry.votes:
            yield f"quorum_votes of node {node_id}: {entry.votes} instead of {former.votes}"
        if (former.address, former.port, former.further) != (entry.address, entry.port, entry.further):
            usual = " ".join(address for _, address in old.addresses_of(former))
            yield f"node {node_id} is at {addresses} instead of {usual}"
    for node_id in before.keys() - after.keys():
        yield f"node {node_id} ({before[node_id].name}) is removed"


def _chosen(old: Config, new: Config) -> Iterator[str]:
    """Yield what was set by hand and is not, or the reverse: then a ring of ours may choose another value."""
    before, after = (
        {*(config.timeouts_configured or ()), *(("token",) if config.token_configured else ())}
        | ({"window_size or max_messages"} if config.windows_configured else set())
        for config in (old, new)
    )
    yield from (f"totem.{name}: set by hand" for name in sorted(after - before))
    yield from (f"totem.{name}: no longer set by hand" for name in sorted(before - after))


def _knet(old: Knet | None, new: Knet | None) -> Iterator[str]:
    if old is None or new is None:
        return
    yield from _pairs(old, new, _KNET, "totem.")
    if (old.cipher, old.hash, old.key) != (new.cipher, new.hash, new.key):
        yield f"keys: cipher {new.cipher}, hash {new.hash}, key {new.fingerprint or 'none'}"
    before: dict[int, LinkSettings] = {link.number: link for link in old.links}
    after: dict[int, LinkSettings] = {link.number: link for link in new.links}
    for number, link in after.items():
        if number in before:
            yield from _pairs(before[number], link, _LINK, f"link {number}: ")
        else:
            yield f"link {number} is added"
    for number in before.keys() - after.keys():
        yield f"link {number} is removed"


def _pairs(
    old: object, new: object, names: Iterable[tuple[str, str]], prefix: str, shown: Callable[[Any], str] | None = None
) -> Iterator[str]:
    """Yield the attributes that differ, each by its name in a file."""
    shown = shown or _shown
    for name, word in names:
        before, after = getattr(old, name), getattr(new, name)
        if before != after:
            yield f"{prefix}{word}: {shown(after)} instead of {shown(before)}"


def _differ(what: str, old: object, new: object) -> Iterator[str]:
    if old != new:
        yield f"section {what} is another one"


def _value(config: Config, path: str) -> object:
    value: object = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _in_milliseconds(seconds: float) -> str:
    return f"{milliseconds(seconds)} ms"


def _shown(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case None | "":
            return "left out"
    return str(value)


def _place(address: str, port: int) -> str:
    return f"{address} port {port}"
