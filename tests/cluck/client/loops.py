"""Programs of the tests on both event loops, and with a task that is cancelled wherever it waits."""

import functools
import inspect
import types

import anyio
import pytest

PATIENCE = 20.0
"""Seconds after which a program hangs."""


def on_both_loops(program):
    """Make a test of a coroutine function: once on trio, once on asyncio."""

    @pytest.mark.parametrize("loop", ["trio", "asyncio"])
    @functools.wraps(program)
    def test(loop, **fixtures):
        async def run():
            with anyio.fail_after(PATIENCE):
                await program(**fixtures)

        anyio.run(run, backend=loop)

    names = inspect.signature(program).parameters.values()
    test.__signature__ = inspect.Signature([inspect.Parameter("loop", inspect.Parameter.POSITIONAL_OR_KEYWORD), *names])
    del test.__wrapped__
    return test


class Cut:
    """Cancels what it runs when that waits for the so-manieth time."""

    def __init__(self, at):
        self._left = at
        self.was_reached = False

    async def run(self, program):
        with anyio.CancelScope() as scope:
            await self._watched(program(), scope)

    @types.coroutine
    def _watched(self, coroutine, scope):
        step, value = coroutine.send, None
        while True:
            try:
                waited_for = step(value)
            except StopIteration as done:
                return done.value
            if self._left == 0:
                self.was_reached = True
                scope.cancel()
            self._left -= 1
            try:
                step, value = coroutine.send, (yield waited_for)
            except BaseException as error:
                step, value = coroutine.throw, error
