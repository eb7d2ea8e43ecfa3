"""Messages larger than the send queue, from a program's side."""

import trio

import cpg.testing


async def test_large_messages_one_after_another_and_small_ones_behind_them(autojump_clock):
    world = cpg.testing.World(2, seed=1)
    sizes = [5_000_000, 5_000_000, 1, 2_000_000]
    async with (
        world.open_ring(1) as one,
        world.open_ring(2) as two,
        one.join("g") as sender,
        two.join("g") as receiver,
    ):
        arrived = []
        receiver.on_message(lambda member, data: arrived.append(len(data)))
        sender.on_message(lambda member, data: None)
        with trio.fail_after(60):
            for size in sizes:
                await sender.send(bytes(size))
            await sender.flush()
            await trio.sleep(1)
        assert arrived == sizes


async def test_a_large_message_in_a_list_keeps_its_place(autojump_clock):
    world = cpg.testing.World(1)
    async with world.open_ring(1) as ring, ring.join("g") as group:
        arrived = []
        group.on_message(lambda member, data: arrived.append(len(data)))
        with trio.fail_after(60):
            await group.send([b"1", bytes(3_000_000), b"22"])
            await group.flush()
        assert arrived == [1, 3_000_000, 2]
