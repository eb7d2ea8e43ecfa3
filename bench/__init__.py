"""Measures this project beside its rivals: `python -m bench` (see `bench.__main__`).

notes, figures, history     samples of single runs; the figures that come of them; one line for each run of a part, kept
report, goals, plots        what RESULTS.md shows of the last runs
parts                       what is measured, of whom: a new part is a function and an entry in `PARTS`
rings, node                 rings of Corosync and of ours on this machine, and the program that floods ours; in
                            `SETTINGS` are the ways in which ours are configured
replicated, rivals, ours    PySyncObj; etcd, Redis and ZooKeeper, and ours beside them, for `locks`
detection                   how soon faults are noticed; watcher and contender are its programs
core, codec, clients        parts without rivals
machine                     on what it runs
"""
