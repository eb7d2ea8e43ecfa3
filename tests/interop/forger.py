"""Forged refusals: ICMP port unreachable that quotes datagrams of a ring, as if its nodes' kernels had sent it.

    python -m tests.interop.forger PORT RATE COUNT ADDRESS...

Each of the addresses is told of each other one that it refuses datagrams, RATE times a second, all together. It prints
a JSON line at its end.
"""

import itertools
import json
import socket
import struct
import sys
import time


def checksum(data):
    """The Internet checksum of an even number of bytes."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip(source, target, protocol, payload):
    """An IPv4 packet; its checksum is the kernel's business."""
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0)
    return head + socket.inet_aton(source) + socket.inet_aton(target) + payload


def refusal(told, accused, port):
    """What tells one address that the other one has nobody at a port."""
    quoted = ip(told, accused, socket.IPPROTO_UDP, struct.pack("!HHHH", port, port, 108, 0))
    body = bytes(4) + quoted
    message = struct.pack("!BBH", 3, 3, 0) + body
    message = struct.pack("!BBH", 3, 3, checksum(message)) + body
    return ip(accused, told, socket.IPPROTO_ICMP, message)


def main(port, rate, count, *addresses):
    """Send them."""
    pairs = itertools.permutations(addresses, 2)
    packets = [(refusal(told, accused, int(port)), told) for told, accused in pairs]
    start = time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as out:
        for number, (packet, told) in zip(range(int(count)), itertools.cycle(packets), strict=False):
            out.sendto(packet, (told, 0))
            time.sleep(max(0.0, start + number / float(rate) - time.monotonic()))
    print(json.dumps({"event": "forged"}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
