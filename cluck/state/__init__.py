"""The replicated state of all lock servers: locks, conditions, elections, without I/O and without a clock."""
