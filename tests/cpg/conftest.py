from contextlib import asynccontextmanager

import pytest
import trio

import cpg
from cpg.daemon.hub import Hub
from cpg.daemon.server import ServedRing, serve
from cpg.daemon.status import LibqbState, replies
from cpg.embedded import prepare_ring
from cpg.local.access import Access
from cpg.local.server_socket import listening
from tests.cpg.processes import write_config


class Daemon:
    """A daemon in the test's own process, on real sockets."""

    def __init__(self, config, node, path):
        self.config = config
        self.path = path
        self.node = node
        self.access = Access()

    @asynccontextmanager
    async def running(self):
        with listening(self.path) as listener:
            self.ring = prepare_ring(ServedRing, self.config, node=self.node)
            self.hub = Hub(self.ring, access=self.access)
            self.hub.replies = replies(self.ring, self.hub, self.access, LibqbState())
            async with serve(listener, self.ring, self.hub):
                yield self

    def connect(self):
        """Return a client in this process, which ends with the daemon."""
        return cpg.connect(self.path, reconnect=False)


@pytest.fixture
def config(tmp_path):
    return write_config(tmp_path, 3)


@pytest.fixture
def make_daemon(tmp_path, config):
    return lambda node=1: Daemon(config, node, tmp_path / f"socket{node}")


@pytest.fixture
async def daemon(make_daemon):
    with trio.fail_after(40):
        async with make_daemon().running() as daemon:
            yield daemon
