"""Planted bugs: the same protocol with one mistake in it, for tests of the tests.

A bug is a change of the source of a few functions of the core; the core itself has no switches. `plant` compiles the
changed source and puts it in the place of the function for the time of one test. A change whose text is not found
exactly once is an error: then the core has changed, and the bug must be written anew.
"""

from __future__ import annotations
import __future__

import inspect
import textwrap
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest

from tests.sim import scenarios
from tests.totem import test_hostile as hostile
from totem import flow, sequence
from totem.deafness import LeftOut, Standstill
from totem.flow import FlowControl, Pace
from totem.labels import Labels
from totem.packing import Assembler, Packer
from totem.processor import Processor
from totem.ring import Ring
from totem.ring_numbers import Claims
from totem.states.commit import Commit
from totem.states.gather import Gather
from totem.states.operational import Operational
from totem.states.ordering import Ordering
from totem.states.recovery import Recovery
from totem.states.table import State
from totem.testing.soak import Worlds
from totem.wire import codec


class Change(NamedTuple):
    """In the function `name` of `owner`, `new` instead of `old`."""

    owner: Any
    name: str
    old: str
    new: str


def random_worlds(count: int = 120, *, mixed: bool = False) -> None:
    """Hunt with the worlds of the first `count` seeds."""
    worlds = Worlds(range(3, 8), mixed=mixed)
    for seed in range(count):
        outcome = worlds.run_world(seed)
        assert not outcome.violations, f"seed {seed}: {outcome.violations[0]}"


no_number_lasts = hostile.test_no_number_in_one_datagram_ends_a_ring_or_lifts_its_own


class Bug(NamedTuple):
    name: str
    source: str
    """The ruling, or the section of another document, that it breaks."""
    changes: list[Change]
    hunter: Callable[[], None] = random_worlds
    """What must fail with it."""


def plant(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the mistake until the end of the test."""
    sources: dict[tuple[Any, str], str] = {}
    for owner, name, old, new in bug.changes:
        source = sources.get((owner, name)) or textwrap.dedent(inspect.getsource(getattr(owner, name)))
        assert source.count(old) == 1, f"{bug.name}: {owner.__name__}.{name} has {old!r} {source.count(old)} times"
        sources[owner, name] = source.replace(old, new)
    for (owner, name), source in sources.items():
        code = compile(source, f"<{bug.name}>", "exec", __future__.annotations.compiler_flag, dont_inherit=True)
        namespace: dict[str, Any] = {}
        exec(code, getattr(owner, name).__globals__, namespace)
        monkeypatch.setattr(owner, name, namespace[name])


BUGS = [
    # Who does not receive.
    Bug(
        "count visits alone until somebody fails to receive",
        "A9",
        [Change(Standstill, "note_visit", "max(self.by_visits, by_time)", "self.by_visits")],
        scenarios.a_link_that_loses_large_frames_costs_seconds,
    ),
    Bug(
        "hold a receiver for deaf that nobody but the originator has reached",
        "A9",
        [Change(Ordering, "_judge", "codec.mcast_origin(frame) != me", "True")],
        scenarios.a_node_whose_large_frames_reach_nobody_costs_seconds,
    ),
    Bug(
        "take a deaf node back at once",
        "A9",
        [Change(LeftOut, "has", "absence is not None and now < absence.until", "False")],
        scenarios.who_does_not_receive_stays_away_for_growing_times,
    ),
    Bug(
        "leave a deaf node out for the same time again and again",
        "A9",
        [Change(LeftOut, "next_term", "min(2 * last.seconds, _LONGEST)", "_FIRST")],
        scenarios.who_does_not_receive_stays_away_for_growing_times,
    ),
    Bug(
        "leave out those alone whom I have judged myself",
        "A9",
        [
            Change(
                Ordering,
                "is_my_deafness",
                'processor.left_out.add(node_id, now, f"node {join.origin} says (FAILED TO RECEIVE) of it")',
                "pass",
            )
        ],
        scenarios.who_does_not_receive_stays_away_for_growing_times,
    ),
    Bug(
        "try each recovery with a deaf member again",
        "A9",
        [
            Change(Recovery, "_give_up_attempt", "holder == again", "False"),
            Change(Ordering, "_is_deaf", "standstill.lasts <= 1", "self.state.value == 'recovery'"),
        ],
        scenarios.a_deaf_member_does_not_break_each_recovery,
    ),
    Bug(
        "believe anybody who says that a member is deaf",
        "A9",
        [Change(Ordering, "is_my_deafness", "ring.standstill.lasts < _BELIEVED", "False")],
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
        [Change(Ring, "has_sent", "sender == origin and origin in self.members", "True")],
        scenarios.nobody_repeats_what_others_refuse,
    ),
    Bug(
        "refuse a number for what is inside",
        "A11",
        [
            Change(
                Processor,
                "_receive_mcast",
                "codec.check_mcast(datagram)",
                "codec.check_mcast(datagram); codec.mcast_is_encapsulated(datagram) and codec.inner_mcast(datagram)",
            )
        ],
        scenarios.what_a_real_node_repeats_stops_nobody,
    ),
    # Recovery's counters.
    Bug(
        "counters left over from a broken attempt",
        "A3",
        [
            Change(Recovery, "enter", "self._quiet_visits = 0", "self._quiet_visits = getattr(processor, 'left', 0)"),
            Change(
                Recovery,
                "conclude_visit",
                "aru = self.new_ring.window.aru",
                "aru = self.new_ring.window.aru; self.processor.left = self._quiet_visits",
            ),
            Change(
                Recovery, "conclude_visit", "self.to_rebroadcast or self._visits <= _BUSY_VISITS", "self.to_rebroadcast"
            ),
            Change(Processor, "install", "self.ring = ring", "self.ring = ring; self.left = 0"),
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
        [
            Change(
                Recovery,
                "conclude_visit",
                "elif token.retransmit_flag and self._flag_set_by_me:",
                "elif token.retransmit_flag:",
            )
        ],
        scenarios.nobody_installs_while_somebody_has_more_to_send,
    ),
    Bug(
        "install without waiting for the slowest member's aru",
        "A3",
        [
            Change(
                Recovery,
                "conclude_visit",
                "self._quiet_visits >= 3 and up_to(self.install_seq, token.aru)",
                "self._quiet_visits >= 3",
            )
        ],
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
        [Change(Recovery, "leave", "self.processor.ring is self.old_ring", "False")],
        scenarios.what_an_attempt_brought_outlives_it,
    ),
    Bug(
        "forget the obligations",
        "A6",
        [Change(Recovery, "conclude_visit", "self.processor.obligations = self._obliged()", "pass")],
        scenarios.what_an_attempt_brought_outlives_it,
    ),
    Bug(
        "keep the obligations for myself only",
        "A6",
        [
            Change(
                Recovery,
                "_obliged",
                "obliged.update(*(hellos[member].obligations for member in self.transitional))",
                "obliged |= self.processor.obligations",
            )
        ],
        scenarios.what_a_member_owes_all_deliver,
    ),
    Bug(
        "drop the obligations when someone has none",
        "A6",
        [
            Change(
                Recovery,
                "_obliged",
                "if all(member in hellos for member in self.transitional):",
                "if all(member in hellos and hellos[member].obligations for member in self.transitional):",
            )
        ],
        scenarios.what_a_member_owes_all_deliver,
    ),
    Bug(
        "deliver anybody's messages past a gap",
        "A6",
        [
            Change(
                Recovery,
                "_deliver_old_messages",
                "if not past_gap or codec.mcast_origin(frame) in obliged:",
                "if True:",
            )
        ],
        partial(random_worlds, mixed=True),
    ),
    Bug(
        "deliver nobody's messages past a gap",
        "A8",
        [
            Change(
                Recovery,
                "_deliver_old_messages",
                "if not past_gap or codec.mcast_origin(frame) in obliged:",
                "if not past_gap:",
            )
        ],
    ),
    # Where the transitional configuration falls.
    Bug(
        "put all gapless messages before the transitional configuration",
        "A7",
        [
            Change(
                Recovery,
                "_deliver_old_messages",
                "processor.flush()",
                "old.safe_line = old.window.aru; processor.flush()",
            )
        ],
    ),
    Bug(
        "believe one's own safe line alone",
        "A7",
        [
            Change(
                Recovery,
                "_deliver_old_messages",
                "old.safe_line = later(old.safe_line, hellos[member].safe_line)",
                "pass",
            )
        ],
    ),
    # SAFE.
    Bug(
        "safe after one visit",
        "B1",
        [
            Change(
                Ring,
                "note_visit",
                "self.safe_line = later(self.safe_line, earlier(token.aru, self.forwarded_aru))",
                "self.safe_line = token.aru",
            )
        ],
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
        [Change(Processor, "call_for_token", "self.timers.arm(Timer.CALL, now + self._call_again_after)", "pass")],
        scenarios.a_lost_call_for_the_token_is_made_again,
    ),
    Bug(
        "take a token for one that will rest though somebody has sent",
        "F4",
        [Change(Processor, "forward_token", "ring.token_held and ring.is_quiet(token)", "ring.token_held")],
        scenarios.a_token_is_missed_soon_where_somebody_has_just_sent,
    ),
    Bug(
        "reckon what a lost token takes into a rotation",
        "F4",
        [Change(Processor, "note_visit", "min(now - self._last_visit, longest)", "now - self._last_visit")],
        scenarios.many_lost_tokens_are_missed_as_soon_as_one,
    ),
    Bug(
        "rest the token before all know that the ring is idle",
        "D7",
        [Change(Operational, "enter", "self.processor.ring.unchanged = 0", "pass")],
        scenarios.a_new_ring_does_not_rest_too_soon,
    ),
    Bug(
        "count a repeated token as a visit",
        "B1",
        [
            Change(
                Ordering,
                "on_token",
                "processor.drop(dropped)",
                "processor.drop(dropped); dropped != 'repeated token' or ring.note_visit(token)",
            )
        ],
        scenarios.a_repeated_token_is_no_visit,
    ),
    Bug(
        "deliver safe messages at once",
        "B1",
        [Change(Processor, "flush", "if frame[GUARANTEE_OFFSET] and before(ring.safe_line, seq):", "if False:")],
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
        [Change(Processor, "_assemble", "labels = ring.labels", "labels = ring.labels and self.ring.labels")],
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
            Change(
                Recovery,
                "_deliver_old_messages",
                "processor.flush()",
                "processor._assembler.keep_only(self.transitional); processor.flush()",
            )
        ],
    ),
    # Sync.
    Bug(
        "send what is left of a dead sync",
        "C2",
        [Change(Processor, "install", "self.sync_packer.drop_unsent()", "self.sync_packer.restart()")],
    ),
    Bug(
        "send application messages before sync is complete",
        "C1",
        [Change(Operational, "_stream", "processor.sync_packer if processor.syncing else", "processor.sync_packer or")],
    ),
    Bug(
        "believe that a sync of an older ring completes this one's",
        "C4",
        [Change(Processor, "sync_complete", "ring_id == self.ring.id and self.syncing", "self.syncing")],
        partial(random_worlds, 200),
    ),
    Bug(
        "one reassembly for sync and application",
        "C1",
        [
            Change(
                Processor,
                "_assemble",
                "self._assembler if self._delivered_ring_id is None else self._sync_assembler",
                "self._assembler",
            )
        ],
    ),
    # Ordering.
    Bug(
        "never lower the aru",
        "protocol 1.2",
        [
            Change(
                Ordering,
                "_update_aru",
                "if before(aru, token.aru) or token.aru_holder in (ring.node_id, 0):",
                "if before(token.aru, aru):",
            )
        ],
    ),
    Bug(
        "raise an aru that somebody else has lowered",
        "protocol 1.2",
        [
            Change(
                Ordering,
                "_update_aru",
                "if before(aru, token.aru) or token.aru_holder in (ring.node_id, 0):",
                "if True:",
            )
        ],
    ),
    Bug(
        "deliver past a gap on an installed ring",
        "protocol 1.3",
        [
            Change(Processor, "flush", "row_to(ring.delivered, window.aru)", "row_to(ring.delivered, window.high_seq)"),
            Change(
                Processor,
                "flush",
                "frame = frames[seq]",
                "frame = frames.get(seq)\n        ring.delivered = seq\n        if not frame:\n            continue",
            ),
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
        [Change(Ordering, "_answer_requests", "ring_id == ring.id and len(train) < allowed", "False")],
        scenarios.a_lost_frame_is_sent_again,
    ),
    Bug(
        "never ask for what is missing",
        "protocol 1.2",
        [Change(Ordering, "_request_missing", "token.requests += requests", "pass")],
        scenarios.a_lost_frame_is_sent_again,
    ),
    Bug(
        "forget frames that others still miss",
        "B1",
        [Change(Ring, "release_safe", "earlier(self.safe_line, self.delivered)", "self.delivered")],
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
        [Change(Processor, "forward_token", "self.send_to_all(ring.held_back[start : start + burst])", "pass")],
        scenarios.the_token_goes_first,
    ),
    Bug(
        "take turns where visits are long",
        "D2",
        [Change(Operational, "_held_back", "max(burst, ring.flow.sent_by_others(token))", "burst")],
        scenarios.senders_use_their_cables_at_the_same_time,
    ),
    Bug(
        "give a node all that is behind a token at once",
        "D2",
        [Change(Processor, "forward_token", "burst = self.burst", "burst = 4096")],
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
        [Change(Ordering, "_request_missing", "needed = 2 if ring.pure else", "needed = 1 if ring.pure else")],
        scenarios.the_token_goes_first,
    ),
    Bug(
        "take what is on its way for received",
        "B1",
        [Change(Ordering, "_update_aru", "aru = ring.window.aru", "aru = token.seq if ring.pure else ring.window.aru")],
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
            Change(Processor, "flush", "row_to(ring.delivered, window.aru)", "row_to(ring.delivered, window.high_seq)"),
            Change(
                Processor,
                "flush",
                "frame = frames[seq]",
                "frame = frames.get(seq)\n        ring.delivered = seq\n        if not frame:\n            continue",
            ),
        ],
        scenarios.a_node_dies_behind_its_token,
    ),
    # Membership.
    Bug(
        "use a ring id before it is stored",
        "G3",
        [Change(Processor, "_confirm_ring", "self._ring_seq_to_store = self.ring_id.seq", "pass")],
    ),
    Bug(
        "number a ring without regard to what others have seen",
        "protocol 1.1",
        [
            Change(
                Processor,
                "next_ring_seq",
                "max(self.highest_ring_seq, self._claims.highest(members)) + 4",
                "self.ring_id.seq + 4",
            )
        ],
    ),
    Bug(
        "believe any number at once",
        "G18",
        [Change(Processor, "_believes", "is_near(join.ring_seq, self._own_seq)", "True")],
        partial(
            hostile.test_no_number_in_one_datagram_ends_a_ring_or_lifts_its_own, True, State.OPERATIONAL, (1, 2, 3)
        ),
    ),
    Bug(
        "believe a far number for good once it has been said",
        "G18",
        [
            Change(Claims, "hear", "now - since >= self._patience", "True"),
            Change(Claims, "highest", "last - since >= self._patience", "True"),
        ],
        partial(no_number_lasts, True, State.GATHER, (1,)),
    ),
    Bug(
        "never believe a far number",
        "G18",
        [Change(Claims, "hear", "now - since >= self._patience", "False")],
        partial(hostile.test_a_ring_with_large_numbers_is_joined, 1 << 50, ({2}, {1, 3}), ()),
    ),
    Bug(
        "make a far number mine before it is confirmed",
        "G18",
        [Change(Processor, "begin_ring", "self._doubted = self.ring_id", "pass")],
        partial(no_number_lasts, False, State.GATHER, (1, 2, 3)),
    ),
    Bug(
        "keep a far number that was not confirmed",
        "G18",
        [Change(Processor, "gather", "self.ring_id, self._doubted = self._doubted, None", "self._doubted = None")],
        hostile.test_a_far_number_that_nobody_confirms_is_forgotten,
    ),
    Bug(
        "believe that a member of my ring has come far",
        "G18",
        [Change(Processor, "_is_stranger", "not is_near(ring_seq, self._own_seq)", "False")],
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
        [Change(Processor, "_receive_mcast", "if datagram[25:37] == self._ring_id_bytes:", "if self.filing:")],
    ),
    Bug(
        "take everybody in the new ring for a companion",
        "protocol 1.6",
        [
            Change(
                Recovery,
                "enter",
                "if member in entries and entries[member].old_ring_id == self.old_ring.id",
                "if member in entries",
            )
        ],
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
        [Change(Processor, "leave", "self.send_message_to_all(", "str(")],
        scenarios.a_leave_needs_no_timeout,
    ),
    Bug(
        "ignore that another ring can be heard",
        "protocol 1.2",
        [
            Change(Operational, "on_foreign", "processor.gather(cause, now)", "pass"),
            Change(Operational, "on_join", "processor.gather_with(join, cause, now)", "pass"),
        ],
    ),
    Bug(
        "hold those who disagree for agreed",
        "protocol 1.5",
        [
            Change(
                Gather, "on_join", "if candidates == processor.candidates and failed == processor.failed:", "if True:"
            )
        ],
    ),
    Bug(
        "never judge those who are silent",
        "protocol 1.5",
        [Change(Gather, "_judge", "processor.failed |= silent", "pass")],
    ),
    Bug(
        "no limit to what a visit sends",
        "protocol 1.4",
        [
            Change(
                FlowControl,
                "allowed",
                "allowed = max(0, min(self._max_messages, self._narrow - token.fcc))",
                "allowed = 1 << 30",
            )
        ],
    ),
    Bug(
        "choose windows with one of theirs in the ring",
        "D4",
        [
            Change(
                Recovery,
                "_install",
                "min(hellos[member].window for member in new.members) if new.pure else 0",
                "min(hello.window for hello in hellos.values())",
            )
        ],
        scenarios.windows_are_as_configured_unless_all_choose,
    ),
    Bug(
        "choose windows where a member's are configured",
        "D4",
        [Change(Recovery, "_install", "min(hellos[member].window for", "max(hellos[member].window for")],
        scenarios.windows_are_as_configured_unless_all_choose,
    ),
    Bug(
        "go by my own receive buffer alone",
        "D4",
        [Change(Recovery, "_install", "new.flow.choose(window,", "new.flow.choose(processor.own_window,")],
        scenarios.who_falls_behind_loses_nothing,
    ),
    Bug(
        "take the kernel's bytes for frames",
        "D4",
        [Change(flow, "kernel_bytes", "return -(-size // _PAGE) * _PAGE + _RECORD", "return size // 4")],
        scenarios.who_falls_behind_loses_nothing,
    ),
    Bug(
        "wait for a lost token as Corosync does",
        "F4",
        [Change(Processor, "forward_token", "elif ring.pure:", "elif False:")],
        scenarios.a_lost_token_is_missed_soon,
    ),
    Bug(
        "wait as Corosync does for a token that is lost again",
        "F4",
        [Change(Processor, "resend_token", "min(2 * self._resend_after, self", "max(2 * self._resend_after, self")],
        scenarios.a_token_lost_again_is_missed_soon_too,
    ),
    Bug(
        "be impatient for the token in a mixed ring",
        "F4",
        [Change(Processor, "forward_token", "elif ring.pure:", "else:")],
        scenarios.a_lost_token_is_missed_soon,
    ),
    Bug(
        "be impatient for a token that rests",
        "F4",
        [Change(Processor, "forward_token", "elif ring.pure:", "if ring.pure:")],
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
]
