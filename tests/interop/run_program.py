"""Run one of `tests.cpg.ring_programs` on the Corosync of this place: python -m tests.interop.run_program NAME."""

import sys

import trio

import cpg
from tests.cpg.ring_programs import PROGRAMS


async def main(name):
    [program] = [program for program in PROGRAMS if program.__name__ == name]
    with trio.fail_after(40):
        await program(cpg.open_corosync)


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
