"""The shell around a processor that does what the test says, in trio's virtual time."""

import collections
import logging
import sys
from math import inf

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.totem.fakes import FakeEndpoint, FakeProcessor, FakeStore
from tests.totem.places import at_one_address
from totem.errors import RingLost
from totem.log_fields import fields_of
from totem.node import BURST, SLICE, Node
from totem.store import LONGEST_PAUSE, RingStore
from totem.transitions import State


class World:
    """A node with fakes around it; `calls` records what happened, in order."""

    def __init__(self):
        self.processor = FakeProcessor()
        self.calls = self.processor.calls
        self.endpoint = FakeEndpoint(self.calls)
        self.store = FakeStore(self.calls)
        self.node = Node(self.processor, self.endpoint, self.store)
        self.on_delivery = lambda item: None

    def deliver(self, deliveries):
        for item in deliveries:
            self.calls.append(("deliver", item))
            self.on_delivery(item)

    def called(self, *names):
        return [call for call in self.calls if call[0] in names]


@pytest.fixture
async def world(nursery):
    """Run a node of which nothing is recorded yet."""
    world = World()
    nursery.start_soon(world.node.run, world.deliver)
    await wait_all_tasks_blocked()
    world.calls.clear()
    world.endpoint.limits.clear()
    yield world
    world.node.leave()
    await wait_all_tasks_blocked()


async def test_start_and_leave(autojump_clock):
    world = World()
    world.processor.promise(datagrams=[(0, [b"join"])])
    async with trio.open_nursery() as nursery:
        await nursery.start(world.node.run, world.deliver)
        assert world.calls == [("start", 0.0), ("send", 0, [b"join"])]
        world.calls.clear()
        await trio.sleep(5)
        world.node.leave()
    assert world.calls == [("leave", 5.0), ("send", 0, [b"leave"]), ("close",)]


async def test_cancellation_announces_the_leave_too(autojump_clock):
    world = World()
    with trio.move_on_after(3):
        await world.node.run(world.deliver)
    assert world.calls[-3:] == [("leave", 3.0), ("send", 0, [b"leave"]), ("close",)]


async def test_store_then_send_then_deliver(world):
    world.processor.promise(ring_seq=5, datagrams=[(0, [b"a", b"b"]), (2, [b"token"])], deliveries=["x", "y"])
    world.endpoint.arrive(b"one", b"two")
    await wait_all_tasks_blocked()
    assert world.calls == [
        ("receive", b"one"),
        ("receive", b"two"),
        ("store", 5),
        ("send", 0, [b"a", b"b"]),
        ("send", 2, [b"token"]),
        ("deliver", "x"),
        ("deliver", "y"),
    ]


async def test_what_a_delivery_causes_is_done_in_the_same_turn(world):
    def on_delivery(item):
        if item == "x":
            world.processor.promise(datagrams=[(0, [b"answer"])], deliveries=["y"])
            world.node.kick()

    world.on_delivery = on_delivery
    turns = world.processor.turns
    world.processor.promise(deliveries=["x"])
    world.endpoint.arrive(b"one")
    await wait_all_tasks_blocked()
    assert world.calls == [("receive", b"one"), ("deliver", "x"), ("send", 0, [b"answer"]), ("deliver", "y")]
    assert world.processor.turns == turns + 1


async def test_the_token_does_not_wait_for_the_application(world):
    """Between every few deliveries the node looks for what has come, and acts on it."""

    def on_delivery(item):
        if item == 0:
            world.endpoint.arrive(b"token")
            world.processor.promise(datagrams=[(2, [b"token"])])

    world.on_delivery = on_delivery
    world.processor.promise(deliveries=range(2 * SLICE))
    world.endpoint.arrive(b"train")
    await wait_all_tasks_blocked()
    names = [name for name, *_ in world.calls]
    assert names == ["receive", *["deliver"] * SLICE, "receive", "send", *["deliver"] * SLICE]


async def test_the_token_waits_where_a_ring_is_being_formed(world):
    world.processor.state = State.GATHER
    world.on_delivery = lambda item: world.endpoint.arrive(b"join") if item == 0 else None
    world.processor.promise(deliveries=range(2 * SLICE))
    world.endpoint.arrive(b"train")
    await wait_all_tasks_blocked()
    assert [name for name, *_ in world.calls] == ["receive", *["deliver"] * (2 * SLICE), "receive"]


async def test_deliveries_are_asked_for_one_by_one(world):
    def lazily():
        for item in "xyz":
            world.calls.append(("assemble", item))
            yield item

    world.processor.promise(deliveries=lazily())
    world.endpoint.arrive(b"one")
    await wait_all_tasks_blocked()
    assert [f"{name} {item}" for name, item in world.called("assemble", "deliver")] == [
        "assemble x",
        "deliver x",
        "assemble y",
        "deliver y",
        "assemble z",
        "deliver z",
    ]


async def test_each_turn_ends_with_an_empty_batch(autojump_clock):
    world = World()
    batches = []
    async with trio.open_nursery() as nursery:
        await nursery.start(world.node.run, lambda deliveries: batches.append(list(deliveries)))
        world.processor.promise(deliveries=["x", "y"])
        world.endpoint.arrive(b"one")
        await wait_all_tasks_blocked()
        world.node.leave()
    assert batches == [[], ["x", "y"], []]


async def test_a_burst_is_read_in_turns_and_others_run_between(world, nursery):
    turns = []

    async def bystander():
        while True:
            await trio.lowlevel.checkpoint()
            turns.append(len(world.endpoint.limits))
            if not world.endpoint.waiting:
                return

    world.endpoint.arrive(*(k.to_bytes(2, "little") for k in range(3 * BURST)))
    nursery.start_soon(bystander)
    await wait_all_tasks_blocked()
    assert world.endpoint.limits == [BURST] * 3
    assert len(world.called("receive")) == 3 * BURST
    assert {1, 2} & set(turns)


async def test_after_a_pause_everything_is_read_before_timers_fire(world, mock_clock):
    world.processor.paused = True
    world.processor.deadline = 1.0
    world.endpoint.arrive(*(k.to_bytes(2, "little") for k in range(3 * BURST)))
    mock_clock.jump(10)
    await wait_all_tasks_blocked()
    names = [call[0] for call in world.calls]
    assert names == ["receive"] * (3 * BURST) + ["advance"]
    assert world.endpoint.limits[0] == sys.maxsize


async def test_timers_fire_on_time(world, autojump_clock):
    def on_advance(now):
        world.processor.deadline = now + 0.25 if now < 1 else inf

    world.processor.on_advance = on_advance
    world.processor.deadline = 0.5
    world.endpoint.arrive(b"x")  # the turn in which the deadline appears
    await trio.sleep(3)
    assert world.called("advance") == [("advance", 0.5), ("advance", 0.75), ("advance", 1.0)]


async def test_the_sleeper_follows_a_deadline_that_moves_earlier(world, autojump_clock):
    world.processor.deadline = 10.0
    world.endpoint.arrive(b"x")
    await trio.sleep(1)
    world.processor.deadline = 2.0
    world.endpoint.arrive(b"y")
    await trio.sleep(5)
    assert world.called("advance") == [("advance", 2.0)]


async def test_a_deadline_that_moves_later_costs_nothing(world, autojump_clock):
    """As each token moves it, the sleeper wakes once in a timeout, and finds it early."""
    world.processor.deadline = 1.0
    world.endpoint.arrive(b"x")
    await wait_all_tasks_blocked()
    for _ in range(50):
        world.processor.deadline = trio.current_time() + 1
        world.endpoint.arrive(b"token")
        await trio.sleep(0.1)
    assert world.called("advance") == []
    assert len(world.endpoint.limits) == 51  # one turn for each token; the sleeper's wakings made none
    await trio.sleep(1)
    assert len(world.called("advance")) == 1


async def test_a_kick_makes_a_turn_at_once_and_others_one_together(world):
    world.processor.promise(datagrams=[(0, [b"cancel"])])
    world.node.kick()
    assert world.called("send") == [("send", 0, [b"cancel"])]
    for _ in range(5):
        world.node.kick()
    assert len(world.endpoint.limits) == 1
    await wait_all_tasks_blocked()
    assert len(world.endpoint.limits) == 2
    world.node.kick()
    assert len(world.endpoint.limits) == 3
    await wait_all_tasks_blocked()
    assert len(world.endpoint.limits) == 3


async def test_a_kick_does_nothing_before_the_start_which_makes_a_turn_and_after_the_end(autojump_clock):
    world = World()
    world.node.kick()
    assert not world.endpoint.limits
    async with trio.open_nursery() as nursery:
        await nursery.start(world.node.run, world.deliver)
        assert len(world.endpoint.limits) == 1
        world.node.leave()
    calls = list(world.calls)
    world.node.kick()
    assert world.calls == calls


async def test_a_processor_that_is_always_due_leaves_room_for_others(world):
    """As in a ring of one whose token never rests."""

    def on_advance(now):
        world.processor.deadline = -inf

    world.processor.on_advance = on_advance
    world.processor.deadline = -inf
    world.node.kick()
    for _ in range(20):
        await trio.lowlevel.checkpoint()
    world.processor.on_advance = lambda now: None
    await wait_all_tasks_blocked()
    assert 10 < len(world.called("advance")) < 1000


@pytest.mark.parametrize(
    ("error", "promise"),
    [
        (RingLost("node 2 is there twice"), {"failure": "node 2 is there twice"}),
        (KeyError("bug"), {"deliveries": ["x"]}),
    ],
)
async def test_what_goes_wrong_comes_out_bare_and_no_leave_is_announced(error, promise, nursery):
    world = World()

    def fail(*args):
        raise error

    if "deliveries" in promise:
        world.on_delivery = fail
    outcome = []

    async def run():
        try:
            await world.node.run(world.deliver)
        except Exception as caught:
            outcome.append(caught)

    nursery.start_soon(run)
    await wait_all_tasks_blocked()
    world.processor.promise(datagrams=[(0, [b"last words"])], **promise)
    world.endpoint.arrive(b"x", b"y")
    await wait_all_tasks_blocked()
    (caught,) = outcome
    assert type(caught) is type(error)
    assert caught.args == error.args
    assert world.calls[-1] == ("close",)
    assert not world.called("leave")
    assert world.called("send")


async def test_what_cannot_be_stored_is_not_told_to_anybody(world, autojump_clock, caplog):
    """The node stands still until it can be stored, and does not spin."""
    world.store.is_full = True
    world.processor.deadline = trio.current_time() + 1
    world.processor.promise(ring_seq=9, datagrams=[(2, [b"commit token"])], deliveries=["x"], notices=["strange"])
    world.endpoint.arrive(b"commit token")
    await trio.sleep(60)
    turns = world.processor.turns
    assert world.called("send", "deliver", "advance") == []
    assert 10 < len(world.called("store")) < 25
    world.endpoint.arrive(b"late")
    world.node.kick()
    await trio.sleep(60)
    assert world.processor.turns == turns
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "node 1: strange",
        "node 1: out of the ring, because the sequence of a new ring cannot be stored: /state/ringid_1: "
        "No space left on device; it comes back as soon as that is possible",
    ]
    fault = {"event": "disk_fault", "what": "ring_sequence", "fault": "/state/ringid_1: No space left on device"}
    assert [fields_of(record) for record in caplog.records] == [{}, {**fault, "node": 1}]

    world.store.is_full = False
    world.calls.clear()
    world.processor.promise(datagrams=[(0, [b"join"])], deliveries=["y"])
    await trio.sleep(LONGEST_PAUSE)
    names = [name for name, *_ in world.calls]
    assert names == ["store", "come back", "receive", "advance", "send", "deliver"]
    assert "its disk can be written again, after 12" in caplog.messages[-1]
    assert fields_of(caplog.records[-1]) == {"event": "disk_recovered", "node": 1, "what": "ring_sequence"}
    turns = world.processor.turns
    world.endpoint.arrive(b"as usual")
    await wait_all_tasks_blocked()
    assert world.processor.turns == turns + 1


async def test_a_look_between_deliveries_may_find_what_cannot_be_stored(world, autojump_clock):
    """What was queued is delivered to the end; what comes after it waits."""
    world.store.is_full = True

    def on_delivery(item):
        if item == 0:
            world.endpoint.arrive(b"commit token")
            world.processor.promise(ring_seq=9, datagrams=[(2, [b"commit token"])])

    world.on_delivery = on_delivery
    world.processor.promise(deliveries=range(2 * SLICE))
    world.endpoint.arrive(b"train")
    await wait_all_tasks_blocked()
    assert len(world.called("deliver")) == 2 * SLICE
    assert not world.called("send")
    world.store.is_full = False
    await trio.sleep(LONGEST_PAUSE)
    assert world.called("come back")


async def test_who_stands_still_leaves_without_a_word(autojump_clock):
    """A leave names the number of the ring, too."""
    world = World()
    world.store.is_full = True
    world.processor.promise(ring_seq=9, datagrams=[(0, [b"join"])])
    async with trio.open_nursery() as nursery:
        await nursery.start(world.node.run, world.deliver)
        await trio.sleep(5)
        world.node.leave()
    assert not world.called("send")
    assert world.calls[-1] == ("close",)


async def test_a_failure_in_the_first_turn(autojump_clock):
    world = World()
    world.processor.promise(failure="no place here")
    with pytest.raises(RingLost, match=r"^no place here$"):
        await world.node.run(world.deliver)


async def test_notices_are_logged(world, caplog):
    world.processor.promise(notices=["node 2 sends frames that do not fit"])
    world.endpoint.arrive(b"x")
    await wait_all_tasks_blocked()
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.WARNING, "node 1: node 2 sends frames that do not fit")


def test_open_and_statistics(tmp_path):
    config = at_one_address(2, state_dir=str(tmp_path))
    node = Node.open(config, 1)
    try:
        assert node.processor.ring_id.seq == RingStore(str(tmp_path), 1).load() + 1
        node._endpoint.send(3, [b"x"])
        assert node.statistics().drops == {"unknown target": 1}
        with pytest.raises(OSError, match="started twice"):
            Node.open(config, 1)
    finally:
        node._endpoint.close()


def test_open_gives_the_sockets_back_where_the_folder_fails(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        Node.open(at_one_address(1, state_dir=str(tmp_path / "file")), 1)


async def test_overflows_are_among_the_drops(tmp_path):
    config = at_one_address(1, state_dir=str(tmp_path))
    real = Node.open(config, 1)
    real._endpoint.close()
    node = Node(real.processor, FakeEndpoint([]), FakeStore([]))
    assert node.statistics().drops == {"receive buffer overflow": 7}


async def test_statistics_can_be_read_after_the_end(tmp_path):
    node = Node.open(at_one_address(1, state_dir=str(tmp_path)), 1)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run, collections.deque(maxlen=0).extend)
        node.leave()
    assert node.statistics().state == "left"
