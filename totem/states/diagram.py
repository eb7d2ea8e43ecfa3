"""Draw `TRANSITIONS`: `python -m totem.states.diagram` prints the diagram and the table of docs/protocol.md."""

from __future__ import annotations

from totem.transitions import TRANSITIONS, Cause, State


def diagram() -> str:
    """Return the state diagram, in Mermaid."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.STARTING.value}"]
    for source, ways in TRANSITIONS.items():
        targets: dict[State, list[Cause]] = {}
        for cause, target in ways.items():
            targets.setdefault(target, []).append(cause)
        for target, causes in targets.items():
            if target is not State.LEFT:
                lines.append(f"    {source.value} --> {target.value} : {'<br/>'.join(cause.value for cause in causes)}")
    lines += [f"    operational --> {State.LEFT.value} : {Cause.LEAVING.value}", f"    {State.LEFT.value} --> [*]"]
    return "\n".join(lines)


def table() -> str:
    """Return the transitions as a table, without those out of the ring, which start at every state."""
    lines = ["| from | because | to |", "|---|---|---|"]
    for source, ways in TRANSITIONS.items():
        for cause, target in ways.items():
            if target is not State.LEFT:
                lines.append(f"| {source.value} | {cause.value} | {target.value} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(f"```mermaid\n{diagram()}\n```\n\n{table()}")
