"""Daemons whose folder for durable files is a disk of its own, which a test can fill."""

import os
import shlex
import subprocess
from pathlib import Path

PAGE = 4096


def can_mount():
    """Return whether this process may have a disk of its own."""
    return (
        os.geteuid() == 0 and not subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode
    )


def on_own_disk(folder):
    """Return a prefix for a command: it runs as the same process, with a small disk in the place of a folder."""
    script = f'mount -t tmpfs -o size={16 * PAGE} none {shlex.quote(str(folder))} && exec "$@"'
    return ("unshare", "-m", "--", "sh", "-c", script, "sh")


def fill(process, folder):
    """Fill the disk of a process."""
    with open(_seen_by(process, folder) / "full", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(PAGE))
        except OSError:
            return


def empty(process, folder):
    """Free the disk again."""
    (_seen_by(process, folder) / "full").unlink()


def _seen_by(process, folder):
    return Path(f"/proc/{process.pid}/root", str(folder).lstrip("/"))
