"""A client of a lock server: its session without I/O, and the drivers for trio, asyncio and threads."""
