"""The bytes that all services share: how a client connects, and the header of each request and answer.

Names in the comments are those of libqb and Corosync. All members are aligned to 8 unless a comment says otherwise.
Padding is sent as zero, and may be anything in requests, since clients build them on the stack.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from cpg.libcpg.codes import Code

LARGEST: Final = 1 << 20
"""Bytes of the longest request, answer or event: the size of the libraries' buffers (IPC_REQUEST_SIZE)."""
AUTHENTICATE: Final = -1
SOCKET: Final = 0
"""The type of connection that clients get: datagram sockets, no shared memory."""

REQUEST: Final = Struct("<i4xi4x")  # struct qb_ipc_request_header: id, size
ANSWER: Final = Struct("<i4xi4xi4x")  # struct qb_ipc_response_header: id, size, error
CONNECT: Final = Struct("<i4xi4xI4x")  # struct qb_ipc_connection_request: header, max_msg_size
CONNECTED: Final = Struct("<i4xi4xi4x iIQ 4096s4096s4096s")
#   struct qb_ipc_connection_response: header, connection_type, max_msg_size, connection, request, response, event
FLOW: Final = Struct("<i")  # struct ipc_us_control.flow_control
CONTROL_SIZE: Final = 24  # three struct ipc_us_control {sent, flow_control}: request, response, event
FLOW_OFFSET: Final = 4  # of the requests' flow_control
FLOW_OPEN: Final = FLOW.pack(0)
FLOW_CLOSED: Final = FLOW.pack(2)  # as QB_IPCS_RATE_OFF_2: multicasts are refused in the library, other calls are not

LONGEST_ADDRESS: Final = 108  # sizeof(sun_path)

assert (REQUEST.size, ANSWER.size, CONNECT.size, CONNECTED.size) == (16, 24, 24, 12328)


class MalformedRequest(Exception):
    """A request that no correct library sends; its connection is ended, and the text logged."""


def check_connect(request: bytes) -> None:
    """Raise MalformedRequest unless this is a request to connect."""
    request_id, size, _ = CONNECT.unpack(request)
    if request_id != AUTHENTICATE or size != CONNECT.size:
        raise MalformedRequest(
            f"a connection begins with id {AUTHENTICATE}, size {CONNECT.size}, not {request_id}, {size}"
        )


def connected(control: str, base: str) -> bytes:
    """Return the answer to a client that is connected: its control file, and the prefix of its sockets' names."""
    size = CONNECTED.size
    return CONNECTED.pack(AUTHENTICATE, size, 0, SOCKET, LARGEST, 1, control.encode(), base.encode(), b"")


def refused(error: int) -> bytes:
    """Return the answer to a client that is refused; `error` is an errno."""
    return CONNECTED.pack(AUTHENTICATE, CONNECTED.size, -error, 0, 0, 0, b"", b"", b"")


def address(name: str) -> bytes:
    """Return the abstract address of a socket, as libqb binds and connects: the name fills all of sun_path."""
    return (b"\0" + name.encode()).ljust(LONGEST_ADDRESS, b"\0")


def answer(answer_id: int, body: bytes = b"", code: Code = Code.OK) -> bytes:
    """Return an answer or event with this body."""
    return ANSWER.pack(answer_id, ANSWER.size + len(body), code) + body


def uint32s(values: tuple[int, ...]) -> bytes:
    """Return an array of mar_uint32_t, which has no gaps."""
    return Struct(f"<{len(values)}I").pack(*values)
