"""A client of the daemon `cpgd`: its session without I/O, and the drivers for trio, asyncio and threads."""
