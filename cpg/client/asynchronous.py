"""A ring through the daemon `cpgd` of this machine: `async with cpg.connect() as ring`.

The daemon is the node; this process is one of its programs. Groups and their streams are those of every other ring, the
level of each message as on an embedded one. A thin shell around `cpg.client.session`: what is sent goes to the socket
at once where it has room, else as soon as it has.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import AsyncGenerator
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
from cpg.events import Member, RingEvent, Transitional
from cpg.group import OnTransitional
from cpg.local.client_socket import (
    CPGD,
    READ_TURN,
    NoDaemon,
    RecordSocket,
    default_socket,
    own_name,
    reconnect_pauses,
)
from cpg.node.membership import Inbox
from cpg.ring import Ring
from totem.configuration import RingId
from totem.errors import RingLost, TotemError

_log = logging.getLogger(__name__)


class DaemonRing(Ring):
    """The daemon's ring, and the groups that this program joins there.

    A daemon that ends, or closes the connection, ends the block with `RingLost`, unless reconnecting was asked for; one
    that puts this program out since it did not read, with `SlowConsumer`.
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

    # ---- the program's side

    @property
    def path(self) -> Path:
        """Where the daemon listens."""
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
        """Whether the present ring has the votes to act for the cluster, as far as the daemon has told."""
        return self._session.quorum is not None and self._session.quorum.quorate

    async def list_groups(self) -> dict[bytes, tuple[Member, ...]]:
        """Whoever is in which group, anywhere in the ring; by name in ascending order."""
        groups = await self.ask("groups")
        return {name.encode("latin-1"): tuple(Member(*member) for member in members) for name, members in groups}

    async def ask(self, question: str) -> Any:
        """Ask the daemon for what it knows: "groups", "quorum", "status"; values as JSON has them.

        Raises `RingLost` if the connection is lost before the answer has come.
        """
        if not isinstance(question, str):
            raise TypeError(f'question={question!r}: a str, as "groups"')
        session = self._session
        number = session.ask(question)
        self.send_soon()
        try:
            await self._until(lambda: session.has_answer(number) or session.failure is not None or self._ended())
            self._check()
            if session.failure is not None:
                raise session.failure
            return session.answer(number)
        finally:
            session.forget(number)

    def on_transitional(self, callback: OnTransitional) -> OnTransitional:
        """Have `callback(node_ids)` called when a change of ring begins."""
        return self._register(Transitional, callback)

    # ---- the groups' side (`cpg.group.Backend`)

    async def enter(self, name: bytes, inbox: Inbox) -> RemoteMembership:
        """Join a group; raises why the daemon does not let this process in."""
        self._check()
        membership = self._session.join(name, inbox)
        self.send_soon()
        try:
            await self._until(lambda: membership.entered or membership.refusal or self._ended())
        except BaseException:
            membership.leave()
            self.send_soon()
            raise
        self._check()
        if membership.refusal is not None:
            raise membership.refusal
        return membership

    def send_soon(self) -> None:
        """Something was queued: let the daemon have it, now if the socket has room."""
        records = self._records
        if records.unsent is None:
            records.write_now()
            if records.unsent is not None:
                self._sending.wake()

    # ---- the driver's side

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
            self.fail(failure)
        finally:
            self._records.close()

    async def _read(self) -> TotemError:
        """Take in what comes until nothing more can; return why."""
        session, records = self._session, self._records
        while True:
            for _ in range(READ_TURN):
                record = records.read()
                if record is None:
                    break
                session.receive(record)
                if session.failure is not None:
                    return session.failure
            if session.refused:
                self._put_out(session.refused)
            self._wake()
            if record is None:
                await anyio.wait_readable(records.sock)
            else:
                await anyio.lowlevel.checkpoint()

    def _put_out(self, refused: list[RemoteMembership]) -> None:
        """End groups that are not let in any more after a reconnect; those that never were hear of it in `enter`."""
        while refused:
            membership = refused.pop()
            for group in list(self.joined):
                if group.is_of(membership) and membership.refusal is not None:
                    group.fail(membership.refusal)

    async def _write_on(self) -> None:
        records = self._records
        while True:
            while records.unsent is None:
                await self._sending.wait()
            await anyio.wait_writable(records.sock)
            records.write_now()
            self._let_senders_go_on()

    async def _connect_again(self) -> None:
        """Connect as soon as there is a daemon, and come into the groups again."""
        self._records.close()
        pauses = reconnect_pauses()
        while True:
            session = Session(self._path)
            session.on_ring = self._on_ring
            session.expected = self.member
            try:
                records = await _welcomed(self._path, session)
                break
            except (NoDaemon, RingLost):
                await anyio.sleep(pauses.next())
        _log.warning("connected to %s again", self._path)
        session.inherit(self._session)
        self._records, self._session = records, session
        self.send_soon()
        self._let_senders_go_on()

    def _let_senders_go_on(self) -> None:
        """There is room. All try when nothing is left to be written, for then nothing would wake the rest later."""
        self._grant_room(self._session.room if self._records.unsent is not None else math.inf)

    def _is_complete(self) -> bool:
        return self._session.quorum is not None


@asynccontextmanager
async def connect(
    path: str | os.PathLike[str] | None = None, *, reconnect: bool = False
) -> AsyncGenerator[DaemonRing, None]:
    """Take part in the ring of this machine's daemon: `async with cpg.connect() as ring`, on trio or asyncio.

    Args:
        path: Of the daemon's socket, if it is not the usual one (`$CPGD_SOCKET`, else /run/cpgd/socket).
        reconnect: Wait for a daemon that has ended, and join the groups again. Their streams tell it like a change of
            ring: `Transitional(())`, all members as left, then the own join with whoever is there. What was sent and
            had not come back may be lost; `Group.flush` raises `OutcomeUnknown` then. `send` waits meanwhile.

    Raises `DaemonUnavailable` where no daemon runs or answers, or refuses this user; later `RingLost`, `SlowConsumer`.
    """
    flag("reconnect", reconnect)
    place = pathname("path", path) if path is not None else default_socket("cpgd")
    session = Session(place)
    early: list[RingEvent] = []
    session.on_ring = early.append
    records = await _welcomed(place, session)
    ring = DaemonRing(place, records, session, reconnect=reconnect)
    session.on_ring = ring._on_ring
    for event in early:
        ring._on_ring(event)
    async with ring.live():
        yield ring


async def _welcomed(path: Path, session: Session) -> RecordSocket:
    """Open a connection and wait for the daemon's welcome; raises why there is none."""
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
