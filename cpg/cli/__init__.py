"""The command `cpg`: demo, listen, send, members, groups, quorum, status, top, doctor, flood.

`arguments` describes the command line. `commands` are small trio programs on the public API; `demo` and `flood` have a
module each, `doctor` a folder. `rings` opens the ring that a command runs on. `status_text` formats what a node reports
about itself, and `top` shows it live.

`entry_point` leads from the command line to an exit code. A signal cancels a command, so that groups and ring are left
in order. An error becomes one line that names the thing, the place and what to do, and an exit code.
"""

from cpg.cli.entry_point import main

__all__ = ["main"]
