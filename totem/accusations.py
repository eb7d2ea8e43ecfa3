"""Accusations: a member whose process has ended is out in milliseconds, because its machine says so (rulings, F6).

The kernel of a machine that lives refuses datagrams for a process that has died. A refusal proves nothing: firewalls
refuse what living nodes would take, and anybody may forge one. So it only opens a *case*. The member that was refused
tells all others, and all try the accused at once: the links machine pings it in quick succession. Who is answered says
so, and that acquits. Who is not, and was refused itself, confirms the accusation. With a second member that confirms
it, the accused one is out. The second one is not needed where nobody else is left who could be it.

    trials = accusations.take()                          # whom the links machine is to try
    accusations.on_refusal(node_id, now)                 # the kernel has refused what was sent to a node
    accusations.on_trial(node_id, answered, now)         # how a trial has ended
    accusations.receive(said, now)                  # what another member says

The kernel limits refusals (Linux: one a second for each destination, six in a burst). One that came shortly before a
trial is therefore as good as one in it, and one that comes soon after it, too.

An accusation that leads to nothing costs its sender a pause, the longer the more of them there were. So neither forged
refusals nor a member that accuses falsely make others send pings without end.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from math import inf
from typing import Final

from totem.configuration import Feature
from totem.diagnostics import Diagnostics
from totem.exclusions import Exclusions
from totem.membership import Membership
from totem.outbox import Outbox
from totem.ring import Ring
from totem.wire.evidence import Evidence, Saying

REFUSED_LATELY: Final = 1.0
"""Seconds before a trial in which a refusal still counts for it."""
OPEN: Final = 2.0
"""Seconds for which a case waits for what others find; a busy machine takes its time."""
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0
"""Seconds for which a member accuses the same node no more, at first and at most: each time twice as long."""
FORGOTTEN: Final = 120.0
"""Seconds after which an accusation does not lengthen the next pause."""


class Finding(Enum):
    """What this node's own trial of an accused member has found."""

    NONE = "the trial goes on"
    HEARD = "it answers"
    SILENT = "it does not answer, and no refusal has come"
    REFUSED = "it does not answer, and its machine refuses"


class Case:
    """An accused member, as one other member sees it."""

    __slots__ = ("accuser", "began", "confirming", "finding", "hearing")

    def __init__(self, accuser: int, now: float) -> None:
        self.accuser = accuser
        self.began = now
        self.finding = Finding.NONE
        self.confirming: set[int] = set()
        """Other members that were refused and are not answered."""
        self.hearing: set[int] = set()
        """Other members that are answered."""

    def is_open(self, now: float) -> bool:
        """Return whether what comes belongs to this case."""
        return self.finding is not Finding.HEARD and now < self.began + OPEN


class Accusations:
    """The cases of one processor, in the ring that is installed."""

    def __init__(self, node_id: int, membership: Membership, outbox: Outbox, diagnostics: Diagnostics) -> None:
        self.on_proof: Callable[[dict[int, list[int]], float], None] = lambda proven, now: None
        """Called with the members that are out, and who has confirmed it for each."""
        self._node_id = node_id
        self._membership = membership
        self._outbox = outbox
        self._diagnostics = diagnostics
        self._ring: Ring | None = None
        self._cases: dict[int, Case] = {}
        """By the accused member."""
        self._refused: dict[int, float] = {}
        """When the machine of a member has refused last what was sent to it."""
        self._pauses = Exclusions[tuple[int, int]](FIRST_PAUSE, LONGEST_PAUSE, FORGOTTEN)
        """Of pairs of an accusing member and the one that it may not accuse."""
        self._trials: list[int] = []

    def begin_ring(self, ring: Ring) -> None:
        """Start afresh: a ring was installed."""
        self._ring = ring if ring.pure and Feature.TRIALS in ring.features else None
        self._cases = {}
        self._refused = {}
        self._pauses = Exclusions[tuple[int, int]](FIRST_PAUSE, LONGEST_PAUSE, FORGOTTEN)
        self._trials = []

    @property
    def is_active(self) -> bool:
        """Whether members of this ring are accused at all: they must be of this package, and know how."""
        return self._ring is not None

    def take(self) -> tuple[int, ...]:
        """Return whom the links machine is to try at once, and start afresh."""
        trials, self._trials = tuple(self._trials), []
        return trials

    # What comes in.

    def on_refusal(self, node_id: int, now: float) -> None:
        """Take a refusal of the machine of a node; the datagram that it quotes was sent by this node."""
        if node_id not in self._others():
            return
        self._refused[node_id] = now
        case = self._cases.get(node_id)
        if case is None or not case.is_open(now):
            self._open(self._node_id, node_id, now)
        elif case.finding is Finding.SILENT:
            self._confirm(node_id, case, now)

    def on_trial(self, node_id: int, answered: bool, now: float) -> None:
        """Take the end of a trial."""
        case = self._cases.get(node_id)
        if case is None or case.finding is not Finding.NONE:
            return
        if answered:
            self._acquit(node_id, case)
        elif self._refused.get(node_id, -inf) >= case.began - REFUSED_LATELY:
            self._confirm(node_id, case, now)
        else:
            case.finding = Finding.SILENT

    def on_join(self, node_id: int, *, is_ours: bool) -> None:
        """Take a Join of a node, which lives: what was found before is of the process that had its place.

        A member that has come back as a node of another make must get nothing of this, so all ends until a ring is
        installed.
        """
        if not is_ours and node_id in self._others():
            self._ring = None
            self._cases = {}
            self._trials = []
        case = self._cases.get(node_id)
        if case is not None:
            case.finding = Finding.HEARD
        self._refused.pop(node_id, None)

    def receive(self, said: Evidence, now: float) -> None:
        """Take what another member says."""
        ring, witness, accused = self._ring, said.node_id, said.accused
        others = self._others()
        is_of_ring = ring is not None and said.ring_id == ring.id
        if is_of_ring and accused in self._membership.failed:
            return  # it is out already
        if not is_of_ring or witness not in others or accused not in others or witness == accused:
            self._diagnostics.drop("evidence about no other member")
            return
        case = self._cases.get(accused)
        if said.saying is not Saying.HEARS and (case is None or not case.is_open(now)):
            case = self._open(witness, accused, now)  # also where the accusation was lost on its way
        if case is None:
            return
        if said.saying is Saying.HEARS:
            case.hearing.add(witness)
        elif said.saying is Saying.CONFIRMS:
            case.confirming.add(witness)
            self._judge(now)

    # What follows.

    def _others(self) -> set[int]:
        """Return the other members of the ring, as far as they are not known to be out."""
        if self._ring is None:
            return set()
        membership = self._membership
        return set(self._ring.members).difference(membership.failed, membership.gone) - {self._node_id}

    def _open(self, accuser: int, accused: int, now: float) -> Case | None:
        if self._pauses.has((accuser, accused), now):
            if accuser != self._node_id:
                self._diagnostics.drop("accusation too soon after another one")
            return None
        self._pauses.add((accuser, accused), now)
        case = self._cases[accused] = Case(accuser, now)
        self._trials.append(accused)
        if accuser == self._node_id:
            self._say(Saying.ACCUSES, accused)
        return case

    def _acquit(self, accused: int, case: Case) -> None:
        case.finding = Finding.HEARD
        self._refused.pop(accused, None)
        self._say(Saying.HEARS, accused)
        mine = case.accuser == self._node_id
        whose = "this node" if mine else f"node {case.accuser}"
        self._diagnostics.notice(
            f"refused for {accused}",
            f"node {accused} answers this node, though its machine seems to refuse what {whose} sends: a firewall "
            f"between the two rejects it, or somebody forges refusals",
        )

    def _confirm(self, accused: int, case: Case, now: float) -> None:
        case.finding = Finding.REFUSED
        if case.hearing:
            self._diagnostics.notice(
                f"refused by {accused}",
                f"what this node sends to node {accused} is refused, though it answers node {min(case.hearing)}: a "
                f"firewall between the two rejects it. Allow the ring's UDP port in both directions",
            )
            return
        self._say(Saying.CONFIRMS, accused)
        self._judge(now)

    def _judge(self, now: float) -> None:
        """Find members whose process has ended: this node and another one know it, or no other one is left."""
        suspects = {
            accused: case
            for accused, case in self._cases.items()
            if case.finding is Finding.REFUSED and not case.hearing and now < case.began + OPEN
        }
        is_last = not self._others().difference(suspects)
        proven = {accused: sorted(case.confirming) for accused, case in suspects.items() if case.confirming or is_last}
        if proven:
            for accused in proven:
                del self._cases[accused]
            self.on_proof(proven, now)

    def _say(self, saying: Saying, accused: int) -> None:
        ring = self._ring
        assert ring is not None
        said = Evidence(saying, self._node_id, accused, ring.id).encode()
        for member in sorted(self._others() - {accused}):
            self._outbox.send(member, said)
