"""What members of the servers' group say that are no servers, or have another server's number: it has no effect."""

import dataclasses
import random
from itertools import count

import pytest
from msgspec.structs import replace

from cpg.events import Confchg, Member, Reason
from cpg.replication.identities import LARGEST_EPOCH, ServerId
from cpg.replication.replica import HASTE, LONGEST_LOADING, PATIENCE, Phase
from cpg.replication.round_limits import FORGIVENESS, MOST, RoundLimits
from cpg.replication.wire import (
    Commands,
    DurableRecord,
    Exclude,
    Forgive,
    Lineage,
    Propose,
    Report,
    Round,
    RoundId,
    Snapshot,
    Stored,
    digest,
)
from tests.cpg.replication.dictionary import CODEC, VERSION, Dictionary, Put
from tests.cpg.replication.orders import decode, encode, freeze, started

STRANGER = Member(4, 9)
"""On a node without a vote."""
NEIGHBOUR = Member(1, 9)
"""A second process on the node of a server that votes."""
SERVER = Member(2, 1)
STOLEN = Put(ServerId(9, 9), 1, "stolen")
"""In no server's name."""


def cluster():
    """Return a cluster, and the version of what server 1 has set."""
    order = started()
    order[1].put()
    order.settle()
    return order, order[1].versions[0]


def say(order, sender, *said):
    order.deliver([(sender, encode(one)) for one in said], [1, 2, 3])
    order.settle()


def start(order, node):
    return order[node].replica.server.start


def round_of(order):
    return order[1].replica.view_id


@pytest.mark.parametrize("sender", [STRANGER, NEIGHBOUR], ids=["stranger", "neighbour"])
def test_commands_of_who_has_not_reported_are_void(sender):
    order, _ = cluster()
    number = order[1].replica.number
    for life in (5, start(order, 1)):
        say(order, sender, Commands(life, 1, [STOLEN]))
    assert {order[node].replica.number for node in (1, 2, 3)} == {number}
    assert not any("stolen" in order[node].state.items for node in (1, 2, 3))


def test_a_server_speaks_for_its_present_life_alone():
    order, _ = cluster()
    say(order, order[2].member, Commands(start(order, 1), 1, [STOLEN]))
    assert "stolen" not in order[3].state.items


@pytest.mark.parametrize("sender", [STRANGER, SERVER], ids=["stranger", "server"])
@pytest.mark.parametrize(
    "record", [DurableRecord(LARGEST_EPOCH, 1.0), DurableRecord(LARGEST_EPOCH, 1e6), DurableRecord(1 << 20, 0.0)]
)
def test_a_record_that_nobody_comes_to_is_on_no_disk(sender, record):
    order, _ = cluster()
    say(order, sender, Propose(record), Propose(record, round_of(order)), Stored(record))
    assert max(order[node].record.epoch for node in (1, 2, 3)) == 1
    assert order[1].state.epoch == 1


def test_a_stranger_proposes_nothing():
    order, _ = cluster()
    records = [order[node].record for node in (1, 2, 3)]
    longest = records[0].longest_promise
    say(order, STRANGER, Propose(DurableRecord(2, longest)), Propose(DurableRecord(1, 2 * longest)))
    assert [order[node].record for node in (1, 2, 3)] == records


def test_who_has_not_reported_excludes_nobody():
    order, _ = cluster()
    order.ring([1, 2, 3])  # a round is due
    messages = order.said(1)
    order.deliver(messages, [1, 2, 3])
    present = order[1].replica._round
    order.deliver([(STRANGER, encode(Exclude(present.id, [(2, 1), (3, 1)])))], [1, 2, 3])
    order.settle()
    assert [order[node].replica.view_id for node in (1, 2, 3)] == [present.id] * 3, "no other round was called"
    assert len(order[1].replica.servers) == 3


def test_parts_of_a_state_come_from_who_has_it():
    order, version = cluster()
    order.ring([1, 2], [3])
    order.settle()
    order[1].put("another")
    order.settle()
    order.ring([1, 2, 3])
    replica = order[3].replica
    while replica.phase != "loading":  # rounds, and reports
        messages = order.said(1, 2, 3)
        order.deliver(messages, [1, 2, 3])
    (other,) = {order[1].member, order[2].member} - {replica._owner}
    for sender in (STRANGER, other):
        say_to_three = [(sender, encode(Snapshot(replica.view_id, 0, 1, 0, b"nonsense")))]
        order.deliver(say_to_three, [3])
    order.settle()
    assert order[3].ready
    assert order[3].has(version)


def test_messages_of_an_unknown_round_are_ignored():
    order, _ = cluster()
    say(order, STRANGER, Snapshot(RoundId(1, 2), 0, 1, 0, b""), Exclude(RoundId(1, 2), []))
    assert all(order[node].ready for node in (1, 2, 3))


def test_a_malformed_command_takes_no_other_with_it():
    order, _ = cluster()
    commands = [Put(order[1].replica.server, number, f"key {number}") for number in (8, -1, 9)]
    say(order, order[1].member, Commands(start(order, 1), 1 << 40, commands))
    assert {"key 8", "key 9"} <= order[2].state.items.keys()
    assert "key -1" not in order[2].state.items
    assert order[2].replica.malformed == 1


# ---- members that are no servers


LISTENERS = [Member(1, 9), Member(2, 9)]
"""Beside servers, on nodes that vote."""


def change(order, joined=(), left=()):
    """Have others come and go in the group while their nodes stay."""
    members = sorted({*(order[node].member for node in (1, 2, 3)), *joined} - set(left))
    for node in (1, 2, 3):
        order[node].hear(Confchg(tuple(members), dict.fromkeys(left, Reason.LEAVE), dict.fromkeys(joined, Reason.JOIN)))


def test_who_comes_and_says_nothing_stops_nothing():
    """As a program that only listens."""
    order, _ = cluster()
    view = round_of(order)
    change(order, joined=LISTENERS)
    assert all(order[node].ready for node in (1, 2, 3))
    order[2].put("another")
    order.settle()
    assert order[2].versions
    change(order, left=LISTENERS)
    order.settle()
    assert round_of(order) == view


def test_a_round_waits_a_moment_for_who_has_never_reported_and_it_takes_no_votes():
    order, _ = cluster()
    order.ring([1, 2, 3])
    change(order, joined=LISTENERS)
    order.deliver(order.said(1), [1, 2, 3])
    order.pass_time(2 * HASTE)
    assert all(order[node].ready for node in (1, 2, 3))
    assert len(order[1].replica.servers) == 3
    order.ring([1, 2], [3])
    order.pass_time(2 * HASTE)
    assert order[1].ready, "node 1 and node 2 are there, whoever else is on them"


def test_who_is_known_has_the_whole_patience():
    order, _ = cluster()
    order.ring([1, 2, 3])
    change(order, joined=LISTENERS)
    order.rings[3] = []  # it hangs
    order.rings[1] = order.rings[2] = [1, 2]
    order.pass_time(2 * HASTE)
    assert not order[1].ready
    order.pass_time(PATIENCE)
    assert order[1].ready
    assert len(order[1].replica.servers) == 2


@pytest.mark.parametrize(
    "false",
    [
        {"quorate": False},
        {"lineage": Lineage(LARGEST_EPOCH, 1 << 40, 1 << 40, 1 << 40), "digest": 1},
        {"force_birth": True, "lineage": None},
    ],
    ids=["not quorate", "far ahead", "to be born"],
)
def test_what_who_does_not_vote_reports_changes_nothing(false):
    """Only that it is there is believed, if that can be: it may be a server without a vote."""
    order, version = cluster()
    order.ring([1, 2, 3])
    order.deliver(order.said(1), [1, 2, 3])
    reports = order.said(1, 2, 3)
    report = next(said for _, data in reports if isinstance(said := decode(data), Report))
    change(order, joined=[STRANGER])
    order.deliver([(STRANGER, encode(replace(report, start=5, **false)))], [1, 2, 3])
    order.deliver(reports, [1, 2, 3])
    order.settle()
    assert all(order[node].ready for node in (1, 2, 3))
    assert (STRANGER in order[1].replica.servers) == (false.get("lineage") is None)
    for node in (1, 2, 3):
        assert order[node].has(version)
        assert order[node].state.epoch == 1


# ---- members that report what is not so


def report_of(order, sender=NEIGHBOUR, **false):
    """Have a round in which another member reports this beside all servers."""
    change(order, joined=[sender])
    order.ring([1, 2, 3])
    report_in_round(order, sender, order.said(1), **false)


def report_in_round(order, sender, rounds, **false):
    order.deliver(rounds, [1, 2, 3])
    reports = order.said(1, 2, 3)
    report = next(said for _, data in reports if isinstance(said := decode(data), Report))
    order.deliver([(sender, encode(replace(report, start=5, **false)))], [1, 2, 3])
    order.deliver(reports, [1, 2, 3])


def further(order, views=7):
    """Return the lineage of a state that has come further than that of the servers."""
    lineage = order[1].replica.lineage
    return lineage._replace(ring_seq=lineage.ring_seq + 1, view=views)


def snapshot(order, body, checksum=None):
    checksum = digest(body) if checksum is None else checksum
    return Snapshot(round_of(order), 0, 1, checksum, body)


def named(order, node=1):
    return "\n".join(order[node].replica.differences)


def has_all(order, version):
    """Return whether all servers decide, and have the version."""
    return all(order[node].ready and order[node].has(version) for node in (1, 2, 3))


BAD = b"garbage"
OF_NOBODY = freeze(Dictionary(1, started()[1].state.voters))
OF_LATE_EPOCH = freeze(Dictionary(LARGEST_EPOCH, started()[1].state.voters))


@pytest.mark.parametrize(
    ("false", "body", "checksum", "why"),
    [
        ({"digest": 1}, BAD, 2, "a snapshot of 7 bytes with a wrong checksum"),
        ({"digest": 1}, OF_NOBODY, None, f"a snapshot of {len(OF_NOBODY)} bytes with a wrong checksum"),
        ({"digest": digest(BAD)}, BAD, None, "a snapshot of 7 bytes: "),
        ({"digest": digest(OF_NOBODY + b"\x00")}, OF_NOBODY + b"\x00", None, "bytes"),
        ({"digest": digest(OF_LATE_EPOCH)}, OF_LATE_EPOCH, None, f"it has come to epoch {LARGEST_EPOCH}"),
    ],
    ids=["checksum", "not as reported", "nonsense", "more than a state", "epoch"],
)
def test_nobody_gives_up_its_state_for_one_that_cannot_be_read(false, body, checksum, why):
    order, version = cluster()
    report_of(order, lineage=further(order), **false)
    assert order[1].replica.phase is Phase.LOADING
    say(order, NEIGHBOUR, snapshot(order, body, checksum))
    assert has_all(order, version), "the node of who says so has lost its vote, and the others decide"
    assert NEIGHBOUR not in order[2].replica.servers
    for node in (1, 2, 3):
        assert "process 9 of node 1 does not count here: " in named(order, node)
        assert why in named(order, node)
        assert order[node].state.epoch == 1
    order[2].put("another")
    order.settle()
    assert order[2].versions


@pytest.mark.parametrize(
    "false",
    [
        {"lineage": Lineage(LARGEST_EPOCH, (1 << 63) - 1, (1 << 63) - 1, (1 << 63) - 1)},
        {"lineage": Lineage(LARGEST_EPOCH, 1, 1, 0)},
        {"lineage": Lineage(1, 3, 1, 0)},
        {"lineage": Lineage(1, 2, (1 << 63) - 1, 0)},
        {"record": DurableRecord(LARGEST_EPOCH, 10.0)},
        {"version": (1 << 63) - 1},
    ],
    ids=["all", "epoch", "ring", "view", "record", "version"],
)
@pytest.mark.parametrize("sender", [STRANGER, NEIGHBOUR], ids=["stranger", "neighbour"])
def test_who_reports_what_cannot_be_does_not_count(sender, false):
    """Not even with the state that all have: what follows from such a number could not be decoded, or never be
    exceeded.
    """
    order, version = cluster()
    if "version" in false:
        voters = order[1].state.voters
        false = {"voters": replace(voters, version=false["version"])}
    report_of(order, sender, **false)
    order.settle()
    assert has_all(order, version)
    assert sender not in order[2].replica.servers
    who = f"process 9 of node {sender.node_id} does not count here: it "
    assert who in named(order)
    order.ring([1, 2, 3])
    order.pass_time(2 * PATIENCE)
    assert has_all(order, version)
    assert order[1].replica.lineage < (1, 4, 2, 0)
    assert max(order[node].record.epoch for node in (1, 2, 3)) == 1


def test_an_error_in_restore_ends_no_server_and_loses_nothing(monkeypatch):
    order, version = cluster()
    order.ring([1, 2], [3])
    order.settle()
    order.restart(3)

    def restore(image):
        raise KeyError("gone")

    monkeypatch.setattr(CODEC, "application", dataclasses.replace(CODEC.application, restore=restore))
    order.ring([1, 2, 3])
    order.pass_time(100)
    for node in (1, 2, 3):
        assert order[node].replica.phase is Phase.MINORITY
        assert "its state cannot be read: a snapshot of " in named(order, node)
        assert "bytes: no state can be made of it: KeyError: 'gone'" in named(order, node)
    order.ring([1, 2], [3])
    order.settle()
    assert all(order[node].ready and order[node].has(version) for node in (1, 2)), "nobody has to load their state"


def test_no_state_is_born_instead_of_one_that_cannot_be_read():
    """Node 1 has the state, too, and counts when the member that lies on it has gone."""
    order, version = cluster()
    order.ring([1, 2], [3])
    order.settle()
    order.restart(3)
    order.ring([1, 2, 3])
    change(order, joined=[NEIGHBOUR])
    report_in_round(order, NEIGHBOUR, order.said(1), lineage=further(order), digest=1)
    say(order, NEIGHBOUR, snapshot(order, BAD))
    order.pass_time(100)
    for node in (1, 2, 3):
        assert order[node].replica.phase is Phase.MINORITY
        assert "too few have a state without process 9 of node 1, whose state cannot be had: end it" in order[node].why
    change(order, left=[NEIGHBOUR])
    order.settle()
    assert has_all(order, version)


def test_who_does_not_hand_over_its_state_does_not_count():
    order, version = cluster()
    report_of(order, lineage=further(order), digest=1)
    assert order[1].replica.phase is Phase.LOADING
    order.pass_time(PATIENCE + 0.5)
    assert has_all(order, version)
    assert "process 9 of node 1 does not count here: it has the latest state, and does not" in named(order)


def test_one_alone_calls_no_owner_of_a_state_silent():
    order, _ = cluster()
    order.ring([1, 2], [3])
    order.settle()
    order[1].put("another")
    order.settle()
    order.ring([1, 2, 3])
    replica = order[3].replica
    while replica.phase is not Phase.LOADING:
        messages = order.said(1, 2, 3)
        order.deliver(messages, [1, 2, 3])
    owner = replica._owner
    order.deliver([(order[3].member, encode(Exclude(replica.view_id, [(*owner,)])))], [1, 2, 3])
    assert (replica.phase, replica._owner) == (Phase.LOADING, owner)
    order.settle()
    assert owner in replica.servers
    assert all(order[node].ready for node in (1, 2, 3))


def test_a_state_that_comes_bit_by_bit_has_its_time():
    order, _ = cluster()
    report_of(order, lineage=further(order), digest=1)
    for part in range(int(LONGEST_LOADING + 2 * PATIENCE)):
        say(order, NEIGHBOUR, Snapshot(round_of(order), part, 8000, 1, b"x"))
        order.pass_time(1.0)
        assert not order[1].ready or part + 1 > LONGEST_LOADING
    assert all(order[node].ready for node in (1, 2, 3))


@pytest.mark.parametrize("sender", [STRANGER, NEIGHBOUR], ids=["stranger", "neighbour"])
@pytest.mark.parametrize("reports", [False, True])
def test_a_member_calls_no_rounds_without_end(sender, reports):
    order, version = cluster()
    change(order, joined=[sender])

    def call(number):
        rounds = [(sender, encode(Round(RoundId(5, number))))]
        if reports:
            report_in_round(order, sender, rounds, lineage=None)
        else:
            order.deliver(rounds, [1, 2, 3])
            order.pass_time(2 * HASTE)
        order.settle()

    call(1)
    assert has_all(order, version)
    for number in range(2, (MOST if reports else 2) + 1):
        call(number)
        assert round_of(order) == RoundId(5, number)
    view = round_of(order)
    for number in range(100, 150):
        say(order, sender, Round(RoundId(5, number)))
        assert has_all(order, version)
    assert round_of(order) == view
    line = f"process 9 of node {sender.node_id} calls one round after another: {MOST} a minute count"
    assert {order[node].replica.differences for node in (1, 2, 3)} == {(line,)}
    order[3].replica._call_round()
    order.settle()
    assert round_of(order).start == start(order, 3), "others may"
    change(order, left=[sender])
    assert line not in named(order)


def test_who_calls_rounds_without_end_is_forgiven_by_order():
    order, _ = cluster()
    change(order, joined=[STRANGER])
    for number in range(2):
        for again in range(2 * MOST):
            say(order, STRANGER, Round(RoundId(5, 100 * number + again)))
        assert named(order)
        order.pass_time(FORGIVENESS + 1)
        say(order, STRANGER, Round(RoundId(5, 100 * number + 50)))
        assert round_of(order) == RoundId(5, 100 * number + 50)
        order.pass_time(2 * HASTE)
    order.pass_time(3 * FORGIVENESS)
    assert named(order) == "", "it has fallen silent"


def test_a_server_that_stands_still_in_the_first_round_it_calls_comes_back():
    order, version = cluster()
    order[3].replica._call_round()
    late = order.said(3)
    order.deliver(late, [1, 2])
    for _ in range(int(2 * PATIENCE)):
        order.now += 1
        for node in (1, 2):
            order[node].advance()
        while said := order.said(1, 2):
            order.deliver(said, [1, 2])
            late += said
    assert order[1].ready
    assert order[2].ready
    order.deliver(late, [3])
    order.settle()
    assert has_all(order, version)


def test_nobody_forgives_itself():
    order, _ = cluster()
    change(order, joined=[STRANGER])
    for number in range(2 * MOST):
        say(order, STRANGER, Forgive(), Round(RoundId(5, number)))
        order.pass_time(2 * HASTE)
    assert named(order)


def test_a_server_whose_round_was_void_calls_another_one_in_time():
    """A server that hangs again and again is left out, and comes back."""
    order, _ = cluster()

    def stand_still():
        order.deliver([(order[1].member, encode(Round(RoundId(5, 1))))], [1, 2, 3])
        order.said(3)
        order.rings[1] = order.rings[2] = [1, 2]
        heard = []
        for _ in range(3):
            for node in (1, 2):
                order[node].advance()
            for _ in range(6):
                messages = order.said(1, 2)
                heard += messages
                order.deliver(messages, [1, 2])
            order.now += PATIENCE + 0.1
        assert len(order[1].replica.servers) == 2
        order.rings[1] = order.rings[2] = [1, 2, 3]
        order.deliver(heard, [3])
        order.settle()

    for _ in range(2):
        stand_still()
        assert order[3].ready, "at once"
    stand_still()
    assert [order[node].ready for node in (1, 2, 3)] == [True, True, False]
    order.pass_time(FORGIVENESS + 1)
    assert all(order[node].ready for node in (1, 2, 3))


def test_rounds_count_anew_on_another_ring_and_when_a_server_comes():
    order, _ = cluster()

    def call(times):
        for _ in range(times):
            order[1].replica._call_round()
            order.settle()
        return round_of(order) == RoundId(start(order, 1), order[1].replica._rounds)

    assert call(MOST - 1)
    order.ring([1, 2, 3])
    order.settle()
    assert call(MOST - 1), "the first was that of the ring"
    order.join(2, 2)
    order.settle()
    assert call(MOST)
    assert not call(1)
    assert all(server.ready for server in order.servers.values())


@pytest.mark.parametrize("seed", range(60))
def test_all_members_count_alike_whoever_comes_and_goes(seed):
    """That is as soon as they have called a round themselves. Otherwise some would begin a round that others do not."""
    dice, now = random.Random(seed), {}
    numbers = count(1)
    for _ in range(400):
        deed = dice.choice(("join", "leave", "ring", "forgive", "silent", *["call"] * 9))
        members = list(now)
        if (deed == "join" and len(now) < 6) or not now:
            joined = [Member(dice.randint(1, 3), next(numbers)) for _ in range(dice.randint(1, 2))]
            now |= {member: [RoundLimits(), False] for member in joined}
            for calls, _ in now.values():
                calls.on_change([], joined)
        elif deed == "leave":
            left = dice.choice(members)
            del now[left]
            for calls, _ in now.values():
                calls.on_change([left], [])
        elif deed == "ring" and dice.random() < 0.2:
            for known in now.values():
                known[0].on_ring()
                known[1] = True
        elif deed == "forgive":
            sender = dice.choice(members)
            for calls, _ in now.values():
                calls.forgive(sender, members)
        elif deed == "silent":
            silent = dice.choice(members)
            for calls, _ in now.values():
                calls.on_silent(silent)
        elif deed == "call":
            caller = dice.choice(members[: dice.choice((1, 2, 6))])
            begins = {member: known[0].count(caller) for member, known in now.items()}
            now[caller][1] = True
            assert len({begins[member] for member, known in now.items() if known[1]}) == 1


def test_one_alone_excludes_nobody_where_the_others_decide():
    """It reports first, and calls all others silent before they could report."""
    order, version = cluster()
    order.ring([1, 2, 3])
    order.deliver(order.said(1), [1, 2, 3])
    reports = order.said(1, 2, 3)
    report = next(said for _, data in reports if isinstance(said := decode(data), Report))
    view = round_of(order)
    false = [encode(replace(report, start=5, lineage=None)), encode(Exclude(view, [(1, 1), (2, 1), (3, 1)]))]
    order.deliver([(STRANGER, data) for data in false], [1, 2, 3])
    order.deliver(reports, [1, 2, 3])
    order.settle()
    assert has_all(order, version)
    assert round_of(order) == view


def test_a_server_that_waits_names_the_missing_ones_and_continues_when_they_come():
    """No order says that the others are left out, since this server alone may not."""
    order, version = cluster()
    order.ring([1, 2, 3])
    order.deliver(order.said(1), [1, 2, 3])
    order.deliver(order.said(1), [1, 2, 3])
    late = order.said(2, 3)
    order.now += PATIENCE + 0.1
    order[1].advance()
    order.deliver(order.said(1), [1, 2, 3])
    assert order[1].why == "too few servers are here: nothing from node 2, 3"
    assert order[1].replica.phase is Phase.MINORITY
    order.deliver(late, [1, 2, 3])
    order.settle()
    assert has_all(order, version)


def test_the_processes_of_one_node_are_not_all_leaders():
    order, _ = cluster()
    others = [Member(4, pid) for pid in (7, 8, 9)]
    change(order, joined=others)
    order.ring([1, 2, 3])
    order.deliver(order.said(1), [1, 2, 3])
    reports = order.said(1, 2, 3)
    report = next(said for _, data in reports if isinstance(said := decode(data), Report))
    false = encode(replace(report, start=0, priority=1, lineage=None))
    order.deliver([*((member, false) for member in others), *reports], [1, 2, 3])
    order.settle()
    leaders = order[1].replica.leaders
    assert len(leaders) == 3
    assert len(set(leaders) & set(others)) == 1


# ---- members that say what no server says


def test_who_says_what_no_server_says_is_named_as_none_while_it_is_there():
    """`cpg send cluck hello`."""
    order, _ = cluster()
    change(order, joined=[NEIGHBOUR])
    for data in (b"hello", b"again", b""):
        order.deliver([(NEIGHBOUR, data)], [1, 2, 3])
    line = "process 9 of node 1 is no server, and sends to the servers' group"
    assert order[2].replica.differences == (line,)
    assert order.said(1, 2, 3) == [], "and it is not answered"
    order.ring([1, 2, 3])
    order.pass_time(2 * HASTE)
    assert named(order) == line
    change(order, left=[NEIGHBOUR])
    assert named(order) == ""


def test_who_says_what_no_server_says_takes_no_vote_and_no_time():
    order, version = cluster()
    change(order, joined=LISTENERS)
    order.ring([1, 2, 3])
    order.deliver(order.said(1), [1, 2, 3])
    for member in LISTENERS:
        order.deliver([(member, b"hello")], [1, 2, 3])
    order.settle()
    assert has_all(order, version)


def test_who_speaks_another_version_is_named_as_a_process_where_its_node_has_several():
    order, _ = cluster()
    change(order, joined=[NEIGHBOUR, STRANGER])
    order.deliver([(member, bytes((VERSION + 1,))) for member in (NEIGHBOUR, STRANGER)], [1, 2, 3])
    lines = order[1].replica.differences
    assert [line.partition(" does")[0] for line in lines] == ["node 4", "process 9 of node 1"]
    change(order, left=[NEIGHBOUR, STRANGER])
    assert named(order) == ""
