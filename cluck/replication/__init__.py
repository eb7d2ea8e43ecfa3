"""A state machine replicated on a process group."""
