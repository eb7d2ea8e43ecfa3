"""What the documents show of the code is drawn from the code."""

from pathlib import Path

from totem.states import diagram

DOCS = Path(__file__).parent.parent / "docs"


def test_the_state_diagram_is_drawn_from_the_transitions():
    text = (DOCS / "protocol.md").read_text()
    drawn = f"```mermaid\n{diagram.diagram()}\n```\n\n{diagram.table()}"
    assert drawn in text, "run python -m totem.states.diagram and put its output between the marks"
