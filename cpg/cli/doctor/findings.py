"""What a check finds: one line for people, one object for programs."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Outcome(Enum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    UNTRIED = "not tried"
    """It could not be tried."""


class Finding(NamedTuple):
    """What one check found."""

    outcome: Outcome
    subject: str
    """What was checked, such as "port of link 0"."""
    text: str
    remedy: str = ""
    """What to do; empty where there is nothing to do."""

    def line(self) -> str:
        """Return it as a line."""
        remedy = f": {self.remedy}" if self.remedy else ""
        return f"{self.outcome.value:<9}  {self.subject}: {self.text}{remedy}"

    def as_dict(self) -> dict[str, str]:
        """Return it as values of JSON."""
        return {**self._asdict(), "outcome": self.outcome.value}


def ok(subject: str, text: str) -> Finding:
    """Build a finding: all is well."""
    return Finding(Outcome.OK, subject, text)


def warning(subject: str, text: str, remedy: str) -> Finding:
    """Build a finding: it works, but not well."""
    return Finding(Outcome.WARNING, subject, text, remedy)


def problem(subject: str, text: str, remedy: str) -> Finding:
    """Build a finding: it does not work."""
    return Finding(Outcome.PROBLEM, subject, text, remedy)


def untried(subject: str, text: str, remedy: str = "") -> Finding:
    """Build a finding: the check could not be tried."""
    return Finding(Outcome.UNTRIED, subject, text, remedy)


def summary(findings: list[Finding]) -> str:
    """Return the numbers of problems and warnings as a line."""
    counts = [
        (sum(finding.outcome is outcome for finding in findings), noun)
        for outcome, noun in ((Outcome.PROBLEM, "problem"), (Outcome.WARNING, "warning"))
    ]
    return ", ".join(f"{count or 'no'} {noun}{'' if count == 1 else 's'}" for count, noun in counts)
