"""The command `totem`, which has one subcommand: `totem dump`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from importlib.metadata import PackageNotFoundError, entry_points, version
from io import BufferedReader, TextIOWrapper
from typing import TextIO, cast

from totem.dump import captures
from totem.dump.captures import BadCapture, Packet
from totem.dump.filters import TYPES, Filter
from totem.dump.jsonlines import to_json
from totem.dump.live import NoCapture, Sniffer
from totem.dump.network import Reassembler
from totem.dump.records import UNEXPLAINED, Layer, Reader, Record
from totem.dump.summary import Summary
from totem.dump.text import Writer
from totem.streams import StreamFailed, complain, give_up, standard_stream, standard_streams

DONE, FAILED, MISUSED = 0, 1, 2
DEFAULT_PORTS = (5404, 5405)
ANY = ""
"""The name that stands for all interfaces."""

_EPILOG = """\
A line for each packet: time, source > destination, type, node (of a token: its
last sender; of a multicast: its originator), ring, numbers. Ring ids are as in
Corosync's log: "1.d" is ring d (hexadecimal) of representative 1. Below the line
stands each message that the packet completes. Of a packet's copies for several
destinations only the first is shown; tokens of an idle ring are one line with a
count.

types of packets:
  token mcast merge_detect join leave commit_token hold_cancel
  foreign (at a ring's port, but no packet of a ring), malformed, retransmission
types of messages (the name of a service stands for all of its messages):
  {names}

--json prints one object a line: time, source, destination, type, node, length;
"packet" and each of "messages" with the fields that Corosync's structures have;
bytes in hex. Only where they apply: "copy" ("copy" or "retransmission"), "train"
(its place and the length), "hello", "hint", "faults" (why it is malformed),
"notes"; "hex" of what cannot be read.

examples:
  totem dump ring.pcap                               all packets
  totem dump ring.pcap.gz --summary                  counts and rates
  totem dump ring.pcap --type join,leave,commit_token,sync
  totem dump ring.pcap --group chat --no-tokens
  totem dump ring.pcap --json | jq -c 'select(.type == "token").packet.aru'
  totem dump --live                                  packets as they pass, all interfaces
  ssh node tcpdump -U -w - udp port 5405 | totem dump -

exit codes:
  0    done; with --live also: ended by SIGINT or SIGTERM
  1    the file cannot be read, or is damaged: what stands before is shown;
       packets cannot be listened to
  2    wrong usage
  130  reading a file was ended by SIGINT
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    with standard_streams("totem", FAILED):
        layers = installed_layers()
        options = parser(layers).parse_args(arguments)
        try:
            with standard_stream("standard output"):
                return _dump(options, _Output(options, layers))
        except BrokenPipeError:
            give_up("stdout")  # who reads it has seen enough
            return DONE
        except StreamFailed as error:
            give_up("stdout")
            complain("totem", f"{error.filename}: {error.strerror}")
            return FAILED


def installed_layers() -> list[Layer]:
    """Return the installed layers above, by their entry points."""
    return [entry.load() for entry in entry_points(group="totem.dump")]


def _dump(options: argparse.Namespace, output: _Output) -> int:
    try:
        if options.live is None:
            output.show(_packets_of(options.file))
        else:
            with closing(Sniffer(options.live)) as sniffer:
                sniffer.stop_on(signal.SIGINT, signal.SIGTERM)
                output.show(sniffer.packets())
                output.troubles["packets dropped by the kernel, since this was too slow"] = sniffer.dropped()
    except NoCapture as error:
        return _complain(str(error))
    except BadCapture as error:
        output.finish()
        return _complain(f"{options.file}: {error}")
    output.finish()
    return DONE


def _packets_of(path: str) -> Iterator[Packet]:
    """Yield the packets of a file, or of standard input. Raises BadCapture."""
    try:
        if path == "-":
            with standard_stream("standard input"):
                yield from captures.packets(cast(BufferedReader, sys.stdin.buffer))
        else:
            with open(path, "rb") as file:
                yield from captures.packets(file)
    except OSError as error:
        raise BadCapture(error.strerror or str(error)) from error


def _complain(text: str) -> int:
    sys.stdout.flush()
    complain("totem", text)
    return FAILED


class _Output:
    """Turns packets into what is printed."""

    def __init__(self, options: argparse.Namespace, layers: list[Layer]) -> None:
        self.troubles: Counter[str] = Counter()
        """What was not captured or could not be read, by cause."""
        self._options = options
        self._network = Reassembler()
        self._reader = Reader(options.port or DEFAULT_PORTS, layers, only_ports=bool(options.port))
        self._summary = Summary()
        self._filter = Filter(
            types=options.type,
            nodes=options.node,
            groups=options.group,
            copies=options.copies,
            tokens=not options.no_tokens,
        )
        self._writer = Writer(colour=_colours(sys.stdout), hexdump=options.hex, every_token=options.tokens)
        streaming = options.live is not None or options.file == "-"
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(line_buffering=streaming, errors="backslashreplace")

    def show(self, packets: Iterable[Packet]) -> None:
        """Print what these packets say."""
        for packet in packets:
            datagram = self._network.take(packet)
            if datagram is not None:
                self._add(self._reader.take(datagram))

    def finish(self) -> None:
        """Print what remains, and the summary or what should be known without one."""
        self._add(self._reader.finish())
        self._print(self._writer.finish())
        self.troubles.update(self._network.ignored)
        self.troubles["datagrams whose fragments did not all come"] += self._network.unfinished
        troubles = {what: count for what, count in self.troubles.items() if count}
        if not (self._options.summary or self._options.live is not None):
            for what, count in troubles.items():
                print(f"totem: {count} {what}", file=sys.stderr)
        elif self._options.json:
            self._print([json.dumps(self._summary.as_dict(troubles))])
        else:
            self._print(self._summary.lines(troubles))

    def _add(self, records: Iterable[Record]) -> None:
        for record in records:
            self._summary.add(record)
            shown = None if self._options.summary else self._filter.apply(record)
            if shown is None:
                continue
            if self._options.json:
                self._print([to_json(shown, hexdump=self._options.hex)])
            else:
                self._print(self._writer.lines(shown))

    @staticmethod
    def _print(lines: Iterable[str]) -> None:
        for line in lines:
            sys.stdout.write(f"{line}\n")


def _colours(output: TextIO) -> bool:
    return output.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


# ---- the command line


def parser(layers: Iterable[Layer] = ()) -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    names = sorted({UNEXPLAINED, *(name for layer in layers for name in layer.names)})
    whole = argparse.ArgumentParser(
        prog="totem",
        description="Totem rings on Corosync's wire.",
        epilog="examples:\n  totem dump ring.pcap\n  totem dump --live\n  totem dump --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action="version", version=f"totem {_version()}")
    commands = whole.add_subparsers(title="commands", metavar="COMMAND", required=True)
    dump = commands.add_parser(
        "dump",
        help="show what Corosync's datagrams say, from a capture or as they pass",
        description="""\
Show what the nodes of a ring, Corosync's or this package's, send to each other:
tokens, joins, process groups, sync, votes; each message also through packing,
fragments and recovery. FILE is a capture by tcpdump or Wireshark (pcap or pcapng,
also gzipped; - is standard input). Transports udp and udpu, without encryption.""",
        epilog=_EPILOG.format(names=textwrap.fill(" ".join(names), 76, subsequent_indent="  ")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = dump.add_mutually_exclusive_group(required=True)
    what.add_argument("file", nargs="?", metavar="FILE", help="the capture")
    what.add_argument(
        "--live",
        nargs="?",
        const=ANY,
        metavar="INTERFACE",
        help="capture at INTERFACE, or at all, until SIGINT; then print the summary (needs CAP_NET_RAW; binds no port)",
    )
    dump.add_argument(
        "--summary", action="store_true", help="print counts instead: of all packets, whatever is selected below"
    )
    dump.add_argument("--json", action="store_true", help="print JSON, one object a line")
    dump.add_argument("--hex", action="store_true", help="print all bytes of each packet as well")
    dump.add_argument(
        "--type", type=_type_reader(names), default=(), metavar="TYPE,…", help="show only these types (see below)"
    )
    dump.add_argument(
        "--node", type=_numbers(1, 2**32 - 1), default=(), metavar="ID,…", help="show only what these nodes send"
    )
    dump.add_argument(
        "--group",
        type=os.fsencode,
        action="append",
        default=[],
        metavar="NAME",
        help="show only messages about this process group (may be repeated)",
    )
    dump.add_argument(
        "--port",
        type=_numbers(1, 65535),
        metavar="PORT,…",
        help="read only these ports (default: 5404, 5405, and all other packets that begin as a ring's do)",
    )
    tokens = dump.add_mutually_exclusive_group()
    tokens.add_argument("--tokens", action="store_true", help="show each token, also of idle rings (as --json does)")
    tokens.add_argument("--no-tokens", action="store_true", help="show no token")
    dump.add_argument("--copies", action="store_true", help="show a packet once for each of its destinations")
    return whole


def _version() -> str:
    try:
        return version("totem-cpg")
    except PackageNotFoundError:
        return "from a source tree that is not installed"


def _type_reader(names: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    known = TYPES | {*names, *(name.partition(".")[0] for name in names)}

    def read(text: str) -> tuple[str, ...]:
        types = tuple(text.split(","))
        for wanted in types:
            if wanted not in known:
                raise argparse.ArgumentTypeError(f"{wanted!r} is none of: {' '.join(sorted(known))}")
        return types

    return read


def _numbers(lowest: int, highest: int) -> Callable[[str], tuple[int, ...]]:
    def read(text: str) -> tuple[int, ...]:
        words = text.split(",")
        for word in words:
            if not (word.isascii() and word.isdigit()) or not lowest <= int(word) <= highest:
                raise argparse.ArgumentTypeError(f"{word} is not a whole number between {lowest} and {highest}")
        return tuple(map(int, words))

    return read
