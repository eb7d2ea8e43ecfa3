"""Patience: how long a ring of ours alone waits for a member before it is broken (rulings, F1).

A daemon runs nothing but its node, so others need not wait long for it. A program that embeds its node may hold the
interpreter, and any machine may be overloaded for a while. So each member *asks* the others for a token timeout: in its
hello, then in ordered control messages. The ring waits as long as the member that asks for most, and never less than
`shortest`. All members know the same, because they have read the same messages.

What a member asks for follows its own measured pauses. It rises at once, to a multiple of a pause. After each quiet
minute it halves, down to what its kind needs. That is the local health of Lifeguard (Dadgar, Phillips, Currey 2018): a
node that notices that it is late itself must not accuse others, nor be accused in the usual time.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from math import inf
from typing import NamedTuple

from totem.config import Config, Timeouts, milliseconds
from totem.wire.messages import Ask

_SHORTEST, _COEFFICIENT, _WITHIN = 0.5, 0.05, 3
"""Seconds for a ring of up to so many members, and seconds for each member more."""
_EMBEDDED = 3
"""A program that embeds its node asks at least for this multiple of the shortest timeout."""
_PAUSE_FACTOR = 4
"""A member asks for this multiple of its longest pause."""
_CONSENSUS = 0.5
"""The consensus timeout as a share of the token timeout, where that is shorter than Corosync's."""
_HOLD = 0.1
"""The same of the time for which an idle ring's token is held: a machine may die while it rests elsewhere."""
_QUIET = 60.0
"""Seconds without a pause after which a member asks for half as much."""
_FAILOVER = 0.2
"""Seconds in which a token goes on by another link, after the one that it has taken was found to be down."""
_MOST = 10
"""No member is waited for longer than this multiple of this node's own token timeout."""


class Reason(enum.IntEnum):
    """Why a member asks for patience."""

    NONE = 0
    """It does not."""
    CONFIGURED = 1
    """Its token timeout is configured."""
    EMBEDDED = 2
    """A program embeds it."""
    PAUSE = 3
    """It has noticed a pause of its own."""
    LINKS = 4
    """A link that fails is noticed only after a while."""


_TEXTS = {
    Reason.CONFIGURED: "its token timeout is configured",
    Reason.EMBEDDED: "a program embeds it",
    Reason.PAUSE: "it was not run for a while",
    Reason.LINKS: "so long a failed link takes to be noticed",
}
_USUAL = "all members are daemons"
_COROSYNC = "those of Corosync, because not all members are known to be ours"
_AS_CONFIGURED = "as configured here"


class Chosen(NamedTuple):
    """The timeouts of a ring, and why it has them."""

    timeouts: Timeouts
    because: str


def shortest(members: int) -> float:
    """Return the shortest token timeout that a ring of so many members chooses."""
    return _SHORTEST + _COEFFICIENT * max(0, members - _WITHIN)


def choose(config: Config, asks: Mapping[int, Ask] | None, members: int) -> Chosen:
    """Return the timeouts of a ring of so many members, each of which has asked; `asks` is None if not all are ours."""
    if config.token_configured:
        return Chosen(config.timeouts, _AS_CONFIGURED)
    if asks is None:
        return Chosen(config.timeouts, _COROSYNC)
    asker = max(sorted(asks), key=lambda node_id: asks[node_id].milliseconds)
    wanted = min(asks[asker].milliseconds / 1000, _MOST * config.token)
    token, because = shortest(members), _USUAL
    if wanted > token:
        text = _TEXTS.get(asks[asker].reason, "")  # type: ignore[call-overload]
        token, because = wanted, f"node {asker} asks for it" + (f": {text}" if text else "")
    if token >= config.token:
        return Chosen(config.timeouts._replace(token=token), because)
    return Chosen(config.timeouts_with(token, _HOLD * token, _CONSENSUS * token), because)


def of_older_version(config: Config, largest_pause_ms: int) -> Ask:
    """Return what a member of a version that does not ask is taken to ask for."""
    pause = min(largest_pause_ms / 1000, config.token)
    return Ask(milliseconds(max(config.token, _PAUSE_FACTOR * pause)), Reason.EMBEDDED)


class Patience:
    """What one node asks the others for."""

    def __init__(self, config: Config, *, daemon: bool) -> None:
        self._is_daemon = daemon
        self._quiet_since = inf
        self.ask = Ask(0 if daemon else milliseconds(config.token), Reason.NONE if daemon else Reason.EMBEDDED)
        self.is_untold = False
        """Whether the others do not know yet what this node asks for."""
        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        """Take another configuration."""
        former = self.ask
        self._limit = config.token
        self._is_fixed = config.token_configured
        self._unnoticed = shortest(len(config.nodes))
        """A timeout that the ring has anyway."""
        self._least = self._needed(config)
        if self._is_fixed or former.reason == Reason.CONFIGURED or former.milliseconds < self._least.milliseconds:
            self.ask = self._least
        self.is_untold = self.is_untold or self.ask != former

    def _needed(self, config: Config) -> Ask:
        """Return what this node asks for at least."""
        if self._is_fixed:
            return Ask(milliseconds(config.token), Reason.CONFIGURED)
        least = Ask(0, Reason.NONE)
        if not self._is_daemon:
            least = Ask(milliseconds(_EMBEDDED * self._unnoticed), Reason.EMBEDDED)
        knet = config.knet
        if knet is not None and len(knet.links) > 1 and knet.link_mode == "passive":
            slowest = max(link.ping_interval + link.ping_timeout for link in knet.links) + _FAILOVER
            least = max(least, Ask(milliseconds(min(slowest, config.token)), Reason.LINKS))
        return least

    def start(self, now: float) -> None:
        """Begin to measure."""
        self._quiet_since = now

    def note_delay(self, seconds: float, now: float) -> bool:
        """Note that this process was run so much too late; return whether the node asks for more because of that."""
        wanted = _PAUSE_FACTOR * seconds
        asked = max(self.ask.milliseconds / 1000, self._unnoticed)
        if self._is_fixed or 2 * wanted <= asked:
            return False
        self._quiet_since = now
        if min(wanted, self._limit) <= asked:
            return False
        self.ask = Ask(milliseconds(min(wanted, self._limit)), Reason.PAUSE)
        self.is_untold = True
        return True

    def advance(self, now: float) -> bool:
        """Ask for less after quiet; return whether that has changed anything."""
        if now - self._quiet_since < _QUIET or self.ask == self._least:
            return False
        self._quiet_since = now
        half = self.ask.milliseconds // 2
        if half > max(self._least.milliseconds, 1000 * self._unnoticed):
            self.ask = self.ask._replace(milliseconds=half)
        else:
            self.ask = self._least
        self.is_untold = True
        return True
