import errno
import os
import shutil
import subprocess
from textwrap import dedent

import pytest

from totem.config import Config, NodeEntry, Reservation, milliseconds
from totem.corosync_conf import load, load_section, own_node, parse, vocabulary
from totem.errors import AddressUnavailable, ConfigError

# The file that the trial script writes for real nodes, with more of what such files have.
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


def test_host_names_become_addresses():
    known = {("alpha", "ipv6-4"): "10.0.0.1", ("alpha", "ipv4"): "10.0.0.2"}

    def resolve(host, version):
        return known[host, version]

    text = SMALL.replace("127.0.0.1", "alpha")
    assert parse(text, "x", resolve=resolve).config.nodes[0].address == "10.0.0.1"
    text = text.replace("udpu", "udp\n cluster_name: c")
    assert parse(text, "x", resolve=resolve).config.nodes[0].address == "10.0.0.2"


@pytest.mark.parametrize(
    ("number", "words", "kind"),
    [
        (-2, "Name or service not known", AddressUnavailable),
        (-3, "Temporary failure in name resolution", AddressUnavailable),
        (errno.EINVAL, "not a host name", ConfigError),
    ],
)
def test_a_host_name_without_an_address(number, words, kind):
    def resolve(host, version):
        raise OSError(number, words)

    right = f"^x:6: ring0_addr: 'alpha' is neither an address nor a host name: {words}"
    with pytest.raises(ConfigError, match=right) as caught:
        parse(SMALL.replace("127.0.0.1", "alpha"), "x", resolve=resolve)
    assert type(caught.value) is kind


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
        (small_with("tokne: 1000"), "x:2: totem.tokne is not known here and has no effect (did you mean token?)"),
        (small_with("vsftype: none"), "x:2: totem.vsftype is not known here and has no effect"),
        (small_with("heartbeat_failures_allowed: 3"), "x:2: totem.heartbeat_failures_allowed has no effect here"),
        (small_with("rnig0_port: 1", "  node"), "x:6: nodelist.node.rnig0_port is not known here"),
        (small_with("interface {\nbindnetaddr: 10.0.0.0\n}"), "x:3: totem.interface.bindnetaddr has no effect here"),
        (small_with("interface {\nbroadcast: yes\n}"), "x:3: totem.interface.broadcast has no effect with transport"),
        (SMALL + "extra {\nkey: value\n}\n", "x:10: section extra is not known here and has no effect"),
        (SMALL + "loging {\nkey: value\n}\n", "x:10: section loging is not known here and has no effect (did you m"),
        (SMALL + "quorum {\ndevice {\nmodel: net\n}\n}\n", "x:11: section quorum.device has no effect here"),
        (SMALL + "logging {\nsyslog_priority: err\n}\n", "x:11: logging.syslog_priority has no effect here"),
        (SMALL + "stray: 1\n", "x:10: stray outside all sections is not known here"),
        (SMALL + "token: 1\n", "x:10: token outside all sections is not known here and has no effect (it belongs in"),
        (SMALL + "quorum {\nsystem {\n}\n}\n", "x:11: section system stands inside quorum and has no effect: a } is"),
        (small_with("join: 70\njoin: 80"), "x:2: totem.join has no effect, because line 3 repeats it"),
        ("\ufeff" + SMALL, "x:1: the file begins with a byte order mark"),
        (small_with("cluster_name: a # b"), "x:2: totem.cluster_name has '# b' in its value, as in Corosync"),
        (small_with('cluster_name: "a"'), "x:2: totem.cluster_name has quotes in its value"),
        (small_with("block_unlisted_ips: off"), "x:2: totem.block_unlisted_ips: 'off' is read as yes, as in Corosy"),
        (small_with("clear_node_high_bit: on"), "x:2: totem.clear_node_high_bit: 'on' is read as no, as in Corosyn"),
        (small_with("secauth: no"), "x:2: totem.secauth: 'no' is read as off, as in Corosync"),
    ],
)
def test_warned(text, warning):
    (told,) = parse(text, "x").warnings
    assert told.startswith(warning)


@pytest.mark.parametrize(
    ("text", "slip", "error"),
    [
        (SMALL.replace("nodelist", "nodelst"), "x:4: section nodelst is not known", "x:1: this file has no section"),
        (SMALL.replace("totem", "totme"), "x:1: section totme is not known", "x:1: this file has no section totem"),
        (SMALL.replace("udpu", "udpu  # x"), "x:2: totem.transport has '# x' in its value", "x:2: totem.transport: "),
        (SMALL.replace("udpu", '"udpu"'), "x:2: totem.transport has quotes", "x:2: totem.transport: "),
        (
            SMALL.replace("}\nnodelist", "nodelist") + "}\n",
            "x:3: section nodelist stands inside totem",
            "x:1: this file",
        ),
    ],
)
def test_slips_of_the_pen_stand_in_front_of_what_may_come_of_them(text, slip, error):
    with pytest.raises(ConfigError) as caught:
        parse(text, "x")
    told = str(caught.value)
    assert told.startswith(slip)
    assert f"; {error}" in told


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
        (small_with("compact_headers: on"), "x:2: totem.compact_headers: 'on'", "yes or no"),
        (small_with("crypto_cipher: aes256"), "x:2: totem.crypto_cipher: 'aes256' is not supported", "none"),
        (small_with("crypto_hash: sha256"), "x:2: totem.crypto_hash: 'sha256' is not supported", "none"),
        (small_with("secauth: on"), "x:2: totem.secauth: 'on' is not supported", "secauth: off"),
        (small_with("secauth: on\ncrypto_hash: none"), "x:2: totem.secauth: 'on' is not supported", "secauth: off"),
        (SMALL.replace("udpu", "tcp"), "x:2: totem.transport: 'tcp' is wrong", "udpu, udp, knet"),
        (SMALL.replace("udpu", "udp"), "x:1: mcastaddr", "cluster_name"),
        (small_with("interface {\nlinknumber: 1\n}"), "x:3: only link 0", "knet"),
        (small_with("interface {\n}\ninterface {\nlinknumber: 1\n}"), "x:5: only link 0", "knet"),
        (
            small_with("interface {\nbroadcast: yes\n}").replace("udpu", "udp"),
            "x:3: broadcast is not supp",
            "mcastaddr",
        ),
        (small_with("interface {\nmcastport: 70000\n}"), "x:3: mcastport: 70000", "65535"),
        (small_with("interface {\nttl: 2\n}"), "x:3: ttl: 2", "udp"),
        (small_with("interface {\nknet_link_priority: 2\n}"), "x:3: totem.interface.knet_link_priority", "udpu"),
        (small_with("link_mode: ring"), "x:2: totem.link_mode: 'ring'", "passive, active, rr"),
        (SMALL.replace("nodeid: 1", "nodeid: one"), "x:7: nodelist.node.nodeid: 'one'", "a number"),
        (small_with("ring1_addr: 10.0.0.1", "  node"), "x:6: only ring0_addr", "knet"),
        (small_with("ring7_addr: 10.0.0.1", "  node"), "x:6: only ring0_addr", "knet"),
        (small_with("ring0_port: 65536", "  node"), "x:6: ring0_port of node 1: 65536", "65535"),
        (SMALL.replace("    ring0_addr: 127.0.0.1\n", ""), "x:5: a node needs a ring0_addr", ""),
        (SMALL.replace("127.0.0.1", "::1").replace("nodeid: 1", ""), "x:5: a node with an IPv6 address", "nodeid"),
        (SMALL.split("nodelist", maxsplit=1)[0], "x:1: this file has no section nodelist", ""),
        (SMALL.split("nodelist", maxsplit=1)[0] + "nodelist {\n}\n", "x:1: nodelist: 0 nodes", "1 to 384"),
        (SMALL.replace("127.0.0.1", "fe80::1"), "x:6: ring0_addr of node 1: fe80::1 is wrong", "fe80::1%eth0"),
        ("", "x:1: this file is empty, it has no section totem", "transport"),
        ("# a comment\n", "x:1: this file is empty", "transport"),
        (SMALL + SMALL[SMALL.index("nodelist") :], "x:10: a second nodelist", "write only one"),
        (
            SMALL.replace("  }", "  }\n  node {\nnodeid: 2\nring0_addr: ::1\n}"),
            "x:11: ring0_addr of node 2",
            "IPv4",
        ),
        (SMALL + "uidgid {\nuser: root\n}\n", "x:11: uidgid.user: only uid and gid", ""),
        (SMALL + "logging {\nsyslog_facility: loud\n}\n", "x:11: logging.syslog_facility: 'loud'", "daemon, local0"),
        (SMALL + "logging {\nto_syslog: 1\n}\n", "x:11: logging.to_syslog: '1'", "yes or no"),
        (SMALL + "quorum {\ntwo_node: 256\n}", "x:11: quorum.two_node: '256'", "0 or 1"),
        (small_with("interface {\nttl: 256\n}"), "x:3: totem.interface.ttl: '256'", "255"),
        (SMALL + "quorum {\nprovider: mine\n}", "x:11: quorum.provider: 'mine'", "corosync_votequorum"),
        (SMALL + "quorum {\ntwo_node: yes\n}", "x:11: quorum.two_node: 'yes'", "0 or 1"),
        (SMALL + "logging {\ndebug: loud\n}", "x:11: logging.debug: 'loud'", "trace"),
        (SMALL + "logging {\nformat: yaml\n}", "x:11: logging.format: 'yaml'", "text, json"),
        (SMALL + "cpgd {\nreserved {\nuid: 1\n}\n}", "x:11: a reserved group needs its name", "group: NAME"),
        (SMALL + "cpgd {\nreserved {\ngroup:\n}\n}", "x:12: cpgd.reserved.group: ''", "1 to 128 bytes"),
        ("totem {\n", "x:1: section totem begins here and is not closed", "}"),
        (SMALL.replace("}\nnodelist", "nodelist"), "x:1: section totem begins here", "before nodelist in line 3"),
        (SMALL + "quorum {\n}  # x\n", "x:11: nothing may follow }", "'}  # x'"),
        (SMALL + "}\n", "x:10: } closes nothing", ""),
        (SMALL + "totem\n", "x:10: neither", "totem"),
        ("totem:\n  transport: udpu\nnodelist:\n  - a\n", "x:1: 'totem:' does not begin a section", "'totem {' does"),
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


@pytest.mark.parametrize(
    ("line", "setting", "value"),
    [
        ("quorum {\ntwo_node: 2\n}", "quorum.two_node", True),
        ("quorum {\ntwo_node: +1\nwait_for_all: 00\n}", "quorum.wait_for_all", False),
        ("logging {\nto_stderr: off\n}", "logging.to_stderr", False),
        ("logging {\nto_stderr: on\n}", "logging.to_stderr", True),
        ("logging {\nto_file: yes\n}", "logging.to_logfile", True),
        ("logging {\nto_file: yes\nto_logfile: no\n}", "logging.to_logfile", False),
        ("logging {\nsyslog_facility: local3\n}", "logging.syslog_facility", "local3"),
        ("logging {\nformat: json\n}", "logging.format", "json"),
        ("totem {\ninterface {\nlinknumber: 0\nmcastport: 5500\n}\ninterface {\nttl: 1\n}\n}", "port", 5500),
        ("totem {\ninterface {\nmcastport: 5500\n}\ninterface {\nmcastport: 5502\n}\n}", "port", 5502),
        ("totem {\nsecauth: on\ncrypto_cipher: none\ncrypto_hash: none\n}", "transport", "udpu"),
        ("totem {\ntoken: +1000\n}", "token", 1.0),
        ("totem {\nblock_unlisted_ips: off\n}", "block_unlisted_ips", True),
    ],
)
def test_values_are_taken_as_corosync_takes_them(line, setting, value):
    taken = parse(f"{SMALL}{line}\n", "x").config
    for name in setting.split("."):
        taken = getattr(taken, name)
    assert taken == value


def test_a_nodeid_of_zero_is_none():
    text = SMALL.replace("nodeid: 1", "nodeid: 0").replace("127.0.0.1", "192.168.5.1")
    assert parse(text, "x").config.nodes[0].node_id == 0xC0A80501


def test_an_empty_name_is_none():
    assert parse(small_with("name:", "  node"), "x").config.nodes[0].name == "node1"


DEBIAN = """\
# Please read the corosync.conf.5 manual page
totem {
	version: 2
	cluster_name: debian
	crypto_cipher: none
	crypto_hash: none
	transport: udpu
}
logging {
	fileline: off
	to_stderr: yes
	to_logfile: yes
	logfile: /var/log/corosync/corosync.log
	to_syslog: yes
	debug: off
	logger_subsys {
		subsys: QUORUM
		debug: off
	}
}
quorum {
	provider: corosync_votequorum
}
nodelist {
	# Change/uncomment/add node sections to match cluster configuration
	node {
		# Hostname of the node
		name: node1
		nodeid: 1
		ring0_addr: 127.0.0.1
		# When knet transport is used it's possible to define up to 8 links
		#ring1_addr: 192.168.1.1
	}
}
"""
OF_THE_LENS = """\
totem {
	version: 2
	secauth: off
	crypto_cipher: none
	crypto_hash: none
	threads: 0
	clear_node_high_bit: no
	rrp_mode: none
	transport: udp
	token: 1000
	interface {
		ringnumber: 0
		bindnetaddr: 192.168.122.1
		mcastaddr: 226.94.1.1
		ttl: 45
		mcastport: 5405
	}
}
logging {
	function_name: on
	logger_subsys {
		subsys: MSG
		tags: enter|trace4
	}
}
quorum {
    provider: corosync_votequorum
    votes: 2
    two_node: 1
    wait_for_all: 1
    last_man_standing: 1
    last_man_standing_window: 10000
    auto_tie_breaker: 1
}
resources {
	system {
		memory_used {
			recovery: reboot
		}
	}
}
uidgid {
    uid: 0
    gid: 0
}
nodelist {
	node {
		ring0_addr: 192.168.122.1
		nodeid: 1
		name: balalaika
		quorum_votes: 2
	}
}
"""


@pytest.mark.parametrize(
    ("text", "strange"), [(DEBIAN, []), (OF_THE_LENS, ["totem.rrp_mode", "totem.interface.bindnetaddr"])]
)
def test_files_that_come_with_corosync(text, strange):
    """Debian's default with another transport, and the test file of Corosync's Augeas lens with one link."""
    assert [warning.split()[1] for warning in parse(text, "x").warnings] == strange


def test_each_line_of_uidgid_lets_somebody_in():
    rules = parse(SMALL + "uidgid {\nuid: 1\nuid: 2\ngid: 3\n}\nuidgid {\ngid: 4\n}\n", "x").config.user_rules
    assert {rule.uid for rule in rules} == {1, 2, None}
    assert {rule.gid for rule in rules} == {3, 4, None}


def test_what_readers_take_is_known():
    """A word that is read but not known would cause a warning."""
    words = vocabulary.WORDS
    for name, readers in {
        "totem": vocabulary.TOTEM_NUMBERS | vocabulary.TOTEM_OURS | vocabulary.TOTEM_TEXTS,
        "totem.interface": vocabulary.INTERFACE,
        "quorum": vocabulary.QUORUM,
        "logging": vocabulary.LOGGING,
        "system": vocabulary.SYSTEM,
        "cpgd": vocabulary.DAEMON,
    }.items():
        assert readers.keys() <= words[name].taken
    for name in words:
        outer, _, inner = name.rpartition(".")
        assert not name or inner in words[outer].sections


@pytest.mark.corosync
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("corosync") is None, reason="needs root and Corosync")
def test_corosync_reads_over_what_is_ours(tmp_path):
    """Otherwise a node that runs Corosync could not have the same file."""
    path = tmp_path / "corosync.conf"
    totem = "  version: 2\n  accelerated_window: 64\n  compact_headers: no\n  transport:"
    ours = SMALL.replace("  transport:", totem).replace("    nodeid:", "    ring0_port: 5500\n    nodeid:")
    ours += "logging {\nto_syslog: no\nformat: json\n}\ncluckd {\nservers: 1\n}\n"
    ours += "cpgd {\nlibqb: no\nreserved {\ngroup: a\n}\n}\n"
    path.write_text(ours)
    assert parse(ours, "x").warnings == ()
    done = subprocess.run(["corosync", "-t", "-c", path], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_what_is_no_text_is_called_so(tmp_path, encoding):
    path = tmp_path / "wide"
    path.write_text(SMALL, encoding=encoding)
    with pytest.raises(ConfigError, match="wide:1: this is not text"):
        load(path)


def test_a_byte_order_mark_and_other_bytes_than_utf8_in_comments(tmp_path):
    path = tmp_path / "old"
    path.write_bytes(
        b"\xef\xbb\xbf# M\xfcller\n" + SMALL.replace("  transport: ", "\xa0transport:\xa0").encode("latin-1")
    )
    assert load(path).config == parse(SMALL, "x").config


def test_a_section_for_a_program_that_is_misspelt(tmp_path):
    path = tmp_path / "conf"
    path.write_text("cluckdd {\nsocket: /x\n}\nlogging {\ndebug: loud\n}\n")
    with pytest.raises(ConfigError, match=r"conf:1: section cluckdd .*did you mean cluckd.*; .*conf:5: logging.debug"):
        load_section(path, "cluckd", {})


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
    monkeypatch.setattr("totem.corosync_conf.this_node.is_local", lambda address: address == "127.0.0.2")
    assert own_node(config) == 2


def test_own_node_by_address_needs_exactly_one(config, monkeypatch):
    monkeypatch.setattr("totem.corosync_conf.this_node.is_local", lambda address: address == "127.0.0.1")
    with pytest.raises(ValueError, match=r"several .* name one: 1 \(one, 127.0.0.1\), 7 \(node7, 127.0.0.1\)$"):
        own_node(config)
    monkeypatch.setattr("totem.corosync_conf.this_node.is_local", lambda address: False)
    with pytest.raises(ValueError, match="no node of the nodelist has an address of this machine"):
        own_node(config)
