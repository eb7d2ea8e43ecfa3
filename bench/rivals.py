"""Other lock services, as `bench.locks` measures them: their servers on loopback, and their clients.

etcd        Three servers. Clients use the lock service of its v3 API (`v3lockpb.Lock`) over gRPC: what they say is a
            few fields, written here by hand, since no client for Python that is kept up has that service. Each client
            has a lease of its own, from when it opens on, as a session of etcd's own clients; a lock is one call, a
            release another one. Clients are tasks on `grpc.aio`, with a connection for each process; threads are
            slower.
Redis       One server, without a disk. Clients use redis-py's `Lock` with hiredis; each has a connection. They are
            threads. A waiter asks again and again: each 0.1 s unless told otherwise. Here it is told 1 ms, which
            is kind to the hand-over and costs a system with many waiters dear.
ZooKeeper   Three servers. Clients use kazoo's `Lock`, each lock made once for each client (a second use saves a round
            trip). They are threads, and share a session in each process: with one session each they are slower.

Servers keep their data in a folder that they are given, and sync it to the disk as they are made to: etcd and ZooKeeper
do for each lock, Redis does not. None is in real time, our daemons beside them neither. They are killed when the block
ends, and when this process does.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager, nullcontext
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from tests.interop.network import DIE_WITH_US

LEASE = 60
"""Seconds; longer than any run, so that nobody spends time on renewing."""
PATIENCE = 60
NODES = 3


class Client(ABC):
    """One of a system's clients: all is done by one task, or one thread."""

    @abstractmethod
    async def open(self) -> None:
        """Connect. All clients of a process are opened one after the other in one task, and closed there in turn."""

    @abstractmethod
    async def acquire(self, name: str) -> Any:
        """Wait for a lock; return what to release it with."""

    @abstractmethod
    async def release(self, held: Any) -> None:
        """Give it back."""

    @abstractmethod
    async def close(self) -> None:
        """Disconnect."""


class System(ABC):
    """A lock service."""

    name: ClassVar[str]
    packages: ClassVar[Sequence[str]] = ()
    """Of Python."""
    programs: ClassVar[Sequence[str]] = ()
    install: ClassVar[str] = ""
    """How it comes, on Debian."""
    are_threads: ClassVar[bool] = True
    """A thread for each client, which may block it; else all clients of a process are tasks of one loop."""
    loop: ClassVar[str] = "asyncio"
    """Or trio."""
    processes: ClassVar[int] = 2
    """For many clients."""
    least_processes: ClassVar[int] = 1
    """For any number of clients: those that have none only take part (`joined`)."""

    @classmethod
    def missing(cls) -> str:
        """What is needed and not there; empty if nothing is missing."""
        missing = [package for package in cls.packages if find_spec(package) is None]
        return ", ".join(missing + [program for program in cls.programs if not shutil.which(program)])

    @staticmethod
    @abstractmethod
    def servers(folder: Path) -> Any:
        """A block in which servers run; gives the address for clients."""

    @classmethod
    def joined(cls, address: Any) -> AbstractAsyncContextManager[Any]:
        """A block in which a process takes part; what it gives is handed to `client` instead of the address."""
        return nullcontext(address)

    @staticmethod
    @abstractmethod
    def client(address: Any) -> Client:
        """Make a client."""


# ---- servers


def free_ports(count: int) -> list[int]:
    """Find TCP ports of 127.0.0.1 that nobody uses."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextmanager
def running(commands: Sequence[Sequence[object]], places: Sequence[int | Path], folder: Path) -> Iterator[None]:
    """Run servers until the block ends; it begins when all take connections, at TCP ports or sockets of their own."""
    with ExitStack() as stack:
        started = []
        for number, command in enumerate(commands):
            log = stack.enter_context((folder / f"log{number}").open("wb"))
            process = subprocess.Popen(
                [*DIE_WITH_US, *map(str, command)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder
            )
            stack.callback(_kill, process)
            started.append(process)
        for process, place in zip(started, places, strict=True):
            _wait(process, place, folder)
        yield


def _wait(process: subprocess.Popen[bytes], place: int | Path, folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if isinstance(place, Path):
                place.stat()
            else:
                socket.create_connection(("127.0.0.1", place)).close()
            return
        except OSError:
            time.sleep(0.05)
    logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted(folder.glob("log*")))
    raise OSError(f"{process.args} does not serve:\n{logs}")


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


# ---- etcd


class Etcd(System):
    name = "etcd"
    packages = ("grpc",)
    programs = ("etcd",)
    install = "apt-get install etcd-server; pip install grpcio"
    are_threads = False

    @staticmethod
    @contextmanager
    def servers(folder: Path) -> Iterator[str]:
        ports = free_ports(2 * NODES)
        clients, peers = ([f"http://127.0.0.1:{port}" for port in part] for part in (ports[:NODES], ports[NODES:]))
        cluster = ",".join(f"n{number}={peer}" for number, peer in enumerate(peers))
        commands = [
            (
                *("etcd", "--name", f"n{number}", "--data-dir", folder / f"n{number}", "--logger", "zap"),
                *("--listen-client-urls", clients[number], "--advertise-client-urls", clients[number]),
                *("--listen-peer-urls", peers[number], "--initial-advertise-peer-urls", peers[number]),
                *("--initial-cluster", cluster, "--initial-cluster-state", "new", "--log-level", "error"),
            )
            for number in range(NODES)
        ]
        with running(commands, ports[:NODES], folder):
            yield f"127.0.0.1:{ports[0]}"

    @staticmethod
    def client(address: str) -> Client:
        return EtcdClient(address)


class EtcdClient(Client):
    def __init__(self, address: str) -> None:
        self._address = address

    async def open(self) -> None:
        calls = _channel(self._address).unary_unary
        self._lock = calls("/v3lockpb.Lock/Lock")
        self._unlock = calls("/v3lockpb.Lock/Unlock")
        grant = calls("/etcdserverpb.Lease/LeaseGrant")
        self._lease = _field(2, _read(await grant(_field(1, LEASE), timeout=PATIENCE, wait_for_ready=True), 2))

    async def acquire(self, name: str) -> bytes:
        return _read(await self._lock(_field(1, name.encode()) + self._lease), 2)

    async def release(self, held: bytes) -> None:
        await self._unlock(_field(1, held))

    async def close(self) -> None:
        """The process ends, and the connection of all its clients with it."""


@cache
def _channel(address: str) -> Any:
    import grpc.aio  # noqa: PLC0415  # may be missing

    return grpc.aio.insecure_channel(address)


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def _field(number: int, value: int | bytes) -> bytes:
    """Write a field of a protobuf message."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _read(message: bytes, wanted: int) -> Any:
    """Read a field of a protobuf message."""
    place = 0

    def varint() -> int:
        nonlocal place
        number, shift = 0, 0
        while True:
            byte = message[place]
            place += 1
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return number

    while place < len(message):
        key = varint()
        value: int | bytes = varint()
        if key & 7 == 2:
            size, place = int(value), place + int(value)
            value = message[place - size : place]
        if key >> 3 == wanted:
            return value
    raise ValueError(f"no field {wanted} in {message!r}")


# ---- Redis


class Redis(System):
    name = "Redis"
    packages = ("redis", "hiredis")
    programs = ("redis-server",)
    install = "apt-get install redis-server; pip install redis hiredis"

    @staticmethod
    @contextmanager
    def servers(folder: Path) -> Iterator[int]:
        (port,) = free_ports(1)
        command = ("redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no")
        with running([command], [port], folder):
            yield port

    @staticmethod
    def client(address: int) -> Client:
        return RedisClient(address)


class RedisClient(Client):
    POLL = 0.001
    """Seconds between two questions of a waiter."""

    def __init__(self, port: int) -> None:
        import redis  # noqa: PLC0415  # may be missing

        self._redis = redis.Redis(port=port, single_connection_client=True)

    async def open(self) -> None:
        self._redis.ping()

    async def acquire(self, name: str) -> Any:
        lock = self._redis.lock(name, timeout=LEASE, sleep=self.POLL, thread_local=False)
        lock.acquire()
        return lock

    async def release(self, held: Any) -> None:
        held.release()

    async def close(self) -> None:
        self._redis.close()


# ---- ZooKeeper

JAR = Path("/usr/share/java/zookeeper.jar")
"""As Debian has it; it names all others."""
ZOO_CFG = """\
tickTime=2000
initLimit=10
syncLimit=5
maxClientCnxns=0
admin.enableServer=false
4lw.commands.whitelist=ruok,srvr
clientPortAddress=127.0.0.1
"""


class ZooKeeper(System):
    name = "ZooKeeper"
    packages = ("kazoo",)
    programs = ("java",)
    install = "apt-get install zookeeper; pip install kazoo"

    @classmethod
    def missing(cls) -> str:
        return super().missing() or ("" if JAR.exists() else str(JAR))

    @staticmethod
    @contextmanager
    def servers(folder: Path) -> Iterator[str]:
        ports = free_ports(3 * NODES)
        clients, quorum, election = ports[:NODES], ports[NODES : 2 * NODES], ports[2 * NODES :]
        members = "".join(f"server.{k + 1}=127.0.0.1:{quorum[k]}:{election[k]}\n" for k in range(NODES))
        commands = []
        for k, port in enumerate(clients):
            data = folder / f"n{k + 1}"
            data.mkdir()
            (data / "myid").write_text(f"{k + 1}\n", encoding="ascii")
            config = folder / f"zoo{k + 1}.cfg"
            config.write_text(f"{ZOO_CFG}dataDir={data}\nclientPort={port}\n{members}", encoding="ascii")
            main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
            commands.append(("java", "-Xmx512m", "-Dzookeeper.jmx.log4j.disable=true", "-cp", JAR, main, config))
        with running(commands, clients, folder):
            for port in clients:
                _wait_for_quorum(port)
            yield ",".join(f"127.0.0.1:{port}" for port in clients)

    @staticmethod
    def client(address: str) -> Client:
        return ZooKeeperClient(address)


def _wait_for_quorum(port: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with socket.create_connection(("127.0.0.1", port)) as asking:
            asking.sendall(b"srvr")
            if b"Mode:" in asking.makefile("rb").read():
                return
        time.sleep(0.05)
    raise OSError(f"the server at {port} is in no quorum")


class ZooKeeperClient(Client):
    def __init__(self, address: str) -> None:
        self._session = _session(address)
        self._locks: dict[str, Any] = {}

    async def open(self) -> None:
        if not self._session.connected:
            self._session.start(timeout=PATIENCE)

    async def acquire(self, name: str) -> Any:
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = self._session.Lock(f"/locks/{name}")
        lock.acquire()
        return lock

    async def release(self, held: Any) -> None:
        held.release()

    async def close(self) -> None:
        self._session.stop()


@cache
def _session(address: str) -> Any:
    from kazoo.client import KazooClient  # noqa: PLC0415  # may be missing

    return KazooClient(address, timeout=LEASE)


RIVALS: Sequence[type[System]] = (Etcd, Redis, ZooKeeper)
