"""The clock of leases."""

from __future__ import annotations

import time


def boot_time() -> float:
    """Return the seconds of the boot-time clock, which runs on while the machine is suspended (ruling E7)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
