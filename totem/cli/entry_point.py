"""From the command line to an exit code."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import entry_points

from totem.cli.arguments import parser
from totem.dump.records import Layer
from totem.streams import DONE, FAILED, StreamFailed, complain, give_up, standard_stream, standard_streams


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    with standard_streams("totem", FAILED):
        options = parser(installed_layers()).parse_args(arguments)
        try:
            with standard_stream("standard output"):
                code: int = options.command(options)
                return code
        except BrokenPipeError:
            give_up("stdout")  # who reads it has seen enough
            return DONE
        except StreamFailed as error:
            give_up("stdout")
            complain("totem", f"{error.filename}: {error.strerror}")
            return FAILED


def installed_layers() -> list[Layer]:
    """Return the installed layers above that explain packets, by their entry points."""
    return [entry.load() for entry in entry_points(group="totem.dump")]
