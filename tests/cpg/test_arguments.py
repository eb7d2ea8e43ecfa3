"""A wrong argument is reported where it is passed, with what would be right."""

import math
from fractions import Fraction
from pathlib import Path

import pytest

from cpg.arguments import callback, flag, octets, pathname, patience, seconds, whole


@pytest.mark.parametrize("value", ["grün", b"gr\xc3\xbcn", bytearray(b"gr\xc3\xbcn"), memoryview(b"gr\xc3\xbcn")])
def test_names_are_str_or_bytes(value):
    assert octets("name", value) == "grün".encode()


@pytest.mark.parametrize("value", [5, True, None, 1.5, ["a"], (1, 2), {}, object])
def test_nothing_else_is_a_name(value):
    """bytes(5) would be five of them."""
    with pytest.raises(TypeError, match=r"name=.*: str or bytes, not "):
        octets("name", value)


def test_a_str_that_has_no_bytes_is_no_name():
    with pytest.raises(ValueError, match="cannot be written in UTF-8"):
        octets("name", "\udcff")


def test_numbers_are_whole_and_in_their_range():
    assert [whole("permits", value, 1, 9) for value in (1, 9)] == [1, 9]
    for value in (0, 10, -1, 1 << 70):
        with pytest.raises(ValueError, match=r"permits=-?\d+: 1 or more, up to 9"):
            whole("permits", value, 1, 9)
    for value in (True, 1.0, "1", None, b"1", math.nan):
        with pytest.raises(TypeError, match=r"permits=.*: a whole number, not "):
            whole("permits", value, 1)


def test_the_error_of_a_large_number_names_the_limit():
    with pytest.raises(ValueError, match=r"permits=\d+: 1 or more, up to 9223372036854775807"):
        whole("permits", 10**30, 1)
    with pytest.raises(ValueError, match=r"permits=0: 1 or more$"):
        whole("permits", 0, 1)


def test_paths_are_str_or_path_and_not_empty():
    assert [pathname("socket", value) for value in ("a/b", Path("a/b"))] == [Path("a/b")] * 2
    for value in (5, b"a/b", None, ["a"]):
        with pytest.raises(TypeError, match=r"socket=.*: a path \(str or os.PathLike\), not "):
            pathname("socket", value)
    with pytest.raises(ValueError, match=r"socket='': a path, which has 1 character or more"):
        pathname("socket", "")


def test_seconds_are_real_numbers_in_their_range():
    assert [seconds("grace", value, 0.5, 2) for value in (0.5, 1, Fraction(3, 2), 2)] == [0.5, 1, 1.5, 2]
    for value in (math.nan, math.inf, -math.inf, 0.4, 2.1, -1, 5e-324):
        with pytest.raises(ValueError, match=r"grace=.*: seconds, 0.5 or more, up to 2"):
            seconds("grace", value, 0.5, 2)
    for value in ("1", None, True, b"1", 1j, [1]):
        with pytest.raises(TypeError, match=r"grace=.*: a number of seconds, not "):
            seconds("grace", value)


def test_to_wait_for_ever_has_several_names():
    assert [patience("timeout", value) for value in (None, math.inf, 1e10)] == [None] * 3
    assert [patience("timeout", value) for value in (0, 1.5)] == [0.0, 1.5]
    for value, error in ((-1, ValueError), (math.nan, ValueError), ("5", TypeError), (False, TypeError)):
        with pytest.raises(error, match="timeout="):
            patience("timeout", value)


def test_flags_and_callbacks():
    assert flag("priority", True) is True
    assert callback("on_queued", len) is len
    for value in (1, "no", None):
        with pytest.raises(TypeError, match=r"priority=.*: True or False, not "):
            flag("priority", value)
        with pytest.raises(TypeError, match=r"on_queued=.*: something to be called, not "):
            callback("on_queued", value)
