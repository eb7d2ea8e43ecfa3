"""The store that checks fencing tokens: it refuses what is late, and sees what was lost."""

from contextlib import closing

import trio

from tests.cluck.daemon.token_store import Access, Store


def test_who_is_late_is_refused():
    store = Store()
    assert store.read(1) == 0
    assert store.write(1, 1)
    assert store.read(2) == 1
    assert not store.write(1, 2)
    assert store.read(1) is None
    assert store.write(2, 2)
    assert (store.value, store.refused, store.lost, store.writes) == (2, 2, [], [1, 2])


def test_a_lost_update_is_seen():
    store = Store()
    assert store.read(1) == store.read(1) == 0
    assert store.write(1, 1)
    assert store.write(1, 1)
    assert store.lost == [1]


async def test_processes_reach_it(nursery, tmp_path):
    store = Store()
    await nursery.start(store.serve, tmp_path / "store")

    def use():
        with closing(Access(tmp_path / "store")) as access:
            return access.read(5), access.write(5, 1), access.write(4, 2), access.read(3)

    assert await trio.to_thread.run_sync(use) == (0, True, False, None)
    assert store.value == 1
    nursery.cancel_scope.cancel()
