"""The vocabulary of corosync.conf: which sections and keys are known, and what has an effect here."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from totem.config import HASHES, IP_VERSIONS, LINK_MODES, MOST_LINKS, TRANSPORTS
from totem.corosync_conf.syntax import FILE_SECTIONS
from totem.corosync_conf.values import (
    Readers,
    any_text,
    cipher,
    compression,
    digit_switch,
    integer,
    knet_transport,
    log_switch,
    nice_value,
    number,
    one_of,
    seconds,
    small_number,
    switch,
    whole_path,
)

KNET = "knet"
TOTEM_NUMBERS: Readers = {
    **dict.fromkeys(("token_retransmit", "hold", "join", "send_join", "consensus", "merge", "downcheck"), seconds),
    **dict.fromkeys(("token_retransmits_before_loss_const", "fail_recv_const", "seqno_unchanged_const"), number),
    **dict.fromkeys(("miss_count_const", "window_size", "max_messages", "netmtu"), number),
}
TOTEM_OURS: Readers = {
    "accelerated_window": number,
}
"""Settings of this package alone, in which 0 is a value."""
TOTEM_TEXTS: Readers = {
    "cluster_name": any_text,
    "transport": one_of(*TRANSPORTS),
    "ip_version": one_of(*IP_VERSIONS),
    "compact_headers": switch,
}
KNET_TOTEM: Readers = {
    "link_mode": one_of(*LINK_MODES),
    "crypto_model": one_of("nss", "openssl", "gcrypt"),
    "crypto_cipher": cipher,
    "crypto_hash": one_of("none", *HASHES),
    "keyfile": whole_path,
    "key": any_text,
    "knet_mtu": number,
    "knet_pmtud_interval": number,
    "knet_compression_model": compression,
    "knet_compression_threshold": number,
    "knet_compression_level": integer,
}
"""What transport knet has in the totem section. The three crypto models make the same bytes."""
KNET_FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "link_mode": "link_mode",
        "crypto_cipher": "cipher",
        "crypto_hash": "hash",
        "knet_mtu": "mtu",
        "knet_pmtud_interval": "mtu_interval",
        "knet_compression_model": "compression",
        "knet_compression_threshold": "compression_threshold",
        "knet_compression_level": "compression_level",
    }
)
"""The fields of `Knet` for these words."""
KNET_INTERFACE: Readers = {
    "knet_link_priority": small_number,
    "knet_ping_interval": seconds,
    "knet_ping_timeout": seconds,
    "knet_pong_count": number,
    "knet_ping_precision": number,
    "knet_transport": knet_transport,
}
"""What transport knet has in an interface section."""
LINK_FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "mcastport": "port",
        "knet_link_priority": "priority",
        "knet_ping_interval": "ping_interval",
        "knet_ping_timeout": "ping_timeout",
        "knet_pong_count": "pong_count",
        "knet_ping_precision": "precision",
    }
)
"""The fields of `LinkSettings` for the words of an interface section."""
INTERFACE: Readers = {
    "mcastaddr": any_text,
    "ttl": small_number,
}
QUORUM: Readers = {
    "provider": one_of("corosync_votequorum"),
    "expected_votes": number,
    **dict.fromkeys(("two_node", "wait_for_all", "auto_tie_breaker", "last_man_standing"), digit_switch),
    **dict.fromkeys(("allow_downscale", "expected_votes_tracking"), digit_switch),
    "auto_tie_breaker_node": any_text,
    "last_man_standing_window": seconds,
}
_FACILITIES = (
    *("daemon", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"),
    *("auth", "authpriv", "cron", "ftp", "kern", "lpr", "mail", "news", "syslog", "user", "uucp"),
)
LOGGING: Readers = {
    **dict.fromkeys(("to_stderr", "to_syslog", "to_logfile"), log_switch),
    "logfile": any_text,
    "syslog_facility": one_of(*_FACILITIES),
    "timestamp": one_of("off", "on", "hires"),
    "format": one_of("text", "json"),
    "debug": one_of("off", "on", "trace"),
}
SYSTEM: Readers = {
    "state_dir": any_text,
}
SCHEDULING: Readers = {
    "sched_rr": switch,
    "priority": nice_value,
}
DAEMON: Readers = {
    "socket": any_text,
    "libqb": switch,
    "client_queue": number,
}


class Words(NamedTuple):
    """What is known in a section."""

    taken: frozenset[str]
    """Keys that have an effect here."""
    idle: frozenset[str] = frozenset()
    """Corosync's keys that do not change what a ring does: ignored without a warning."""
    undone: Mapping[str, str] = MappingProxyType({})
    """Corosync's keys and sections that have an effect there and none here, and why."""
    sections: frozenset[str] = frozenset()

    @property
    def keys(self) -> frozenset[str]:
        """All known keys."""
        return self.taken | self.idle | self.undone.keys()


WORDS = {
    "": Words(
        frozenset(),
        sections=FILE_SECTIONS,
    ),
    "totem": Words(
        frozenset((*TOTEM_NUMBERS, *TOTEM_OURS, *TOTEM_TEXTS, "version", "token", "token_coefficient"))
        | {"clear_node_high_bit", "block_unlisted_ips", "secauth", *KNET_TOTEM},
        frozenset(("config_version", "cluster_uuid", "threads", "token_warning", "ip_dscp", "max_network_delay")),
        {
            "nodeid": "a node's id is set in the nodelist",
            "heartbeat_failures_allowed": "only the token detects failures",
            "cancel_token_hold_on_retransmit": "it is no",
        },
        frozenset(("interface",)),
    ),
    "totem.interface": Words(
        frozenset((*INTERFACE, *KNET_INTERFACE, "linknumber", "mcastport", "broadcast")),
        frozenset(("ringnumber",)),
        {"bindnetaddr": "a node binds to its ring0_addr"},
        frozenset(("member",)),
    ),
    "nodelist": Words(frozenset(), sections=frozenset(("node",))),
    "nodelist.node": Words(
        frozenset(("ring0_port", "nodeid", "name", "quorum_votes"))
        | {f"ring{number}_addr" for number in range(MOST_LINKS)}
    ),
    "quorum": Words(
        frozenset(QUORUM), frozenset(("leaving_timeout", "votes")), {"device": "a quorum device gives no votes here"}
    ),
    "logging": Words(
        frozenset((*LOGGING, "to_file")),
        frozenset(("fileline", "function_name", "blackbox")),
        dict.fromkeys(("logfile_priority", "syslog_priority", "syslog_level"), "everything from info up is logged"),
        frozenset(("logger_subsys", "logging_daemon")),
    ),
    "system": Words(
        frozenset(SYSTEM) | frozenset(SCHEDULING),
        frozenset(("qb_ipc_type", "move_to_root_cgroup", "allow_knet_handle_fallback")),
    ),
    "cpgd": Words(frozenset(DAEMON), sections=frozenset(("reserved",))),
    "cpgd.reserved": Words(frozenset(("group", "uid", "gid"))),
}
"""The sections that are read, by their names. Others may have any words."""


RING_ADDR = re.compile(r"ring(0|[1-9][0-9]{0,9})_addr")


def near(word: str, known: Iterable[str]) -> str:
    """Return a hint at the known word that is nearly the same; empty if there is none."""
    return "".join(f" (did you mean {found}?)" for found in difflib.get_close_matches(word.lower(), known, 1, 0.75))
