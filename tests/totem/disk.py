"""A disk in memory that can lose power: a stand-in for the module `os` in `totem.store`.

A program sees the live state. A crash leaves less: of a file's writes since its last fsync any prefix, or garbage; of a
folder's changes since its last fsync any subset. `outcomes` returns all of these worlds.
"""

import os
from itertools import product
from types import SimpleNamespace

O_RDONLY, O_WRONLY, O_CREAT, O_EXCL, O_DIRECTORY = os.O_RDONLY, os.O_WRONLY, os.O_CREAT, os.O_EXCL, os.O_DIRECTORY


class PowerCut(BaseException):
    """The machine ends here."""


class _File:
    def __init__(self):
        self.content = self.synced = b""

    def remains(self):
        if self.content == self.synced:
            return [self.content]
        half = self.content[: len(self.content) // 2]
        return [self.synced, b"", half, b"\xff" * len(self.content), self.content]


class Disk:
    """One folder, and the calls that the store makes. After `fuse` calls the power is cut."""

    O_RDONLY, O_WRONLY, O_CREAT, O_EXCL, O_DIRECTORY = O_RDONLY, O_WRONLY, O_CREAT, O_EXCL, O_DIRECTORY
    geteuid = staticmethod(os.geteuid)

    def __init__(self, files=(), fuse=None):
        self.fuse = fuse
        self.calls = 0
        self.names = {}
        for name, content in dict(files).items():
            self.names[name] = file = _File()
            file.content = file.synced = content
        self._durable = dict(self.names)
        self._changes = []
        self._open = {}
        self.path = SimpleNamespace(dirname=os.path.dirname, isdir=lambda path: True)

    def outcomes(self):
        """The folders, as dicts of contents, that a power cut at this moment may leave."""
        for kept in product((True, False), repeat=len(self._changes)):
            names = dict(self._durable)
            for change, keep in zip(self._changes, kept, strict=True):
                if keep:
                    names.update(change)
            names = {name: file for name, file in names.items() if file is not None}
            for contents in product(*(file.remains() for file in names.values())):
                yield dict(zip(names, contents, strict=True))

    def _step(self):
        self.calls += 1
        if self.fuse is not None and self.calls > self.fuse:
            raise PowerCut

    def stat(self, path):
        return SimpleNamespace(st_uid=0, st_mode=0o755)

    def makedirs(self, path, exist_ok):
        self._step()

    def open(self, path, flags, mode=0o777):
        self._step()
        if flags & O_DIRECTORY:
            file = None
        elif flags & O_CREAT:
            assert flags & O_EXCL
            if path in self.names:
                raise FileExistsError(path)
            file = self.names[path] = _File()
            self._changes.append({path: file})
        elif path in self.names:
            file = self.names[path]
        else:
            raise FileNotFoundError(path)
        number = len(self._open) + 100
        self._open[number] = file
        return number

    def read(self, number, size):
        self._step()
        return self._open[number].content[:size]

    def write(self, number, data):
        self._step()
        self._open[number].content += data
        return len(data)

    def fsync(self, number):
        self._step()
        file = self._open[number]
        if file is None:
            self._durable = dict(self.names)
            self._changes = []
        else:
            file.synced = file.content

    def close(self, number):
        self._step()

    def unlink(self, path):
        self._step()
        if path not in self.names:
            raise FileNotFoundError(path)
        del self.names[path]
        self._changes.append({path: None})

    def replace(self, source, target):
        self._step()
        self.names[target] = self.names.pop(source)
        self._changes.append({target: self.names[target]})
