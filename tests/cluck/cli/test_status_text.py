"""What people read of locks and elections."""

from cluck.cli.status_text import change_line, leader_lines, lock_lines

HOLDER = {"node": 1, "client": 2, "task": 3, "mode": "exclusive", "token": 7, "left": 4.26, "unlocking": False}


def test_a_lease_that_is_over_has_no_seconds_left():
    lock = {"name": "backup", "permits": 0, "holders": [HOLDER, HOLDER | {"left": -4.6}], "waiting": []}
    assert list(lock_lines(lock)) == [
        "backup: 2 held, 0 waiting",
        "  held    1:2.3 exclusive  token 7  4.3 s left",
        "  held    1:2.3 exclusive  token 7  its lease is over",
    ]


def test_what_others_have_chosen_is_nothing_to_a_terminal():
    lock = {"name": "a\nb: 1 held", "permits": 0, "holders": [], "waiting": []}
    assert list(lock_lines(lock)) == [r"a\nb: 1 held: 0 held, 0 waiting"]
    leader = {"election": "\x1b[2J", "token": 5, "address": "\u202e10.0.0.1", "port": 80}
    assert change_line(leader) == r"\x1b[2J: token 5 \u202e10.0.0.1:80"
    assert change_line({"name": "\r", "holders": []}) == r"\r: nobody holds it"


def test_an_election():
    """Led; between two leaders, of whom the former may not know; by nobody."""
    client = {"node": 1, "client": 2, "task": 1}
    election = {"name": "head", "leader": client, "token": 7, "left": 2.04, "grace": 1.0, "candidates": []}
    nobody = {"name": "tail", "leader": None, "token": 0, "candidates": [{**client, "address": "", "port": 0}]}
    former = {**nobody, "former": {**client, "token": 6, "left": 1.5, "grace": 1.0}}
    late = {**nobody, "former": {**client, "token": 6, "left": -9.0, "grace": 1.0}}
    assert list(leader_lines({"leaders": [], "elections": [election, nobody, former, late]})) == [
        "leaders of the lock service: none",
        "head: 1:2.1 leads, token 7, 2.0 s left; candidates: none",
        "tail: nobody leads; candidates: 1:2.1",
        "tail: nobody leads, for at most 2.5 s more: 1:2.1 led, and may not know of its end; candidates: 1:2.1",
        "tail: nobody leads, for at most 0.0 s more: 1:2.1 led, and may not know of its end; candidates: 1:2.1",
    ]
