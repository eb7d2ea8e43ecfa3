"""A state machine replicated on a process group: `cpg.replication.replica` is where to begin.

The state survives partitions, merges and restarts of its servers: rulings E1 to E6 and E9. What the state is, is for
the application to say (`cpg.replication.application`); locks (`cluck`) are one.

This package is for the lock servers now. It is no public API yet: names and formats change without notice.
"""
