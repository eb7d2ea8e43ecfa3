"""Cluster locks for programs without an event loop: `with cluck.blocking.connect() as locks`.

The locks, conditions and candidates are those of `cluck.connect`, for threads; see `cluck.client.threaded`.
"""

from cluck.client.requests import Follower, Leader
from cluck.client.threaded import ThreadedCandidate as Candidate
from cluck.client.threaded import ThreadedCondition as Condition
from cluck.client.threaded import ThreadedHeld as Held
from cluck.client.threaded import ThreadedLocks as Locks
from cluck.client.threaded import connect

__all__ = ["Candidate", "Condition", "Follower", "Held", "Leader", "Locks", "connect"]
