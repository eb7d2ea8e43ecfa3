"""The settings of one ring, under the names of corosync.conf's totem section.

A `Config` is frozen and valid: code that holds one need not check it again. Times are seconds here and milliseconds in
files.

Some defaults are computed: from the token timeout, and the token timeout from the number of nodes. They equal
Corosync's to the millisecond, because a node with a shorter token timeout breaks the ring for all
(corosync/exec/totemconfig.c, `totem_volatile_config_read`). The value 0 asks for the computed default, as in
corosync.conf; the fields hold it once the object is made.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, NoReturn

from totem.errors import ConfigError

DEFAULT_PORT = 5405
MAX_NODES = 384
"""Processors in one ring (Corosync's PROCESSOR_COUNT_MAX)."""
MIN_NETMTU, MAX_NETMTU = 576, 65507
"""What every IPv4 host accepts; and the largest at which an encapsulated frame is still one UDP datagram."""
ETHERNET_MTU = 1500
MCAST_HEADER = 45
"""Bytes before a multicast's data; recovery puts as many again before an old multicast."""
IP_UDP_HEADERS = {4: 28, 6: 48}
WINDOW_SIZE, MAX_MESSAGES = 50, 17
"""Corosync's."""
MAX_WINDOW = 4096
REAL_REST_AFTER = 30
"""Visits without new messages after which Corosync's ring is idle (its seqno_unchanged_const)."""

TRANSPORTS = ("udpu", "udp", "knet")
IP_VERSIONS = ("ipv4", "ipv6", "ipv4-6", "ipv6-4")

# Corosync's, in milliseconds.
TOKEN_MS = 3000
TOKEN_COEFFICIENT_MS = 650
MIN_TIMEOUT_MS = 30
MIN_HOLD_MS = 14
JIFFY_MS = 10  # 1000 / HZ, as seen by its programs on every architecture we meet

_UINT32 = 2**32 - 1


class Timeouts(NamedTuple):
    """The timeouts of a ring, in seconds: as configured, or as a ring of ours alone chooses (`totem.patience`)."""

    token: float
    token_retransmit: float
    hold: float
    consensus: float


class NodeEntry(NamedTuple):
    """One node of the nodelist."""

    node_id: int
    name: str
    """`nodeN` where the configuration gives none."""
    address: str
    """An IP address; host names are resolved by the reader of files. With several links it is that on the first."""
    port: int
    votes: int = 1
    """`quorum_votes`."""
    further: tuple[tuple[int, str], ...] = ()
    """Its addresses on links above 0 (knet only), each behind the link's number: `ring1_addr` and so on."""

    def address_on(self, link: int) -> str:
        """Return the node's address on a link; empty if it has none."""
        return dict(self.further).get(link, "") if link else self.address


PONG_COUNT, PING_PRECISION = 2, 2048
"""Corosync's; libknet alone has others."""


class LinkSettings(NamedTuple):
    """One link of transport knet: an interface section. Times in seconds; 0 asks for a default."""

    number: int = 0
    port: int = 0
    """`mcastport`; default 5405 + number. Nodes may have one of their own for link 0."""
    priority: int = 1
    """`knet_link_priority`: in passive mode the link with the highest one is used."""
    ping_interval: float = 0
    """`knet_ping_interval`. Default token / (2 · pong_count)."""
    ping_timeout: float = 0
    """`knet_ping_timeout`. Default token / pong_count."""
    pong_count: int = PONG_COUNT
    """`knet_pong_count`: a link is up with the pong after so many."""
    precision: int = PING_PRECISION
    """`knet_ping_precision`: pings over which the latency is smoothed."""


LINK_MODES = ("passive", "active", "rr")
CIPHERS = {"aes128": 16, "aes192": 24, "aes256": 32}
"""Bytes of the key of each cipher: so many first ones of the key file."""
CIPHER_BLOCK = 16
HASHES = {"md5": 16, "sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}
"""Bytes of each hash."""
MIN_KEY, MAX_KEY = 128, 4096
"""Bytes of a key."""
DEFAULT_KEY_FILE = "/etc/corosync/authkey"
"""Corosync's, wherever the configuration is."""
PMTUD_INTERVAL = 30.0
COMPRESSION_THRESHOLD = 100
COMPRESSIONS = {"zlib": (-1, 9), "bzip2": (0, 9), "lzma": (0, 6)}
"""The models, and the levels of each. Receivers do not give lzma the memory that its levels above 6 need."""
MOST_LINKS = 8
MAX_KNET_NODE_ID = 65535
MAX_KNET_PACKET = 65536
KNET_HEADER = 26
"""Bytes that real nodes leave free in each packet: those of the largest header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knet:
    """What transport knet has of its own."""

    links: tuple[LinkSettings, ...] = (LinkSettings(),)
    """By number, ascending, with gaps if need be; each node has an address on each."""
    link_mode: str = "passive"
    """How data uses several links: `passive` (the best one), `active` (all), `rr` (in turn)."""
    cipher: str = "none"
    """`crypto_cipher`."""
    hash: str = "none"
    """`crypto_hash`."""
    key: bytes = field(default=b"", repr=False)
    """The whole key; empty where nothing is sealed."""
    key_source: str = ""
    """Where the key comes from, for messages: the path of its file, or `totem.key`."""
    mtu: int = 0
    """`knet_mtu`: bytes of the largest IP packet; 0: it is found."""
    mtu_interval: float = PMTUD_INTERVAL
    """`knet_pmtud_interval`: seconds between two searches for the MTU."""
    compression: str = "none"
    """`knet_compression_model`: `none`, `zlib`, `bzip2` or `lzma`. What others send is read whatever this is."""
    compression_threshold: int = COMPRESSION_THRESHOLD
    """`knet_compression_threshold`: longer packets are compressed."""
    compression_level: int = 0
    """`knet_compression_level`; 0: the model's default."""

    @property
    def is_sealed(self) -> bool:
        """Whether packets are signed, or encrypted too."""
        return self.hash != "none"

    @property
    def fingerprint(self) -> str:
        """What names the key; empty where there is none."""
        return fingerprint(self.key) if self.key else ""

    def packet_room(self, payload: int) -> int:
        """Return the bytes of the largest packet that, sealed, leaves in a UDP payload of this size."""
        if not self.is_sealed:
            return payload
        room = payload - HASHES[self.hash]
        if self.cipher == "none":
            return room
        room -= CIPHER_BLOCK  # the salt
        return room - room % CIPHER_BLOCK - 1  # and a padding of at least one byte

    def user_data_room(self, payload: int) -> int:
        """Return the bytes of user data in a packet that leaves in a UDP payload of this size."""
        return self.packet_room(payload) - KNET_HEADER


@dataclass(frozen=True, slots=True, kw_only=True)
class Quorum:
    """The quorum section (votequorum(5))."""

    provider: str = ""
    """`corosync_votequorum`, or empty: no quorum service."""
    expected_votes: int = 0
    """0: the sum of the nodes' votes."""
    two_node: bool = False
    wait_for_all: bool | None = None
    """None: as `two_node`."""
    auto_tie_breaker: bool = False
    auto_tie_breaker_node: str = "lowest"
    last_man_standing: bool = False
    last_man_standing_window: float = 10.0
    allow_downscale: bool = False
    expected_votes_tracking: bool = False

    @property
    def waits_for_all(self) -> bool:
        """The value of `wait_for_all`, or that of `two_node` where it is None."""
        return self.two_node if self.wait_for_all is None else self.wait_for_all

    @property
    def tie_breaker(self) -> str | tuple[int, ...]:
        """What breaks ties: `lowest`, `highest`, or node ids in order of preference; empty if nothing does."""
        if not self.auto_tie_breaker or self.auto_tie_breaker_node in ("lowest", "highest"):
            return self.auto_tie_breaker_node if self.auto_tie_breaker else ""
        return tuple(map(int, self.auto_tie_breaker_node.split()))


CLIENT_QUEUE = 64 << 20


class UserRule(NamedTuple):
    """A uidgid section: who may connect to the daemon of a node, besides root and the daemon's own user."""

    uid: int | None = None
    gid: int | None = None


LOCKS_GROUP = "cluck"
"""The group of the lock servers, which is reserved in every daemon."""


class Reservation(NamedTuple):
    """A section `reserved` of cpgd: a group that only the users it names, root and the daemon's user may join."""

    group: str
    uid: int | None = None
    gid: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """The cpgd section, which is this package's own: how the daemon serves the programs of its machine."""

    socket: str = ""
    """Path of its socket; empty for the default."""
    libqb: bool | None = None
    """Whether it serves programs that use libcpg, in place of Corosync; None: only if Corosync does not run here."""
    client_queue: int = CLIENT_QUEUE
    """Bytes that may wait for a program that does not read; beyond them it is disconnected. The longest message has 16
    MiB."""
    reserved: tuple[Reservation, ...] = ()
    """Reserved groups; `LOCKS_GROUP` is always one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Logging:
    """The logging section, as far as a program with Python's `logging` can follow it."""

    to_stderr: bool = True
    to_syslog: bool = True
    to_logfile: bool = False
    logfile: str = ""
    syslog_facility: str = "daemon"
    timestamp: str = "hires"
    format: str = "text"
    """Format of the logfile, and of standard error where that is not the journal: `text` or `json`, one object a line.
    """
    debug: str = "off"
    """`off`, `on` or `trace`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduling:
    """How the system's scheduler treats a daemon: a part of the system section."""

    sched_rr: bool | None = None
    """Whether to run in real time, round robin with the highest priority; None: only if it runs as root."""
    priority: int | None = None
    """The nice value outside real time, -20 to 19; None: as it was started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings of a ring. All are keyword arguments, and only `nodes` has no default.

    `token` is the timeout itself: the reader of files adds `token_coefficient`, and so does the default.

    `dataclasses.replace` keeps what was computed, as `consensus` from `token`: give such a field 0 to compute it anew.
    The same goes for the intervals of `knet.links`.
    """

    nodes: tuple[NodeEntry, ...]
    """The nodelist, in ascending order of id."""
    cluster_name: str = ""
    transport: str = "udpu"
    """`udpu` (one copy for each node), `udp` (multicast) or `knet` (several links, encryption)."""
    knet: Knet | None = None
    """What transport knet has of its own; None with other transports, and for its defaults."""
    ip_version: str = ""
    """What host names resolve to: `ipv6-4` (default of udpu), `ipv4` (of udp), `ipv6`, `ipv4-6`."""
    port: int = DEFAULT_PORT
    """`mcastport`: the port of every node without one of its own, and of the multicast group."""
    mcastaddr: str = ""
    """The multicast group (udp only); the default is made from `cluster_name` as Corosync makes it."""
    ttl: int = 1
    """Number of routers that a multicast may pass (udp only)."""
    netmtu: int = 0
    """The largest IP packet that every link of the ring carries, 1500 by default. With knet, whose packets are cut to
    what the links carry, the largest packet of totem: 65536 by default."""
    block_unlisted_ips: bool = True
    """Drop datagrams whose source address is not in the nodelist."""

    token: float = 0
    """Time without a token after which the ring is given up. Default 3 s, and 0.65 s more per node above two."""
    token_configured: bool = True
    """Whether `token` was set by hand: such a value is never shortened."""
    token_retransmits_before_loss_const: int = 4
    token_retransmit: float = 0
    """When the last token is sent again. Default token / (token_retransmits_before_loss_const + 0.2)."""
    hold: float = 0
    """Time for which the token of an idle ring is held. Default 0.8 of token_retransmit, less 10 ms."""
    join: float = 0.05
    send_join: float = 0
    """Joins are delayed by a random time up to this."""
    consensus: float = 0
    """Default 1.2 of token."""
    timeouts_configured: frozenset[str] | None = None
    """Which of `token_retransmit`, `hold` and `consensus` were set by hand; None: those that are given."""
    merge: float = 0.2
    downcheck: float = 1.0
    fail_recv_const: int = 2500
    seqno_unchanged_const: int | None = None
    """Visits without new messages after which the token of an idle ring rests; None: `rest_after` chooses."""
    miss_count_const: int = 5
    window_size: int = 0
    """Frames on the ring in one rotation. Default 50."""
    max_messages: int = 0
    """Frames of one node in one visit. Default 17."""
    windows_configured: bool = True
    """Whether one of the two was set by hand; if not, a pure ring chooses its own (`totem.flow`)."""
    accelerated_window: int = 128
    """Frames that may come to a node at once behind the token, in a ring whose members all do this; 0: none."""
    compact_headers: bool = True
    """Whether this node uses short headers for small messages, in rings whose members all can (`totem.labels`)."""

    send_queue_bytes: int = 4 * 1024 * 1024
    """Bound of the messages that wait for the token; beyond it `QueueFull`."""
    state_dir: str = ""
    """Where ring sequences are stored; empty: `totem.store.default_directory()`."""
    quorum: Quorum = field(default_factory=Quorum)
    logging: Logging = field(default_factory=Logging)
    daemon: Daemon = field(default_factory=Daemon)
    user_rules: tuple[UserRule, ...] = ()
    """Who may connect to the daemon."""

    @classmethod
    def for_nodes(cls, count: int, **settings: Any) -> Config:
        """Configure nodes 1 to `count` at 127.0.0.1, 127.0.0.2, … on one port, for tests and simulations.

        On a further link n of transport knet they are at 127.n.0.1, 127.n.0.2, …
        """
        port = settings.get("port", DEFAULT_PORT)
        further = [link.number for link in settings.get("knet", Knet()).links if link.number]
        nodes = tuple(
            NodeEntry(
                k,
                f"node{k}",
                str(ipaddress.IPv4Address("127.0.0.0") + k),
                port,
                further=tuple((n, str(ipaddress.IPv4Address(f"127.{n}.0.0") + k)) for n in further),
            )
            for k in range(1, count + 1)
        )
        return cls(nodes=nodes, **{"cluster_name": "test", **settings})

    def __post_init__(self) -> None:
        self._compute_addresses()
        self._compute_timeouts()
        self._compute_knet()
        self._compute_windows()
        self._check_nodes()
        self._check_quorum()
        self._check_transport()
        self._check_timeouts()
        self._check_constants()

    def rest_after(self, *, pure: bool) -> int:
        """Return the number of visits without new messages after which the token may rest.

        With a real node in the ring it is Corosync's. In a pure ring it is one. The sender of the latest message has
        known since the visit before that all members have it; the others learn it on this visit.
        """
        if self.seqno_unchanged_const is not None:
            return self.seqno_unchanged_const
        return 1 if pure else REAL_REST_AFTER

    @property
    def ip_family(self) -> int:
        """4 or 6: a ring has one family. With knet it is that of the first link."""
        return 6 if ":" in self.nodes[0].address else 4

    @property
    def max_frame(self) -> int:
        """Largest UDP payload of a plain multicast that a correct neighbour sends: Corosync does not subtract the IP
        and UDP headers."""
        return self.netmtu - MCAST_HEADER

    @property
    def max_datagram(self) -> int:
        """Largest UDP payload that a link of MTU `netmtu` carries in one piece."""
        return self.netmtu - IP_UDP_HEADERS[self.ip_family]

    @property
    def frame_size(self) -> int:
        """Largest plain multicast of this node: it stays in one piece with a recovery header before it.

        With knet that is one packet of the usual MTU, or of `knet_mtu`. Where a path carries less, knet cuts it.
        """
        if self.knet is None:
            return self.max_datagram - MCAST_HEADER
        payload = self.packet_size - IP_UDP_HEADERS[6]
        return min(self.knet.user_data_room(payload), self.netmtu - MCAST_HEADER) - MCAST_HEADER

    @property
    def packet_size(self) -> int:
        """Bytes of the largest IP packet that carries a frame of this node whole."""
        return self.netmtu if self.knet is None else self.knet.mtu or ETHERNET_MTU

    @property
    def usual_frame(self) -> int:
        """The largest packet that comes from a node of this package with these settings."""
        return self.max_frame if self.knet is None else self.frame_size + MCAST_HEADER

    @property
    def longest_packet(self) -> int:
        """The largest packet of totem that the transport carries."""
        return MAX_NETMTU if self.knet is None else MAX_KNET_PACKET

    @property
    def link_numbers(self) -> tuple[int, ...]:
        """The numbers of the links, ascending; without knet there is link 0 alone."""
        return tuple(link.number for link in self.knet.links) if self.knet is not None else (0,)

    def addresses_of(self, node: NodeEntry) -> tuple[tuple[int, str], ...]:
        """Return a node's addresses, each behind the number of its link."""
        return tuple((number, node.address_on(number)) for number in self.link_numbers)

    def place_on(self, node: NodeEntry, link: int) -> tuple[str, int]:
        """Return a node's address and port on a link."""
        if link == 0 or self.knet is None:
            return node.address, node.port
        return node.address_on(link), next(entry.port for entry in self.knet.links if entry.number == link)

    def node(self, node_id: int) -> NodeEntry:
        """Return the nodelist's entry; raise `KeyError` if there is none."""
        for entry in self.nodes:
            if entry.node_id == node_id:
                return entry
        raise KeyError(node_id)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _compute_addresses(self) -> None:
        self._set("nodes", tuple(sorted(self.nodes, key=lambda node: node.node_id)))
        if not self.ip_version:
            self._set("ip_version", "ipv4" if self.transport == "udp" else "ipv6-4")
        if not self.mcastaddr and self.nodes and self.cluster_name:
            self._set("mcastaddr", default_mcastaddr(self.cluster_name, self.ip_family))

    def _compute_timeouts(self) -> None:
        default_token = effective_token_ms(TOKEN_MS, TOKEN_COEFFICIENT_MS, len(self.nodes)) / 1000
        if not self.token:
            self._set("token", default_token)
            self._set("token_configured", False)
        elif self.token != default_token:
            self._set("token_configured", True)  # also where it comes through dataclasses.replace()
        if self.token_retransmits_before_loss_const < 1:
            _refuse("token_retransmits_before_loss_const", self.token_retransmits_before_loss_const, "at least 1")
        configured = set(self.timeouts_configured or ())
        for name, default in (
            ("token_retransmit", self._default_retransmit),
            ("hold", self._default_hold),
            # Corosync's (int)(float)(1.2 * token), without the rounding that the cast to float is there for.
            ("consensus", lambda token: milliseconds(token) * 6 // 5 / 1000),
        ):
            computed = default(self.token_retransmit if name == "hold" else self.token)
            value = getattr(self, name)
            if not value:
                self._set(name, computed)
            elif self.timeouts_configured is None or value != computed:
                configured.add(name)  # the latter also where it comes through dataclasses.replace()
        self._set("timeouts_configured", frozenset(configured))

    def _default_retransmit(self, token: float) -> float:
        return int(milliseconds(token) / (self.token_retransmits_before_loss_const + 0.2)) / 1000

    @staticmethod
    def _default_hold(token_retransmit: float) -> float:
        return int(milliseconds(token_retransmit) * 0.8 - JIFFY_MS) / 1000

    @property
    def timeouts(self) -> Timeouts:
        """The timeouts as they are configured, or as Corosync computes them."""
        return Timeouts(self.token, self.token_retransmit, self.hold, self.consensus)

    def timeouts_with(self, token: float, hold: float, consensus: float) -> Timeouts:
        """Return those of a ring with another token timeout; what was set by hand stays."""
        assert self.timeouts_configured is not None
        usual = self.timeouts
        retransmit = max(self._default_retransmit(token), MIN_TIMEOUT_MS / 1000)
        chosen = Timeouts(token, retransmit, hold, consensus)
        return chosen._replace(**{name: getattr(usual, name) for name in self.timeouts_configured})

    def _compute_knet(self) -> None:
        if not self.netmtu:
            self._set("netmtu", MAX_KNET_PACKET if self.transport == "knet" else ETHERNET_MTU)
        if self.transport != "knet":
            return
        knet = self.knet or Knet()
        self._set(
            "knet",
            replace(
                knet,
                links=tuple(self._complete(link) for link in sorted(knet.links)),
                mtu_interval=knet.mtu_interval or PMTUD_INTERVAL,
                compression_threshold=knet.compression_threshold or COMPRESSION_THRESHOLD,
            ),
        )

    def _complete(self, link: LinkSettings) -> LinkSettings:
        """Return a link with the defaults of what it leaves out (Corosync's `totem_calc_knet_ping_timers`)."""
        token, pongs = milliseconds(self.token), link.pong_count or PONG_COUNT
        return link._replace(
            port=link.port or (self.port if link.number == 0 else DEFAULT_PORT + link.number),
            priority=link.priority or 1,
            ping_interval=link.ping_interval or int(token / (2 * pongs)) / 1000,
            ping_timeout=link.ping_timeout or int(token / pongs) / 1000,
            pong_count=pongs,
            precision=link.precision or PING_PRECISION,
        )

    def _compute_windows(self) -> None:
        if not self.window_size and not self.max_messages:
            self._set("windows_configured", False)
        self._set("window_size", self.window_size or WINDOW_SIZE)
        self._set("max_messages", self.max_messages or MAX_MESSAGES)
        if (self.window_size, self.max_messages) != (WINDOW_SIZE, MAX_MESSAGES):
            self._set("windows_configured", True)  # also where they come through dataclasses.replace()

    def _check_nodes(self) -> None:
        if not 1 <= len(self.nodes) <= MAX_NODES:
            _refuse("nodelist", f"{len(self.nodes)} nodes", f"1 to {MAX_NODES}")
        _check_range("mcastport", self.port, 1, 65535)  # most nodes have it for their own
        for node in self.nodes:
            self._check_node(node)
        _check_unique("nodeid", self.nodes, lambda node: node.node_id)
        _check_unique("name", self.nodes, lambda node: node.name)
        advice = " (ring0_port distinguishes nodes at one address)"
        _check_unique("ring0_addr", self.nodes, _place, advice)

    def _check_node(self, node: NodeEntry) -> None:
        _check_range("nodeid", node.node_id, 1, _UINT32, node)
        _check_range("ring0_port", node.port, 1, 65535, node)
        _check_range("quorum_votes", node.votes, 0, _UINT32, node)
        if not node.name:
            _refuse("name", "''", "not empty", node)
        address = _check_address("ring0_addr", node.address, node)
        if address.version != self.ip_family:
            _refuse("ring0_addr", node.address, f"an IPv{self.ip_family} address, like the first node's", node)

    def _check_quorum(self) -> None:
        quorum = self.quorum
        votes = sum(node.votes for node in self.nodes)
        _check_range("expected_votes", quorum.expected_votes, 0, _UINT32)
        _check_range("quorum_votes of all nodes", votes, 0, _UINT32)
        ids = {str(node.node_id) for node in self.nodes}
        breakers = quorum.auto_tie_breaker_node
        if breakers not in ("lowest", "highest") and not (breakers.split() and ids.issuperset(breakers.split())):
            _refuse("auto_tie_breaker_node", breakers, "lowest, highest, or ids of the nodelist with spaces between")
        breaks_and_stands = quorum.auto_tie_breaker and quorum.last_man_standing
        if breaks_and_stands and votes % 2 and not quorum.waits_for_all:
            right = "off: with auto_tie_breaker and an odd sum of votes, or wait_for_all on"
            _refuse("last_man_standing", "yes", right)

    def _check_transport(self) -> None:
        _check_choice("transport", self.transport, TRANSPORTS)
        _check_choice("ip_version", self.ip_version, IP_VERSIONS)
        _check_range("ttl", self.ttl, 0, 255)
        _check_range("netmtu", self.netmtu, MIN_NETMTU, self.longest_packet)
        self._check_knet()
        if self.transport == "udp":
            self._check_mcastaddr()
        elif self.ttl != 1:
            _refuse("ttl", self.ttl, "left out: only transport udp can set it")

    def _check_knet(self) -> None:
        knet = self.knet
        if knet is None:
            for node in self.nodes:
                if node.further:
                    _refuse(f"ring{node.further[0][0]}_addr", "given", "left out: several links need knet", node)
            return
        if self.transport != "knet":
            _refuse("knet", "given", f"left out: the transport is {self.transport}")
        _check_choice("link_mode", knet.link_mode, LINK_MODES)
        self._check_crypto(knet)
        if knet.mtu:
            _check_range("knet_mtu", knet.mtu, MIN_NETMTU, 65535)
        _check_range("knet_pmtud_interval", knet.mtu_interval, 1, 86400)
        _check_choice("knet_compression_model", knet.compression, ("none", *COMPRESSIONS))
        _check_range("knet_compression_threshold", knet.compression_threshold, 0, _UINT32)
        if knet.compression != "none":
            _check_range("knet_compression_level", knet.compression_level, *COMPRESSIONS[knet.compression])
        for node in self.nodes:
            _check_range("nodeid", node.node_id, 1, MAX_KNET_NODE_ID, node)
        self._check_links(knet)

    def _check_crypto(self, knet: Knet) -> None:
        _check_choice("crypto_cipher", knet.cipher, ("none", *CIPHERS))
        _check_choice("crypto_hash", knet.hash, ("none", *HASHES))
        if knet.cipher != "none" and knet.hash == "none":
            _refuse("crypto_hash", "none", f"a hash, because crypto_cipher is {knet.cipher}")
        if knet.is_sealed:
            source = f" ({knet.key_source})" if knet.key_source else ""
            if not MIN_KEY <= len(knet.key) <= MAX_KEY:
                right = f"{MIN_KEY} to {MAX_KEY} bytes long: totem keygen makes one"
                _refuse("key", f"a key of {len(knet.key)} bytes{source}", right)
        elif knet.key:
            _refuse("key", "given", "left out: crypto_hash is none, so that nothing is signed or encrypted")

    def _check_links(self, knet: Knet) -> None:
        numbers = self.link_numbers
        if not 1 <= len(numbers) <= MOST_LINKS or len(set(numbers)) < len(numbers):
            _refuse("linknumber", list(numbers), f"of 1 to {MOST_LINKS} links, each once")
        for link in knet.links:
            self._check_link(link)
        owners: dict[object, tuple[NodeEntry, int]] = {}
        for node in self.nodes:
            if node.address_on(numbers[0]) != node.address:
                _refuse("address", node.address, f"that on link {numbers[0]}, which is the first", node)
            for number, _ in node.further:
                if number not in numbers:
                    _refuse(f"ring{number}_addr", "given", f"left out: knet.links has no link {number}", node)
            for number in numbers:
                address, port = self.place_on(node, number)
                owner, other = owners.setdefault((ipaddress.ip_address(address), port), (node, number))
                if (owner, other) != (node, number):
                    right = f"one link's of one node, but link {other} of {owner.name} has it too"
                    _refuse(f"ring{number}_addr", f"{address} port {port}", right, node)

    def _check_link(self, link: LinkSettings) -> None:
        number = link.number
        _check_range("linknumber", number, 0, MOST_LINKS - 1, number)
        _check_range("mcastport", link.port, 1, 65535, number)
        _check_range("knet_link_priority", link.priority, 0, 255, number)
        _check_range("knet_pong_count", link.pong_count, 1, 255, number)
        _check_range("knet_ping_precision", link.precision, 1, _UINT32, number)
        for name in ("ping_interval", "ping_timeout"):
            if milliseconds(getattr(link, name)) < 1:
                _refuse(f"knet_{name}", f"{milliseconds(getattr(link, name))} ms", "at least 1 ms", number)
        setting = f"ring{number}_addr"
        versions = []
        for node in self.nodes:
            if not node.address_on(number):
                _refuse(setting, "missing", "there: each node needs an address on each link", node)
            versions.append(_check_address(setting, node.address_on(number), node).version)
            if versions[-1] != versions[0]:
                _refuse(setting, node.address_on(number), f"an IPv{versions[0]} address, like the first node's", node)

    def _check_mcastaddr(self) -> None:
        if not self.mcastaddr:
            _refuse("mcastaddr", "''", "set (or made from cluster_name, which is missing too)")
        try:
            group = ipaddress.ip_address(self.mcastaddr)
        except ValueError:
            _refuse("mcastaddr", self.mcastaddr, "an IP address")
        if not group.is_multicast:
            _refuse(
                "mcastaddr",
                self.mcastaddr,
                "a multicast address, 239.192.0.0 to 239.192.255.255 for instance",
            )
        if group.version != self.ip_family:
            _refuse("mcastaddr", self.mcastaddr, f"an IPv{self.ip_family} address, like the nodes' addresses")

    def _check_timeouts(self) -> None:
        for name in ("token", "join", "merge", "downcheck"):
            _check_at_least(name, getattr(self, name), MIN_TIMEOUT_MS)
        advice = " (or a longer token, or fewer token_retransmits_before_loss_const)"
        _check_at_least("token_retransmit", self.token_retransmit, MIN_TIMEOUT_MS, advice)
        _check_at_least("hold", self.hold, MIN_HOLD_MS, " (or a longer token_retransmit)")
        _check_at_least("consensus", self.consensus, max(MIN_TIMEOUT_MS, milliseconds(self.join)), ", not below join")
        _check_at_least("send_join", self.send_join, 0)

    def _check_constants(self) -> None:
        for name in ("fail_recv_const", "miss_count_const"):
            _check_range(name, getattr(self, name), 1, _UINT32)
        if self.seqno_unchanged_const is not None:
            _check_range("seqno_unchanged_const", self.seqno_unchanged_const, 1, _UINT32)
        # Corosync asserts when a ring's numbers run 16384 ahead of the oldest message kept, and it may take three
        # rotations to release a window.
        _check_range("window_size", self.window_size, 1, MAX_WINDOW)
        _check_range("max_messages", self.max_messages, 1, MAX_WINDOW)
        _check_range("accelerated_window", self.accelerated_window, 0, MAX_WINDOW)
        _check_range("send_queue_bytes", self.send_queue_bytes, 1024 * 1024, 2**31)


def fingerprint(key: bytes) -> str:
    """Return what names a key without telling it: the first 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(key).hexdigest()[:16]


def milliseconds(seconds: float) -> int:
    """Return a timeout as corosync.conf writes it."""
    return round(seconds * 1000)


def effective_token_ms(token_ms: int, coefficient_ms: int, node_count: int) -> int:
    """Return the token timeout of a nodelist for corosync.conf's `token` and `token_coefficient`."""
    return token_ms + coefficient_ms * max(0, node_count - 2)


def default_mcastaddr(cluster_name: str, family: int) -> str:
    """Return the multicast group of a cluster, made from its name (`get_cluster_mcast_addr`)."""
    cluster_id = 0
    for byte in cluster_name.encode():
        signed = byte - 256 if byte > 127 else byte  # C's char
        cluster_id = (2 * cluster_id + signed) & 0xFFFF
    return f"ff15::{cluster_id:x}" if family == 6 else f"239.192.{cluster_id >> 8}.{cluster_id % 0xFF}"


def _place(node: NodeEntry) -> str:
    return f"{ipaddress.ip_address(node.address)} port {node.port}"


_Owner = NodeEntry | int | None
"""Whose a setting is: a node's, a link's, or the whole ring's."""


def _refuse(setting: str, value: object, right: str, owner: _Owner = None) -> NoReturn:
    match owner:
        case NodeEntry():
            where = f"{setting} of node {owner.node_id}"
        case int():
            where = f"{setting} of link {owner}"
        case None:
            where = setting
    raise ConfigError(f"{where}: {value} is wrong, it must be {right}", setting=setting, owner=owner)


def _check_range(setting: str, value: float, low: int, high: int, owner: _Owner = None) -> None:
    if not low <= value <= high:
        _refuse(setting, value, f"{low} to {high}", owner)


def _check_address(setting: str, text: str, node: NodeEntry) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return a node's address, which is one that a node can have."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        _refuse(setting, text, "an IP address", node)
    if address.is_unspecified or address.is_multicast:
        _refuse(setting, text, "the address of one machine", node)
    if address.version == 6 and address.is_link_local and not address.scope_id:
        _refuse(setting, text, f"written with its interface, as {address}%eth0", node)
    return address


def _check_unique(
    setting: str, nodes: Iterable[NodeEntry], key: Callable[[NodeEntry], object], advice: str = ""
) -> None:
    owners: dict[object, NodeEntry] = {}
    for node in nodes:
        value = key(node)
        if value in owners:
            owner = owners[value]
            _refuse(setting, value, f"one node's, but {owner.name} ({owner.address}) has it too{advice}", node)
        owners[value] = node


def _check_at_least(setting: str, seconds: float, low_ms: int, advice: str = "") -> None:
    if milliseconds(seconds) < low_ms:
        _refuse(setting, f"{milliseconds(seconds)} ms", f"at least {low_ms} ms{advice}")


def _check_choice(setting: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        _refuse(setting, value, f"one of {', '.join(choices)}")
