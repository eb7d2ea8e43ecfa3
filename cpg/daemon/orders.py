"""What root and the daemon's own user may order: reload the configuration, or say what a reload would do."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import trio

from cpg.client.ipc import COMPARE, RELOAD, RELOAD_HERE
from cpg.embedded import EmbeddedRing
from cpg.local.access import Access
from cpg.local.lifecycle import NOT_RELOADED
from cpg.local.log import reopen_log_files, start_logging
from totem.config import Config, Logging
from totem.corosync_conf import load, load_section
from totem.errors import ConfigError
from totem.reconfiguration import changes
from totem.store import words

_log = logging.getLogger(__name__)


def is_order(text: str) -> bool:
    """Return whether a client's question is an order."""
    return text in (RELOAD, RELOAD_HERE) or text.startswith(f"{COMPARE} /")


class Orders:
    """The orders to one daemon, from the time before it has a ring on."""

    def __init__(self, path: str, access: Access) -> None:
        """`path`: of the configuration."""
        self._path = path
        self._access = access
        self._ring: EmbeddedRing | None = None
        self._logging: Logging | None = None
        """What the log goes by."""

    def serve(self, ring: EmbeddedRing) -> None:
        """Follow the configuration of a ring from now on."""
        self._ring = ring
        self._logging = ring.config.logging
        self._access.reserved = ring.config.daemon.reserved
        ring._observe_config(self._follow)
        ring._reopen_logs = reopen_log_files

    def _follow(self, config: Config) -> None:
        self._access.rules, self._access.reserved = config.user_rules, config.daemon.reserved
        self._follow_logging(config.logging)

    def _follow_logging(self, settings: Logging) -> None:
        if settings == self._logging:
            return
        try:
            start_logging("cpgd", settings)
        except OSError as error:
            _log.error("the log stays as it is: %s", words(error))
        else:
            self._logging = settings

    async def reload(self) -> str:
        """Reload the configuration here, as SIGHUP asks; return what was reloaded. Raises `ConfigError`, `OSError`."""
        if self._ring is not None:
            changed = await self._ring.reload()
            return f"{len(changed)} changes" if changed else "nothing has changed"
        section = await trio.to_thread.run_sync(partial(load_section, self._path, "cpgd", {"socket": str}))
        self._access.rules = section.user_rules
        self._follow_logging(section.logging)
        return "who may connect, and what is logged"

    async def carry_out(self, order: str) -> dict[str, Any]:
        """Do what was ordered; return what has changed, or would, and why it was refused."""
        what, _, path = order.partition(" /")
        ring = self._ring
        assert ring is not None, "clients are served when there is a ring"
        try:
            if what == COMPARE:
                loaded = await trio.to_thread.run_sync(partial(load, f"/{path}"))
                changed = changes(ring.config, loaded.config, ring.node_id)
            else:
                changed = await (ring._reload_everywhere() if what == RELOAD else ring.reload())
        except (ConfigError, OSError) as error:
            refusal = words(error) if isinstance(error, OSError) else str(error)
            if what != COMPARE:
                _log.error(NOT_RELOADED, refusal)
            return {"changed": [], "refused": refusal}
        return {"changed": list(changed), "refused": None}
