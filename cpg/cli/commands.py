"""The commands: small programs on the public API, each from its options to its exit code."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import aclosing

import trio

from cpg.cli.demo import demo
from cpg.cli.demo_display import display_for
from cpg.cli.flood import Plan, flood
from cpg.cli.rings import groups_of, is_quorate, own_ring_of, quorum_status, ring_of, status_source, wait_for_majority
from cpg.cli.status_text import rates, ring_lines
from cpg.client.asynchronous import connect
from cpg.client.ipc import RELOAD, RELOAD_HERE
from cpg.events import Quorum
from cpg.formatting import names, nodes, quorum_to_json, quorum_to_text, reload_lines, to_json, to_text
from cpg.local.program import DONE, FAILED
from cpg.local.standard_io import print_lines, standard_input
from cpg.payloads import Guarantee
from totem.streams import complain
from totem.text import printable

SAMPLE = 1.0
"""Seconds between two samples of the counters, for rates."""


async def run_demo(options: argparse.Namespace) -> int:
    """`cpg demo`."""
    display = display_for(sys.stdout)
    try:
        return DONE if await demo(options.nodes, display) else FAILED
    finally:
        display.close()


async def listen(options: argparse.Namespace) -> int:
    """`cpg listen`."""
    line = to_json if options.json else to_text
    async with ring_of(options) as ring, ring.join(options.group) as group:
        async for batch in group.batches():
            await print_lines([line(event) for event in batch])
    return DONE


async def send(options: argparse.Namespace) -> int:
    """`cpg send`."""
    guarantee = _guarantee(options)
    async with ring_of(options) as ring:
        await wait_for_majority(ring, options)
        async with ring.join(options.group) as group:
            group.on_message(lambda sender, data: None)
            if options.text:
                await group.send([text.encode("utf-8", "surrogateescape") for text in options.text], guarantee)
            else:
                async with aclosing(standard_input()) as batches:
                    async for lines in batches:
                        await group.send(lines, guarantee)
            await group.flush()
    return DONE


async def members(options: argparse.Namespace) -> int:
    """`cpg members`."""
    async with ring_of(options) as ring:
        await wait_for_majority(ring, options)
        groups = await groups_of(ring)
        if options.json:
            await print_lines([json.dumps({"event": "ring", "ring": ring.ring_id, "members": ring.node_ids})])
            await print_lines(
                json.dumps({"group": name.decode("utf-8", "backslashreplace"), "members": members})
                for name, members in groups.items()
            )
        else:
            await print_lines([f"ring {ring.ring_id}: {nodes(ring.node_ids)}"])
            await print_lines(f"{printable(name)}: {names(members)}" for name, members in groups.items())
    return DONE


async def groups(options: argparse.Namespace) -> int:
    """`cpg groups`."""
    async with ring_of(options) as ring:
        await wait_for_majority(ring, options)
        sizes = {name: len(members) for name, members in (await groups_of(ring)).items()}
    if options.json:
        await print_lines(
            json.dumps({"group": name.decode("utf-8", "backslashreplace"), "count": count})
            for name, count in sizes.items()
        )
    else:
        await print_lines(f"{printable(name)}: {count}" for name, count in sizes.items())
    return DONE


async def quorum(options: argparse.Namespace) -> int:
    """`cpg quorum`."""
    async with ring_of(options) as ring:
        quorate = await is_quorate(ring)
        status = await quorum_status(ring)
        event = Quorum(quorate, ring.node_ids)
        if options.json:
            await print_lines([quorum_to_json(event, status)])
        else:
            await print_lines(quorum_to_text(event, status))
        return DONE if quorate else FAILED


async def reload(options: argparse.Namespace) -> int:
    """`cpg reload`."""
    async with connect(options.socket, reconnect=False) as ring:
        answer = await ring.query(RELOAD_HERE if options.here else RELOAD)
    if options.json:
        await print_lines([json.dumps(answer)])
    elif answer["refused"]:
        complain("cpg", f"not reloaded: {answer['refused']}")
    else:
        await print_lines(reload_lines(answer))
    return FAILED if answer["refused"] else DONE


async def status(options: argparse.Namespace) -> int:
    """`cpg status`."""
    async with own_ring_of(options) as ring:
        ask = status_source(ring)
        before = await ask()
        await trio.sleep(SAMPLE)
        after = await ask()
    measured = rates(before, after)
    if options.json:
        await print_lines([json.dumps(after | {"rates": measured.as_dict()})])
    else:
        await print_lines(ring_lines(after, measured))
    return DONE


async def measure(options: argparse.Namespace) -> int:
    """`cpg flood`."""
    plan = Plan(
        members=options.members,
        seconds=options.seconds,
        size=options.size,
        rate=options.rate,
        quiet=options.quiet,
        guarantee=_guarantee(options),
    )
    async with ring_of(options) as ring, ring.join(options.group) as group:
        report = await flood(group, plan)
    await print_lines([json.dumps(report)])
    return DONE


def _guarantee(options: argparse.Namespace) -> Guarantee:
    return Guarantee.SAFE if options.safe else Guarantee.AGREED
