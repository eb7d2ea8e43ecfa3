"""A network of places on this machine: each place has its own addresses, mounts and shared memory; a switch joins them.

A place lives in namespaces that a sleeping process holds. That is killed by the kernel when this process ends, however
that happens, and so must be all that runs there (`DIE_WITH_US`, or an end of standard input). With its last process a
namespace goes, and with it all that was in it: nothing has a name outside, and nothing is left behind.
"""

from __future__ import annotations

import os
import shutil
import subprocess

import trio

PORT = 5405
"""Of link 0; each further link has the next one."""
IPV4, IPV6 = "10.{}.0.{}", "fd{}::{}"
FIRST = 77
"""What link 0 has in these addresses; each further link has the next number."""
MAC = "02:00:00:00:{:02x}:{:02x}"

TYPES = {"token": 0, "mcast": 1, "merge": 2, "join": 3, "commit": 4, "cancel": 5}
"""Of totem's messages: the fourth byte of a datagram."""
_UDP = 8
"""Bytes of UDP, from which on nftables counts (`@th`)."""
_KNET = 14
"""Bytes of knet before totem's in a data packet, whose second byte is 0."""

DIE_WITH_US = ("setpriv", "--pdeathsig", "KILL")
"""Put before a command that is started by this thread: the signal comes when that ends, not only with the process."""
NEEDED = ("ip", "nft", "unshare", "nsenter", "setpriv")


def missing():
    """Programs that are needed and not there."""
    return [program for program in NEEDED if shutil.which(program) is None]


def unavailable():
    """Why no places can be made here; empty if they can."""
    if os.geteuid() != 0:
        return "namespaces need root"
    if absent := missing():
        return f"not installed: {', '.join(absent)}"
    return subprocess.run(
        ["unshare", "--net", "--mount", "true"], capture_output=True, text=True, check=False
    ).stderr.strip()


def run_if_possible(program, options):
    """The exit code of an async program that makes places; where none can be made it says so, which is no failure."""
    if why := unavailable():
        print(f"not run: {why}")
        return 0
    return trio.run(program, options)


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
    """Places 1 to N, cabled to a switch for each link: link 0 with 10.77.0.K or fd77::K on their `eth0`, link 1 with
    10.78.0.K or fd78::K on their `eth1`, and so on.
    """

    def __init__(self, count, *, ipv6=False, mtu=1500, links=1, knet=False, sealed=False):
        """`knet`: what is sent is knet's. `sealed`: it is encrypted, so kinds of datagrams cannot be told (`drop`)."""
        self.links = range(links)
        self._addresses = IPV6 if ipv6 else IPV4
        self._before = _UDP + (_KNET if knet else 0)
        self._knet = knet
        self.sealed = sealed
        self.places = {}
        self.switch = Place(mounts=False)
        try:
            for link in self.links:
                self._ip(
                    self.switch,
                    "link add br{link} mtu {mtu} type bridge stp_state 0 mcast_snooping 0",
                    "link set br{link} up",
                    link=link,
                    mtu=mtu,
                )
            for k in range(1, count + 1):
                self.places[k] = Place()
                for link in self.links:
                    self._cable(k, link, ipv6, mtu)
            for place in self.places.values():
                self._ip(place, "route add 224.0.0.0/4 dev eth0")
            for k in self.places:
                self._introduce(k, set(self.places) - {k})
        except BaseException:
            self.close()
            raise

    def address(self, k, link=0):
        """The address of place K on a link."""
        return self._addresses.format(FIRST + link, k)

    def _cable(self, k, link, ipv6, mtu):
        place = self.places[k]
        names = {"port": _port(k, link), "link": link, "mtu": mtu}
        self._ip(
            self.switch,
            "link add {port} mtu {mtu} type veth peer name eth{link} netns {pid}",
            "link set {port} master br{link} up",
            pid=place.holder.pid,
            **names,
        )
        self._ip(
            place,
            "link set eth{link} mtu {mtu} address {mac}",
            f"addr add {self.address(k, link)}/{64 if ipv6 else 24} dev eth{link}{' nodad' * ipv6}",
            "link set eth{link} up",
            mac=MAC.format(link, k),
            **names,
        )

    def _introduce(self, k, others):
        """Tell a place where the others are: what all namespaces find out for themselves has one bound in the kernel,
        of 1,024 neighbours, which two networks of 32 places are beyond.
        """
        line = "neigh add {} lladdr {} dev eth{} nud permanent"
        ways = ((other, link) for other in others for link in self.links)
        self._ip(self.places[k], *(line.format(self.address(*way), MAC.format(*reversed(way)), way[1]) for way in ways))

    @staticmethod
    def _ip(place, *lines, **values):
        place.run("ip", "-batch", "-", stdin="".join(line.format(**values) + "\n" for line in lines))

    def close(self):
        """Take everything away."""
        for place in [*self.places.values(), self.switch]:
            place.close()

    # ---- faults

    def split(self, *parts):
        """Cut the network into parts, each a set of places, on all links."""
        bridges = self.switch.run("ip", "-o", "link", "show", "type", "bridge")
        for link in self.links:
            for number, part in enumerate(parts):
                bridge = f"br{link}.{number}" if number else f"br{link}"
                if f"{bridge}:" not in bridges:
                    self._ip(
                        self.switch,
                        f"link add {bridge} type bridge stp_state 0 mcast_snooping 0",
                        f"link set {bridge} up",
                    )
                self._ip(self.switch, *(f"link set {_port(k, link)} master {bridge}" for k in part))

    def heal(self):
        """Join all parts, and end all drops."""
        self._ip(
            self.switch, *(f"link set {_port(k, link)} master br{link}" for k in self.places for link in self.links)
        )
        for k in self.places:
            self.undo(k)

    def undo(self, k):
        """End what place K loses and rejects."""
        self.places[k].run("nft", "flush ruleset")

    def unplug(self, k):
        """Cut the cables of place K at the switch, where neither it nor anybody else is told."""
        self._ip(self.switch, *(f"link set {_port(k, link)} down" for link in self.links))

    def plug(self, k):
        """Mend them."""
        self._ip(self.switch, *(f"link set {_port(k, link)} up" for link in self.links))

    def drop(self, k, *, source=None, kind=None, origin=None, percent=100):
        """Have place K lose datagrams that come in: from one place, of one of totem's `TYPES` or a `barrier` of sync
        that has a frame to itself, multicasts of one origin (whoever sends them again), a part of them.

        A train of frames (UDP_SEGMENT) is one packet here, and lost as a whole: see `one_by_one`.
        """
        rule = [f"udp dport {PORT}-{PORT + self.links[-1]}"]
        if source is not None:
            rule.append(self._from(source))
        assert not (self.sealed and (kind or origin)), "what is encrypted looks all alike"
        if self._knet and (kind or origin):
            rule.append(self._byte_at(1 - _KNET, 8, 0))
        if kind == "barrier":
            # The name of its group, its id 0.
            rule += [f"udp length {self._before + 95}", self._byte_at(59, 64, int.from_bytes(b"sync" + bytes(4)))]
        elif kind is not None:
            rule.append(self._byte_at(3, 8, TYPES[kind]))
        if origin is not None:
            rule.append(self._byte_at(13, 32, int.from_bytes(origin.to_bytes(4, "little"))))
        self._add_rule(k, *rule, *_some(percent), "drop")

    def reject(self, k, source, *, percent=100):
        """Have a firewall at place K refuse what comes from one place, or a part of it, as if no process were there."""
        ports = f"udp dport {PORT}-{PORT + self.links[-1]}"
        self._add_rule(k, self._from(source), ports, *_some(percent), "reject with icmpx port-unreachable")

    def cut(self, k, link, *, hears=False, is_heard=False):
        """Have place K hear nobody on one link any more, and nobody hear it, but as said."""
        if not hears:
            self._add_rule(k, f"iifname eth{link}", "drop")
        if not is_heard:
            for other in set(self.places) - {k}:
                self._add_rule(other, self._from(k, link), "drop")

    def _add_rule(self, k, *rule):
        chain = "add table inet f; add chain inet f in { type filter hook input priority 0; }"
        self.places[k].run("nft", f"{chain}; add rule inet f in {' '.join(rule)}")

    def _from(self, *way):
        address = self.address(*way)
        return f"{'ip6' if ':' in address else 'ip'} saddr {address}"

    def _byte_at(self, place, bits, value):
        """What tells that totem's packet has a value at one place."""
        return f"@th,{8 * (self._before + place)},{bits} {value}"

    def narrow(self, k, mtu, link=0):
        """Have the switch's port of place K carry no packets of more than `mtu` bytes; K itself knows nothing of it."""
        self._ip(self.switch, f"link set {_port(k, link)} mtu {mtu}")

    def one_by_one(self):
        """Have trains of frames cut at their senders, so that each frame is a packet of its own."""
        for place in self.places.values():
            self._ip(place, *(f"link set eth{link} gso_max_segs 1" for link in self.links))


def _some(percent):
    """What picks a part at random."""
    return [f"numgen random mod 100 < {percent}"] if percent < 100 else []


def _port(k, link):
    """The switch's end of the cable of place K on a link."""
    return f"v{k}.{link}"
