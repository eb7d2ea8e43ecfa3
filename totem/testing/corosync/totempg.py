"""The model of totempg, Corosync's packing layer: it puts messages into frames, and takes them out."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from totem.errors import MalformedDatagram
from totem.wire import codec

MESSAGE_SIZE_MAX = 1024 * 1024
ASSEMBLY_SIZE = MESSAGE_SIZE_MAX + 65536
PG_HEADER = 8
_EXEC_HEADER = struct.Struct("<i")
_CPG_HEADERS = {0x20003: 184, 0x20006: 200}  # mcast, partial mcast


class Assembly:
    """The message of one sender that is being assembled."""

    def __init__(self) -> None:
        self.data = bytearray()
        """Everything before `index`, which is its length."""
        self.last_frag_num = 0
        self.throw_away = False

    def take(self, fragmented: int, continuation: int, pieces: list[bytes]) -> list[bytes]:
        """Add a frame's pieces; return the messages that are complete by it.

        Nothing is delivered from a frame in which throwing away ends, and `last_frag_num` is not updated there: a real
        node does the same.
        """
        start = len(self.data)
        self.data += b"".join(pieces)
        lengths = [len(piece) for piece in pieces]
        complete = len(pieces) - bool(fragmented)
        index = start
        messages = []
        if self.throw_away:
            if fragmented in (0, 1):
                self.throw_away = False
                index += lengths[0]
        elif continuation == self.last_frag_num:
            self.last_frag_num = fragmented
            begin, end = 0, start
            for length in lengths[:complete]:
                end += length
                messages.append(bytes(self.data[begin:end]))
                begin = index = end
        else:
            self.throw_away = True
        if fragmented:
            self._keep_tail(len(pieces), index, lengths[-1])
        return messages

    def _keep_tail(self, count: int, index: int, length: int) -> None:
        """Leave the unfinished message, or what is taken for it after a throw-away, at the head of the buffer."""
        if count > 1:
            tail = self.data[index : index + length]
            self.data = tail + bytes(length - len(tail))
        else:
            self.data = self.data[: index + length]
            self.data += bytes(index + length - len(self.data))


class Totempg:
    """The packing layer: one staging buffer for what is sent, two sets of assemblies for what is received."""

    def __init__(self, packet_size: int, mcast: Callable[[bytes], None], avail: Callable[[], int]) -> None:
        self.packet_size = packet_size
        """TOTEMPG_PACKET_SIZE: bytes of a frame without its header."""
        self.bytes_a_frame = packet_size - 16
        """Bytes of a frame, as the node estimates them when it checks the queue's room."""
        self.waiting_transack = False
        self._totemsrp_mcast = mcast
        self._totemsrp_avail = avail
        self._fragmentation_data = bytearray()
        self._mcast_packed_msg_lens: list[int] = []
        self._fragment_continuation = 0
        self._next_fragment = 1
        self._assembly_list: dict[int, Assembly] = {}
        self._assembly_list_trans: dict[int, Assembly] = {}

    def frames_for(self, byte_count: int) -> int:
        """Return the node's estimate of a message's frames when it checks the queue's room (`byte_count_send_ok`)."""
        return byte_count // self.bytes_a_frame + 1

    def mcast_msg(self, iovec: Sequence[bytes]) -> None:
        """Stage or send one message, which its sender passes down in these parts.

        A part that fits is staged whole; one that does not fills the frame completely. Whether the rest of such a part
        may be staged depends on the length of the whole part.
        """
        iovec = [part for part in iovec if part]
        lens = self._mcast_packed_msg_lens
        lens.append(0)
        for i, part in enumerate(iovec):
            copy_base = 0
            while copy_base < len(part):
                fragment_size = len(self._fragmentation_data)
                max_packet_size = self.packet_size - 2 * len(lens)
                if len(part) + fragment_size < max_packet_size - 2:
                    self._fragmentation_data += part[copy_base:]
                    lens[-1] += len(part) - copy_base
                    self._next_fragment = 1
                    break
                copy_len = min(len(part) - copy_base, max_packet_size - fragment_size)
                self._fragmentation_data += part[copy_base : copy_base + copy_len]
                lens[-1] += copy_len
                copy_base += copy_len
                whole = copy_base == len(part) and i == len(iovec) - 1
                self._send_full(0 if whole else self._next_fragment or 1)
                lens.append(0)
        if not lens[-1]:
            lens.pop()

    def _send_full(self, fragmented: int) -> None:
        if not self._totemsrp_avail():
            raise AssertionError("a real node dies: no room for a frame in totemsrp's queue")
        self._send(fragmented)
        if fragmented:
            self._fragment_continuation = fragmented
            self._next_fragment = (fragmented + 1) & 0xFF

    def _send(self, fragmented: int) -> None:
        header = codec.frame(self._mcast_packed_msg_lens, fragmented, self._fragment_continuation)
        self._totemsrp_mcast(header + self._fragmentation_data)
        self._fragment_continuation = 0
        self._mcast_packed_msg_lens.clear()
        self._fragmentation_data.clear()

    def callback_token_received(self) -> None:
        """Send what is staged, if the queue has room; if not, it stays for whichever stream is next."""
        if self._mcast_packed_msg_lens and self._totemsrp_avail():
            self._send(0)

    def deliver(self, node_id: int, datagram: bytes) -> list[bytes]:
        """Return the messages that a multicast completes."""
        try:
            fragmented, continuation, pieces = codec.parse_frame(datagram)
        except MalformedDatagram:
            return []
        if not pieces:
            return []
        assemblies = self._assembly_list_trans if self.waiting_transack else self._assembly_list
        assembly = assemblies.setdefault(node_id, Assembly())
        if len(assembly.data) + len(datagram) - codec.MCAST_HEADER >= ASSEMBLY_SIZE:
            raise AssertionError(f"a real node dies: a message of node {node_id} overruns the assembly buffer")
        messages = assembly.take(fragmented, continuation, pieces)
        if not fragmented:
            del assemblies[node_id]
        return messages

    def drop_assemblies(self, left: Iterable[int]) -> None:
        """Forget what has come from nodes that have left."""
        for node_id in left:
            self._assembly_list.pop(node_id, None)
            self._assembly_list_trans.pop(node_id, None)


def iovec_of(message: bytes) -> list[bytes]:
    """Cut a message where a real node's layers cut it when they pass it down; that decides how it is packed.

    They pass down the lengths of the group names, the names, then the executive message; CPG passes header and payload
    of its multicasts as two parts. A message without group header is one part.
    """
    if not message.startswith((b"\x01\x00\x01\x00a", b"\x01\x00\x04\x00sync")):
        return [message]
    body = 4 + message[2]
    cuts = [0, 4, body]
    if len(message) >= body + _EXEC_HEADER.size:
        header = _CPG_HEADERS.get(_EXEC_HEADER.unpack_from(message, body)[0], 0)
        if header:
            cuts.append(body + header)
    cuts.append(len(message))
    return [message[begin:end] for begin, end in pairwise(cuts)]
