"""Who may connect to the daemon: root, the daemon's own user, and whom the configuration lets in (uidgid)."""

from __future__ import annotations

import os
from collections.abc import Iterable

from totem.config import UserRule


class Access:
    """The rules that are in force; a reload replaces them."""

    def __init__(self, rules: Iterable[UserRule]) -> None:
        self.rules = tuple(rules)

    def allows(self, uid: int, gid: int) -> bool:
        """Whether a process of this user and group may connect.

        As in Corosync one rule is enough, and a rule with both names lets in who has either (exec/ipc_glue.c).
        """
        if uid in (0, os.geteuid()):
            return True
        return any(rule.uid == uid or rule.gid == gid for rule in self.rules)
