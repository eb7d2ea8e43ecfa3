"""Which node of a configuration this program is."""

from __future__ import annotations

from totem.addresses import is_local
from totem.config import Config, NodeEntry
from totem.errors import AddressUnavailable, ConfigError


def own_node(config: Config, node: int | str | None = None) -> int:
    """Return the node that this program is: that with this id or name, else that with an address of this machine.

    Raises `ConfigError`, which names the nodes there are, or the candidates if several addresses are this machine's.
    """
    if node is None:
        return _node_of_this_machine(config)
    for entry in config.nodes:
        if node in (entry.node_id, entry.name) or str(node) == str(entry.node_id):
            return entry.node_id
    raise ConfigError(f"node {node} is not in the nodelist, which has {_names(config.nodes)}", setting="node")


def _node_of_this_machine(config: Config) -> int:
    candidates = [entry for entry in config.nodes if is_local(entry.address)]
    if not candidates:
        text = f"no node of the nodelist has an address of this machine: {_names(config.nodes)}"
        raise AddressUnavailable(text, setting="node")
    if len(candidates) > 1:
        text = f"several nodes have an address of this machine, name one: {_names(candidates)}"
        raise ConfigError(text, setting="node")
    return candidates[0].node_id


def _names(nodes: tuple[NodeEntry, ...] | list[NodeEntry]) -> str:
    return ", ".join(f"{entry.node_id} ({entry.name}, {entry.address})" for entry in nodes)
