"""The amount of work, counted in lines of Python that are run, with the turns of loops and comprehensions."""

import sys


def steps(call):
    """Run something; return the number of lines that took."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        count += event == "line"
        return trace

    former = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(former)
    return count
