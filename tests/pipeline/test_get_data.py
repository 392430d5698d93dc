"""Real data comes through the pinned imports, whole or not at all; the pipeline does not wait for it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path

import pygit2
import pytest
import yaml
from dvc.repo import Repo
from dvc.repo.open_repo import clean_repos
from pygit2.enums import ConfigLevel

from metaldefect.errors import UserError
from metaldefect.ingest import raw_datasets
from metaldefect.ingest.raw_datasets import RAW_DATASETS, RawDataset
from pipeline import get_data
from pipeline.cli import app

ROOT = Path(__file__).resolve().parents[2]
IMPORTS = sorted((ROOT / "data/raw").glob("*.dvc"))
URL = "https://github.com/somebody/steel"
TINY = RawDataset("X-SDD", {".jpg": 2}, "free for all", "github.com/somebody/steel")


def git(folder: Path, *words: str) -> str:
    names = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    return subprocess.run(
        ["git", *names, *words], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A git repository that stands in for the one at `URL`: two images, and a later commit with three."""
    folder = tmp_path / "upstream"
    (folder / "X-SDD/datas/red iron").mkdir(parents=True)
    git(tmp_path, "init", "-q", str(folder))
    for k in range(2):
        (folder / f"X-SDD/datas/red iron/{k}.jpg").write_bytes(b"image %d" % k)
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "two")
    git(folder, "tag", "two")
    (folder / "X-SDD/datas/red iron/2.jpg").write_bytes(b"image 2")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "three")
    settings = tmp_path / "home/.gitconfig"
    settings.parent.mkdir()
    settings.write_text(f'[url "file://{folder}"]\n\tinsteadOf = {URL}\n')
    # DVC's own git reads the file in HOME, as it was when this process used it first; the git command reads
    # the variable
    monkeypatch.setenv("HOME", str(settings.parent))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    home = pygit2.settings.search_path[ConfigLevel.GLOBAL]
    pygit2.settings.search_path[ConfigLevel.GLOBAL] = str(settings.parent)
    yield folder
    pygit2.settings.search_path[ConfigLevel.GLOBAL] = home


@pytest.fixture
def project(tmp_path: Path, upstream: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC project with the real `.gitignore`, one import and a stage that reads the data root."""
    folder = tmp_path / "project"
    (folder / "data/sample").mkdir(parents=True)
    (folder / "data/raw").mkdir()
    (folder / "data/sample/a.txt").write_text("a")
    shutil.copy(ROOT / ".gitignore", folder)
    git(tmp_path, "init", "-q", str(folder))
    with chdir(folder):
        Repo.init().close()
    (folder / "params.yaml").write_text("data: {root: data/sample}\n")
    stage = {"cmd": "ls -R ${data.root} > list.txt", "deps": ["${data.root}"], "outs": ["list.txt"]}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"merge": stage}}))
    write_import(folder, git(upstream, "rev-parse", "two"))
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "project")
    for module in (get_data, raw_datasets):
        monkeypatch.setattr(module, "RAW_DATASETS", (TINY,))
    return folder


def write_import(project: Path, revision: str, **out: object) -> None:
    content = {
        "frozen": True,
        "deps": [
            {"path": "X-SDD/datas", "repo": {"url": URL, "rev": revision, "rev_lock": revision}},
        ],
        "outs": [{"hash": "md5", "path": "../imports/X-SDD/datas", **out}],
    }
    (project / "data/raw/x_sdd.dvc").write_text(yaml.safe_dump(content))


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def run(project: Path, source: Path | None = None) -> str:
    # not through the command line: DVC keeps the stream that pytest captures, and closes after the test
    with chdir(project):
        return "\n".join(get_data.get_data(source))


WHOLE = ["X-SDD/datas/red iron/0.jpg", "X-SDD/datas/red iron/1.jpg", "x_sdd.dvc"]


def test_the_pinned_revision_is_fetched(project):
    output = run(project)
    assert files(project / "data/raw") == WHOLE
    assert "data/raw/X-SDD: 2 .jpg\n" in output
    assert "licence: free for all" in output
    assert "without a hash of their own: x_sdd.dvc" in output
    # nothing that git tracks has changed
    assert git(project, "status", "--short") == ""


def test_data_that_is_there_is_kept(project):
    mine = project / "data/raw/X-SDD/datas/red iron"
    mine.mkdir(parents=True)
    for k in (7, 8):
        (mine / f"{k}.jpg").write_bytes(b"mine")
    run(project)
    assert files(project / "data/raw/X-SDD") == ["datas/red iron/7.jpg", "datas/red iron/8.jpg"]


def test_a_repository_that_gives_something_else_is_refused(project, upstream):
    write_import(project, git(upstream, "rev-parse", "HEAD"))
    with pytest.raises(UserError, match=r"no whole copy of X-SDD: 3 \.jpg files, expected 2"):
        run(project)
    write_import(project, git(upstream, "rev-parse", "two"), md5="0" * 32 + ".dir", size=1, nfiles=2)
    with pytest.raises(UserError, match=r"x_sdd\.dvc: cannot fetch"):
        run(project)
    assert files(project / "data/raw") == ["x_sdd.dvc"]


def test_without_a_connection_the_message_says_what_to_do(project, upstream):
    clean_repos()  # DVC keeps clones for the length of the process, those of earlier tests too
    shutil.rmtree(upstream)
    with pytest.raises(UserError, match=rf"^data/raw/x_sdd\.dvc: cannot fetch {URL} at ") as caught:
        run(project)
    assert "make data FROM=<folder of tars or dataset folders>" in str(caught.value)
    assert files(project / "data/raw") == ["x_sdd.dvc"]


def test_local_copies(project, upstream, tmp_path, capsys):
    shutil.rmtree(upstream / "X-SDD/datas/red iron")
    copies = tmp_path / "copies/X-SDD/datas/red iron"
    copies.mkdir(parents=True)
    for k in range(2):
        (copies / f"{k}.jpg").write_bytes(b"x")
    (tmp_path / "copies/holiday").mkdir()
    app(["get-data", "--root", str(project), "--from", str(tmp_path / "copies")], standalone_mode=False)
    assert files(project / "data/raw") == WHOLE
    assert "left alone: holiday holds none of the datasets" in capsys.readouterr().out


def test_outside_a_project(tmp_path):
    with pytest.raises(UserError, match=r"data/raw holds no \.dvc files: run from the project's folder"):
        app(["get-data", "--root", str(tmp_path)], standalone_mode=False)


def reproduce(project: Path) -> str:
    with chdir(project), Repo(".") as repo:
        repo.reproduce()
        assert repo.status() == {}
    return (project / "list.txt").read_text()


def test_the_pipeline_neither_needs_nor_touches_the_imports(project, upstream, tmp_path):
    shutil.move(upstream, tmp_path / "gone")
    assert reproduce(project).splitlines() == ["data/sample:", "a.txt"]
    (project / "params.yaml").write_text("data: {root: data/raw}\n")
    own = project / "data/raw/own/dent"
    own.mkdir(parents=True)
    (own / "1.png").write_bytes(b"x")
    assert "1.png" in reproduce(project)
    assert not (project / "data/imports").exists()


def test_every_dataset_is_imported_from_a_pinned_revision():
    assert len(IMPORTS) == 12
    with chdir(ROOT):
        by_dataset = {dataset.folder: get_data.import_files(dataset) for dataset in RAW_DATASETS}
    assert {folder: len(found) for folder, found in by_dataset.items()} == {
        "NEU-DET": 4,
        "SD-saliency-900": 1,
        "X-SDD": 1,
        "Magnetic-tile-defect": 6,
        "imagenet_sample_256": 0,
    }
    for path in IMPORTS:
        content = yaml.safe_load(path.read_text())
        repository = content["deps"][0]["repo"]
        assert content["frozen"] is True
        assert repository["url"].startswith("https://github.com/")
        assert re.fullmatch(r"[0-9a-f]{40}", repository["rev_lock"])
        assert repository["rev"] == repository["rev_lock"]


def test_imports_can_be_committed_and_what_they_fetch_cannot():
    def ignored(path: str) -> bool:
        return subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT).returncode == 0

    assert not any(ignored(str(path)) for path in IMPORTS)
    assert ignored("data/raw/NEU-DET/IMAGES/crazing_1.jpg")
    assert ignored("data/imports/NEU-DET/IMAGES/crazing_1.jpg")


SHARED = ROOT / "../shared/data"
HASHED = [path for path in IMPORTS if "md5" in yaml.safe_load(path.read_text())["outs"][0]]


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the real datasets are not here")
def test_the_hashes_are_those_of_the_real_files(tmp_path: Path, hash_of: Callable[[Path], str]):
    assert len(HASHED) == 8
    for name in ("sd_saliency_900", "x_sdd", "magnetic_tile"):
        raw_datasets.unpack(SHARED / f"{name}.tar", tmp_path)
    (tmp_path / "SD-saliency-900/SOURCE.txt").unlink()
    for path in HASHED:
        content = yaml.safe_load(path.read_text())["outs"][0]
        folder = tmp_path / Path(content["path"]).relative_to("../imports")
        assert (path.name, content["md5"]) == (path.name, hash_of(folder))
        assert content["nfiles"] == len(files(folder))


@pytest.fixture
def hash_of() -> Callable[[Path], str]:
    """hash_of(folder): the hash that DVC gives to a folder."""
    from dvc.fs import LocalFileSystem
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.db import HashFileDB
    from dvc_objects.fs.memory import MemoryFileSystem

    def compute(folder: Path) -> str:
        memory = HashFileDB(MemoryFileSystem(global_store=False), "/")
        return str(build(memory, str(folder), LocalFileSystem(), "md5", dry_run=True)[2].hash_info.value)

    return compute


def test_images_of_ones_own_below_data_raw_are_no_import(project):
    own = {"outs": [{"md5": "0" * 32, "path": "my-plant"}]}
    (project / "data/raw/my-plant.dvc").write_text(yaml.safe_dump(own))
    run(project)
    assert (project / "data/raw/X-SDD").is_dir()
