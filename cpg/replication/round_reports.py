"""What the members of the group say in one round, until nobody is waited for any more.

Each server collects the same messages in the same order. What they come to is in `cpg.replication.view_decision`.
"""

from __future__ import annotations

from collections.abc import Collection, Set
from typing import Any

from cpg.events import Member
from cpg.replication.application import Application
from cpg.replication.view_decision import ViewDecision, servers_known
from cpg.replication.wire import Report, RoundId


class RoundReports:
    """One round: who has reported what, and who is left out."""

    def __init__(
        self, round_id: RoundId, members: tuple[Member, ...], ring_seq: int, application: Application[Any]
    ) -> None:
        """`members`: all who are in the group during the round, and in the view that it makes."""
        self.id = round_id
        self.members = members
        self.ring_seq = ring_seq
        self.application = application
        self.reports: dict[Member, Report[Any]] = {}
        self.excluded: set[Member] = set()
        self.unreadable: dict[Member, str] = {}
        """The members that have said what cannot be decoded, and why."""
        self.without_state: dict[Member, str] = {}
        """The members whose state cannot be had, and why."""
        self._strangers: set[Member] = set()
        """The members that have said what no server says."""
        self._callers: dict[Member, set[Member]] = {}
        """Who calls whom silent."""

    def add(self, member: Member, report: Report[Any]) -> None:
        """Add a server's report."""
        self.reports[member] = report
        self.unreadable.pop(member, None)
        self._callers.pop(member, None)

    def refuse(self, member: Member, why: str) -> None:
        """Do not wait for a server that has said what cannot be decoded: it does not count, unless it reports."""
        if member not in self.reports:
            self.unreadable[member] = why

    def pass_over(self, member: Member) -> None:
        """Do not wait for a member that has said what no server says, unless it reports."""
        self._strangers.add(member)

    # ---- who is waited for

    @property
    def silent(self) -> list[Member]:
        """Return the members that are waited for."""
        heard = self.reports.keys() | self.excluded | self.unreadable.keys() | self._strangers
        return [member for member in self.members if member not in heard]

    @property
    def is_complete(self) -> bool:
        """Return whether nobody is waited for any more."""
        return bool(self.reports) and not self.silent

    @property
    def known(self) -> set[Member]:
        """Return the members that are servers, as far as those that have reported know."""
        return servers_known(self.reports)

    # ---- who is left out

    def exclude(self, caller: Member, members: Set[Member]) -> Set[Member]:
        """Go on without those of them that have not reported and that enough servers call silent; return these.

        Enough servers decide by themselves, by what was reported so far. Otherwise one that calls a round, and all
        others silent at once, would keep them from deciding.
        """
        decision = self.decision(caller)
        silent = {member for member in members & {*self.silent} if self._is_agreed(caller, member, decision)}
        self.excluded |= silent
        return silent

    def exclude_owner(self, caller: Member, owner: Member, decision: ViewDecision, why: str) -> bool:
        """Go on without a server that does not hand over its state, once enough servers say so; return whether."""
        is_agreed = self._is_agreed(caller, owner, decision)
        if is_agreed:
            self.without_state[owner] = why
        return is_agreed

    def _is_agreed(self, caller: Member, silent: Member, decision: ViewDecision) -> bool:
        callers = self._callers.setdefault(silent, set())
        callers.add(caller)
        return decision.may_exclude(callers)

    # ---- what it comes to

    def decision(self, member: Member, without: Collection[Member] = ()) -> ViewDecision:
        """Return what the reports so far come to for one member; `without`: those that are left out besides."""
        return ViewDecision(
            member,
            self.members,
            self.ring_seq,
            self.application,
            reports=dict(self.reports),
            excluded={*self.excluded, *without},
            unreadable=dict(self.unreadable),
            without_state=dict(self.without_state),
        )
