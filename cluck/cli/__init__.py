"""The command `cluck`: run, elect, lock, unlock, wait, list, status, leaders, info.

`arguments` describes the command line; `under` has `run` and `elect`, which run something: `guarded` is their hand on a
`guardian`, the process that ends the command when it must. `commands` are the others, `figures` writes what they show,
`welcome` connects those that have so much time and no more, `run` goes from the command line to an exit code
(`common`).
"""

from cluck.cli.entry_point import main

__all__ = ["main"]
