"""Test an application: the same rings and groups, on a virtual network in virtual time, with faults from a seed.

`World` is that network; `Conditions` is what it does to datagrams. See `cpg.testing.virtual`.
"""

from cpg.testing.virtual import Conditions, World

__all__ = ["Conditions", "World"]
