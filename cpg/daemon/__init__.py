"""The daemon `cpgd`: one node of the ring, and any number of programs of its machine behind it.

`hub` holds the clients and what waits for each, without I/O. `server` stands between it and the ring. `status` is the
node's report about itself. `command` is the program. `cpg.local` has what every daemon needs.
"""
