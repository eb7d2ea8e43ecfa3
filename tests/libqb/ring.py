"""Rings as the tests with real nodes have them, with nodes of ours that answer libqb's clients for the real ones."""

import sys

from tests.interop.ring import PATIENCE, MixedRing


class RingOfOurs(MixedRing):
    """A ring where what would be a real Corosync node is one of ours that answers libqb's clients."""

    def __init__(self, folder, count, *, real=(), **settings):
        """`real`: places where a Corosync is started after all."""
        super().__init__(folder, count, **settings)
        self._real = real

    def daemon(self, k):
        """The command line of a node."""
        if k in self._real:
            return super().daemon(k)
        return (sys.executable, "-m", "tests.libqb.runner", self.config[k], str(k))

    def complaints(self, k):
        """What a node has logged that it would not log in a ring that is well."""
        if k in self._real:
            return super().complaints(k)
        return [line for line in self.log(k) if line.startswith("ERROR") or "Traceback" in line]

    def close(self):
        """End all nodes, and see that nothing is left of them."""
        ours = [k for k in self.corosyncs if k not in self._real]
        try:
            for k in ours:
                node = self.corosyncs[k]
                node.terminate()
                assert node.wait(PATIENCE) == 0, self.log(k)
                assert not self.complaints(k), self.log(k)
                assert f"qb-{node.pid}-" not in self.place(k).run("ls", "/dev/shm")
        finally:
            super().close()
