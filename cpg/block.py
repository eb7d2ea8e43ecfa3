"""The body of an `async with` that something else may end: what a `Ring` and a `Group` have in common.

The body runs in a cancel scope. Whatever ends it (an exception of a callback, a lost ring) calls `_fail`. That notes
the failure and cancels the scope. When everything has been put in order, the failure is raised as it is. No task group
stands between the body and the outside, so nothing is wrapped in a group of exceptions.

Here and in `cpg.group`, `cpg.ring` and `cpg.client.asynchronous` everything that waits does so through anyio. So these
objects work on trio and on asyncio alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.lowlevel

from cpg.errors import raise_instead
from cpg.events import Event, Link
from cpg.stream import Callback, Stream
from totem.errors import of_process_before_fork
from totem.process import process_check

AnyCallback = TypeVar("AnyCallback", bound=Callback | None)


class Waiters:
    """Tasks that wait until they are woken, all together."""

    def __init__(self) -> None:
        self._woken: anyio.Event | None = None

    async def wait(self) -> None:
        """Wait for the next `wake`."""
        if self._woken is None:
            self._woken = anyio.Event()
        await self._woken.wait()

    def wake(self) -> None:
        """Wake all tasks that wait now."""
        if self._woken is not None:
            self._woken.set()
            self._woken = None


class Body:
    """A body that may be ended, and tasks that wait for changes meanwhile."""

    def __init__(self) -> None:
        self._body = anyio.CancelScope()
        self._failure: BaseException | None = None
        self._over = False
        self._waiters = Waiters()

    def _fail(self, failure: BaseException) -> None:
        """End the body; `failure` comes out of the `async with`. Only the first failure counts."""
        if self._failure is None:
            self._failure = failure
            self._body.cancel()
        self._wake()

    def _raise_failure(self, outcome: BaseException | None = None) -> None:
        """Raise the failure, if there is one, with `outcome`, what the body has raised, as its context."""
        if self._failure is not None:
            raise_instead(self._failure, outcome)

    def _ended(self) -> bool:
        return self._over or self._failure is not None

    def _wake(self) -> None:
        """Wake the tasks that wait: something has changed."""
        self._waiters.wake()

    async def _until(self, condition: Callable[[], object]) -> None:
        """Wait until `condition` holds; each `_wake` checks it again. Not a checkpoint if it holds already."""
        while not condition():
            await self._waiters.wait()


class Block(Body):
    """A body with a stream of events. Subclasses open and close it, and run `_run_callbacks` in a task."""

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self._stream = stream
        self._is_own = process_check()
        """Returns whether this process has made it. The connection of the process before a fork stays untouched."""

    def _check_process(self) -> None:
        """Raise where this process was forked from the one that has made this object."""
        if not self._is_own():
            raise of_process_before_fork("ring")

    def _register(self, kind: type[Event | Link], callback: AnyCallback) -> AnyCallback:
        self._stream.register(kind, callback)
        self._wake()
        return callback

    async def _run_callbacks(self) -> None:
        """Hand out the events, from the moment when the first callback is registered."""
        stream = self._stream
        while not self._ended():
            await self._until(lambda: (stream and stream.has_callbacks) or self._ended())
            try:
                while not self._ended() and stream.dispatch():
                    await anyio.lowlevel.checkpoint()
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:
                self._fail(error)
            self._wake()
