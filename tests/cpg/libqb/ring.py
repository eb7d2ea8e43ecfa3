"""Rings like those of the tests with real nodes, whose daemons of ours answer libqb's clients."""

import sys

from tests.interop.ring import PATIENCE, MixedRing

GUEST = 65533
"""A user who is allowed beside root."""
SECTIONS = f"cpgd {{\n    libqb: yes\n}}\nuidgid {{\n    uid: {GUEST}\n}}\n"


class RingOfOurs(MixedRing):
    """A ring where what would be a real Corosync node is a `cpgd` that answers libqb's clients."""

    def __init__(self, folder, count, *, real=(), **settings):
        """`real`: places where a Corosync is started after all."""
        super().__init__(folder, count, **settings)
        self._real = real
        for k, path in self.config.items():
            if k not in real:
                path.write_text(path.read_text() + SECTIONS)

    def daemon(self, k):
        """The command line of a node."""
        if k in self._real:
            return super().daemon(k)
        self.socket(k).unlink(missing_ok=True)  # of one that was killed
        where = ("-c", self.config[k], "--node", str(k), "--socket", self.socket(k))
        return (sys.executable, "-m", "cpg.daemon", *where)

    def complaints(self, k):
        """What a node has logged that it would not log in a ring that is well."""
        if k in self._real:
            return super().complaints(k)
        return [line for line in self.log(k) if " ERROR " in line or "Traceback" in line]

    def close(self):
        """End all nodes, and check that nothing is left of them."""
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
