"""The transcripts go as they are written. `python -m totem.testing.transcript --rewrite tests/transcripts` renews
them."""

from __future__ import annotations

from pathlib import Path

import pytest

from totem.testing import transcript

STORIES = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_story_goes_as_it_is_written(path: Path) -> None:
    written = path.read_text()
    assert transcript.rerun(written) == written
    assert "extended virtual synchrony holds" in written


def test_a_story_that_goes_otherwise_is_shown_and_rewritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "story.txt"
    path.write_text("nodes 1\nstart 1\nstatus\n----\nwhatever\n\ncheck\n")
    assert transcript.main([str(path)]) == 1
    assert "-whatever" in capsys.readouterr().out
    assert transcript.main(["--rewrite", str(tmp_path)]) == 0
    assert "1 is operational on 1.5 of 1\n\ncheck\n----\nextended" in path.read_text()
    assert transcript.main([str(path)]) == 0


@pytest.mark.parametrize(
    "line",
    ["dance", "start 1", "nodes 2 tempo=3", "nodes 2\nrun 5", "nodes 2\nswallow pride", "nodes 2\nrun until dawn"],
)
def test_what_cannot_be_read_is_named(line: str) -> None:
    with pytest.raises(transcript.CommandError):
        transcript.rerun(line)
