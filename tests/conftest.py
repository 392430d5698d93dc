"""A toy DVC project: a diamond of four stages that are one-line Python commands."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import settings
from playwright.sync_api import sync_playwright

# The same cases in every run, so that a change fails by its own fault; `--hypothesis-profile=search` draws
# new ones
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("search", derandomize=False, deadline=None, print_blob=True)
settings.load_profile("fixed")

# Whole pipeline runs, and flows on a server, which wait most of the time: minutes each
LONGEST = (
    "tests/e2e/test_pipeline.py",
    "tests/e2e/test_new_project.py",
    "tests/flows/test_deployment.py",
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# ImageEditor needs WebGL, which a headless browser has in software only
FLAGS = [
    "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist",
]  # fmt: skip

TOY_PIPELINE = """\
stages:
  first:
    cmd: python make.py first.txt params.yaml
    deps: [make.py]
    params: [first]
    outs: [first.txt]
  slow:
    cmd: sleep 1 && python make.py slow.txt first.txt
    deps: [make.py, first.txt]
    outs: [slow.txt]
  quick:
    cmd: python make.py quick.txt first.txt
    deps: [make.py, first.txt]
    outs: [quick.txt]
    metrics:
      - metrics/quick.json: {cache: false}
  last:
    cmd: python make.py last.txt slow.txt quick.txt
    deps: [make.py, slow.txt, quick.txt]
    outs: [last.txt]
"""

TOY_STAGE = """\
import os
import sys
from pathlib import Path

print("making", sys.argv[1], os.environ.get("METALDEFECT_PARENT_RUN_ID", "without parent"))
Path(sys.argv[1]).write_text("".join(Path(path).read_text() for path in sys.argv[2:]))
if sys.argv[1] == "quick.txt":
    Path("metrics").mkdir(exist_ok=True)
    Path("metrics/quick.json").write_text('{"total": 12345}')
"""


def may_skip(missing: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether tests without a tool are skipped. In GitHub's CI they fail, not to be missed."""
    return bool(missing) and not environment.get("GITHUB_ACTIONS")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest files first: last, they would keep the other workers waiting."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium, one per worker, because Playwright starts only once in a thread.

    Tests that need it are skipped where there is none, and fail in CI.
    """
    if CHROMIUM is None:
        complain = pytest.skip if may_skip(["chromium"], os.environ) else pytest.fail
        complain("no chromium is installed: apt-get install chromium")
    with sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


def clean_environment(tmp_path: Path) -> dict[str, str]:
    """This process's environment without anything that points to a real server, store or pipeline run."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if key == "METALDEFECT_THREADS" or not key.startswith(("PREFECT_", "MLFLOW_", "METALDEFECT_"))
    }
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
    return kept | {
        "PATH": path,
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "DVC_NO_ANALYTICS": "1",
        "DVC_GLOBAL_CONFIG_DIR": str(tmp_path / "dvc-config"),
        "DVC_SITE_CACHE_DIR": str(tmp_path / "dvc-site"),
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
    }


@pytest.fixture(scope="session")
def alive() -> Callable[[int], bool]:
    """Whether a process runs; a zombie does not."""

    def ask(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return ask


@pytest.fixture(scope="session")
def make_environment() -> Callable[[Path], dict[str, str]]:
    return clean_environment


def made_once(factory: pytest.TempPathFactory, name: str, fill: Callable[[Path], object]) -> Path:
    """A folder that all workers of this run read, and the first of them who needs it has filled."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, unfinished = base / name, base / f"{name}-unfinished-{os.getpid()}"
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            unfinished.mkdir()
            fill(unfinished)
            unfinished.rename(folder)
    return folder


@pytest.fixture(scope="session")
def migrated_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Prefect home with an empty database; making one takes ten seconds, so tests copy it."""
    script = "from pipeline.prefect_settings import migrate_database; migrate_database()"

    def fill(folder: Path) -> None:
        subprocess.run([sys.executable, "-c", script], env=clean_environment(folder), check=True)

    return made_once(tmp_path_factory, "migrated", fill) / "prefect"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return clean_environment(tmp_path)


@pytest.fixture
def with_database(environment: dict[str, str], migrated_home: Path) -> dict[str, str]:
    """`environment`, with a database of its own in its Prefect home."""
    shutil.copytree(migrated_home, environment["PREFECT_HOME"])
    return environment


@pytest.fixture(scope="session")
def tracking_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database without any experiment; making its tables takes five seconds, so tests copy it."""
    script = "from mlflow import MlflowClient; MlflowClient('sqlite:///mlflow.db').search_experiments()"

    def fill(folder: Path) -> None:
        subprocess.run([sys.executable, "-c", script], cwd=folder, env=clean_environment(folder), check=True)

    return made_once(tmp_path_factory, "tracking", fill) / "mlflow.db"


@pytest.fixture(scope="session")
def give_store(tracking_store: Path) -> Callable[[Path], None]:
    """Give a project an MLflow store of its own, without any experiment."""

    def give(root: Path) -> None:
        (root / "mlruns").mkdir(parents=True)
        shutil.copyfile(tracking_store, root / "mlruns/mlflow.db")

    return give


@pytest.fixture(scope="session")
def write_toy(give_store: Callable[[Path], None]) -> Callable[[Path, dict[str, str]], Path]:
    """Make a toy project in a new folder; nothing has run in it."""

    def make(root: Path, environment: dict[str, str]) -> Path:
        give_store(root)
        (root / "dvc.yaml").write_text(TOY_PIPELINE)
        (root / "make.py").write_text(TOY_STAGE)
        (root / "params.yaml").write_text("first: {value: 1}\n")
        (root / ".gitignore").write_text("mlruns/\n.prefect/\n")
        for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
            subprocess.run(command, cwd=root, env=environment, check=True)
        return root

    return make


@pytest.fixture
def make_toy(
    tmp_path: Path, environment: dict[str, str], write_toy: Callable[[Path, dict[str, str]], Path]
) -> Callable[[str], Path]:
    """Make a toy project under a name."""
    return lambda name: write_toy(tmp_path / name, environment)


@pytest.fixture
def toy(make_toy: Callable[[str], Path]) -> Path:
    return make_toy("toy")


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Exported detectors of planted quality, and the dataset that tells them apart; tests change neither."""
    from tests.planted_detectors import plant

    return {path.name: path for path in made_once(tmp_path_factory, "planted", plant).iterdir()}
