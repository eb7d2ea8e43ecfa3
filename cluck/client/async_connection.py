"""Keeps a client on an event loop connected: greets lock servers, receives from them, and watches the clock."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial

import anyio
import anyio.abc
import anyio.lowlevel

from cluck.client.links import Link, Transport
from cluck.client.session import Session
from cluck.client.steps import LONGEST_REST
from cluck.client.transport import CLUCKD
from cluck.errors import ConnectionLost, LockError
from cpg.block import Waiters
from cpg.local.client_socket import FAREWELL_PATIENCE, NoDaemon, reconnect_pauses
from totem.process import process_check

_log = logging.getLogger(__name__)


class AsyncConnection:
    """The connections of one client, one after another."""

    def __init__(
        self,
        transport: Transport,
        session: Session,
        changed: Waiters,
        fail: Callable[[LockError], None],
        *,
        reconnect: bool,
        program: str,
    ) -> None:
        """Begin without a connection.

        Args:
            transport: The way to a lock server.
            session: What talks to it.
            changed: Woken when the session has something new.
            fail: Called when there is no connection any more, and will be none.
            reconnect: Whether to open another connection after a loss.
            program: The client's name, for the administrator.
        """
        self.link: Link
        self._transport = transport
        self._session = session
        self._changed = changed
        self._fail = fail
        self._reconnect = reconnect
        self._program = program
        self._is_own = process_check()
        self._keeping = anyio.CancelScope(shield=True)

    async def open(self) -> None:
        """Open the first connection and wait for the welcome; raises why there is none."""
        self.link = await self._welcomed()

    def submit(self) -> None:
        """Send what the session has for the server."""
        if records := self._session.take():
            self.link.send(records)

    async def keep(self) -> None:
        """Work until `stop`, cancelled or not: locks are released in order first."""
        with self._keeping:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._converse)
                tasks.start_soon(self._watch_the_clock)

    def stop(self) -> None:
        """End `keep`."""
        self._keeping.cancel()

    async def close(self) -> None:
        """Send the last records, as far as the server takes them in time, and close."""
        with anyio.move_on_after(FAREWELL_PATIENCE, shield=True):
            await self.link.close()

    def abandon(self) -> None:
        """Close what a forked process has inherited, before `stop`."""
        self.link.abandon()

    async def _welcomed(self) -> Link:
        link, session = await self._transport.open(), self._session
        try:
            session.greet(self._program)
            link.send(session.take())
            await CLUCKD.answered(partial(self._hear_welcome, link), partial(_log.warning, "%s"), self._transport)
            if session.failure is not None:
                raise session.failure
        except BaseException:
            with anyio.CancelScope(shield=True):
                await link.close()
            raise
        return link

    async def _hear_welcome(self, link: Link) -> None:
        while not self._session.is_connected and self._session.failure is None:
            self._session.receive(await link.receive())

    async def _converse(self) -> None:
        """Receive from the server, through as many connections as it takes."""
        try:
            while True:
                failure = self._session.lose(await self._hear_out())
                if not (isinstance(failure, ConnectionLost) and self._reconnect):
                    break
                _log.warning("%s: reconnecting to %s", failure, self._transport)
                await self._connect_again()
        except LockError as error:
            failure = error
        self._fail(failure)
        self._session.close(failure)

    async def _hear_out(self) -> LockError:
        """Receive until the connection ends; return why it has."""
        session = self._session
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.link.carry)
            self.submit()
            try:
                while session.failure is None:
                    received = await self.link.receive()
                    await self._stay_out_of_forks()
                    session.receive(received)
                    self.submit()
                failure = session.failure
            except LockError as error:
                failure = error
            tasks.cancel_scope.cancel()
        return failure

    async def _stay_out_of_forks(self) -> None:
        """Do nothing more in a forked process: the connection is the parent's."""
        if not self._is_own():
            await anyio.sleep_forever()

    async def _connect_again(self) -> None:
        await self.link.close()
        pauses = reconnect_pauses()
        while True:
            await self._stay_out_of_forks()
            try:
                self.link = await self._welcomed()
                break
            except (NoDaemon, ConnectionLost):
                await anyio.sleep(pauses.next())
        _log.warning("connected to %s again", self._transport)

    async def _watch_the_clock(self) -> None:
        session = self._session
        while True:
            await self._stay_out_of_forks()
            rest = session.deadline - self._transport.clock()
            if rest > 0:
                with anyio.move_on_after(None if rest == math.inf else min(rest, LONGEST_REST)):
                    await self._changed.wait()
            else:
                session.advance()
                self.submit()
                await anyio.lowlevel.checkpoint()
