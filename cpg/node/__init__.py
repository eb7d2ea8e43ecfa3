"""The groups of one node, without I/O: executive messages, sync, quorum, membership, the engine."""
