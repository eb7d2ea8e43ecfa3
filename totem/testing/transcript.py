"""Transcripts: commands to a cluster, and what then happens, in one file that a person can read.

A transcript is a list of commands, one a line. What a command makes happen stands after `----`, up to the next empty
line::

    nodes 2 token=200ms

    start 1
    run 50ms
    ----
       0.0 1 enters gather: the processor started
    ...

`python -m totem.testing.transcript FILES` shows where a transcript goes otherwise than written; with `--rewrite` it
writes down how it goes now. Only commit such a change if you understand what caused it. Times are virtual milliseconds.
Every hop takes one, so that transcripts stay the same when random numbers change.

Commands (N is a node id):

    nodes COUNT [sync=barrier] [SETTING=VALUE ...]  the cluster, not started; settings of `Config`, times as 50ms
    show [states] [deliveries] [packets]             what is written from here on (at first: states deliveries)
    start N ... | crash N ... | leave N ... | pause N ... | resume N ... | lose-store N ...
    send N [safe] NAME ...                           messages; NAME*SIZE makes one of SIZE bytes
    partition N ... | N ... | heal | cut N ... > N ...
    swallow KIND [from=N] [to=N] [times=COUNT]       lose packets: token, multicast, join, commit, detect, cancel, any
    run TIME | run until ring N ... | run until delivered NAME N ...
    status                                           each node's state
    check                                            let the checkers judge the run so far
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from totem.config import Config
from totem.configuration import (
    NO_RING,
    Delivery,
    Guarantee,
    Level,
    Messages,
    RegularConfiguration,
)
from totem.testing.checkers import check
from totem.testing.cluster import GROUP_HEADER, SYNC_HEADER, AnswerAtOnce, BarrierSync, Cluster, SimulatedNode
from totem.testing.network import Conditions
from totem.wire import codec
from totem.wire.messages import CommitToken, HoldCancel, Join, Mcast, MergeDetect, Token

SEPARATOR = "----"
HOP = 0.001
_LONGEST_WAIT = 120.0
_KINDS = {
    "token": codec.TYPE_TOKEN,
    "multicast": codec.TYPE_MCAST,
    "detect": codec.TYPE_MERGE_DETECT,
    "join": codec.TYPE_JOIN,
    "commit": codec.TYPE_COMMIT_TOKEN,
    "cancel": codec.TYPE_HOLD_CANCEL,
}


class CommandError(Exception):
    """A command that cannot be read."""


def describe(datagram: bytes) -> str:
    """Return a packet in a few words."""
    match message := codec.decode(datagram):
        case Token():
            asked = f", asks for {[seq for _, seq in message.requests]}" if message.requests else ""
            flag = ", flag" if message.retransmit_flag else ""
            aru = f"{message.aru}" + (f" by {message.aru_holder}" if message.aru_holder else "")
            return f"token {message.ring_id} #{message.token_seq}, seq {message.seq}, aru {aru}{asked}{flag}"
        case Mcast(encapsulated=True):
            inner = codec.decode(message.data)
            assert isinstance(inner, Mcast)
            what = "hello" if inner.ring_id == NO_RING else f"old frame {inner.seq} of {inner.ring_id}"
            return f"frame {message.seq} of {message.ring_id}: {what} of {inner.origin}"
        case Mcast():
            safe = ", safe" if message.guarantee else ""
            return f"frame {message.seq} of {message.ring_id} from {message.origin}{safe}"
        case Join():
            failed = f" without {_ids(message.failed)}" if message.failed else ""
            name = "leave" if message.is_leave else "join"
            return f"{name} of {message.origin}, ring sequence {message.ring_seq:x}: {_ids(message.candidates)}{failed}"
        case CommitToken():
            return f"commit token {message.ring_id} of {_ids(message.members)}, {message.index} filled"
        case MergeDetect():
            return f"merge detect of {message.ring_id}"
        case HoldCancel():
            return f"hold cancel of {message.ring_id}"


def _ids(node_ids: Iterable[int]) -> str:
    return ",".join(map(str, node_ids)) or "nobody"


class TranscriptRunner:
    """The cluster of one transcript, and what has happened since the last command."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._shown = {"states", "deliveries"}
        self._cluster: Cluster | None = None
        self._names: dict[bytes, str] = {}
        self._contents: dict[str, bytes] = {}

    @property
    def cluster(self) -> Cluster:
        """The cluster that the command `nodes` has made."""
        if self._cluster is None:
            raise CommandError("the first command must be `nodes`")
        return self._cluster

    def command(self, line: str) -> list[str]:
        """Run the command of a line; return what it makes happen."""
        self.lines = []
        name, *words = line.split()
        method = getattr(self, f"do_{name.replace('-', '_')}", None)
        if method is None:
            raise CommandError(f"no such command: {name}")
        method(words)
        return self.lines

    # Telling.

    def _tell(self, text: str) -> None:
        self.lines.append(f"{self.cluster.now * 1000:7.1f} {text}")

    def _on_trace(self, node: SimulatedNode, name: str, what: str) -> None:
        if name == "enter" and "states" in self._shown:
            state, _, cause = what.partition(": ")
            self._tell(f"{node.node_id} enters {state}: {cause}")
        elif name == "notice":
            self._tell(f"{node.node_id} notices: {what}")

    def _on_packet(self, source: int, target: int, datagram: bytes) -> bool:
        if "packets" in self._shown:
            self._tell(f"{source} > {target} {describe(datagram)}")
        return False

    def on_delivery(self, node: SimulatedNode, delivery: Delivery) -> None:
        """Write a delivery down; called by the application."""
        if "deliveries" not in self._shown:
            return
        if isinstance(delivery, Messages):
            names = [self._name(message) for message in delivery.messages]
            level = f" ({delivery.level.value})" if delivery.level is not Level.AGREED else ""
            frame = f"{delivery.ring_id}/{delivery.seq}"
            self._tell(f"{node.node_id} delivers {frame} from {delivery.sender}: {' '.join(names)}{level}")
        elif isinstance(delivery, RegularConfiguration):
            came = f", came with {_ids(delivery.transitional)}" if delivery.transitional else ""
            self._tell(f"{node.node_id} installs {delivery.ring_id} of {_ids(delivery.members)}{came}")
        else:
            self._tell(
                f"{node.node_id} goes from {delivery.ring_id} to {delivery.next_ring_id} with {_ids(delivery.members)}"
            )

    def _name(self, message: bytes) -> str:
        if message.startswith(SYNC_HEADER):
            kind = message[len(SYNC_HEADER) + 8 :][:1]
            return "tell" if kind == BarrierSync.TELL else "confirm"
        return self._names.get(message, "?")

    # Commands.

    def do_nodes(self, words: list[str]) -> None:
        """Make the cluster."""
        settings = dict(word.partition("=")[::2] for word in words[1:])
        barrier = settings.pop("sync", "") == "barrier"
        config = Config.for_nodes(int(words[0]), **{name: _value(name, text) for name, text in settings.items()})
        self._cluster = Cluster(
            int(words[0]),
            config=config,
            conditions=Conditions(delay=HOP, jitter=0.0),
            application=lambda node: TranscriptApplication(self, node, barrier=barrier),
            on_trace=self._on_trace,
        )
        self._cluster.network.filters.append(self._on_packet)

    def do_show(self, words: list[str]) -> None:
        """Choose what is written down."""
        self._shown = set(words)

    def do_start(self, words: list[str]) -> None:
        """Start nodes."""
        self.cluster.start(*map(int, words))

    def _each(self, words: list[str], action: Callable[[SimulatedNode], None]) -> None:
        for word in words:
            action(self.cluster[int(word)])

    def do_crash(self, words: list[str]) -> None:
        """Crash nodes."""
        self._each(words, SimulatedNode.crash)

    def do_leave(self, words: list[str]) -> None:
        """Make nodes leave."""
        self._each(words, SimulatedNode.leave)

    def do_pause(self, words: list[str]) -> None:
        """Pause nodes."""
        self._each(words, SimulatedNode.pause)

    def do_resume(self, words: list[str]) -> None:
        """Resume paused nodes."""
        self._each(words, SimulatedNode.resume)

    def do_lose_store(self, words: list[str]) -> None:
        """Lose what stopped nodes have stored."""
        self._each(words, lambda node: self.cluster.lose_store(node.node_id))

    def do_send(self, words: list[str]) -> None:
        """Send messages from a node."""
        node = self.cluster[int(words[0])]
        guarantee = Guarantee.SAFE if words[1] == "safe" else Guarantee.AGREED
        messages = []
        for word in words[1 + guarantee :]:
            name, _, size = word.partition("*")
            message = node.compose(int(size or 0), GROUP_HEADER)
            self._names[message] = name
            self._contents[name] = message
            messages.append(message)
        node.send(messages, guarantee)

    def do_partition(self, words: list[str]) -> None:
        """Partition the network."""
        self.cluster.network.partition(*(list(map(int, group.split())) for group in " ".join(words).split("|")))

    def do_heal(self, words: list[str]) -> None:
        """Heal the network."""
        self.cluster.network.heal()
        self.cluster.network.filters[:] = [self._on_packet]

    def do_cut(self, words: list[str]) -> None:
        """Cut links in one direction."""
        sources, targets = (list(map(int, group.split())) for group in " ".join(words).split(">"))
        self.cluster.network.cut(sources, targets)

    def do_swallow(self, words: list[str]) -> None:
        """Lose the next packets of a kind."""
        kind = _KINDS.get(words[0])
        options = dict(word.partition("=")[::2] for word in words[1:])
        source_only, target_only = int(options.pop("from", 0)), int(options.pop("to", 0))
        left = int(options.pop("times", 1 << 30))
        if options or (kind is None and words[0] != "any"):
            raise CommandError("swallow KIND [from=N] [to=N] [times=COUNT]")

        def swallows(source: int, target: int, datagram: bytes) -> bool:
            nonlocal left
            hit = (
                left > 0
                and (kind is None or codec.packet_type(datagram) == kind)
                and source_only in (0, source)
                and target_only in (0, target)
            )
            left -= hit
            if hit and "packets" in self._shown:
                self.lines[-1] += " (lost)"
            return hit

        self.cluster.network.filters.append(swallows)

    def do_run(self, words: list[str]) -> None:
        """Let time pass."""
        if words[0] != "until":
            self.cluster.run_for(_seconds(words[0]))
            return
        if words[1] == "ring":
            ids = list(map(int, words[2:]))
            happened = self.cluster.run_until(lambda: self.cluster.one_ring(*ids), _LONGEST_WAIT)
        elif words[1] == "delivered":
            message = self._contents[words[2]]
            nodes = list(map(int, words[3:])) or list(self.cluster.nodes)
            happened = self.cluster.run_until(
                lambda: all(message in self.cluster.delivered(node) for node in nodes), _LONGEST_WAIT
            )
        else:
            raise CommandError("run until ring N ... or run until delivered NAME N ...")
        if not happened:
            self._tell("it does not happen")

    def do_status(self, words: list[str]) -> None:
        """Write down each node's state."""
        for node in self.cluster.nodes.values():
            machine = node.machine
            if machine is None:
                self._tell(f"{node.node_id} is down")
            else:
                paused = " (paused)" if node.paused else ""
                self._tell(
                    f"{node.node_id} is {machine.state.value} on {machine.ring.id} of {_ids(machine.members)}{paused}"
                )

    def do_check(self, words: list[str]) -> None:
        """Let the checkers judge."""
        violations = check(self.cluster.history(quiescent=False))
        self.lines += [str(violation) for violation in violations] or ["extended virtual synchrony holds"]


class TranscriptApplication:
    """The application of a transcript: writes each delivery down, then syncs."""

    def __init__(self, runner: TranscriptRunner, node: SimulatedNode, *, barrier: bool) -> None:
        self._runner = runner
        self._node = node
        self._sync = BarrierSync(node) if barrier else AnswerAtOnce(node)

    def on_delivery(self, delivery: Delivery) -> None:
        """Take a delivery."""
        self._runner.on_delivery(self._node, delivery)
        self._sync.on_delivery(delivery)


def _seconds(text: str) -> float:
    match = re.fullmatch(r"([\d.]+)(ms|s)", text)
    if match is None:
        raise CommandError(f"not a time: {text} (50ms, 2s)")
    return float(match[1]) / (1000 if match[2] == "ms" else 1)


def _value(name: str, text: str) -> Any:
    types = {field.name: field.type for field in fields(Config)}
    if name not in types:
        raise CommandError(f"no such setting: {name}")
    return _seconds(text) if types[name] == "float" else int(text) if "int" in str(types[name]) else text


def rerun(text: str) -> str:
    """Run a transcript and return it as it goes now; equal to `text` if nothing has changed."""
    runner = TranscriptRunner()
    told: list[str] = []
    lines = iter(text.splitlines())
    for line in lines:
        if not line or line.startswith("#"):
            told.append(line)
        elif line == SEPARATOR:
            _skip_paragraph(lines)
            told.append("")
        else:
            output = runner.command(line)
            told += [line, SEPARATOR, *output, ""] if output else [line]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(told)).rstrip("\n") + "\n"


def _skip_paragraph(lines: Iterator[str]) -> None:
    for line in lines:
        if not line:
            return


def main(arguments: list[str] | None = None) -> int:
    """Run transcripts from the command line; return 1 if one goes otherwise than it is written."""
    parser = argparse.ArgumentParser(prog="python -m totem.testing.transcript", description=__doc__.splitlines()[0])
    parser.add_argument("--rewrite", action="store_true", help="write down how the stories go now")
    parser.add_argument("paths", nargs="+", type=Path, metavar="FILE", help="a transcript, or a folder of transcripts")
    options = parser.parse_args(arguments)
    differing = 0
    for path in (
        file for given in options.paths for file in (sorted(given.glob("*.txt")) if given.is_dir() else [given])
    ):
        written = path.read_text()
        told = rerun(written)
        if told == written:
            continue
        differing += 1
        if options.rewrite:
            path.write_text(told)
            print(f"rewrote {path}")
        else:
            names = (str(path), "as it goes now")
            sys.stdout.writelines(
                difflib.unified_diff(written.splitlines(keepends=True), told.splitlines(keepends=True), *names)
            )
    return 1 if differing and not options.rewrite else 0


if __name__ == "__main__":
    sys.exit(main())
