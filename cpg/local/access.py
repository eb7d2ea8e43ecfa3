"""Who may connect to the daemon, and join which groups: root, the daemon's own user, and whom the configuration names.

Sections `uidgid` let users connect. Most groups are open to all of them; a section `reserved` keeps a group for those
whom it names. The lock servers' group is always reserved: its members decide who holds which lock.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from cpg.local.log_pacing import PacedLog
from cpg.local.shares import Shares
from cpg.node.wire import MOST_PROCESSES
from totem.config import LOCKS_GROUP, Reservation, UserRule
from totem.log_fields import event_fields
from totem.text import printable


class Access:
    """The rules in force; a reload replaces them."""

    def __init__(self, rules: Iterable[UserRule] = (), reserved: Iterable[Reservation] = ()) -> None:
        self.rules = tuple(rules)
        self.reserved = tuple(reserved)
        self.trusted = (0, os.geteuid())
        """Users who may do everything: root, and the daemon's own user."""
        self.memberships = self.shares(MOST_PROCESSES)
        """Places in groups, shared by all clients of the node, on whichever socket they connect."""
        self.paced_log = PacedLog()
        """Log lines that clients can cause, accepted or refused."""

    def allows(self, uid: int, gid: int) -> bool:
        """Return whether a process of this user and group may connect.

        As in Corosync one rule is enough, and a rule with both names accepts a process with either (exec/ipc_glue.c).
        """
        return self._allows(self.rules, uid, gid)

    def may_join(self, name: bytes, uid: int, gid: int) -> bool:
        """Return whether a process of this user and group may join this group, once it is connected."""
        rules = [rule for rule in self.reserved if rule.group.encode() == name]
        if not rules and name != LOCKS_GROUP.encode():
            return True
        return self._allows(rules, uid, gid)

    def _allows(self, rules: Iterable[UserRule | Reservation], uid: int, gid: int) -> bool:
        return uid in self.trusted or any(rule.uid == uid or rule.gid == gid for rule in rules)

    def shares(self, total: int) -> Shares:
        """Make the users' shares of a total."""
        return Shares(total, self.trusted)

    @property
    def reserved_groups(self) -> tuple[str, ...]:
        """The groups that not everybody may join, in ascending order."""
        return tuple(sorted({LOCKS_GROUP, *(rule.group for rule in self.reserved)}))

    def refuse(self, pid: int, uid: int) -> str:
        """Log that a process may not connect; return the text for its user."""
        text = "process %d of the user with uid %d may not connect (uidgid)"
        self.paced_log.warning(("connect", uid), text, pid, uid, fields=event_fields("refused", pid=pid, uid=uid))
        return (
            f"the daemon refuses the user with uid {uid}: run as root or as the daemon's user (uid {os.geteuid()}), or "
            f"let the user in with `uidgid {{ uid: {uid} }}` in the daemon's configuration, each word on its line, and "
            "SIGHUP"
        )

    def log_goodbye(self, level: int, reason: str, why: str, *, pid: int, uid: int, program: str) -> None:
        """Log that the daemon ends a client's connection: each user can cause a line a minute for each reason.

        `program`: the client's own name; empty if it has not sent one.
        """
        fields = event_fields("client_ended", reason=reason, pid=pid, uid=uid, client_program=program or None, why=why)
        name = printable(program) or "a program without a name"
        text = "a client's connection is ended: %s (%s, process %d of the user with uid %d)"
        self.paced_log.log(level, ("goodbye", reason, uid), text, why, name, pid, uid, fields=fields)

    def refuse_group(self, name: bytes, pid: int, uid: int) -> str:
        """Log that a process may not join a group; return the text for its user."""
        group = printable(name)
        self.paced_log.warning(
            ("join", uid),
            "process %d of the user with uid %d may not join the reserved group '%s'",
            pid,
            uid,
            group,
            fields=event_fields("refused", pid=pid, uid=uid, group=name.decode("utf-8", "backslashreplace")),
        )
        return (
            f"the group '{group}' is reserved, and the user with uid {uid} may not join it: run as root or as the "
            f"daemon's user (uid {os.geteuid()}), or let the user in with `reserved {{ group: {group} uid: {uid} }}` "
            "in section cpgd of the daemon's configuration, each word on its line, and SIGHUP"
        )
