"""Closed process groups for programs without an event loop: the class `CPG`, after the Ruby binding of libcpg.

    with cpg.CPG("chat") as chat:

        @chat.on_message
        def _(sender: cpg.Member, message: bytes) -> None:
            print(f"{sender.node_id}: {message.decode()}")

        chat.send(b"hello")
        while chat.dispatch():
            pass

It is a client of this machine's daemon, `cpgd`. One object is one connection and one group. Any thread may send;
callbacks run in the thread that calls `dispatch`. `fileno()` is readable while `dispatch` has something to do. A signal
handler may call `finalize`, and raise. A forked process must make a connection of its own: the one that it inherits
raises `RuntimeError` there.

Of the threads that wait, one waits for the socket and the others for that one: it may read what they wait for.
"""

from __future__ import annotations

import logging
import math
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from cpg.arguments import FOR_EVER, BytesLike, flag, octets, pathname, seconds, whole
from cpg.client.ipc import RECORD
from cpg.client.session import RemoteMembership, Session
from cpg.errors import NotJoined, OutcomeUnknown, SlowConsumer
from cpg.events import Confchg, Event, Link, Member, Message, Quorum, TotemConfchg, Transitional
from cpg.local.client_socket import (
    CPGD,
    SILENCE,
    WELCOME_PATIENCE,
    NoDaemon,
    RecordSocket,
    default_socket,
    own_name,
    reconnect_pauses,
)
from cpg.local.thread_waits import longest_wait
from cpg.local.timer import Timer
from cpg.payloads import Guarantee, payloads_of, ring_guarantee, split
from cpg.stream import DEFAULT_LIMIT, Callbacks, Stream
from totem import configuration
from totem.configuration import NO_RING, RingId
from totem.errors import QueueFull, RingLost, of_process_before_fork
from totem.process import process_check
from totem.text import quoted

_log = logging.getLogger(__name__)

AnyCallback = TypeVar("AnyCallback", bound=Callable[..., Any] | None)

FOREVER = -1.0
LEAVE_PATIENCE = 5.0
"""Seconds that `finalize` waits for the own leave to come back."""


class CPG:
    """A connection to the daemon, in one group at a time.

    Args:
        group: Joined at once, if one is named: 1 to 128 bytes, a `str` in UTF-8.
        path: Of the daemon's socket, if it is not the usual one (`$CPGD_SOCKET`, else /run/cpgd/socket).
        limit: Bytes that may wait to be dispatched; beyond that the group is left and `dispatch` raises `SlowConsumer`.
        reconnect: Whether to wait for a daemon that has ended, and join the group again, within the next calls that may
            wait. The stream reports that as with `cpg.connect`. Without it, calls raise `RingLost`.

    Raises `DaemonUnavailable` where no daemon runs or answers, or refuses this user, and what `join` raises.
    """

    def __init__(
        self,
        group: str | bytes | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        limit: int = DEFAULT_LIMIT,
        reconnect: bool = True,
    ) -> None:
        self.group: bytes | None = None
        """The name of the group that this process is in; None from `leave` on."""
        self._path = pathname("path", path) if path is not None else None
        self._limit = whole("limit", limit, 0)
        self._reconnect = flag("reconnect", reconnect)
        self._changed = threading.Condition()
        self._sending = threading.RLock()
        """Held by the thread whose list is being queued."""
        self._line: _DaemonConnection | None = None
        self._membership: RemoteMembership | None = None
        self._streams: deque[Stream] = deque()
        """The group's stream, behind those of former groups that still have events."""
        self._links: dict[tuple[int, int], Link] = {}
        """The links whose state is not dispatched yet, by node id and number."""
        self._callbacks = Callbacks()
        self._sent = self._lost = 0
        if group is not None:
            self.join(group)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.finalize()

    # ---- the connection

    def connect(self) -> None:
        """Connect to the daemon, unless that has been done; `join` does it too. Raises `DaemonUnavailable`."""
        if self._line is not None:
            return
        path = self._path or default_socket("cpgd")
        self._line = line = _DaemonConnection(path, self._take_link)
        line.session.greet(own_name())
        try:
            if not self._wait(lambda: line.session.member is not None, SILENCE):
                _log.warning("%s", CPGD.silence(SILENCE, path))
                if not self._wait(lambda: line.session.member is not None, WELCOME_PATIENCE - SILENCE):
                    raise CPGD.unanswered(path)
        except BaseException:
            self.finalize()
            raise

    def finalize(self) -> None:
        """Leave the group, in order, and close the connection; does nothing where there is none.

        Any thread, callback or signal handler may call it; calls that wait meanwhile raise `NotJoined`.
        """
        line, self._line = self._line, None
        if line is None:
            return
        with self._changed:
            membership, self._membership, self.group = self._membership, None, None
            streams, self._streams = self._streams, deque()
            try:
                if membership is not None and line.is_own():
                    membership.leave()
                    line.exchange_until(lambda: streams[-1].left, LEAVE_PATIENCE)
            finally:
                if line.is_polled:
                    line.interrupt()  # the thread that polls closes it
                else:
                    line.close()
                self._changed.notify_all()

    def fileno(self) -> int:
        """Return a descriptor that is readable while `dispatch` has something to do: for `select`, never to be read."""
        return self._connected().descriptor

    fd = property(fileno, doc="The descriptor of `fileno()`.")

    # ---- the group

    def join(self, group: str | bytes) -> None:
        """Join a group. Returns when this process is in it; `dispatch` delivers the change itself.

        Raises `AlreadyJoined` (this process is in that group, through this or another connection), `CorosyncLimit`,
        `ValueError` for an empty or too long name, and what `connect` raises.
        """
        name = octets("group", group)
        self.connect()
        line = self._connected()
        if self.group is not None:
            raise RuntimeError(
                f"this connection is in group {quoted(self.group)}: leave it first, or use another CPG()"
            )
        assert line.session.member is not None
        with self._changed:
            stream = Stream(line.session.member, limit=self._limit)
            membership = line.session.join(name, stream)
        try:
            self._wait(lambda: membership.entered or membership.refusal is not None)
        except BaseException:
            with self._changed:
                membership.leave()
            raise
        if membership.refusal is not None:
            raise membership.refusal
        with self._changed:
            self._membership, self.group = membership, name
            self._streams.append(stream)
            self._sent = self._lost = 0
            self._show_news()

    def leave(self) -> None:
        """Leave the group behind all that was sent; does nothing outside of a group.

        Events of the group until then are still dispatched; the own leave is the last one.
        """
        with self._changed:
            membership, self._membership, self.group = self._membership, None, None
            if membership is not None:
                membership.leave()
        if membership is not None:
            self._wait(lambda: not self._connected().is_behind)

    @property
    def members(self) -> tuple[Member, ...]:
        """The group's members, at the place in the stream that `dispatch` has reached."""
        return self._streams[-1].members if self._streams and self.group is not None else ()

    @property
    def member(self) -> Member:
        """This process, as a member of groups."""
        member = self._connected().session.member
        assert member is not None
        return member

    @property
    def nodeid(self) -> int:
        """The id of the daemon's node."""
        return self.member.node_id

    @property
    def ring_id(self) -> RingId:
        """The present ring, as far as the daemon has reported."""
        return self._line.session.ring_id if self._line is not None else NO_RING

    @property
    def node_ids(self) -> tuple[int, ...]:
        """The nodes of the present ring, ascending."""
        return self._line.session.node_ids if self._line is not None else ()

    @property
    def quorate(self) -> bool:
        """Whether the present ring has the votes to act for the cluster, as far as the daemon has reported."""
        quorum = self._line.session.quorum if self._line is not None else None
        return quorum is not None and quorum.quorate

    # ---- callbacks

    def on_message(self, callback: AnyCallback) -> AnyCallback:
        """Call `callback(sender, data)` for each message. A decorator, as the other four.

        A kind of event has one callback: a second one raises `StreamBusy`, None removes the present one.
        """
        return self._register(Message, callback)

    def on_confchg(self, callback: AnyCallback) -> AnyCallback:
        """Call `callback(members, left, joined)` when the group's members change, first for the own join."""
        return self._register(Confchg, callback)

    def on_totem_confchg(self, callback: AnyCallback) -> AnyCallback:
        """Call `callback(ring_id, node_ids)` for the ring that is there at the join, and each later one."""
        return self._register(TotemConfchg, callback)

    def on_transitional(self, callback: AnyCallback) -> AnyCallback:
        """Call `callback(node_ids)` when a change of ring begins."""
        return self._register(Transitional, callback)

    def on_quorum(self, callback: AnyCallback) -> AnyCallback:
        """Call `callback(quorate, node_ids)` when the ring reports whether it is quorate."""
        return self._register(Quorum, callback)

    def on_link(self, callback: AnyCallback) -> AnyCallback:
        """Call `callback(node_id, link, up, mtu, since)` for each link to another node, and for changes.

        Of several changes that wait, each link's last one is dispatched. It needs no group, only a connection
        (`connect`).
        """
        with self._changed:
            self._register(Link, callback)
            self._links = dict(self._line.session.links) if self._line is not None and callback is not None else {}
            self._show_news()
        return callback

    def _take_link(self, event: Link) -> None:
        if Link in self._callbacks:
            self._links[event.node_id, event.link] = event

    def _register(self, kind: type[Event | Link], callback: AnyCallback) -> AnyCallback:
        self._callbacks.register(kind, callback)
        return callback

    def dispatch(self, timeout: float = FOREVER) -> bool:
        """Run at most one event's callback, and return whether there was an event.

        Args:
            timeout: Seconds to wait for an event; 0 does not wait, -1 waits for ever.

        An exception of a callback comes out, and its event counts as handled. Raises `SlowConsumer` when this process
        did not take its events in time, and without `reconnect` `RingLost` when the daemon is gone. Both come behind
        the events from before.
        """
        found: list[Event | Link] = []

        def has_event() -> bool:
            event = self._next_event()
            if event is not None:
                found.append(event)
            return event is not None

        if not self._wait(has_event, _patience(timeout)):
            return False
        (event,) = found
        callback = self._callbacks.get(type(event))
        if callback is not None:
            if type(event) is Message:
                callback(event.sender, event.data)
            else:
                callback(*event)
        return True

    def _next_event(self) -> Event | Link | None:
        if self._links:
            return self._links.pop(next(iter(self._links)))
        while self._streams:
            stream = self._streams[0]
            if stream.overflowed:
                self._end_slow(stream)
            event = stream.take()
            if len(self._streams) > 1 and not stream and stream.left:
                self._streams.popleft()
            if event is not None or stream is self._streams[-1]:
                return event
        return None

    def _end_slow(self, stream: Stream) -> None:
        if stream is self._streams[-1] and self._membership is not None:
            self._membership.leave()
            self.group = self._membership = None
        self._streams.remove(stream)
        raise SlowConsumer(f"more than {self._limit} bytes waited to be dispatched: the group has been left")

    # ---- sending

    def send(self, data: BytesLike | Iterable[BytesLike], guarantee: Guarantee = Guarantee.AGREED) -> None:
        """Send one message, or several that are delivered in order with none of this object's between.

        Returns when the daemon has them. Raises `MessageTooLong` before anything is sent, `NotJoined` outside of a
        group, and without `reconnect` `RingLost` when the daemon is gone.
        """
        payloads, wanted = payloads_of(data), ring_guarantee(guarantee, gives_safe=True)
        with self._sending:
            for batch in split(payloads):
                self._wait(lambda batch=batch: self._queue(batch, wanted))  # type: ignore[misc]
        self._wait(lambda: not self._connected().is_behind)

    def _queue(self, batch: Sequence[bytes], guarantee: configuration.Guarantee) -> bool:
        if self._membership is None:
            raise NotJoined("this connection is in no group: join one first")
        try:
            self._membership.send(batch, guarantee)
        except QueueFull:
            return False
        self._sent += len(batch)
        return True

    def flush(self, timeout: float = FOREVER) -> bool:
        """Wait until all own messages have come back, so that all members have them in their streams.

        Args:
            timeout: Seconds; -1 waits for ever.

        Returns whether they have. This dispatches no events. Raises `NotJoined` where no group was joined,
        `OutcomeUnknown` where the connection was lost before.
        """
        if not self._streams:
            raise NotJoined("this connection is in no group: join one first")
        patience, stream, sent = _patience(timeout), self._streams[-1], self._sent
        is_settled = self._wait(lambda: self._lost > 0 or stream.own_arrived >= sent, patience)
        if self._lost:
            lost, self._lost = self._lost, 0
            raise OutcomeUnknown(f"{lost} messages had not come back when the connection was lost")
        return is_settled

    # ---- waiting

    def _connected(self) -> _DaemonConnection:
        if self._line is None:
            raise NotJoined("not connected: connect or join first")
        if not self._line.is_own():
            raise of_process_before_fork("connection")
        return self._line

    def _wait(self, condition: Callable[[], bool], patience: float | None = None) -> bool:
        """Read and write until the condition holds, for at most `patience` seconds; return whether it does.

        Raises the failure that leaves nothing to wait for.
        """
        deadline = time.monotonic() + patience if patience is not None else None
        with self._changed:
            while True:
                line = self._connected()
                line.exchange()
                try:
                    if self._reconnect and type(line.session.failure) is RingLost:
                        self._connect_again(line)
                    self._leave_if_refused(line)
                    if condition():
                        line.exchange()
                        return True
                finally:
                    self._show_news()
                if line.session.failure is not None and not line.is_away:
                    raise line.session.failure
                rest = deadline - time.monotonic() if deadline is not None else None
                if rest is not None and rest <= 0:
                    return False
                self._rest(line, longest_wait() if rest is None else min(rest, longest_wait()))

    def _connect_again(self, line: _DaemonConnection) -> None:
        """Report the lost connection to the group, once, and try to reach a daemon when it is time."""
        if not line.is_away:
            line.lose()
            if self._streams:
                arrived = self._streams[-1].own_arrived
                self._lost += self._sent - arrived
                self._sent = arrived
        line.try_again()

    def _leave_if_refused(self, line: _DaemonConnection) -> None:
        """Raise why a group cannot be joined again. For a first join, `join` raises that."""
        while line.session.refused:
            membership = line.session.refused.pop()
            if membership is self._membership and membership.refusal is not None:
                self.group = self._membership = None
                raise membership.refusal

    def _rest(self, line: _DaemonConnection, seconds: float) -> None:
        """Wait for the socket, or for the thread that does. Called with the lock held, and returns with it."""
        if line.is_polled:
            if line.is_behind and not line.waits_to_write:
                line.interrupt()
            self._changed.wait(seconds)
            return
        line.waits_to_write = line.is_behind
        line.is_polled = True
        self._changed.release()
        try:
            line.poll(seconds)
        finally:
            self._changed.acquire()
            line.is_polled = False
            if line is not self._line:
                line.close()
            self._changed.notify_all()

    def _show_news(self) -> None:
        if self._line is not None:
            self._line.show_news(
                bool(self._links)
                or any(s or s.overflowed for s in self._streams)
                or (self._line.session.failure is not None and not self._line.is_away)
            )


def _patience(timeout: float) -> float | None:
    """Return the seconds to wait; None where that is for ever, as for a negative number."""
    waits = seconds("timeout", timeout, -math.inf)
    return waits if 0 <= waits < FOR_EVER else None


class _DaemonConnection:
    """The socket and its session. Everything but `poll` is called with the lock held."""

    def __init__(self, path: Path, on_link: Callable[[Link], None]) -> None:
        self.session = Session(path)
        self.session.on_link = self._on_link = on_link
        self.is_away = False
        """The connection was lost, and there is no new one yet."""
        self.is_polled = False
        """A thread waits for the socket."""
        self.waits_to_write = False
        """Whether `poll` also waits for room in the socket."""
        self._path = path
        self._records = RecordSocket(CPGD.open(path), self.session.writer, RECORD)
        self._pauses, self._next_try = reconnect_pauses(), 0.0
        self.is_own = process_check()
        """Returns whether this process has opened it, not the process before a fork."""
        self._news = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._has_news = False
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._timer = Timer()
        self._epoll = select.epoll()
        for descriptor in (self._records.sock.fileno(), self._news, self._timer.descriptor):
            self._epoll.register(descriptor, select.EPOLLIN)
        self.descriptor = self._epoll.fileno()

    @property
    def is_behind(self) -> bool:
        """Whether something waits for the socket."""
        return self._records.unsent is not None or self.session.writer.has_records()

    def exchange(self) -> None:
        """Write and read what is possible now.

        An exception of a signal handler in the middle ends the connection: a record may have been cut off.
        """
        if self.is_away:
            return
        try:
            self._exchange()
        except BaseException as error:
            self.session.writer.discard()
            self._records.unsent = None
            self.session.failure = RingLost(f"the connection was interrupted while it was written or read: {error!r}")
            raise

    def _exchange(self) -> None:
        self._records.write_now()
        while self.session.failure is None and (record := self._records.read()) is not None:
            self.session.receive(record)

    def lose(self) -> None:
        """Close the lost connection, and report to the groups that nobody is in sight."""
        self.is_away = True
        self.session.lose_sight()
        self._epoll.unregister(self._records.sock)
        self._records.close()
        self._pauses.reset()
        self._set_next_try(0.0)

    def try_again(self) -> None:
        """Make a new connection, if it is time to try and there is a daemon."""
        if time.monotonic() < self._next_try:
            return
        try:
            sock = CPGD.open(self._path)
        except NoDaemon:
            self._set_next_try(self._pauses.next())
            return
        self._timer.stop()
        lost, self.session = self.session, Session(self._path)
        self.session.on_link = self._on_link
        self._records = RecordSocket(sock, self.session.writer, RECORD)
        self.session.greet(own_name())
        self.session.inherit(lost)
        self.session.expected = lost.member
        self._epoll.register(sock, select.EPOLLIN)
        self.is_away = False
        self.exchange()

    def _set_next_try(self, pause: float) -> None:
        self._next_try = time.monotonic() + pause
        self._timer.start(pause)

    def poll(self, seconds: float) -> None:
        """Wait for something to read or write, for the next try to connect, or for `interrupt`."""
        poll = select.poll()
        if self.is_away:
            seconds = min(seconds, max(0.0, self._next_try - time.monotonic()))
        else:
            poll.register(self._records.sock, select.POLLIN | (select.POLLOUT if self.waits_to_write else 0))
        poll.register(self._wake, select.POLLIN)
        poll.poll(seconds * 1000)
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            return

    def interrupt(self) -> None:
        """Wake the thread that polls."""
        os.eventfd_write(self._wake, 1)

    def show_news(self, has_news: bool) -> None:
        """Make the descriptor readable, or not readable."""
        if has_news and not self._has_news:
            self._has_news = True
            os.eventfd_write(self._news, 1)
        elif self._has_news and not has_news:
            os.eventfd_write(self._news, 1)  # a signal may have come between the two above
            os.eventfd_read(self._news)
            self._has_news = False

    def exchange_until(self, condition: Callable[[], bool], patience: float) -> None:
        """Write and read until the condition holds, `patience` seconds are over, or nothing more can come."""
        deadline = time.monotonic() + patience
        self.exchange()
        while not condition() and self.session.failure is None and (rest := deadline - time.monotonic()) > 0:
            self.waits_to_write = self.is_behind
            self.poll(rest)
            self.exchange()

    def close(self) -> None:
        """Close all descriptors."""
        self._epoll.close()
        self._records.close()
        self._timer.close()
        os.close(self._news)
        os.close(self._wake)
