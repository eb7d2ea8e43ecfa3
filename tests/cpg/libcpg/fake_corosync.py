"""A Corosync that is only a list, behind the functions of libcpg and libquorum that ctypes calls, and their callbacks.

It has one node, whose clients are the connections of this process. Every call goes through `FakeCorosync.answer`, where
a test makes it fail or hang, or makes the daemon crash.
"""

from __future__ import annotations

import ctypes
import socket
import threading
import time
from collections import Counter, defaultdict, deque
from functools import partial
from itertools import count

from cpg.libcpg.codes import Code
from cpg.libcpg.library import MOST_MEMBERS, Libraries, _Address, _Name, _RingId

NODE = 1
JOIN, LEAVE, NODEDOWN, NODEUP, PROCDOWN = range(1, 6)
LARGEST_ATOMIC = 2000


class Connection:
    def __init__(self, handle, model):
        self.handle, self.model = handle, model
        self.ours, self.theirs = socket.socketpair()
        self.events = deque()
        self.group = self.name = None
        self.initial_ring_told = False
        self.join_told = False
        self.held = False

    def tell(self, event):
        """Queue a callback: a byte in the socket says so, as in libqb."""
        self.events.append(event)
        if not self.held:
            self.theirs.send(b"\0")

    def release(self):
        """Show everything that was queued while this was `held`."""
        self.held = False
        self.theirs.send(bytes(len(self.events)))


class FakeCorosync:
    def __init__(self, pid, *, has_provider=True):
        self.pid = pid
        self.has_provider = has_provider
        self.clients = {}
        self.trackers = {}
        self.groups = defaultdict(list)
        """Members, (node id, pid), by name."""
        self.ring = (1, 4), (1,)
        self.quorum = True
        self.answers = defaultdict(deque)
        """Codes for the next calls of a function, which then does nothing."""
        self.slow = {}
        """Seconds that calls of a function take."""
        self.calls = Counter()
        self.running = threading.Event()
        """Cleared while the daemon is stopped."""
        self.running.set()
        self.dead = False
        self._handles = count(1)
        self._iterations = {}
        self._lock = threading.RLock()

    @property
    def libraries(self):
        return Libraries(self, self)

    def __getattr__(self, name):
        if not name.startswith(("cpg_", "quorum_")):
            raise AttributeError(name)
        return partial(self.answer, name)

    def answer(self, name, *arguments):
        self.calls[name] += 1
        blocking = name not in ("cpg_dispatch", "quorum_dispatch", "cpg_mcast_joined")
        if blocking:
            self.running.wait()
            time.sleep(self.slow.get(name, 0))
        with self._lock:
            if self.answers[name]:
                return self.answers[name].popleft()
            if self.dead and not name.endswith("finalize"):
                return Code.LIBRARY
            return getattr(self, "on_" + name)(*arguments) or Code.OK

    def die(self, *, visibly=True):
        self.dead = True
        self.running.set()
        if not visibly:
            return
        for connection in (*self.clients.values(), *self.trackers.values()):
            connection.theirs.close()

    # ---- libcpg

    def on_cpg_model_initialize(self, handle, version, model, context):
        assert (version, context, model._obj.flags) == (1, None, 1)
        handle._obj.value = next(self._handles)
        self.clients[handle._obj.value] = Connection(handle._obj.value, model._obj)

    def on_cpg_max_atomic_msgsize_get(self, handle, size):
        size._obj.value = LARGEST_ATOMIC

    def on_cpg_fd_get(self, handle, fd):
        fd._obj.value = self.clients[handle.value].ours.fileno()

    def on_cpg_local_get(self, handle, node_id):
        node_id._obj.value = NODE

    def on_cpg_finalize(self, handle):
        client = self.clients.pop(handle.value)
        if client.group is not None:
            self.remove(client.group, (NODE, self.pid), PROCDOWN)
        client.ours.close()
        client.theirs.close()

    def on_cpg_join(self, handle, name):
        group = name._obj.value
        if any(client.name == group for client in self.clients.values()):
            return Code.EXIST  # also one that has left, until its connection is closed
        self.clients[handle.value].group = self.clients[handle.value].name = group
        self.add(group, (NODE, self.pid), JOIN)

    def on_cpg_leave(self, handle, name):
        client = self.clients[handle.value]
        assert client.group == name._obj.value
        assert client.join_told, "libcpg would ask in a tight loop"
        self.remove(client.group, (NODE, self.pid), LEAVE)
        client.group = None

    def on_cpg_mcast_joined(self, handle, guarantee, iovec, entries):
        assert (guarantee, entries) == (2, 1)
        payload = ctypes.string_at(iovec._obj.base, iovec._obj.length)
        self.deliver(self.clients[handle.value].group, (NODE, self.pid), payload)

    def on_cpg_iteration_initialize(self, handle, kind, name, iteration):
        assert (kind, name) == (3, None)
        iteration._obj.value = next(self._handles)
        entries = [(group, *member) for group, members in self.groups.items() for member in members]
        self._iterations[iteration._obj.value] = iter(entries)

    def on_cpg_iteration_next(self, iteration, description):
        entry = next(self._iterations[iteration.value], None)
        if entry is None:
            return Code.NO_SECTIONS
        group, description._obj.nodeid, description._obj.pid = entry
        description._obj.group = _Name(len(group), group)
        return Code.OK

    def on_cpg_iteration_finalize(self, iteration):
        del self._iterations[iteration.value]

    def on_cpg_dispatch(self, handle, how):
        return self._dispatch(self.clients[handle.value], how)

    # ---- libquorum

    def on_quorum_model_initialize(self, handle, version, model, kind, context):
        assert (version, context) == (1, None)
        handle._obj.value = next(self._handles)
        kind._obj.value = self.has_provider
        self.trackers[handle._obj.value] = Connection(handle._obj.value, model._obj)

    def on_quorum_fd_get(self, handle, fd):
        fd._obj.value = self.trackers[handle.value].ours.fileno()

    def on_quorum_trackstart(self, handle, flags):
        assert flags == 2
        self._tell_nodelist(self.trackers[handle.value])
        self._tell_quorum(self.trackers[handle.value])

    def on_quorum_getquorate(self, handle, quorate):
        quorate._obj.value = self.quorum

    def on_quorum_dispatch(self, handle, how):
        return self._dispatch(self.trackers[handle.value], how)

    def on_quorum_finalize(self, handle):
        tracker = self.trackers.pop(handle.value)
        tracker.ours.close()
        tracker.theirs.close()

    # ---- what happens in the ring

    def add(self, group, member, reason):
        """Make a process join; processes of other nodes have no connection here."""
        members = sorted([*self.groups[group], member])
        self.groups[group] = members
        self.tell(group, ("confchg", members, [], [(*member, reason)]))
        for client in self.in_group(group):
            if not client.initial_ring_told:
                client.initial_ring_told = True
                client.tell(("totem", *self.ring))

    def remove(self, group, *gone):
        *members, reason = gone
        self.groups[group] = [member for member in self.groups[group] if member not in members]
        self.tell(group, ("confchg", self.groups[group], [(*member, reason) for member in members], []))
        if not self.groups[group]:
            del self.groups[group]

    def deliver(self, group, sender, payload):
        self.tell(group, ("deliver", sender, payload))

    def change(self, seq, nodes, quorate, *, quorum_first=False):
        """Complete the sync of a new ring, seen by the two services one after the other."""
        self.ring = (nodes[0], seq), tuple(nodes)
        self.quorum = quorate
        if quorum_first:
            self.tell_quorum()
        for client in self.clients.values():
            client.tell(("totem", *self.ring))
        if not quorum_first:
            self.tell_quorum()

    def tell_quorum(self):
        for tracker in self.trackers.values():
            self._tell_nodelist(tracker)
            self._tell_quorum(tracker)

    def _tell_nodelist(self, tracker):
        tracker.tell(("nodelist", *self.ring))

    def _tell_quorum(self, tracker):
        if self.has_provider:
            tracker.tell(("quorum", self.quorum, *self.ring))
        else:
            tracker.tell(("quorum", True, (0, 0), ()))

    def in_group(self, group):
        return [client for client in self.clients.values() if client.group == group]

    def tell(self, group, event):
        for client in self.in_group(group):
            client.tell(event)

    # ---- calling back

    def _dispatch(self, connection, how):
        assert how == 4, "a dispatch that may block"
        if not connection.events:
            return Code.TRY_AGAIN
        connection.ours.recv(1)
        kind, *values = connection.events.popleft()
        getattr(self, "_call_" + kind)(connection, *values)
        return Code.OK

    def _call_deliver(self, client, sender, payload):
        buffer = ctypes.create_string_buffer(payload, len(payload) or 1)
        client.model.on_deliver(client.handle, ctypes.pointer(_Name()), *sender, ctypes.addressof(buffer), len(payload))

    def _call_confchg(self, client, members, left, joined):
        client.join_told = client.join_told or any(member[:2] == (NODE, self.pid) for member in joined)
        lists = [_addresses([(*member, 0) for member in reversed(members)]), _addresses(left), _addresses(joined)]
        arguments = [part for addresses in lists for part in (addresses, len(addresses))]
        client.model.on_confchg(client.handle, ctypes.pointer(_Name()), *arguments)

    def _call_totem(self, client, ring_id, nodes):
        client.model.on_totem_confchg(client.handle, _RingId(*ring_id), len(nodes), _ids(nodes))

    def _call_nodelist(self, tracker, ring_id, nodes):
        ids = len(nodes), _ids(nodes)
        tracker.model.on_nodelist(tracker.handle, _RingId(*ring_id), *ids, 0, None, 0, None)

    def _call_quorum(self, tracker, quorate, ring_id, nodes):
        tracker.model.on_quorum(tracker.handle, quorate, _RingId(*ring_id), len(nodes), _ids(nodes))

    def _call_raw(self, connection, function, *arguments):
        """Make a callback that no correct library makes."""
        getattr(connection.model, function)(connection.handle, *arguments)


def _addresses(entries):
    return (_Address * len(entries))(*entries)


def _ids(nodes):
    return (ctypes.c_uint32 * max(len(nodes), MOST_MEMBERS))(*nodes)
