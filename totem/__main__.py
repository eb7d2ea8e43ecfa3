"""`python -m totem` is the command `totem`."""

import sys

from totem.dump.command import main

sys.exit(main())
