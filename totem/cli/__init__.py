"""The command `totem`: dump, keygen.

`arguments` describes the command line. `keygen` makes keys; `totem dump` has a package of its own (`totem.dump`).
`entry_point` leads from the command line to an exit code.
"""

from totem.cli.entry_point import main

__all__ = ["main"]
