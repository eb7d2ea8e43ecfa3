"""The daemon `cluckd`: the lock server of its machine, for any number of programs.

`settings` reads files and options. `backends` has the kinds of ring that it can use. `server` has the sockets. `hub`
has what waits for each client, and `processes` reports the end of programs. `command` is the program.
"""
