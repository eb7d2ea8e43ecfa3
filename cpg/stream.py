"""One process's stream of one group: its events, in order, until the program takes them.

The engine adds runs of messages and single events (`Inbox`). The program takes them, either through callbacks
(`dispatch`) or as objects (`take`, `take_batch`), never both. Events that were not taken stay, whatever the program
raises: a callback that fails has had its event, and everything behind it is untouched.

The stream is bounded in bytes. At the bound it accepts nothing more (`overflowed`): a consumer that is too slow must
leave, since the ring waits for nobody. It knows no event loop and no clock. `notify` tells its driver that something
has arrived; the driver waits in the manner of trio, asyncio or a blocking program.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice, repeat
from typing import Any, NamedTuple

from cpg.arguments import callback as checked
from cpg.errors import StreamBusy
from cpg.events import Confchg, Event, Link, Member, Message, RingEvent
from totem.configuration import Level

Callback = Callable[..., object]

DEFAULT_LIMIT = 64 << 20
"""Bytes that may wait in a group for its program."""

MESSAGE_OVERHEAD = 64
"""Bytes counted for each message and event beside its data: the size of the objects around it."""

TURN = 32
"""Runs handed to the program before other tasks get a turn."""
SHARE = 8
"""Or an eighth of the queue, if that is more: else a ring that brings more in each turn would leave the program behind
for good, however fast it is.
"""


_NEW_MESSAGE: Callable[[tuple[Member, bytes, Level]], Message] = partial(tuple.__new__, Message)
"""Make a Message of a tuple, without a call of Python code. Hot: once for each message of a batch."""


class Run(NamedTuple):
    """Consecutive messages of one sender, with an iterator that remembers how far the program has come."""

    sender: Member
    level: Level
    payloads: Iterator[bytes]
    messages: int
    cost: int


class Callbacks(dict[type[Event | Link], Callback]):
    """A program's callbacks by kind of event, one for each."""

    def __init__(self, busy: Callable[[str], Exception] = StreamBusy) -> None:
        super().__init__()
        self._busy = busy

    def register(self, kind: type[Event | Link], callback: Callback | None) -> None:
        """Add a callback; None removes the present one. Raises `busy` where there is one already."""
        if callback is None:
            self.pop(kind, None)
            return
        if inspect.iscoroutinefunction(callback):
            raise TypeError(
                f"{getattr(callback, '__name__', callback)!r} is an async function, but callbacks are plain functions, "
                "called in the order of the stream; to await for each event, use `async for event in group` instead"
            )
        if kind in self:
            raise self._busy(f"there is a callback for {kind.__name__} already; register None first to replace it")
        self[kind] = checked("callback", callback)


class Stream:
    """The events of one group in their order, from the engine to one consumer (an `Inbox` of the engine).

    Args:
        member: The local process, to recognise its own messages, join and leave.
        limit: Bytes that may wait for the program.
        notify: Called when something has arrived that somebody may wait for: the first event in an empty stream, own
            messages, changes, the overflow.
        busy: Builds the exception for mixing callbacks and iteration.
    """

    def __init__(
        self,
        member: Member,
        *,
        limit: int = DEFAULT_LIMIT,
        notify: Callable[[], object] = lambda: None,
        busy: Callable[[str], Exception] = StreamBusy,
    ) -> None:
        self.member = member
        self.members: tuple[Member, ...] = ()
        """The group's members at the place in the order that the program has reached."""
        self.joined = False
        self.left = False
        """The own leave has arrived, and no join after it."""
        self.breaks = 0
        """Number of times that the own process has left; it only goes on behind a leave after a reconnect."""
        self.overflowed = False
        """More arrived than may wait: it was refused, with all that followed."""
        self.waiting = 0
        """Bytes that wait for the program."""
        self.own_arrived = 0
        """Own messages that have come back."""
        self.own_taken = 0
        """Own messages that the program has got."""
        self.limit = limit
        self._closed = False
        self._notify = notify
        self._busy = busy
        self._queue: deque[Run | Event | Link] = deque()
        self._callbacks = Callbacks(busy)
        self._iterated = False

    # ---- in: for the engine

    def messages(self, sender: Member, level: Level, payloads: list[bytes]) -> None:
        """Add consecutive messages of one sender. Hot: once for each frame."""
        count = len(payloads)
        cost = sum(map(len, payloads)) + count * MESSAGE_OVERHEAD
        queue = self._queue
        is_news = not queue
        if sender == self.member:
            self.own_arrived += count
            is_news = True
        if self.waiting + cost > self.limit or self._closed:
            self._refuse()
        else:
            self.waiting += cost
            queue.append(Run(sender, level, iter(payloads), count, cost))
        if is_news or self.overflowed:
            self._notify()

    def event(self, event: Confchg | RingEvent | Link) -> None:
        """Add one event that is not a message."""
        if type(event) is Confchg:
            self._note_own(event)
        if self.waiting + MESSAGE_OVERHEAD > self.limit or self._closed:
            self._refuse()
        else:
            self.waiting += MESSAGE_OVERHEAD
            self._queue.append(event)
        self._notify()

    def _refuse(self) -> None:
        if not self._closed:
            self.overflowed = True
            self.close()

    def _note_own(self, confchg: Confchg) -> None:
        if self.member in confchg.left and self.joined:
            self.left = True
            self.breaks += 1
        if self.member in confchg.joined:
            self.joined = True
            self.left = False
            self.members = self.members or confchg.members

    # ---- out: callbacks

    def register(self, kind: type[Event | Link], callback: Callback | None) -> None:
        """Call `callback` for each event of this kind; None removes the present one."""
        if self._iterated:
            raise self._busy("this group is iterated: a group is consumed either by iteration or by callbacks")
        self._callbacks.register(kind, callback)

    def wants(self, kind: type[Link]) -> bool:
        """Return whether there is a callback for this kind of event."""
        return kind in self._callbacks

    @property
    def has_callbacks(self) -> bool:
        """Whether the program has chosen callbacks."""
        return bool(self._callbacks)

    def dispatch(self) -> bool:
        """Run the callbacks for at most one turn of events; return whether more wait.

        An exception of a callback comes out. Its event counts as taken, and the next call goes on behind it.
        """
        for _ in range(self._turn()):
            if not self._queue:
                return False
            entry = self._queue[0]
            if type(entry) is Run:
                self._dispatch_run(entry)
            else:
                self._pop()
                callback = self._callbacks.get(type(entry))  # type: ignore[arg-type]
                if callback is not None:
                    callback(*entry)
        return bool(self._queue)

    def _dispatch_run(self, run: Run) -> None:
        on_message = self._callbacks.get(Message)
        if on_message is not None:
            sender = run.sender
            for payload in run.payloads:
                on_message(sender, payload)
        self._pop()

    # ---- out: objects

    def iterate(self) -> None:
        """Choose iteration. Raises `busy` where callbacks were chosen before."""
        if self._callbacks:
            raise self._busy("this group has callbacks: a group is consumed either by iteration or by callbacks")
        self._iterated = True

    def take(self) -> Event | None:
        """Return the next event, None if there is none."""
        while self._queue:
            entry = self._queue[0]
            if type(entry) is not Run:
                self._pop()
                return entry  # type: ignore[return-value]
            for payload in entry.payloads:
                return Message(entry.sender, payload, entry.level)
            self._pop()
        return None

    def take_batch(self) -> list[Event]:
        """Return at most one turn of events; empty if none waits."""
        batch: list[Any] = []
        for entry in list(islice(self._queue, self._turn())):
            if type(entry) is Run:
                batch += map(_NEW_MESSAGE, zip(repeat(entry.sender), entry.payloads, repeat(entry.level)))
            else:
                batch.append(entry)
            self._pop()
        return batch

    def _turn(self) -> int:
        return max(TURN, len(self._queue) // SHARE)

    def __bool__(self) -> bool:
        return bool(self._queue)

    def close(self) -> None:
        """Discard what waits, and accept nothing more (but notice the own leave)."""
        self._closed = True
        self.clear()

    def clear(self) -> None:
        """Discard what waits."""
        self._queue.clear()
        self.waiting = 0

    def _pop(self) -> None:
        """Remove the first entry, which the program has got completely."""
        entry = self._queue.popleft()
        if type(entry) is Run:
            self.waiting -= entry.cost
            if entry.sender == self.member:
                self.own_taken += entry.messages
            return
        self.waiting -= MESSAGE_OVERHEAD
        if type(entry) is Confchg:
            self.members = entry.members
