"""A client's side without I/O, with a server that says what the test has it say."""

import pytest

from cluck.client.requests import Follower, Leader, RoleCursor
from cluck.client.session import Session
from cluck.commands import (
    MOST_UNSETTLED,
    Acquire,
    ClientId,
    Ended,
    EndWait,
    Leadership,
    Notified,
    Notify,
    Owner,
    Published,
    Queued,
    Refused,
    Release,
    Renew,
    RequestId,
    Resign,
    Revoked,
    Standing,
    Wait,
    Waiting,
    Why,
    Withdraw,
    Woken,
)
from cluck.errors import (
    ConnectionLost,
    DaemonUnavailable,
    DeadlockError,
    KindMismatch,
    LeadershipLost,
    LockLost,
    LockTimeout,
    NotReady,
    OutcomeUnknown,
    Overflow,
    WrongLock,
)
from cluck.protocol import (
    MOST_OBSERVED,
    MOST_QUESTIONS,
    VERSION,
    Answer,
    Ask,
    Bye,
    Clock,
    Failed,
    Farewell,
    Goodbye,
    Hello,
    Ignore,
    Leads,
    LockHeld,
    Observe,
    Ping,
    Pong,
    ReadClock,
    Readiness,
    Renounced,
    Welcome,
)
from cpg.replication.identities import ServerId

ME, OTHER = ClientId(ServerId(1, 5), 7), ClientId(ServerId(1, 6), 1)
AHEAD = 1000.0
"""What the server's clock is ahead of the client's."""


class World:
    """A session, its time, and what it does."""

    def __init__(self):
        self.now = 100.0
        self.changes = 0
        self.warnings = []
        self.session = Session(lambda: self.now, self.change, self.warnings.append)
        self.connect()

    def change(self):
        self.changes += 1

    def connect(self, client=ME, was_resumed=False, late=0.0):
        self.session.greet("test")
        (hello,) = self.session.take()
        self.now += late
        self.hear(Welcome(VERSION, client, b"secret", self.now + AHEAD, was_resumed), Readiness(True, ""))
        return hello

    def lose(self):
        return self.session.lose(ConnectionLost("it broke"))

    def hear(self, *said):
        self.session.receive(said)

    def said(self):
        return self.session.take()

    def acquire(self, name=b"lock", task=1, **how):
        return self.session.locks.acquire(task, name, self.change, **how)

    def hold(self, name=b"lock", token=11, *, left=None, **how):
        ticket = self.acquire(name, **how)
        self.tell_held(ticket, token, left=left)
        self.said()
        return ticket

    def tell_held(self, ticket, token=11, *, left=None):
        left = ticket.lease if left is None else left
        self.hear(LockHeld(ticket.id, token, self.now + AHEAD + left))

    def wait(self, held, condition=b"filled", *, reacquires=True):
        return self.session.locks.wait(1, held, condition, self.change, reacquires=reacquires)

    def lead(self, token=21, **how):
        candidacy = self.session.elections.stand(1, b"election", self.change, **how)
        self.hear(Standing(candidacy.id))
        self.tell_leads(candidacy, token)
        self.said()
        return candidacy

    def tell_leads(self, candidacy, token=21, *, left=None):
        left = candidacy.command.lease if left is None else left
        self.hear(Leads(candidacy.id, token, self.now + AHEAD + left))


@pytest.fixture
def world():
    return World()


def request(number, task=1, client=ME):
    return RequestId(Owner(client, task), number)


def pass_time(world, seconds):
    end = world.now + seconds
    while world.session.deadline <= end:
        world.now = max(world.now, world.session.deadline)
        world.session.advance()
    world.now = end


WAITS = "waits, since the lock servers are not ready: node 3 is missing; see cluck status"


def test_a_long_wait_for_a_decision_is_logged_once_and_so_is_its_end(world):
    world.hear(Readiness(False, "node 3 is missing"))
    world.acquire(b"backup")
    pass_time(world, 0.5)
    assert world.warnings == []
    pass_time(world, 60)
    assert world.warnings == [f"lock 'backup' {WAITS}"]
    world.hear(Readiness(True, ""))
    assert world.warnings[1:] == ["the lock servers are ready again"]
    world.hear(Readiness(True, ""))
    pass_time(world, 60)
    assert len(world.warnings) == 2


def test_a_candidate_that_waits_for_a_decision_is_logged_too(world):
    candidacy = world.session.elections.stand(1, b"boss", world.change)
    world.hear(Standing(candidacy.id), Readiness(False, "node 3 is missing"))
    pass_time(world, 3)
    assert world.warnings == [f"election 'boss' {WAITS}"]


def test_a_program_that_waits_for_readiness_alone_is_logged_too(world):
    world.hear(Readiness(False, "node 3 is missing"))
    with world.session.standstill.awaiting():
        pass_time(world, 60)
        assert world.warnings == [f"this program {WAITS}"]
    world.hear(Readiness(True, ""), Readiness(False, "node 3 is missing"))
    pass_time(world, 60)
    assert world.warnings[1:] == ["the lock servers are ready again"]


def test_a_session_without_waiting_requests_logs_nothing(world):
    world.hold(b"held")
    world.hear(Readiness(False, "node 3 is missing"))
    pass_time(world, 2.5)
    ended = world.acquire(b"given up")
    world.session.locks.give_up(ended)
    pass_time(world, 2)
    world.hear(Readiness(True, ""))
    assert world.warnings == []


def test_a_wait_without_a_connection_is_not_logged_as_one_for_a_decision(world):
    world.acquire(b"backup")
    world.hear(Readiness(False, "node 3 is missing"))
    world.lose()
    pass_time(world, 60)
    assert world.warnings == []


# ---- requests


def test_requests_are_numbered_and_say_whose_they_are(world):
    world.acquire(task=3)
    world.session.locks.notify(4, b"filled", world.change, everyone=True, priority=False)
    assert world.said() == [
        Acquire(request(1, 3), b"lock", settled=0),
        Notify(request(2, 4), b"filled", everyone=True, settled=0),
    ]


def test_what_is_answered_for_good_or_known_is_settled(world):
    one, two = world.acquire(b"one"), world.acquire(b"two")
    assert world.acquire(b"three").command.settled == 0
    world.hear(Queued(one.id, 1))
    assert world.acquire(b"four").command.settled == 1
    world.hear(Refused(two.id, Why.BUSY))
    assert world.acquire(b"five").command.settled == 2


def test_a_lock_that_is_held_for_long_settles_all_the_same(world):
    """Otherwise who holds one could ask for a thousand things, and then for no more."""
    world.hold(b"long")
    for number in range(2 * MOST_UNSETTLED):
        ticket = world.acquire(b"short")
        assert ticket.command.settled == ticket.id.number - 1 == number + 1
        world.hear(Refused(ticket.id, Why.BUSY))


def test_no_more_are_open_than_may_be(world):
    for _ in range(MOST_UNSETTLED):
        world.acquire()
    with pytest.raises(Overflow, match="1024 requests open"):
        world.acquire()


@pytest.mark.parametrize(
    ("why", "kind"),
    [
        (Why.BUSY, LockTimeout),
        (Why.DEADLOCK, DeadlockError),
        (Why.KIND, KindMismatch),
        (Why.OVERFLOW, Overflow),
        (Why.GONE, OutcomeUnknown),
    ],
)
def test_refusals_become_errors(world, why, kind):
    ticket = world.acquire()
    world.hear(Refused(ticket.id, why, (b"a", b"b")))
    assert ticket.is_over
    assert type(ticket.failure) is kind
    assert b"lock" in str(ticket.failure).encode()
    if why is Why.DEADLOCK:
        assert ticket.failure.cycle == (b"a", b"b")


def test_what_never_went_to_the_group(world):
    one, two = world.acquire(), world.acquire()
    world.hear(Failed(one.id, "node 3 is missing", not_ready=True), Failed(two.id, "too many", not_ready=False))
    assert (type(one.failure), str(one.failure)) == (NotReady, "lock 'lock': node 3 is missing")
    assert type(two.failure) is Overflow


def test_who_has_heard_nothing_of_a_request_does_not_say_that_others_hold_the_lock(world):
    world.hear(Readiness(True, ""))
    unheard, queued = world.acquire(), world.acquire()
    world.hear(Queued(queued.id, 1))
    failure = world.session.timed_out(unheard, 2)
    assert type(failure) is NotReady
    failure = world.session.timed_out(queued, 2)
    assert type(failure) is LockTimeout
    assert "1 ticket was ahead" in str(failure)


def test_answers_to_what_nobody_asked_are_passed_over(world):
    nobody = request(99)
    world.hear(
        Queued(nobody, 1),
        LockHeld(nobody, 1, 1.0),
        Refused(nobody, Why.BUSY),
        Failed(nobody, "", not_ready=True),
        Ended(nobody, 1, None),
        Revoked(nobody, 1),
        Renounced(nobody, 1),
        Waiting(nobody),
        Woken(nobody, notified=True),
        Notified(nobody, 1),
        Standing(nobody),
        Leads(nobody, 1),
        Published(nobody, 1),
        Leadership(b"election", nobody),
        Answer(99, b"", is_last=True),
        LockHeld(world.acquire().id._replace(owner=Owner(OTHER, 1)), 1, 1.0),
    )
    assert [type(said) for said in world.said()] == [Acquire]


# ---- time


def test_deadlines_are_converted_so_that_they_are_never_too_late(world):
    """The server's clock was read at some time between Hello and Welcome: as if it had been at Hello."""
    world.lose()
    world.connect(late=3.0)
    ticket = world.hold(left=60)
    assert ticket.deadline == world.now + 60 - 3


def test_a_lease_of_which_nothing_is_left_is_renewed_before_it_is_held(world):
    ticket = world.acquire()
    world.said()
    for deadline in (0.0, world.now + AHEAD - 1):
        world.hear(LockHeld(ticket.id, 11, deadline), LockHeld(ticket.id, 11, deadline))
        assert not ticket.is_held
        assert world.said() == [ReadClock()]
        world.hear(Clock(world.now + AHEAD))
        assert world.said() == [Renew(ticket.id, 11)]
    world.tell_held(ticket)
    assert ticket.is_held
    assert world.said() == []


def test_a_server_that_was_slow_to_welcome_reports_its_clock_again_before_a_lock_is_renewed_in_vain(world):
    """Else each lease would be taken for one that is over, and renewed as fast as the ring goes."""
    world.lose()
    world.connect(late=3.0)
    ticket = world.acquire(duration=2.0)
    world.said()
    world.tell_held(ticket, left=2)
    assert world.said() == [ReadClock()]
    world.now += 0.5
    world.hear(Clock(world.now + AHEAD - 0.1))
    assert world.said() == [Renew(ticket.id, 11)]
    world.tell_held(ticket, left=2)
    assert ticket.is_held
    assert ticket.deadline == pytest.approx(world.now + 2 - 0.4)


def test_a_later_and_worse_report_of_the_clock_changes_nothing(world):
    ticket = world.acquire(duration=2.0)
    world.hear(LockHeld(ticket.id, 11, 0.0))
    world.now += 5
    world.hear(Clock(world.now + AHEAD))
    world.tell_held(ticket, left=2)
    assert ticket.deadline == world.now + 2


def test_a_clock_is_asked_for_again_on_another_connection(world):
    ticket = world.acquire(duration=2.0)
    world.hear(LockHeld(ticket.id, 11, 0.0))
    world.lose()
    world.connect(was_resumed=True)
    world.said()
    world.hear(LockHeld(ticket.id, 11, 0.0))
    assert world.said() == [ReadClock()]


def test_a_lease_without_duration_is_renewed_each_third(world):
    ticket = world.hold()
    assert world.session.deadline == pytest.approx(world.now + 5 / 3)
    world.session.advance()
    assert world.said() == []
    world.now += 1.7
    world.session.advance()
    assert world.said() == [Renew(ticket.id, 11)]
    world.now += 1.7
    world.session.advance()
    assert world.said() == [Renew(ticket.id, 11)]
    world.tell_held(ticket)
    assert ticket.deadline == pytest.approx(world.now + 5)


def test_a_renewal_that_is_not_answered_ends_with_the_lease(world):
    ticket = world.hold()
    world.now += 5.1
    world.session.advance()
    assert not ticket.is_held
    assert type(ticket.failure) is LockLost
    assert world.said() == [Renew(ticket.id, 11), Release(ticket.id, 11)]
    assert not ticket.is_over
    world.hear(Ended(ticket.id, 11, Why.EXPIRED))
    assert ticket.is_over
    assert world.session.deadline != world.now


def test_a_duration_is_renewed_when_the_program_says_so_alone(world):
    ticket = world.hold(duration=60)
    assert world.session.deadline == ticket.deadline
    world.now += 30
    world.tell_held(ticket)
    assert ticket.deadline == world.now + 30
    world.session.locks.renew(ticket)
    assert world.said() == [Renew(ticket.id, 11)]
    world.tell_held(ticket)
    assert ticket.deadline == world.now + 60


def test_notice(world):
    renewed, lasting = world.hold(b"renewed"), world.hold(b"lasting", 12, duration=60)
    world.hear(Revoked(renewed.id, 11), Revoked(lasting.id, 12))
    assert renewed.is_unlocking
    assert lasting.is_unlocking
    assert world.said() == [Renew(renewed.id, 11)]
    world.now += 1
    world.tell_held(renewed)
    assert not renewed.is_unlocking


# ---- ends


def test_a_lock_is_given_back_by_token(world):
    ticket = world.hold()
    world.session.locks.give_up(ticket)
    world.session.locks.give_up(ticket)
    assert not ticket.is_held
    assert world.said() == [Release(ticket.id, 11)]
    world.hear(Ended(ticket.id, 11, None))
    assert ticket.is_over
    assert ticket.failure is None


def test_a_request_is_withdrawn_and_what_comes_last_counts(world):
    one, two = world.acquire(b"one"), world.acquire(b"two")
    world.session.locks.give_up(one)
    world.session.locks.give_up(two)
    assert world.said()[2:] == [Withdraw(one.id), Withdraw(two.id)]
    world.hear(Queued(two.id, 3), Refused(one.id, Why.WITHDRAWN), LockHeld(two.id, 12, world.now + AHEAD + 5))
    assert one.is_over
    assert not two.is_held
    world.hear(Ended(two.id, 12, None))
    assert two.is_over
    assert (one.failure, two.failure) == (None, None)


@pytest.mark.parametrize("why", [Why.EXPIRED, Why.FORCED, Why.GONE, None])
def test_a_lock_is_lost(world, why):
    ticket = world.hold()
    world.hear(Ended(ticket.id, 11, why))
    assert ticket.is_over
    assert type(ticket.failure) is LockLost
    with pytest.raises(LockLost, match="token 11"):
        world.session.locks.check(ticket)


def test_a_lock_that_was_taken_as_it_was_given_back_was_lost(world):
    ticket = world.hold()
    world.session.locks.give_up(ticket)
    world.hear(Ended(ticket.id, 11, Why.FORCED))
    assert type(ticket.failure) is LockLost


def test_what_a_server_renounces_is_lost_and_given_back(world):
    ticket = world.hold()
    world.hear(Renounced(ticket.id, 99))
    assert ticket.is_held
    world.hear(Renounced(ticket.id, 11))
    assert type(ticket.failure) is LockLost
    assert world.said() == [Release(ticket.id, 11)]


def test_what_was_granted_and_lost_unheard_is_asked_for_again(world):
    ticket = world.acquire()
    world.said()
    world.hear(Ended(ticket.id, 11, Why.EXPIRED))
    assert world.said() == [Acquire(request(2), b"lock", settled=1)]
    world.hear(Refused(ticket.id, Why.SETTLED))
    assert world.said() == [Acquire(request(3), b"lock", settled=2)]
    world.hear(Refused(ticket.id, Why.WITHDRAWN))  # by a server that did not expect this client back
    assert world.said() == [Acquire(request(4), b"lock", settled=3)]
    world.tell_held(ticket, 13)
    assert ticket.is_held


# ---- connections


def test_everything_open_is_said_again_in_its_order(world):
    held = world.hold(b"held")
    waiting = world.acquire(b"waiting", waits=False)
    ended = world.hold(b"ended", 12)
    world.session.locks.give_up(ended)
    notice = world.session.locks.notify(1, b"filled", world.change, everyone=False, priority=True)
    candidacy = world.lead()
    observation = world.session.elections.observe(b"election", world.change)
    question = world.session.query("status", world.change)
    before = world.said()
    assert before[-2:] == [Observe(b"election"), Ask(1, "status")]
    world.hear(Answer(1, b"[1", is_last=False))
    assert type(world.lose()) is ConnectionLost
    assert not world.session.ready
    assert "it broke" in world.session.why_not_ready
    world.session.query("tickets", world.change)
    assert world.said() == []
    hello = world.connect(was_resumed=True)
    assert hello == Hello(VERSION, "test", ME, b"secret")
    again = world.said()
    assert again == [
        held.command,
        waiting.command,
        Withdraw(ended.id),
        notice.command,
        candidacy.command,
        Renew(candidacy.id, 21),
        Observe(b"election"),
        Ask(1, "status"),
        Ask(2, "tickets"),
    ]
    world.hear(Answer(1, b"[1", is_last=False), Answer(1, b",2]", is_last=True))
    assert question.answer == [1, 2]
    assert held.is_held
    world.session.elections.ignore(observation)
    assert world.said() == [Ignore(b"election")]


def test_a_held_lock_that_has_another_token_now_was_lost(world):
    ticket = world.hold()
    world.lose()
    world.connect(was_resumed=True)
    world.said()
    world.hear(LockHeld(ticket.id, 15, world.now + AHEAD + 5))
    assert type(ticket.failure) is LockLost
    assert world.said() == [Release(ticket.id, 15)]


def test_a_held_lock_that_is_queued_now_was_lost(world):
    ticket = world.hold()
    world.lose()
    world.connect(was_resumed=True)
    world.said()
    world.hear(Queued(ticket.id, 2))
    assert type(ticket.failure) is LockLost
    assert world.said() == [Withdraw(ticket.id)]


def test_the_end_of_a_former_grant_is_not_that_of_the_present_one(world):
    ticket = world.hold()
    world.hear(Ended(ticket.id, 10, Why.EXPIRED))
    assert ticket.is_held


def test_a_held_lock_is_held_whoever_is_not_ready(world):
    ticket = world.hold()
    world.lose()
    world.connect(was_resumed=True)
    world.hear(Failed(ticket.id, "", not_ready=True))
    assert ticket.is_held


def test_where_nobody_knows_the_client_it_is_another_one(world):
    held, waiting, ended = world.hold(b"held"), world.acquire(b"waiting"), world.hold(b"ended", 12)
    world.session.locks.give_up(ended)
    notice = world.session.locks.notify(1, b"filled", world.change, everyone=False, priority=False)
    candidacy = world.lead()
    former = candidacy.id
    world.lose()
    world.connect(OTHER)
    again = world.said()
    assert [type(said) for said in again] == [Acquire, type(candidacy.command)]
    assert all(said.request.owner.client == OTHER for said in again)
    assert (waiting.id.number, candidacy.id.number) == (6, 7)
    assert candidacy.id != former
    assert held.is_held
    assert ended.is_over
    assert type(notice.failure) is OutcomeUnknown
    world.session.locks.renew(held)
    world.session.locks.give_up(held)
    assert held.is_over
    assert world.said() == []


def test_goodbyes(world):
    world.hear(Goodbye(Farewell.ENDING, "ends"))
    assert type(world.session.failure) is ConnectionLost
    assert type(world.lose()) is ConnectionLost
    world.connect(was_resumed=True)
    world.hear(Goodbye(Farewell.ACCESS, "not you"))
    assert type(world.lose()) is DaemonUnavailable


def test_a_server_of_another_version(world):
    world.lose()
    world.session.greet("test")
    world.hear(Welcome(VERSION + 1, ME, b"", 0.0))
    assert type(world.session.failure) is DaemonUnavailable
    assert not world.session.is_connected


def test_the_end(world):
    held, asked = world.hold(b"held"), world.acquire(b"asked")
    world.said()
    world.session.close()
    world.session.close()
    assert world.said() == [Bye()]
    assert type(held.failure) is LockLost
    assert type(asked.failure) is ConnectionLost
    assert held.is_over
    assert asked.is_over
    with pytest.raises(ConnectionLost):
        world.acquire()


def test_pings_are_answered(world):
    world.hear(Ping())
    assert world.said() == [Pong()]


# ---- conditions


def test_a_wait(world):
    held = world.hold()
    ticket = world.wait(held)
    assert world.said() == [Wait(ticket.id, b"filled", b"lock", 11, settled=1)]
    world.hear(Ended(held.id, 11, None), Waiting(ticket.id))
    assert held.is_over
    assert held.failure is None
    assert ticket.is_waiting
    world.hear(Woken(ticket.id, notified=True), Queued(ticket.id, 1))
    assert (ticket.notified, ticket.is_held) == (True, False)
    world.tell_held(ticket, 12)
    assert ticket.is_held
    world.session.locks.end_wait(ticket)
    assert world.said() == []


def test_a_wait_that_does_not_reacquire(world):
    ticket = world.wait(world.hold(), reacquires=False)
    world.said()
    world.hear(Waiting(ticket.id))
    world.session.locks.end_wait(ticket)
    world.session.locks.end_wait(ticket)
    assert world.said() == [EndWait(ticket.id)]
    world.hear(Woken(ticket.id, notified=False))
    assert ticket.is_over
    assert (ticket.notified, ticket.failure) == (False, None)


@pytest.mark.parametrize(("why", "kind"), [(Why.WRONG_LOCK, WrongLock), (Why.OVERFLOW, Overflow)])
def test_a_wait_that_is_refused_leaves_the_lock_held(world, why, kind):
    held = world.hold()
    ticket = world.wait(held)
    world.now += 3
    world.session.advance()
    world.said()
    world.hear(Refused(ticket.id, why))
    assert type(ticket.failure) is kind
    assert held.is_held
    world.session.advance()
    assert world.said() == [Renew(held.id, 11)]


def test_a_wait_whose_lock_was_lost(world):
    held = world.hold()
    ticket = world.wait(held)
    world.hear(Refused(ticket.id, Why.NOT_HELD))
    assert type(ticket.failure) is LockLost
    assert held.is_over
    assert ticket.is_over


def test_a_wait_that_its_server_ended_has_lost_its_lock(world):
    ticket = world.wait(world.hold())
    world.hear(Waiting(ticket.id), Refused(ticket.id, Why.WITHDRAWN))
    assert type(ticket.failure) is LockLost
    assert world.session.failure is None


def test_a_wait_that_was_withdrawn_before_it_began_gives_the_lock_back(world):
    held = world.hold()
    ticket = world.wait(held)
    world.session.locks.give_up(ticket)
    world.said()
    world.hear(Refused(ticket.id, Why.WITHDRAWN))
    assert ticket.is_over
    assert world.said() == [Release(held.id, 11)]


def test_no_lease_is_renewed_while_a_wait_is_under_way(world):
    held = world.hold()
    ticket = world.wait(held)
    world.said()
    world.now += 10
    world.session.advance()
    assert world.said() == []
    world.hear(Ended(held.id, 11, None), Waiting(ticket.id))
    assert ticket.failure is None


def test_a_wait_is_said_again_and_the_lock_before_it_is_not(world):
    held = world.hold()
    ticket = world.wait(held)
    world.lose()
    world.connect(was_resumed=True)
    assert world.said() == [ticket.command]
    world.session.locks.end_wait(ticket)
    world.lose()
    world.connect(was_resumed=True)
    assert world.said() == [ticket.command, EndWait(ticket.id)]
    world.session.locks.give_up(ticket)
    world.lose()
    world.connect(was_resumed=True)
    assert world.said() == [ticket.command, Withdraw(ticket.id)]
    world.hear(Refused(ticket.id, Why.WRONG_LOCK))
    assert world.said() == [Release(held.id, 11)]
    world.hear(Ended(held.id, 11, None))
    assert held.is_over
    assert ticket.is_over


def test_a_wait_of_a_client_that_nobody_knows_is_lost(world):
    held = world.hold()
    ticket = world.wait(held)
    world.lose()
    world.connect(OTHER)
    assert world.said() == []
    assert type(ticket.failure) is LockLost
    assert held.is_over


# ---- leaders


def test_a_leader_steps_down_in_order(world):
    candidacy = world.lead()
    order = []
    publication = world.session.elections.publish(
        1, candidacy, b"plan", lambda: order.append(("published", candidacy.token))
    )
    candidacy.changed = lambda: order.append(("told", candidacy.token))
    world.hear(Leads(candidacy.id, 0))
    assert order[:2] == [("told", 0), ("published", 0)]
    assert candidacy.why_ended == "its lock server has taken it back"
    assert type(publication.failure) is LeadershipLost
    with pytest.raises(LeadershipLost):
        world.session.elections.publish(1, candidacy, b"late", world.change)


def test_a_publication(world):
    candidacy = world.lead()
    publication = world.session.elections.publish(1, candidacy, b"plan", world.change)
    world.hear(Published(publication.id, 3))
    assert (publication.version, publication.failure) == (3, None)
    refused = world.session.elections.publish(1, candidacy, b"plan", world.change)
    world.hear(Refused(refused.id, Why.NOT_HELD))
    assert type(refused.failure) is LeadershipLost
    failed = world.session.elections.publish(1, candidacy, b"plan", world.change)
    world.hear(Failed(failed.id, "too many", not_ready=False))
    assert type(failed.failure) is Overflow
    assert candidacy.publications == []


def test_a_follower_comes_behind_each_leader(world):
    candidacy = world.session.elections.stand(1, b"election", world.change)
    told = RoleCursor(candidacy)
    assert told.has_news
    assert told.take() == Follower()
    assert not told.has_news
    world.hear(Standing(candidacy.id), Leads(candidacy.id, 0))
    assert not told.has_news
    world.tell_leads(candidacy, 21)
    world.hear(Leads(candidacy.id, 0))
    assert not told.has_news
    world.tell_leads(candidacy, 22)
    assert told.take() == Leader(22)
    world.hear(Leads(candidacy.id, 0))
    world.tell_leads(candidacy, 23)
    assert [told.take(), told.take()] == [Follower(), Leader(23)]
    world.tell_leads(candidacy, 24)
    assert [told.take(), told.take()] == [Follower(), Leader(24)]
    assert not told.has_news


def test_a_leader_renews_each_third_of_its_lease(world):
    candidacy = world.lead(duration=6.0)
    for _ in range(5):
        assert world.session.deadline == world.now + 2
        world.now += 2
        world.session.advance()
        assert world.said() == [Renew(candidacy.id, 21)]
        world.tell_leads(candidacy)
    assert candidacy.deadline == world.now + 6


def test_nothing_but_a_renewal_that_came_back_lets_a_leader_lead_on(world):
    candidacy = world.lead()
    for _ in range(2):
        world.now += 1
        world.hear(Ping(), Standing(candidacy.id), Readiness(True, ""))
        world.session.advance()
        assert world.said() == [Pong(), Renew(candidacy.id, 21)]
    world.now += 1
    assert candidacy.token == 0, "whoever asks looks at the clock, before anybody was told"
    assert candidacy.role == Follower()
    with pytest.raises(LeadershipLost):
        world.session.elections.publish(1, candidacy, b"late", world.change)
    world.session.advance()
    assert world.said() == []
    assert world.session.deadline == float("inf")


def test_a_leader_that_was_silent_never_leads_again_by_its_old_token(world):
    candidacy = world.lead()
    world.now += 3
    world.session.advance()
    world.tell_leads(candidacy)
    world.hear(Leads(candidacy.id, 21))
    assert candidacy.token == 0
    assert world.said() == [], "nor does it renew it"
    world.tell_leads(candidacy, 22)
    assert candidacy.token == 22


def test_a_renewal_that_comes_back_too_late_does_not_count(world):
    """The clock has not been looked at since."""
    candidacy = world.lead()
    assert candidacy.why_ended == ""
    world.now += 4
    world.tell_leads(candidacy)
    world.session.advance()
    assert candidacy.token == 0
    assert candidacy.why_ended == "its lease ended without renewal"


def test_a_leader_whose_lease_has_nothing_left_renews_before_it_begins(world):
    candidacy = world.session.elections.stand(1, b"election", world.change)
    world.said()
    world.hear(Leads(candidacy.id, 21), Leads(candidacy.id, 21))
    assert candidacy.token == 0
    assert world.said() == [ReadClock()]
    world.hear(Clock(world.now + AHEAD))
    assert world.said() == [Renew(candidacy.id, 21)]
    world.tell_leads(candidacy)
    assert candidacy.token == 21
    assert world.said() == []


def test_a_server_that_was_slow_to_welcome_reports_its_clock_again_before_a_leader_renews_in_vain(world):
    world.lose()
    world.connect(late=4.0)
    candidacy = world.session.elections.stand(1, b"election", world.change)
    world.said()
    world.tell_leads(candidacy)
    assert world.said() == [ReadClock()]
    world.hear(Clock(world.now + AHEAD))
    assert world.said() == [Renew(candidacy.id, 21)]
    world.tell_leads(candidacy)
    assert (candidacy.token, candidacy.deadline) == (21, world.now + 3)


def test_who_resigned_before_the_clocks_were_compared_renews_nothing(world):
    candidacy = world.session.elections.stand(1, b"election", world.change)
    world.hear(Leads(candidacy.id, 21))
    world.session.elections.step_back(candidacy)
    world.said()
    world.hear(Clock(world.now + AHEAD))
    assert world.said() == []


def test_a_leader_leads_on_without_a_connection_until_its_deadline(world):
    candidacy = world.lead()
    publication = world.session.elections.publish(1, candidacy, b"plan", world.change)
    world.lose()
    world.now += 1
    world.session.advance()
    assert candidacy.token == 21
    world.connect(was_resumed=True)
    assert world.said() == [candidacy.command, Renew(candidacy.id, 21), publication.command]
    world.session.advance()
    world.now += 2
    assert candidacy.token == 0


def test_resigning_is_said_until_it_is_answered(world):
    candidacy = world.lead()
    world.session.elections.resign(candidacy, None)
    assert candidacy.token == 0, "at once: the next one may lead as soon as that is heard"
    resign = Resign(candidacy.id, 21)
    assert world.said() == [resign]
    world.lose()
    world.connect(was_resumed=True)
    assert world.said() == [candidacy.command, resign]
    world.hear(Leads(candidacy.id, 0))
    world.session.elections.resign(candidacy, None)
    assert world.said() == []


@pytest.mark.parametrize("how", ["resign", "step back"])
def test_what_runs_while_a_candidate_leads_ends_before_the_next_one_may_lead(world, how):
    candidacy = world.lead()
    leaders = world.session.elections
    leaders.begin_work(candidacy)
    leaders.begin_work(candidacy)
    if how == "resign":
        leaders.resign(candidacy, None)
    else:
        leaders.step_back(candidacy)
    leaders.end_work(candidacy)
    assert candidacy.token == 0
    assert world.said() == []
    leaders.end_work(candidacy)
    assert world.said() == [Resign(candidacy.id, 21) if how == "resign" else Withdraw(candidacy.id)]


def test_a_candidate_says_for_how_long_it_runs(world):
    world.now += 50
    candidacy = world.session.elections.stand(1, b"election", world.change, restart_interval=3.0)
    assert (candidacy.command.running, candidacy.command.restart_interval) == (50, 3)
    world.lose()
    world.now += 10
    world.connect(was_resumed=True)
    assert candidacy.command.running == 60


def test_a_candidate_steps_back(world):
    candidacy = world.lead()
    world.session.elections.step_back(candidacy)
    world.session.elections.step_back(candidacy)
    assert candidacy.token == 0
    assert world.said() == [Withdraw(candidacy.id)]
    world.tell_leads(candidacy, 22)
    world.hear(Refused(candidacy.id, Why.WITHDRAWN))
    assert candidacy.token == 0
    assert candidacy.is_over
    assert candidacy.failure is None


def test_a_leader_that_may_not_stand_on_steps_down(world):
    candidacy = world.lead()
    world.hear(Failed(candidacy.id, "too many", not_ready=False))
    assert type(candidacy.failure) is Overflow
    assert candidacy.token == 0
    world.session.advance()
    assert world.session.deadline == float("inf")


def test_a_candidate_that_was_withdrawn_by_its_server_stands_again(world):
    candidacy = world.lead()
    world.hear(Refused(candidacy.id, Why.WITHDRAWN))
    assert candidacy.token == 0
    assert candidacy.id == request(2)
    assert world.said() == [candidacy.command]


def test_observers(world):
    leader = request(9, client=OTHER)
    one = world.session.elections.observe(b"election", world.change)
    world.hear(Leadership(b"election", None), Leadership(b"election", leader, 21), Leadership(b"election", leader, 21))
    two = world.session.elections.observe(b"election", world.change)
    assert world.said() == [Observe(b"election")]
    assert [leadership.token for leadership in one.news] == [0, 21]
    assert [leadership.token for leadership in two.news] == [21]
    world.lose()
    assert (one.news[-1].leader, two.news[-1].leader) == (None, None)
    world.session.elections.ignore(one)
    world.session.elections.ignore(two)
    world.connect(was_resumed=True)
    assert world.said() == []


def test_questions_are_sent_a_limited_number_at_a_time(world):
    questions = [world.session.query("status", world.change) for _ in range(2 * MOST_QUESTIONS + 1)]
    numbers = [said.number for said in world.said()]
    assert len(numbers) == MOST_QUESTIONS
    world.session.forget(questions[1])  # its answer comes all the same
    for number in numbers:
        world.hear(Answer(number, b"[", is_last=False), Answer(number, b"]", is_last=True))
    assert [question.is_answered for question in questions[:3]] == [True, False, True]
    assert len(world.said()) == MOST_QUESTIONS
    world.lose()
    world.connect(was_resumed=True)
    again = [said.number for said in world.said()]
    assert again == [question.record.number for question in questions[MOST_QUESTIONS : 2 * MOST_QUESTIONS]]


def test_a_client_observes_a_limited_number_of_elections(world):
    observations = [world.session.elections.observe(b"%d" % number, world.change) for number in range(MOST_OBSERVED)]
    world.session.elections.observe(b"0", world.change)
    with pytest.raises(Overflow, match="1024 elections"):
        world.session.elections.observe(b"another", world.change)
    world.session.elections.ignore(observations[1])
    world.session.elections.observe(b"another", world.change)
