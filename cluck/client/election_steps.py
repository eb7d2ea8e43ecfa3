"""Candidates of a program, and elections that it observes: what is the same in tasks and in threads."""

from __future__ import annotations

from collections.abc import Callable

from cluck.client.requests import ClientCandidacy, Observation, Role, RoleCursor
from cluck.client.session_locks import ANSWER_PATIENCE
from cluck.client.steps import BaseClient, Steps, Until, settle
from cluck.commands import Leadership, RequestId
from cpg.arguments import octets

Stand = Callable[[int, Callable[[], None]], ClientCandidacy]
"""Submits a candidacy, of an owner, with what to call when there is news of it."""


class BaseCandidate:
    """A candidate in an election, for the time of a block. Made by `Locks.candidate`."""

    def __init__(self, client: BaseClient, stand: Stand) -> None:
        self._client = client
        self._signal = client._new_signal()
        self._request = stand
        self._is_over = False
        """Its block has ended."""
        self._latest: ClientCandidacy | None = None

    def __repr__(self) -> str:
        return f"<Candidate: {self._latest or 'does not stand yet'}>"

    @property
    def _candidacy(self) -> ClientCandidacy:
        if self._latest is None:
            raise RuntimeError("this candidate does not stand yet: enter its block")
        return self._latest

    @property
    def id(self) -> RequestId:
        """What others know this candidate by: the `leader` of a `Leadership`."""
        return self._candidacy.id

    @property
    def role(self) -> Role:
        """A `Leader` or a `Follower`, by the clock of this moment. In a forked process it raises `RuntimeError`."""
        self._client._check_process()
        return self._candidacy.role

    @property
    def is_leader(self) -> bool:
        """Whether it leads, by the clock of this moment. In a forked process it raises `RuntimeError`."""
        self._client._check_process()
        return self._candidacy.token != 0

    @property
    def deadline(self) -> float:
        """When its leadership ends if it is not renewed, on the boot-time clock; 0 where it does not lead."""
        return self._candidacy.deadline

    @property
    def why_ended(self) -> str:
        """Why its last leadership has ended; empty where none has."""
        return self._candidacy.why_ended

    def _on_change(self) -> None:
        self._signal.wake()

    def _has_ended(self) -> bool:
        return self._candidacy.is_over or self._is_over

    def _check(self) -> None:
        self._client._check()
        if self._candidacy.failure is not None:
            raise self._candidacy.failure

    def _give_up_leadership(self, to: RequestId | None) -> None:
        with self._client._using() as session:
            session.elections.resign(self._candidacy, to)
            self._client._submit()

    # ---- steps

    def _enter(self) -> Steps[None]:
        """Wait until the lock servers know the candidate; raises why they do not, and then nothing is left behind."""
        client = self._client
        client._check()
        if self._latest is not None:
            raise RuntimeError("a candidate stands once: call `candidate` again for the next time")
        candidacy = self._latest = self._request(client._task(), self._on_change)
        try:
            client._submit()
            yield Until(self._signal, lambda: candidacy.is_standing or candidacy.is_over)
            self._check()
        except BaseException as error:
            yield from self._step_back(error)
            raise

    def _step_back(self, outcome: BaseException | None) -> Steps[None]:
        """Be no candidate any more. `outcome` is what the block has raised."""
        self._is_over = True
        self._client._session.elections.step_back(self._candidacy)
        self._client._submit()
        self._signal.wake()
        yield from settle(self._signal, self._is_settled, outcome, ANSWER_PATIENCE)

    def _is_settled(self) -> bool:
        return self._candidacy.is_over or not self._client._session.ready

    def _wait_leader(self, patience: float | None = None) -> Steps[bool]:
        """Wait until it leads; returns whether it does."""
        yield Until(self._signal, lambda: self.is_leader or self._has_ended(), patience)
        if self._has_ended():
            self._check()
        return self.is_leader

    def _next_role(self, cursor: RoleCursor) -> Steps[Role | None]:
        """Wait for the next role; returns None after the last one."""
        yield Until(self._signal, lambda: cursor.has_news or self._has_ended())
        if cursor.has_news:
            return cursor.take()
        self._check()
        return None

    def _publish(self, blob: bytes) -> Steps[int]:
        client = self._client
        self._check()
        signal = client._new_signal()
        publication = client._session.elections.publish(
            client._task(), self._candidacy, octets("blob", blob), signal.wake
        )
        client._submit()
        yield Until(signal, lambda: publication.is_over)
        if publication.failure is not None:
            raise publication.failure
        return publication.version


class BaseLeaderships:
    """The leaderships of an election, as they change, for the time of a block. Made by `Locks.observe`."""

    def __init__(self, client: BaseClient, election: bytes) -> None:
        self._client = client
        self._election = election
        self._signal = client._new_signal()
        self._observation: Observation

    def _begin(self) -> None:
        with self._client._using() as session:
            self._client._check()
            self._observation = session.elections.observe(self._election, self._signal.wake)
            self._client._submit()

    def _end(self) -> None:
        if self._client._is_own():
            with self._client._using() as session:
                session.elections.ignore(self._observation)
                self._client._submit()

    def _next(self) -> Steps[Leadership]:
        observation = self._observation
        yield Until(self._signal, lambda: observation.news or self._client._has_ended())
        if not observation.news:
            self._client._check()
        return observation.news.popleft()
