"""The inbox: good images join the data, bad ones lie in quarantine with a reason, and nothing gets lost."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from metaldefect.errors import UserError
from pipeline import inbox as module
from pipeline.inbox import forget_untold, take_in, untold
from pipeline.temporary import TemporaryFailureError, is_temporary

ROOT = Path(__file__).resolve().parents[2]


def picture(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 250, (48, 64), dtype=np.uint8)).save(path)
    return path


def mask(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((48, 64), np.uint8)
    pixels[10:20, 10:20] = 255
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose data lie in data/raw, in one folder per class."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["data"] = {"root": "data/raw", "channels": 1, "classes": ["dent", "scratch"]}
    content["merge"]["datasets"] = [{"adapter": "folder", "root": "."}]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    picture(tmp_path / "data/raw/good/g1.png", 1)
    return tmp_path


@pytest.fixture
def tracked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of images that would have been given to DVC."""
    counts: list[int] = []

    def track(_root: Path, _target: Path, count: int) -> None:
        counts.append(count)

    monkeypatch.setattr(module, "track", track)
    return counts


def test_images_join_the_data_with_their_masks(project: Path, tracked: list[int]) -> None:
    picture(project / "inbox/good/g2.png", 2)
    picture(project / "inbox/dent/a.png", 3)
    mask(project / "inbox/masks/dent/a.png")
    picture(project / "inbox/scratch/s.png", 4)
    mask(project / "inbox/scratch/s_mask.png")

    intake = take_in(project, settle=0)

    assert sorted(intake.added) == ["data/raw/dent/a.png", "data/raw/good/g2.png", "data/raw/scratch/s.png"]
    assert tracked == [3]
    assert (intake.refused, str(intake)) == ([], "3 images added, 0 refused, 0 still arriving")
    assert (project / "data/raw/masks/dent/a.png").is_file()
    assert (project / "data/raw/masks/scratch/s.png").is_file()
    assert [path for path in (project / "inbox").rglob("*") if path.is_file()] == []


def test_a_link_to_nowhere_or_a_pipe_among_the_data_stops_no_intake(
    project: Path, tracked: list[int]
) -> None:
    (project / "data/raw/good/gone.png").symlink_to("nowhere.png")
    os.mkfifo(project / "data/raw/good/pipe.png")
    picture(project / "inbox/good/g2.png", 2)
    assert take_in(project, settle=0).added == ["data/raw/good/g2.png"]


def test_a_table_says_what_images_show(project: Path, tracked: list[int]) -> None:
    picture(project / "inbox/shots/1.png", 2)
    picture(project / "inbox/shots/2.png", 3)
    picture(project / "inbox/shots/3.png", 4)
    (project / "inbox/shift.csv").write_text("path;label\nshots/1.png;dent\nshots/2.png;Good\n")

    intake = take_in(project, settle=0)

    assert sorted(intake.added) == ["data/raw/dent/1.png", "data/raw/good/2.png"]
    ((name, reason),) = intake.refused
    assert name == "shots/3.png"
    assert reason.startswith("nothing says what it shows")
    assert not (project / "inbox/shift.csv").exists()


def test_a_table_that_nobody_can_read_is_not_deleted(project: Path, tracked: list[int]) -> None:
    picture(project / "inbox/good/g2.png", 2)
    (project / "inbox/shift.csv").write_text("pfad;klasse\ngood/g2.png;gut\n")
    intake = take_in(project, settle=0)
    assert intake.added == ["data/raw/good/g2.png"]
    assert dict(intake.refused) == {"shift.csv": module.UNREAD}
    (day,) = (project / "quarantine").iterdir()
    assert (day / "shift.csv").read_text().startswith("pfad;klasse")


def test_a_table_with_several_faulty_rows_costs_no_image(project: Path, tracked: list[int]) -> None:
    picture(project / "inbox/shots/1.png", 2)
    (project / "inbox/shift.csv").write_text(
        "path,label\nshots/1.png,dent\nshots/1.png,dent\nshots/2.png,dent\nshots/3.png,dent\nshots/4.png\n"
    )
    intake = take_in(project, settle=0)
    assert intake.added == ["data/raw/dent/1.png"]
    ((name, reason),) = intake.refused
    assert name == "shift.csv"
    for line in ("line 4", "line 5", "line 6"):
        assert line in reason
    (day,) = (project / "quarantine").iterdir()
    assert (day / "shift.csv").is_file()


def test_a_table_waits_for_its_images_and_a_new_one_is_not_deleted_unread(
    project: Path, tracked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(project / "inbox/shots/1.png", 2)
    (project / "inbox/shift.csv").write_text("path,label\nshots/1.png,dent\nshots/2.png,dent\n")
    picture(project / "inbox/shots/2.png", 3)
    with monkeypatch.context() as patch:
        patch.setattr(module, "age", lambda path: 5.0 if path.name == "2.png" else 900.0)
        assert take_in(project).waiting == 3
    assert tracked == []

    def upload(_root: Path, _target: Path, _count: int) -> None:
        (project / "inbox/next.csv").write_text("path,label\nshots/9.png,dent\n")

    monkeypatch.setattr(module, "track", upload)
    assert len(take_in(project, settle=0).added) == 2
    assert [path.name for path in (project / "inbox").glob("*.csv")] == ["next.csv", "shift.csv"]


def test_what_cannot_be_used_lies_in_quarantine_with_a_reason(project: Path, tracked: list[int]) -> None:
    whole = picture(project / "inbox/good/cut.png", 2).read_bytes()
    (project / "inbox/good/cut.png").write_bytes(whole[: len(whole) // 2])
    (project / "inbox/good/notes.txt").write_text("from line 3")
    picture(project / "inbox/dents/b.png", 3)
    picture(project / "inbox/loose.png", 4)
    picture(project / "inbox/good/again.png", 1)
    picture(project / "inbox/dent/c.png", 5)
    picture(project / "inbox/scratch/c2.png", 5)
    Image.fromarray(np.full((48, 64), 7, np.uint8)).save(project / "inbox/good/capped.png")
    picture(project / "inbox/good/marked.png", 6)
    mask(project / "inbox/good/marked_mask.png")

    intake = take_in(project, settle=0)

    assert intake.added == ["data/raw/dent/c.png"]
    reasons = dict(intake.refused)
    expected = {
        "good/cut.png": "unreadable image",
        "good/notes.txt": "not an image",
        "dents/b.png": "its class 'dents' is none of dent, good, scratch: rename its folder, or add",
        "loose.png": "image outside the class folders",
        "good/again.png": "the same file is in the data already, as good/g1.png",
        "scratch/c2.png": "the same file arrived twice",
        "good/capped.png": "all pixels have the same grey level: is the cap on the camera?",
        "good/marked.png": "its label says good, but its mask marks a defect",
    }
    assert reasons.keys() == expected.keys()
    for name, words in expected.items():
        assert words in reasons[name], name
    (day,) = (project / "quarantine").iterdir()
    for name in expected:
        assert (day / name).is_file()
        assert expected[name] in (day / f"{name}.reason.txt").read_text()
    assert (day / "good/marked_mask.png").is_file()

    first = (day / "good/marked_mask.png").read_bytes()
    picture(project / "inbox/good/marked.png", 7)
    mask(project / "inbox/good/marked_mask.png")
    assert take_in(project, settle=0).added == []
    assert (day / "good/marked-2.png").is_file()
    assert (day / "good/marked_mask-2.png").is_file()
    assert (day / "good/marked_mask.png").read_bytes() == first, "the first one's mask stays"
    assert [path for path in (project / "inbox").rglob("*") if path.is_file()] == []


def test_a_truncated_image_costs_neither_the_others_nor_the_data(project: Path, tracked: list[int]) -> None:
    whole = picture(project / "inbox/good/a.jpg", 2).read_bytes()
    (project / "inbox/good/a.jpg").write_bytes(whole[:-200])
    picture(project / "inbox/good/b.jpg", 3)
    intake = take_in(project, settle=0)
    assert (intake.added, [name for name, _ in intake.refused]) == (["data/raw/good/b.jpg"], ["good/a.jpg"])


def test_an_image_that_is_still_being_written_waits(
    project: Path, tracked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(project / "inbox/good/half.png", 2)
    assert take_in(project).waiting == 1
    assert tracked == []
    assert (project / "inbox/good/half.png").is_file()
    # a camera that writes all the time holds nothing up for ever
    monkeypatch.setattr(module, "age", lambda path: 5.0 if path.name == "half.png" else 900.0)
    picture(project / "inbox/good/old.png", 3)
    intake = take_in(project)
    assert (intake.added, intake.waiting) == (["data/raw/good/old.png"], 1)
    assert (project / "inbox/good/half.png").is_file()


def test_a_name_that_is_taken_gets_part_of_the_hash(project: Path, tracked: list[int]) -> None:
    picture(project / "inbox/good/G1.tif", 2)
    (added,) = take_in(project, settle=0).added
    assert added.startswith("data/raw/good/G1-")
    assert added.endswith(".tif")


def test_images_that_a_stage_would_delete_are_left_in_the_inbox(project: Path) -> None:
    content = yaml.safe_load((project / "params.yaml").read_text())
    content["data"]["root"] = "data/sample"
    (project / "params.yaml").write_text(yaml.safe_dump(content))
    picture(project / "inbox/good/a.png", 2)
    with pytest.raises(UserError, match="data/sample is drawn by the stage 'sample', which would delete"):
        take_in(project, settle=0)
    content["merge"]["datasets"] = [{"adapter": "neu_det", "root": "NEU-DET"}]
    (project / "params.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match="lists no folder of your own images: add"):
        take_in(project, settle=0)
    assert (project / "inbox/good/a.png").is_file()


@pytest.fixture
def repository(project: Path, monkeypatch: pytest.MonkeyPatch, make_environment) -> Path:
    """The project under git and DVC."""
    for name, value in make_environment(project).items():
        monkeypatch.setenv(name, value)
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=project, check=True)
    return project


def test_dvc_has_the_data_before_the_inbox_loses_them(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(repository / "inbox/good/a.png", 2)
    real = module.track

    def killed(_root: Path, _target: Path, _count: int) -> None:
        raise TemporaryFailureError("'data/raw' is busy, it is being blocked by")

    monkeypatch.setattr(module, "track", killed)
    with pytest.raises(TemporaryFailureError):
        take_in(repository, settle=0)
    assert (repository / "inbox/good/a.png").is_file()

    monkeypatch.setattr(module, "track", real)
    assert take_in(repository, settle=0).added == ["data/raw/good/a.png"]

    assert yaml.safe_load((repository / "data/raw.dvc").read_text())["outs"][0]["nfiles"] == 2
    log = subprocess.run(
        ["git", "log", "--format=%s", "--name-only"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    )
    assert log.stdout.split("\n\n") == ["1 image from the inbox", "data/.gitignore\ndata/raw.dvc\n"]
    forget_untold(repository)
    picture(repository / "inbox/good/a.png", 2)
    again = take_in(repository, settle=0)
    assert (again.added, again.refused[0][1]) == ([], "the same file is in the data already, as good/a.png")


def test_dvc_has_images_whose_name_was_taken_or_whose_place_a_table_gave(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(repository / "inbox/cam1/g1.png", 2)  # data/raw/good has a g1.png
    picture(repository / "inbox/cam2/x.png", 3)
    (repository / "inbox/shift.csv").write_text("path,label\ncam1/g1.png,good\ncam2/x.png,dent\n")
    with monkeypatch.context() as patch:

        def busy(_root: Path, _target: Path, _count: int) -> None:
            raise TemporaryFailureError("'data/raw' is busy")

        patch.setattr(module, "track", busy)
        with pytest.raises(TemporaryFailureError):
            take_in(repository, settle=0)
    assert not untold(repository).added  # nothing to tell before DVC has them
    intake = take_in(repository, settle=0)
    assert sorted(Path(name).name[:3] for name in intake.added) == ["g1-", "x.p"]
    assert intake.refused == []
    assert yaml.safe_load((repository / "data/raw.dvc").read_text())["outs"][0]["nfiles"] == 3
    assert [path for path in (repository / "inbox").rglob("*") if path.is_file()] == []


def test_an_intake_that_was_killed_after_its_commit_is_finished_and_told(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(repository / "inbox/good/a.png", 2)
    real = module.track

    def killed(root: Path, target: Path, count: int) -> None:
        real(root, target, count)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "track", killed)
        with pytest.raises(KeyboardInterrupt):
            take_in(repository, settle=0)
    assert (repository / "inbox/good/a.png").is_file()
    picture(repository / "inbox/loose.png", 3)
    intake = take_in(repository, settle=0)
    assert intake.added == ["data/raw/good/a.png"]
    assert [name for name, _ in intake.refused] == ["loose.png"]
    assert untold(repository) == intake


def test_a_lock_that_a_killed_git_left_loses_no_image(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(repository / "inbox/good/a.png", 2)
    lock = repository / ".git/index.lock"
    lock.touch()
    with pytest.raises(TemporaryFailureError, match="Another git process seems to be running"):
        take_in(repository, settle=0)
    assert (repository / "inbox/good/a.png").is_file()

    os.utime(lock, (time.time() - 700,) * 2)
    intake = take_in(repository, settle=0)

    assert (intake.added, intake.refused) == (["data/raw/good/a.png"], [])
    log = subprocess.run(
        ["git", "log", "--format=%s"], cwd=repository, capture_output=True, text=True, check=True
    )
    assert log.stdout == "1 image from the inbox\n"


@pytest.mark.parametrize(
    ("code", "output", "temporary"),
    [
        (255, "ERROR: 'data/merged' is busy, it is being blocked by:\n  (PID 7): dvc repro", True),
        (255, "ERROR: Unable to acquire lock. Most likely another DVC process is running", True),
        (-9, "", True),
        (137, "epoch 3", True),
        (
            1,
            "RuntimeError: [enforce fail at alloc_cpu.cpp:116] DefaultCPUAllocator: can't allocate memory",
            True,
        ),
        (1, "requests.exceptions.ConnectionError: HTTPSConnectionPool(host='s3')", True),
        (
            128,
            "fatal: Unable to create 'index.lock': File exists.\n\nAnother git process seems to be running",
            True,
        ),
        (1, "merge: 1 file(s) cannot be used", False),
        (-15, "", False),
        (0, "Connection refused, trying again", False),
    ],
)
def test_only_locks_network_and_memory_are_worth_another_try(code: int, output: str, temporary: bool) -> None:
    assert is_temporary(code, output) is temporary


def test_data_outside_the_project_are_refused_before_anything_is_copied(
    project: Path, tmp_path: Path
) -> None:
    drive = tmp_path.parent / f"{tmp_path.name} drive"
    drive.mkdir()
    content = yaml.safe_load((project / "params.yaml").read_text())
    content["data"]["root"] = str(drive)
    (project / "params.yaml").write_text(yaml.safe_dump(content))
    picture(project / "inbox/good/a.png", 2)
    with pytest.raises(UserError, match="lies outside the project"):
        take_in(project, settle=0)
    assert list(drive.iterdir()) == []
    assert (project / "inbox/good/a.png").is_file()
