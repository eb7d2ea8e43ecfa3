"""What transport knet has in corosync.conf: read, warned of and refused as by Corosync, and beyond."""

import os
import random
import shutil
import subprocess
from contextlib import suppress

import pytest

from totem.config import DEFAULT_KEY_FILE, Knet, LinkSettings, milliseconds
from totem.corosync_conf import parse
from totem.corosync_conf.vocabulary import KNET_INTERFACE, KNET_TOTEM
from totem.errors import ConfigError

KEY = bytes(range(256))
SEALED = "crypto_cipher: aes256\ncrypto_hash: sha256\n"


def conf(totem="", *, interfaces=(), nodes=None):
    """A ring of two nodes; the lines of `totem` begin at line 2, and the first node at line 6 without them."""
    nodes = nodes or [one(1), one(2)]
    sections = "".join(f"interface {{\n{inside}\n}}\n" for inside in interfaces)
    inside = "".join(f"node {{\n{lines}}}\n" for lines in nodes)
    return f"totem {{\n{totem}{sections}}}\nnodelist {{\n{inside}}}\n"


def one(node_id, links=(0,), **others):
    """The lines of a node."""
    words = {"nodeid": node_id, "name": f"n{node_id}"}
    words |= {f"ring{link}_addr": f"10.0.{link}.{node_id}" for link in links} | others
    return "".join(f"{word}: {value}\n" for word, value in words.items() if value is not None)


def read(text, keys=None):
    """Read a file; `keys` are those in files, by path."""
    return parse(text, "x", read_key=(keys or {DEFAULT_KEY_FILE: KEY}).__getitem__)


def of(text):
    """What knet has of its own in a file without warnings."""
    config, warnings = read(text)
    assert warnings == ()
    return config.knet


def test_without_a_transport_it_is_knet_with_corosyncs_defaults():
    config, warnings = read(conf())
    assert (config.transport, config.port, config.netmtu, config.ip_version) == ("knet", 5405, 65536, "ipv6-4")
    link = LinkSettings(0, 5405, 1, 0.75, 1.5, 2, 2048)
    assert config.knet == Knet(links=(link,))
    assert warnings == ()


DEBIAN = """\
# Please read the corosync.conf.5 manual page
totem {
	version: 2

	# The cluster name is also written into the VG metadata
	cluster_name: debian

	# crypto works only with knet transport
	crypto_cipher: none
	crypto_hash: none
}

logging {
	fileline: off
	to_stderr: yes
	to_logfile: yes
	logfile: /var/log/corosync/corosync.log
	to_syslog: yes
	debug: off
	#timestamp: hires
	logger_subsys {
		subsys: QUORUM
		debug: off
	}
}

quorum {
	provider: corosync_votequorum
}

nodelist {
	node {
		name: node1
		nodeid: 1
		ring0_addr: 127.0.0.1
		#ring1_addr: 192.168.1.1
	}
	# ...
}
"""

OF_PCS = """\
totem {
    version: 2
    cluster_name: production
    transport: knet
    ip_version: ipv4-6
    link_mode: rr
    knet_pmtud_interval: 60
    knet_compression_level: 5
    knet_compression_model: zlib
    knet_compression_threshold: 200
    crypto_cipher: aes256
    crypto_hash: sha256
    crypto_model: openssl
    token: 10000
    cluster_uuid: abcdef0123456789abcdef0123456789

    interface {
        linknumber: 0
        knet_link_priority: 2
        mcastport: 5500
    }

    interface {
        linknumber: 2
        knet_ping_interval: 400
        knet_ping_precision: 512
        knet_ping_timeout: 1200
        knet_pong_count: 3
        knet_transport: udp
    }
}

nodelist {
    node {
        ring0_addr: 10.0.0.1
        ring2_addr: fd00::1
        name: node1
        nodeid: 1
    }

    node {
        ring0_addr: 10.0.0.2
        ring2_addr: fd00::2
        name: node2
        nodeid: 2
    }
}

quorum {
    provider: corosync_votequorum
    two_node: 1
}

logging {
    to_logfile: yes
    logfile: /var/log/cluster/corosync.log
    to_syslog: yes
    timestamp: on
}
"""


def test_debians_file():
    assert of(DEBIAN).fingerprint == ""


def test_a_file_as_pcs_writes_it():
    config, warnings = read(OF_PCS)
    assert warnings == ()
    knet = config.knet
    assert knet.links == (
        LinkSettings(0, 5500, 2, 2.5, 5.0, 2, 2048),
        LinkSettings(2, 5407, 1, 0.4, 1.2, 3, 512),
    )
    assert (knet.link_mode, knet.cipher, knet.hash, knet.key) == ("rr", "aes256", "sha256", KEY)
    assert (knet.mtu_interval, knet.compression, knet.compression_level) == (60, "zlib", 5)
    assert knet.compression_threshold == 200
    assert [config.place_on(config.node(2), link) for link in (0, 2)] == [("10.0.0.2", 5500), ("fd00::2", 5407)]


@pytest.mark.parametrize(
    ("lines", "cipher", "hash_name"),
    [
        ("secauth: on\n", "aes256", "sha256"),
        ("secauth: on\ncrypto_cipher: none\n", "none", "sha256"),
        ("secauth: on\ncrypto_hash: md5\n", "aes256", "md5"),
        ("secauth: off\ncrypto_hash: sha1\n", "none", "sha1"),
        ("crypto_cipher: aes-192-cbc\ncrypto_hash: sha384\n", "aes192", "sha384"),
        ("crypto_cipher: aes-128\ncrypto_hash: sha512\ncrypto_model: gcrypt\n", "aes128", "sha512"),
    ],
)
def test_ciphers(lines, cipher, hash_name):
    knet = of(conf(lines))
    assert (knet.cipher, knet.hash, knet.key_source) == (cipher, hash_name, DEFAULT_KEY_FILE)
    assert knet.fingerprint == "40aff2e9d2d8922e"  # sha256sum of the key


def test_a_key_in_the_file_has_the_byte_that_ends_a_string():
    """As a real node's, whose pings only open with it."""
    knet = of(conf(f"{SEALED}key: {'k' * 127}\n"))
    assert (knet.key, knet.key_source) == (b"k" * 127 + b"\0", "totem.key")


def test_a_keyfile_comes_before_a_key_and_none_is_read_for_nothing():
    assert read(conf(f"{SEALED}key: short\nkeyfile: /k\n"), {"/k": KEY}).config.knet.key_source == "/k"
    assert of(conf("keyfile: /none\nkey: short\n")).key == b""


def test_of_a_long_key_file_the_first_bytes_are_the_key():
    config, (warning,) = read(conf(f"{SEALED}keyfile: /k\n"), {"/k": bytes(4097)})
    assert config.knet.key == bytes(4096)
    assert warning == "x:4: only the first 4096 bytes of /k are the key, as in Corosync"


@pytest.mark.parametrize(
    ("inside", "settings"),
    [
        ("knet_ping_interval: 100", {"ping_interval": 0.1, "ping_timeout": 1.5}),
        ("knet_ping_timeout: 100", {"ping_interval": 0.75, "ping_timeout": 0.1}),
        ("knet_ping_timeout: 0\nknet_ping_interval: 0", {"ping_interval": 0.75, "ping_timeout": 1.5}),
        ("knet_pong_count: 0", {"pong_count": 2, "ping_timeout": 1.5}),
        ("knet_pong_count: 4", {"pong_count": 4, "ping_timeout": 0.75, "ping_interval": 0.375}),
        ("knet_ping_precision: 0", {"precision": 2048}),
        ("knet_link_priority: 0", {"priority": 1}),
        ("mcastport: 0", {"port": 5405}),
        ("ttl: 1\nringnumber: 3", {}),
    ],
)
def test_a_link_has_corosyncs_defaults_and_zero_asks_for_them(inside, settings):
    (link,) = of(conf(interfaces=[inside])).links
    assert {name: getattr(link, name) for name in settings} == settings


def test_several_sections_of_a_link_are_merged():
    nodes = [one(1, (0, 1)), one(2, (0, 1))]
    links = of(
        conf(interfaces=["linknumber: 1\nmcastport: 9", "knet_pong_count: 5", "linknumber: 1"], nodes=nodes)
    ).links
    assert [(link.number, link.port, link.pong_count) for link in links] == [(0, 5405, 5), (1, 9, 2)]


def test_zeros_ask_for_defaults():
    words = "knet_mtu: 0\nknet_pmtud_interval: 0\nknet_compression_threshold: 0\nknet_compression_level: 0\nnetmtu: 0\n"
    assert of(conf(words)) == of(conf())


def test_links_may_begin_above_zero():
    """As after `pcs cluster link remove 0`."""
    config, warnings = read(conf(nodes=[one(1, (1, 3)), one(2, (3, 1))]))
    assert warnings == ()
    node = config.node(2)
    assert (node.address, node.port, node.further) == ("10.0.1.2", 5406, ((1, "10.0.1.2"), (3, "10.0.3.2")))
    assert config.addresses_of(node) == node.further
    assert [config.place_on(node, link) for link in config.link_numbers] == [
        ("10.0.1.2", 5406),
        ("10.0.3.2", 5408),
    ]


def test_the_token_timeout_of_the_file_makes_the_intervals():
    link = of(conf("token: 1000\n", nodes=[one(1), one(2), one(3)])).links[0]
    assert (milliseconds(link.ping_interval), milliseconds(link.ping_timeout)) == (412, 825)


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (conf("secauth: yes\n"), "x:2: totem.secauth: 'yes' is read as off, as in Corosync"),
        (conf("knet_mtuu: 3\n"), "x:2: totem.knet_mtuu is not known here and has no effect (did you mean knet_mtu?)"),
        (conf("knet_compression_model: none\n"), "x:2: totem.knet_compression_model: Corosync refuses 'none'"),
        (conf(interfaces=["mcastaddr: 239.1.1.1"]), "x:3: totem.interface.mcastaddr has no effect with transport knet"),
        (conf(interfaces=["bindnetaddr: 10.0.0.0"]), "x:3: totem.interface.bindnetaddr has no effect here"),
        (conf("# " + "é" * 300 + "\n"), "x:2: Corosync refuses this line, which has more than 510 bytes"),
        (
            conf(nodes=[one(1, (0, 1), ring1_addr="10.0.0.1"), one(2, (0, 1))]),
            "x:8: nodelist.node.ring1_addr: 10.0.0.1 is the address on link 0, too: links need their own",
        ),
    ],
)
def test_warned(text, warning):
    (told,) = read(text).warnings
    assert told.startswith(warning)


def test_no_part_of_a_key_is_in_a_warning():
    config, (warning,) = read(conf(f"{SEALED}key: {'k' * 130} #kk\n"))
    assert warning.startswith("x:4: totem.key has '#…' in its value")
    assert "kk" not in repr(config)


def test_what_is_wrong_in_any_combination_is_refused_and_not_more():
    """Lines are added, doubled and lost; each outcome is a configuration or an error for people."""
    dice = random.Random(1)
    words = [
        *KNET_TOTEM,
        *KNET_INTERFACE,
        "linknumber",
        "nodeid",
        "name",
        "secauth",
        "transport",
        f"ring{'9' * 5000}_addr",
    ]
    words += [f"ring{link}_addr" for link in range(9)]
    values = [
        "",
        "0",
        "1",
        "-1",
        "65536",
        "9" * 5000,
        "yes",
        "none",
        "on",
        "zlib",
        "lzma",
        "aes256",
        "10.0.0.1",
        "::1",
        "/k",
    ]
    for _ in range(5000):
        lines = dice.choice([OF_PCS, DEBIAN, conf(SEALED)]).splitlines()
        for _ in range(dice.randint(1, 4)):
            place = dice.randrange(len(lines))
            match dice.randrange(4):
                case 0:
                    del lines[place]
                case 1:
                    lines.insert(place, dice.choice([*lines, "interface {", "node {", "}"]))
                case _:
                    lines.insert(place, f"{dice.choice(words)}: {dice.choice(values)}")
        with suppress(ConfigError):
            parse("\n".join(lines), "x", resolve=lambda host, _: host, read_key=lambda _: dice.choice([KEY, b""]))


@pytest.mark.parametrize(
    ("text", "start", "words"),
    [
        (conf("crypto_cipher: aes256\n"), "x:2: crypto_hash: none", "a hash, because crypto_cipher is aes256"),
        (conf("secauth: on\ncrypto_hash: none\n"), "x:3: crypto_hash: none", "a hash"),
        (conf("crypto_cipher: 3des\n"), "x:2: totem.crypto_cipher: '3des'", "none, aes128, aes192, aes256"),
        (conf("crypto_cipher: aes-256-ctr\n"), "x:2: totem.crypto_cipher: 'aes-256-ctr'", "one of none"),
        (conf("crypto_hash: sha2\n"), "x:2: totem.crypto_hash: 'sha2'", "sha256"),
        (conf("crypto_model: wolf\n"), "x:2: totem.crypto_model: 'wolf'", "nss, openssl, gcrypt"),
        (conf(f"{SEALED}keyfile: key\n"), "x:4: totem.keyfile: 'key'", "from / on"),
        (conf(f"{SEALED}keyfile:\nkey: {'k' * 200}\n"), "x:4: totem.keyfile: ''", "from / on"),
        (conf(f"{SEALED}key: {'k' * 126}\n"), "x:4: key: a key of 127 bytes (totem.key)", "128 to 4096 bytes"),
        (conf(f"{SEALED}key: {'k' * 200}\ufffd\n"), "x:4: totem.key: it must be text in UTF-8", "keyfile"),
        (conf("link_mode: ring\n"), "x:2: totem.link_mode: 'ring'", "passive, active, rr"),
        (conf("knet_mtu: 70000\n"), "x:2: knet_mtu: 70000", "576 to 65535"),
        (conf("knet_mtu: 100\n"), "x:2: knet_mtu: 100", "576 to 65535"),
        (conf("knet_pmtud_interval: 86401\n"), "x:2: knet_pmtud_interval: 86401", "1 to 86400"),
        (conf("netmtu: 65537\n"), "x:2: netmtu: 65537", "576 to 65536"),
        *(
            (conf(f"knet_compression_model: {model}\n"), f"x:2: totem.knet_compression_model: '{model}'", "zlib at all")
            for model in ("lz4", "lz4hc", "lzo2", "zstd")
        ),
        (conf("knet_compression_model: gzip\n"), "x:2: totem.knet_compression_model: 'gzip'", "zlib, bzip2, lzma"),
        (conf("knet_compression_level: x\n"), "x:2: totem.knet_compression_level: 'x'", "-2147483648"),
        (
            conf("knet_compression_level: 10\nknet_compression_model: bzip2\n"),
            "x:2: knet_compression_level: 10",
            "0 to 9",
        ),
        (
            conf("knet_compression_level: 7\nknet_compression_model: lzma\n"),
            "x:2: knet_compression_level: 7",
            "0 to 6",
        ),
        (conf("knet_compression_threshold: -1\n"), "x:2: totem.knet_compression_threshold: '-1'", "a number"),
        (conf(interfaces=["knet_transport: sctp"]), "x:3: totem.interface.knet_transport: 'sctp'", "not supported"),
        (conf(interfaces=["", "linknumber: 8"]), "x:5: interface of link 8", "no node has a ring8_addr"),
        (conf(interfaces=["linknumber: 1"]), "x:2: interface of link 1", "no node has a ring1_addr"),
        (conf(interfaces=["knet_pong_count: 256"]), "x:3: knet_pong_count of link 0: 256", "1 to 255"),
        (conf(interfaces=["knet_link_priority: 256"]), "x:3: totem.interface.knet_link_priority: '256'", "255"),
        (conf(interfaces=["mcastport: 65536"]), "x:3: mcastport: 65536", "65535"),
        (
            conf(
                interfaces=["linknumber: 1\nmcastport: 65536", "mcastport: 5500"],
                nodes=[one(1, (0, 1)), one(2, (0, 1))],
            ),
            "x:4: mcastport of link 1: 65536",
            "65535",
        ),
        (conf(interfaces=["ttl: 2"]), "x:3: ttl: 2", "left out"),
        (conf(interfaces=["broadcast: yes"]), "x:3: totem.interface.broadcast", "leave it out"),
        (conf(nodes=[one(1, (0, 8)), one(2, (0, 8))]), "x:8: nodelist.node.ring8_addr", "0 to 7"),
        (conf(nodes=[one(1, (0, 1)), one(2)]), "x:10: a node needs a ring1_addr", "because other nodes have one"),
        (conf(nodes=[one(1), one(2, (0, 1))]), "x:4: a node needs a ring1_addr", "because other nodes have one"),
        (conf(nodes=[one(1, ()), one(2, ())]), "x:4: a node needs a ring0_addr", ""),
        (conf(nodes=[one(1, (0, 1)), one(2, (0, 1), name=None)]), "x:10: with several links each node needs", "name"),
        (
            conf(nodes=[one(1), one(None, ring0_addr="10.0.0.2")]),
            "x:9: with knet each node needs a nodeid",
            "1 to 65535",
        ),
        (conf(nodes=[one(1), one(0)]), "x:10: with knet each node needs a nodeid", "1 to 65535"),
        (conf(nodes=[one(1), one(65536, ring0_addr="10.0.0.2")]), "x:10: nodeid of node 65536", "1 to 65535"),
        (conf(nodes=[one(1), one(2, ring0_addr="fd00::2")]), "x:12: ring0_addr of node 2: fd00::2", "IPv4"),
        (
            conf(nodes=[one(1, (0, 1)), one(2, (0, 1), ring1_addr="fd00::2")]),
            "x:14: ring1_addr of node 2: fd00::2",
            "an IPv4 address, like the first node's",
        ),
        (
            conf(nodes=[one(1, (0, 1)), one(2, (0, 1), ring1_addr="10.0.1.1")]),
            "x:14: ring1_addr of node 2: 10.0.1.1 port 5406",
            "link 1 of n1 has it too",
        ),
        (
            conf(nodes=[one(1, (0, 1)), one(2, (0, 1), ring1_addr="224.0.0.1")]),
            "x:14: ring1_addr of node 2: 224.0.0.1",
            "one machine",
        ),
    ],
)
def test_refused(text, start, words):
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert str(caught.value).startswith(start)
    assert words in str(caught.value)


def test_a_key_file_that_cannot_be_used_is_refused_at_its_line(tmp_path):
    with pytest.raises(ConfigError, match=rf"^x:4: the key file {tmp_path} is a folder"):
        parse(conf(f"{SEALED}keyfile: {tmp_path}\n"), "x")
    with pytest.raises(ConfigError, match=rf"^x:2: the key file {tmp_path}/none is missing"):
        parse(conf(f"keyfile: {tmp_path}/none\ncrypto_hash: md5\n"), "x")
    short = tmp_path / "short"
    short.write_bytes(b"")
    short.chmod(0o400)
    with pytest.raises(ConfigError, match=rf"^x:3: key: a key of 0 bytes \({short}\) is wrong"):
        parse(conf(f"crypto_hash: md5\nkeyfile: {short}\n"), "x")


LOCAL = [one(node, (0, 1), ring0_addr=f"127.0.0.{node}", ring1_addr=f"127.0.1.{node}") for node in (1, 2)]

ONE_LINK = [one(node, ring0_addr=f"127.0.0.{node}") for node in (1, 2)]


@pytest.mark.corosync
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("corosync") is None, reason="needs root and Corosync")
@pytest.mark.parametrize(
    ("text", "good"),
    [
        (conf(f"{SEALED}keyfile: KEY\n", nodes=LOCAL), True),
        (conf(f"{SEALED}key: {'k' * 127}\n", nodes=LOCAL), True),
        (conf(f"{SEALED}key: {'k' * 126}\n", nodes=LOCAL), False),
        (conf(f"{SEALED}keyfile: /missing\n", nodes=LOCAL), False),
        (conf(f"{SEALED}keyfile:\nkey: {'k' * 200}\n", nodes=LOCAL), False),
        (conf("crypto_cipher: aes256\nkeyfile: KEY\n", nodes=LOCAL), False),
        (conf("secauth: on\ncrypto_hash: none\nkeyfile: KEY\n", nodes=LOCAL), False),
        (conf("secauth: on\ncrypto_cipher: none\nkeyfile: KEY\n", nodes=LOCAL), True),
        (conf("secauth: yes\n", nodes=LOCAL), True),
        (conf(interfaces=["knet_pong_count: 0\nknet_ping_precision: 0\nmcastport: 0"], nodes=LOCAL), True),
        (conf(interfaces=["knet_ping_timeout: 300"], nodes=LOCAL), True),
        (conf(interfaces=["mcastport: 5500", "linknumber: 1", "knet_link_priority: 3"], nodes=LOCAL), True),
        (conf(interfaces=["linknumber: 2\nmcastport: 5500"], nodes=LOCAL), False),
        (conf(interfaces=["ttl: 2"], nodes=LOCAL), False),
        (conf("link_mode: ring\n", nodes=LOCAL), False),
        (conf("link_mode: rr\nknet_compression_model: lzma\nknet_compression_level: 3\n", nodes=LOCAL), True),
        (conf(nodes=[LOCAL[0], one(2, ring0_addr="127.0.0.2")]), False),
        (conf(nodes=[LOCAL[0], LOCAL[1].replace("127.0.1.2", "::1")]), False),
        (conf(nodes=[LOCAL[0], LOCAL[1].replace("nodeid: 2\n", "")]), False),
        (conf(nodes=[LOCAL[0], LOCAL[1].replace("name: n2\n", "")]), False),
        (conf(nodes=[lines.replace("ring1", "ring5") for lines in LOCAL]), True),
        (conf(nodes=[lines.replace("ring1", "ring8") for lines in LOCAL]), False),
        (conf("transport: udpu\n", nodes=LOCAL), False),
        (conf("transport: udpu\nlink_mode: rr\nknet_mtu: 9\nkeyfile: /none\n", nodes=ONE_LINK), True),
        (conf("transport: udpu\nlink_mode: ring\n", nodes=ONE_LINK), False),
        (conf("transport: udpu\nsecauth: on\nkeyfile: KEY\n", nodes=ONE_LINK), False),
        (conf("transport: udpu\n", interfaces=["knet_link_priority: 0"], nodes=ONE_LINK), True),
        (conf("transport: udpu\n", interfaces=["knet_link_priority: 2"], nodes=ONE_LINK), False),
        (conf("cluster_uuid: abc\n# " + "x" * 509 + "\n", nodes=LOCAL), False),
    ],
)
def test_corosync_takes_and_refuses_the_same(tmp_path, text, good):
    key, path = tmp_path / "key", tmp_path / "corosync.conf"
    key.write_bytes(KEY)
    key.chmod(0o400)
    text = text.replace("totem {\n", "totem {\nversion: 2\n", 1).replace("keyfile: KEY", f"keyfile: {key}")
    path.write_text(text + "logging {\nto_syslog: no\n}\n")
    done = subprocess.run(["corosync", "-t", "-c", path], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode == 0) is good, done
    try:
        ours = not any("Corosync refuses" in warning for warning in parse(text, "x").warnings)
    except ConfigError:
        ours = False
    assert ours is good
