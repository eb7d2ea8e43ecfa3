"""Closed process groups for programs without an event loop: `cpg.blocking.CPG`, which is also `cpg.CPG`.

See `cpg.client.threaded`.
"""

from cpg.client.threaded import CPG

__all__ = ["CPG"]
