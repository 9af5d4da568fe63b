"""A disk that refuses is no traceback."""

import pytest
from standins import Command, Jobs


def test_a_folder_that_cannot_be_written(jobs: Jobs, mtl_run: Command) -> None:
    def act(call: object) -> float:
        raise PermissionError(13, "Permission denied", "runs/somewhere")

    jobs.act = act
    result = mtl_run()
    assert result.code == 2 and "runs/somewhere: Permission denied" in result.err and "Traceback" not in result.err


def test_with_the_traceback_on_request(jobs: Jobs, mtl_run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def act(call: object) -> float:
        raise PermissionError(13, "Permission denied", "runs/somewhere")

    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    jobs.act = act
    with pytest.raises(PermissionError):
        mtl_run()
