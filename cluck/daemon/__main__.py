"""`python -m cluck.daemon` is the command `cluckd`."""

import sys

from cluck.daemon.command import main

sys.exit(main())
