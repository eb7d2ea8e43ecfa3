"""Simulated clients record what they were told as it may have been, and no more than that."""

from cluck.testing.actors import Actor, Forced
from cluck.testing.checkers import Run, Waited, check
from cluck.testing.linearizability import Outcome, What
from tests.cluck.server.orders import started


class Clients:
    """One simulated client at each server of an order, and its records."""

    def __init__(self, order):
        self.order = order
        self.run = Run()
        forced = Forced()
        self.actors = {node: Actor(node, self.run, forced, lambda: order.now) for node in order.servers}
        self.cuts = dict.fromkeys(order.servers, 0)
        for node, actor in self.actors.items():
            actor.connect(order[node].service, lambda node=node: self.cuts[node])

    def __getitem__(self, node):
        return self.actors[node]

    def hear(self):
        """Deliver everything, to all clients, too."""
        for _ in range(3):
            self.order.settle()
            for actor in self.actors.values():
                actor.hear()

    def pass_time(self, seconds):
        for _ in range(round(seconds / 0.5)):
            self.order.pass_time(0.5)
            self.hear()

    def outcomes(self, what):
        for actor in self.actors.values():
            actor.write()
        return {(one.who[0], one.outcome) for one in self.run.operations if one.what is what}


def test_a_lock_that_was_granted_unheard_and_asked_for_again_makes_a_lock_busy_for_others():
    """The servers that stay know of the grant, and not that it was never reported; then they forget the client."""
    order = started()
    clients = Clients(order)
    clients.hear()
    clients[3].ask(0, b"lock", duration=2.0)
    clients[3].hear()
    order.ring([1, 2], [3], tails=[(order.said(3), [1, 2])])
    clients.cuts[3] += 1
    clients.hear()
    order.now += 0.1
    clients[1].ask(0, b"lock", waits=False)
    clients.hear()
    clients.pass_time(5)
    order.now += 0.1
    clients[2].ask(0, b"lock", duration=2.0)
    clients.hear()
    clients.pass_time(5)
    order.ring([1, 2, 3])
    clients.hear()
    clients.pass_time(5)
    assert clients.outcomes(What.ACQUIRE) == {
        (1, Outcome.BUSY),
        (2, Outcome.OK),
        (3, Outcome.UNKNOWN),
        (3, Outcome.OK),
    }
    clients.run.operations.sort(key=lambda operation: operation.invoked)
    assert not check(clients.run)


class Dice:
    """They always come out alike."""

    choice = staticmethod(lambda choices: choices[0])
    random = staticmethod(lambda: 0.5)
    randrange = staticmethod(lambda stop: 0)


def test_a_notification_of_who_has_given_up_is_passed_on():
    """Client 1 gives up its wait, but is notified before; so its session notifies another waiter, client 2."""
    order = started()
    clients = Clients(order)
    clients.hear()
    for node in (1, 2):
        clients[node].ask(0, b"one", duration=20.0)
        clients.hear()
        clients[node]._wait(Dice)
        clients.hear()
    clients[3]._notify(Dice)
    clients[3].hear()
    notified = order.said(3)
    clients[1]._give_up(Dice)
    clients[1].hear()
    order.deliver(notified, [1, 2, 3])
    clients.hear()
    clients.pass_time(1)
    for actor in clients.actors.values():
        actor.write()
    assert [wait.outcome for wait in clients.run.waits if wait.who == (2, 0)] == [Waited.WOKEN]
    assert not check(clients.run)
