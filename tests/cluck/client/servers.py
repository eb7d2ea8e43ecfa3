"""Real lock servers on an order that a list makes, and the ways of a client to them.

What is done is done at once: when a client has said something, all that comes of it has come when that returns.
"""

import random
import socket
import threading
from collections import deque
from pathlib import Path

import anyio

from cluck.commands import Force
from cluck.errors import ConnectionLost
from cluck.protocol import VERSION, Hello, records, upward
from cluck.server.service import Service
from cpg.events import Confchg, Member, Message, Quorum, Reason, TotemConfchg, Transitional
from cpg.local.client_socket import NoDaemon
from cpg.replication.electorate import Electorate
from cpg.replication.replica import ReplicaSettings
from totem.configuration import Level, RingId


class Cluster:
    """Lock servers on nodes 1, 2 and 3. Clients connect to node 1."""

    def __init__(self, clock=lambda: 0.0, *, ahead=0.0):
        """`ahead`: what the servers' clock is ahead of `clock`."""
        self.clock = lambda: clock() + ahead
        self.said = []
        """All that clients have said."""
        self.key = b"key"
        """By which a server's next life knows its clients again."""
        self.is_stopped = False
        """Nothing is ordered."""
        self._unread = None
        """What the lock server of node 1 is to read when it goes on; None: it does not stand still."""
        self._electorate = Electorate(dict.fromkeys((1, 2, 3), 1))
        self._members = {}
        self._services = {}
        self._records = {}
        self._lives = 0
        self._rings = 0
        self._parts = [(1, 2, 3)]
        for node in (1, 2, 3):
            self._start(node)
        self._change_ring(())
        assert self.service.readiness == (True, "")
        self._administrator = self._services[2].connect(lambda said: None)
        self._administrator.receive([Hello(VERSION, "administrator")], self.clock())

    # ---- what tests look at

    @property
    def service(self):
        """The lock server that clients connect to."""
        return self._services[1]

    @property
    def state(self):
        """What the majority has."""
        return self._services[2].replica.state

    def holders(self, name):
        lock = self.state.table.locks.get(name)
        return [ticket.token for ticket in lock.holders] if lock else []

    def waiting(self, name):
        lock = self.state.table.locks.get(name)
        return len(lock.waiting) if lock else 0

    def waiters(self, name):
        condition = self.state.conditions.by_name.get(name)
        return condition.waiters if condition else []

    def candidates(self, name):
        election = self.state.elections.by_name.get(name)
        return election.candidates if election else []

    @property
    def kinds_said(self):
        return [type(said).__name__ for said in self.said]

    # ---- what tests do

    def force(self, name):
        """Have an administrator at another node take a lock."""
        (token,) = self.holders(name)
        self._administrator.receive([Force(name, token)], self.clock())
        self.settle()

    def cut_off(self):
        """Leave node 1 alone."""
        self._parts = [(1,), (2, 3)]
        self._change_ring((1, 2, 3))

    def merge(self):
        self._parts = [(1, 2, 3)]
        self._change_ring((1, 2, 3))

    def restart(self, *, key=b"key"):
        """Let the lock server of node 1 crash and begin another life, which knows its clients by the key."""
        self.key = key
        left = {self._members[1]: Reason.PROCDOWN}
        del self._services[1]
        self._deliver_change((2, 3), left, {})
        self.settle()
        self._start(1)
        self._deliver_change((1, 2, 3), {}, {self._members[1]: Reason.JOIN})
        self.settle()

    def stand_still(self):
        """Stop the servers where they are: nothing is read, done or said by them."""
        self.is_stopped, self._unread = True, []

    def go_on(self):
        """Let them read what has come meanwhile."""
        unread, self._unread, self.is_stopped = self._unread, None, False
        for read in unread:
            read()
        self.settle()

    def when_it_reads(self, read):
        """Have the lock server of node 1 read something, now or when it goes on."""
        if self._unread is None:
            read()
            self.settle()
        else:
            self._unread.append(read)

    def advance(self):
        """Let the servers see the time."""
        if self._unread is not None:
            return
        for service in self._services.values():
            if service.deadline <= self.clock():
                service.advance(self.clock())
        self.settle()

    def connect(self, put):
        return Connection(self, self.service.connect(put))

    # ---- the order

    def _start(self, node):
        self._lives += 1
        self._members[node] = Member(node, self._lives)
        dice = random.Random(self._lives)
        settings = ReplicaSettings(electorate=self._electorate, in_process=False)
        self._services[node] = Service(
            self._members[node], settings, self._records.get(node), dice=dice, now=self.clock(), key=self.key
        )

    def _change_ring(self, former):
        self._rings += 1
        for part in self._parts:
            here = {self._members[node] for node in part}
            for node in part:
                service = self._services[node]
                known = [self._members[other] for other in former]
                gone = [member for member in known if member not in here]
                new = sorted(here - set(known)) if former else []
                for event in (
                    Transitional(part),
                    Confchg(tuple(sorted(here)), dict.fromkeys(gone, Reason.NODEDOWN), dict.fromkeys(new, Reason.JOIN)),
                    TotemConfchg(RingId(part[0], self._rings), part),
                    Quorum(len(part) > 1, part),
                ):
                    service.event(event, self.clock())
        self.settle()

    def _deliver_change(self, nodes, left, joined):
        members = tuple(sorted(self._members[node] for node in nodes))
        for node in nodes:
            if self._members[node] in joined:
                self._services[node].event(Confchg(members, {}, joined), self.clock())
                self._services[node].event(TotemConfchg(RingId(1, self._rings), (1, 2, 3)), self.clock())
                self._services[node].event(Quorum(True, (1, 2, 3)), self.clock())
            else:
                self._services[node].event(Confchg(members, left, joined), self.clock())

    def settle(self):
        """Order and do everything that somebody has to say."""
        while not self.is_stopped and sum(self._turn(node) for node in list(self._services)):
            pass

    def _turn(self, node):
        service = self._services[node]
        record = service.record_to_store
        if record is not None:
            self._records[node] = record
            service.stored(record)
        messages = service.take(self.clock())
        (part,) = [part for part in self._parts if node in part]
        for data in messages:
            for other in part:
                if other in self._services:
                    self._services[other].event(Message(self._members[node], data, Level.SAFE), self.clock())
        return bool(messages) or record is not None


class Connection:
    """One of a client to the lock server of node 1."""

    def __init__(self, cluster, connection):
        self._cluster = cluster
        self._connection = connection

    def receive(self, said):
        self._cluster.said += said
        self._cluster.when_it_reads(lambda: self._connection.receive(said, self._cluster.clock()))

    def lost(self):
        self._cluster.when_it_reads(lambda: self._connection.lost(self._cluster.clock(), dead=False))


# ---- in the program's own loop


class Handed:
    """A transport within the process, for programs on trio and on asyncio."""

    def __init__(self, cluster, clock=lambda: 0.0):
        self.cluster = cluster
        self.clock = clock
        self.is_up = True
        self.tries = 0
        """While it was not."""
        self._lines = []

    async def open(self):
        if not self.is_up:
            self.tries += 1
            raise NoDaemon("the daemon is away")
        line = HandedLink(self.cluster)
        self._lines.append(line)
        return line

    def hear(self, said):
        """Have the client told something."""
        self._lines[-1].put(said)

    def cut(self):
        """Break the connection."""
        for line in self._lines:
            line.cut()
        self._lines.clear()


class HandedLink:
    def __init__(self, cluster):
        self._said = deque()
        self._news = anyio.Event()
        self._is_cut = False
        self._connection = cluster.connect(self.put)

    def put(self, said):
        self._said.append(said)
        self._news.set()

    def cut(self):
        if not self._is_cut:
            self._is_cut = True
            self._connection.lost()
            self._news.set()

    def send(self, records):
        if not self._is_cut:
            self._connection.receive(records)

    async def receive(self):
        while not self._said:
            if self._is_cut:
                raise ConnectionLost("the connection was cut")
            self._news = anyio.Event()
            await self._news.wait()
        said = list(self._said)
        self._said.clear()
        return said

    async def carry(self):
        await anyio.sleep_forever()

    def abandon(self):
        pass

    async def close(self):
        self.cut()


# ---- behind a socket


class SocketServer:
    """The lock server of node 1 behind a real socket, in threads of its own: `with SocketServer(path, cluster)`."""

    def __init__(self, path, cluster):
        self.path = Path(path)
        self.cluster = cluster
        self.lock = threading.RLock()
        """Hold it to touch the cluster."""
        self._socks = set()
        self._threads = []

    def __enter__(self):
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.path.unlink(missing_ok=True)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._start(self._accept)
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.path.unlink()
        self.cut()
        for thread in self._threads:
            thread.join()

    def cut(self):
        """Break all connections."""
        with self.lock:
            for sock in self._socks:
                sock.shutdown(socket.SHUT_RDWR)

    def _start(self, target, *args):
        thread = threading.Thread(target=target, args=args)
        self._threads.append(thread)
        thread.start()

    def _accept(self):
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self.lock:
                self._socks.add(sock)
            self._start(self._serve, sock)

    def _serve(self, sock):
        def put(said):
            for record in records([said]):
                _send(sock, record)

        with sock:
            with self.lock:
                connection = self.cluster.connect(put)
            while record := _received(sock):
                with self.lock:
                    connection.receive(upward(record))
            with self.lock:
                self._socks.discard(sock)
                connection.lost()


def _send(sock, record):
    try:
        sock.send(record)
    except OSError:
        return


def _received(sock):
    try:
        return sock.recv(1 << 18)
    except OSError:
        return b""
