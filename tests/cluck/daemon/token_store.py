"""A resource that checks fencing tokens: a number that holders of a lock read, and write one larger.

Each access carries the holder's token, reads too, and one that is lower than any seen before is refused: who has read
may rely on it that nobody with an older token writes any more. The store judges for itself: a write whose number is not
the next one is a lost update, whatever the locks say.
"""

import json
import socket
from functools import partial

import trio


class Store:
    """The number, and what became of it."""

    def __init__(self):
        self.value = 0
        self.latest = 0
        """The largest token seen."""
        self.refused = 0
        """Accesses with older ones."""
        self.lost = []
        """Tokens of writes that made others undone."""
        self.writes = []
        """Tokens of all writes, in their order."""

    def read(self, token):
        """The number; None if a later holder was here."""
        return self.value if self._admits(token) else None

    def write(self, token, value):
        """Whether it was written."""
        if not self._admits(token):
            return False
        if value != self.value + 1:
            self.lost.append(token)
        self.value = value
        self.writes.append(token)
        return True

    def _admits(self, token):
        if token < self.latest:
            self.refused += 1
            return False
        self.latest = token
        return True

    async def serve(self, path, *, task_status=trio.TASK_STATUS_IGNORED):
        """Serve processes at a Unix socket."""
        listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        await listener.bind(str(path))
        listener.listen(64)
        await trio.serve_listeners(self._answer, [trio.SocketListener(listener)], task_status=task_status)

    async def _answer(self, stream):
        rest = b""
        async with stream:
            async for chunk in stream:
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    what, *arguments = json.loads(line)
                    answer = {"read": self.read, "write": self.write}[what](*arguments)
                    with trio.move_on_after(1):  # a process that stands still does not read
                        try:
                            await stream.send_all(json.dumps(answer).encode() + b"\n")
                        except trio.BrokenResourceError:
                            return  # it was killed


class Access:
    """A process's way to the store. It blocks the process, so that nothing comes between reading and writing."""

    def __init__(self, path):
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.connect(str(path))
        self._answers = self._sock.makefile("rb")
        self.read = partial(self._ask, "read")
        self.write = partial(self._ask, "write")

    def close(self):
        """End the connection."""
        self._answers.close()
        self._sock.close()

    def _ask(self, *question):
        self._sock.sendall(json.dumps(question).encode() + b"\n")
        return json.loads(self._answers.readline())
