"""`cpg doctor`: each check by itself, and the command on loopback."""

import errno
import json
import os
import socket
from dataclasses import replace

import pytest
import trio

from cpg.cli.demo import free_ports
from cpg.cli.doctor import command, inside, listening, outside, running
from cpg.cli.doctor.digests import digests
from cpg.cli.doctor.findings import Outcome, ok, problem, summary, warning
from cpg.cli.doctor.firewall import Packet, Ruleset, Verdict
from cpg.cli.doctor.inside import LinkPlace, Way
from cpg.cli.doctor.listening import Heard, HeardRing
from cpg.cli.doctor.machine import Holder, Interface, ThisMachine
from cpg.cli.doctor.outside import Echo
from tests.cpg.processes import run
from totem.config import Config, Daemon, Knet, LinkSettings, NodeEntry, Quorum, Scheduling
from totem.sockets import request_buffer
from totem.wire.codec import encode, encode_hint
from totem.wire.messages import Hint, Join

KEY = bytes(range(256))
SECRETS = {"cipher": "aes256", "hash": "sha256", "key": KEY, "key_source": "/etc/corosync/authkey"}
NODES = tuple(NodeEntry(k, f"node{k}", f"10.0.0.{k}", 5405) for k in (1, 2, 3))
UDPU = Config(nodes=NODES, cluster_name="one")
KNET = Config(nodes=NODES, cluster_name="one", transport="knet", knet=Knet(**SECRETS))
HERE, THERE = LinkPlace(0, "10.0.0.1", 5405), LinkPlace(0, "10.0.0.2", 5405)
WAY = Way(HERE, THERE, 2)
ETH0 = Interface("eth0", 1500, True, ("10.0.0.1", "fd00::1"))


class FakeMachine(ThisMachine):
    """A machine that answers what a test says."""

    def __init__(self, **answers):
        self.answers = answers

    def __getattribute__(self, name):
        answers = object.__getattribute__(self, "__dict__").get("answers", {})
        return (lambda *_: answers[name]) if name in answers else object.__getattribute__(self, name)


def outcomes(findings):
    return [finding.outcome.value for finding in findings]


# ---- findings


def test_a_finding_is_a_line_or_an_object():
    found = problem("clock", "it stands", "wind it up")
    assert found.line() == "problem    clock: it stands: wind it up"
    assert found.as_dict() == {"outcome": "problem", "subject": "clock", "text": "it stands", "remedy": "wind it up"}
    assert ok("clock", "it goes").line() == "ok         clock: it goes"


def test_problems_and_warnings_are_counted():
    assert summary([ok("a", "b")]) == "no problems, no warnings"
    findings = [problem("a", "b", "c"), warning("a", "b", "c"), warning("a", "b", "c")]
    assert summary(findings) == "1 problem, 2 warnings"


# ---- digests


def test_digests_tell_which_part_of_the_files_differs():
    before = digests(KNET)
    assert before.key == KNET.knet.fingerprint
    for part, changed in {
        "nodelist": replace(KNET, nodes=NODES[:2]),
        "totem": replace(KNET, join=0.06),
        "quorum": replace(KNET, quorum=Quorum(provider="corosync_votequorum")),
        "key": replace(KNET, knet=replace(KNET.knet, key=KEY[::-1])),
    }.items():
        after = digests(changed)
        assert [name for name in before._fields if getattr(before, name) != getattr(after, name)] == [part]
    assert digests(replace(KNET, knet=replace(KNET.knet, cipher="aes128"))).totem != before.totem
    faster = replace(KNET, knet=replace(KNET.knet, links=(LinkSettings(0, 5405, pong_count=5),)))
    assert digests(faster) == before


def test_digests_ignore_what_nodes_may_choose():
    own = replace(
        KNET,
        state_dir="/elsewhere",
        daemon=Daemon(socket="/tmp/x"),
        accelerated_window=0,
        knet=replace(KNET.knet, key_source="/tmp/key"),
    )
    assert digests(own) == digests(KNET)
    ways = [Config(nodes=(NodeEntry(1, "node1", f"fe80::1%eth{k}", 5405),)) for k in (0, 1)]
    assert digests(ways[0]) == digests(ways[1])


def test_digests_are_one_line():
    assert digests(UDPU).line().endswith(", key none")
    assert "\n" not in digests(UDPU).line()


# ---- the firewall


def rules(*lines, policy="accept", hook="input", **chains):
    """A listing of one chain at a hook, and of others that it may jump to."""
    listing = [
        {"chain": {"family": "inet", "table": "f", "name": "in", "type": "filter", "hook": hook, "policy": policy}}
    ]
    listing += [{"chain": {"family": "inet", "table": "f", "name": name}} for name in chains]
    for name, chain in {"in": lines, **chains}.items():
        listing += [{"rule": {"family": "inet", "table": "f", "chain": name, "expr": line}} for line in chain]
    return listing


def field(protocol, name, right, op="=="):
    return {"match": {"op": op, "left": {"payload": {"protocol": protocol, "field": name}}, "right": right}}


def meta(key, right):
    return {"match": {"op": "==", "left": {"meta": {"key": key}}, "right": right}}


ACCEPT, DROP, REJECT = {"accept": None}, {"drop": None}, {"reject": {"type": "icmpx"}}
PORT = field("udp", "dport", 5405)
STATE = {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}}


@pytest.mark.parametrize(
    ("listing", "verdict"),
    [
        ([], Verdict.ACCEPT),
        (rules([PORT, DROP]), Verdict.DROP),
        (rules([PORT, {"counter": {}}, {"log": None}, REJECT]), Verdict.DROP),
        (rules([field("tcp", "dport", 5405), DROP]), Verdict.ACCEPT),
        (rules([field("udp", "dport", 5406), DROP]), Verdict.ACCEPT),
        (rules([field("udp", "dport", {"range": [5400, 5410]}), DROP]), Verdict.DROP),
        (rules([field("udp", "dport", {"set": [1, {"range": [5405, 5406]}]}), DROP]), Verdict.DROP),
        (rules([field("udp", "dport", 5405, "!="), DROP]), Verdict.ACCEPT),
        (rules([field("udp", "dport", "@ports"), DROP]), None),
        ([*rules([field("udp", "dport", "@ports"), DROP]),
          {"set": {"family": "inet", "table": "f", "name": "ports", "elem": [22, {"elem": {"val": 5405}}]}}],
         Verdict.DROP),
        (rules([meta("l4proto", {"set": ["tcp", "udp"]}), field("th", "dport", 5405), DROP]), Verdict.DROP),
        (rules([field("ip", "saddr", "10.0.0.2"), DROP]), Verdict.DROP),
        (rules([field("ip", "saddr", {"prefix": {"addr": "10.0.0.0", "len": 24}}), DROP]), Verdict.DROP),
        (rules([field("ip", "saddr", {"range": ["10.0.0.3", "10.0.0.9"]}), DROP]), Verdict.ACCEPT),
        (rules([field("ip6", "saddr", "fd00::2"), DROP]), Verdict.ACCEPT),
        (rules([field("ip", "protocol", "udp"), DROP]), Verdict.DROP),
        (rules([meta("iifname", "eth*"), DROP]), Verdict.DROP),
        (rules([meta("iif", "lo"), ACCEPT], policy="drop"), Verdict.DROP),
        (rules([meta("oifname", "eth0"), DROP]), Verdict.ACCEPT),
        (rules([PORT, ACCEPT], policy="drop"), Verdict.ACCEPT),
        (rules([PORT, ACCEPT], [DROP]), Verdict.ACCEPT),
        (rules(policy="drop"), Verdict.DROP),
        (rules(policy="drop", hook="output"), Verdict.ACCEPT),
        (rules([STATE, ACCEPT], policy="drop"), Verdict.DROP),
        (rules([PORT, {"jump": {"target": "c"}}], policy="drop", c=[[ACCEPT]]), Verdict.ACCEPT),
        (rules([{"jump": {"target": "c"}}], policy="drop", c=[[PORT, {"return": None}], [ACCEPT]]), Verdict.DROP),
        (rules([{"jump": {"target": "c"}}], [DROP], c=[]), Verdict.DROP),
        (rules([{"goto": {"target": "c"}}], [DROP], c=[]), Verdict.ACCEPT),
        (rules([{"jump": {"target": "in"}}], policy="drop"), None),
        (rules([{"xt": None}, DROP]), None),
        (rules([{"xt": None}, ACCEPT], policy="drop"), None),
        (rules([{"limit": {"rate": 1}}, DROP]), None),
        (rules([{"limit": {"rate": 1}}, DROP], [PORT, DROP]), Verdict.DROP),
        (rules([{"limit": {"rate": 1}}, {"return": None}], [DROP]), None),
        (rules([{"vmap": {}}], policy="drop"), None),
    ],
)  # fmt: skip
def test_rules_of_the_firewall(listing, verdict):
    packet = Packet("10.0.0.2", "10.0.0.1", 5405, "eth0", is_reply=False)
    assert Ruleset(listing).judge("input", packet).verdict is verdict


def test_only_replies_may_pass():
    machine = FakeMachine(rules=rules([STATE, ACCEPT], policy="drop"))
    first, *_ = found = list(inside.check_firewall(UDPU, NODES[0], machine, [ETH0]))
    assert outcomes(found) == ["warning", "warning"]
    assert "chain in of table inet f drops UDP port 5405 but for replies" in first.text


def test_the_firewall_of_this_machine():
    closed = FakeMachine(rules=rules([PORT, DROP], hook="output"))
    found = list(inside.check_firewall(KNET, NODES[0], closed, [ETH0]))
    assert [finding.subject for finding in found] == [f"firewall here, to node {k}" for k in (2, 3)]
    assert outcomes(found) == ["problem"] * 2
    assert outcomes(inside.check_firewall(KNET, NODES[0], FakeMachine(rules=[]), None)) == ["ok"]
    assert outcomes(inside.check_firewall(KNET, NODES[0], FakeMachine(rules=None), None)) == ["not tried"]
    legacy = FakeMachine(rules=[], has_legacy_rules=True)
    assert outcomes(inside.check_firewall(KNET, NODES[0], legacy, None)) == ["not tried", "ok"]
    obscure = FakeMachine(rules=rules([{"xt": None}, DROP]))
    assert set(outcomes(inside.check_firewall(KNET, NODES[0], obscure, None))) == {"not tried"}


# ---- this machine


def test_the_file(tmp_path, config):
    findings = []
    assert inside.check_file(config, findings).config is not None
    assert outcomes(findings) == ["ok"]
    wrong = tmp_path / "wrong.conf"
    wrong.write_text("totem {\n  transport: pigeon\n}\nnodelist {\n}\n")
    for path, text in (
        (wrong, "wrong.conf:2: totem.transport: 'pigeon' is wrong"),
        (tmp_path / "no", "cannot be read"),
    ):
        findings = []
        assert inside.check_file(str(path), findings).config is None
        assert outcomes(findings) == ["problem"]
        assert text in findings[0].text


def test_the_warnings_about_a_file_are_findings(config):
    with open(config, "a", encoding="utf-8") as file:
        file.write("nodlist {\n}\n")
    findings = []
    inside.check_file(config, findings)
    assert outcomes(findings) == ["ok", "warning"]


def test_which_node_this_is():
    findings = []
    assert inside.find_node(UDPU, "node2", findings) == NODES[1]
    assert inside.find_node(UDPU, "7", findings) is None
    assert outcomes(findings) == ["ok", "problem"]


def test_a_loopback_address_among_others_is_debians_trap():
    nodes = (NODES[0], NODES[1]._replace(address="127.0.1.1"))
    (found,) = inside.check_nodelist(replace(UDPU, nodes=nodes))
    assert found.outcome is Outcome.PROBLEM
    assert found.subject == "address of node 2 on link 0"
    assert not list(inside.check_nodelist(UDPU))
    assert not list(inside.check_nodelist(Config.for_nodes(3)))


@pytest.mark.parametrize(
    ("address", "interface", "mtu", "outcome", "text"),
    [
        ("127.0.0.1", Interface("lo", 65536, True, ("127.0.0.1",)), 1500, "ok", "on lo"),
        ("127.0.0.9", Interface("lo", 65536, True, ("127.0.0.1",)), 0, "ok", "on lo"),
        ("127.0.0.1", Interface("eth0", 1500, False, ("127.0.0.1",)), 1500, "problem", "eth0 is down"),
        ("127.0.0.1", Interface("eth0", 1400, True, ("127.0.0.1",)), 1500, "problem", "1400 bytes, not 1500"),
        ("127.0.0.1", None, 1500, "not tried", "nothing names"),
        ("192.0.2.1", ETH0, 1500, "problem", "no address 192.0.2.1"),
    ],
)
def test_addresses_and_their_interfaces(address, interface, mtu, outcome, text):
    interfaces = [interface] if interface is not None else None
    (found,) = inside.check_addresses([LinkPlace(0, address, 5405)], interfaces, mtu)
    assert (found.outcome.value, text in found.text) == (outcome, True)


@pytest.mark.parametrize(
    ("error", "holders", "daemon", "outcome"),
    [
        (0, [], None, "ok"),
        (errno.EADDRINUSE, [Holder(7, ("/usr/sbin/corosync", "-f"))], None, "ok"),
        (errno.EADDRINUSE, [Holder(7, ("python3", "-m", "cpg.daemon"))], None, "ok"),
        (errno.EADDRINUSE, [Holder(7, ("/usr/bin/python3", "/usr/bin/cpgd"))], None, "ok"),
        (errno.EADDRINUSE, [Holder(7, ("python3", "chat.py"))], 7, "ok"),
        (errno.EADDRINUSE, [], 7, "ok"),
        (errno.EADDRINUSE, [Holder(7, ("python3", "chat.py"))], None, "warning"),
        (errno.EADDRINUSE, [Holder(7, ("named",))], None, "problem"),
        (errno.EADDRINUSE, [Holder(7, ("named",))], 8, "problem"),
        (errno.EADDRINUSE, [Holder(7, ())], None, "problem"),
        (errno.EADDRINUSE, [], None, "not tried"),
        (errno.EADDRNOTAVAIL, [], None, "not tried"),
        (errno.EACCES, [], None, "problem"),
    ],
)
def test_ports_and_who_uses_them(error, holders, daemon, outcome):
    machine = FakeMachine(binds=error, holders=holders)
    assert outcomes(inside.check_ports([HERE], machine, daemon)) == [outcome]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_the_machine_finds_who_uses_a_port(address):
    machine = ThisMachine()
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((address, 0))
        port = sock.getsockname()[1]
        assert machine.binds(address, port) == errno.EADDRINUSE
        assert [holder.pid for holder in machine.holders(address, port)] == [os.getpid()]
    assert machine.binds(address, port) == 0
    assert not machine.holders(address, port)


def test_a_program_that_is_missing_or_fails_has_no_answer():
    machine = ThisMachine()
    assert machine.run("no-such-program") is None
    assert machine.run("false") is None
    assert machine.run("echo", "yes") == "yes\n"


@pytest.mark.parametrize(("granted", "outcome"), [(1 << 30, "ok"), (212992, "warning")])
def test_socket_buffers(monkeypatch, granted, outcome):
    asked = []
    monkeypatch.setattr(inside, "request_buffer", lambda sock, option, size: asked.append(size) or granted)
    assert outcomes(inside.check_buffers(KNET)) == [outcome] * 2
    assert outcomes(inside.check_buffers(UDPU)) == [outcome] * 2
    assert asked == [8 << 20, 8 << 20, 16 * 136192, 16 * 136192]


def test_a_buffer_that_fits_is_granted():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert request_buffer(sock, socket.SO_RCVBUF, 4096) >= 4096


@pytest.mark.parametrize(
    ("settings", "daemon", "refusal", "outcome"),
    [
        (Scheduling(sched_rr=False), None, "", "ok"),
        (Scheduling(sched_rr=True), None, "", "ok"),
        (Scheduling(sched_rr=True), None, "Operation not permitted", "warning"),
        (Scheduling(), 7, "", "ok"),
    ],
)
def test_real_time(monkeypatch, settings, daemon, refusal, outcome):
    monkeypatch.setattr(inside, "_refusal_of_real_time", lambda: refusal)
    machine = FakeMachine(policy_of=os.SCHED_RR)
    assert outcomes(inside.check_scheduling(settings, machine, daemon))[0] == outcome


def test_a_daemon_that_is_not_in_real_time():
    machine = FakeMachine(policy_of=os.SCHED_OTHER)
    assert outcomes(inside.check_scheduling(Scheduling(), machine, 7)) == ["warning"]


def test_the_try_of_real_time_leaves_this_process_as_it_was():
    before = os.sched_getscheduler(0)
    inside._refusal_of_real_time()
    assert os.sched_getscheduler(0) == before


def test_the_state_folder(tmp_path, monkeypatch):
    assert outcomes(inside.check_state(replace(UDPU, state_dir=str(tmp_path / "made" / "later")))) == ["ok"]
    file = tmp_path / "file"
    file.touch()
    assert outcomes(inside.check_state(replace(UDPU, state_dir=str(file / "in")))) == ["problem"]
    monkeypatch.setattr(inside, "_ROOM", 1 << 62)
    assert outcomes(inside.check_state(replace(UDPU, state_dir=str(tmp_path)))) == ["problem"]


@pytest.mark.parametrize(("state", "outcome"), [(True, "ok"), (False, "warning"), (None, "not tried")])
def test_the_clock(state, outcome):
    assert outcomes(inside.check_clock(FakeMachine(clock_is_synchronized=state))) == [outcome]


def test_the_kernel_says_whether_the_clock_is_synchronized():
    assert ThisMachine().clock_is_synchronized() in (True, False, None)


def test_the_key(monkeypatch):
    (found,) = inside.check_key(KNET)
    assert KNET.knet.fingerprint in found.text
    assert outcomes(inside.check_key(UDPU)) == ["ok"]
    monkeypatch.setattr(inside.importlib.util, "find_spec", lambda name: None)
    assert outcomes(inside.check_key(KNET)) == ["problem", "ok"]


# ---- the way to others


@pytest.mark.parametrize(
    ("route", "interface", "outcome"),
    [("eth0", ETH0, []), ("eth1", ETH0, ["warning"]), (None, ETH0, []), ("eth1", None, [])],
)
def test_routes(route, interface, outcome):
    assert outcomes(outside.check_route(WAY, FakeMachine(route=route), interface)) == outcome


async def test_a_port_that_nobody_uses_is_refused():
    assert await outside.echo("127.0.0.1", "127.0.0.2") is Echo.REFUSED
    assert await outside.echo("", "127.0.0.1", 9000) is Echo.REFUSED


@pytest.mark.parametrize(
    ("passes", "mtu", "outcome", "text"),
    [
        (1500, 1500, "ok", "packets of 1500 bytes get to 10.0.0.2"),
        (1300, 0, "ok", "packets get to 10.0.0.2"),
        (1300, 1500, "problem", "those of 1280 bytes do"),
        (100, 1500, "problem", "only small packets"),
        (Echo.SILENCE, 1500, "not tried", "nothing comes back"),
        (Echo.NO_MACHINE, 1500, "problem", "no machine says that it has 10.0.0.2"),
        (Echo.NO_ROUTE, 1500, "problem", "no route to 10.0.0.2"),
    ],
)
async def test_the_way_to_a_node(monkeypatch, passes, mtu, outcome, text):
    async def echo(here, there, size=0, attempts=1):
        if isinstance(passes, Echo):
            return passes
        return Echo.REFUSED if size <= passes else Echo.SILENCE

    monkeypatch.setattr(outside, "echo", echo)
    _, found = await outside.check_way(WAY, mtu, HERE.address)
    assert (found.outcome.value, text in found.text) == (outcome, True)


@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        ("r.r.rr", "ok"),
        ("r.....", "not tried"),
        ("r.r.r....", "not tried"),
        ("r.r.r.r", "problem"),
        ("r..r...r", "ok"),
    ],
)
async def test_refusals_that_get_lost_prove_nothing(monkeypatch, answers, outcome):
    """The first, then one of full size and a small one in turn."""
    said = iter(answers)

    async def echo(here, there, size=0, attempts=1):
        return Echo.REFUSED if next(said, ".") == "r" else Echo.SILENCE

    monkeypatch.setattr(outside, "echo", echo)
    _, found = await outside.check_way(WAY, 1500, HERE.address)
    assert found.outcome.value == outcome


# ---- what comes from others


(PORT_ON_LOOPBACK,) = free_ports(1)


def loopback(key=KEY, **secrets):
    """A ring over knet of two nodes, on loopback."""
    nodes = tuple(NodeEntry(k, f"node{k}", f"127.0.0.{k}", PORT_ON_LOOPBACK) for k in (1, 2))
    knet = Knet(**{"cipher": "aes256", "hash": "sha256", "key": key} | secrets)
    return Config(nodes=nodes, token=1.0, transport="knet", port=PORT_ON_LOOPBACK, knet=knet)


async def test_two_doctors_answer_each_other():
    with trio.fail_after(40):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listening.hear_knet, loopback(), 2, 40)
            (heard,) = await listening.hear_knet(loopback(), 1, 0)
            nursery.cancel_scope.cancel()
    assert heard.is_up
    assert heard.mtu > 1500


async def test_a_machine_where_nobody_listens():
    (heard,) = await listening.hear_knet(loopback(), 1, 0)
    assert (heard.is_refused, heard.is_up, heard.packets) == (True, False, 0)


@pytest.mark.parametrize(
    "theirs",
    [loopback(KEY[::-1]), loopback(hash="sha512"), loopback(b"", cipher="none", hash="none")],
    ids=["key", "hash", "clear"],
)
async def test_a_node_that_seals_otherwise(theirs):
    with trio.fail_after(40):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listening.hear_knet, theirs, 2, 40)
            (heard,) = await listening.hear_knet(loopback(), 1, 0)
            nursery.cancel_scope.cancel()
    assert not heard.is_up
    assert heard.unopened


async def test_a_node_that_encrypts_while_this_one_does_not():
    with trio.fail_after(40):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listening.hear_knet, loopback(), 2, 40)
            (heard,) = await listening.hear_knet(loopback(b"", cipher="none", hash="none"), 1, 0)
            nursery.cancel_scope.cancel()
    assert not heard.is_up
    assert heard.other_versions


async def test_without_the_package_cryptography(monkeypatch):
    async def hear(config, node_id, stay):
        raise ImportError

    monkeypatch.setattr(listening, "hear_knet", hear)
    assert outcomes(await command._hear(KNET, NODES[0], (), 0)) == ["not tried"]


@pytest.mark.parametrize(
    ("heard", "outcome", "text"),
    [
        ({"is_up": True, "mtu": 1500}, "ok", "packets of 1500 bytes get there"),
        ({"is_up": True, "mtu": 1300}, "warning", "only packets of 1300 bytes get there, though 1500 leave"),
        ({"is_up": True, "mtu": 900, "is_searching": True}, "warning", "has not ended"),
        ({"is_up": True}, "problem", "do not get there"),
        ({"packets": 4, "unopened": 4}, "problem", "does not open with what is configured here"),
        ({"packets": 4, "other_versions": 4}, "problem", "most likely it encrypts"),
        ({"is_refused": True}, "problem", "no node runs there"),
        ({"packets": 4, "pongs": 1}, "problem", "answers only some pings"),
        ({"packets": 4}, "problem", "its packets come, but it does not answer"),
        ({}, "problem", "nothing comes back from 10.0.0.2 UDP port 5405"),
    ],
)
def test_what_is_heard_over_knet(heard, outcome, text):
    found = listening.explain_knet(Heard(2, THERE, **heard), KNET, mtu=1500)
    assert (found.outcome.value, text in found.text) == (outcome, True)
    assert found.remedy or found.outcome is Outcome.OK


def join(origin, candidates, cluster="one"):
    hint = encode_hint(Hint(cluster, 1400, 0))
    return encode(Join(origin, origin, 4, candidates, (), hint))


def heard_ring(*datagrams, **counts):
    heard = HeardRing(**counts)
    for datagram in datagrams:
        heard.add(datagram)
    return {finding.subject: finding for finding in listening.explain_ring(heard, UDPU, 1)}


def test_what_is_heard_over_udpu():
    found = heard_ring(join(2, (1, 2, 3)))
    assert outcomes(found.values()) == ["ok", "not tried"]
    assert "cluster 'two'" in heard_ring(join(2, (2,), "two"))["node 2"].text
    assert "it names node 9" in heard_ring(join(2, (2, 9)))["node 2"].text
    assert "node 9 is heard" in heard_ring(join(9, (9,)))["nodelist"].text
    assert "another machine sends as node 1" in heard_ring(join(1, (1,)))["nodelist"].text
    assert "no node of transport udpu" in heard_ring(b"what is this?")["transport"].text
    assert "4 datagrams came from addresses" in heard_ring(unlisted=4)["nodelist"].text


def status(*members, links=(), drops=None, **more):
    nodes = [
        {"node": node.node_id, "name": node.name, "address": node.address, "port": node.port, "votes": node.votes}
        | {"member": node.node_id in members}
        for node in NODES
    ]
    return {
        "node": 1, "pid": 7, "nodes": nodes, "links": list(links), "members": members, "standstill": None,
        "left_out": [], "apart": [], "counters": {"drops": drops or {}}, **more,
    }  # fmt: skip


def link(**state):
    return {
        "node": 2,
        "link": 0,
        "address": "10.0.0.2",
        "up": True,
        "seconds": 9,
        "mtu": 1500,
        "latency": 0.001,
    } | state


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (status(1, 2, 3), {"node 2": "ok", "node 3": "ok"}),
        (status(1, 3), {"node 2": "problem", "node 3": "ok"}),
        (status(1, 2, 3, links=[link()]), {"node 2": "ok", "node 2 on link 0": "ok", "node 3": "ok"}),
        (status(1, 3, links=[link()]), {"node 2": "problem", "node 2 on link 0": "ok", "node 3": "ok"}),
        (status(1, 3, links=[link(up=False)]), {"node 2": "problem", "node 2 on link 0": "problem", "node 3": "ok"}),
        (status(1, 2, 3, links=[link(mtu=0)]), {"node 2": "ok", "node 2 on link 0": "problem", "node 3": "ok"}),
        (status(1, 2, 3, drops={"short": 1}), {"node 2": "ok", "node 3": "ok"}),
        (status(1, 2, 3, drops={"sealed otherwise": 9}), {"node 2": "ok", "node 3": "ok", "drops": "warning"}),
        (status(1, 2, 3, standstill="node 2 gets nothing"), {"node 2": "ok", "node 3": "ok", "ring": "problem"}),
        (status(1, 3, apart=[{"node": 2, "reason": "2 does not hear 1"}]), {"node 2": "problem", "node 3": "ok"}),
        (status(1, 3, left_out=[{"node": 2, "reason": "gets nothing"}]), {"node 2": "problem", "node 3": "ok"}),
    ],
)  # fmt: skip
def test_what_a_running_node_says(said, expected):
    found = {finding.subject: finding.outcome.value for finding in running.explain_status(said, KNET)}
    assert found == expected


def test_a_running_node_with_another_nodelist():
    other = replace(KNET, nodes=NODES[:2])
    assert next(running.explain_status(status(1, 2, 3), other)).subject == "file"


def test_whose_status_it_is():
    assert running.is_status_of(status(1), NODES[0])
    assert not running.is_status_of(status(1), NODES[1])
    assert not running.is_status_of(status(1), NODES[0]._replace(port=9))


# ---- the command


async def findings_of(*arguments):
    code, out, err = await run("doctor", "--json", *arguments)
    assert not err
    return code, [json.loads(line) for line in out.splitlines()]


def with_outcome(findings, outcome):
    return {finding["subject"] for finding in findings if finding["outcome"] == outcome}


async def test_the_doctor_where_no_node_runs(config):
    code, findings = await findings_of("-c", config, "--node", "1", "--socket", "/nowhere/socket")
    assert (code, with_outcome(findings, "problem")) == (1, {"cpgd"})
    code, findings = await findings_of("-c", config, "--node", "1")
    assert (code, with_outcome(findings, "problem")) == (0, set())
    assert {"file", "node", "port on link 0", "state folder"} <= with_outcome(findings, "ok")
    assert {"node 2", "node 3"} <= with_outcome(findings, "not tried")


async def test_the_doctor_asks_a_running_node(config, daemon):
    code, findings = await findings_of("-c", config, "--node", "1", "--socket", str(daemon.path))
    assert code == 1
    assert with_outcome(findings, "problem") == {"node 2", "node 3"}
    assert {"cpgd", "port on link 0"} <= with_outcome(findings, "ok")


async def test_the_socket_may_be_configured(config, daemon):
    with open(config, "a", encoding="utf-8") as file:
        file.write(f"cpgd {{\n    socket: {daemon.path}\n}}\n")
    _, findings = await findings_of("-c", config, "--node", "1")
    assert "cpgd" in with_outcome(findings, "ok")


async def test_the_daemon_of_another_node(config, daemon):
    _, findings = await findings_of("-c", config, "--node", "2", "--socket", str(daemon.path))
    assert "cpgd" in with_outcome(findings, "warning")


async def test_the_doctor_of_a_file_that_cannot_be_used(tmp_path):
    code, findings = await findings_of("-c", str(tmp_path / "none.conf"))
    assert (code, with_outcome(findings, "problem")) == (1, {"file"})


async def test_the_lines_end_with_a_summary(config):
    code, out, _ = await run("doctor", "-c", config, "--node", "9")
    assert code == 1
    assert out.splitlines()[-1].startswith("1 problem, ")


async def test_the_fingerprint_is_one_line(config):
    code, out, _ = await run("doctor", "--fingerprint", "-c", config)
    assert (code, out) == (0, digests(command.load(config).config).line() + "\n")
    _, out, _ = await run("doctor", "--fingerprint", "--json", "-c", config)
    assert json.loads(out)["key"] == "none"
    code, _, err = await run("doctor", "--fingerprint", "-c", "/nowhere")
    assert (code, "No such file" in err) == (2, True)
