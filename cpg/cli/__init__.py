"""The command `cpg`: demo, listen, send, members, groups, quorum, status, top, flood.

`arguments` describes the command line, `commands` are small trio programs on the public API, `rings` says on which ring
they run, `answers` waits for what a daemon says, `figures` writes what a node tells of itself, `top` shows it live,
`output` is standard input and output.
`run` has what all share: a signal cancels a command, so that groups and ring are left in order; what goes wrong becomes
one line that names the thing, the place and what to do, and an exit code.
"""

from cpg.cli.common import DEFAULT_CONFIG, DONE, FAILED, MISUSED, own_version, sole
from cpg.cli.run import main

__all__ = ["DEFAULT_CONFIG", "DONE", "FAILED", "MISUSED", "main", "own_version", "sole"]
