"""A lock server: the replicated state, the clients of its machine, and what it does by itself."""
