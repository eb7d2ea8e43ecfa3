"""A ring through the daemon `cpgd` of this machine: `async with cpg.connect() as ring`.

The daemon is the node; this process is one of its programs. Groups and their streams are those of every other ring, and
the level of each message is that of an embedded one. This is a thin shell around `cpg.client.session`. What is sent
goes to the socket at once if it has room, else as soon as it has.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel

from cpg.arguments import flag, pathname
from cpg.block import Waiters
from cpg.client.ipc import RECORD
from cpg.client.session import RemoteMembership, Session
from cpg.contracts import Inbox, OnTransitional
from cpg.events import Link, Member, RingEvent, Transitional
from cpg.local.client_socket import (
    CPGD,
    READ_TURN,
    NoDaemon,
    RecordSocket,
    default_socket,
    own_name,
    reconnect_pauses,
)
from cpg.ring import Ring, live
from totem.configuration import RingId
from totem.errors import RingLost, of_process_before_fork

_log = logging.getLogger(__name__)


class DaemonRing(Ring):
    """The daemon's ring, and the groups that this program joins there.

    A daemon that ends, or closes the connection, is waited for; without `reconnect` it ends the block with `RingLost`.
    A daemon that ends the connection since this program did not read ends the block with `SlowConsumer`.
    """

    gives_safe = True

    def __init__(self, path: Path, records: RecordSocket, session: Session, *, reconnect: bool) -> None:
        """`records`, `session`: of a connection that was welcomed; the ring closes it."""
        assert session.member is not None
        super().__init__(session.member)
        self._path = path
        self._records = records
        self._session = session
        self._reconnect = reconnect
        self._sending = Waiters()

    # ---- for programs

    @property
    def path(self) -> Path:
        """The path of the daemon's socket."""
        return self._path

    @property
    def ring_id(self) -> RingId:
        """The present ring: its representative and its sequence number."""
        return self._session.ring_id

    @property
    def node_ids(self) -> tuple[int, ...]:
        """The nodes of the present ring, ascending; none while the connection is lost."""
        return self._session.node_ids

    @property
    def quorate(self) -> bool:
        """Whether the present ring has the votes to act for the cluster, as far as the daemon has reported."""
        return self._session.quorum is not None and self._session.quorum.quorate

    async def list_groups(self) -> dict[bytes, tuple[Member, ...]]:
        """Return the members of all groups of the ring, by name in ascending order.

        Raises `RingLost` if the connection is lost before the reply has come, with `reconnect` too.
        """
        groups = await self.query("groups")
        return {name.encode("latin-1"): tuple(Member(*member) for member in members) for name, members in groups}

    async def query(self, what: str) -> Any:
        """Return the daemon's "groups", "quorum" or "status", as values of JSON.

        Raises `RingLost` if the connection is lost before the reply has come, with `reconnect` too.
        """
        if not isinstance(what, str):
            raise TypeError(f'what={what!r}: a str, as "groups"')
        self._check_process()
        session = self._session
        number = session.query(what)
        self._send_soon()
        try:
            await self._until(lambda: session.has_reply(number) or session.failure is not None or self._ended())
            self._check()
            if session.failure is not None:
                raise session.failure
            return session.reply(number)
        finally:
            session.forget(number)

    def on_transitional(self, callback: OnTransitional) -> OnTransitional:
        """Call `callback(node_ids)` when a change of ring begins. A decorator; None removes the callback."""
        return self._register(Transitional, callback)

    # ---- for groups (`cpg.contracts.Backend`)

    async def _enter(self, name: bytes, inbox: Inbox) -> RemoteMembership:
        self._check()
        membership = self._session.join(name, inbox)
        self._send_soon()
        try:
            await self._until(lambda: membership.entered or membership.refusal or self._ended())
        except BaseException:
            membership.leave()
            self._send_soon()
            raise
        self._check()
        if membership.refusal is not None:
            raise membership.refusal
        return membership

    def _send_soon(self) -> None:
        """Give the daemon what was queued, now if the socket has room."""
        records = self._records
        if records.unsent is None:
            records.write_now()
            if records.unsent is not None:
                self._sending.wake()

    # ---- for the driver

    async def _take_part(self) -> None:
        try:
            while True:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._write_on)
                    failure = await self._read()
                    tasks.cancel_scope.cancel()
                if not self._reconnect or type(failure) is not RingLost:
                    break
                _log.warning("%s: reconnecting to %s", failure, self._path)
                self._session.lose_sight()
                self._wake()
                await self._connect_again()
            self._fail(failure)
        finally:
            self._records.close()

    def _abandon(self) -> None:
        self._records.close()

    async def _read(self) -> Exception:
        """Process what arrives until nothing more can; return why."""
        session, records = self._session, self._records
        while True:
            if not self._is_own():
                return of_process_before_fork("ring")
            for _ in range(READ_TURN):
                record = records.read()
                if record is None:
                    break
                session.receive(record)
                if session.failure is not None:
                    return session.failure
            if session.refused:
                self._end_refused(session.refused)
            self._wake()
            if record is None:
                await anyio.wait_readable(records.sock)
            else:
                await anyio.lowlevel.checkpoint()

    def _end_refused(self, refused: list[RemoteMembership]) -> None:
        """End groups that the daemon refuses after a reconnect. For a first join, `_enter` raises the refusal."""
        while refused:
            membership = refused.pop()
            for group in list(self._joined):
                if group._is_of(membership) and membership.refusal is not None:
                    group._fail(membership.refusal)

    async def _write_on(self) -> None:
        records = self._records
        while True:
            while records.unsent is None:
                await self._sending.wait()
            await anyio.wait_writable(records.sock)
            if not self._is_own():
                return
            records.write_now()
            self._wake_senders()

    async def _connect_again(self) -> None:
        """Connect as soon as there is a daemon, and join the groups again."""
        self._records.close()
        pauses = reconnect_pauses()
        while True:
            session = Session(self._path)
            session.on_ring, session.on_link = self._on_ring, self._on_link
            session.expected = self.member
            try:
                records = await _welcomed(self._path, session)
                break
            except (NoDaemon, RingLost):
                await anyio.sleep(pauses.next())
        _log.warning("connected to %s again", self._path)
        session.inherit(self._session)
        self._records, self._session = records, session
        self._send_soon()
        self._wake_senders()

    def _wake_senders(self) -> None:
        """Grant the room that there is. All senders try when nothing is unsent: nothing would wake the rest later."""
        self._grant_room(self._session.room if self._records.unsent is not None else math.inf)

    def _present_links(self) -> Iterable[Link]:
        return self._session.links.values()

    def _is_complete(self) -> bool:
        return self._session.quorum is not None


@asynccontextmanager
async def connect(
    path: str | os.PathLike[str] | None = None, *, reconnect: bool = True
) -> AsyncGenerator[DaemonRing, None]:
    """Take part in the ring of this machine's daemon: `async with cpg.connect() as ring`, on trio or asyncio.

    Args:
        path: Of the daemon's socket, if it is not the usual one (`$CPGD_SOCKET`, else /run/cpgd/socket).
        reconnect: Whether to wait for a daemon that has ended, and join the groups again. A group's stream reports that
            as a change of ring: `Transitional(())`, all members as left, then the own join with the members that are
            there. `send` waits meanwhile. Own messages that had not come back may be lost; `Group.flush` raises
            `OutcomeUnknown` then. Without reconnecting, the block ends with `RingLost`.

    Raises `DaemonUnavailable` where no daemon runs or answers, or refuses this user; later `SlowConsumer`.
    """
    flag("reconnect", reconnect)
    place = pathname("path", path) if path is not None else default_socket("cpgd")
    session = Session(place)
    early: list[RingEvent] = []
    session.on_ring = early.append
    records = await _welcomed(place, session)
    ring = DaemonRing(place, records, session, reconnect=reconnect)
    session.on_ring, session.on_link = ring._on_ring, ring._on_link
    for event in early:
        ring._on_ring(event)
    async with live(ring):
        yield ring


async def _welcomed(path: Path, session: Session) -> RecordSocket:
    """Open a connection and wait for the daemon's welcome; raise why there is none."""
    records = RecordSocket(CPGD.open(path), session.writer, RECORD)
    try:
        session.greet(own_name())
        records.write_now()
        await CPGD.answered(partial(_hear_welcome, records, session), partial(_log.warning, "%s"), path)
        if session.failure is not None:
            raise session.failure
    except BaseException:
        records.close()
        raise
    return records


async def _hear_welcome(records: RecordSocket, session: Session) -> None:
    while session.member is None and session.failure is None:
        await anyio.wait_readable(records.sock)
        record = records.read()
        if record is not None:
            session.receive(record)
