"""Which process this is."""

import os

from totem.process import process_check


def test_a_process_is_the_same_until_it_is_forked():
    is_own = process_check()
    assert is_own()
    child = os.fork()
    if not child:
        os._exit(is_own() or not process_check()())
    assert os.waitpid(child, 0)[1] == 0
    assert is_own()
