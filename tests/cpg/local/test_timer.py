"""A timer as a descriptor."""

import select
import time

import pytest

from cpg.local.timer import Timer


def is_readable(timer, seconds):
    return bool(select.select([timer.descriptor], [], [], seconds)[0])


def test_it_is_readable_when_the_time_is_over():
    timer = Timer()
    assert not is_readable(timer, 0)
    began = time.monotonic()
    timer.start(0.05)
    assert is_readable(timer, 20)
    assert time.monotonic() - began >= 0.05
    timer.start(1000)
    assert not is_readable(timer, 0)
    timer.start(0)
    assert is_readable(timer, 20)
    assert is_readable(timer, 0)
    timer.stop()
    assert not is_readable(timer, 0)
    timer.close()


def test_an_error_of_the_system_is_raised():
    timer = Timer()
    timer.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        timer.start(1)
