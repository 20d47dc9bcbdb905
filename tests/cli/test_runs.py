"""Run folders."""

import threading
from pathlib import Path

import pytest

from gtn_lightning.cli.runs import RunFolder


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GTN_RUN_FOLDER", "LOCAL_RANK", "SLURM_JOB_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)


def test_runs_that_start_together_have_folders_of_their_own(tmp_path: Path) -> None:
    folders: list[Path] = []
    start = threading.Barrier(20)

    def claim() -> None:
        start.wait()
        folders.append(RunFolder().claim(tmp_path / "runs" / "digits"))

    threads = [threading.Thread(target=claim) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(folders)) == 20
    assert all(folder.is_dir() for folder in folders)


def test_a_folder_that_nothing_came_of_is_removed_with_those_made_for_it(tmp_path: Path) -> None:
    folder = RunFolder()
    claimed = folder.claim(tmp_path / "runs" / "digits")
    (claimed / "pictures").mkdir()
    folder.discard_if_empty()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_a_file_stays(tmp_path: Path) -> None:
    folder = RunFolder()
    claimed = folder.claim(tmp_path / "runs")
    (claimed / "recipe.yaml").touch()
    folder.discard_if_empty()
    assert (claimed / "recipe.yaml").exists()


def test_another_runs_folder_stays(tmp_path: Path) -> None:
    first, second = RunFolder(), RunFolder()
    kept = second.claim(tmp_path / "runs")
    first.claim(tmp_path / "runs")
    first.discard()
    assert list((tmp_path / "runs").iterdir()) == [kept]


def test_processes_that_are_started_for_a_run_share_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder().claim(tmp_path)
    monkeypatch.setenv("LOCAL_RANK", "1")  # RunFolder has put its name into the environment
    child = RunFolder()
    assert child.claim(tmp_path) == folder
    child.discard()
    assert folder.is_dir()


def test_several_runs_of_a_job_are_told_apart_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    found = {}
    for restart in ("0", "1"):
        monkeypatch.setenv("SLURM_RESTART_COUNT", restart)
        for seed in ("1", "2"):
            monkeypatch.setattr("sys.argv", ["gtn", "fit", f"--seed_everything={seed}"])
            found.setdefault(seed, set()).add(RunFolder().claim(tmp_path))
    assert [len(folders) for folders in found.values()] == [1, 1]
    assert found["1"] != found["2"]
