"""Planted bugs of the replica: the same machine with one mistake in it, and the test that kills it."""

from functools import partial

from cpg.replication.durable_records import DurableRecords
from cpg.replication.electorate import Electorate, Voters
from cpg.replication.finality import Finality
from cpg.replication.replica import Replica
from cpg.replication.round_limits import RoundLimits
from cpg.replication.round_reports import RoundReports
from cpg.replication.view_decision import ViewDecision
from cpg.replication.wire import Codec, DurableRecord, Lineage, digest
from tests.cpg.replication import test_electorate as electorates
from tests.cpg.replication import test_members as members
from tests.cpg.replication import test_replica as replicas
from tests.sim.bugs import Bug, Change, Wrong, instead

SKIP = "lambda *_: "
"""In the place of a method's name: it is not called."""


def nothing(*_):
    """In the place of a method that does something."""


def all_count_alike():
    for seed in range(60):
        members.test_all_members_count_alike_whoever_comes_and_goes(seed)


VIEWS = [
    Bug(
        "tell before it is safe",
        "E3",
        [Change(Replica, "_on_message", "message.level is Level.SAFE and", "")],
        replicas.test_nothing_is_reported_that_is_not_known_to_be_everywhere,
    ),
    Bug(
        "do nothing in a transitional configuration",
        "E3",
        [
            Change(
                Replica,
                "_on_message",
                "if type(said) is Commands:",
                "if message.level is Level.TRANSITIONAL:\n        return\n    elif type(said) is Commands:",
            )
        ],
        replicas.test_what_one_server_could_report_is_applied_by_all_that_get_it_late,
    ),
    Bug(
        "tell what this server alone has acknowledged",
        "E4",
        [Change(Finality, "on_ack", "self._is_quorum([", "bool([")],
        replicas.test_without_safe_a_majority_must_have_acknowledged,
    ),
    Bug(
        "count acknowledgements of another view",
        "E4",
        [Change(Replica, "_on_ack", "self._round_of(said.round) is None or self.phase", "self.phase")],
        replicas.test_acknowledgements_of_another_view_are_void,
    ),
    Bug(
        "count the mark when an acknowledgement is sent",
        "E4",
        [
            Change(
                Finality,
                "begin_ack",
                "self.is_ack_under_way = True",
                "self.is_ack_under_way = True\n    self._mark = number",
            )
        ],
        replicas.test_the_mark_is_what_was_acknowledged_and_not_what_was_applied,
    ),
    Bug(
        "count the mark when a command is applied",
        "E4",
        [Change(Finality, "on_applied", "if self._is_safe:", "if True:")],
        replicas.test_the_mark_is_what_was_acknowledged_and_not_what_was_applied,
    ),
    Bug(
        "each follows the rule of its own ring",
        "E4",
        [Change(Replica, "_become_primary", "is_safe=decision.is_safe", "is_safe=self.settings.safe")],
        replicas.test_one_server_without_safe_makes_the_rule_that_of_all,
    ),
    Bug(
        "the smallest lineage is the base",
        "E2",
        [Change(ViewDecision, "_base", "max(", "min(")],
        replicas.test_the_state_that_saw_more_is_the_base_and_others_get_it,
    ),
    Bug(
        "a long tail counts for more than a later view",
        "E2",
        [instead(ViewDecision, "lineage", lambda decision, epoch, ring_seq: Lineage(epoch, 0, 0, 0))],
        replicas.test_a_later_view_counts_for_more_than_many_commands_of_an_earlier_one,
    ),
    Bug(
        "wait for ever for who does not report",
        "E2",
        [Change(Replica, "_hurry", "if silent:", "if False:")],
        replicas.test_a_server_that_does_not_report_is_left_out_by_order,
    ),
    Bug(
        "go on although left out",
        "E2",
        [Change(ViewDecision, "verdict", "if self._member in self._excluded:", "if False:")],
        replicas.test_a_server_that_was_left_out_asks_to_be_counted_again,
    ),
    Bug(
        "those who have lost their memory count",
        "E1",
        [Change(ViewDecision, "verdict", "voters.is_quorum(self._with_state)", "self._with_state")],
        replicas.test_what_a_minority_remembers_is_no_base,
    ),
    Bug(
        "any half decides",
        "E1",
        [Change(Electorate, "is_quorum", "self.unsafe_half or", "True or")],
        replicas.test_an_exact_half_of_two_does_not_decide,
    ),
    Bug(
        "a state is born at once",
        "E5",
        [Change(Replica, "_wait_for", "self._due = now + birth.after", "self._due = now")],
        replicas.test_those_who_have_lost_their_memory_are_no_majority_for_a_state,
    ),
    Bug(
        "a first state without all",
        "E5",
        [Change(ViewDecision, "_birth", "elif not is_everyone and", "elif False and")],
        replicas.test_a_first_state_needs_all,
    ),
    Bug(
        "an epoch before it is on disks",
        "E6",
        [
            Change(
                Replica,
                "_on_propose",
                "self._records.store(said.record)",
                "self._send(Stored(said.record))",
            )
        ],
        replicas.test_an_epoch_is_on_a_majority_of_disks_before_its_first_token,
    ),
    Bug(
        "the same epoch again",
        "E6",
        [Change(ViewDecision, "record_of_birth", "epoch = 1 + max(", "epoch = max(")],
        replicas.test_all_that_start_again_begin_with_another_epoch,
    ),
    Bug(
        "what belongs to the dead stays",
        "E",
        [Change(Replica, "_become_primary", "state.keep", SKIP)],
        replicas.test_what_belongs_to_a_server_that_is_gone_is_given_up,
    ),
    Bug(
        "throw a batch away for one command in it",
        "E12",
        [instead(Codec, "_rest", nothing)],
        members.test_a_malformed_command_takes_no_other_with_it,
    ),
]

LAST_STATES = [
    Bug(
        "a state is the last although others were cut off",
        "E2c",
        [Change(Replica, "_on_confchg", "if reason not in _ENDED:", "if False:")],
        replicas.test_a_state_of_which_one_was_cut_off_may_not_be_the_last,
    ),
    Bug(
        "a state is the last although others were cut off between two views",
        "E2c",
        [Change(Replica, "_on_confchg", "if reason not in _ENDED:", "if reason not in _ENDED and self.is_primary:")],
        replicas.test_a_state_of_which_others_were_cut_off_between_two_views_may_not_be_the_last,
    ),
    Bug(
        "a state is the last whatever births there were since",
        "E2c",
        [Change(ViewDecision, "_has_the_last", "all(record.epoch <= best.epoch", "all(True")],
        replicas.test_a_state_is_not_the_last_where_a_disk_knows_of_another_birth,
    ),
    Bug(
        "a state is the last where disks do not tell of births",
        "E2c",
        [Change(ViewDecision, "_has_the_last", "not self.is_quorum(self.records, self.voters)", "False")],
        replicas.test_a_state_is_not_the_last_where_no_majority_has_its_disks,
    ),
]

RIGHTS = [
    Bug(
        "apply what anybody says",
        "E12",
        [
            Change(
                Replica,
                "_on_commands",
                "self.servers.get(sender)",
                "self.servers.get(sender) or ServerId(sender.node_id, said.start)",
            )
        ],
        partial(members.test_commands_of_who_has_not_reported_are_void, members.STRANGER),
    ),
    Bug(
        "believe in any life of a server",
        "E12",
        [Change(Replica, "_on_commands", "and server.start == said.start", "")],
        members.test_a_server_speaks_for_its_present_life_alone,
    ),
    Bug(
        "store what anybody proposes",
        "E12",
        [Change(Replica, "_on_propose", "sender not in self.servers or", "")],
        members.test_a_stranger_proposes_nothing,
    ),
    Bug(
        "store any epoch",
        "E12",
        [Change(Replica, "_is_sensible", "known.epoch + EPOCH_STEP", "LARGEST_EPOCH")],
        partial(members.test_a_record_that_nobody_comes_to_is_on_no_disk, members.SERVER, DurableRecord(1 << 20, 0.0)),
    ),
    Bug(
        "begin a round for whoever comes",
        "E2b",
        [Change(Replica, "_on_confchg", "elif has_lost:", "else:")],
        members.test_who_comes_and_says_nothing_stops_nothing,
    ),
    Bug(
        "wait for whoever is there as for a server",
        "E2b",
        [Change(Replica, "_on_round", "HASTE if has_strangers else PATIENCE", "PATIENCE")],
        members.test_a_round_waits_a_moment_for_who_has_never_reported_and_it_takes_no_votes,
    ),
    Bug(
        "wait no longer for a server than for whoever is there",
        "E2b",
        [Change(Replica, "_hurry", "if is_late or (known and member not in known)", "")],
        members.test_who_is_known_has_the_whole_patience,
    ),
    Bug(
        "let whoever is on a node take its vote",
        "E2b",
        [Change(ViewDecision, "_nodes", "and member in self._servers_here", "")],
        members.test_a_round_waits_a_moment_for_who_has_never_reported_and_it_takes_no_votes,
    ),
    Bug(
        "believe those who do not vote that there is no quorum",
        "E1",
        [Change(ViewDecision, "verdict", "self._voting.items()", "self._reports.items()")],
        partial(members.test_what_who_does_not_vote_reports_changes_nothing, {"quorate": False}),
    ),
    Bug(
        "exclude whom anybody names",
        "E12",
        [instead(ViewDecision, "may_exclude", lambda *_: True)],
        members.test_who_has_not_reported_excludes_nobody,
    ),
    Bug(
        "take a state from anybody",
        "E12",
        [Change(Replica, "_on_snapshot", "or sender != self._owner", "")],
        members.test_parts_of_a_state_come_from_who_has_it,
    ),
]

MEMBERS = [
    Bug(
        "give the own state up before the other one is read",
        "E2d",
        [Change(Replica, "_on_snapshot", "try:", "self.state = None\n    try:")],
        partial(members.test_nobody_gives_up_its_state_for_one_that_cannot_be_read, {"digest": 1}, members.BAD, 2, ""),
    ),
    Bug(
        "take a state that is not as it was reported",
        "E2d",
        [Change(Codec, "thaw", "digest(frozen) != checksum", "False")],
        partial(
            members.test_nobody_gives_up_its_state_for_one_that_cannot_be_read,
            {"digest": 1},
            members.OF_NOBODY,
            None,
            "",
        ),
    ),
    Bug(
        "take a state whose tokens never end",
        "E2d",
        [Change(ViewDecision, "why_not", "self._latest_epoch + BELIEVED", "LARGEST_EPOCH")],
        partial(
            members.test_nobody_gives_up_its_state_for_one_that_cannot_be_read,
            {"digest": digest(members.OF_LATE_EPOCH)},
            members.OF_LATE_EPOCH,
            None,
            "",
        ),
    ),
    Bug(
        "begin anew instead of a state that cannot be read",
        "E2d",
        [Change(ViewDecision, "verdict", "if without:", "if False:")],
        members.test_no_state_is_born_instead_of_one_that_cannot_be_read,
    ),
    Bug(
        "believe in any number",
        "E2d",
        [Change(ViewDecision, "_unbelieved", "number > known + step", "False")],
        partial(
            members.test_who_reports_what_cannot_be_does_not_count,
            members.NEIGHBOUR,
            {"lineage": Lineage(1, 2, (1 << 63) - 1, 0)},
        ),
    ),
    Bug(
        "believe in rings that are still to come",
        "E2d",
        [Change(ViewDecision, "_unbelieved", "report.lineage.ring_seq > self._ring_seq", "False")],
        partial(
            members.test_who_reports_what_cannot_be_does_not_count, members.NEIGHBOUR, {"lineage": Lineage(1, 3, 1, 0)}
        ),
    ),
    Bug(
        "exclude whom one alone calls silent",
        "E2a",
        [Change(ViewDecision, "may_exclude", "and self.is_quorum(members, self.voters)", "")],
        members.test_one_alone_excludes_nobody_where_the_others_decide,
    ),
    Bug(
        "do without a state that one alone does not get",
        "E2a",
        [Change(ViewDecision, "may_exclude", "and self.is_quorum(members, self.voters)", "")],
        members.test_one_alone_calls_no_owner_of_a_state_silent,
    ),
    Bug(
        "wait for a state for ever",
        "E2d",
        [Change(Replica, "_hurry_owner", "self._send(", "bool(")],
        members.test_who_does_not_hand_over_its_state_does_not_count,
    ),
    Bug(
        "wait for a state as long as some of it comes",
        "E2d",
        [Change(Replica, "_on_snapshot", "if now < self._loading_until:", "if True:")],
        members.test_a_state_that_comes_bit_by_bit_has_its_time,
    ),
    Bug(
        "wait in silence for who does not report",
        "E2a",
        [Change(Replica, "_hurry", "if is_late:", "if False:")],
        members.test_a_server_that_waits_names_the_missing_ones_and_continues_when_they_come,
    ),
    Bug(
        "begin any number of rounds that one calls",
        "E2e",
        [Wrong(RoundLimits, "count", lambda right: lambda *args: right(*args) or True)],
        partial(members.test_a_member_calls_no_rounds_without_end, members.STRANGER, True),
    ),
    Bug(
        "let who is silent in rounds call any number of others",
        "E2e",
        [Change(RoundLimits, "on_silent", "MOST - 1", "0")],
        partial(members.test_a_member_calls_no_rounds_without_end, members.STRANGER, False),
    ),
    Bug(
        "forgive nobody",
        "E2e",
        [instead(RoundLimits, "forgive", nothing)],
        members.test_who_calls_rounds_without_end_is_forgiven_by_order,
    ),
    Bug(
        "let a member forgive itself",
        "E2e",
        [Change(RoundLimits, "forgive", "member.node_id != sender.node_id or", "True or")],
        members.test_nobody_forgives_itself,
    ),
    Bug(
        "call no other round when the last one was void",
        "E2e",
        [Change(Replica, "_on_forgive", "if self._is_call_void and", "if False and")],
        members.test_a_server_whose_round_was_void_calls_another_one_in_time,
    ),
    Bug(
        "know more of who calls rounds than those who come",
        "E2e",
        [Change(RoundLimits, "count", "self._callers = set()", "pass")],
        all_count_alike,
    ),
    Bug(
        "know more of those who call rounds than who was in another ring",
        "E2e",
        [instead(RoundLimits, "on_ring", nothing)],
        members.test_rounds_count_anew_on_another_ring_and_when_a_server_comes,
    ),
    Bug(
        "the processes of one node lead alone",
        "E2d",
        [Change(ViewDecision, "_ranked", "(of_nodes[member.node_id], priority,", "(0, priority,")],
        members.test_the_processes_of_one_node_are_not_all_leaders,
    ),
    Bug(
        "take whoever speaks for a lock server",
        "E2b",
        [instead(RoundReports, "pass_over", lambda reports, member: reports.refuse(member, ""))],
        members.test_who_says_what_no_server_says_takes_no_vote_and_no_time,
    ),
    Bug(
        "name for ever who was no lock server",
        "E2b",
        [Change(Replica, "_on_confchg", "del self._uncounted[member]", "pass")],
        members.test_who_says_what_no_server_says_is_named_as_none_while_it_is_there,
    ),
]

VOTERS = [
    Bug(
        "a configuration that is another one gives birth all the same",
        "E9",
        [Change(ViewDecision, "verdict", "self._known is None and self._is_mixed()", "False")],
        electorates.test_servers_that_are_configured_differently_give_no_birth,
    ),
    Bug(
        "two births beside each other",
        "E9",
        [Change(ViewDecision, "_is_mixed", "len(configured) > 1 or", "")],
        electorates.test_two_sets_of_servers_that_do_not_overlap_give_no_birth_beside_each_other,
    ),
    Bug(
        "begin for the first time before all know of it",
        "E9",
        [Change(ViewDecision, "can_begin", "if is_first", "if False")],
        electorates.test_a_first_state_is_on_all_disks_before_it_is_used,
    ),
    Bug(
        "begin at once where all who vote are there without clients of an earlier life",
        "E5",
        [Change(ViewDecision, "_birth", "and not self._was_born", "and True")],
        electorates.test_no_state_is_born_while_a_client_of_who_does_not_vote_may_rely_on_a_promise,
    ),
    Bug(
        "take what was prepared for what was born, as to how many must have stored it",
        "E9",
        [Change(ViewDecision, "can_begin", "(self._known is None or self._is_prepared)", "self._known is None")],
        electorates.test_a_first_state_that_was_prepared_needs_all_disks_still,
    ),
    Bug(
        "take what was prepared for what was born, as to how many must be there",
        "E9",
        [Change(ViewDecision, "_birth", "self._is_prepared or not self.is_quorum", "not self.is_quorum")],
        electorates.test_a_first_state_that_was_prepared_needs_all_disks_still,
    ),
    Bug(
        "keep to what was prepared first",
        "E9",
        [
            Change(
                DurableRecord, "and_", "_is_later(other.voters, self.voters)", "not _covers(self.voters, other.voters)"
            )
        ],
        electorates.test_what_is_prepared_later_takes_the_place_of_what_a_disk_was_to_store,
    ),
    Bug(
        "count those apart whose disks know of different clusters that were prepared",
        "E9",
        [Change(ViewDecision, "_side", "cluster if is_any_born else None", "cluster")],
        electorates.test_disks_that_know_of_different_clusters_that_were_prepared_begin_one,
    ),
    Bug(
        "configuration wins over what disks say",
        "E9",
        [
            Change(
                Replica, "__init__", "DurableRecords(record)", "DurableRecords(record and record._replace(voters=None))"
            )
        ],
        electorates.test_a_disk_remembers_who_decides,
    ),
    Bug(
        "configuration wins over what the state says",
        "E9",
        [
            Change(Replica, "_report", "state.voters if state is not None else None", "None"),
            Change(
                Replica,
                "_report",
                "record=self._records.on_disk,",
                "record=self._records.on_disk and self._records.on_disk._replace(voters=None),",
            ),
        ],
        electorates.test_a_configuration_that_differs_later_is_named_and_changes_nothing,
    ),
    Bug(
        "take in servers of another cluster",
        "E9",
        [Change(ViewDecision, "_side", "else report.cluster", "else None")],
        electorates.test_a_server_of_another_cluster_is_refused_by_name,
    ),
    Bug(
        "join one of two clusters",
        "E9",
        [Change(ViewDecision, "_side", "len(clusters) == 1", "len(clusters)")],
        electorates.test_a_server_of_no_cluster_joins_none_of_two,
    ),
    Bug(
        "count leases in two ways",
        "E9",
        [Change(ViewDecision, "_side", "report.terms", "0.0")],
        electorates.test_servers_with_other_terms_do_not_count,
    ),
    Bug(
        "leave a round to who cannot be understood",
        "E9",
        [Change(Replica, "event", "among - self._foreign", "among")],
        electorates.test_who_speaks_another_version_is_not_left_to_call_a_round,
    ),
    Bug(
        "wait for who cannot be understood",
        "E9",
        [instead(RoundReports, "refuse", nothing)],
        electorates.test_who_speaks_another_version_is_named_and_not_waited_for,
    ),
    Bug(
        "only the former majority is needed",
        "E9",
        [Change(Voters, "is_quorum", "self.electorates)", "self.electorates[-1:])")],
        partial(electorates.test_until_then_both_majorities_decide, ([1, 2], [3, 4, 5])),
    ),
    Bug(
        "only the new majority is needed",
        "E9",
        [Change(Voters, "is_quorum", "self.electorates)", "self.electorates[:1])")],
        partial(electorates.test_until_then_both_majorities_decide, ([1, 2], [3, 4, 5])),
    ),
    Bug(
        "a change takes effect before it is on disks",
        "E9",
        [Change(Replica, "_heed_voters", "and self._records.are_known(voters, self._is_quorum)", "")],
        electorates.test_a_change_takes_effect_when_majorities_of_both_have_it_on_disk,
    ),
    Bug(
        "a change takes effect for those who are not there with the state",
        "E9",
        [Change(Voters, "after", "and command.electorate.is_quorum(here)", "")],
        electorates.test_a_change_is_void_where_those_who_are_to_decide_are_not_there,
    ),
    Bug(
        "change what is changing",
        "E9",
        [Change(Voters, "after", "self.former is None and", "")],
        electorates.test_one_change_at_a_time,
    ),
    Bug(
        "change from any version",
        "E9",
        [Change(Voters, "after", "command.version == self.version + 1", "True")],
        partial(electorates.test_a_change_is_void_that_is_not_the_next, 7),
    ),
    Bug(
        "forget on disk who was removed",
        "E9",
        [instead(DurableRecords, "remember", nothing)],
        electorates.test_a_removed_server_remembers_that_it_was_removed,
    ),
    Bug(
        "undo what may be in force",
        "E9",
        [Change(ViewDecision, "_cannot_have_changed", "return not", "return True or")],
        electorates.test_what_a_majority_of_the_former_ones_has_on_disk_is_not_undone,
    ),
    Bug(
        "undo nothing",
        "E9",
        [Change(ViewDecision, "_cannot_have_changed", "former is None or", "True or")],
        electorates.test_a_view_without_the_new_ones_undoes_what_no_majority_of_the_former_ones_has_on_disk,
    ),
    Bug(
        "hear nothing of disks before the view is primary",
        "E9",
        [
            Change(
                Replica, "_on_stored", "if self._round is None:", "if self.phase not in (Phase.BIRTH, Phase.PRIMARY):"
            )
        ],
        partial(electorates.test_a_view_that_has_both_majorities_finishes_the_change, ()),
    ),
    Bug(
        "take what was given up for later than what is in force",
        "E9",
        [Change(Voters, "confirmed", "view)", "self.view)")],
        electorates.test_a_change_that_was_given_up_while_a_server_was_away_binds_nobody,
    ),
    Bug(
        "know long leases by the new ones alone",
        "E9",
        [Change(Replica, "_take_records", "self._records.known(self._is_quorum)", "self._records.known(bool)")],
        electorates.test_a_longer_promise_is_known_by_majorities_of_both,
    ),
]

BUGS = VIEWS + LAST_STATES + RIGHTS + MEMBERS + VOTERS
