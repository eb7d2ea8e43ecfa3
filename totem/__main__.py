"""`python -m totem` is the command `totem`."""

import sys

from totem.cli import main

sys.exit(main())
