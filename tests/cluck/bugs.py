"""Planted bugs of locks: the same machine with one mistake in it, and the test that kills it."""

import tempfile
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import get_args

import pytest

from cluck.client.lock_steps import BaseCondition, BaseHeld
from cluck.client.session_elections import ClientElections
from cluck.client.steps import Progress
from cluck.commands import Acquire, EndWait, OfClient, Release, Renew, Resign, Stand, Wait, Withdraw
from cluck.server import queries, shares, submissions
from cluck.server.connection import Connection
from cluck.server.election_rounds import ElectionRounds
from cluck.server.housekeeping import Housekeeping
from cluck.server.leases import Leases
from cluck.server.replies import Replies
from cluck.server.service import Service
from cluck.server.submissions import Submissions
from cluck.state.conditions import Conditions
from cluck.state.elections import Election, Elections
from cluck.state.lock_table import Lock, LockTable
from cluck.state.machine import LockState
from cluck.state.request_history import Places, RequestHistory
from cluck.state.tokens import Tokens
from cluck.testing.actors import Actor
from cpg.replication.replica import Replica
from cpg.replication.wire import Codec
from tests.cluck import test_commands as commands
from tests.cluck.client import loops, shells
from tests.cluck.client import test_asynchronous as tasks
from tests.cluck.client import test_conditions as waits
from tests.cluck.client import test_locks as locks
from tests.cluck.client import test_session as sessions
from tests.cluck.client import test_steps as steps
from tests.cluck.client.servers import Cluster
from tests.cluck.server import test_fuzz as fuzz
from tests.cluck.server import test_leases as leases
from tests.cluck.server import test_queries as questions
from tests.cluck.server import test_rights as rights
from tests.cluck.server import test_service as services
from tests.cluck.server import test_shares as rooms
from tests.cluck.server import test_submissions as minority
from tests.cluck.server.orders import Server
from tests.cluck.state import test_conditions as conditions
from tests.cluck.state import test_elections as leaders
from tests.cluck.state import test_lock_table as tickets
from tests.cluck.state.bench import Bench
from tests.cluck.state.test_machine import World, test_nothing_is_left_when_all_have_gone
from tests.cluck.testing import test_actors as actors
from tests.cpg.replication.bugs import SKIP, nothing
from tests.sim.bugs import Bug, Change, instead


def on_bench(test, *arguments):
    """Run a named test with a bench of its own."""
    test(Bench(), *arguments)


def by(test, *arguments):
    return partial(on_bench, test, *arguments)


def watched(test):
    """Run a test that puts something of its own into the machine."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        test(Bench(), monkeypatch)


def others(kind):
    """Return the kinds of commands in a client's name, but for this one."""
    return " | ".join(other.__name__ for other in get_args(OfClient) if other is not kind)


def watched_alone(test):
    """Run a test that changes a bound, and needs no bench."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        test(monkeypatch)


def several_programs_of_one_user():
    for case in rooms.CASES:
        watched_alone(
            lambda monkeypatch, case=case: rooms.test_no_user_takes_all_of_what_is_for_everybody(monkeypatch, *case)
        )


def clients_hunt(kind):
    """Play clients that say much of one kind."""
    for seed in range(8):
        fuzz.hunt_as_a_client(seed, (Acquire, Wait, Stand, kind, kind, kind))


def members_hunt():
    for seed in range(8):
        fuzz.test_a_member_that_is_no_server_says_anything(seed)


def random_commands():
    for seed in range(12):
        World(seed).run(300)


IN_PLACE = "append(self.front if is_in_front else self.rest, ticket)"

TICKETS = [
    Bug(
        "priority behind readers as well",
        "E",
        [Change(Lock, "queue", "ticket.mode is Mode.PRIORITY or", "")],
        by(tickets.test_a_writer_with_priority_goes_in_front_of_readers_but_not_of_writers),
    ),
    Bug(
        "take who was behind the first reader for behind a reader always",
        "E",
        [Change(Lock, "take_out", "while self.rest and not self.rest[0].is_shared:", "while False:")],
        partial(tickets.test_a_queue_is_what_a_plain_list_would_be, 0),
    ),
    Bug(
        "search for deadlocks without end",
        "E14",
        [Change(LockTable, "_circle", "steps > MOST_STEPS", "False")],
        partial(watched, tickets.test_a_search_for_a_deadlock_has_an_end),
    ),
    Bug(
        "any number of locks for one client",
        "E14",
        [Change(LockTable, "acquire", "self._counts.get(request.owner.client, 0) >= MOST_OF_CLIENT", "False")],
        partial(watched, tickets.test_one_client_has_no_more_than_its_share),
    ),
    Bug(
        "any number of locks as long as they are free",
        "E14",
        [Change(LockTable, "acquire", "len(self._tickets) >= MOST_TICKETS or", "")],
        partial(watched, tickets.test_as_many_locks_are_held_as_may),
    ),
    Bug(
        "remember any number of answers",
        "E14",
        [Change(RequestHistory, "recall", "request.number > history.settled + MOST_UNSETTLED", "False")],
        by(tickets.test_what_is_remembered_of_a_client_has_a_bound),
    ),
    Bug(
        "remember whatever is withdrawn",
        "E14",
        [Change(RequestHistory, "refuse", "or request.number > history.settled + 2 * MOST_UNSETTLED", "")],
        by(tickets.test_what_is_remembered_of_a_client_has_a_bound),
    ),
    Bug(
        "readers overtake",
        "E",
        [Change(Lock, "queue", IN_PLACE, "self.front.insert(0, ticket)")],
        by(tickets.test_readers_share_and_do_not_overtake_a_writer),
    ),
    Bug(
        "grant past who is first in the queue",
        "E",
        [Change(LockTable, "_grant", "lock.first", "next(reversed(lock.waiting), None)")],
        by(tickets.test_the_next_in_the_queue_is_granted_with_a_larger_token),
    ),
    Bug(
        "priority over writers, too",
        "E",
        [Change(Lock, "queue", IN_PLACE, f"{IN_PLACE} if not is_in_front else self.front.insert(0, ticket)")],
        by(tickets.test_a_writer_with_priority_goes_in_front_of_readers_but_not_of_writers),
    ),
    Bug(
        "a permit more than there are",
        "E",
        [Change(Lock, "admits", "len(self.holders) < self.permits", "len(self.holders) <= self.permits")],
        by(tickets.test_a_semaphore_grants_as_many_permits_as_it_has),
    ),
    Bug(
        "tokens of each lock by itself",
        "E6",
        [Change(LockTable, "_grant_to", "self._tokens.draw()", "(self._tokens.epoch << 32) + len(lock.holders)")],
        by(tickets.test_tokens_grow_over_all_locks),
    ),
    Bug(
        "a token twice",
        "E6",
        [Change(Tokens, "draw", "self.drawn += 1", "self.drawn += self.drawn < 1")],
        by(tickets.test_the_next_in_the_queue_is_granted_with_a_larger_token),
    ),
    Bug(
        "a state that comes anew counts tokens from the beginning",
        "E6",
        [Change(LockState, "of", "state.tokens.drawn = image.drawn", "pass")],
        random_commands,
    ),
    Bug(
        "release whoever holds",
        "E",
        [Change(LockTable, "held", "ticket.token == token and", "")],
        by(tickets.test_a_late_release_touches_no_later_grant_of_the_same_request),
    ),
    Bug(
        "take a lock in spite of a renewal",
        "E7",
        [Change(LockTable, "holder", "renewals in (None, ticket.renewals)", "True")],
        by(tickets.test_a_renewal_in_time_voids_what_was_proposed),
    ),
    Bug(
        "ask only once for a lock, however often it is renewed",
        "E7",
        [Change(LockTable, "renew", "ticket.is_revoked = False", "pass")],
        by(tickets.test_a_renewed_lock_is_asked_for_again),
    ),
    Bug(
        "leave who was refused in the queue",
        "E",
        [Change(LockTable, "enter", "lock.take_out", SKIP)],
        by(tickets.test_who_does_not_wait_is_refused),
    ),
    Bug(
        "grant nobody when a holder withdraws",
        "E",
        [Change(LockTable, "_remove", "self._settle(ticket.name)", "()")],
        by(tickets.test_a_withdrawn_request_leaves_the_queue_or_releases),
    ),
    Bug(
        "look for deadlocks among holders only",
        "E",
        [
            Change(Lock, "all_ahead", "reversed(part[:index])", "()"),
            Change(Lock, "all_ahead", "reversed(self.front)", "()"),
        ],
        by(tickets.test_a_deadlock_through_a_place_in_a_queue_is_seen),
    ),
    Bug(
        "believe that a reader is behind all that a writer ahead of it is behind",
        "E",
        [Change(LockTable, "_circle", "if not waiting.is_shared:", "if True:")],
        by(tickets.test_a_deadlock_through_a_place_in_a_queue_is_seen),
    ),
    Bug(
        "look for deadlocks only where the lock is held",
        "E",
        [
            Change(
                LockTable,
                "enter",
                "circle = self._circle(lock, ticket)",
                "circle = () if lock.admits(ticket) else self._circle(lock, ticket)",
            )
        ],
        by(tickets.test_a_deadlock_is_seen_also_where_only_the_queue_is_in_the_way),
    ),
    Bug(
        "follow each place of a queue by itself",
        "E",
        [Change(LockTable, "_circle", "covered.add", "covered.discard")],
        partial(watched, tickets.test_a_deadlock_behind_a_long_queue_is_seen_at_once),
    ),
    Bug(
        "search in the order in which a server has heard of tickets",
        "E",
        [Change(LockTable, "_waits_of", "waiting.sort(key=lambda ticket: ticket.request)", "pass")],
        by(tickets.test_the_circle_that_is_named_is_the_same_behind_a_snapshot),
    ),
    Bug(
        "take a permit that is waited for for a lock",
        "E",
        [Change(LockTable, "_waits_of", "if not self.locks[ticket.name].permits", "if True")],
        by(tickets.test_permits_make_no_circle, "in the middle"),
    ),
    Bug(
        "take a permit that is asked for for a lock",
        "E",
        [Change(LockTable, "_circle", "lock.permits or", "")],
        by(tickets.test_permits_make_no_circle, "at the end"),
    ),
    Bug(
        "grant to the dead, who are about to go",
        "E",
        [Change(LockTable, "_end_tickets", "self._take_out(ticket)", "yield from self._remove(ticket)")],
        by(tickets.test_none_of_a_clients_tickets_is_granted_when_another_one_ends, "stranded"),
    ),
    Bug(
        "take from those who cannot be reached what they hold",
        "E7",
        [Change(LockTable, "purge", "if not ticket.token", "if True")],
        by(tickets.test_a_client_that_cannot_be_reached_keeps_what_it_holds),
    ),
    Bug(
        "leave to the dead what they hold",
        "E7",
        [Change(LockState, "_end", "self.table.end_clients(clients)", "self.table.purge(clients)")],
        by(tickets.test_a_client_that_is_gone_holds_and_waits_for_nothing),
    ),
    Bug(
        "grant a lease that no disk knows of",
        "E5",
        [Change(LockState, "_acquire", "if self._is_recorded(command)", "if True")],
        by(tickets.test_a_lease_that_no_disk_knows_of_is_not_granted_yet),
    ),
]

REQUESTS = [
    Bug(
        "forget what was answered",
        "E",
        [Change(RequestHistory, "note", "history.ended[outcome.request.number] = outcome", "pass")],
        by(tickets.test_a_request_that_comes_again_changes_nothing),
    ),
    Bug(
        "do again what is settled",
        "E",
        [Change(RequestHistory, "_answer", "request.number <= history.settled", "request.number < history.settled")],
        by(tickets.test_what_is_settled_is_forgotten),
    ),
    Bug(
        "keep what is settled",
        "E",
        [Change(RequestHistory, "recall", "del history.ended[number]", "pass")],
        by(tickets.test_what_is_settled_is_forgotten),
    ),
    Bug(
        "do what was withdrawn before it came",
        "E",
        [Change(RequestHistory, "refuse", "self.note(refused)", "refused")],
        by(tickets.test_a_withdrawn_request_leaves_the_queue_or_releases),
    ),
    Bug(
        "know clients by the server that they came through first",
        "E2",
        [Change(RequestHistory, "_history", "history.server = server", "pass")],
        by(tickets.test_who_speaks_through_another_server_is_not_stranded),
    ),
    Bug(
        "hold an open request for settled",
        "E",
        [
            Change(
                LockState,
                "apply",
                "present := self.present(request)",
                "answer is None and (present := self.present(request))",
            )
        ],
        by(tickets.test_an_open_request_is_answered_also_where_later_ones_are_settled),
    ),
    Bug(
        "forget the answer to what was called settled while it was open",
        "E",
        [
            Change(
                RequestHistory,
                "note",
                "if history is not None:",
                "if history and outcome.request.number > history.settled:",
            )
        ],
        by(tickets.test_the_answer_to_what_was_settled_while_open_is_remembered_until_more_is),
    ),
    Bug(
        "never forget a client that has had something open",
        "E",
        [Change(Places, "remove", "del self._requests[client]", "pass")],
        test_nothing_is_left_when_all_have_gone,
    ),
    Bug(
        "never forget a client that has had a ticket",
        "E",
        [Change(LockTable, "_forget", "del self._owners[owner.client]", "pass")],
        test_nothing_is_left_when_all_have_gone,
    ),
    Bug(
        "open a request twice",
        "E",
        [Change(LockState, "present", "self.conditions.present(request) or", "")],
        by(conditions.test_a_request_waits_once_whatever_comes_in_its_name),
    ),
]

CONDITIONS = [
    Bug(
        "wait and go on holding",
        "3.2 cv_wait",
        [Change(Conditions, "wait", "self._table.release", "(lambda *_: ())")],
        by(conditions.test_to_wait_gives_the_lock_back_in_the_same_step),
    ),
    Bug(
        "wake the last one first",
        "3.2 cv_signal",
        [
            Change(
                Conditions,
                "notify",
                "waiters[: None if command.everyone else 1]",
                "waiters[0 if command.everyone else -1 :]",
            )
        ],
        by(conditions.test_waiters_are_woken_in_the_order_in_which_they_came),
    ),
    Bug(
        "wake all for one",
        "3.2 cv_signal",
        [Change(Conditions, "notify", "None if command.everyone else 1", "None")],
        by(conditions.test_one_notification_wakes_one),
    ),
    Bug(
        "wake one for all",
        "3.2 cv_broadcast",
        [Change(Conditions, "notify", "None if command.everyone else 1", "1")],
        by(conditions.test_all_are_woken_in_their_order),
    ),
    Bug(
        "wake with priority as without",
        "3.2 cv_broadcastpri",
        [Change(Conditions, "notify", "if command.priority and", "if False and")],
        by(conditions.test_those_woken_with_priority_reacquire_in_front_of_readers),
    ),
    Bug(
        "wake with priority always",
        "3.2 cv_broadcastpri",
        [Change(Conditions, "notify", "if command.priority and", "if True and")],
        by(conditions.test_those_woken_without_priority_reacquire_behind_readers),
    ),
    Bug(
        "make writers of readers",
        "3.2 cv_broadcastpri",
        [Change(Conditions, "notify", "and not waiter.ticket.is_shared", "")],
        by(conditions.test_readers_woken_with_priority_still_share),
    ),
    Bug(
        "reacquire for oneself what was shared",
        "3.2 lock kinds",
        [Change(Conditions, "wait", "held.mode", "Mode.EXCLUSIVE")],
        by(conditions.test_what_is_reacquired_is_of_the_kind_that_was_given_back),
    ),
    Bug(
        "reacquire a lock where there was a semaphore",
        "3.2 lock kinds",
        [Change(Conditions, "_wake", "waiter.permits", "0")],
        by(conditions.test_a_permit_of_a_semaphore_is_reacquired_as_such),
    ),
    Bug(
        "reacquire always",
        "3.2 cv_wait_unlock",
        [Change(Conditions, "_wake", "if waiter.reacquires:", "if True:")],
        by(conditions.test_without_reacquiring_to_be_woken_is_the_end),
    ),
    Bug(
        "forget who was woken",
        "3.2 cv_wait_unlock",
        [Change(Conditions, "_wake", "yield self._requests.note(woken)", "yield woken")],
        by(conditions.test_without_reacquiring_to_be_woken_is_the_end),
    ),
    Bug(
        "lose whether it was a notification",
        "3.2 cv_timedwait",
        [Change(Conditions, "_wake", "ticket.notified = notified", "pass")],
        by(conditions.test_to_wait_again_is_answered_with_what_has_become_of_it),
    ),
    Bug(
        "call the end of time a notification",
        "3.2 cv_timedwait",
        [Change(Conditions, "end", "notified=False", "notified=True")],
        by(conditions.test_a_waiter_whose_time_is_over_has_its_lock_again),
    ),
    Bug(
        "let waiters pass several locks",
        "3.2 all waiters must pass the same lock",
        [Change(Conditions, "wait", "if condition.lock != command.lock:", "if False:")],
        by(conditions.test_all_that_wait_have_given_back_the_same_lock),
    ),
    Bug(
        "bind a condition to its first lock for ever",
        "3.2 all waiters must pass the same lock",
        [Change(Conditions, "_remove", "if not condition.waiters:", "if False:")],
        by(conditions.test_all_that_wait_have_given_back_the_same_lock),
    ),
    Bug(
        "let anybody wait with anybody's lock",
        "3.2 cv_wait",
        [Change(Conditions, "wait", "or held.request.owner.client != request.owner.client", "")],
        by(conditions.test_to_wait_needs_the_lock, "somebody else's token"),
    ),
    Bug(
        "spend notifications on the dead",
        "3.2 a waiter whose member left",
        [instead(Conditions, "drop", nothing)],
        by(conditions.test_no_notification_is_spent_on_a_client_that_is_gone),
    ),
    Bug(
        "notify again when asked again",
        "3.2 cv_signal",
        [
            Change(
                LockState,
                "apply",
                "kind in _REQUESTS",
                "kind in _REQUESTS and kind is not Notify",
            )
        ],
        by(conditions.test_a_notification_that_comes_again_wakes_nobody_else),
    ),
    Bug(
        "count who is left",
        "3.2 cv_signal",
        [Change(Conditions, "notify", "len(woken)))", "len(waiters)))")],
        by(conditions.test_all_are_woken_in_their_order),
    ),
]

LEADERS = [
    Bug(
        "open a round for each that comes",
        "E8",
        [Change(Elections, "stand", "if is_first:", "if True:")],
        by(leaders.test_who_comes_while_another_one_leads_opens_no_round),
    ),
    Bug(
        "let those take part that come during a round",
        "E8",
        [
            Change(Election, "asked", "if candidate.round == self.round", "if candidate"),
            Change(Elections, "status", "candidate.round == election.round and", ""),
        ],
        by(leaders.test_who_comes_during_a_round_takes_no_part_in_it),
    ),
    Bug(
        "count statuses of any round",
        "E8",
        [Change(Elections, "status", "or command.round != election.round", "")],
        by(leaders.test_a_status_for_another_round_is_void),
    ),
    Bug(
        "count the last status of each",
        "E8",
        [Change(Elections, "status", "and candidate.merits is None", "")],
        by(leaders.test_the_first_status_in_a_round_counts),
    ),
    Bug(
        "close any round",
        "E8",
        [Change(Elections, "close", "and command.round == election.round", "")],
        by(leaders.test_a_round_that_is_closed_by_order_counts_those_that_have_answered),
    ),
    Bug(
        "choose again when late statuses come",
        "E8",
        [Change(Elections, "status", "election.stage is not Stage.ASKED or", "")],
        by(leaders.test_a_round_that_is_closed_by_order_counts_those_that_have_answered),
    ),
    Bug(
        "wait for those who have gone",
        "E8",
        [Change(Elections, "_take_out", "self._close_if_answered(election)", "()")],
        by(leaders.test_the_departure_of_the_last_missing_one_closes_a_round),
    ),
    Bug(
        "stand still where nobody has answered",
        "E8",
        [Change(Elections, "_close", "self._open(election)", "()")],
        by(leaders.test_a_round_without_any_answer_begins_anew_with_all_that_stand),
    ),
    Bug(
        "begin to count rounds anew",
        "E8",
        [Change(Elections, "_begin", "election.round += 1", "election.round = 1 + election.round % 3")],
        by(leaders.test_rounds_are_counted_as_long_as_the_election_is_known),
    ),
    Bug(
        "compare running times to the second",
        "2.1",
        [Change(Elections, "status", "int(command.running // STEP)", "int(command.running)")],
        by(
            leaders.test_the_order_of_selection,
            {"running": 300, "address": "b"},
            {"running": 599.9, "address": "a"},
            True,
        ),
    ),
    Bug(
        "prefer the longer restart interval",
        "2.1",
        [Change(Elections, "status", "-int(", "int(")],
        by(leaders.test_the_order_of_selection, {"restart_interval": 300}, {"restart_interval": 600}, True),
    ),
    Bug(
        "compare ports before addresses",
        "2.1",
        [Change(Elections, "_close", "candidate.address, candidate.port", "candidate.port, candidate.address")],
        by(leaders.test_the_order_of_selection, {"address": "b", "port": 1}, {"address": "a", "port": 2}, True),
    ),
    Bug(
        "of equals the one that came last",
        "2.1",
        [Change(Elections, "_close", "max(ranked", "max(reversed(ranked)")],
        by(leaders.test_of_equals_the_one_that_has_stood_longer_wins),
    ),
    Bug(
        "name anybody",
        "E8",
        [
            Change(
                Elections,
                "_meant",
                "(command.round, command.candidate) != (election.round, election.chosen)",
                "command.round != election.round",
            )
        ],
        by(leaders.test_only_the_winner_can_be_named),
    ),
    Bug(
        "commit what was named in another round",
        "E8",
        [
            Change(
                Elections,
                "_meant",
                "(command.round, command.candidate) != (election.round, election.chosen)",
                "command.candidate != election.chosen",
            )
        ],
        by(leaders.test_only_the_one_that_was_named_can_lead),
    ),
    Bug(
        "commit who was not named",
        "E8",
        [
            Change(Elections, "commit", "or election.stage is Stage.CHOSEN", ""),
            Change(
                Elections,
                "commit",
                "elif election.stage is Stage.NAMED and",
                "elif election.stage is not Stage.LED and",
            ),
        ],
        by(leaders.test_only_the_one_that_was_named_can_lead),
    ),
    Bug(
        "the same token for each leadership",
        "E6",
        [Change(Elections, "commit", "self._tokens.draw()", "self._tokens.epoch << 32")],
        by(leaders.test_tokens_of_leaderships_and_of_locks_are_one_series),
    ),
    Bug(
        "keep a leader that has gone",
        "E8",
        [Change(LockState, "keep", "self.elections.strand(clients)", "()")],
        by(leaders.test_a_leader_that_goes_leads_no_more_and_the_others_are_asked, "stranded"),
    ),
    Bug(
        "wait for a winner that has gone",
        "E8",
        [
            Change(
                Elections,
                "_take_out",
                "and election.chosen in gone:",
                "and election.chosen in gone and election.tenure:",
            )
        ],
        by(leaders.test_a_winner_that_goes_before_it_leads_is_replaced, "gone", False),
    ),
    Bug(
        "replace the leader whoever goes",
        "E8",
        [Change(Elections, "_take_out", "and election.led.request in gone", "")],
        by(leaders.test_a_leader_stays_when_others_go),
    ),
    Bug(
        "ask the dead, who are about to go",
        "E8",
        [
            Change(
                Elections,
                "strand",
                "yield from self._take_out(name, requests)",
                "yield from (o for request in requests for o in self._take_out(name, [request]))",
            )
        ],
        by(leaders.test_candidates_that_are_stranded_together_are_not_asked),
    ),
    Bug(
        "say nothing of the end of a leadership",
        "3.1 events in pairs",
        [Change(Elections, "_end_told", "yield Leadership", "yield from (lambda *_: ())")],
        by(leaders.test_a_leader_whose_lease_is_over_sits_out_the_next_round),
    ),
    Bug(
        "tell of an end without a beginning",
        "3.1 events in pairs",
        [Change(Elections, "_step_down", "election.led", "election.tenure")],
        by(leaders.test_a_leadership_that_lasts_on_ends_for_sure, "over"),
    ),
    Bug(
        "choose again who was deposed",
        "E8",
        [Change(Elections, "depose", "sits_out=command.candidate", "sits_out=None")],
        by(leaders.test_a_winner_that_does_not_come_is_deposed, True),
    ),
    Bug(
        "choose again who resigned",
        "E8",
        [Change(Elections, "_step_down", "sits_out=tenure.request", "sits_out=None")],
        by(leaders.test_who_resigns_sits_out_the_next_round),
    ),
    Bug(
        "ask nobody where one is alone",
        "E8",
        [Change(Elections, "_open", "others or election.candidates", "others")],
        by(leaders.test_who_resigns_and_is_alone_takes_part),
    ),
    Bug(
        "let who resigns name itself",
        "E8",
        [Change(Elections, "resign", "and wished.request != election.led.request", "")],
        by(leaders.test_who_names_nobody_that_could_be_next_has_a_round_opened, "itself"),
    ),
    Bug(
        "hand on what a former leader attached",
        "E8",
        [
            Change(
                Elections,
                "commit",
                "leader.lease, leader.grace, token)",
                'leader.lease, leader.grace, token, version=1, blob=b"x")',
            )
        ],
        by(leaders.test_what_a_leader_attached_ends_with_its_leadership),
    ),
    Bug(
        "let former leaders publish",
        "2.4 epoch of a leadership",
        [Change(Elections, "_led", "tenure.token != token or", "")],
        by(leaders.test_to_publish_needs_the_present_token),
    ),
    Bug(
        "let those who observe publish",
        "2.4 epoch of a leadership",
        [Change(Elections, "publish", "or tenure.request.owner.client != command.request.owner.client", "")],
        by(leaders.test_to_publish_takes_the_client_that_leads),
    ),
    Bug(
        "remember elections that nobody stands in",
        "E8",
        [Change(Elections, "_forget_if_over", "del self.by_name[election.name]", "pass")],
        by(leaders.test_an_election_without_candidates_is_forgotten),
    ),
    Bug(
        "let the next one lead while the one before may act",
        "E10",
        [Change(Elections, "commit", "and not election.waits", "")],
        by(leaders.test_nobody_leads_before_the_leadership_before_is_over),
    ),
    Bug(
        "take a leader that cannot be reached for one that has ended",
        "E10",
        [Change(LockState, "keep", "self.elections.strand(clients)", "self.elections.end(clients)")],
        by(leaders.test_a_leader_that_goes_leads_no_more_and_the_others_are_asked, "stranded"),
    ),
    Bug(
        "wait for the lease of a leader that has ended for sure",
        "E10",
        [Change(LockState, "_end", "self.elections.end(clients)", "self.elections.strand(clients)")],
        by(leaders.test_a_leadership_that_lasts_on_ends_for_sure, "gone"),
    ),
    Bug(
        "wait for the lease of a leader that has withdrawn",
        "E10",
        [Change(Elections, "withdraw", "if self._tenures.get(request) is not None:", "if False:")],
        by(leaders.test_a_leader_that_goes_leads_no_more_and_the_others_are_asked, "withdrawn"),
    ),
    Bug(
        "end a leadership that was renewed",
        "E10",
        [Change(Elections, "_led", "or renewals not in (None, tenure.renewals)", "")],
        by(leaders.test_the_end_of_a_lease_is_void_where_it_was_renewed),
    ),
    Bug(
        "let who stands no more renew",
        "E10",
        [Change(Elections, "renew", "or self._candidate(election, command.request) is None", "")],
        by(leaders.test_a_leader_that_stands_no_more_renews_nothing),
    ),
    Bug(
        "let nobody lead on who was taken for lost",
        "E10",
        [Change(Elections, "renew", "election.tenure is None", "election.led is None")],
        by(leaders.test_a_leader_that_stands_again_and_renews_in_time_leads_on),
    ),
    Bug(
        "go on looking for a successor where the leader renews",
        "E10",
        [Change(Elections, "renew", "if election.stage is not Stage.LED:", "if False:")],
        by(leaders.test_a_leader_that_renews_late_needs_no_successor),
    ),
    Bug(
        "forget a leadership when nobody stands any more",
        "E10",
        [Change(Elections, "_forget_if_over", "and election.tenure is None", "")],
        by(leaders.test_a_leadership_without_candidates_lasts_until_it_is_over),
    ),
    Bug(
        "let the next one wait for ever",
        "E10",
        [Change(Elections, "_lapse", "if election.stage is Stage.NAMED:", "if False:")],
        by(leaders.test_nobody_leads_before_the_leadership_before_is_over),
    ),
    Bug(
        "depose who leads",
        "E10",
        [Change(Elections, "depose", "and election.stage is not Stage.LED", "")],
        by(leaders.test_only_who_was_chosen_in_this_round_can_be_deposed),
    ),
    Bug(
        "let somebody lead by a lease that no disk knows of",
        "E5",
        [Change(LockState, "_stand", "if self._is_recorded(command)", "if True")],
        by(leaders.test_a_lease_must_be_on_record),
    ),
]


def in_session(test, *arguments):
    return lambda: test(sessions.World(), *arguments)


LEASES = [
    Bug(
        "lead on whatever the clock says until somebody looks at it",
        "E10",
        [Change(ClientElections, "stand", "changed, self._clock)", "changed, lambda: 0.0)")],
        in_session(sessions.test_nothing_but_a_renewal_that_came_back_lets_a_leader_lead_on),
    ),
    Bug(
        "a ping lets a leader lead on",
        "E10",
        [
            Change(
                ClientElections,
                "_on_ping",
                "self._requests.submit(Pong())",
                "self._requests.submit(Pong())\n"
                "    for one in self._requests.all(ClientCandidacy): one.deadline = self._clock() + 3",
            )
        ],
        in_session(sessions.test_nothing_but_a_renewal_that_came_back_lets_a_leader_lead_on),
    ),
    Bug(
        "a candidate that leads still lets a leader lead on",
        "E10",
        [
            Change(
                ClientElections,
                "_on_standing",
                "candidacy.is_standing = True",
                "candidacy.is_standing, candidacy.deadline = True, self._clock() + 3",
            )
        ],
        in_session(sessions.test_nothing_but_a_renewal_that_came_back_lets_a_leader_lead_on),
    ),
    Bug(
        "lead again by the old token",
        "E10",
        [Change(ClientElections, "_on_leads", "elif leads.token > candidacy.former:", "else:")],
        in_session(sessions.test_a_leader_that_was_silent_never_leads_again_by_its_old_token),
    ),
    Bug(
        "take a renewal that came back too late",
        "E10",
        [Change(ClientElections, "_on_leads", "if self._clock() >= candidacy.deadline:", "if False:")],
        in_session(sessions.test_a_renewal_that_comes_back_too_late_does_not_count),
    ),
    Bug(
        "resign before all has ended",
        "E10",
        [Change(ClientElections, "_submit_last", "not candidacy.works and", "")],
        in_session(sessions.test_what_runs_while_a_candidate_leads_ends_before_the_next_one_may_lead, "resign"),
    ),
    Bug(
        "resign and lead on",
        "E10",
        [Change(ClientElections, "resign", 'self._step_down(candidacy, "it was given up")', "pass")],
        in_session(sessions.test_resigning_is_said_until_it_is_answered),
    ),
    Bug(
        "a leader counts from when it was told",
        "E10",
        [
            Change(
                Service,
                "_on_election",
                "sent if begins else None",
                "self._now if begins else None",
            )
        ],
        services.test_a_leader_counts_from_when_its_server_asked,
    ),
    Bug(
        "what a leader publishes lets it lead on",
        "E10",
        [Change(Service, "_on_election", "sent if begins else None", "sent")],
        services.test_what_a_leader_publishes_is_no_renewal,
    ),
    Bug(
        "a leader that renews counts from when it was told",
        "E10",
        [
            Change(
                Replies,
                "_reply",
                "self._reply_leader(local, request, token, base, now)",
                "self._reply_leader(local, request, token, now, now)",
            )
        ],
        services.test_a_leader_counts_from_when_its_server_asked,
    ),
    Bug(
        "the group waits for no grace of a leader",
        "E10",
        [Change(Leases, "due", "+ leased.grace", "")],
        partial(services.test_a_leader_whose_server_stands_still_is_followed_when_its_lease_is_over, 2),
    ),
    Bug(
        "believe that all clocks go at one rate",
        "E10",
        [Change(Leases, "due", "leased.lease * (1 + DRIFT)", "leased.lease")],
        services.test_a_leader_behind_a_lost_node_is_followed_when_its_lease_is_over_and_not_before,
    ),
    Bug(
        "a grant says when a leader's lease began",
        "E10",
        [Change(Service, "_on_election", "self._begin_lease(outcome.leader)", "pass")],
        partial(services.test_a_leader_whose_server_stands_still_is_followed_when_its_lease_is_over, 2),
    ),
    Bug(
        "only the first leader of the service ends leases",
        "E10",
        [
            Change(
                Service,
                "advance",
                "self._submissions.submit_all(self.leases.due(now, rank))",
                "self._submissions.submit_all(self.leases.due(now, rank) if not rank else ())",
            )
        ],
        partial(services.test_a_leader_whose_server_stands_still_is_followed_when_its_lease_is_over, 0),
    ),
    Bug(
        "only the first leader of the service hurries elections",
        "E10",
        [Change(ElectionRounds, "due", "if rank is not None and", "if rank == 0 and")],
        services.test_a_round_is_closed_although_the_first_leader_of_the_service_stands_still,
    ),
    Bug(
        "only the first leader of the service speaks for servers that have ended",
        "E10",
        [Change(Housekeeping, "_is_turn", "rank is not None and", "rank == 0 and")],
        services.test_what_a_server_that_has_ended_leaves_is_free_although_the_first_leader_stands_still,
    ),
    Bug(
        "only the first leader of the service has epochs begun",
        "E10",
        [Change(Housekeeping, "_is_turn", "rank is not None and", "rank == 0 and")],
        services.test_an_epoch_begins_although_the_first_leader_stands_still,
    ),
    Bug(
        "take a machine that runs anew for one that may be there",
        "E10",
        [Change(Replica, "_become_primary", "decision.boots", "{}")],
        partial(services.test_where_a_machine_runs_anew_its_locks_and_leaderships_are_free_at_once, True),
    ),
    Bug(
        "take another machine of the same node for a run of the former one",
        "E10",
        [
            Change(
                LockState,
                "_ended_with_machines",
                "(server.node_id, boot.machine): boot.run",
                "server.node_id: boot.run",
            ),
            Change(
                LockState,
                "_ended_with_machines",
                "(server.node_id, boot.machine), boot.run",
                "server.node_id, boot.run",
            ),
        ],
        partial(
            services.test_what_does_not_prove_that_a_machine_runs_anew_frees_nothing,
            services.FORMER,
            services.FORMER._replace(machine="another machine", run="2"),
        ),
    ),
    Bug(
        "free what clients of other nodes hold, too",
        "E10",
        [
            Change(
                LockState, "_ended_with_machines", "(server.node_id, boot.machine): boot.run", "boot.machine: boot.run"
            ),
            Change(
                LockState, "_ended_with_machines", "(server.node_id, boot.machine), boot.run", "boot.machine, boot.run"
            ),
        ],
        by(leaders.test_a_machine_that_runs_anew_ends_nothing_at_another_node, True),
    ),
    Bug(
        "hurry who waits for the leadership before",
        "E10",
        [Change(ElectionRounds, "due", " and not election.waits:", ":")],
        services.test_who_is_next_waits_for_the_end_of_a_long_lease,
    ),
    Bug(
        "stop to hurry when a leader publishes",
        "E10",
        [
            Change(
                ElectionRounds,
                "on_outcome",
                "case Chosen(",
                "case Leadership(election):\n            self._late.pop(election, None)\n        case Chosen(",
            )
        ],
        services.test_a_round_goes_on_whatever_the_leader_publishes,
    ),
]

CHANGES = [
    Bug(
        "say nothing again after a change",
        "E2",
        [Change(Submissions, "flush", "self._what_may_be_lost()} | self._waiting", "()} | self._waiting")],
        leases.test_what_was_asked_for_during_a_change_is_done_after_it,
    ),
    Bug(
        "grant longer leases than disks know of",
        "E5",
        [
            Change(Submissions, "submit_request", "if needed > state.longest_promise:", "if False:"),
            Change(LockState, "_acquire", "if self._is_recorded(command)", "if True"),
        ],
        leases.test_a_longer_lease_is_on_a_majority_of_disks_before_it_is_granted,
    ),
    Bug(
        "a holder counts from the grant",
        "E7",
        [Change(Service, "_on_granted", "known.sent", "self._now")],
        leases.test_a_holder_counts_from_before_it_asked_and_the_group_from_when_it_granted,
    ),
    Bug(
        "the group waits for no grace",
        "E7",
        [Change(Leases, "due", "+ leased.grace", "")],
        leases.test_a_lock_behind_a_lost_node_is_free_after_lease_and_grace_and_not_before,
    ),
    Bug(
        "waiters say nothing while they wait",
        "E7",
        [Change(Housekeeping, "_tell_places", "self._submissions.submit", SKIP)],
        leases.test_who_has_waited_begins_at_once_if_it_has_said_lately_that_it_waits,
    ),
    Bug(
        "begin without saying so however long one has waited",
        "E7",
        [Change(Service, "_on_granted", "_SPENT * ticket.lease", "ticket.lease")],
        leases.test_who_has_waited_begins_at_once_if_it_has_said_lately_that_it_waits,
    ),
    Bug(
        "begin with a lease that is over",
        "E7",
        [Change(Replies, "_reply_held", "if deadline <= now:", "if False:")],
        leases.test_a_waiter_that_has_not_said_so_renews_before_it_begins,
    ),
    Bug(
        "renew without end a lock of which nobody can be told",
        "E7",
        [Change(Replies, "_renew_first", "known.late += is_late", "pass")],
        partial(
            services.test_a_lock_whose_lease_is_always_over_before_its_grant_is_final_is_released,
            False,
        ),
    ),
    Bug(
        "a holder in the minority is told nothing",
        "E1",
        [instead(Replies, "renounce", nothing)],
        leases.test_a_holder_in_the_minority_is_informed_at_once,
    ),
    Bug(
        "free what was granted by an earlier life of the server",
        "E7a",
        [Change(Housekeeping, "_has_nothing", "state.table.has_tickets(local.client) or", "")],
        services.test_what_an_earlier_life_of_its_server_granted_a_client_outlives_its_connection,
    ),
    Bug(
        "keep a request twice that is said again",
        "E",
        [Change(Service, "_request", "if known is None or known.is_submitted:", "if True:")],
        partial(services.test_what_was_withdrawn_before_the_group_heard_of_it_never_comes, 1),
    ),
    Bug(
        "take a candidate whose leadership is over for one that stands no more",
        "E8",
        [Change(Service, "_note_lost", "and command.request not in local.candidates", "")],
        services.test_a_candidate_that_renews_a_leadership_that_is_over_stands_on,
    ),
    Bug(
        "forget a candidate before it is looked whether the group may know it",
        "E7a",
        [
            Change(
                Service,
                "_withdraw",
                "self._submissions.submit_followup(local, command)",
                "self._follow_up(local, command)",
            )
        ],
        minority.test_a_candidate_that_the_group_may_have_heard_of_is_withdrawn_there,
    ),
    Bug(
        "answer nothing to what is said of nothing",
        "E7a",
        [Change(Service, "_follow_up", "type(command) is Withdraw", "False")],
        minority.test_what_is_said_of_nothing_is_not_kept_and_answered,
    ),
    Bug(
        "answer no release of a lock that was lost meanwhile",
        "E7a",
        [Change(Service, "on_applied", "if not outcomes and is_own", "if False")],
        partial(services.test_what_is_said_of_a_lock_that_was_lost_meanwhile_is_answered, Server.release),
    ),
    Bug(
        "give up locks together with requests",
        "E7a",
        [Change(Housekeeping, "_look_after_the_lost", " if request not in kept", "")],
        services.test_a_client_that_asked_whether_it_still_holds_and_was_lost_unheard_holds,
    ),
]

ACTORS = [
    Bug(
        "judge as if what is asked for again had never been granted",
        "E7a",
        [Change(Actor, "_look_at_lock", "asked.memory != self._memory", "False")],
        actors.test_a_lock_that_was_granted_unheard_and_asked_for_again_makes_a_lock_busy_for_others,
    ),
]

MINORITY = [
    Bug(
        "keep every word of a client",
        "E14",
        [Change(Submissions, "submit_followup", "if not self._replica.is_primary:", "if False:")],
        minority.test_what_is_said_again_and_again_is_kept_once,
    ),
    Bug(
        "keep what is said of nothing",
        "E14",
        [Change(Service, "_follow_up", "or self._submissions.may_matter(local, command.request)", "or True")],
        minority.test_what_is_said_of_nothing_is_not_kept_and_answered,
    ),
    Bug(
        "keep any number of words where nobody knows what matters",
        "E14",
        [Change(Submissions, "submit_followup", "len(kept) >= MOST_FOLLOWUPS", "False")],
        minority.test_a_server_without_a_state_keeps_a_limited_number_of_words_of_a_client,
    ),
    Bug(
        "keep words where there is no room",
        "E14",
        [Change(Submissions, "submit_followup", "if not self.has_room(local, command):", "if False:")],
        partial(watched_alone, minority.test_there_is_room_for_so_much_of_all),
    ),
    Bug(
        "leave all the room to one user",
        "E14",
        [Change(Submissions, "has_room", "self._shares.may_take(local.user,", "self._shares.may_take(0,")],
        partial(watched_alone, minority.test_no_user_takes_all_the_room),
    ),
    Bug(
        "leave what is for all to one user",
        "E14",
        [Change(shares, "what_lacks", "if not leaves_room(pool.most, pool.taken, own):", "if False:")],
        several_programs_of_one_user,
    ),
    Bug(
        "count one program of a user alone",
        "E14",
        [Change(shares, "what_lacks", "if other.user == local.user", "if other is local")],
        several_programs_of_one_user,
    ),
    Bug(
        "count what is long as what is short",
        "E14",
        [Change(submissions, "_weight", "1 + len(command.blob) // LONG", "1")],
        minority.test_what_is_long_takes_more_room,
    ),
    Bug(
        "have any number of requests open",
        "E14",
        [Change(Service, "_request", "or len(local.open) >= MOST_UNSETTLED", "")],
        minority.test_a_client_has_a_limit_of_open_requests_whatever_it_calls_settled,
    ),
    Bug(
        "keep what the dead have asked for",
        "E14",
        [instead(Submissions, "forget", nothing)],
        partial(minority.test_of_those_that_come_and_go_unheard_nothing_is_left, True),
    ),
    Bug(
        "answer all questions in one turn",
        "E14",
        [Change(queries.Queries, "advance", "return", "pass")],
        questions.test_clients_are_answered_in_turn,
    ),
    Bug(
        "answer who does not read",
        "E14",
        [Change(queries.Queries, "advance", "if not local.is_behind():", "if True:")],
        questions.test_a_client_that_does_not_read_is_sent_nothing_more,
    ),
    Bug(
        "take any number of questions",
        "E14",
        [Change(queries.Queries, "add", "len(waiting) >= MOST_QUESTIONS", "False")],
        questions.test_a_client_has_a_limit_of_open_questions,
    ),
]

FUZZ = [
    Bug(
        f"let a client say {kind.__name__} for anybody",
        "E12",
        [
            Change(
                Connection,
                "_check",
                "request.owner.client != local.client",
                f"request.owner.client != local.client and type(command).__name__ != {kind.__name__!r}",
            )
        ],
        partial(clients_hunt, kind),
    )
    for kind in (Withdraw, Release, Renew, EndWait, Resign)
] + [
    Bug(
        "take a server's word from whoever has its number",
        "E12",
        [
            Change(
                Replica,
                "_on_commands",
                "self.servers.get(sender)",
                "next((server for server in self.servers.values() if server.start == said.start), None)",
            )
        ],
        members_hunt,
    ),
    Bug(
        "lose count of what is taken out of a queue",
        "E14",
        [Change(LockTable, "_forget", "self._counts[client] -= 1", "pass")],
        partial(clients_hunt, Acquire),
    ),
]

RIGHTS = [
    Bug(
        f"take {kind.__name__} from anybody",
        "E12",
        [
            Change(
                LockState, "apply", "if kind in _OF_CLIENT:", f"if kind in _OF_CLIENT and kind is not {kind.__name__}:"
            )
        ],
        partial(rights.test_what_comes_in_a_clients_name_from_another_node_is_void, kind),
    )
    for kind in get_args(OfClient)
] + [
    Bug(
        "take a token for a right",
        "E12",
        [
            Change(
                LockTable,
                "held",
                "self._tickets.get(request)",
                "next((ticket for ticket in self._tickets.values() if ticket.token == token), None)",
            )
        ],
        partial(rights.test_a_token_that_is_known_or_guessed_is_no_right, Renew),
    ),
    Bug(
        "throw a batch away for one command in it",
        "E12",
        [instead(Codec, "_rest", nothing)],
        partial(commands.test_what_is_beyond_a_limit_is_no_command_and_harms_no_other, Renew),
    ),
]


@contextmanager
def impatient():
    """Take any failure of a program for a kill, and one that hangs after two seconds."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for module in (loops, shells):
            monkeypatch.setattr(module, "PATIENCE", 2.0)
        try:
            yield
        except (Exception, pytest.fail.Exception) as failure:
            raise AssertionError("the program has failed") from failure


@impatient()
def on_each_shell(test):
    """Run a program of the clients' suite."""
    for shell in (shells.Trio, shells.Asyncio, shells.Threads):
        with tempfile.TemporaryDirectory() as folder:
            test(shell, Path(folder))


@impatient()
def in_tasks(test, **options):
    test("trio", cluster=Cluster(), **options)


def cancelled_anywhere(*, has_block):
    test = tasks.test_acquire_and_release_are_safe_wherever_they_are_cancelled
    return partial(in_tasks, test, is_contended=True, has_block=has_block)


STEPS = [
    Bug(
        "enter a block without its lock",
        "client",
        [Change(BaseHeld, "_acquire", "if not ticket.is_held:", "if ticket.failure:")],
        partial(on_each_shell, locks.test_a_timeout_means_what_it_says_and_leaves_nothing_behind),
    ),
    Bug(
        "leave the ticket of a cancelled task in the queue",
        "client",
        [Change(BaseHeld, "_acquire", "        yield from self._withdraw()\n        raise\n", "        raise\n")],
        cancelled_anywhere(has_block=False),
    ),
    Bug(
        "hide a cancellation from the steps",
        "client",
        [Change(Progress, "interrupt", "self._error = error", "pass")],
        steps.test_an_interrupt_behind_a_wait_goes_through_the_steps_too,
    ),
    Bug(
        "end a block as if its lost lock had been held",
        "client",
        [Change(BaseHeld, "_release", "and self._is_lost", "and False")],
        partial(on_each_shell, locks.test_a_body_that_comes_to_its_end_loses_it_too),
    ),
    Bug(
        "spend a notification on a waiter that is cancelled",
        "client",
        [Change(BaseCondition, "_leave", "if ticket.notified:", "if False:")],
        partial(in_tasks, tasks.test_a_notified_waiter_that_is_cancelled_passes_it_on),
    ),
    Bug(
        "return from a wait without the lock",
        "client",
        [Change(BaseCondition, "_wait", "yield Until(held._signal, held._is_decided)", "pass")],
        partial(on_each_shell, waits.test_waiters_are_woken_in_their_order),
    ),
]

BUGS = FUZZ + ACTORS + RIGHTS + CHANGES + TICKETS + REQUESTS + CONDITIONS + LEADERS + LEASES + MINORITY + STEPS
