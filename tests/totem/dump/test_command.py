"""The command `totem dump` as people and programs use it: options, exit codes, pipes, signals."""

import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from cpg.node.dump import LAYER
from cpg.node.wire import Mcast
from tests.totem.dump.writing import ethernet, ipv4, pcap, timed, udp
from totem.cli import main
from totem.cli.arguments import parser
from totem.configuration import RingId
from totem.wire import codec, messages

CAPTURES = Path(__file__).parents[1] / "wire" / "captures"
JOINS = str(CAPTURES / "02-second-and-third-join.pcap.gz")
GROUPS = str(CAPTURES / "04-leave-kill-return.pcap.gz")
LOSSES = str(CAPTURES / "06-loss-retransmit.pcap.gz")
TOTEM = [sys.executable, "-m", "totem"]
PATIENCE = 40
UDP_SEGMENT = 103


def dump(capsys, *arguments, code=0):
    assert main(["dump", *arguments]) == code
    printed = capsys.readouterr()
    return printed.out.splitlines(), printed.err


def as_json(capsys, *arguments):
    lines, _ = dump(capsys, *arguments, "--json")
    return [json.loads(line) for line in lines]


def test_types_of_packets(capsys):
    lines, errors = dump(capsys, JOINS, "--type", "join,commit_token")
    heads = [line for line in lines if not line.startswith(" ")]
    assert {re.search(r":5405  (\w+( token)?)", line)[1] for line in heads} == {"join", "commit token"}
    assert errors == ""


def test_types_of_messages_show_these_alone(capsys):
    found = as_json(capsys, GROUPS, "--type", "cpg.joinlist,sync")
    names = {message["name"] for line in found for message in line["messages"]}
    assert names == {"cpg.joinlist", "sync.barrier", "sync.service_build"}
    assert {line["type"] for line in found} == {"mcast"}


def test_nodes(capsys):
    found = as_json(capsys, GROUPS, "--node", "3,2", "--type", "join,cpg")
    assert {line["node"] for line in found} == {2, 3}


def test_groups(capsys):
    found = as_json(capsys, str(CAPTURES / "03-cpg-traffic.pcap.gz"), "--group", "other")
    assert found
    assert {message["group"] for line in found for message in line["messages"]} == {"other"}


def test_idle_tokens_are_one_line(capsys):
    collapsed, _ = dump(capsys, JOINS)
    each, _ = dump(capsys, JOINS, "--tokens")
    none, _ = dump(capsys, JOINS, "--no-tokens")
    assert sum("… 117 more tokens" in line for line in collapsed) == 1
    assert not any("…" in line for line in each)
    assert not any("  token " in line for line in none)
    assert len(none) < len(collapsed) < len(each)
    shown = [line for line in as_json(capsys, JOINS) if line["type"] == "token"]
    assert len(shown) == sum("  token " in line for line in each)


def test_copies(capsys):
    few, many = as_json(capsys, GROUPS), as_json(capsys, GROUPS, "--copies")
    assert not any(line.get("copy") == "copy" for line in few)
    assert sum(line.get("copy") == "copy" for line in many) == len(many) - len(few) > 0


def test_retransmissions_alone(capsys):
    found = as_json(capsys, LOSSES, "--type", "retransmission")
    assert {line["copy"] for line in found} == {"retransmission"}
    assert len(found) == 13


def test_summary_for_people_and_programs(capsys):
    lines, _ = dump(capsys, LOSSES, "--summary")
    assert "13 mcasts sent again" in lines
    (summary,) = as_json(capsys, LOSSES, "--summary")
    found = summary["summary"]
    assert found["sent"]["token"] == {"1": 211, "2": 211, "3": 211}
    assert found["messages"]["cpg.mcast"] == {"1": 151, "2": 151, "3": 151}
    (ring,) = found["rings"]
    assert (ring["requests"], ring["retransmissions"]) == (13, 13)
    assert ring["rotations_per_second"] == pytest.approx(57.7, abs=0.1)
    assert found["faults"] == found["troubles"] == {}


def test_ports(capsys, tmp_path):
    token = codec.encode(messages.Token(1, RingId(1, 13)))
    path = tmp_path / "x.pcap"
    sent = [(token, (9, 7777)), (b"not a ring's", (9, 7777)), (token, (9, 9)), (b"nor this is one", (5405, 9))]
    path.write_bytes(pcap(timed([ethernet(ipv4(udp(payload, ports))) for payload, ports in sent])))

    def kinds(*arguments):
        return [line["type"] for line in as_json(capsys, str(path), *arguments)]

    assert kinds() == ["token", "token", "foreign"]
    assert kinds("--port", "7777") == ["token", "foreign"]
    assert kinds("--type", "malformed") == ["foreign"]
    lines, _ = dump(capsys, str(path), "--summary")
    assert "1 malformed: sealed or not knet" in lines


def test_hex_shows_all_bytes(capsys):
    lines, _ = dump(capsys, JOINS, "--type", "merge_detect", "--hex")
    assert lines[1].startswith("    0000  70c0 0302 0001 0000 ")
    (first, *_) = as_json(capsys, JOINS, "--type", "merge_detect", "--hex")
    assert first["hex"].startswith("70c00302")


def test_a_damaged_file_is_shown_up_to_there(capsys, tmp_path):
    token = codec.encode(messages.Token(1, RingId(1, 13)))
    path = tmp_path / "x.pcap"
    path.write_bytes(pcap(timed([ethernet(ipv4(udp(token)))] * 2))[:-1])
    lines, errors = dump(capsys, str(path), code=1)
    assert len(lines) == 1
    assert errors == f"totem: {path}: ends in the middle of a packet, at byte {path.stat().st_size}\n"


def test_cut_and_lost_packets_are_reported(capsys, tmp_path):
    token = ethernet(ipv4(udp(codec.encode(messages.Token(1, RingId(1, 13))))))
    part = ethernet(ipv4(udp(bytes(104)), more=True))
    path = tmp_path / "x.pcap"
    path.write_bytes(pcap(timed([token[:-1], part]), lengths=[len(token), len(part)]))
    lines, errors = dump(capsys, str(path))
    assert "[cut by the capture: 56 of 57 bytes]" in lines[0]
    assert errors == "totem: 1 datagrams whose fragments did not all come\n"


def test_files_that_are_none(capsys, tmp_path):
    assert dump(capsys, str(tmp_path / "none"), code=1)[1] == f"totem: {tmp_path}/none: No such file or directory\n"
    assert "Is a directory" in dump(capsys, str(tmp_path), code=1)[1]
    assert "neither pcap nor pcapng" in dump(capsys, __file__, code=1)[1]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "FILE"),
        (["x", "--live"], "not allowed with"),
        (["x", "--type", "tokens"], "'tokens' is none of: "),
        (["x", "--node", "0"], "0 is not a whole number between 1 and"),
        (["x", "--port", "a"], "a is not a whole number between 1 and 65535"),
        (["x", "--tokens", "--no-tokens"], "not allowed with"),
    ],
)
def test_wrong_usage(capsys, arguments, text):
    with pytest.raises(SystemExit) as ended:
        main(["dump", *arguments])
    assert ended.value.code == 2
    assert text in capsys.readouterr().err


def test_help_names_every_type_of_message(capsys):
    with pytest.raises(SystemExit):
        parser([LAYER]).parse_args(["dump", "--help"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in LAYER.names)
    assert max(map(len, printed.splitlines())) <= 100


def test_standard_input_and_colours():
    with open(JOINS, "rb") as file:
        piped = subprocess.run([*TOTEM, "dump", "-"], stdin=file, capture_output=True, check=True, text=True)
    direct = subprocess.run([*TOTEM, "dump", JOINS], capture_output=True, check=True, text=True)
    assert piped.stdout == direct.stdout
    assert "\x1b" not in direct.stdout


def test_colours_where_a_terminal_is():
    reader, writer = os.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"}
    subprocess.run(
        [*TOTEM, "dump", JOINS, "--type", "commit_token", "--node", "3"], check=True, stdout=writer, env=environment
    )
    os.close(writer)
    assert os.read(reader, 5) == b"\x1b[33m"
    os.close(reader)


def test_a_full_disk():
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*TOTEM, "dump", JOINS], check=False, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "totem: standard output: No space left on device\n")


def test_a_reader_that_has_seen_enough():
    done = subprocess.run(
        ["sh", "-c", '"$@" | head -n 1', "sh", *TOTEM, "dump", JOINS, "--tokens"],
        capture_output=True,
        check=True,
        text=True,
    )
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_without_the_layers_above_messages_are_bytes(capsys, monkeypatch):
    monkeypatch.setattr("totem.cli.entry_point.installed_layers", list)
    lines, _ = dump(capsys, JOINS, "--type", "message")
    assert "    message  for 'sync': 552 bytes" in lines


# ---- live


def may_listen():
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0).close()
    except OSError:
        return False
    return True


needs_raw = pytest.mark.skipif(not may_listen(), reason="listening to packets takes CAP_NET_RAW")


class Live:
    """A `totem dump --live`, and a socket on the loopback to send to."""

    def __init__(self, *interface):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.place = self.socket.getsockname()
        self.process = subprocess.Popen(
            [*TOTEM, "dump", "--live", *interface, "--json", "--port", str(self.place[1])],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.rest = b""

    def line(self, timeout):
        """Return the next line, if one comes in this time."""
        while b"\n" not in self.rest:
            if not select.select([self.process.stdout], [], [], timeout)[0]:
                return None
            self.rest += os.read(self.process.stdout.fileno(), 65536) or b"{}\n"
        line, self.rest = self.rest.split(b"\n", 1)
        return json.loads(line)

    def listens(self):
        """Wait until what is sent is seen."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            self.socket.sendto(codec.encode(messages.HoldCancel(9, RingId(9, 9))), self.place)
            if self.line(0.1):
                while self.line(0.5):
                    pass
                return
        raise AssertionError("nothing was seen")

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        self.socket.close()
        self.process.kill()
        self.process.communicate()


@needs_raw
@pytest.mark.parametrize("interface", [[], ["lo"]])
def test_live(interface):
    frames = [
        codec.encode(messages.Mcast(1, 1, seq, RingId(1, 13), data=codec.frame([len(said)], 0, 0) + said))
        for seq, said in enumerate([Mcast(b"chat", 7, b"hello").encode(1), Mcast(b"chat", 7, b"there").encode(1)], 1)
    ]
    with Live(*interface) as live:
        live.listens()
        segment = [(socket.SOL_UDP, UDP_SEGMENT, struct.pack("H", len(frames[0])))]
        live.socket.sendmsg(frames, segment, 0, live.place)
        first, second = live.line(PATIENCE), live.line(PATIENCE)
        assert [line["messages"][0]["text"] for line in (first, second)] == [
            '"chat" pid 7: 5 bytes "hello"',
            '"chat" pid 7: 5 bytes "there"',
        ]
        assert [first["train"], second["train"]] == [[0, 2], [1, 2]]
        assert first["source"] == "{}:{}".format(*live.place)
        assert abs(first["time"] - time.time()) < 3600
        live.process.send_signal(signal.SIGINT)
        assert live.line(PATIENCE)["summary"]["sent"]["mcast"] == {"1": 2}
        assert live.process.wait(PATIENCE) == 0
        assert live.process.stderr.read() == b""


@needs_raw
def test_live_at_an_interface_that_is_none(capsys):
    assert "interface nowhere0: No such device" in dump(capsys, "--live", "nowhere0", code=1)[1]


def test_live_without_the_capability(capsys, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr("totem.dump.live.socket.socket", refuse)
    assert "needs the capability CAP_NET_RAW" in dump(capsys, "--live", code=1)[1]


def test_times_are_in_order():
    done = subprocess.run([*TOTEM, "dump", LOSSES, "--json"], capture_output=True, check=True)
    times = [json.loads(line)["time"] for line in done.stdout.splitlines()]
    assert all(one <= other for one, other in pairwise(times))


# ---- knet and its keys

KNET = CAPTURES / "knet"
SEALED = str(KNET / "02-aes256-sha256.pcap.gz")
KEY_A, KEY_B = (str(KNET / f"knet-test-{key}.key") for key in "AB")
CONF = """\
totem {
  version: 2
  transport: knet
  crypto_cipher: aes256
  crypto_hash: sha256
  keyfile: %s
  interface {
    linknumber: 0
    mcastport: 5405
  }
}
nodelist {
  node {
    nodeid: 1
    ring0_addr: 10.77.0.1
  }
  node {
    nodeid: 2
    ring0_addr: 10.77.0.2
  }
}
"""


def sent(capsys, *arguments):
    (summary,) = as_json(capsys, *arguments, "--summary")
    return summary["summary"]["sent"]


def test_a_key_opens_what_is_sealed(capsys, tmp_path):
    conf, key = tmp_path / "corosync.conf", tmp_path / "authkey"
    key.write_bytes(Path(KEY_A).read_bytes())
    key.chmod(0o400)
    conf.write_text(CONF % key)
    with_key = sent(capsys, SEALED, "--key", KEY_A)
    assert with_key["ping"] == {"1": 21, "2": 15}
    assert "foreign" not in with_key
    assert sent(capsys, SEALED, "-c", str(conf)) == with_key
    assert sent(capsys, SEALED, "--key", KEY_A, "--cipher", "aes256", "--hash", "sha256") == with_key


def test_a_capture_of_a_key_change_takes_both_keys(capsys):
    path = str(KNET / "07-key-change.pcap.gz")
    ways = ["--key", KEY_A, "--key", KEY_B, "--cipher", "aes256", "--cipher", "aes128"]
    both = sent(capsys, path, *ways, "--hash", "sha256", "--hash", "sha512")
    first = sent(capsys, path, "--key", KEY_A)
    second = sent(capsys, path, "--key", KEY_B, "--cipher", "aes128", "--hash", "sha512")
    assert "foreign" not in both
    for sender, count in both["token"].items():
        assert count == first["token"].get(sender, 0) + second["token"].get(sender, 0)
    assert "give it once, or as often" in dump(capsys, path, *ways, "--cipher", "none", code=1)[1]


@pytest.mark.parametrize(
    "wrong", [["--key", KEY_B], ["--key", KEY_A, "--hash", "md5"], ["--key", KEY_A, "--cipher", "none"]]
)
def test_a_wrong_key_is_reported_once_with_what_to_do(capsys, wrong):
    lines, errors = dump(capsys, SEALED, *wrong)
    assert errors.count("no datagram opens with this key") == 1
    assert "sha256sum" in errors
    assert "crypto_cipher" in errors
    assert "does not open with the key" in lines[0]


def test_without_a_key_the_summary_says_what_opens(capsys):
    lines, _ = dump(capsys, SEALED, "--summary")
    assert lines[-1] == "sealed or not knet: -c corosync.conf or --key opens what a ring over knet encrypts"


def test_a_conf_names_the_ports(capsys, tmp_path):
    conf = tmp_path / "corosync.conf"
    clear = CONF.replace("aes256", "none").replace("sha256", "none")
    conf.write_text((clear % KEY_A).replace("mcastport: 5405", "mcastport: 7777"))
    path = tmp_path / "x.pcap"
    path.write_bytes(pcap(timed([ethernet(ipv4(udp(b"sealed", (port, port)))) for port in (5405, 7777)])))
    assert [line["destination"] for line in as_json(capsys, str(path), "-c", str(conf))] == ["10.77.0.2:7777"]


def test_links_and_kinds_of_knet(capsys):
    found = as_json(capsys, str(KNET / "05-zlib.pcap.gz"), "--link", "0", "--type", "probe,mcast")
    assert {line["type"] for line in found} == {"probe", "mcast"}
    assert {line["knet"].get("compression") for line in found} == {"zlib", None}
    assert as_json(capsys, str(KNET / "05-zlib.pcap.gz"), "--link", "1") == []


def test_keys_and_confs_that_are_none(capsys, tmp_path):
    short = tmp_path / "key"
    short.write_bytes(bytes(127))
    for arguments, text in (
        (["--key", str(short)], "key has 127 bytes, a key has 128 to 4096"),
        (["--key", str(tmp_path / "none")], "none: No such file or directory"),
        (["--key", KEY_A, "-c", "x"], "not allowed with"),
        (["--key", KEY_A, "--hash", "none"], "invalid choice"),
    ):
        with pytest.raises(SystemExit):
            main(["dump", SEALED, *arguments])
        assert text in capsys.readouterr().err
    assert "go with --key" in dump(capsys, SEALED, "--hash", "md5", code=1)[1]
    assert "No such file or directory" in dump(capsys, SEALED, "-c", str(tmp_path / "none"), code=1)[1]
