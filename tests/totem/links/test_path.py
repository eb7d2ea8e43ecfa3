"""A path: when it is up, when it is down, and what it carries."""

from math import inf

import pytest

from totem.config import LinkSettings
from totem.links.path import ATTEMPTS, FIRST_BACKOFF, LARGEST_PACKET, SMALLEST_MTU, SUSPICION, Path, PathChange

SETTINGS = LinkSettings(0, 5405, ping_interval=0.25, ping_timeout=0.5)


class World:
    """A path, a peer that answers, and what is between them."""

    def __init__(self, *, fixed_mtu=0, local=1500, carries=1500):
        self.path = Path(SETTINGS, fixed_mtu=fixed_mtu, mtu_interval=30.0, patience=0.5)
        self.now = 0.0
        self.delay = 0.01
        self.answers = True
        self.local = local
        """The size that leaves this machine."""
        self.carries = carries
        """The size that reaches the peer."""
        self.changes = []
        self.probes = []
        self.pings = 0
        self._coming = []
        self.path.start(0.0)

    def run(self, seconds):
        end = self.now + seconds
        while True:
            due = min([self.path.deadline, *(time for time, *_ in self._coming)])
            if due > end:
                break
            self.now = max(self.now, due)
            self._step()
        self.now = end

    def _step(self):
        for item in [item for item in self._coming if item[0] <= self.now]:
            self._coming.remove(item)
            _, take, said = item
            self._note(take(said, self.now))
        self._note(self.path.advance(self.now))
        asked = self.path.due_ping(self.now)
        self.pings += asked is not None
        if asked is not None and self.answers:
            self._coming.append((self.now + self.delay, self.path.on_pong, asked))
        while (size := self.path.due_probe()) is not None:
            self.path.sent_probe(self.now)
            self.probes.append(size)
            if size > self.local:
                self.path.refused(self.local, self.now)
            elif size <= self.carries and self.answers:
                self._coming.append((self.now + self.delay, self.path.on_probe_reply, size))

    def _note(self, change):
        if change is not None:
            self.changes.append((change, round(self.now, 2)))


def test_the_third_pong_sets_it_up_and_the_size_that_leaves_is_found():
    world = World()
    world.run(0.105)
    assert not world.path.is_up
    assert world.path.pongs == 2
    world.run(0.01)
    assert world.path.is_up
    assert world.path.is_usable
    assert world.path.mtu == SMALLEST_MTU
    world.run(0.1)
    assert world.path.mtu == 1500
    assert world.probes == [LARGEST_PACKET, 1500]
    assert world.changes == [(PathChange.UP, 0.11), (PathChange.MTU, 0.12)]


def test_a_silent_peer_is_pinged_at_the_interval_and_one_that_is_heard_at_once():
    world = World()
    world.answers = False
    world.run(9.9)
    assert world.pings == 40
    world.answers = True
    world.path.heed(world.now)
    world.run(0.02)
    assert world.pings == 41
    for _ in range(100):
        world.path.heed(world.now)
    world.run(0.01)
    assert world.pings == 41
    world.run(0.15)
    assert world.path.is_up
    world.path.heed(world.now)
    world.run(1)
    assert world.pings <= 48


def test_late_pongs_do_not_count():
    world = World()
    world.delay = 0.6
    world.run(10)
    assert not world.path.is_up


def test_pongs_that_were_not_asked_for_do_not_count():
    world = World()
    world.answers = False
    world.run(1)
    for asked in (0, 1, 10**18, -5):
        world.path.on_pong(asked, world.now)
    world.answers = True
    world.run(0.1)
    assert not world.path.is_up
    world.run(0.3)
    assert world.path.is_up


def test_each_pong_counts_once():
    world = World()
    asked = world.path.due_ping(0.0)
    for _ in range(5):
        world.path.on_pong(asked, 0.01)
    assert world.path.pongs == 1


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_peer_that_ends_was_heard_and_one_that_does_not_answer_still_is(goes_on):
    world = World()
    world.run(15)
    world.answers = False
    world.run(0.1)
    world.path.on_ping(world.now)
    while world.path.is_up:
        world.run(0.05)
        if goes_on:
            world.path.on_ping(world.now)
    assert (world.path.hears, world.path.hears_only(world.now)) == (True, goes_on)
    assert not world.path.is_refused


@pytest.mark.parametrize(("age", "after"), [(4.0, 1.8), (30.0, 0.8)])
def test_silence_takes_it_down_later_in_its_first_seconds(age, after):
    world = World()
    world.run(age)
    world.answers = False
    world.run(after - 0.8)
    assert world.path.is_up
    world.run(1.6)
    assert not world.path.is_up
    assert world.path.mtu == 0


def test_a_path_that_went_down_comes_up_again():
    world = World()
    world.run(20)
    world.answers = False
    world.run(2)
    world.answers = True
    world.run(1)
    assert world.path.is_usable
    assert [change for change, _ in world.changes] == [
        *(PathChange.UP, PathChange.MTU, PathChange.DOWN, PathChange.UP, PathChange.MTU)
    ]
    assert 18 < world.path.since < 23


def test_a_pause_of_this_process_takes_nothing_down():
    world = World()
    world.run(20)
    world.now += 5
    world.path.delay(5)
    world.run(2)
    assert world.path.is_up
    assert [change for change, _ in world.changes] == [PathChange.UP, PathChange.MTU]


def test_a_refusal_is_believed_only_where_no_pong_comes():
    world = World()
    world.run(20)
    for _ in range(100):
        world.path.suspect(world.now)
        world.run(0.01)
    assert world.path.is_up
    world.answers = False
    world.run(0.4)
    world.path.suspect(world.now)
    world.run(SUSPICION + 0.01)
    assert not world.path.is_up


# ---- the MTU


@pytest.mark.parametrize(("local", "carries"), [(1500, 1500), (65535, 65535), (65536, 65535), (9000, 9000)])
def test_the_size_that_leaves_is_tried_first(local, carries):
    world = World(local=local, carries=carries)
    world.run(1)
    assert world.path.mtu == min(local, 65535)
    assert len(world.probes) <= 2


@pytest.mark.parametrize("carries", [600, 1300, 1492, 1499, 577, 300])
def test_a_smaller_size_is_found_between(carries):
    world = World(carries=carries)
    world.run(60)
    assert world.path.mtu == carries


def test_a_path_that_carries_nothing_is_not_usable_and_is_tried_again():
    world = World(carries=0)
    world.run(30)
    assert world.path.is_up
    assert not world.path.is_usable
    world.carries = 1500
    world.run(60)
    assert world.path.mtu == 1500


def test_a_size_that_shrinks_is_noticed_with_the_next_search():
    world = World()
    world.run(10)
    world.carries = 1400
    world.run(60)
    assert world.path.mtu == 1400
    assert world.path.is_up
    assert (PathChange.MTU, SMALLEST_MTU) not in world.changes


def test_what_the_kernel_refuses_begins_a_search():
    world = World()
    world.run(10)
    world.local = world.carries = 1400
    world.path.refused(1400, world.now)
    world.run(1)
    assert world.path.mtu == 1400


def test_one_lost_probe_is_not_a_smaller_size():
    world = World()
    world.run(0.505)
    world.carries = 0
    world.run(0.3)
    world.carries = 1500
    world.run(1)
    assert world.path.mtu == 1500
    assert world.probes.count(1500) <= ATTEMPTS


def test_a_size_of_the_configuration_is_not_looked_for():
    world = World(fixed_mtu=1400)
    world.run(60)
    assert world.path.is_usable
    assert world.path.mtu == 1400
    assert world.probes == []


def test_the_backoff_ends():
    assert FIRST_BACKOFF * SETTINGS.ping_timeout == 5.0
    world = World()
    world.run(0.6)
    world.answers = False
    world.run(6)
    assert not world.path.is_up
    assert world.path.deadline < inf
