"""Nftables' rules, as `nft -j list ruleset` prints them: whether they let a packet of UDP pass.

Not all rules can be understood. So each chain has the set of verdicts that are possible. Only where all of these drop
the packet is the chain said to drop it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, Final, NamedTuple

Rule = Mapping[str, Any]
_UDP: Final = ("udp", 17)
_PORTS: Final = ("udp", "th")
_DEEPEST: Final = 16
"""Jumps from chain to chain that the kernel allows."""


class Packet(NamedTuple):
    """A packet of UDP, whose two ports are the same."""

    source: str
    target: str
    port: int
    interface: str
    """Through which it comes or goes; empty if that is not known."""
    is_reply: bool
    """Whether packets went the other way just before."""

    @property
    def version(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.source else 4


class Verdict(Enum):
    """What becomes of a packet."""

    ACCEPT = "accept"
    DROP = "drop"
    NONE = "none"
    """The end of a chain has come."""


class Judgement(NamedTuple):
    """What becomes of a packet at one hook."""

    verdict: Verdict | None
    """None: that cannot be told."""
    place: str = ""
    """The chain that drops it."""


class Ruleset:
    """All rules of a machine."""

    def __init__(self, listing: Sequence[Mapping[str, Any]]) -> None:
        """`listing`: the list `nftables` of the output."""
        self._chains: dict[tuple[str, str, str], Mapping[str, Any]] = {}
        self._rules: dict[tuple[str, str, str], list[Rule]] = {}
        self._sets: dict[tuple[str, str, str], list[Any]] = {}
        for entry in listing:
            for kind, value in entry.items():
                if kind == "chain":
                    self._chains[value["family"], value["table"], value["name"]] = value
                elif kind == "rule":
                    self._rules.setdefault((value["family"], value["table"], value["chain"]), []).append(value)
                elif kind == "set":
                    self._sets[value["family"], value["table"], value["name"]] = value.get("elem", [])

    def judge(self, hook: str, packet: Packet) -> Judgement:
        """Return what becomes of a packet at a hook: "input" or "output"."""
        is_sure = True
        families = ("inet", "ip6" if packet.version == 6 else "ip")
        for place, chain in self._chains.items():
            if chain.get("hook") != hook or chain.get("type") != "filter" or chain["family"] not in families:
                continue
            possible = self._possible(place, packet, hook, 0)
            if Verdict.NONE in possible:
                policy = Verdict.DROP if chain.get("policy") == "drop" else Verdict.ACCEPT
                possible = possible - {Verdict.NONE} | {policy}
            if possible == {Verdict.DROP}:
                return Judgement(Verdict.DROP, f"chain {chain['name']} of table {chain['family']} {chain['table']}")
            is_sure = is_sure and Verdict.DROP not in possible
        return Judgement(Verdict.ACCEPT if is_sure else None)

    def _possible(self, place: tuple[str, str, str], packet: Packet, hook: str, depth: int) -> set[Verdict]:
        """Return the verdicts that a chain may come to."""
        possible: set[Verdict] = set()
        for rule in self._rules.get(place, ()):
            matches, verdicts, goes_on = self._rule(rule, packet, hook, depth)
            if matches is False:
                continue
            possible |= verdicts - {Verdict.NONE} if goes_on else verdicts
            if matches and verdicts and (not goes_on or Verdict.NONE not in verdicts):
                return possible
        return possible | {Verdict.NONE}

    def _rule(self, rule: Rule, packet: Packet, hook: str, depth: int) -> tuple[bool | None, set[Verdict], bool]:
        """Return whether a rule matches (None: perhaps), what it may decide, and whether the next one may follow."""
        matches: bool | None = True
        for expression in rule.get("expr", ()):
            (kind, value) = next(iter(expression.items()))
            if kind == "match":
                said = self._match(rule, value, packet, hook)
                if said is False:
                    return False, set(), True
                matches = matches and said if said is not None else None
            elif kind == "accept":
                return matches, {Verdict.ACCEPT}, False
            elif kind in ("drop", "reject"):
                return matches, {Verdict.DROP}, False
            elif kind == "return":
                return matches, {Verdict.NONE}, False
            elif kind in ("jump", "goto"):
                target = (rule["family"], rule["table"], value["target"])
                inner = self._possible(target, packet, hook, depth + 1) if depth < _DEEPEST else set(Verdict)
                return matches, inner, kind == "jump"
            elif kind in ("vmap", "xt", "queue", "fwd"):
                return None, {Verdict.ACCEPT, Verdict.DROP}, True
            elif kind not in ("counter", "log", "comment"):
                matches = None
        return matches, set(), True

    def _match(self, rule: Rule, value: Mapping[str, Any], packet: Packet, hook: str) -> bool | None:
        known = _known(value["left"], packet, hook)
        if known is None:
            return None
        if not known:
            return False
        said = self._has(rule, known, value["right"])
        if said is None or value["op"] in ("==", "in"):
            return said
        return not said if value["op"] == "!=" else None

    def _has(self, rule: Rule, known: tuple[str | int, ...], right: Any) -> bool | None:
        """Return whether one of the ways to write a value is, or is among, what stands at the right."""
        found = False
        for element in self._elements(rule, right):
            said = _equals(known, element)
            if said:
                return True
            found = found or said is None
        return None if found else False

    def _elements(self, rule: Rule, right: Any) -> Iterator[Any]:
        if isinstance(right, str) and right.startswith("@"):
            yield from self._sets.get((rule["family"], rule["table"], right[1:]), [{}])
        elif isinstance(right, list):
            yield from right
        elif isinstance(right, dict) and "set" in right:
            yield from right["set"] if isinstance(right["set"], list) else [right["set"]]
        else:
            yield right


def _known(left: Any, packet: Packet, hook: str) -> tuple[str | int, ...] | None:
    """Return how a field of the packet may be written; None: not known; empty: the packet has no such field."""
    if not isinstance(left, dict):
        return None
    if payload := left.get("payload"):
        return _field(payload.get("protocol"), payload.get("field"), packet)
    if state := left.get("ct"):
        return ("established" if packet.is_reply else "new",) if state.get("key") == "state" else None
    key = left.get("meta", {}).get("key")
    if key == "l4proto":
        return _UDP
    if key == "nfproto":
        return (f"ipv{packet.version}",)
    here, there = ("i", "o") if hook == "input" else ("o", "i")
    if key in (f"{here}if", f"{here}ifname"):
        return (packet.interface,) if packet.interface else None
    return () if key in (f"{there}if", f"{there}ifname") else None


def _field(protocol: Any, name: Any, packet: Packet) -> tuple[str | int, ...] | None:
    if protocol in _PORTS:
        return (packet.port,) if name in ("dport", "sport") else None
    if protocol in ("ip", "ip6"):
        if protocol != ("ip6" if packet.version == 6 else "ip"):
            return ()
        addresses = {"saddr": packet.source, "daddr": packet.target}
        if name in addresses:
            return (addresses[name].partition("%")[0],)
        return _UDP if name in ("protocol", "nexthdr") else None
    return () if protocol in ("tcp", "sctp", "dccp", "icmp", "icmpv6", "igmp") else None


def _equals(known: tuple[str | int, ...], element: Any) -> bool | None:
    """Return whether a value is an element of a set; None: not known."""
    if isinstance(element, dict):
        if "elem" in element:
            return _equals(known, element["elem"].get("val"))
        if "range" in element:
            return _in_range(known[0], *element["range"])
        if "prefix" in element:
            network = f"{element['prefix']['addr']}/{element['prefix']['len']}"
            return ipaddress.ip_address(known[0]) in ipaddress.ip_network(network, strict=False)
        return None
    if isinstance(element, str) and element.endswith("*"):
        return str(known[0]).startswith(element[:-1])
    return element in known


def _in_range(value: str | int, low: Any, high: Any) -> bool | None:
    if isinstance(value, int):
        return low <= value <= high if isinstance(low, int) and isinstance(high, int) else None
    try:
        ends = [ipaddress.ip_address(text) for text in (low, value, high)]
    except ValueError:
        return None
    return int(ends[0]) <= int(ends[1]) <= int(ends[2])
