"""Rings of real Corosync nodes and ours over knet: links, secrets, sizes, and nodes that are configured differently.

Who comes, goes and is lost is in `test_knet_membership`.
"""

import re

import pytest
import trio

from tests.interop.test_membership import CHATTER, QUICK, cast, long, said
from tests.interop.test_trials import logged, rewrite
from totem.config import IP_UDP_HEADERS, Knet

SEALED = ("aes256", "sha256")
SECRETS = pytest.mark.parametrize("secrets", [SEALED, long(None)], ids=["sealed", "clear"])
CALM = {"token": 4000, "totem": ("token_coefficient: 0",)}
PINGS = "knet_ping_interval: 200\n        knet_ping_timeout: 400"
"""A silent link is down before the token of `CALM` is lost, and that in its first seconds too."""
UNSEALED = r"Digest does not match|Unable to decrypt packet|\(decrypt\) failed"
"""What real nodes say to packets that are not sealed as theirs."""
NARROW = "possible MTU misconfiguration detected|This can be caused by this node interface MTU too big"
"""What they say where packets of their own machine's size do not pass."""


def interface(link, settings):
    """A section for one link."""
    return f"    interface {{\n        linknumber: {link}\n        {settings}\n    }}\n"


@pytest.fixture
def knet_ring(mixed_ring):
    """Rings over knet."""

    def make(count, **settings):
        return mixed_ring(count, transport="knet", **settings)

    return make


async def linked(ring):
    """Wait until all real nodes have all links to all other nodes."""
    wanted = (len(ring.network.places) - 1) * len(ring.network.links)
    with trio.fail_after(60):
        for k in ring.corosyncs:
            while ring.place(k).run("corosync-cfgtool", "-s").count("\tconnected") < wanted:
                await trio.sleep(0.2)


def mtus(ring, k):
    """The largest packets that the real node sends over each link, by node and link."""
    found = ring.cmap(k, "stats.knet.node", "stats")
    return {
        (int(match[1]), int(match[2])): int(value)
        for key, value in found.items()
        if (match := re.fullmatch(r"stats\.knet\.node(\d+)\.link(\d+)\.mtu", key)) and int(match[1]) != k
    }


@SECRETS
@pytest.mark.parametrize("real", [(2, 3), long((1, 3)), long((2,))], ids=str)
async def test_messages_of_all_sizes(knet_ring, secrets, real):
    """From one byte to 16 MiB, in packets of up to 64 KiB, which is the default over knet."""
    ring = knet_ring(3, secrets=secrets)
    ours = ({1, 2, 3} - set(real)).pop()
    async with cast(ring, real) as programs:
        await programs.start(1, 2, 3)
        await programs.together(1, 2, 3)
        before = ring.rings_at(real[0])
        sizes = [0, 1, 2, *range(1300, 1480, 12), 70_000, *range(65_400, 65_450, 7), 1_047_552, 1_047_553, 3_000_000]
        await programs.say(f"send {' '.join(map(str, sizes))}")
        await programs.together(1, 2, 3)
        await programs.say(f"send {16 << 20}", ours, real[0])
        await programs.together(1, 2, 3)
        assert ring.rings_at(real[0]) == before, "the ring changed, though nothing had happened to it"
        await programs.check_health(1, 2, 3)


@pytest.mark.parametrize(
    ("cipher", "hash_name"),
    [
        long("aes128", "md5"),
        long("aes192", "sha1"),
        long("aes256", "sha384"),
        long("aes128", "sha512"),
        ("none", "sha256"),
        *(long("none", name) for name in ("md5", "sha1", "sha384", "sha512")),
    ],
)
async def test_every_cipher_and_hash(knet_ring, cipher, hash_name):
    ring = knet_ring(2, secrets=(cipher, hash_name))
    async with cast(ring, (2,)) as programs:
        await programs.start(1, 2)
        await programs.together(1, 2)
        await programs.say("send 1 1000 1400 100000")
        await programs.together(1, 2)
        await programs.check_health(1, 2)


@pytest.mark.long
async def test_a_key_in_the_file_and_links_above_zero(knet_ring):
    """The file is the same at both; a real node without ring0_addr finds itself by its name, so this is an address."""
    ring = knet_ring(2, secrets=SEALED, links=2)
    for k in ring.network.places:
        rewrite(ring, k, f"keyfile: {ring.config[k].parent / 'authkey'}", f"key: {'a secret of many characters' * 8}")
        for other in ring.network.places:
            rewrite(ring, k, f"name: node{other}", f"name: {ring.network.address(other)}")
        rewrite(ring, k, "ring0_addr", "ring3_addr")
        rewrite(ring, k, "ring1_addr", "ring6_addr")
    async with cast(ring, (1,)) as programs:
        await programs.start(1, 2)
        await programs.together(1, 2)
        await programs.say("send 1 1000 1400 100000")
        await programs.together(1, 2)
        status = ring.place(1).run("corosync-cfgtool", "-s")
        assert re.findall(r"LINK ID (\d)", status) == ["3", "6"]
        assert status.count("\tconnected") == 2
        await programs.check_health(1, 2)


@pytest.mark.parametrize("secrets", [None, long(SEALED)], ids=["clear", "sealed"])
async def test_ipv6(knet_ring, secrets):
    ring = knet_ring(3, secrets=secrets, ipv6=True, **QUICK)
    async with cast(ring, (1, 3)) as programs:
        await programs.start(1, 2, 3)
        await programs.together(1, 2, 3)
        await programs.say("send 1 1000 1400 100000")
        await programs.kill(2)
        await programs.together(1, 3)
        await programs.start(2)
        await programs.together(1, 2, 3)
        await programs.check_health(1, 2, 3)


@pytest.mark.parametrize(
    ("model", "places"),
    [
        ("zlib", (1, 2, 3)),
        long("zlib", (2,)),
        long("zlib", (1, 3)),
        long("bzip2", (1, 2, 3)),
        long("lzma", (1, 2, 3)),
    ],
    ids=str,
)
async def test_compression(knet_ring, model, places):
    """Whoever compresses, all understand it."""
    ring = knet_ring(3, secrets=SEALED)
    for k in places:
        rewrite(
            ring, k, "version: 2", f"version: 2\n    knet_compression_model: {model}\n    knet_compression_level: 6"
        )
    async with cast(ring, (1, 3)) as programs:
        await programs.start(1, 2, 3)
        await programs.together(1, 2, 3)
        await programs.say("send 1 1000 1400 100000 1000000")
        await programs.together(1, 2, 3)
        counted = {k: ring.cmap(k, "stats.knet.handle.", "stats") for k in (1, 3)}
        for k in (1, 3):
            # What they get from others that compress, in joins and tokens too.
            assert (int(counted[k]["stats.knet.handle.rx_compressed_packets"]) > 0) == bool(set(places) - {k})
        await programs.check_health(1, 2, 3)


# ---- links


@pytest.mark.parametrize(
    ("kind", "victim", "ways"),
    [
        (("passive", SEALED), 2, {}),
        long(("passive", None), 1, {}),
        long(("passive", None), 2, {"hears": True}),
        long(("passive", SEALED), 2, {"is_heard": True}),
        long(("passive", SEALED), 1, {"hears": True}),
        long(("passive", None), 1, {"is_heard": True}),
        long(("active", SEALED), 2, {}),
        long(("active", None), 1, {"hears": True}),
        long(("rr", SEALED), 2, {}),
        long(("rr", None), 1, {"hears": True}),
    ],
)
async def test_one_of_two_links_is_cut_and_healed(knet_ring, capfd, kind, victim, ways):
    """No membership changes, nothing is lost; both sides say which link is down."""
    settings = CALM | {"totem": (*CALM["totem"], *(interface(link, PINGS) for link in (0, 1)))}
    link_mode, secrets = kind
    ring = knet_ring(3, links=2, link_mode=link_mode, secrets=secrets, **settings)
    witness = 3
    async with cast(ring, (1, 3)) as programs:
        await programs.start(1, 2, 3)
        await programs.together(1, 2, 3)
        await linked(ring)
        before = ring.rings_at(1), ring.rings_at(3), programs.rings_at(2)
        await programs.say(CHATTER)
        await programs.heard(400)
        ring.network.cut(victim, 0, **ways)
        await logged(ring, witness, rf"link: host: {victim} link: 0 is down")
        await said(capfd, r"node 2: link 0 to node 1 is down, after")
        await programs.heard(400)
        ring.network.heal()
        await linked(ring)
        await programs.heard(400)
        ring.network.cut(victim, 1, **ways)  # so that all needs link 0
        await logged(ring, witness, rf"link: host: {victim} link: 1 is down")
        await programs.heard(400)
        ring.network.heal()
        await linked(ring)
        await programs.quiet()
        await programs.together(1, 2, 3)
        assert (ring.rings_at(1), ring.rings_at(3), programs.rings_at(2)) == before, "the ring changed"
        await programs.check_health(1, 2, 3)


@pytest.mark.long
@pytest.mark.parametrize("links", [3, 8])
async def test_many_links_fail_one_after_the_other(knet_ring, capfd, links):
    settings = CALM | {"totem": (*CALM["totem"], *(interface(link, PINGS) for link in range(links)))}
    ring = knet_ring(2, links=links, secrets=SEALED, **settings)
    async with cast(ring, (1,)) as programs:
        await programs.start(1, 2)
        await programs.together(1, 2)
        await linked(ring)
        await programs.say(CHATTER)
        before = ring.rings_at(1)
        for link in range(links - 1):
            await programs.heard(100)
            ring.network.cut(2, link)
            await logged(ring, 1, rf"link: host: 2 link: {link} is down")
            await said(capfd, rf"node 2: link {link} to node 1 is down")
        await programs.heard(200)
        await programs.quiet()
        await programs.together(1, 2)
        assert ring.rings_at(1) == before, "the ring changed"
        ring.network.heal()
        await linked(ring)
        await programs.check_health(1, 2)


@pytest.mark.long
async def test_a_link_is_cut_with_the_usual_timeouts(knet_ring):
    """Beyond its first ten seconds, in which libknet takes longer than the token to call it dead."""
    ring = knet_ring(3, links=2, **QUICK)
    async with cast(ring, (1, 3)) as programs:
        await programs.start(1, 2, 3)
        await programs.together(1, 2, 3)
        await linked(ring)
        before = ring.rings_at(1)
        await programs.say(CHATTER)
        await trio.sleep(12)
        for link in (0, 1):
            ring.network.cut(2, link)
            await logged(ring, 1, f"link: host: 2 link: {link} is down")
            await programs.heard(200)
            ring.network.heal()
            await linked(ring)
            await trio.sleep(12)
        await programs.quiet()
        await programs.together(1, 2, 3)
        assert ring.rings_at(1) == before, "the ring changed"
        await programs.check_health(1, 2, 3)


@pytest.mark.long
@pytest.mark.parametrize("real", [(1, 2), (2,)], ids=str)
async def test_one_port_carries_less(knet_ring, real):
    """All packets are cut to what it carries, and the MTU that real nodes find to ours is right.

    Ours is behind that port. A real node there (libknet 1.25) sends probes without end and answers nothing meanwhile,
    so that not even a ring of real nodes comes together.
    """
    ring = knet_ring(3, token=4000, totem=(interface(0, PINGS),))
    ring.network.one_by_one()
    ring.network.narrow(3, 1300)
    async with cast(ring, real) as programs:
        await programs.start(1, 2, 3)
        await programs.together(1, 2, 3)
        await programs.say("send 1001 1281 1401 100001 1000001")
        await programs.together(1, 2, 3)
        before = ring.rings_at(real[0])
        with trio.fail_after(60):
            for k in real:
                while set(mtus(ring, k).values()) != {_user_data(1300), _user_data(1500)}:
                    await trio.sleep(0.2)
        await programs.say("send 1 1000 1280 1400 100000 1000000")
        await programs.together(1, 2, 3)
        assert ring.rings_at(real[0]) == before, "the ring changed"
        await programs.check_health(1, 2, 3, besides=NARROW)


def _user_data(mtu):
    """What real nodes call the MTU of a link: the data of totem in a packet, in clear."""
    return Knet().user_data_room(mtu - IP_UDP_HEADERS[4])


@pytest.mark.long
async def test_a_port_carries_less_from_now_on(knet_ring):
    """Found by the next search, here after two seconds; whatever rings come of it, all is well afterwards."""
    ring = knet_ring(3, token=1000, totem=("token_coefficient: 0", "knet_pmtud_interval: 2"))
    ring.network.one_by_one()
    async with cast(ring, (1, 3)) as programs:
        await programs.start(1, 2, 3)
        await programs.together(1, 2, 3)
        await programs.say("chatter 50 100 4000")
        await programs.heard(100)
        ring.network.narrow(2, 1300)
        await trio.sleep(10)
        await programs.together(1, 2, 3)
        await programs.heard(100)
        await programs.quiet()
        await programs.together(1, 2, 3)
        await programs.check_health(1, 2, 3, besides=f"FAILED TO RECEIVE|{NARROW}")


# ---- restarts


@pytest.mark.parametrize("victim", [2, long(1)])
@pytest.mark.parametrize("refusals", [long(True), False], ids=["refused", "silent"])
async def test_a_node_is_back_before_its_link_is_missed(knet_ring, victim, refusals):
    """Its numbers begin again, which its first pings tell; where no refusals get through, nothing else does.

    Not before it has told a number: libknet (1.25) overlooks a 0 that follows a 0.
    """
    pings = interface(0, "knet_ping_interval: 800\n        knet_ping_timeout: 6000\n        knet_pong_count: 1")
    ring = knet_ring(3, secrets=SEALED, token=1000, totem=("token_coefficient: 0", pings))
    others = [k for k in (1, 2, 3) if k != victim]
    async with cast(ring, (1, 3)) as programs:
        await programs.start(1, 2, 3)
        await programs.together(1, 2, 3)
        await programs.say("chatter 200 100 400")
        await trio.sleep(2)
        if not refusals:
            chain = "add table inet f; add chain inet f out { type filter hook output priority 0; }"
            ring.place(victim).run("nft", f"{chain}; add rule inet f out icmp type destination-unreachable drop")
        await programs.kill(victim)
        await programs.start(victim)
        await programs.together(1, 2, 3)
        await programs.say("chatter 200 100 400", victim)
        await programs.heard(300)
        await programs.quiet()
        await programs.together(1, 2, 3)
        if not refusals:
            for k in set(others) & {1, 3}:
                assert not [line for line in ring.log(k) if re.search(rf"link: host: {victim} link: 0 is down", line)]
        await programs.check_health(1, 2, 3)


# ---- nodes that are configured differently


@pytest.mark.parametrize(
    ("stranger", "how"),
    [(2, "key"), (3, "clear"), long(2, "clear"), long(3, "key"), long(2, "cipher"), long(3, "hash")],
)
async def test_a_node_is_sealed_otherwise(knet_ring, capfd, stranger, how):
    """Both sides name it; the others go on. With the right files it belongs to them.

    Node 1 is real, node 2 ours, node 3 real again. In clear a real node says nothing of what is sealed.
    """
    ring = knet_ring(3, secrets=SEALED, **QUICK)
    rest = tuple(k for k in (1, 2, 3) if k != stranger)
    key, whole = ring.config[stranger].parent / "authkey", ring.config[stranger].read_text()
    right = key.read_bytes()
    match how:
        case "key":
            key.write_bytes(bytes(256))
        case "clear":
            rewrite(ring, stranger, "crypto_cipher: aes256", "crypto_cipher: none")
            rewrite(ring, stranger, "crypto_hash: sha256", "crypto_hash: none")
        case "cipher":
            rewrite(ring, stranger, "crypto_cipher: aes256", "crypto_cipher: aes128")
        case "hash":
            rewrite(ring, stranger, "crypto_hash: sha256", "crypto_hash: sha1")
    async with cast(ring, (1, 3)) as programs:
        await programs.start(*rest)
        await programs.together(*rest)
        before = ring.rings_at(1)
        await programs.say(CHATTER)
        await programs.start(stranger)
        if how != "cipher":  # which the hash does not tell: what it decrypts to is no packet
            await logged(ring, 1, UNSEALED)
        unsealed = r"do not open with .*crypto_cipher aes256.* compare the key files"
        clear = r"are not packets of knet.* here crypto_cipher is none"
        if stranger == 2:
            others = {"clear": clear, "cipher": f"({clear}|do not open)"}.get(how, unsealed)
            await said(capfd, rf"datagrams from 10\.77\.0\.[13] {others}")
        else:
            await said(capfd, rf"datagrams from 10\.77\.0\.3 {unsealed}")
        await programs.heard(200, *rest)
        await programs.programs[stranger].until(lambda events: any(event["event"] == "confchg" for event in events))
        assert ring.rings_at(1) == before, "a node that is not let in has disturbed the ring"
        await programs.kill(stranger)
        key.write_bytes(right)
        ring.config[stranger].write_text(whole)
        await programs.start(stranger)
        await programs.together(1, 2, 3)
        await programs.quiet(*rest)
        await programs.together(1, 2, 3)
        await programs.check_health(1, 2, 3, besides=UNSEALED)
