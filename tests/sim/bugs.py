"""Planted bugs: the same protocol with one mistake in it, for tests of the tests.

The core has no switches for this: `plant` puts a wrong function in the place of a right one for the time of one test.
Where possible a mistake names only the function, which is replaced (`instead`), or does something more (`before`,
`afterwards`). Where the mistake is one expression inside of a function, it is a `Change` of the function's source. A
change whose text is not found exactly once is an error: the core has changed, and the bug must be written again.
"""

from __future__ import annotations
import __future__

import inspect
import textwrap
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import pytest

from tests.sim import death_scenarios as deaths
from tests.sim import detection_scenarios as detection
from tests.sim import knet_scenarios, scenarios, test_hearing, test_narrow, test_partial
from tests.sim import test_reload as reloads
from tests.totem import (
    test_accusations,
    test_ring_numbers,
    test_row_decisions,
    test_rows,
    test_separation,
    test_sockets,
)
from tests.totem import test_hostile as hostile
from tests.totem.links import test_arrivals, test_machine, test_trials
from totem import exclusions, flow, patience, sequence, token_passing
from totem import processor as processing
from totem.accusations import Accusations
from totem.admission import Admission
from totem.configuration import Level, RingId
from totem.delivery import DeliveryQueue
from totem.exclusions import Exclusions
from totem.flow import FlowControl, Pace
from totem.labels import Labels
from totem.links.arrivals import Arrivals
from totem.links.machine import Links
from totem.links.path import Path
from totem.links.probing import Probing
from totem.links.trials import Trials
from totem.nodelists import Nodelists
from totem.packing import Assembler, Packer
from totem.partition import _Graph
from totem.patience import Patience
from totem.processor import Processor
from totem.receive_failures import AruStall
from totem.ring import Ring
from totem.ring_numbers import Claims, RingNumbers
from totem.rows import Rows
from totem.separation import Separation
from totem.sockets import SentLately
from totem.states import ordering, recovery
from totem.states.commit import Commit
from totem.states.gather import Gather
from totem.states.operational import Operational
from totem.states.ordering import Ordering
from totem.states.recovery import Recovery
from totem.testing.simulated_links import SimulatedProbing
from totem.testing.soak import Worlds
from totem.timers import Timer
from totem.token_passing import TokenPassing
from totem.transitions import State
from totem.wire import codec
from totem.wire.messages import Join, Token


class Change(NamedTuple):
    """Puts `new` in the place of `old` in the function `name` of `owner`."""

    owner: Any
    name: str
    old: str
    new: str


class Wrong(NamedTuple):
    """Replaces the function, property or constant `name` of `owner` by what `make` makes of the right one."""

    owner: Any
    name: str
    make: Callable[[Any], Any]


def instead(owner: Any, name: str, wrong: Any) -> Wrong:
    """Put something wrong in the right one's place."""
    return Wrong(owner, name, lambda right: wrong)


def before(owner: Any, name: str, mistake: Callable[..., Any]) -> Wrong:
    """Make a mistake before the right function, with its arguments."""

    def make(right: Callable[..., Any]) -> Callable[..., Any]:
        def wrong(*args: Any, **kwargs: Any) -> Any:
            mistake(*args, **kwargs)
            return right(*args, **kwargs)

        return wrong

    return Wrong(owner, name, make)


def afterwards(owner: Any, name: str, mistake: Callable[..., Any]) -> Wrong:
    """Make a mistake after the right function, with its arguments."""

    def make(right: Callable[..., Any]) -> Callable[..., Any]:
        def wrong(*args: Any, **kwargs: Any) -> Any:
            result = right(*args, **kwargs)
            mistake(*args, **kwargs)
            return result

        return wrong

    return Wrong(owner, name, make)


def random_worlds(count: int = 120, *, mixed: bool = False) -> None:
    """Run the worlds of the first `count` seeds."""
    worlds = Worlds(range(3, 8), mixed=mixed)
    for seed in range(count):
        outcome = worlds.run_world(seed)
        assert not outcome.violations, f"seed {seed}: {outcome.violations[0]}"


no_number_lasts = hostile.test_no_number_in_one_datagram_ends_a_ring_or_lifts_its_own


class Bug(NamedTuple):
    name: str
    source: str
    """The ruling that it breaks, or the section of another document."""
    mistakes: list[Change | Wrong]
    hunter: Callable[[], None] = random_worlds
    """The test that must fail with it."""


def plant(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the mistakes until the end of the test."""
    sources: dict[tuple[Any, str], str] = {}
    for mistake in bug.mistakes:
        owner, name = mistake.owner, mistake.name
        right = getattr(owner, name)
        if isinstance(mistake, Wrong):
            monkeypatch.setattr(owner, name, mistake.make(right))
            continue
        source = sources.get((owner, name)) or textwrap.dedent(inspect.getsource(right))
        times = source.count(mistake.old)
        assert times == 1, f"{bug.name}: {owner.__name__}.{name} has {mistake.old!r} {times} times"
        sources[owner, name] = source.replace(mistake.old, mistake.new)
    for (owner, name), source in sources.items():
        code = compile(source, f"<{bug.name}>", "exec", __future__.annotations.compiler_flag, dont_inherit=True)
        namespace: dict[str, Any] = {}
        exec(code, getattr(owner, name).__globals__, namespace)
        monkeypatch.setattr(owner, name, namespace[name])


def confirm_at_once(accusations: Accusations, node_id: int, now: float) -> None:
    if (case := accusations._cases.get(node_id)) is not None:
        accusations._confirm(node_id, case, now)


def leave_counters_over(recovery: Recovery, *_: Any) -> None:
    """Keep the counter of quiet visits, unless the ring was installed."""
    processor: Any = recovery.processor
    processor.left = recovery._quiet_visits if processor.ring is not recovery.new_ring else 0


def flush_past_gaps(self: DeliveryQueue, ring: Ring) -> None:
    batch = []
    for seq in sequence.row_to(ring.delivered, ring.window.high_seq):
        frame = ring.window.frames.get(seq)
        if frame and frame[codec.GUARANTEE_OFFSET] and sequence.before(ring.safe_line, seq):
            break
        ring.delivered = seq
        if frame:
            batch.append(frame)
    self.add_frames(ring, batch, Level.SAFE)


def never_lower_the_aru(ring: Ring, token: Token) -> None:
    aru = ring.window.aru
    if sequence.before(token.aru, aru):
        token.aru = aru
        token.aru_holder = 0 if aru == token.seq else ring.node_id


def take_repeated_for_a_visit(ignores_token: Callable[[Ring, Token], str]) -> Any:
    def wrong(ring: Ring, token: Token) -> str:
        dropped = ignores_token(ring, token)
        if dropped == "repeated token":
            ring.note_visit(token)
        return dropped

    return staticmethod(wrong)


def believe_at_once(self: RingNumbers, origin: int, ring_seq: int, now: float) -> bool:
    self.highest = max(self.highest, ring_seq)
    return True


def highest_claim(self: Claims, members: Iterable[int]) -> int:
    return max((self._claims[member][0] for member in members if member in self._claims), default=0)


def begin_unconfirmed(self: RingNumbers, ring_id: RingId) -> None:
    self.ring_id = ring_id
    self._adopt()


def agree_with_anybody(self: Gather, join: Join, now: float) -> None:
    self.agreed.add(join.origin)
    self._commit_if_agreed(now)


def count_any_pong(on_pong: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(self: Path, asked: int, now: float) -> Any:
        self._asked.setdefault(asked, now)
        return on_pong(self, asked, now)

    return wrong


LINK_BUGS = "the links of knet"
BUGS = [
    # The links of transport knet.
    Bug(
        "never move the window of numbers",
        LINK_BUGS,
        [Change(Arrivals, "_is_new", "self._latest = seq\n        self._marks", "self._marks")],
        knet_scenarios.arrivals_agree_with_libknet,
    ),
    Bug(
        "keep the marks of numbers that the window passes over",
        LINK_BUGS,
        [Change(Arrivals, "_is_new", "self._marks[number % NUMBERS % WINDOW] = 0", "pass")],
        knet_scenarios.arrivals_agree_with_libknet,
    ),
    Bug(
        "take fragments however old",
        LINK_BUGS,
        [instead(Arrivals, "_is_far_back", lambda self, seq: False)],
        knet_scenarios.arrivals_agree_with_libknet,
    ),
    Bug(
        "begin again what was given up",
        LINK_BUGS,
        [instead(Arrivals, "_give_up", lambda self, seq: self._unfinished.pop(seq))],
        knet_scenarios.arrivals_agree_with_libknet,
    ),
    Bug(
        "file what was given up where another number has its mark",
        LINK_BUGS,
        [Change(Arrivals, "_give_up", "if (self._latest - seq) % NUMBERS < WINDOW:", "if True:")],
        test_arrivals.test_a_packet_given_up_long_ago_does_not_hide_another_one,
    ),
    Bug(
        "take a high first number for one far back",
        LINK_BUGS,
        [Change(Arrivals, "_is_new", "if latest and (", "if (")],
        partial(test_arrivals.test_fragments_of_several_packets_may_mix_whatever_number_is_the_first, 62_000),
    ),
    Bug(
        "overlook a restart",
        LINK_BUGS,
        [Change(Arrivals, "_tells_of_restart", "return said.timed", "return False")],
        test_arrivals.test_a_node_that_starts_again_is_heard_behind_its_ping,
    ),
    Bug(
        "overlook a restart where the pings with 0 were lost",
        LINK_BUGS,
        [Change(Arrivals, "_tells_of_restart", "moment(said.time) > time", "False")],
        partial(test_machine.test_a_restart_is_noticed_although_its_first_pings_were_lost, (2,)),
    ),
    Bug(
        "take an old ping for one of a new process",
        LINK_BUGS,
        [Change(Arrivals, "_tells_of_restart", "moment(said.time) > time", "True")],
        test_arrivals.test_a_node_that_starts_again_is_noticed_although_its_pings_with_0_were_lost,
    ),
    Bug(
        "tell a number to a peer that has not heard of the restart",
        LINK_BUGS,
        [Change(Links, "_ping", "if peer.has_answered or not timed else 0", "")],
        partial(test_machine.test_a_restart_is_noticed_although_its_first_pings_were_lost, (1,)),
    ),
    Bug(
        "count pongs that nobody asked for",
        LINK_BUGS,
        [Wrong(Path, "on_pong", count_any_pong)],
        knet_scenarios.pongs_that_nobody_asked_for_bring_nothing_up,
    ),
    Bug(
        "be up with the second pong",
        LINK_BUGS,
        [Change(Path, "on_pong", "self.pongs <= self.settings", "self.pongs < self.settings")],
        knet_scenarios.a_link_is_up_with_the_third_pong,
    ),
    Bug(
        "keep an MTU that a path no longer carries",
        LINK_BUGS,
        [Change(Path, "_go_on", "self.mtu, self._attempt = self._good, None", "self._attempt = None")],
        knet_scenarios.a_path_that_carries_less_is_found,
    ),
    Bug(
        "cut packets for the best path instead of the worst",
        LINK_BUGS,
        [Change(Links, "_set_room", "min(rooms, default", "max(rooms, default")],
        knet_scenarios.a_path_that_carries_less_is_found,
    ),
    Bug(
        "give a packet the number 0",
        LINK_BUGS,
        [
            Change(Links, "_next_seqs", "last - NUMBERS + 1", "last - NUMBERS"),
            Change(Links, "_next_seqs", "*range(1, self._seq + 1)", "*range(self._seq + 1)"),
        ],
        knet_scenarios.numbers_go_round_without_zero,
    ),
    Bug(
        "tell no numbers to whom nothing is sent",
        LINK_BUGS,
        [instead(Links, "_tell_number", lambda self, now: None)],
        knet_scenarios.numbers_go_round_without_zero,
    ),
    # Who hears whom.
    Bug(
        "ping a node that is of another make now",
        "J",
        [Change(Processor, "_note_make", "self.ours -= {origin}", "pass")],
        test_hearing.test_who_comes_back_as_another_make_is_ours_no_more,
    ),
    Bug(
        "take a node that hears for one that is heard",
        "J",
        [Change(Probing, "_note_hearing", "Hearing(path.hears,", "Hearing(path.is_up,")],
        partial(test_hearing.test_members_hear_each_other_and_notice_a_direction_that_is_cut, "udpu"),
    ),
    # What paths carry.
    Bug(
        "look for a narrow path in the next search only",
        "B3 of faults",
        [instead(AruStall, "calls_for_search", lambda self, now: False)],
        partial(test_narrow.test_a_path_that_becomes_narrow_costs_a_second, "udpu", 1, 3),
    ),
    Bug(
        "let the token rest while a search may end the stall",
        "B3 of faults",
        [instead(AruStall, "is_young", lambda self, now: False)],
        partial(test_narrow.test_a_path_that_becomes_narrow_costs_a_second, "knet", 1, 3),
    ),
    Bug(
        "send again what the path does not carry",
        "B3 of faults",
        [instead(SimulatedProbing, "cut", lambda self, node_id, datagram: [datagram])],
        partial(test_narrow.test_a_path_that_becomes_narrow_costs_a_second, "udpu", 1, 3),
    ),
    # Who does not receive.
    Bug(
        "count visits alone until somebody fails to receive",
        "A9",
        [afterwards(AruStall, "note_visit", lambda self, *_: setattr(self, "lasts", self.by_visits))],
        scenarios.a_link_that_loses_large_frames_costs_seconds,
    ),
    Bug(
        "exclude the receiver where a message has reached no other member",
        "A9",
        [Change(Ordering, "_judge", "codec.mcast_origin(frame) != me", "True")],
        scenarios.a_node_whose_large_frames_reach_nobody_costs_seconds,
    ),
    Bug(
        "readmit an excluded node at once",
        "A9",
        [instead(Exclusions, "has", lambda self, node_id, now: False)],
        scenarios.who_does_not_receive_stays_away_for_growing_times,
    ),
    Bug(
        "exclude a node for the same time each time",
        "A9",
        [instead(Exclusions, "next_term", lambda self, node_id, now: exclusions._FIRST)],
        scenarios.who_does_not_receive_stays_away_for_growing_times,
    ),
    Bug(
        "leave out those alone whom I have judged myself",
        "A9",
        [
            Change(Ordering, "was_given_up_by", "for node_id in failing:", "for node_id in ():"),
        ],
        scenarios.who_does_not_receive_is_left_out_by_all,
    ),
    Bug(
        "try each recovery again with a member that fails to receive",
        "A9",
        [
            Change(Recovery, "_give_up_attempt", "holder == again", "False"),
            Change(Ordering, "_gives_up_a_member", "stall.lasts <= 1", "self.state.value == 'recovery'"),
        ],
        scenarios.a_deaf_member_does_not_break_each_recovery,
    ),
    Bug(
        "believe every claim that a member fails to receive",
        "A9",
        [instead(ordering, "_BELIEVED", 0.0)],
        hostile.test_nobody_stays_away_because_somebody_only_says_that_it_is_deaf,
    ),
    # Who has sent what.
    Bug(
        "plain multicasts whose sender nobody looks at",
        "A11",
        [Change(Processor, "receive_all", "datagram[:BEGINNING] in beginnings", "datagram[:5] == codec.PLAIN_MCAST")],
        scenarios.nobody_repeats_what_others_refuse,
    ),
    Bug(
        "multicasts that are not plain whose sender nobody looks at",
        "A11",
        [instead(Ring, "has_sent", lambda self, datagram: True)],
        scenarios.nobody_repeats_what_others_refuse,
    ),
    Bug(
        "refuse a number for what is inside",
        "A11",
        [
            afterwards(
                codec,
                "check_mcast",
                lambda datagram: codec.mcast_is_encapsulated(datagram) and codec.inner_mcast(datagram),
            )
        ],
        scenarios.what_a_real_node_repeats_stops_nobody,
    ),
    # Recovery's counters.
    Bug(
        "counters left over from a broken attempt",
        "A3",
        [
            afterwards(
                Recovery, "enter", lambda self, *_: setattr(self, "_quiet_visits", getattr(self.processor, "left", 0))
            ),
            afterwards(Recovery, "conclude_visit", leave_counters_over),
            instead(recovery, "_BUSY_VISITS", 0),
        ],
        scenarios.an_attempt_counts_afresh,
    ),
    Bug(
        "install one rotation early",
        "A3",
        [Change(Recovery, "conclude_visit", "self._complete_rotations == 2", "self._complete_rotations == 1")],
        scenarios.a_mixed_ring_installs_in_one_rotation,
    ),
    Bug(
        "clear the flag whoever set it",
        "A3",
        [Change(Recovery, "conclude_visit", "and self._flag_set_by_me", "")],
        scenarios.nobody_installs_while_somebody_has_more_to_send,
    ),
    Bug(
        "install without waiting for the slowest member's aru",
        "A3",
        [Change(Recovery, "conclude_visit", "and up_to(self.install_seq, token.aru)", "")],
    ),
    Bug(
        "take a ring for pure in which not all have said hello",
        "A1",
        [
            Change(Recovery, "_install", "all(member in hellos for member in new.members)", "True"),
            Change(Recovery, "_install", "hellos[member].features for member in new.members", "0 for member in hellos"),
        ],
        partial(random_worlds, mixed=True),
    ),
    # What is kept between attempts.
    Bug(
        "forget old messages when an attempt breaks",
        "A5",
        [instead(Recovery, "leave", lambda self: None)],
        scenarios.what_an_attempt_brought_outlives_it,
    ),
    Bug(
        "forget the obligations",
        "A6",
        [afterwards(Recovery, "conclude_visit", lambda self, *_: self.processor.membership.obligations.clear())],
        scenarios.what_an_attempt_brought_outlives_it,
    ),
    Bug(
        "keep the obligations for myself only",
        "A6",
        [
            Change(
                Recovery,
                "_obliged",
                "hellos[member].obligations for",
                "self.processor.membership.obligations for",
            )
        ],
        scenarios.what_a_member_owes_all_deliver,
    ),
    Bug(
        "drop the obligations when someone has none",
        "A6",
        [Change(Recovery, "_obliged", "member in hellos for", "member in hellos and hellos[member].obligations for")],
        scenarios.what_a_member_owes_all_deliver,
    ),
    Bug(
        "deliver anybody's messages past a gap",
        "A6",
        [Change(Recovery, "_deliver_old_messages", "codec.mcast_origin(frame) in obliged", "True")],
        partial(random_worlds, mixed=True),
    ),
    Bug(
        "deliver nobody's messages past a gap",
        "A8",
        [Change(Recovery, "_deliver_old_messages", "codec.mcast_origin(frame) in obliged", "False")],
    ),
    # Where the transitional configuration falls.
    Bug(
        "put all gapless messages before the transitional configuration",
        "A7",
        [
            before(
                Recovery,
                "_deliver_old_messages",
                lambda self, *_: setattr(self.old_ring, "safe_line", self.old_ring.window.aru),
            )
        ],
    ),
    Bug(
        "believe one's own safe line alone",
        "A7",
        [Change(Recovery, "_deliver_old_messages", "hellos[member].safe_line", "old.safe_line")],
    ),
    # SAFE.
    Bug(
        "safe after one visit",
        "B1",
        [Change(Ring, "note_visit", "earlier(token.aru, self.forwarded_aru)", "token.aru")],
    ),
    Bug(
        "safe on the first visit whoever has sent",
        "B1",
        [Change(Ring, "note_visit", "self.last_sender == self.successor", "self.last_sender")],
    ),
    Bug(
        "safe on the first visit though somebody was behind",
        "B1",
        [Change(Ring, "note_visit", "self.complete and", "self.forwarded_aru is not None and")],
        scenarios.safe_needs_two_visits_where_somebody_was_behind,
    ),
    Bug(
        "safe on the first visit with what was sent on it",
        "B1",
        [Change(Ring, "note_visit", "came = self.previous_seq", "came = token.seq")],
    ),
    Bug(
        "safe by the aru received before and forwarded now",
        "B1",
        [
            Change(Ordering, "on_token", "self._use(ring, token, now)", "was = token.aru; self._use(ring, token, now)"),
            Change(
                Ordering,
                "on_token",
                "ring.note_visit(token)",
                "ring.note_visit(token); ring.forwarded_aru = was",
            ),
        ],
        scenarios.safe_needs_two_visits,
    ),
    Bug(
        "rest the token where it comes next though somebody has called for it",
        "D7",
        [Change(Ordering, "on_hold_cancel", "ring.unchanged = -1 if ring.pure else 0", "ring.unchanged = 0")],
        scenarios.a_token_that_is_called_for_does_not_rest,
    ),
    Bug(
        "call for the token once",
        "D7",
        [afterwards(TokenPassing, "call", lambda self, *_: self._timers.disarm(Timer.CALL))],
        scenarios.a_lost_call_for_the_token_is_made_again,
    ),
    Bug(
        "take a token for one that will rest though somebody has sent",
        "F4",
        [Change(TokenPassing, "forward", "ring.token_held and ring.is_quiet(token)", "ring.token_held")],
        scenarios.a_token_is_missed_soon_where_somebody_has_just_sent,
    ),
    Bug(
        "reckon what a lost token takes into a rotation",
        "F4",
        [instead(token_passing, "_LONGER", 1e9)],
        scenarios.many_lost_tokens_are_missed_as_soon_as_one,
    ),
    Bug(
        "rest the token before all know that the ring is idle",
        "D7",
        [instead(Operational, "enter", lambda self: self.processor.timers.disarm_all())],
        scenarios.a_new_ring_does_not_rest_too_soon,
    ),
    Bug(
        "count a repeated token as a visit",
        "B1",
        [Wrong(Ordering, "_ignores_token", take_repeated_for_a_visit)],
        scenarios.a_repeated_token_is_no_visit,
    ),
    Bug(
        "deliver safe messages at once",
        "B1",
        [Change(DeliveryQueue, "flush", "frame[GUARANTEE_OFFSET] and", "False and")],
    ),
    Bug(
        "safe and agreed messages share a frame",
        "B4",
        [Change(Packer, "extend", "last.guarantee is guarantee", "len(self._runs) < 99")],
    ),
    # Labels.
    Bug(
        "go on with the numbers of the ring before",
        "D3",
        [
            Change(
                Operational, "multicast", "ring.labels.own if", 'vars(processor).setdefault("own", ring.labels.own) if'
            )
        ],
    ),
    Bug(
        "read the old ring's numbers as those of the new one",
        "D3",
        [
            before(
                Processor,
                "install",
                lambda self, ring, *_: setattr(self.ring, "labels", self.ring.labels and ring.labels),
            )
        ],
    ),
    Bug(
        "take one sender's numbers for another's",
        "D3",
        [Change(Labels, "_label", "heard = self._heard.get(sender)", "sender = 0; heard = self._heard.get(sender)")],
    ),
    Bug(
        "forget the label of a message that is not whole yet",
        "D3",
        [Change(Labels, "runs", "if fragmented and label", "if False and label")],
        partial(random_worlds, mixed=True),
    ),
    Bug(
        "go on with the last label where the frame begins another message",
        "D3",
        [
            Change(Labels, "runs", 'self._open.pop(sender, b"")', 'self._open.get(sender, b"")'),
            Change(Labels, "runs", "self._open.pop(sender, None)", "pass"),
        ],
        scenarios.what_waits_gets_the_form_of_the_ring,
    ),
    Bug(
        "send labels where one of ours knows none",
        "D3",
        [Change(Ring, "agree", "int.__and__", "int.__or__")],
        scenarios.what_waits_gets_the_form_of_the_ring,
    ),
    Bug(
        "send labels where a Corosync node is in the ring",
        "D3",
        [
            Change(Recovery, "_install", "if new.pure:", "if len(hellos) > 1:"),
            Change(
                Recovery,
                "_install",
                "hellos[member].features for member in new.members",
                "hello.features for hello in hellos.values()",
            ),
        ],
        partial(random_worlds, mixed=True),
    ),
    Bug(
        "go on in the old form with a message that a new ring begins again",
        "D3",
        [
            Change(Packer, "restart", 'self._begun = b""', "pass"),
            Change(Packer, "_cut_run", "piece = messages[0]", "piece = self._begun or messages[0]"),
            Change(Packer, "_cut_run", "if headers is not None:", "if headers is not None and not self._begun:"),
        ],
    ),
    # Packing.
    Bug(
        "go on with a message that a configuration change has cut",
        "C2",
        [Change(Packer, "restart", "self._offset:", "False:")],
    ),
    Bug(
        "start a cut message again without a reset frame",
        "C2",
        [Change(Packer, "restart", "self._reset_after = self._fragment", "self._fragment = 0")],
    ),
    Bug(
        "keep the fragments of those who have gone",
        "C3",
        [Change(Assembler, "keep_only", "if sender in kept", "if True")],
    ),
    Bug(
        "drop the fragments of those who have gone too early",
        "C3",
        [
            before(
                Recovery,
                "_deliver_old_messages",
                lambda self, *_: self.processor.delivery._assembler.keep_only(self.transitional),
            )
        ],
    ),
    # Sync.
    Bug(
        "send what is left of a dead sync",
        "C2",
        [instead(Packer, "drop_unsent", Packer.restart)],
    ),
    Bug(
        "send application messages before sync is complete",
        "C1",
        [instead(Processor, "stream", property(lambda self: self.sync_packer or self.packer))],
    ),
    Bug(
        "believe that a sync of an older ring completes this one's",
        "C4",
        [Change(Processor, "sync_complete", "ring_id == self.ring.id and", "")],
        partial(random_worlds, 200),
    ),
    Bug(
        "one reassembly for sync and application",
        "C1",
        [Change(DeliveryQueue, "_assemble", "else self._sync_assembler", "else self._assembler")],
    ),
    # Ordering.
    Bug(
        "never lower the aru",
        "protocol 1.2",
        [instead(Ordering, "_update_aru", staticmethod(never_lower_the_aru))],
    ),
    Bug(
        "raise an aru that somebody else has lowered",
        "protocol 1.2",
        [Change(Ordering, "_update_aru", "token.aru_holder in (ring.node_id, 0)", "True")],
    ),
    Bug(
        "deliver past a gap on an installed ring",
        "protocol 1.3",
        [
            instead(DeliveryQueue, "flush", flush_past_gaps),
        ],
    ),
    Bug(
        "take a repeated token for a new one",
        "G9",
        [Change(Ordering, "_ignores_token", "not before(ring.seen_token_seq, token.token_seq)", "False")],
    ),
    Bug(
        "never answer a request",
        "protocol 1.2",
        [instead(Ordering, "_answer_requests", lambda self, ring, token, allowed: 0)],
        scenarios.a_lost_frame_is_sent_again,
    ),
    Bug(
        "never ask for what is missing",
        "protocol 1.2",
        [instead(Ordering, "_request_missing", lambda self, ring, token: None)],
        scenarios.a_lost_frame_is_sent_again,
    ),
    Bug(
        "forget frames that others still miss",
        "B1",
        [instead(Ring, "release_safe", lambda self: self.window.release(self.delivered))],
    ),
    Bug(
        "put pieces of two senders together",
        "protocol 1.3",
        [Change(codec, "middle_pieces", "map(ne, ", "map(lambda one, other: one[1] != other[1], ")],
    ),
    Bug(
        "no sense of wrapped numbers",
        "G7",
        [Change(sequence, "before", "if a > _HALF or b > _HALF:", "if False:")],
        scenarios.numbers_wrap_while_traffic_goes_on,
    ),
    # The accelerated ring.
    Bug(
        "keep what is held back",
        "D2",
        [before(TokenPassing, "forward", lambda self, ring, *_: setattr(ring, "held_back", []))],
        scenarios.the_token_goes_first,
    ),
    Bug(
        "take turns where visits are long",
        "D2",
        [instead(FlowControl, "sent_by_others", lambda self, token: 0)],
        scenarios.senders_use_their_cables_at_the_same_time,
    ),
    Bug(
        "give a node all that is behind a token at once",
        "D2",
        [instead(TokenPassing, "burst", lambda self, ring: 4096)],
        scenarios.a_small_switch_loses_nothing,
    ),
    Bug(
        "number what is held back only when it leaves",
        "D2",
        [
            Change(
                Operational,
                "multicast",
                "at_once = max(",
                "token.seq -= min(len(train), self._held_back(token, len(train)))\n    at_once = max(",
            )
        ],
    ),
    Bug(
        "ask at once for what may be on its way",
        "D5",
        [Change(Ordering, "_request_missing", "2 if ring.pure", "1 if ring.pure")],
        scenarios.the_token_goes_first,
    ),
    Bug(
        "take what is on its way for received",
        "B1",
        [Change(Ordering, "_update_aru", "ring.window.aru", "token.seq if ring.pure else ring.window.aru")],
        scenarios.safe_waits_for_what_is_behind_the_token,
    ),
    Bug(
        "go first though a member does not",
        "D1",
        [Change(Ring, "agree", "reduce(int.__and__", "reduce(int.__or__")],
        scenarios.the_token_waits_for_one_who_does_not,
    ),
    Bug(
        "go first though a real node is in the ring",
        "D2",
        [
            Change(Recovery, "_install", "if new.pure:", "if True:"),
            Change(
                Recovery,
                "_install",
                "hellos[member].features for member in new.members",
                "processor.own_features for _ in new.members",
            ),
        ],
        scenarios.the_token_waits_beside_corosync,
    ),
    Bug(
        "go first while sync runs",
        "D2",
        [Change(Operational, "_held_back", "processor.syncing or", "")],
        scenarios.the_token_waits_while_sync_runs,
    ),
    Bug(
        "deliver past what died with its sender",
        "A6",
        [
            instead(DeliveryQueue, "flush", flush_past_gaps),
        ],
        scenarios.a_node_dies_behind_its_token,
    ),
    # Membership.
    Bug(
        "use a ring id before it is stored",
        "G3",
        [instead(RingNumbers, "take", lambda self: None)],
    ),
    Bug(
        "number a ring without regard to what others have seen",
        "protocol 1.1",
        [instead(RingNumbers, "next_seq", lambda self, members: self.ring_id.seq + 4)],
    ),
    Bug(
        "believe any number at once",
        "G18",
        [instead(RingNumbers, "believes", believe_at_once)],
        partial(
            hostile.test_no_number_in_one_datagram_ends_a_ring_or_lifts_its_own, True, State.OPERATIONAL, (1, 2, 3)
        ),
    ),
    Bug(
        "believe a far number for good once it has been said",
        "G18",
        [
            Wrong(Claims, "hear", lambda right: lambda *args: right(*args) or True),
            instead(Claims, "highest", highest_claim),
        ],
        test_ring_numbers.test_a_far_number_counts_when_it_has_been_repeated,
    ),
    Bug(
        "never believe a far number",
        "G18",
        [instead(Claims, "hear", lambda self, *_: False)],
        partial(hostile.test_a_ring_with_large_numbers_is_joined, 1 << 50, ({2}, {1, 3}), ()),
    ),
    Bug(
        "make a far number mine before it is confirmed",
        "G18",
        [instead(RingNumbers, "begin", begin_unconfirmed)],
        partial(no_number_lasts, False, State.GATHER, (1, 2, 3)),
    ),
    Bug(
        "keep a far number that was not confirmed",
        "G18",
        [instead(RingNumbers, "retract", lambda self: setattr(self, "_confirmed", None))],
        hostile.test_a_far_number_that_nobody_confirms_is_forgotten,
    ),
    Bug(
        "believe that a member of my ring has come far",
        "G18",
        [Change(Admission, "refusal", "not is_near(ring_seq, own_seq)", "False")],
        hostile.test_who_lies_for_a_member_all_the_time_lifts_no_number,
    ),
    Bug(
        "take a commit token in my own name",
        "G18",
        [Change(Gather, "_ignores_commit_token", "not token.index", "False")],
        partial(no_number_lasts, True, State.GATHER, (1,)),
    ),
    Bug(
        "file any multicast as one of my ring",
        "A4",
        [Change(Processor, "_receive_mcast", "datagram[25:37] == self._ring_id_bytes", "self.filing")],
    ),
    Bug(
        "take everybody in the new ring for a companion",
        "protocol 1.6",
        [Change(Recovery, "enter", "and entries[member].old_ring_id == self.old_ring.id", "")],
    ),
    Bug(
        "send again only what the highest lacks",
        "A2",
        [Change(Recovery, "_queue_old_messages", "reduce(earlier, (entry.aru", "reduce(later, (entry.aru")],
    ),
    Bug(
        "say that all is received whatever is missing",
        "A2",
        [Change(Commit, "_fill_entry", "entry.received_flag = 0", "pass")],
    ),
    Bug(
        "leave without a word",
        "F3",
        [afterwards(Processor, "leave", lambda self, now: self.outbox.take())],
        scenarios.a_leave_needs_no_timeout,
    ),
    Bug(
        "ignore that another ring can be heard",
        "protocol 1.2",
        [
            instead(Operational, "on_foreign", lambda self, *_: None),
            instead(Operational, "on_join", lambda self, *_: None),
        ],
    ),
    Bug(
        "hold those who disagree for agreed",
        "protocol 1.5",
        [instead(Gather, "on_join", agree_with_anybody)],
    ),
    Bug(
        "never judge those who are silent",
        "protocol 1.5",
        [Change(Gather, "_judge", "membership.failed |= silent", "pass")],
    ),
    Bug(
        "no limit to what a visit sends",
        "protocol 1.4",
        [Change(FlowControl, "allowed", "min(self._max_messages, self._narrow - token.fcc)", "1 << 30")],
    ),
    Bug(
        "choose windows with one of theirs in the ring",
        "D4",
        [instead(Recovery, "_chosen_window", lambda self, hellos: min(hello.window for hello in hellos.values()))],
        scenarios.windows_are_as_configured_unless_all_choose,
    ),
    Bug(
        "choose windows where a member's are configured",
        "D4",
        [instead(Recovery, "_chosen_window", lambda self, hellos: max(hello.window for hello in hellos.values()))],
        scenarios.windows_are_as_configured_unless_all_choose,
    ),
    Bug(
        "go by my own receive buffer alone",
        "D4",
        [
            Wrong(
                Recovery,
                "_chosen_window",
                lambda right: lambda self, hellos: right(self, hellos) and self.processor.own_window,
            )
        ],
        scenarios.who_falls_behind_loses_nothing,
    ),
    Bug(
        "take the kernel's bytes for frames",
        "D4",
        [instead(flow, "kernel_bytes", lambda size: size // 4)],
        scenarios.who_falls_behind_loses_nothing,
    ),
    Bug(
        "wait for daemons as Corosync does",
        "F1",
        [instead(patience, "_SHORTEST", 3.65)],
        detection.a_silent_machine_is_out_in_a_second,
    ),
    Bug(
        "wait for a program that embeds its node as for a daemon",
        "F1",
        [Change(Patience, "__init__", "Ask(0 if daemon", "Ask(0 if True")],
        detection.a_program_among_daemons_is_waited_for,
    ),
    Bug(
        "shorten timeouts beside a real node",
        "F1",
        [Change(Processor, "_choose_timeouts", "ring.asks if ring.pure else None", "ring.asks or None")],
        detection.beside_a_real_node_everything_takes_its_time,
    ),
    Bug(
        "shorten a configured timeout",
        "F1",
        [Change(processing, "choose", "if config.token_configured:", "if False:")],
        detection.timeouts_that_are_configured_stay,
    ),
    Bug(
        "wait for who joins as for a member",
        "F1",
        [instead(Processor, "consensus", property(lambda self: self.ring.timeouts.consensus))],
        detection.who_joins_is_waited_for_as_corosync_does,
    ),
    Bug(
        "take a node that was ours for one that is",
        "F1",
        [instead(Processor, "_seem_ours", lambda self, node_ids: True)],
        detection.a_member_that_comes_back_as_corosync_is_waited_for,
    ),
    Bug(
        "be late and tell nobody",
        "F2",
        [instead(Patience, "note_delay", lambda self, seconds, now: False)],
        detection.who_was_late_is_waited_for_longer,
    ),
    Bug(
        "tell it to nobody but the next ring",
        "F2",
        [instead(Operational, "_tell_patience", lambda self: [])],
        detection.who_was_late_is_waited_for_longer,
    ),
    Bug(
        "ask for patience for ever",
        "F1",
        [instead(Patience, "advance", lambda self, now: False)],
        detection.who_was_late_is_waited_for_longer,
    ),
    Bug(
        "take no new number for a sign of the token",
        "F5",
        [instead(TokenPassing, "note_frames", lambda self, ring, now: None)],
        detection.a_number_shows_where_the_token_is,
    ),
    Bug(
        "take a repeated frame for a sign of the token",
        "F5",
        [Change(TokenPassing, "note_frames", "if newest != ring.newest:", "if True:")],
        detection.a_number_shows_where_the_token_is,
    ),
    Bug(
        "judge before a copy of the token can be answered",
        "F4",
        [instead(token_passing, "_COPIES_TO_MISS", 0)],
        detection.a_late_process_asks_before_it_judges,
    ),
    Bug(
        "send a lost commit token again as Corosync does",
        "F4",
        [Change(TokenPassing, "forward_commit_token", "if ring.seems_pure", "if False")],
        detection.a_lost_commit_token_costs_a_moment,
    ),
    Bug(
        "send the token of a recovery again as Corosync does",
        "F4",
        [Change(TokenPassing, "forward", "ring.pure or ring.seems_pure", "ring.pure")],
        detection.a_lost_token_of_recovery_costs_a_moment,
    ),
    Bug(
        "wait for a lost token as Corosync does",
        "F4",
        [Change(TokenPassing, "forward", "elif ring.pure or ring.seems_pure:", "elif False:")],
        scenarios.a_lost_token_is_missed_soon,
    ),
    Bug(
        "wait as Corosync does for a token that is lost again",
        "F4",
        [Change(TokenPassing, "resend", "min(2 * self._resend_after, self", "max(2 * self._resend_after, self")],
        scenarios.a_token_lost_again_is_missed_soon_too,
    ),
    Bug(
        "be impatient for the token in a mixed ring",
        "F4",
        [Change(TokenPassing, "forward", "elif ring.pure or ring.seems_pure:", "else:")],
        scenarios.a_lost_token_is_missed_soon,
    ),
    Bug(
        "be impatient for a token that rests",
        "F4",
        [Change(TokenPassing, "forward", "elif ring.pure or ring.seems_pure:", "if ring.pure:")],
        scenarios.a_lost_token_is_missed_soon,
    ),
    Bug(
        "fill the window whatever a rotation takes",
        "D4",
        [Change(Pace, "note_visit", "int(wanted * self._frames / self._seconds)", "self._window")],
        scenarios.a_slow_member_does_not_make_the_token_late,
    ),
    Bug(
        "never widen the window",
        "D4",
        [Change(Pace, "note_visit", "int(wanted * self._frames / self._seconds)", "0")],
        scenarios.a_ring_finds_its_pace,
    ),
    Bug(
        "share by the queues alone",
        "D4",
        [Change(FlowControl, "allowed", "max(share, pace.budget // pace.members)", "share")],
        scenarios.who_sends_little_is_not_kept_waiting,
    ),
    Bug(
        "have one member put another one out",
        "F6",
        [Change(Accusations, "_judge", "if case.confirming or is_last", "if True")],
        deaths.a_paused_process_stays_though_refusals_are_forged,
    ),
    Bug(
        "take silence for a confirmation, without a refusal",
        "F6",
        [Change(Accusations, "on_trial", "self._refused.get(node_id, -inf) >= case.began - REFUSED_LATELY", "True")],
        deaths.a_paused_process_stays_though_refusals_are_forged,
    ),
    Bug(
        "take a refusal for a proof, without a trial",
        "F6",
        [afterwards(Accusations, "on_refusal", confirm_at_once)],
        test_accusations.test_one_that_answers_anybody_stays,
    ),
    Bug(
        "acquit nobody who answers another member",
        "F6",
        [
            Change(Accusations, "_judge", "and not case.hearing and", "and"),
            Change(Accusations, "_confirm", "if case.hearing:", "if False:"),
        ],
        test_accusations.test_one_that_answers_anybody_stays,
    ),
    Bug(
        "accuse as often as refusals come",
        "F6",
        [Change(Accusations, "_open", "if self._pauses.has((accuser, accused), now):", "if False:")],
        deaths.forged_refusals_cost_few_pings,
    ),
    Bug(
        "believe what is said in another ring",
        "F6",
        [Change(Accusations, "receive", "ring is not None and said.ring_id == ring.id", "ring is not None")],
        test_accusations.test_what_is_said_of_another_ring_is_dropped,
    ),
    Bug(
        "wait for a confirmation that nobody is left to give",
        "F6",
        [Change(Accusations, "_judge", "is_last = not self._others().difference(suspects)", "is_last = False")],
        deaths.several_that_ended_are_out_soon,
    ),
    Bug(
        "accuse without telling anybody",
        "F6",
        [Change(Accusations, "_open", "self._say(Saying.ACCUSES, accused)", "pass")],
        test_accusations.test_who_was_refused_tells_the_others_which_begin_at_once,
    ),
    Bug(
        "forget a refusal from just before the trial",
        "F6",
        [Change(Accusations, "on_trial", "case.began - REFUSED_LATELY", "case.began")],
        test_accusations.test_a_refusal_shortly_before_the_trial_counts_because_kernels_limit_them,
    ),
    Bug(
        "drop members at once that were removed from the nodelist",
        "G19",
        [instead(Processor, "with_members", lambda processor, config: config)],
        reloads.a_removed_member_stays,
    ),
    Bug(
        "let nodes in that a member does not list",
        "G19",
        [instead(Nodelists, "lack", lambda nodelists, origin, members: None)],
        reloads.a_node_starts_before_all_list_it,
    ),
    Bug(
        "remember over a reload whom others do not list",
        "G19",
        [instead(Nodelists, "forget", lambda nodelists: None)],
        reloads.a_node_starts_before_all_list_it,
    ),
    Bug(
        "wait no longer for late members where a round begins early",
        "F1",
        [
            Change(
                Gather, "enter", "max(now + processor.consensus, processor.awaited_until)", "now + processor.consensus"
            )
        ],
        detection.who_is_late_when_another_ends_is_in,
    ),
    Bug(
        "take a late node for one that is not heard",
        "F7",
        [Change(Rows, "_own", "self._is_unheard(node_id)", "True")],
        test_rows.test_time_alone_is_no_sign,
    ),
    Bug(
        "forget the Joins that were dropped",
        "F7",
        [instead(Rows, "note_arrival", lambda *_: None)],
        test_rows.test_a_join_that_was_dropped_has_come_all_the_same,
    ),
    Bug(
        "forget a refusal from after the trial",
        "F6",
        [Change(Accusations, "on_refusal", "case.finding is Finding.SILENT", "False")],
        test_accusations.test_one_that_is_not_answered_and_refused_later_confirms_then,
    ),
    Bug(
        "accuse members of another make",
        "F6",
        [Change(Accusations, "begin_ring", "ring.pure and Feature.TRIALS in ring.features", "True")],
        deaths.a_ring_with_a_real_node_goes_by_its_rules,
    ),
    Bug(
        "ping the successor no more often than others",
        "F6",
        [instead(Processor, "watched", property(lambda processor: 0))],
        deaths.a_process_that_ended_is_out_soon,
    ),
    Bug(
        "acquit by an answer from before the trial",
        "F6",
        [Change(Trials, "on_pong", "trial is not None and moment in trial.asked", "trial is not None")],
        test_trials.test_other_answers_end_nothing,
    ),
    Bug(
        "begin a trial anew with each accusation",
        "F6",
        [
            Change(
                Trials, "begin", "self._trials.setdefault(node_id, _Trial(now))", "self._trials[node_id] = _Trial(now)"
            )
        ],
        test_trials.test_a_node_on_trial_is_not_tried_anew,
    ),
    Bug(
        "believe refusals that quote nothing that was sent",
        "F6",
        [Change(SentLately, "refusing", "not quotes.isdisjoint(beginnings)", "True")],
        test_sockets.test_a_refusal_counts_only_if_it_quotes_what_was_sent_lately,
    ),
    # Partial connectivity.
    Bug(
        "rank sets with the higher nodes first",
        "F7",
        [Change(_Graph, "_rank", "[-index for index in indices]", "indices")],
        partial(test_partial.test_neighbours_that_do_not_hear_each_other_cost_one_change_each_way, [(1, 2)]),
    ),
    Bug(
        "believe what others tell of a node that is heard",
        "F7",
        [Change(Rows, "hear", "elif now - self._heard.get(row.node_id, -inf) > self._window:", "else:")],
        test_row_decisions.test_what_others_tell_of_a_node_that_is_heard_does_not_count,
    ),
    Bug(
        "go on before all have told the same rows",
        "F7",
        [instead(Rows, "_say_the_same", lambda rows, part, candidates, now: True)],
        test_row_decisions.test_a_part_is_certain_when_all_of_it_have_told_the_same,
    ),
    Bug(
        "ask again without a pause",
        "F7",
        [instead(Separation, "may_ask_at", lambda separation, nodes: 0.0)],
        test_separation.test_whoever_has_asked_waits_longer_each_time,
    ),
    Bug(
        "ask a part of the set that left this node out",
        "F7",
        [instead(Separation, "newcomers", lambda self, others, members: frozenset(self.apart) - set(members))],
        test_separation.test_who_is_left_out_asks_no_part_of_the_others,
    ),
    Bug(
        "follow the Join of a node that a member cannot hear",
        "F7",
        [instead(Separation, "admits", lambda self, origin, others, members, now: True)],
        partial(test_partial.test_neighbours_that_do_not_hear_each_other_cost_one_change_each_way, [(1, 2)]),
    ),
]
