"""`python -m cpg.daemon` is the command `cpgd`."""

import sys

from cpg.daemon.command import main

sys.exit(main())
