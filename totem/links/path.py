"""A path: one link to one other node. Whether it works, how long packets take, and how large they may be.

Pings go out at an interval. A path is up with the pong after `pong_count` timely ones. It is down when none has come
for the timeout, which is longer where it has just come up. These are libknet's rules, so that a node of another make
agrees about who can be reached. One thing is faster: a peer that was heard is pinged in quick succession until its path
is up, where libknet waits for the interval each time.

The MTU is looked for with probes of a size, which the peer answers. The first one is as large as packets can be: the
kernel refuses it, and names the size that leaves this machine. Where that does not reach the peer the smallest one is
tried, and then what is between. Until an answer comes the smallest one is taken to pass: a ring does not form where a
node is up for one that sends it nothing. Where nothing passes the path cannot be *used*, though it is up.
"""

from __future__ import annotations

from enum import Enum
from math import inf
from typing import Final, NamedTuple

from totem.config import LinkSettings
from totem.links.traffic import Traffic

LARGEST_PACKET: Final = 65535
"""Bytes of the largest IP packet."""
SMALLEST_MTU: Final = 576
"""What every IPv4 host takes."""
ATTEMPTS: Final = 2
"""Probes of one size, before it counts as too large."""
FIRST_BACKOFF: Final = 10
"""Multiple of the timeout after which a path is down that was configured or lost just now; one less each second."""
HURRY: Final = 0.1
HURRY_ROUNDS: Final = 8
"""Seconds, or times there and back, for the answer to a probe while a ring waits for it."""
RETRY: Final = 1.0
"""Seconds until a search for the MTU that has found nothing begins again."""
SUSPICION: Final = 0.2
"""Seconds for the answer of a peer whose machine seems to refuse what is sent to it."""
DOUBT_INTERVAL: Final = 0.03
"""Seconds between pings to a peer that has not answered for a while."""
EAGER_INTERVAL: Final = 0.05
"""Seconds between pings to a peer that was heard, until the path is up."""
PAUSE: Final = 0.1
"""Seconds by which a turn may be late before paths get the time that this process did not listen."""
WATCH_INTERVAL: Final = 0.125
"""Seconds between pings to a peer that is watched, at most."""
MOST_ASKED: Final = 32
"""Pings that may still be answered."""


class PathChange(Enum):
    """What has become of a path."""

    UP = "up"
    DOWN = "down"
    MTU = "mtu"


class Attempt(NamedTuple):
    """A probe that is not answered yet."""

    size: int
    number: int
    """Which one of this size."""
    until: float


class Path:
    """One link to one other node."""

    def __init__(
        self,
        settings: LinkSettings,
        *,
        fixed_mtu: int,
        mtu_interval: float,
        patience: float,
        first_backoff: int = FIRST_BACKOFF,
        doubt: float = inf,
    ) -> None:
        """Begin with nothing known.

        Args:
            settings: The link's.
            fixed_mtu: Bytes of the largest IP packet, where the configuration says so; 0: to be found.
            mtu_interval: Seconds between two searches for the MTU.
            patience: Seconds for the answer to a probe.
            first_backoff: Multiple of the timeout after which it is down that was begun or lost just now.
            doubt: Seconds without an answer after which pings follow each other quickly.
        """
        self.settings = settings
        self.is_up = False
        self.hears = False
        """Whether a ping or pong has come from the peer lately."""
        self.is_refused = False
        """Whether it went down because the peer's machine refused what was sent, and no answer came."""
        self.mtu = fixed_mtu
        """Bytes of the largest IP packet that passes; 0: not known."""
        self.last_mtu = 0
        """The MTU that it had when it was up last."""
        self.latency = 0.0
        """Smoothed seconds there and back."""
        self.shortest = inf
        self.longest = 0.0
        """Seconds there and back of the quickest pong and of the slowest one that counted."""
        self.sent = Traffic()
        self.received = Traffic()
        self.since = 0.0
        """When it came up, or went down."""
        self.lasted = 0.0
        """Seconds for which it had been down, or up, before."""
        self.pongs = 0
        """Timely pongs since it went down."""
        self.ups = self.downs = 0
        """Number of times that it came up, and went down."""
        self._fixed = bool(fixed_mtu)
        self._mtu_interval = mtu_interval
        self._patience = patience
        self._longest_interval = inf
        self._next_ping = self._last_ping = -inf
        self._pause = settings.ping_interval
        """Seconds between the last ping and the next one."""
        self._asked: dict[int, float] = {}
        """When pings were sent that are not answered, by the moment that they tell; oldest first."""
        self._last_pong = 0.0
        self._suspected_until = inf
        self._trusted_until = -inf
        self._heard_until = inf
        """When the peer counts as not heard, if nothing comes."""
        self._first_backoff = first_backoff
        self._doubt = doubt
        self._begun = 0.0
        """From when the backoff counts."""
        self._samples = 0
        self.has_lost = False
        """Whether a size that leaves this machine has got no answer in the last search."""
        self._hurries = False
        """Whether this search is one of `check`."""
        self._good = 0
        self._bad = LARGEST_PACKET + 1
        self._attempt: Attempt | None = None
        self._next_search = inf

    def reconfigure(self, settings: LinkSettings, *, fixed_mtu: int, mtu_interval: float, patience: float) -> None:
        """Take other settings; the path stays up."""
        self.settings = settings
        self._mtu_interval, self._patience = mtu_interval, patience
        if fixed_mtu:
            self.mtu = fixed_mtu
            self._attempt, self._next_search = None, inf
        elif self._fixed and self.is_up:
            self._next_search = -inf
        elif self._fixed:
            self.mtu = 0
        self._fixed = bool(fixed_mtu)

    @property
    def samples(self) -> int:
        """Number of pings over which the latency is smoothed."""
        return self._samples

    @property
    def is_searching(self) -> bool:
        """Whether a search for the MTU has not ended."""
        return self._attempt is not None

    @property
    def is_stopped(self) -> bool:
        """Whether it is pinged no more."""
        return self._next_ping == inf

    @property
    def is_usable(self) -> bool:
        """Whether data can be sent over it."""
        return self.is_up and self.mtu > 0

    def start(self, now: float) -> None:
        """Begin to ping."""
        self._next_ping = self.since = self._begun = now

    @property
    def deadline(self) -> float:
        """When `advance` is due."""
        return min(
            self._next_ping,
            min(self._silent_until, self._suspected_until) if self.is_up else inf,
            self._attempt.until if self._attempt is not None else self._next_search,
            self._heard_until,
        )

    def delay(self, seconds: float) -> None:
        """Wait longer for what is under way, because this process has not listened."""
        self._last_pong += seconds
        self._heard_until += seconds
        if self._attempt is not None:
            self._attempt = self._attempt._replace(until=self._attempt.until + seconds)

    # ---- pings

    def early_ping(self, share: float) -> float:
        """Return when the next ping may leave, if it may leave earlier by this share of the time between two."""
        return self._next_ping - share * self._pause

    def due_ping(self, now: float, share: float = 0.0) -> int | None:
        """Return the moment that a ping is to tell, in nanoseconds, and count it as sent; None: none is due.

        `share`: of the time between two by which it may leave earlier.
        """
        if now < self.early_ping(share):
            return None
        self._pause = min(self.settings.ping_interval, self._longest_interval)
        if self._is_doubtful(now):
            self._pause = DOUBT_INTERVAL
        self._last_ping, self._next_ping = now, now + self._pause
        asked = round(now * 1e9)
        self._asked[asked] = now
        if len(self._asked) > MOST_ASKED:
            del self._asked[next(iter(self._asked))]
        return asked

    def watch(self, now: float, *, closely: bool) -> None:
        """Ping more often from now on, or no more often than the settings say."""
        self._longest_interval = WATCH_INTERVAL if closely else inf
        self._next_ping = min(self._next_ping, now + self._longest_interval)

    def needs_answer(self, now: float) -> bool:
        """Return whether the answer to a ping must come at once: otherwise the peer's next one is soon enough."""
        return not self.is_up or self._suspected_until < inf or self._is_doubtful(now)

    def _is_doubtful(self, now: float) -> bool:
        return self.is_up and now > self._last_pong + self._doubt

    def on_pong(self, asked: int, now: float, held: float = 0.0) -> PathChange | None:
        """Take the answer to the ping of a moment. What was not asked, or was answered, or is late, does not count.

        `held`: seconds for which the peer has kept it.
        """
        sent = self._asked.pop(asked, None)
        if sent is None:
            return None
        self._hear(now)
        seconds = max(0.0, now - sent - held)
        if seconds > self.settings.ping_timeout:
            return None
        self._last_pong, self._suspected_until = now, inf
        self.shortest, self.longest = min(self.shortest, seconds), max(self.longest, seconds)
        weight = min(self._samples, self.settings.precision - 1)
        self.latency = (self.latency * weight + seconds) / (weight + 1)
        self._samples = weight + 1
        self.pongs += 1
        if self.is_up or self.pongs <= self.settings.pong_count:
            self.heed(now)
            return None
        self.is_up, self.lasted, self.since = True, now - self.since, now
        self.ups += 1
        if not self._fixed:
            self.mtu = SMALLEST_MTU
            self._search(now)
        return PathChange.UP

    def on_ping(self, now: float) -> None:
        """Note that the peer has pinged."""
        self._hear(now)
        self.heed(now)

    def _hear(self, now: float) -> None:
        self.hears, self._heard_until = True, now + self.settings.ping_timeout

    def hears_only(self, now: float) -> bool:
        """Return whether the peer goes on sending since its last answer: it has been silent for a shorter time.

        A process that has just ended was heard lately, too, but with its last answer.
        """
        last = self._heard_until - self.settings.ping_timeout
        return self.hears and now - last < last - self._last_pong

    def heed(self, now: float) -> None:
        """Ping soon, where the path is not up yet and the peer was heard: a ring need not wait for the interval."""
        if not self.is_up:
            self._next_ping = min(self._next_ping, self._last_ping + EAGER_INTERVAL)

    def _backoff(self, now: float) -> int:
        return max(1, self._first_backoff - int(now - self._begun))

    @property
    def _silent_until(self) -> float:
        """When the path counts as down, if no pong comes."""
        answered = self._last_pong + 2 * self.latency
        for multiple in range(1, self._first_backoff):
            end = answered + multiple * self.settings.ping_timeout
            if self._backoff(end) <= multiple:
                return end
        return answered + self._first_backoff * self.settings.ping_timeout

    def suspect(self, now: float) -> None:
        """Ping at once, and expect the answer soon: a machine has refused what was sent over the path.

        Such a refusal can be forged, so it is not believed where the peer answers.
        """
        if self.is_up and now >= self._trusted_until:
            self._suspected_until = now + SUSPICION
            self._trusted_until = now + 2 * SUSPICION
            self._next_ping = now

    def stop(self, now: float) -> PathChange | None:
        """Ping no more until `resume`; return whether the path goes down with that."""
        self._next_ping = self._heard_until = inf
        self._asked.clear()
        self.hears = False
        return self.go_down(now)

    def resume(self, now: float) -> None:
        """Ping again."""
        self._next_ping = self._begun = now

    def go_down(self, now: float) -> PathChange | None:
        """Take the path for lost; None: it was down."""
        self.pongs = 0
        if not self.is_up:
            return None
        self.is_up, self.lasted, self.since = False, now - self.since, now
        self.downs += 1
        self._suspected_until = inf
        self._begun = now
        self._attempt, self._next_search = None, inf
        self.last_mtu = self.mtu
        if not self._fixed:
            self.mtu = 0
        return PathChange.DOWN

    # ---- the MTU

    def due_probe(self) -> int | None:
        """Return the size of the IP packet that is to be tried now; None: none."""
        attempt = self._attempt
        return attempt.size if attempt is not None and attempt.until == -inf else None

    def sent_probe(self, now: float) -> None:
        """Note that the probe of `due_probe` has left, or was refused (`refused`)."""
        assert self._attempt is not None
        patience = self._patience
        if self._hurries:
            patience = min(patience, max(HURRY, HURRY_ROUNDS * self.latency))
        self._attempt = self._attempt._replace(until=now + patience)

    def search(self, now: float) -> None:
        """Look for the MTU anew, if the path is up: packets are sealed otherwise from now on."""
        if self.is_up and not self._fixed:
            self._search(now)

    def check(self, now: float) -> None:
        """Look at once and in a hurry whether the path still carries what it did: large packets seem to be lost."""
        if self.is_up and not self._fixed and (not self.is_searching or not self._hurries):
            self._search(now)
            self._hurries = True

    def refused(self, mtu: int, now: float) -> None:
        """Take what the kernel says: packets of more than `mtu` bytes do not leave this machine."""
        if self._fixed or not self.is_up or not mtu:
            return
        if self._attempt is None:
            self._search(now)
        attempt = self._attempt
        assert attempt is not None
        self._bad = min(self._bad, mtu + 1)
        if attempt.size >= self._bad:
            self._try(mtu)

    def on_probe_reply(self, size: int, now: float) -> PathChange | None:
        """Take the answer to a probe."""
        attempt = self._attempt
        if attempt is None or attempt.size != size:
            return None
        self._good = size
        return self._go_on(now)

    def _search(self, now: float) -> None:
        self._good, self._bad = 0, LARGEST_PACKET + 1
        self.has_lost = self._hurries = False
        self._next_search = inf
        self._try(LARGEST_PACKET)

    def _try(self, size: int) -> None:
        self._attempt = Attempt(size, 1, -inf)

    def _go_on(self, now: float) -> PathChange | None:
        """Try the next size, or end the search."""
        before = self.mtu
        if self._bad - self._good > 1:
            if self._good:
                self.mtu = max(self.mtu, self._good) if before < self._bad else self._good
            self._try((self._good + self._bad) // 2 if self._good else min(SMALLEST_MTU, self._bad // 2))
        else:
            self.mtu, self._attempt = self._good, None
            self._next_search = now + self._mtu_interval
        return PathChange.MTU if self.mtu != before else None

    def _give_up_size(self, now: float) -> PathChange | None:
        attempt = self._attempt
        assert attempt is not None
        if attempt.number < ATTEMPTS:
            self._attempt = Attempt(attempt.size, attempt.number + 1, -inf)
            return None
        self._bad, self.has_lost = attempt.size, True
        if attempt.size <= SMALLEST_MTU // 2 and self._hurries:
            self._attempt, self._next_search = None, now + RETRY  # all is lost, whatever its size
            return None
        if attempt.size <= SMALLEST_MTU // 2:
            before, self.mtu = self.mtu, 0
            self._attempt, self._next_search = None, now + RETRY
            return PathChange.MTU if before else None
        return self._go_on(now)

    # ---- time

    def advance(self, now: float) -> PathChange | None:
        """Do what is due but pings: lose a silent path, and go on with the search for the MTU."""
        if now >= self._heard_until:
            self.hears, self._heard_until = False, inf
        if self.is_up and now >= min(self._silent_until, self._suspected_until):
            self.is_refused = now >= self._suspected_until
            return self.go_down(now)
        if self._attempt is not None and -inf < self._attempt.until <= now:
            return self._give_up_size(now)
        if now >= self._next_search:
            self._search(now)
        return None
