"""Searches for datagrams that break the promises of `totem.links`.

    python -m tests.totem.links.fuzz_links --runs N [--seed S]

A node with sealed links, one with signed links and one in clear get mutations of what their neighbours have sent, from
all addresses. In half of them the attacker has the key, and mutates what is inside. The promises: nothing raises; the
memory that is held has a bound; and where the attacker has not the key, nothing that was not sealed by a neighbour is
handed on. A failure prints the seed of its step.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys

from tests.totem.links.nets import Net, config, packet
from tests.totem.wire.fuzz_wire import mutate
from totem.wire import knet

KEY = random.Random(5).randbytes(256)
KINDS = {
    "sealed": {"cipher": "aes256", "hash": "sha256", "key": KEY},
    "signed": {"hash": "sha1", "key": KEY},
    "clear": {},
}


class Attack:
    """A node under attack."""

    def __init__(self, kind: str, seed: int) -> None:
        self.kind = kind
        self.net = Net(config(3, 2, **KINDS[kind])).start()
        self.net.run(2)
        for size in (13, 100, 1400, 5000):
            self.net.send(2, 0, packet(size, fill=b"s"))
            self.net.send(2, 1, packet(size, fill=b"s"))
        self.net.run(0.1)
        self.sent = {datagram for _, _, target, _, datagram in self.net.wire if target == 1}
        self.corpus = sorted(self.sent)
        self.inside = [opened for opened in self.net[1]._keys.open(self.corpus, 0.0) if opened is not None]
        self.target = self.net[1]
        self.target.notice = lambda cause, text: None
        self.seed = seed

    def step(self, number: int) -> None:
        """Give it a few datagrams, as from one read of a socket."""
        dice = random.Random(f"{self.seed} {number}")
        net, has_key = self.net, dice.random() < 0.5
        datagrams = [self._datagram(dice, has_key=has_key) for _ in range(dice.choice((1, 1, 4, 16)))]
        source = f"10.{dice.randrange(2)}.0.{dice.choice((1, 2, 2, 3, 9))}"
        believed = self.target.receive(dice.randrange(2), source, datagrams, net.now)
        if self.kind != "clear" and not has_key:
            assert not believed or self.sent.intersection(datagrams), f"believed without the key: {believed}"
        self.target.take()
        self.target.take_changes()
        net.now += dice.choice((0.0, 0.0, 0.001, 0.3))
        if self.target.deadline <= net.now:
            self.target.advance(net.now)
            self.target.take()

    def _datagram(self, dice: random.Random, *, has_key: bool) -> bytes:
        if not has_key:
            return mutate(dice.choice(self.corpus), dice, self.corpus)
        inside = mutate(dice.choice(self.inside), dice, self.inside)
        if dice.random() < 0.5:  # what comes first decides most
            kind = dice.choice((knet.DATA, knet.PING, knet.PONG, knet.PROBE, knet.PROBE_REPLY, dice.randrange(256)))
            inside = knet.prefix(kind, dice.choice((1, 2, 3, 9))) + inside[knet.PREFIX_BYTES :]
        return self.net[2]._keys.seal((inside,))[0]


def run(runs: int, seed: int) -> dict[str, int]:
    """Run so many steps against each kind of node; return what was dropped, by cause."""
    drops: dict[str, int] = {}
    for kind in KINDS:
        attack = Attack(kind, seed)
        for number in range(runs):
            try:
                attack.step(number)
            except BaseException:
                print(f"{kind}: seed {seed}, step {number}", file=sys.stderr)
                raise
        for cause, count in attack.target.drops.items():
            drops[cause] = drops.get(cause, 0) + count
    return drops


def main() -> None:
    """Read the arguments, and run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for cause, count in sorted(run(options.runs, options.seed).items()):
        print(f"{count:12,} {cause}")
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"largest size of this process: {before // 1024} MiB before, {after // 1024} MiB after")


if __name__ == "__main__":
    main()
