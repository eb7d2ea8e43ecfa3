"""The test kit, for this package and for programs that build on it: rings in virtual time, with faults from a seed.

    cluster = Cluster(3, seed=7)
    cluster.start()
    cluster.form()                                    # until they are one ring
    cluster[1].send([cluster[1].compose(100)])
    cluster.network.partition([1, 2], [3])
    cluster.run_until(lambda: cluster.one_ring(1, 2), limit=30)
    cluster.network.heal()
    assert cluster.settle()                           # one ring again, all delivered
    assert check(cluster.history(quiescent=True)) == []

`python -m totem.testing.soak` runs random worlds, `python -m totem.testing.transcript` transcripts written as text.
"""

from __future__ import annotations

from totem.testing.checkers import Violation, check
from totem.testing.cluster import AnswerAtOnce, Application, BarrierSync, Cluster, SimulatedNode
from totem.testing.history import History, Trace
from totem.testing.network import Conditions, Network

__all__ = [
    "AnswerAtOnce",
    "Application",
    "BarrierSync",
    "Cluster",
    "Conditions",
    "History",
    "Network",
    "SimulatedNode",
    "Trace",
    "Violation",
    "check",
]
