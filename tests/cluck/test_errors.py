"""What programs catch."""

import cluck
import cpg
from cluck import errors


def test_what_both_packages_raise_is_one_class():
    assert cluck.OutcomeUnknown is cpg.OutcomeUnknown
    assert cluck.DaemonUnavailable is cpg.DaemonUnavailable


def test_all_that_cluck_raises_is_a_lock_error():
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), cluck.LockError)
        assert getattr(cluck, name) is getattr(errors, name)


def test_what_other_parts_of_cpg_raise_is_no_lock_error():
    for kind in (cpg.RingLost, cpg.SlowConsumer, cpg.NotJoined):
        assert not issubclass(kind, cluck.LockError)
