"""Standard streams as a program finds them: closed, on a full disk, or without a reader; and the end by Ctrl-C."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Final

DONE: Final = 0
FAILED: Final = 1
INTERRUPTED: Final = 128 + signal.SIGINT
"""The exit code of a program that SIGINT has ended, as shells count."""


class StreamFailed(OSError):
    """A standard stream cannot be read or written: `filename` is its name, `strerror` says why."""


@contextmanager
def standard_stream(name: str) -> Generator[None, None, None]:
    """Read or write a standard stream for the time of a block, which raises `StreamFailed`.

    If the reader has closed it, `BrokenPipeError` is raised, as always.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        why = "it is closed" if error.errno == errno.EBADF else error.strerror
        raise StreamFailed(error.errno, why, name) from None


@contextmanager
def standard_streams(program: str, failed: int) -> Generator[None, None, None]:
    """Run a program, from its command line on; at the end write what it has printed, or report that this failed.

    A `KeyboardInterrupt`, also one in a group, ends the program with `INTERRUPTED` and without a traceback.

    Args:
        program: Its name, for the report.
        failed: The exit code if standard output does not take all of it. Python's own would be 120.
    """
    _hold_places()
    is_interrupted = False
    try:
        try:
            yield
        finally:
            _flush_output(program, failed)
    except* KeyboardInterrupt:  # raising here would raise a group
        is_interrupted = True
    if is_interrupted:
        give_up("stdout")  # what is left of it had no reader in time
        raise SystemExit(INTERRUPTED)


def _flush_output(program: str, failed: int) -> None:
    try:
        with standard_stream("standard output"):
            sys.stdout.flush()
    except BrokenPipeError:
        give_up("stdout")
    except StreamFailed as error:
        give_up("stdout")
        complain(program, f"{error.filename}: {error.strerror}")
        raise SystemExit(failed) from None
    finally:
        _flush_errors()


def give_up(name: str) -> None:
    """Stop writing to `sys.stdout` or `sys.stderr`; what is buffered is not tried again at the end."""
    setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115


def complain(program: str, text: str) -> None:
    """Write a line to standard error; if that fails, give up."""
    with suppress(OSError):
        print(f"{program}: {text}", file=sys.stderr)
    _flush_errors()


def _flush_errors() -> None:
    try:
        sys.stderr.flush()
    except OSError:
        give_up("stderr")


def _hold_places() -> None:
    """Occupy the descriptors of standard streams that are closed, for this process and those it starts.

    Otherwise the next file or socket would get the number, and what is printed would go there. Reading and writing fail
    as before.
    """
    for descriptor, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(descriptor)
        except OSError:
            wrong_way = os.O_WRONLY if mode == "r" else os.O_RDONLY
            os.set_inheritable(os.open(os.devnull, wrong_way), True)  # it gets the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115
