"""A network of places on this machine: each place has its own addresses, mounts and shared memory; a switch joins them.

A place lives in namespaces that a sleeping process holds. That is killed by the kernel when this process ends, however
that happens, and so must be all that runs there (`DIE_WITH_US`, or an end of standard input). With its last process a
namespace goes, and with it all that was in it: nothing has a name outside, and nothing is left behind.
"""

from __future__ import annotations

import shutil
import subprocess

PORT = 5405
IPV4, IPV6 = "10.77.0.{}", "fd77::{}"
MAC = "02:00:00:00:00:{:02x}"

TYPES = {"token": 0, "mcast": 1, "merge": 2, "join": 3, "commit": 4, "cancel": 5}
"""Of totem's messages: the fourth byte of a datagram."""
_HEADER = 8
"""Bytes of UDP, from which on nftables counts (`@th`)."""
_KINDS = {kind: f"@th,{8 * (_HEADER + 3)},8 {number}" for kind, number in TYPES.items()} | {
    "barrier": f"udp length {_HEADER + 95} @th,{8 * (_HEADER + 59)},64 {int.from_bytes(b'sync' + bytes(4))}",
}
"""What tells a kind. A barrier of sync is told where it has a frame to itself: the name of its group, its id 0."""

DIE_WITH_US = ("setpriv", "--pdeathsig", "KILL")
"""Put before a command that is started by this thread: the signal comes when that ends, not only with the process."""
NEEDED = ("ip", "nft", "unshare", "nsenter", "setpriv")


def missing():
    """Programs that are needed and not there."""
    return [program for program in NEEDED if shutil.which(program) is None]


class Place:
    """Namespaces of one node: a network of its own and private /run and /dev/shm."""

    def __init__(self, mounts=True):
        private = "mount -t tmpfs tmpfs /run; mount -t tmpfs -o mode=1777 tmpfs /dev/shm; mkdir /run/lock;"
        script = f"set -e; ip link set lo up; {private if mounts else ''} echo ready; exec sleep infinity"
        self.holder = subprocess.Popen(
            [*DIE_WITH_US, "unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        if self.holder.stdout.readline() != b"ready\n":
            raise OSError("a place could not be built: see the errors above")

    def command(self, *command):
        """The command line that runs a command here, with the process id that it is started with."""
        return ["nsenter", "--target", str(self.holder.pid), "--net", "--mount", "--", *map(str, command)]

    def run(self, *command, stdin="", check=True):
        """Run a short command here to its end; return what it printed."""
        done = subprocess.run(
            self.command(*command), input=stdin, capture_output=True, text=True, timeout=60, check=False
        )
        if check and done.returncode != 0:
            raise OSError(f"{' '.join(map(str, command))}: exit code {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def close(self):
        """Kill the holder; what runs here must have ended before."""
        self.holder.kill()
        self.holder.wait()
        self.holder.stdout.close()


class Network:
    """A switch and the places 1 to N that are cabled to it: 10.77.0.K or fd77::K on their `eth0`."""

    def __init__(self, count, *, ipv6=False, mtu=1500):
        self.address = (IPV6 if ipv6 else IPV4).format
        self.places = {}
        self.switch = Place(mounts=False)
        try:
            self._ip(
                self.switch,
                "link add br0 mtu {mtu} type bridge stp_state 0 mcast_snooping 0",
                "link set br0 up",
                mtu=mtu,
            )
            for k in range(1, count + 1):
                self._add_place(k, ipv6, mtu)
            for k, place in self.places.items():
                self._introduce(place, set(self.places) - {k})
        except BaseException:
            self.close()
            raise

    def _add_place(self, k, ipv6, mtu):
        place = self.places[k] = Place()
        self._ip(
            self.switch,
            "link add v{k} mtu {mtu} type veth peer name eth0 netns {pid}",
            "link set v{k} master br0 up",
            k=k,
            mtu=mtu,
            pid=place.holder.pid,
        )
        self._ip(
            place,
            "link set eth0 mtu {mtu} address {mac}",
            f"addr add {self.address(k)}/{64 if ipv6 else 24} dev eth0{' nodad' * ipv6}",
            "link set eth0 up",
            "route add 224.0.0.0/4 dev eth0",
            mtu=mtu,
            mac=MAC.format(k),
        )

    def _introduce(self, place, others):
        """Tell a place where the others are: what all namespaces find out for themselves has one bound in the kernel,
        of 1,024 neighbours, which two networks of 32 places are beyond.
        """
        line = "neigh add {} lladdr {} dev eth0 nud permanent"
        self._ip(place, *(line.format(self.address(k), MAC.format(k)) for k in others))

    @staticmethod
    def _ip(place, *lines, **values):
        place.run("ip", "-batch", "-", stdin="".join(line.format(**values) + "\n" for line in lines))

    def close(self):
        """Take everything away."""
        for place in [*self.places.values(), self.switch]:
            place.close()

    # ---- faults

    def split(self, *parts):
        """Cut the network into parts, each a set of places."""
        for number, part in enumerate(parts):
            bridge = f"br{number}"
            if number and bridge not in self.switch.run("ip", "-o", "link", "show", "type", "bridge"):
                self._ip(
                    self.switch, f"link add {bridge} type bridge stp_state 0 mcast_snooping 0", f"link set {bridge} up"
                )
            self._ip(self.switch, *(f"link set v{k} master {bridge}" for k in part))

    def heal(self):
        """Join all parts, and end all drops."""
        self._ip(self.switch, *(f"link set v{k} master br0" for k in self.places))
        for place in self.places.values():
            place.run("nft", "flush ruleset")

    def drop(self, k, *, source=None, kind=None, origin=None, percent=100):
        """Have place K lose datagrams that come in: from one place, of one of totem's `TYPES` or a `barrier` of sync
        that has a frame to itself, multicasts of one origin (whoever sends them again), a part of them.

        A train of frames (UDP_SEGMENT) is one packet here, and lost as a whole: see `one_by_one`.
        """
        family = "ip6" if ":" in self.address(1) else "ip"
        rule = [f"udp dport {PORT}"]
        if source is not None:
            rule.append(f"{family} saddr {self.address(source)}")
        if kind is not None:
            rule.append(_KINDS[kind])
        if origin is not None:
            rule.append(f"@th,{8 * (_HEADER + 13)},32 {int.from_bytes(origin.to_bytes(4, 'little'))}")
        if percent < 100:
            rule.append(f"numgen random mod 100 < {percent}")
        chain = "add table inet f; add chain inet f in { type filter hook input priority 0; }"
        self.places[k].run("nft", f"{chain}; add rule inet f in {' '.join(rule)} drop")

    def narrow(self, k, mtu):
        """Have the switch's port of place K carry no packets of more than `mtu` bytes; K itself knows nothing of it."""
        self._ip(self.switch, f"link set v{k} mtu {mtu}")

    def one_by_one(self):
        """Have trains of frames cut at their senders, so that each frame is a packet of its own."""
        for place in self.places.values():
            place.run("ip", "link", "set", "eth0", "gso_max_segs", "1")
