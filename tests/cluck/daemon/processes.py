"""`cluckd` as processes of their own, and programs that speak to them by the bare protocol."""

import os
import signal
import socket
import subprocess
import sys

import trio

from cluck.commands import Acquire, Owner, RequestId
from cluck.protocol import LARGEST_RECORD, VERSION, Hello, Readiness, Welcome, downward, records

PATIENCE = 30


class Cluckd:
    """A cluckd, with what a service manager gives it. Its log is kept."""

    def __init__(self, folder, node, *options, prefix=()):
        """`prefix`: a command that runs its arguments as a command, as the same process."""
        self.folder = folder
        self.node = node
        self.path = folder / f"cluckd{node}"
        self.log = ""
        self._notices_path = folder / f"notify{node}"
        self._options = options
        self._prefix = prefix
        self.process = None
        self.notices = None
        self._speakers = []

    def start(self, *options):
        """Start it, perhaps again."""
        self._forget()
        self._notices_path.unlink(missing_ok=True)
        self.notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notices.bind(str(self._notices_path))
        self.notices.setblocking(False)
        places = ["--socket", str(self.path), "--state-dir", str(self.folder / f"state{self.node}")]
        command = [sys.executable, "-m", "cluck.daemon", *places, *map(str, (*self._options, *options))]
        with open(self.folder / f"log{self.node}", "ab") as log:
            environment = {**os.environ, "NOTIFY_SOCKET": str(self._notices_path)}
            self.process = subprocess.Popen([*self._prefix, *command], stderr=log, env=environment)
        return self

    async def notice(self):
        """What the service manager is told next."""
        with trio.fail_after(PATIENCE):
            await trio.lowlevel.wait_readable(self.notices)
        return self.notices.recv(1000).decode()

    async def running(self):
        """Wait until it has a ring."""
        assert (await self.notice()).startswith("READY=1")
        return self

    async def reload(self):
        """Have it read its configuration again."""
        self.process.send_signal(signal.SIGHUP)
        assert [await self.notice() for _ in range(2)] == ["RELOADING=1", "READY=1"]

    async def end(self, number=signal.SIGTERM):
        """Send it a signal; its exit code and all it has logged."""
        self.process.send_signal(number)
        await trio.to_thread.run_sync(self.process.wait, PATIENCE)
        return self.process.returncode, self.logged()

    def logged(self):
        """All it has logged."""
        return (self.folder / f"log{self.node}").read_text()

    def speaker(self):
        """A client that is closed at the end."""
        self._speakers.append(Speaker(self.path))
        return self._speakers[-1]

    def close(self):
        """Make sure that nothing is left."""
        self._forget()
        for speaker in self._speakers:
            speaker.close()

    def _forget(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.notices.close()


class Speaker:
    """A client that says what the test says."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self.sock.connect(str(path))
        except OSError:
            self.sock.close()
            raise
        self.sock.setblocking(False)
        self.heard = []
        self.requests = 0
        self.welcome = None

    def say(self, *said):
        """Say it, in one record."""
        for record in records(said):
            self.sock.send(record)

    async def hear(self, kind):
        """What is said next of this kind; None when the connection ends before."""
        with trio.fail_after(PATIENCE):
            while True:
                for place, said in enumerate(self.heard):
                    if isinstance(said, kind):
                        del self.heard[: place + 1]
                        return said
                await trio.lowlevel.wait_readable(self.sock)
                record = self.sock.recv(LARGEST_RECORD + 1)
                if not record:
                    return None
                self.heard += downward(record)

    async def greet(self, resumes=None, secret=b""):
        """Be welcomed, and wait until locks are granted."""
        self.say(Hello(VERSION, "test", resumes, secret))
        self.welcome = await self.hear(Welcome)
        while not (await self.hear(Readiness)).ready:
            pass
        return self

    def acquire(self, name, **wishes):
        """Ask for a lock; the request."""
        self.requests += 1
        request = RequestId(Owner(self.welcome.client, 1), self.requests)
        self.say(Acquire(request, name, **wishes))
        return request

    def close(self):
        """End the connection without a word."""
        self.sock.close()
