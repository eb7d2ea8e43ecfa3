from textwrap import dedent

import pytest

from totem import corosync_conf
from totem.config import Config, NodeEntry, Reservation, milliseconds
from totem.corosync_conf import load, own_node, parse
from totem.errors import ConfigError

# As the trial script writes it for real nodes, with more of what such files have.
FULL = """\
# Please read the corosync.conf.5 manual page
totem {
    version: 2
    cluster_name: csring
    transport: udpu
    crypto_cipher: none
    crypto_hash: none
    netmtu: 1400
    token: 1000
    token_coefficient: 100
    join: 60
    window_size: 100
    send_join: 0
    block_unlisted_ips: no
    interface {
        linknumber: 0
        mcastport: 5500
    }
}

system {
    sched_rr: no
    move_to_root_cgroup: no
    state_dir: /tmp/state
}
  logging {
\tto_stderr: yes
\tto_syslog: no
\tdebug: on
\tlogger_subsys {
\t\tsubsys: CPG
\t\tdebug: trace
\t}
  }
quorum {
    provider: corosync_votequorum
    expected_votes: 3
    two_node: 1
    last_man_standing_window: 20000
}
nodelist {
    node {
        ring0_addr: 127.0.0.1
        name: one
        nodeid: 1
    }
    node {
        ring0_addr: 127.0.0.2
        nodeid: 2
        quorum_votes: 2
    }
    node {
        ring0_addr: 127.0.0.1
        ring0_port: 5501
        nodeid: 7
    }
}
"""

SMALL = """\
totem {
  transport: udpu
}
nodelist {
  node {
    ring0_addr: 127.0.0.1
    nodeid: 1
  }
}
"""


def test_a_whole_file(tmp_path):
    path = tmp_path / "corosync.conf"
    path.write_text(FULL)
    config, warnings = load(path)
    assert warnings == ()
    assert config.nodes == (
        NodeEntry(1, "one", "127.0.0.1", 5500),
        NodeEntry(2, "node2", "127.0.0.2", 5500, 2),
        NodeEntry(7, "node7", "127.0.0.1", 5501),
    )
    assert (config.cluster_name, config.transport, config.netmtu) == ("csring", "udpu", 1400)
    assert (config.port, config.window_size, config.block_unlisted_ips) == (5500, 100, False)
    assert config.state_dir == "/tmp/state"
    assert (config.token, config.token_configured, config.join) == (1.1, True, 0.06)
    assert (config.quorum.provider, config.quorum.expected_votes) == ("corosync_votequorum", 3)
    assert (config.quorum.two_node, config.quorum.last_man_standing_window) == (True, 20.0)
    assert (config.logging.to_stderr, config.logging.to_syslog, config.logging.debug) == (True, False, "on")


def test_the_smallest_file_is_all_defaults():
    assert parse(SMALL, "x").config == Config(nodes=(NodeEntry(1, "node1", "127.0.0.1", 5405),))


def small_with(line, section="totem"):
    """Put a line right after the beginning of a section; it becomes line 2 (totem) or 6 (node)."""
    head = f"{section} {{\n"
    return SMALL.replace(head, f"{head}{line}\n")


@pytest.mark.parametrize(
    ("nodes", "lines", "token"),
    [
        (3, "", 3650),
        (3, "token: 1000", 1650),
        (3, "token_coefficient: 0", 3000),
        (4, "token: 1000\ntoken_coefficient: 10", 1020),
        (2, "token: 1000\ntoken_coefficient: 10", 1000),
        (3, "token: 0", 3650),
    ],
)
def test_the_nodelist_stretches_the_token_timeout(nodes, lines, token):
    node = "node {{\n ring0_addr: 127.0.0.{0}\n nodeid: {0}\n}}\n"
    text = f"totem {{\ntransport: udpu\n{lines}\n}}\nnodelist {{\n{''.join(map(node.format, range(1, nodes + 1)))}}}"
    assert milliseconds(parse(text, "x").config.token) == token


@pytest.mark.parametrize(("line", "on"), [("", True), ("compact_headers: yes", True), ("compact_headers: no", False)])
def test_extensions_can_be_turned_off(line, on):
    assert parse(small_with(line), "x").config.compact_headers is on


def test_zero_asks_for_the_default():
    config = parse(small_with("join: 0\nconsensus: 0\nwindow_size: 0\nnetmtu: 0\nsend_join: 0"), "x").config
    assert (config.join, config.consensus, config.window_size, config.netmtu) == (0.05, 3.6, 50, 1500)
    assert not config.windows_configured


def test_zero_turns_the_accelerated_ring_off():
    assert parse(small_with("accelerated_window: 0"), "x").config.accelerated_window == 0
    assert parse(small_with("accelerated_window: 5"), "x").config.accelerated_window == 5


def test_the_last_of_several_values_counts():
    assert parse(small_with("join: 70\njoin: 80"), "x").config.join == 0.08
    assert parse(SMALL + "totem {\n join: 90\n}", "x").config.join == 0.09


def test_blanks_comments_and_carriage_returns():
    text = SMALL.replace("  transport: udpu", "\t# transport: knet\n\n \xa0transport :  udpu \t")
    assert parse(text.replace("\n", "\r\n"), "x").config.transport == "udpu"


def test_values_may_hold_colons():
    address = SMALL.replace("127.0.0.1", "::1")
    assert parse(address, "x").config.nodes[0].address == "::1"


def test_host_names_become_addresses(monkeypatch):
    known = {("alpha", "ipv6-4"): "10.0.0.1", ("alpha", "ipv4"): "10.0.0.2"}
    monkeypatch.setattr(corosync_conf, "resolve", lambda host, version: known[host, version])
    text = SMALL.replace("127.0.0.1", "alpha")
    assert parse(text, "x").config.nodes[0].address == "10.0.0.1"
    assert parse(text.replace("udpu", "udp\n cluster_name: c"), "x").config.nodes[0].address == "10.0.0.2"


def test_a_host_name_without_an_address(monkeypatch):
    def resolve(host, version):
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr(corosync_conf, "resolve", resolve)
    with pytest.raises(ConfigError, match=r"^x:6: ring0_addr: 'alpha' is neither an address nor a host name: Name or"):
        parse(SMALL.replace("127.0.0.1", "alpha"), "x")


@pytest.mark.parametrize(("clear", "node_id"), [("no", 0xC0A80501), ("yes", 0x40A80501)])
def test_a_missing_nodeid_is_the_address(clear, node_id):
    text = SMALL.replace("nodeid: 1", "").replace("127.0.0.1", "192.168.5.1")
    text = text.replace("udpu", f"udpu\n clear_node_high_bit: {clear}")
    assert parse(text, "x").config.nodes[0].node_id == node_id


def test_udp():
    text = small_with("cluster_name: csring\ninterface {\nttl: 3\n}").replace("udpu", "udp")
    config = parse(text, "x").config
    assert (config.mcastaddr, config.ttl, config.ip_version) == ("239.192.26.33", 3, "ipv4")
    assert parse(text.replace("ttl: 3", "mcastaddr: 239.1.1.1"), "x").config.mcastaddr == "239.1.1.1"


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (small_with("tokne: 1000"), "x:2: totem.tokne is not known here"),
        (small_with("heartbeat_failures_allowed: 3"), "x:2: totem.heartbeat_failures_allowed is not known here"),
        (small_with("rnig0_port: 1", "  node"), "x:6: nodelist.node.rnig0_port is not known here"),
        (small_with("interface {\nbindnetaddr: 10.0.0.0\n}"), "x:3: bindnetaddr has no effect"),
        (SMALL + "extra {\nkey: value\n}\n", "x:10: section extra is not known here"),
        (SMALL + "quorum {\ndevice {\nmodel: net\n}\n}\n", "x:11: section quorum.device is not known here"),
        (SMALL + "stray: 1\n", "x:10: stray outside all sections is not known here"),
    ],
)
def test_warned(text, warning):
    (told,) = parse(text, "x").warnings
    assert told.startswith(warning)


RESERVED = """
cpgd {
    libqb: no
    reserved {
        group: cluck
        uid: root
        gid: 7
    }
    reserved {
        group: my locks
    }
}
"""


def test_reserved_groups():
    config, warnings = parse(SMALL + RESERVED, "x")
    assert config.daemon.reserved == (Reservation("cluck", 0, 7), Reservation("my locks"))
    assert config.daemon.libqb is False
    assert warnings == ()


def test_what_has_no_bearing_on_a_ring_is_read_over():
    text = small_with("config_version: 3\nkeyfile: /x\nknet_mtu: 0\ntoken_warning: 80") + dedent(
        """
        resources {
          system {
            memory_used {
              max: 80
            }
          }
        }
        logging {
          fileline: off
          syslog_priority: info
        }
        """
    )
    assert parse(text, "x").warnings == ()


@pytest.mark.parametrize(
    ("text", "start", "words"),
    [
        (small_with("token: soon"), "x:2: totem.token: 'soon' is wrong", "a number"),
        (small_with("token: -1"), "x:2: totem.token: '-1'", "a number"),
        (small_with("token: 4294967296"), "x:2: totem.token:", "4294967295"),
        (small_with("token: 10"), "x:2: token: 10 ms is wrong", "at least 30 ms"),
        (small_with("\nconsensus: 10"), "x:3: consensus: 10 ms", "at least 50 ms"),
        (small_with("version: 1"), "x:2: totem.version: '1'", "one of 2"),
        (small_with("netmtu: 70000"), "x:2: netmtu: 70000", "65507"),
        (small_with("ip_version: 4"), "x:2: totem.ip_version: '4'", "ipv4-6"),
        (small_with("block_unlisted_ips: on"), "x:2: totem.block_unlisted_ips: 'on'", "yes or no"),
        (small_with("crypto_cipher: aes256"), "x:2: totem.crypto_cipher: 'aes256' is not supported", "none"),
        (small_with("crypto_hash: sha256"), "x:2: totem.crypto_hash: 'sha256' is not supported", "none"),
        (small_with("secauth: on"), "x:2: totem.secauth: 'on' is not supported", "secauth: off"),
        (SMALL.replace("udpu", "knet"), "x:2: totem.transport is knet", "write 'transport: udpu'"),
        (SMALL.replace("  transport: udpu\n", ""), "x:1: totem.transport is knet", "write 'transport: udpu'"),
        (SMALL.replace("udpu", "tcp"), "x:2: transport: tcp is wrong", "udpu, udp"),
        (SMALL.replace("udpu", "udp"), "x:1: mcastaddr", "cluster_name"),
        (small_with("interface {\nlinknumber: 1\n}"), "x:3: only link 0", "knet"),
        (small_with("interface {\n}\ninterface {\n}"), "x:4: only one interface", "knet"),
        (small_with("interface {\nbroadcast: yes\n}"), "x:3: broadcast is not supported", "mcastaddr"),
        (small_with("interface {\nmcastport: 70000\n}"), "x:3: mcastport: 70000", "65535"),
        (small_with("interface {\nttl: 2\n}"), "x:3: ttl: 2", "udp"),
        (SMALL.replace("nodeid: 1", "nodeid: 0"), "x:7: nodeid of node 0", "1 to"),
        (SMALL.replace("nodeid: 1", "nodeid: one"), "x:7: nodelist.node.nodeid: 'one'", "a number"),
        (small_with("ring1_addr: 10.0.0.1", "  node"), "x:6: only ring0_addr", "knet"),
        (small_with("ring0_port: 65536", "  node"), "x:6: ring0_port of node 1: 65536", "65535"),
        (SMALL.replace("    ring0_addr: 127.0.0.1\n", ""), "x:5: a node needs a ring0_addr", ""),
        (SMALL.replace("127.0.0.1", "::1").replace("nodeid: 1", ""), "x:5: a node with an IPv6 address", "nodeid"),
        (SMALL.split("nodelist", maxsplit=1)[0], "x:1: nodelist: 0 nodes", "1 to 384"),
        (SMALL + SMALL[SMALL.index("nodelist") :], "x:13: nodeid of node 1: 1 is wrong", "one node's"),
        (SMALL + "quorum {\nprovider: mine\n}", "x:11: quorum.provider: 'mine'", "corosync_votequorum"),
        (SMALL + "quorum {\ntwo_node: yes\n}", "x:11: quorum.two_node: 'yes'", "0 or 1"),
        (SMALL + "logging {\ndebug: loud\n}", "x:11: logging.debug: 'loud'", "trace"),
        (SMALL + "cpgd {\nreserved {\nuid: 1\n}\n}", "x:11: a reserved group needs its name", "group: NAME"),
        (SMALL + "cpgd {\nreserved {\ngroup:\n}\n}", "x:12: cpgd.reserved.group: ''", "1 to 128 bytes"),
        ("totem {\n", "x:1: section totem is not closed", "}"),
        (SMALL + "}\n", "x:10: } closes nothing", ""),
        (SMALL + "totem\n", "x:10: neither", "totem"),
        (SMALL + "{\n}\n", "x:10: a section begins with its name", ""),
        (SMALL + "totem { version: 2 }\n", "x:10: a section begins with its name", ""),
        (SMALL + ": 3\n", "x:10: a key is missing", ""),
    ],
)
def test_refused(text, start, words):
    with pytest.raises(ConfigError) as caught:
        parse(text, "x")
    assert str(caught.value).startswith(start)
    assert words in str(caught.value)


def test_garbage_is_refused_and_not_more(tmp_path):
    path = tmp_path / "garbage"
    path.write_bytes(bytes(range(256)) * 4)
    with pytest.raises(ConfigError, match=r"garbage:\d+: "):
        load(path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "missing")


@pytest.fixture
def config():
    return parse(FULL, "x").config


@pytest.mark.parametrize(("asked", "node_id"), [(2, 2), ("2", 2), ("one", 1), ("node7", 7)])
def test_own_node_by_id_or_name(config, asked, node_id):
    assert own_node(config, asked) == node_id


@pytest.mark.parametrize("asked", [3, "three"])
def test_own_node_that_does_not_exist(config, asked):
    with pytest.raises(ValueError, match=r"three|3.*1 \(one, 127.0.0.1\), 2 .*, 7 "):
        own_node(config, asked)


def test_own_node_by_address(config, monkeypatch):
    monkeypatch.setattr(corosync_conf, "is_local", lambda address: address == "127.0.0.2")
    assert own_node(config) == 2


def test_own_node_by_address_needs_exactly_one(config, monkeypatch):
    monkeypatch.setattr(corosync_conf, "is_local", lambda address: address == "127.0.0.1")
    with pytest.raises(ValueError, match=r"several .* say which: 1 \(one, 127.0.0.1\), 7 \(node7, 127.0.0.1\)$"):
        own_node(config)
    monkeypatch.setattr(corosync_conf, "is_local", lambda address: False)
    with pytest.raises(ValueError, match="no node of the nodelist has an address of this machine"):
        own_node(config)
