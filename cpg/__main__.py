"""`python -m cpg` is the command `cpg`."""

import sys

from cpg.cli import main

sys.exit(main())
