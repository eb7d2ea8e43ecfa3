"""`totem keygen`: a new key for a ring over transport knet."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Final

from totem.config import fingerprint
from totem.key_file import write_key
from totem.streams import DONE, FAILED, complain

USUAL_BYTES: Final = 256
"""Of corosync-keygen's keys."""


def keygen(options: argparse.Namespace) -> int:
    """Make a key in a new file, and print its fingerprint."""
    key = os.urandom(options.size)
    try:
        write_key(options.file, key)
    except FileExistsError:
        complain("totem", f"{options.file} exists, and is not overwritten: give the new key another name")
        return FAILED
    except OSError as error:
        complain("totem", f"{options.file} cannot be made: {error.strerror}")
        return FAILED
    sys.stdout.write(f"{options.file} has a new key of {len(key)} bytes, with fingerprint {fingerprint(key)}\n")
    return DONE
