"""Who may connect to the daemon: root, the daemon's own user, and whom the configuration lets in (uidgid)."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable

from totem.config import UserRule

_log = logging.getLogger(__name__)


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


def refusal(pid: int, uid: int) -> str:
    """Log that a process may not connect; return what it is told."""
    _log.warning("process %d of the user with uid %d may not connect (uidgid)", pid, uid)
    return (
        f"the daemon refuses the user with uid {uid}: run as root or as the daemon's user (uid {os.geteuid()}), or let "
        f"the user in with `uidgid {{ uid: {uid} }}` in the daemon's configuration, each word on its line, and SIGHUP"
    )
