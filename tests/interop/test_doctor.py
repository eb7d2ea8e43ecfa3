"""`cpg doctor` where something is wrong with the network or a file, and that it harms no ring."""

import json
import random
import subprocess
import sys

import pytest
import trio

SEALED = ("aes256", "sha256")


@pytest.fixture
def ring_of(mixed_ring):
    """Rings of three, whose nodes 2 and 3 run; the doctor is at node 1."""

    def make(transport, **settings):
        return mixed_ring(3, transport=transport, **settings)

    return make


async def examine(ring, k=1, *more):
    """Return exit code and findings of the doctor at place K, by subject."""
    command = (sys.executable, "-m", "cpg", "doctor", "--json", "-c", ring.config[k], "--node", k, *more)
    with trio.fail_after(60):
        done = await trio.run_process(
            ring.place(k).command(*command), capture_stdout=True, stderr=subprocess.STDOUT, check=False
        )
    findings = [json.loads(line) for line in done.stdout.decode().splitlines()]
    return done.returncode, {finding["subject"]: finding for finding in findings}


def problems(findings):
    return {subject: finding["text"] for subject, finding in findings.items() if finding["outcome"] == "problem"}


def warnings(findings):
    """The warnings that are about the network."""
    return {
        subject: finding["text"]
        for subject, finding in findings.items()
        if finding["outcome"] == "warning" and "link" in subject
    }


async def doctor_beside(ring, real):
    """Run the doctor at node 1 beside nodes 2 and 3, which are to remain as they are; return what it says."""
    async with trio.open_nursery() as nursery:
        if real:
            await ring.start_corosync(2, 3)
            await ring.wait_ring(2, 3)
            before = [ring.rings_at(k) for k in (2, 3)]
        else:
            for k in (2, 3):
                await ring.start_daemon(nursery, k)
        said = await examine(ring)
        if real:
            assert [ring.rings_at(k) for k in (2, 3)] == before, "the doctor has changed the ring"
        nursery.cancel_scope.cancel()
    return said


@pytest.mark.parametrize("real", [True, False], ids=["real", "ours"])
@pytest.mark.parametrize(
    ("transport", "secrets"),
    [
        ("knet", SEALED),
        pytest.param("knet", None, marks=pytest.mark.long),
        ("udpu", None),
        pytest.param("udp", None, marks=pytest.mark.long),
    ],
)
async def test_healthy(ring_of, transport, secrets, real):
    ring = ring_of(transport, secrets=secrets)
    code, findings = await doctor_beside(ring, real)
    assert (code, problems(findings), warnings(findings)) == (0, {}, {})
    if transport == "knet":
        assert "packets of 1500 bytes get there" in findings["node 3 on link 0"]["text"]
    else:
        heard = {findings[f"node {k}"]["outcome"] for k in (2, 3)}
        assert "ok" in heard


async def test_the_key_differs(ring_of):
    ring = ring_of("knet", secrets=SEALED)
    key_file = ring.config[1].parent / "authkey"
    key_file.write_bytes(random.randbytes(256))
    code, findings = await doctor_beside(ring, real=True)
    found = problems(findings)
    assert (code, found.keys()) == (1, {"node 2 on link 0", "node 3 on link 0"})
    assert "does not open with what is configured here" in found["node 2 on link 0"]


async def test_the_port_is_closed_there(ring_of):
    ring = ring_of("knet", secrets=SEALED)
    ring.network.drop(2)
    code, findings = await doctor_beside(ring, real=False)
    assert code == 1
    assert "its packets come, but it does not answer" in problems(findings)["node 2 on link 0"]


@pytest.mark.long
async def test_the_port_is_closed_here(ring_of):
    ring = ring_of("knet")
    ring.network.drop(1)
    code, findings = await doctor_beside(ring, real=False)
    assert code == 1
    assert "chain in of table inet f drops UDP port 5405" in problems(findings)["firewall here, from node 2"]


@pytest.mark.long
@pytest.mark.parametrize("secrets", [SEALED, None], ids=["sealed", "clear"])
async def test_a_switch_carries_less_over_knet(ring_of, secrets):
    """Only a warning, because knet cuts packets."""
    ring = ring_of("knet", secrets=secrets)
    ring.network.narrow(2, 1300)
    code, findings = await doctor_beside(ring, real=False)
    assert (code, warnings(findings).keys()) == (0, {"node 2 on link 0"})
    assert "only packets of 13" in warnings(findings)["node 2 on link 0"]


@pytest.mark.long
async def test_a_switch_carries_less_over_udpu(ring_of):
    ring = ring_of("udpu")
    ring.network.narrow(2, 1300)
    code, findings = await doctor_beside(ring, real=False)
    assert code == 1
    assert "those of 1280 bytes do" in problems(findings)["way to node 2 on link 0"]


@pytest.mark.parametrize("transport", ["knet", "udpu"])
async def test_the_address_is_missing(ring_of, transport):
    ring = ring_of(transport)
    ring.place(1).run("ip", "address", "flush", "dev", "eth0")
    code, findings = await examine(ring)
    assert code == 1
    assert "this machine has no address 10.77.0.1" in problems(findings)["address on link 0"]


@pytest.mark.long
async def test_no_node_runs_there(ring_of):
    code, findings = await examine(ring_of("knet"))
    assert code == 1
    assert "no node runs there" in problems(findings)["node 2 on link 0"]


@pytest.mark.long
async def test_two_doctors_answer_each_other(ring_of):
    """So a newcomer can test the network before the first node starts."""
    ring = ring_of("knet", secrets=SEALED)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(examine, ring, 2, "--stay", "50")
        with trio.fail_after(40):
            while True:
                _, findings = await examine(ring)
                if findings["node 2 on link 0"]["outcome"] == "ok":
                    break
        nursery.cancel_scope.cancel()


async def test_a_node_that_runs_is_asked(ring_of):
    ring = ring_of("knet", secrets=SEALED)
    async with trio.open_nursery() as nursery:
        for k in (1, 2):
            await ring.start_daemon(nursery, k)
        with trio.fail_after(60):
            while True:
                code, findings = await examine(ring, 1, "--socket", ring.socket(1))
                if findings["node 2"]["outcome"] == "ok":
                    break
        assert code == 1
        assert problems(findings).keys() == {"node 3", "node 3 on link 0"}
        nursery.cancel_scope.cancel()
