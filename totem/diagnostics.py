"""Diagnostics: what one processor counts as dropped, and what it reports to the operator.

Each text names what is wrong, and what to do about it. Texts that datagrams can cause are rate-limited: of each cause
one text a minute, then the number of the others (`totem.log_pacing`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf

from totem.admission import DUPLICATE_NODE_ID, IMPOSSIBLE_SEQUENCE, UNLISTED_NODE
from totem.config import IP_UDP_HEADERS, MAX_NODES, Config, Timeouts
from totem.hearing import Hearing
from totem.log_pacing import RateLimiter
from totem.nodelists import Lack
from totem.statistics import Counters
from totem.transitions import Cause, State
from totem.wire.codec import Hello
from totem.wire.messages import Join

_PATIENCE = 5
"""Consensus timeouts after which a node that no other has answered reports it."""
_PROOF = 3
"""Datagrams with this node's id that prove a second node; one may be another node's, with a flipped bit (G15)."""

Trace = Callable[[str, str], None]
"""Called with what happened (`enter`, `drop`, `notice`), and its text."""


class Diagnostics:
    """The counts of drops and the notices of one processor."""

    def __init__(self, config: Config, node_id: int, counters: Counters, trace: Trace | None) -> None:
        self._config = config
        self._node_id = node_id
        self._counters = counters
        self._trace = trace
        self._notices: list[str] = []
        self._remarks: list[str] = []
        self._pacing = RateLimiter[str]()
        """Of the notices that others can cause."""
        self._answers_by = inf
        """When another node should have answered."""
        self._sizes_reported: set[int] = set()
        self.now = 0.0
        """The latest time that the processor was told."""

    def start(self, now: float) -> None:
        """Begin to wait for an answer of another node."""
        self.now = now
        self._answers_by = now + _PATIENCE * self._config.consensus

    def advance(self, now: float) -> None:
        """Report the number of texts that were held back in the last minute."""
        self.now = now
        if self._pacing:
            self._report_counted()

    def reconfigure(self, config: Config) -> None:
        """Take another configuration."""
        self._config = config

    def take(self) -> list[str]:
        """Return the notices since the last call."""
        notices, self._notices = self._notices, []
        return notices

    def take_remarks(self) -> list[str]:
        """Return the remarks since the last call."""
        remarks, self._remarks = self._remarks, []
        return remarks

    # Counting.

    def drop(self, cause: str) -> None:
        """Count a datagram or frame that was dropped."""
        self._counters.drops[cause] += 1
        if self._trace is not None:
            self._trace("drop", cause)

    def enter(self, state: State, cause: Cause) -> None:
        """Count a change of state."""
        way = f"{state.value}: {cause.value}"
        self._counters.entered[way] += 1
        if self._trace is not None:
            self._trace("enter", way)

    # Reporting.

    def notice(self, cause: str, text: str) -> None:
        """Report a text, or count it: of each cause one text a minute, because any node may cause them."""
        self._report_counted()
        if self._pacing.allows(cause, text, self.now):
            self.report(text)

    def _report_counted(self) -> None:
        for text, missed in self._pacing.summaries(self.now):
            self.report(f"{text} ({missed} times more in a minute)")

    def remark_timeouts(self, timeouts: Timeouts, because: str) -> None:
        """Tell that a ring has other timeouts now; once a minute, because any member may cause it."""
        text = (
            f"without its token the ring is given up after {timeouts.token:.2f} s, and nodes that are silent are out "
            f"{timeouts.consensus:.2f} s later: {because}"
        )
        if self._pacing.allows(because, text, self.now):
            self._remarks.append(text)

    def report(self, text: str) -> None:
        """Report a text each time."""
        self._notices.append(text)
        if self._trace is not None:
            self._trace("notice", text)

    def drop_malformed(self, cause: str) -> None:
        """Count a datagram that cannot be read; report it if it comes from another transport."""
        self.drop(cause)
        if cause == "foreign magic":
            self.notice(
                cause,
                f"datagrams come to port {self._config.port} that no node of transport {self._config.transport} "
                f"sends. If other nodes use knet (which encryption needs): set their transport to "
                f"{self._config.transport}",
            )

    def explanation(self, cause: str, origin: int) -> str:
        """Return what the operator should know of a datagram that was dropped; empty where that is nothing.

        Args:
            cause: Why it was dropped (`totem.admission`).
            origin: Its sender.
        """
        if cause == UNLISTED_NODE:
            return f"node {origin} is heard but not in the nodelist; add it there, or give it another port"
        if cause == IMPOSSIBLE_SEQUENCE:
            return (
                f"node {origin} is ignored, because its ring sequence leaves no room to count on: "
                f"stop it, and remove its file ringid_{origin}"
            )
        if cause == DUPLICATE_NODE_ID and self._counters.drops[cause] >= _PROOF:
            return (
                f"another node uses node id {self._node_id}, this node's own: it sends what this node did not send. "
                f"Give each node an id of its own in the nodelist"
            )
        return ""

    def notice_sequences_used_up(self) -> None:
        """Report that there is no sequence for another ring."""
        text = "the ring sequences are used up: stop all nodes, and remove their files ringid_*"
        self.notice("no ring sequence", text)

    def notice_other_nodelist(self, join: Join, unlisted: set[int]) -> None:
        """Report a node whose candidates are not in the nodelist here."""
        names = ", ".join(map(str, sorted(unlisted)))
        self.notice(
            "another nodelist",
            f"node {join.origin} names {names} for the ring, but the nodelist here does not have it: the nodes will "
            "not agree. Use the same nodelist at all nodes",
        )

    def notice_lack(self, lack: Lack, origin: int) -> None:
        """Report a node that is kept out, because a nodelist lacks another one's node."""
        self.notice(
            "a nodelist that lacks a node",
            f"node {origin} is kept out of the ring, because the nodelist of node {lack.node_id} does not have node "
            f"{lack.missing}. Use the same nodelist at all nodes, and reload it",
        )

    def notice_other_cluster(self, origin: int, cluster_name: str) -> None:
        """Report a node of another cluster on this cluster's port."""
        self.notice(
            "another cluster",
            f"node {origin} belongs to cluster {cluster_name!r}, this node to "
            f"{self._config.cluster_name!r}: it is ignored. Set the same cluster_name, or another port",
        )

    def report_if_unanswered(self, now: float) -> None:
        """Report once that no other node has answered for long since the start, though others are listed."""
        if now >= self._answers_by and not self._counters.joins_received and len(self._config.nodes) > 1:
            own = self._config.node(self._node_id)
            self._answers_by = inf
            self.report(
                f"no other node has answered since the start: check that they run, that their nodelists "
                f"have node {own.node_id} at {own.address}, and that no firewall blocks UDP port {own.port}"
            )

    def check_frame_size(self, origin: int, size: int) -> None:
        """Report once a node whose frames are larger than netmtu allows here."""
        if size <= self._config.max_frame or origin in self._sizes_reported or len(self._sizes_reported) >= MAX_NODES:
            return
        self._sizes_reported.add(origin)
        self.report(
            f"node {origin} sends frames of {size} bytes, larger than netmtu {self._config.netmtu} allows here "
            f"({self._config.max_frame}): set the same netmtu on all nodes"
        )

    def check_frame_sizes(self, hellos: Mapping[int, Hello]) -> None:
        """Report the members whose frames are larger than netmtu allows here."""
        for origin, hello in hellos.items():
            self.check_frame_size(origin, hello.frame_size)

    def report_ended(self, node_id: int, confirming: Sequence[int]) -> None:
        """Report that the ring goes on without a member whose process has ended, as others confirm."""
        nobody = "it does not answer this node"
        if confirming:
            names = ", ".join(map(str, confirming))
            nobody = f"it answers neither this node nor {'node' if len(confirming) == 1 else 'nodes'} {names}"
        self.report(f"node {node_id}: its process has ended: its machine refuses datagrams, and {nobody}")

    def notice_parted(self, reason: str, others: str) -> None:
        """Report that the ring goes on without nodes, and who does not hear whom."""
        self.notice("parted", f"{reason}: the ring goes on without {others} until all of them hear each other")

    def notice_unheard(self, node_id: int, hearing: Hearing) -> None:
        """Report a member that does not hear this node, or is not heard, while the ring works."""
        who = f"node {node_id} does not hear this node" if hearing.hears else f"this node does not hear node {node_id}"
        text = f"{who}: the ring goes on with both, and others send again what is lost between them"
        self.notice(f"node {node_id} unheard", text)

    def remark_heard_again(self, node_id: int) -> None:
        """Tell that such a member and this node hear each other again; paced like that."""
        text = f"node {node_id} and this node hear each other again"
        if self._pacing.allows(text, text, self.now):
            self._remarks.append(text)
            if self._trace is not None:
                self._trace("remark", text)

    def report_given_up(self, node_id: int, reason: str, term: float | None, frame: bytes | None) -> None:
        """Report that the ring goes on without a member, for `term` seconds where they are known.

        Args:
            node_id: The member.
            reason: Which member does not receive what.
            term: Seconds for which it is excluded.
            frame: The frame that it lacks, if that is here.
        """
        text = f"{reason}: the ring goes on without node {node_id}"
        if term is not None:
            text += f" for {term:.0f} s"
        text += ". Check its network for lost packets"
        if self._config.knet is not None:
            text += ", and what its links carry (cpg status)"  # frames are cut to that
        elif frame is not None:
            packet = len(frame) + IP_UDP_HEADERS[self._config.ip_family]
            text += f", and whether each link carries packets of {packet} bytes (netmtu {self._config.netmtu})"
        self.report(text)  # each time: it ends a ring
