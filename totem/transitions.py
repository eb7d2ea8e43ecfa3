"""The membership protocol as data: the states, the causes, and which cause leads from which state to which.

`Processor._enter` is the only place where the state changes, and refuses a transition that is not listed here. The
diagram in docs/protocol.md is drawn from `TRANSITIONS`. Causes follow Corosync's list of reasons for entering Gather
(`exec/totemsrp.c`, enum gather_state_from).
"""

from __future__ import annotations

import enum


class State(enum.Enum):
    """Where a processor is in the membership protocol."""

    STARTING = "starting"
    OPERATIONAL = "operational"
    """On an installed ring: the token orders messages."""
    GATHER = "gather"
    """Finding out with Joins who could be in the next ring."""
    COMMIT = "commit"
    """The commit token goes round the new ring for the first time."""
    RECOVERY = "recovery"
    """The new ring carries what its members miss of their old rings."""
    LEFT = "left"
    """Out of the ring for good."""


class Cause(enum.Enum):
    """Why a state was entered."""

    STARTED = "the processor started"
    TOKEN_LOST = "the token was lost on the installed ring"
    TOKEN_LOST_IN_GATHER = "no commit token came"
    TOKEN_LOST_IN_COMMIT = "the commit token was lost"
    TOKEN_LOST_IN_RECOVERY = "the token was lost in recovery"
    RECOVERY_STALLED = "recovery made no progress"
    CONSENSUS_TIMEOUT = "not all candidates agreed in time"
    NOT_ALL_HEAR = "some candidates do not hear each other"
    FAILED_TO_RECEIVE = "a member failed to receive"
    PROCESS_ENDED = "a member's process has ended"
    SYNC_STALLED = "members did not take part in the sync of what is above"
    FOREIGN_MULTICAST = "a multicast of another ring was heard"
    MERGE_DETECTED = "another ring announced itself"
    HEARD_AGAIN = "nodes that were apart hear each other"
    JOIN_RECEIVED = "a processor would join"
    LEAVE_RECEIVED = "a member leaves"
    JOIN_MERGED = "a join named other processors"
    JOIN_IN_COMMIT = "a join came while committing"
    JOIN_IN_RECOVERY = "a join came in recovery"
    CONSENSUS = "all candidates agree, and I am the representative"
    COMMIT_TOKEN = "the commit token of the agreed ring came"
    COMMIT_TOKEN_FULL = "the commit token has been filled by all"
    RECOVERED = "all members have what they can have of the old rings"
    LEAVING = "this processor leaves"
    FAILED = "this processor cannot go on"


TRANSITIONS: dict[State, dict[Cause, State]] = {
    State.STARTING: {
        Cause.STARTED: State.GATHER,
    },
    State.OPERATIONAL: {
        Cause.TOKEN_LOST: State.GATHER,
        Cause.FAILED_TO_RECEIVE: State.GATHER,
        Cause.PROCESS_ENDED: State.GATHER,
        Cause.SYNC_STALLED: State.GATHER,
        Cause.FOREIGN_MULTICAST: State.GATHER,
        Cause.MERGE_DETECTED: State.GATHER,
        Cause.HEARD_AGAIN: State.GATHER,
        Cause.JOIN_RECEIVED: State.GATHER,
        Cause.LEAVE_RECEIVED: State.GATHER,
    },
    State.GATHER: {
        Cause.TOKEN_LOST_IN_GATHER: State.GATHER,
        Cause.CONSENSUS_TIMEOUT: State.GATHER,
        Cause.NOT_ALL_HEAR: State.GATHER,
        Cause.PROCESS_ENDED: State.GATHER,
        Cause.FOREIGN_MULTICAST: State.GATHER,
        Cause.MERGE_DETECTED: State.GATHER,
        Cause.JOIN_MERGED: State.GATHER,
        Cause.LEAVE_RECEIVED: State.GATHER,
        Cause.CONSENSUS: State.COMMIT,
        Cause.COMMIT_TOKEN: State.COMMIT,
    },
    State.COMMIT: {
        Cause.TOKEN_LOST_IN_COMMIT: State.GATHER,
        Cause.PROCESS_ENDED: State.GATHER,
        Cause.JOIN_IN_COMMIT: State.GATHER,
        Cause.LEAVE_RECEIVED: State.GATHER,
        Cause.COMMIT_TOKEN_FULL: State.RECOVERY,
    },
    State.RECOVERY: {
        Cause.TOKEN_LOST_IN_RECOVERY: State.GATHER,
        Cause.RECOVERY_STALLED: State.GATHER,
        Cause.FAILED_TO_RECEIVE: State.GATHER,
        Cause.PROCESS_ENDED: State.GATHER,
        Cause.JOIN_IN_RECOVERY: State.GATHER,
        Cause.LEAVE_RECEIVED: State.GATHER,
        Cause.RECOVERED: State.OPERATIONAL,
    },
    State.LEFT: {},
}
for _state in (State.STARTING, State.OPERATIONAL, State.GATHER, State.COMMIT, State.RECOVERY):
    TRANSITIONS[_state] |= {Cause.LEAVING: State.LEFT, Cause.FAILED: State.LEFT}
