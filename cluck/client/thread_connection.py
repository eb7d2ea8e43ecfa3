"""Keeps a client of threads connected, from a background thread: it reads the socket and watches the clock."""

from __future__ import annotations

import logging
import math
import os
import select
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from cluck.client.session import Session
from cluck.client.steps import LONGEST_REST
from cluck.client.transport import CLUCKD, DaemonSocket
from cluck.errors import ConnectionLost, LockError
from cpg.local.client_socket import (
    FAREWELL_PATIENCE,
    READ_TURN,
    WELCOME_PATIENCE,
    NoDaemon,
    own_name,
    reconnect_pauses,
)
from cpg.local.thread_waits import longest_wait

_log = logging.getLogger(__name__)


class ThreadConnection:
    """The connections of one client, one after another."""

    def __init__(
        self,
        path: Path,
        session: Session,
        clock: Callable[[], float],
        lock: AbstractContextManager[object],
        *,
        has_ended: Callable[[], bool],
        fail: Callable[[LockError], None],
        reconnect: bool,
    ) -> None:
        """Open the first connection; `start` greets the lock server.

        Args:
            path: The path of the daemon's socket.
            session: What talks to the lock server.
            clock: The clock of leases.
            lock: Held while the session is used. All methods but `start`, `stop` and `abandon` are called with it.
            has_ended: Returns whether the client has ended.
            fail: Called when there is no connection any more, and will be none.
            reconnect: Whether to open another connection after a loss.

        Raises:
            DaemonUnavailable: The socket cannot be opened.
        """
        self._path = path
        self._session = session
        self._clock = clock
        self._lock = lock
        self._has_ended = has_ended
        self._fail = fail
        self._reconnect = reconnect
        self._is_gone = False
        self._welcome_until = 0.0
        self._next_try, self._pauses = 0.0, reconnect_pauses()
        self._records: DaemonSocket | None = DaemonSocket(CLUCKD.open(path), path)
        self._waker = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._work, name="cluck", daemon=True)

    def start(self) -> None:
        """Greet the lock server, and start the thread."""
        self._greet()
        self._thread.start()

    def stop(self) -> None:
        """Wait until the thread has sent the last records of a client that has ended."""
        with self._lock:
            self.interrupt()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def abandon(self) -> None:
        """Close what a forked process has inherited."""
        if self._records is not None:
            self._records.close()

    def submit(self) -> None:
        """Send what the session has for the server, as far as there is room."""
        records = self._session.take()
        if records and self._records is not None:
            self._records.send(records)
            if self._records.is_behind:
                self.interrupt()

    def interrupt(self) -> None:
        """Have the thread look again at what is due."""
        if not self._is_gone:
            os.eventfd_write(self._waker, 1)

    # ---- the thread

    def _work(self) -> None:
        try:
            while True:
                with self._lock:
                    rest = self._do_what_is_due()
                    if self._has_ended():
                        break
                self._poll(rest)
        finally:
            with self._lock:
                self._session.close()
                if self._records is not None:
                    self._part(self._records)
                self._is_gone = True
                os.close(self._waker)

    @staticmethod
    def _part(records: DaemonSocket) -> None:
        """Send what the server takes of the last records, and close the connection."""
        poll = select.poll()
        poll.register(records.sock, select.POLLOUT)
        while records.is_behind and poll.poll(FAREWELL_PATIENCE * 1000):
            records.write()
        records.close()

    def _do_what_is_due(self) -> float:
        """Do what can be done now; return the seconds after which there is more."""
        if self._records is None:
            self._try_again()
        if self._records is not None:
            self._exchange(self._records)
        if self._session.deadline <= self._clock():
            self._session.advance()
        self.submit()
        return self._rest()

    def _rest(self) -> float:
        rest = self._session.deadline - self._clock()
        rest = min(rest, LONGEST_REST) if rest < math.inf else longest_wait()
        if self._records is None:
            rest = min(rest, self._next_try - time.monotonic())
        elif not self._session.is_connected:
            rest = min(rest, self._welcome_until - time.monotonic())
        return max(rest, 0.0)

    def _exchange(self, records: DaemonSocket) -> None:
        session = self._session
        records.write()
        try:
            for _ in range(READ_TURN):
                received = records.read()
                if received is None:
                    break
                session.receive(received)
                if session.failure is not None:
                    raise session.failure
        except LockError as error:
            self._lose(error)
        else:
            if not session.is_connected and time.monotonic() >= self._welcome_until:
                self._lose(CLUCKD.unanswered(self._path))

    def _lose(self, why: LockError) -> None:
        """Lose the connection; another one is tried soon, unless that is the end."""
        is_first = not self._session.was_welcomed
        if self._session.is_connected:
            self._pauses.reset()
        failure = self._session.lose(why)
        assert self._records is not None
        self._records.close()
        self._records = None
        if isinstance(failure, ConnectionLost | NoDaemon) and self._reconnect and not is_first:
            _log.warning("%s: reconnecting to %s", failure, self._path)
            self._next_try = time.monotonic() + self._pauses.next()
        else:
            self._fail(failure)

    def _try_again(self) -> None:
        """Open another connection, if there is a daemon and it is time to look."""
        if time.monotonic() < self._next_try:
            return
        try:
            self._records = DaemonSocket(CLUCKD.open(self._path), self._path)
            self._greet()
        except NoDaemon:
            self._next_try = time.monotonic() + self._pauses.next()
        except LockError as error:
            self._fail(error)

    def _greet(self) -> None:
        self._session.greet(own_name())
        self._welcome_until = time.monotonic() + WELCOME_PATIENCE
        self.submit()

    def _poll(self, seconds: float) -> None:
        """Wait until there is something to read or write, or `interrupt` is called, for this time at most."""
        poll, records = select.poll(), self._records
        if records is not None:
            poll.register(records.sock, select.POLLIN | (select.POLLOUT if records.is_behind else 0))
        poll.register(self._waker, select.POLLIN)
        poll.poll(seconds * 1000)
        try:
            os.eventfd_read(self._waker)
        except BlockingIOError:
            return
