"""The transcripts go as they are written. `python -m tests.totem.dump.transcripts` renews them."""

import re

import pytest

from tests.totem.dump.transcripts import ALL, ROOT, retell


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_the_transcript_goes_as_it_is_written(path):
    written = path.read_text()
    assert retell(written) == written


def test_the_document_shows_what_is_printed():
    printed = {line for path in ALL for line in path.read_text().splitlines()}
    shown = re.findall(r"^```\n(.*?)^```", (ROOT / "docs" / "dump.md").read_text(), re.DOTALL | re.MULTILINE)
    assert len(shown) == 3
    for block in shown:
        assert set(block.splitlines()) <= printed
