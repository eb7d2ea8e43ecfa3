"""The daemon `cluckd`: the lock server of its machine, for any number of programs.

`settings` are what files and options say; `backends` the kinds of ring that it stands on; `server` has the sockets,
with `hub` for what waits for whom, and `processes` for whether a program has ended; `command` is the program.
"""
