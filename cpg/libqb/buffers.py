"""The shell's part of libcpg's zero copy: files of a client in shared memory, which it fills and orders to be sent.

The library creates a file, fills it and leaves it to the server to remove. Corosync accepts any file that the client
names. Here it must be one of those that the library creates, and the client's own, each time that it is opened. Nothing
is mapped, since the client can truncate the file.
"""

from __future__ import annotations

import itertools
import os
import re
import stat
from contextlib import suppress
from struct import Struct
from typing import Final

MOST_BUFFERS: Final = 64
"""Files of one client."""

_PATH: Final = re.compile(r"/dev/shm/corosync_zerocopy-\w{6}", re.ASCII)
_HANDLE: Final = Struct("<Q")
_HANDLE_OFFSET: Final = 8  # of server_address in struct coroipcs_zc_header


class Buffers:
    """The files of one client."""

    def __init__(self, uid: int) -> None:
        self._uid = uid
        self._paths: dict[int, str] = {}
        self._handles = itertools.count(1)

    def allocate(self, path: str) -> bool:
        """Register a file, and write into it the handle that names it from now on."""
        if len(self._paths) >= MOST_BUFFERS or not _PATH.fullmatch(path):
            return False
        handle = next(self._handles)
        self._paths[handle] = path
        try:
            descriptor = self._open(handle)
            try:
                os.pwrite(descriptor, _HANDLE.pack(handle), _HANDLE_OFFSET)
            finally:
                os.close(descriptor)
        except OSError:
            del self._paths[handle]
            return False
        return True

    def _open(self, handle: int) -> int:
        descriptor = os.open(self._paths[handle], os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != self._uid:
            os.close(descriptor)
            raise PermissionError("not a file of this client")
        return descriptor

    def read(self, handle: int, offset: int, length: int) -> bytes:
        """Read a part of a file; less where there is less, or no such file."""
        if handle not in self._paths:
            return b""
        try:
            descriptor = self._open(handle)
            try:
                return os.pread(descriptor, length, offset)
            finally:
                os.close(descriptor)
        except OSError:
            return b""

    def free(self, handle: int) -> bool:
        """Remove a file; return whether there was one."""
        path = self._paths.pop(handle, None)
        if path is None:
            return False
        with suppress(OSError):
            if os.lstat(path).st_uid == self._uid:
                os.unlink(path)
        return True

    def close(self) -> None:
        """Remove all files."""
        for handle in list(self._paths):
            self.free(handle)
