"""The command `totem dump`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing
from io import BufferedReader, TextIOWrapper
from typing import TYPE_CHECKING, TextIO, cast

from totem.config import CIPHERS, HASHES, MAX_KEY, MIN_KEY, MOST_LINKS, Config, Knet
from totem.corosync_conf import load
from totem.dump import captures
from totem.dump.captures import BadCapture, Packet
from totem.dump.filters import TYPES, Filter
from totem.dump.jsonlines import to_json
from totem.dump.knet import KnetReader
from totem.dump.live import NoCapture, Sniffer
from totem.dump.network import Reassembler
from totem.dump.records import UNEXPLAINED, Layer, Reader, Record
from totem.dump.summary import Summary
from totem.dump.text import Writer
from totem.errors import ConfigError
from totem.links.crypto import Seal, seal_of
from totem.streams import DONE, FAILED, complain, standard_stream

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

DEFAULT_PORTS = range(5404, 5413)
"""Corosync's: 5405 and the port before it, and with knet those behind it for further links."""
CIPHER, HASH = "aes256", "sha256"
"""What opens packets where only a key is given: what secauth stands for."""
REFUSED_BEFORE_COMPLAINT = 20
"""Datagrams of which none opens, before that is reported while more are awaited."""
ANY = ""
"""The name that stands for all interfaces."""

_EPILOG = """\
A line for each packet: time, source > destination, type, node (of a token: its
last sender; of a multicast: its originator), ring, numbers. Ring ids are as in
Corosync's log: "1.d" is ring d (hexadecimal) of representative 1. Below the line
stands each message that the packet completes. Of a packet's copies for several
destinations only the first is shown; tokens of an idle ring, pings that repeat,
and fragments are one line with a count.

types of packets:
  token mcast merge_detect join leave commit_token hold_cancel
  ping pong probe probe_reply fragment (of knet)
  foreign (at a ring's port, but no packet of a ring), malformed, retransmission
types of messages (the name of a service stands for all of its messages):
  {names}

--json prints one object a line: time, source, destination, type, node, length;
"packet" and each of "messages" with the fields that Corosync's structures have;
bytes in hex. Only where they apply: "copy" ("copy" or "retransmission"), "train"
(its place and the length), "knet" (what knet says around it), "hello", "hint",
"faults" (why it is malformed), "notes"; "hex" of what cannot be read.

examples:
  totem dump ring.pcap                               all packets
  totem dump ring.pcap.gz --summary                  counts and rates
  totem dump ring.pcap --type join,leave,commit_token,sync
  totem dump ring.pcap --group chat --no-tokens
  totem dump ring.pcap --json | jq -c 'select(.type == "token").packet.aru'
  totem dump --live                                  packets as they pass, all interfaces
  totem dump --live -c /etc/corosync/corosync.conf   an encrypted ring over knet, with its key
  ssh node tcpdump -U -w - udp port 5405 | totem dump -

exit codes:
  0    done; with --live also: ended by SIGINT or SIGTERM
  1    the file cannot be read, or is damaged: what stands before is shown;
       packets cannot be listened to
  2    wrong usage
  130  reading a file was ended by SIGINT
"""


def dump(options: argparse.Namespace) -> int:
    """Show the packets of a capture, or as they pass; return the exit code."""
    try:
        opening = _opening(options)
    except (ConfigError, OSError) as error:
        return _complain(str(error))
    return _dump(options, _Output(options, options.layers, *opening))


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

    def __init__(
        self, options: argparse.Namespace, layers: list[Layer], ports: Collection[int], knet: KnetReader
    ) -> None:
        self.troubles: Counter[str] = Counter()
        """What was not captured or could not be read, by cause."""
        self._options = options
        self._network = Reassembler()
        self._knet = knet
        self._key_is_wrong = False
        """Whether that was reported."""
        self._reader = Reader(ports, layers, only_ports=bool(options.port), knet=knet)
        self._summary = Summary()
        self._filter = Filter(
            types=options.type,
            nodes=options.node,
            groups=options.group,
            links=options.link,
            copies=options.copies,
            tokens=not options.no_tokens,
        )
        self._writer = Writer(colour=_colours(sys.stdout), hexdump=options.hex, every_token=options.tokens)
        self._is_streaming = options.live is not None or options.file == "-"
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(line_buffering=self._is_streaming, errors="backslashreplace")

    def show(self, packets: Iterable[Packet]) -> None:
        """Print what these packets say."""
        for packet in packets:
            datagram = self._network.take(packet)
            if datagram is not None:
                self._add(self._reader.take(datagram))
                if self._is_streaming and self._knet.refused >= REFUSED_BEFORE_COMPLAINT:
                    self._check_key()

    def finish(self) -> None:
        """Print what remains, and the summary or what should be known without one."""
        self._add(self._reader.finish())
        self._print(self._writer.finish())
        self.troubles.update(self._network.ignored)
        self.troubles["datagrams whose fragments did not all come"] += self._network.unfinished
        self.troubles["packets of knet whose fragments did not all come"] += self._knet.unfinished
        self._check_key()
        troubles = {what: count for what, count in self.troubles.items() if count}
        if not (self._options.summary or self._options.live is not None):
            for what, count in troubles.items():
                print(f"totem: {count} {what}", file=sys.stderr)
        elif self._options.json:
            self._print([json.dumps(self._summary.as_dict(troubles))])
        else:
            self._print(self._summary.lines(troubles))

    def _check_key(self) -> None:
        """Report once that nothing opens with the key."""
        if not self._knet.is_keyed or not self._knet.refused or self._knet.opened or self._key_is_wrong:
            return
        self._key_is_wrong = True
        sys.stdout.flush()
        complain(
            "totem",
            "no datagram opens with this key: they are sealed with another key, cipher or hash, or are not knet's; "
            "compare the key file with that of a node of this ring (sha256sum), and crypto_cipher and crypto_hash "
            "of its corosync.conf",
        )

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


# ---- what opens packets


def _opening(options: argparse.Namespace) -> tuple[Collection[int], KnetReader]:
    """Return the ports at which everything is a ring's, and the reader of knet. Raises ConfigError, OSError."""
    if options.config is None:
        return options.port or DEFAULT_PORTS, KnetReader(_seals_of_keys(options))
    config = load(options.config).config
    places = _places(config)
    ports = {port for _, port in places}
    if config.knet is None:
        ports |= {port - 1 for port in ports}
    seals = [_seal(config.knet)] if config.knet is not None and config.knet.is_sealed else []
    return options.port or ports, KnetReader(seals, places)


def _seals_of_keys(options: argparse.Namespace) -> list[Seal]:
    """Return what opens packets with each key that was given. Raises ConfigError."""
    if not options.key and (options.cipher or options.hash):
        raise ConfigError("--cipher and --hash go with --key; -c has them from the configuration")
    ciphers = _for_each_key(options, "cipher", CIPHER)
    hashes = _for_each_key(options, "hash", HASH)
    return [
        _seal(Knet(cipher=cipher, hash=hash_name, key=key))
        for key, cipher, hash_name in zip(options.key, ciphers, hashes, strict=True)
    ]


def _for_each_key(options: argparse.Namespace, what: str, usual: str) -> list[str]:
    """Return the cipher or hash of each key. Raises ConfigError."""
    given: list[str] = getattr(options, what) or [usual]
    if len(given) == 1:
        given *= len(options.key)
    if len(given) != len(options.key):
        raise ConfigError(f"--{what} is given {len(given)} times, --key {len(options.key)}: give it once, or as often")
    return given


def _seal(settings: Knet) -> Seal:
    return seal_of(settings, os.urandom)


def _places(config: Config) -> dict[tuple[str, int], int]:
    """Return the links of a configuration, by address and port."""
    return {config.place_on(node, link): link for node in config.nodes for link in config.link_numbers}


# ---- the command line


def add_dump(commands: Commands, layers: Iterable[Layer]) -> None:
    """Describe the command; the layers above totem have names for their messages."""
    layers = list(layers)
    names = sorted({UNEXPLAINED, *(name for layer in layers for name in layer.names)})
    command = commands.add_parser(
        "dump",
        help="show what Corosync's datagrams say, from a capture or as they pass",
        description="""\
Show what the nodes of a ring, Corosync's or this package's, send to each other:
tokens, joins, process groups, sync, votes; each message also through packing,
fragments and recovery. FILE is a capture by tcpdump or Wireshark (pcap or pcapng,
also gzipped; - is standard input). All transports; what knet encrypts is opened
with the key.""",
        epilog=_EPILOG.format(names=textwrap.fill(" ".join(names), 76, subsequent_indent="  ")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("file", nargs="?", metavar="FILE", help="the capture")
    what.add_argument(
        "--live",
        nargs="?",
        const=ANY,
        metavar="INTERFACE",
        help="capture at INTERFACE, or at all, until SIGINT; then print the summary (needs CAP_NET_RAW; binds no port)",
    )
    command.add_argument(
        "--summary", action="store_true", help="print counts instead: of all packets, whatever is selected below"
    )
    command.add_argument("--json", action="store_true", help="print JSON, one object a line")
    command.add_argument("--hex", action="store_true", help="print all bytes of each packet as well")
    command.add_argument(
        "--type", type=_type_reader(names), default=(), metavar="TYPE,…", help="show only these types (see below)"
    )
    command.add_argument(
        "--node", type=_numbers(1, 2**32 - 1), default=(), metavar="ID,…", help="show only what these nodes send"
    )
    command.add_argument(
        "--group",
        type=os.fsencode,
        action="append",
        default=[],
        metavar="NAME",
        help="show only messages about this process group (may be repeated)",
    )
    command.add_argument(
        "--link",
        type=_numbers(0, MOST_LINKS - 1),
        default=(),
        metavar="NUMBER,…",
        help="show only what passes over these links of knet",
    )
    command.add_argument(
        "--port",
        type=_numbers(1, 65535),
        metavar="PORT,…",
        help=f"read only these ports (default: those of -c, else {DEFAULT_PORTS[0]} to {DEFAULT_PORTS[-1]}, and all "
        "other packets that begin as a ring's do)",
    )
    keys = command.add_mutually_exclusive_group()
    keys.add_argument(
        "-c",
        "--config",
        metavar="CONF",
        help="the ring's corosync.conf: its ports and links, and what opens encrypted packets",
    )
    keys.add_argument(
        "--key",
        type=_key,
        action="append",
        default=[],
        metavar="KEYFILE",
        help="a key file that opens encrypted packets; several where the key changes",
    )
    command.add_argument(
        "--cipher",
        choices=("none", *CIPHERS),
        action="append",
        help=f"with --key: crypto_cipher, once or for each key (default: {CIPHER})",
    )
    command.add_argument(
        "--hash", choices=HASHES, action="append", help=f"with --key: crypto_hash, likewise (default: {HASH})"
    )
    tokens = command.add_mutually_exclusive_group()
    tokens.add_argument("--tokens", action="store_true", help="show each token, ping and fragment (as --json does)")
    tokens.add_argument("--no-tokens", action="store_true", help="show no token")
    command.add_argument("--copies", action="store_true", help="show a packet once for each of its destinations")
    command.set_defaults(command=dump, layers=layers)


def _type_reader(names: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    known = TYPES | {*names, *(name.partition(".")[0] for name in names)}

    def read(text: str) -> tuple[str, ...]:
        types = tuple(text.split(","))
        for wanted in types:
            if wanted not in known:
                raise argparse.ArgumentTypeError(f"{wanted!r} is none of: {' '.join(sorted(known))}")
        return types

    return read


def _key(path: str) -> bytes:
    """Read a key file, as much of it as nodes do."""
    try:
        with open(path, "rb") as file:
            key = file.read(MAX_KEY)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path}: {error.strerror}") from None
    if len(key) < MIN_KEY:
        raise argparse.ArgumentTypeError(f"{path} has {len(key)} bytes, a key has {MIN_KEY} to {MAX_KEY}")
    return key


def _numbers(lowest: int, highest: int) -> Callable[[str], tuple[int, ...]]:
    def read(text: str) -> tuple[int, ...]:
        words = text.split(",")
        for word in words:
            if not (word.isascii() and word.isdigit()) or not lowest <= int(word) <= highest:
                raise argparse.ArgumentTypeError(f"{word} is not a whole number between {lowest} and {highest}")
        return tuple(map(int, words))

    return read
