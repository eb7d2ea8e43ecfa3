"""Real processes on loopback through crashes, pauses and restarts, while all of them send all the time."""

import signal

import trio

from cpg.cli.demo import DemoProcess, difference, text_of
from tests.cpg.processes import Program, members, write_config

TOKEN = 600
"""Milliseconds; a dead node leaves the ring after 2.2 times as long."""


def member(config, node, members):
    return Program(["cpg.cli.demo", config, str(node), str(members)])


def life(program, node, *, killed=False):
    """Return the program's story, as the demo compares it."""
    story = [repr(event) for event in program.events if event["event"] in ("message", "confchg")]
    return DemoProcess(node, 1, program.process, "killed" if killed else "here", story=story)


def since_all_are_back(program, count):
    """Events from the last change of the group on, that made it `count`."""
    start = max(k for k, e in enumerate(program.events) if e["event"] == "confchg" and len(e["members"]) == count)
    return program.events[start + 1 :]


def said(events, text):
    """Return whether a message with this text was delivered."""
    return any(event["event"] == "message" and text_of(event) == text for event in events)


async def talk(program, name):
    """Keep a program busy with numbered messages, some hundred a second."""
    number = 0
    while True:
        await program.say(*(f"{name} {number + k}" for k in range(10)))
        number += 10
        await trio.sleep(0.02)


async def test_kill_pause_and_return_under_load(tmp_path, nursery):
    config = write_config(tmp_path, 3, token=TOKEN)
    one = await member(config, 1, 3).start(nursery)
    two = await member(config, 2, 3).start(nursery)
    three = await member(config, 3, 3).start(nursery)
    for program in (one, two, three):
        await program.until(members(3))

    with trio.CancelScope() as talking:
        async with trio.open_nursery() as talkers:
            for program, name in ((one, "one"), (two, "two")):
                talkers.start_soon(talk, program, name)
            await three.say(*(f"three {number}" for number in range(1000)))
            await one.until(lambda events: len(events) > 500)

            three.signal(signal.SIGKILL)
            await one.until(members(2))
            await two.until(members(2))
            back = await member(config, 3, 3).start(nursery)
            for program in (one, two, back):
                await program.until(members(3))
            talkers.start_soon(talk, back, "back")
            seen = len(back.events)
            await back.until(lambda events: len(events) > seen + 200)

            two.signal(signal.SIGSTOP)
            await one.until(members(2))
            await back.until(members(2))
            two.signal(signal.SIGCONT)
            for program in (one, two, back):
                await program.until(members(3))
            seen = len(back.events)
            await back.until(lambda events: len(events) > seen + 200)
            talking.cancel()

    for program, name in ((one, "one"), (two, "two"), (back, "back")):
        await program.say(f"{name} ends")
    for program in (one, two, back):
        await program.until(lambda events: all(said(events, f"{name} ends") for name in ("one", "two", "back")))
    reference = life(one, 1)
    assert difference(reference, life(back, 3)) == ""
    assert difference(reference, life(three, 3, killed=True)) == ""
    assert since_all_are_back(one, 3) == since_all_are_back(two, 3) == since_all_are_back(back, 3)
    left = [reason for e in one.events if e["event"] == "confchg" for *_, reason in e["left"]]
    assert left == ["nodedown", "nodedown"]
