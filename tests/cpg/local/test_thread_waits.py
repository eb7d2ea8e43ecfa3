"""How long a thread may wait at once: the main one not long, as signals are handled there."""

from concurrent.futures import ThreadPoolExecutor

from cpg.local.thread_waits import LONGEST_DEAFNESS, LONGEST_WAIT, longest_wait


def test_the_main_thread_wakes_for_signals():
    assert longest_wait() == LONGEST_DEAFNESS


def test_another_thread_waits_as_long_as_calls_allow():
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(longest_wait).result() == LONGEST_WAIT
