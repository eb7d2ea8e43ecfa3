"""The file of a node's expected votes, on a disk that may be full."""

import errno

from cpg import embedded
from cpg.embedded import VotesFile
from totem.log_fields import fields_of


def test_what_cannot_be_stored_is_said_once_and_stored_later(tmp_path, monkeypatch, caplog):
    path = tmp_path / "ev_tracking_1"
    file = VotesFile(path)
    assert file.load() == 0
    file.remember(3)
    assert VotesFile(path).load() == 3

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", path)

    with monkeypatch.context() as patch:
        patch.setattr(embedded, "write_durably", full)
        file.remember(4)
        file.store()
        assert VotesFile(path).load() == 3
        (failure,) = caplog.messages
        fault = f"{path}: No space left on device"
        assert fields_of(caplog.records[0]) == {"event": "disk_fault", "what": "expected_votes", "fault": fault}
        assert f"a restart may count with fewer: {path}: No space left on device" in failure
    caplog.clear()
    file.store()
    file.store()
    assert VotesFile(path).load() == 4
    assert caplog.messages == [f"the expected votes are stored again in {path}"]
    assert fields_of(caplog.records[0]) == {"event": "disk_recovered", "what": "expected_votes"}
