"""The command line: the commands, their options, help and examples."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from totem.cli.keygen import USUAL_BYTES, keygen
from totem.config import DEFAULT_KEY_FILE, MAX_KEY, MIN_KEY
from totem.dump.command import add_dump
from totem.dump.records import Layer

if TYPE_CHECKING:
    from totem.dump.command import Commands


def parser(layers: Iterable[Layer] = ()) -> argparse.ArgumentParser:
    """Describe the command line; `layers` explain packets of what is above totem."""
    whole = argparse.ArgumentParser(
        prog="totem",
        description="Totem rings: what is on their wire, and the keys that seal it.",
        epilog="""\
examples:
  totem dump ring.pcap
  totem dump --live
  totem keygen
  totem COMMAND --help         more on one command""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action="version", version=f"totem {_version()}")
    commands = whole.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_dump(commands, layers)
    _add_keygen(commands)
    return whole


def _add_keygen(commands: Commands) -> None:
    command = commands.add_parser(
        "keygen",
        help="make a key for a ring over transport knet",
        description=f"""\
Make a key of random bytes, as corosync-keygen does, in a new file that only its
owner can read. All nodes of a ring have the same: copy it to each, with the same
owner and mode. Print its fingerprint, by which log and cpg status name it.
FILE is {DEFAULT_KEY_FILE} where it is left out; what exists is never
overwritten.""",
        epilog=f"""\
examples:
  totem keygen
  totem keygen ring.key -s 1024
  scp -p {DEFAULT_KEY_FILE} root@node2:{DEFAULT_KEY_FILE}

exit codes:
  0    done
  1    the file exists, or cannot be made
  2    wrong usage""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("file", nargs="?", type=_path, metavar="FILE", default=DEFAULT_KEY_FILE, help="the new file")
    command.add_argument(
        "-s",
        "--size",
        type=_size,
        metavar="BYTES",
        default=USUAL_BYTES,
        help=f"{MIN_KEY} to {MAX_KEY} (default: {USUAL_BYTES})",
    )
    command.set_defaults(command=keygen)


def _path(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("the path is empty: leave it out for the usual one")
    return text


def _size(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not MIN_KEY <= int(text) <= MAX_KEY:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number between {MIN_KEY} and {MAX_KEY}")
    return int(text)


def _version() -> str:
    try:
        return version("totem-cpg")
    except PackageNotFoundError:
        return "from a source tree that is not installed"
