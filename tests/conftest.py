"""What holds for all tests."""

import pytest

# Modules with asserts that are no tests themselves. Here, before anyone imports them: bench does so too, and its tests
# are collected before those of the folders these are of.
pytest.register_assert_rewrite("tests.interop.cast", "tests.interop.ring", "tests.cpg.libqb.ring")
