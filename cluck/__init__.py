"""Cluster locks on closed process groups: tickets in total order, leases, fencing tokens.

What is here so far is the table of tickets (`cluck.tickets`), the machine that every lock server keeps a copy of.
"""
