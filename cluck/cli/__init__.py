"""The command `cluck`: run, elect, lock, unlock, wait, list, status, leaders, info.

`arguments` describes the command line. `run_command` has `run` and `elect`. They run a program through
`supervised_command`, which controls a `supervisor`: the process that ends the program in time. `commands` has the other
commands, and `status_text` writes what they print. `connect` connects commands with a timeout. `entry_point` leads from
the command line to an exit code (`exit_codes`).
"""

from cluck.cli.entry_point import main

__all__ = ["main"]
