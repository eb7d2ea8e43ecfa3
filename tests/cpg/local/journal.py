"""A journal like systemd's, as programs see it: its native socket, and what systemd says about the other one."""

import os
import socket
from contextlib import contextmanager


@contextmanager
def listening(path):
    """Open a socket for datagrams at a path."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(path))
        journal.settimeout(10)
        yield journal
    os.unlink(path)


def entry(datagram):
    """Return all fields of an entry in the journal's native protocol, in their order."""
    fields = []
    while datagram:
        line, _, rest = datagram.partition(b"\n")
        name, sign, value = line.partition(b"=")
        if not sign:
            size = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + size], rest[8 + size :]
            assert rest[:1] == b"\n"
            rest = rest[1:]
        fields.append((name.decode(), value.decode()))
        datagram = rest
    return fields


def stream_of(descriptor):
    """Return the value of JOURNAL_STREAM for a descriptor that the journal reads."""
    file = os.fstat(descriptor)
    return f"{file.st_dev}:{file.st_ino}"
