"""The daemon `cpgd`: one node of the ring, and any number of programs of its machine behind it.

`hub` holds who is connected and what waits for whom, without I/O; `server` stands between it and the ring; `access`
says who may connect; `command` is the program. What every daemon needs is in `sockets` (clients' connections) and
`life` (signals, log, service manager).
"""
