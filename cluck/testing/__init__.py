"""Test kit of the lock servers: random worlds, actors, checkers, linearizability."""
