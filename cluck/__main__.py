"""`python -m cluck` is the command `cluck`."""

import sys

from cluck.cli import main

sys.exit(main())
