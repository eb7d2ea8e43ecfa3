"""The daemon `cpgd`: one node of the ring, and any number of programs of its machine behind it.

`hub` holds who is connected and what waits for whom, without I/O; `server` has the sockets; `access` says who may
connect; `command` is the program.
"""
