"""`metaldefect new` makes a project that runs outside the clone and leaves the clone and the images alone."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pandas as pd
import pytest
import yaml
from dvc.repo import Repo

from metaldefect.artifacts import sha256_file
from metaldefect.commands.settings import load_settings
from metaldefect.errors import UserError
from pipeline.cli import main
from pipeline.code_version import STAGES, code_digests, in_package
from pipeline.new_data import Folders, plan_copies
from pipeline.new_project import create_project, params_text, training_steps
from pipeline.params import load_params
from tests.plant import defective, metal, save, write_folders

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (112, 144)


def git_status(folder: Path) -> str:
    command = ["git", "status", "--porcelain"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def hashes(folder: Path) -> dict[str, str]:
    return {str(path): sha256_file(path) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("plant")
    write_folders(root)
    return root


@pytest.fixture(scope="module")
def project(plant: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("projects") / "line3"
    create_project(target, Folders(plant / "good", plant / "defects", plant / "masks"), 60)
    return target


def test_the_project_is_committed_and_its_settings_are_valid(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert git_status(project) == ""
    ignored = (project / ".gitignore").read_text().splitlines()
    assert len(ignored) == len(set(ignored))
    monkeypatch.chdir(project)
    params = load_params()
    assert (str(params.data.root), params.data.classes) == ("data/raw", ["dent", "scratch"])
    assert params.data.channels == 1, "the colour files show no colours"
    assert params.sample is None
    assert params.report.title == "line3"
    detector = load_settings(project / "detector.yaml", {})
    assert (detector.source, detector.adapter, str(detector.root)) == ("real", "folder", "data/raw")
    assert (detector.residual_metric, detector.false_alarms) == ("choose", 0.01)


def test_the_first_stages_run_outside_the_clone_and_leave_it_clean(
    project: Path, plant: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool, images = git_status(ROOT), hashes(plant)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "METALDEF"))}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
    environment = kept | {"PYTHONPATH": str(ROOT), "PATH": path}

    done = subprocess.run(
        [sys.executable, "-m", "dvc", "repro", "merge"],
        cwd=project, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    table = pd.read_parquet(project / "data/merged/samples.parquet")
    assert table["label"].value_counts().to_dict() == {"dent": 15, "scratch": 15}
    assert table["mask_path"].notna().all()
    assert len(list((project / "data/merged/inspection").glob("*/good/*.png"))) == 60
    assert yaml.safe_load((project / "code.yaml").read_text()) == code_digests()
    assert (project / "mlruns/mlflow.db").is_file()
    monkeypatch.chdir(project)
    with Repo() as repo:
        assert repo.status(targets=["merge"]) == {}
    (project / "code.yaml").write_text(yaml.safe_dump(code_digests() | {"merge": "upgraded"}))
    with Repo() as repo:
        changed = repo.status(targets=["merge"])["merge"]
    assert {"changed deps": {"code.yaml": {"merge": "modified"}}} in changed
    assert git_status(ROOT) == tool
    assert hashes(plant) == images


def test_every_stage_names_its_own_code_and_no_file_of_the_package(project: Path) -> None:
    stages = yaml.safe_load((project / "dvc.yaml").read_text())["stages"]
    tool = yaml.safe_load(STAGES.read_text())["stages"]
    assert stages.keys() == tool.keys() - {"sample"} | {"code"}
    assert stages.pop("code")["always_changed"] is True
    for name, entry in stages.items():
        assert {"code.yaml": [name]} in entry["params"]
        assert not [dep for dep in entry["deps"] if in_package(dep) or "sample" in dep]
        assert entry["cmd"] == tool[name]["cmd"]


def test_an_upgrade_changes_the_digests_of_the_stages_that_it_concerns(tmp_path: Path) -> None:
    stages = yaml.safe_load(STAGES.read_text())["stages"]
    for name in {dep for entry in stages.values() for dep in entry["deps"] if in_package(dep)}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    before = code_digests(tmp_path)
    assert before == code_digests()
    with (tmp_path / "metaldefect/ingest/augment.py").open("a") as stream:
        stream.write("# changed\n")
    after = code_digests(tmp_path)
    assert [name for name in before if before[name] != after[name]] == ["augment"]
    (tmp_path / "metaldefect/weights/vq16_small.safetensors").write_bytes(b"other weights")
    after = code_digests(tmp_path)
    assert {name for name in before if before[name] != after[name]} == {"augment", "finetune_vq"}


def test_what_the_command_prints(plant: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (plant / "good").glob("g1?.*"):
        save(tmp_path / f"normal/{path.name}", metal(int(path.stem[1:]), SHAPE), 0)
    given = ["--good", tmp_path / "normal", "--defects", plant / "defects", "--masks", plant / "masks"]
    with pytest.raises(SystemExit) as finished:
        main(["new", str(tmp_path / "line4"), *map(str, given), "--minutes", "45"])
    assert finished.value.code == 0
    printed = capsys.readouterr().out
    assert "  dent        15, 15 with a mask\n  good        10, no defect" in printed
    steps = [line.strip() for line in printed[printed.index("is ready. Next:") :].splitlines()]
    assert steps[-7:] == [
        f"cd {tmp_path / 'line4'}",
        "# seconds: your defects, moved into your good images",
        "metaldefect insert --images data/raw/good --method transplant --defects data/raw --label dent"
        " --label scratch --output inserted",
        "# about 10 minutes: a first detector",
        "metaldefect train --config detector.yaml",
        "# about 45 minutes on two cores: everything, on reports/index.html",
        "dvc repro",
    ]


def test_printed_commands_survive_spaces_in_paths_and_classes(tmp_path: Path) -> None:
    for k in range(3):
        save(tmp_path / f"good/{k}.png", metal(k, SHAPE), 0)
        image, mask = defective(1000 + k, "dent", SHAPE)
        save(tmp_path / f"defects/deep dent/{k}.png", image, 0)
        save(tmp_path / f"masks/deep dent/{k}.png", mask, 0)
    target = tmp_path / "line 5"
    told = create_project(target, Folders(*(tmp_path / name for name in ("good", "defects", "masks"))), 60)
    commands = [shlex.split(line, comments=True) for line in told.partition("Next:")[2].splitlines()]
    assert ["cd", str(target)] in commands
    (insert,) = [words for words in commands if words[:2] == ["metaldefect", "insert"]]
    assert insert[insert.index("--label") + 1] == "deep dent"
    assert shlex.join(insert) in (target / "README.md").read_text()


def test_steps_fill_the_minutes_that_other_stages_leave() -> None:
    # 40 minutes: 720 s of 4.8 s, 1200 s of 1.07 s, 480 s of 0.65 s
    assert training_steps(60) == {"finetune_vq": 150, "train_maskgit": 1121, "train_efficientad": 738}
    with pytest.raises(UserError, match="at least 30"):
        training_steps(29)


def broken_image(root: Path) -> None:
    (root / "good/broken.png").write_text("no image")


def mask_without_image(root: Path) -> None:
    save(root / "masks/dent/dent99.png", defective(1, "dent", SHAPE)[1], 0)


def loose_image(root: Path) -> None:
    save(root / "defects/loose.png", metal(5, SHAPE), 0)


def mask_of_another_size(root: Path) -> None:
    save(root / "masks/dent/dent0.png", defective(1, "dent", (50, 60))[1], 0)


def no_defects(root: Path) -> None:
    shutil.rmtree(root / "defects")
    (root / "defects").mkdir()


def good_among_the_classes(root: Path) -> None:
    shutil.copytree(root / "good", root / "defects/good")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (broken_image, r"1 file\(s\) cannot be used.*\n  \S*/good/broken.png: unreadable image"),
        (mask_without_image, r"\n  \S*/masks/dent/dent99.png: mask without its image"),
        (loose_image, r"loose.png, \.\.\.\) beside class folders \(dent, scratch\)"),
        (mask_of_another_size, r"\n  \S*/defects/dent/dent0.png: its mask dent0.png: "),
        (no_defects, "holds no images: --defects names"),
        (good_among_the_classes, "a class of defects called 'good'"),
    ],
)
def test_unusable_folders_are_refused_and_nothing_is_left(
    spoil: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    write_folders(tmp_path, defects=2, good=3)
    spoil(tmp_path)
    folders = Folders(tmp_path / "good", tmp_path / "defects", tmp_path / "masks")
    with pytest.raises(UserError, match=message):
        create_project(tmp_path / "made/line3", folders, 60)
    assert not list((tmp_path / "made").glob("*")) if (tmp_path / "made").exists() else True


def test_no_project_inside_the_tool_nor_over_another_folder(
    plant: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = Folders(plant / "good", None, None)
    with pytest.raises(UserError, match=r"inside the tool's own folder: name a place outside, such as \.\./"):
        create_project(ROOT / "line3", folders, 60)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="holds the folder you are in: go one up"):
        create_project(Path(), folders, 60)
    monkeypatch.undo()
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="exists already"):
        create_project(tmp_path, folders, 60)


@pytest.mark.parametrize(
    ("files", "given", "copies"),
    [
        (
            ["dents/1.png", "marks/1_mask.png"],
            {"defects": "dents", "masks": "marks"},
            {"dents/1.png": "dents/1.png", "masks/dents/1_mask.png": "marks/1_mask.png"},
        ),
        (
            ["all/dent/a.png", "all/scratch/day 1/b.png", "flat/a.png", "flat/b.png"],
            {"defects": "all", "masks": "flat"},
            {
                "dent/a.png": "all/dent/a.png",
                "scratch/day 1/b.png": "all/scratch/day 1/b.png",
                "masks/dent/a.png": "flat/a.png",
                "masks/scratch/day 1/b.png": "flat/b.png",
            },
        ),
        (
            ["all/dent/a.png", "all/ground_truth/dent/a.png", "all/normal/n.png", "all/Thumbs.db"],
            {"defects": "all", "good": "all/normal"},
            {"dent/a.png": "all/dent/a.png", "masks/dent/a.png": "all/ground_truth/dent/a.png"},
        ),
        (
            ["photos/1.png", "photos/good/n.png"],
            {"defects": "photos", "good": "photos/good"},
            {"photos/1.png": "photos/1.png"},
        ),
        (
            ["scratch/1.png", "scratch/masks/1.png"],
            {"defects": "scratch"},
            {"scratch/1.png": "scratch/1.png", "masks/scratch/1.png": "scratch/masks/1.png"},
        ),
        (
            ["scratch/1.png", "scratch/labels/1.png"],
            {"defects": "scratch", "masks": "scratch/labels"},
            {"scratch/1.png": "scratch/1.png", "masks/scratch/1.png": "scratch/labels/1.png"},
        ),
    ],
)
def test_layouts_of_folders(
    files: list[str], given: dict[str, str], copies: dict[str, str], tmp_path: Path
) -> None:
    for name in [*files, "good/n.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    folders = {name: tmp_path / path for name, path in given.items()}
    good = folders.get("good", tmp_path / "good")
    found = plan_copies(Folders(good, folders.get("defects"), folders.get("masks")))
    assert found.pop("good/n.png") == good / "n.png"
    assert {name: str(path.relative_to(tmp_path)) for name, path in found.items()} == copies


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"defects": "all/bad"}, "--defects .*all/bad lies inside --good .*all, where every file counts"),
        ({"defects": "all"}, "--defects .*all lies inside --good"),
        ({"defects": "link"}, "--defects .*link lies inside --good"),
        ({"defects": "elsewhere", "masks": "all/marks"}, "--masks .*all/marks lies inside --good"),
    ],
)
def test_defects_among_the_good_images_are_refused(
    given: dict[str, str], message: str, tmp_path: Path
) -> None:
    for name in ("all/n.png", "all/bad/1.png", "all/marks/1.png", "elsewhere/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to(tmp_path / "all/bad")
    folders = {name: tmp_path / path for name, path in given.items()}
    with pytest.raises(UserError, match=message):
        plan_copies(Folders(tmp_path / "all", folders.get("defects"), folders.get("masks")))


def test_a_wheel_holds_what_a_project_is_made_from() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packed = tool["package-data"]
    needed = [path.relative_to(ROOT).as_posix() for path in (ROOT / "pipeline/project").iterdir()]
    stages = yaml.safe_load(STAGES.read_text())["stages"]
    needed += [dep for entry in stages.values() for dep in entry["deps"] if in_package(dep)]
    assert "pipeline/project/stages.yaml" in needed
    for name in needed:
        package, inner = name.split("/", 1)
        assert f"{package}*" in tool["packages"]["find"]["include"]
        patterns = [pattern.replace("**/", "") for pattern in packed.get(package, [])]
        assert name.endswith(".py") or any(fnmatch(inner, pattern) for pattern in patterns), name


def test_a_project_of_coloured_images_keeps_their_colours() -> None:
    text = params_text("line3", ["dent"], training_steps(60), 3)
    assert yaml.safe_load(text)["data"] == {"root": "data/raw", "channels": 3, "classes": ["dent"]}
