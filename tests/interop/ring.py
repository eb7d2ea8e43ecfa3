"""A ring of real Corosync nodes and of ours, in places on one machine.

    with MixedRing(tmp_path, 3) as ring:              # three places, in one nodelist
        await ring.start_corosync(1, 2)
        async with trio.open_nursery() as nursery:
            ours = await ring.start_member(nursery, 3, "chat")              # one of our nodes, embedded
            client = await ring.start_client(nursery, 1, "chat")            # a program on a real node, through libcpg
            await ring.wait_ring(1, 2, 3)
            ...
        await ring.check_health(1, 2, 3)

Nodes of ours are processes too (`tests.interop.member`); they and the programs on real nodes take orders and write down
what they see. Whatever is still running at the end is killed.
"""

from __future__ import annotations

import random
import re
import signal
import subprocess
import tempfile
from pathlib import Path

import trio

from tests.cpg.processes import Program
from tests.interop.network import DIE_WITH_US, Network

PATIENCE = 60
"""Seconds for what takes some, on a loaded machine."""
GLANCE = 0.1
"""Seconds between two looks at what tells no news."""

LOGGED_ANYWAY = re.compile(
    r" (debug|info|notice) +\[\w+ *\] "
    r"|Could not increase RLIMIT_MEMLOCK"  # no privilege of containers
    r"|Could not (get|set) RLIMIT|Could not set SCHED|Can't change IO priority"
    r"|Watchdog not enabled by configuration|missing a recovery key"  # configured without it
    r"|Corosync main process was not scheduled"  # a busy machine, which short timeouts of tests do not wait for
    r"|event_send retuned -32"  # a client was killed
    r"|Denied connection, is not ready"  # a client came before the first sync was complete, and tries again
    r"|\[KNET *\] host: host: \d+ has no active links"  # of each other node at a start, and of those that are gone
)
"""Lines of Corosync's log that say nothing about the ring."""


class MixedRing:
    """Places 1 to N with one configuration; each has a real Corosync node, one of ours, or none."""

    def __init__(
        self,
        folder,
        count,
        *,
        transport="udpu",
        token=3000,
        totem=(),
        quorum=("provider: corosync_votequorum",),
        nodelist=(),
        ipv6=False,
        served=False,
        daemon=(),
        mtu=1500,
        debug="on",
        network=Network,
        secrets=None,
        links=1,
        link_mode="passive",
        logs=False,
    ):
        """`totem`, `quorum`, `daemon` (cpgd): lines of these sections. `nodelist`: for each node a list of lines.
        `token`: None leaves it out, so that each make has its own defaults.

        `network`: what makes the places. With transport knet: `secrets`, a cipher and a hash, for which each node gets
        the same key file; the number of `links`, and `link_mode`. `logs`: what our daemons log is kept (`log`).
        """
        self.folder = folder
        self._logs = logs
        self.served = served
        """Whether programs on our nodes are behind `cpgd`."""
        self._sockets = tempfile.TemporaryDirectory(prefix="cpgd-")  # names of sockets must be short
        self.has_quorum = bool(quorum)
        further = {"links": links, "knet": True, "sealed": bool(secrets)} if transport == "knet" else {}
        self.network = network(count, ipv6=ipv6, mtu=mtu, **further)
        self.corosyncs = {}
        """Real nodes that run, by place."""
        self.config = {k: folder / str(k) / "corosync.conf" for k in self.network.places}
        cipher, hash_name = secrets or ("none", "none")
        key = random.randbytes(256)
        address = self.network.address
        nodes = [
            [
                f"nodeid: {k}",
                f"name: node{k}",
                *(f"ring{link}_addr: {address(k, link)}" for link in range(links)),
                *(nodelist[k - 1] if nodelist else ()),
            ]
            for k in self.network.places
        ]
        for path in self.config.values():
            (path.parent / "state").mkdir(parents=True)
            if secrets:
                key_file = path.parent / "authkey"
                key_file.touch(0o400)
                key_file.write_bytes(key)
            path.write_text(
                _section(
                    "totem",
                    "version: 2",
                    "cluster_name: interop",
                    f"transport: {transport}",
                    *([] if token is None else [f"token: {token}"]),
                    f"crypto_cipher: {cipher}",
                    f"crypto_hash: {hash_name}",
                    *([f"keyfile: {path.parent / 'authkey'}"] if secrets else []),
                    *([f"link_mode: {link_mode}"] if links > 1 else []),
                    *(["ip_version: ipv6"] if ipv6 else []),
                    *totem,
                )
                + _section("system", f"state_dir: {path.parent / 'state'}", "sched_rr: no", "move_to_root_cgroup: no")
                + _section("logging", "to_stderr: yes", "to_syslog: no", "timestamp: hires", f"debug: {debug}")
                + (_section("quorum", *quorum) if quorum else "")
                + (_section("cpgd", *daemon) if daemon else "")
                + _section("nodelist", *(_section("node", *lines) for lines in nodes))
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """End all real nodes and take the places away."""
        for k in list(self.corosyncs):
            self.kill_corosync(k)
        self.network.close()
        self._sockets.cleanup()

    def place(self, k):
        """Place K, to run commands in."""
        return self.network.places[k]

    # ---- real nodes

    async def start_corosync(self, *places):
        """Start real nodes; return when they answer."""
        for k in places:
            with self.log_path(k).open("a") as log:
                self.corosyncs[k] = subprocess.Popen(
                    self.place(k).command(*DIE_WITH_US, *self.daemon(k)),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
        for k in places:
            with trio.fail_after(PATIENCE):
                while not self.members_at(k):
                    if self.corosyncs[k].poll() is not None:
                        raise OSError(f"the real node {k} has ended: {self.log(k)[-5:]}")
                    await trio.sleep(GLANCE)

    def daemon(self, k):
        """The command line of what is started as a real node."""
        return ("corosync", "-f", "-c", self.config[k])

    def kill_corosync(self, k):
        """End a real node with SIGKILL."""
        process = self.corosyncs.pop(k)
        process.kill()
        process.wait()

    async def stop_corosync(self, k):
        """Have a real node leave in order."""
        process = self.corosyncs.pop(k)
        process.send_signal(signal.SIGTERM)
        with trio.fail_after(PATIENCE):
            while process.poll() is None:
                await trio.sleep(GLANCE)

    def log_path(self, k):
        return self.folder / str(k) / "log"

    def log(self, k):
        """All whole lines that the node has logged: a real one, or a daemon of ours with `logs`."""
        return self.log_path(k).read_text(errors="replace").split("\n")[:-1]

    def complaints(self, k):
        """What it has logged above `notice`, and not because of this machine or these tests."""
        return [line for line in self.log(k) if not LOGGED_ANYWAY.search(line)]

    def cmap(self, k, prefix, map_name="icmap"):
        """Keys and values of the real node's cmap below a prefix, as text."""
        lines = self.place(k).run("corosync-cmapctl", "-m", map_name, "-b", prefix, check=False).splitlines()
        return {
            key: value
            for key, _, value in (re.split(r" \(\w+\) = |( = )", line, maxsplit=1) for line in lines if " = " in line)
        }

    def members_at(self, k):
        """Nodes that the real node takes for members of its ring."""
        keys = self.cmap(k, "runtime.members.")
        return tuple(
            sorted(
                int(key.split(".")[2]) for key, value in keys.items() if key.endswith(".status") and value == "joined"
            )
        )

    def rings_at(self, k):
        """How many rings the real node has installed."""
        return int(self.cmap(k, "stats.srp.operational_entered", "stats")["stats.srp.operational_entered"])

    async def wait_ring(self, *members):
        """Wait until all real nodes among `members` have these for their ring."""
        with trio.fail_after(PATIENCE):
            for k in members:
                while k in self.corosyncs and self.members_at(k) != members:
                    await trio.sleep(GLANCE)

    async def check_health(self, *members, besides="$^"):
        """Assert that every tool of Corosync shows a healthy ring of these nodes, and that no real node complains.

        `besides`: a pattern of what they may complain of, since a test has made it so.
        """
        await self.wait_ring(*members)
        for k in self.corosyncs:
            place = self.place(k)
            if self.has_quorum:
                quorum = place.run("corosync-quorumtool", "-s")
                assert re.search(r"^Quorate: +Yes$", quorum, re.MULTILINE), quorum
                table = quorum.partition("Membership information")[2]
                assert _node_ids(r"^ +(\d+) +[1-9]\d* ", table) == members, quorum
            others = (len(self.network.places) - 1) * len(self.network.links)
            with trio.fail_after(PATIENCE):  # a real node may show a member as connected a little after the ring
                while place.run("corosync-cfgtool", "-s").count("\tconnected") != others:
                    await trio.sleep(GLANCE)
            assert not [line for line in self.complaints(k) if not re.search(besides, line)]

    def groups_at(self, k):
        """Members (pid, node id) that `corosync-cpgtool` shows of each group."""
        groups, members = {}, None
        for line in self.place(k).run("corosync-cpgtool").splitlines()[1:]:
            fields = line.split()
            if not line.startswith("\t"):
                members = groups[line.removesuffix("\\x00")] = []
            elif fields:
                members.append((int(fields[0]), int(fields[1])))
        return groups

    # ---- programs

    async def start_program(self, nursery, k, *arguments, log=None):
        """Start a Python module at place K; it is killed when the nursery ends. `log`: a file for its errors."""
        return await Program(arguments, self.place(k).command(), log).start(nursery)

    async def start_member(self, nursery, k, group):
        """Start one of our nodes with a program in a group."""
        ring = ("-c", self.config[k], "--node", k)
        return await self.start_program(nursery, k, "tests.interop.member", group, *ring)

    async def start_daemon(self, nursery, k):
        """Start `cpgd` at place K; return when it serves."""
        self.socket(k).unlink(missing_ok=True)  # of one that was killed
        command = ("cpg.daemon", "-c", self.config[k], "--node", k, "--socket", self.socket(k))
        daemon = await self.start_program(nursery, k, *command, log=self.log_path(k) if self._logs else None)
        with trio.fail_after(PATIENCE):
            while not self.socket(k).exists():
                await trio.sleep(GLANCE)
        return daemon

    def socket(self, k):
        """Where the daemon at place K is reached."""
        return Path(self._sockets.name, f"{k}")

    async def start_served(self, nursery, k, group):
        """Start a program in a group on the daemon at K."""
        return await self.start_program(nursery, k, "tests.interop.member", group, "--socket", self.socket(k))

    async def start_client(self, nursery, k, group):
        """Start a program in a group on the real node at K."""
        return await self.start_program(nursery, k, "tests.interop.member", group, "--corosync")


def _node_ids(pattern, text):
    return tuple(sorted(map(int, re.findall(pattern, text, re.MULTILINE))))


def _section(name, *lines):
    text = "".join(line if line.endswith("\n") else f"    {line}\n" for line in lines)
    return f"{name} {{\n{text}}}\n"
