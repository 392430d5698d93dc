"""`metaldefect doctor`: check what this machine and this folder still need, one line per check.

`ok` is fine, `note` is worth knowing, `FAIL` breaks something and says how to fix it.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from metaldefect.errors import UserError
from pipeline.code_version import INSTALLED
from pipeline.prefect_settings import database_file, prepare_environment
from pipeline.run import TRACKING_DIRECTORY

MIN_PYTHON = (3, 11)
MIN_DISK_GB = 10
MIN_MEMORY_GB = 6
PORTS = {"MLflow": 5000, "Prefect": 4200, "Gradio": 7860}
# torchvision's file name for the LPIPS backbone
VGG_FILE = "vgg16-397923af.pth"
SERVER_TIMEOUT_SECONDS = 5.0
BF16_UNITS = ("avx512_bf16", "amx_bf16")

# Another version of these packages installs without an error and then breaks what is named here.
PINS_THAT_MATTER = {
    "fastapi": "every Prefect flow fails with an unexpected keyword argument 'min_items'",
    "sqlalchemy": "Prefect's schedule silently never starts a run",
    "onnxscript": "torch cannot export ONNX",
    "torchvision": "torchvision does not import beside this torch",
}


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    level: Literal["ok", "note", "FAIL"]
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.level:<4} {self.name}: {self.text}"


def check_python(_root: Path) -> Iterator[Finding]:
    """Check the interpreter's version."""
    version = platform.python_version()
    if sys.version_info < MIN_PYTHON:
        yield Finding(
            "FAIL", "python", f"{version} is older than 3.11; make the environment with a newer one"
        )
    else:
        yield Finding("ok", "python", f"{version} in {sys.prefix}")


def check_pins(root: Path) -> Iterator[Finding]:
    """Compare the installed versions with `constraints.txt`, and report `PINS_THAT_MATTER` one by one.

    A project of `metaldefect new` has no such file: that of the clone it was made with counts.
    """
    found_in = [folder for folder in (root, INSTALLED) if (folder / "constraints.txt").is_file()]
    if not found_in:
        yield Finding("note", "pins", "no constraints.txt beside the package: versions are not checked")
        return
    file = found_in[0] / "constraints.txt"
    wanted = read_pins(file.read_text(encoding="utf-8"))
    installed: dict[str, str] = {
        canonicalize_name(found.name): found.version
        for found in importlib.metadata.distributions()
        if found.name
    }
    for name, breaks in PINS_THAT_MATTER.items():
        version, requirement = installed.get(name), wanted.get(name)
        if version is None:
            yield Finding("FAIL", name, f"not installed, so {breaks}; {install_pins()}")
        elif requirement is None or requirement.specifier.contains(version, prereleases=True):
            yield Finding("ok", name, version)
        else:
            asked = f"{version} instead of {requirement.specifier}"
            yield Finding("FAIL", name, f"{asked}: {breaks}; {install_pins()}")
    others = [
        f"{name} {installed[name]} (pinned {requirement.specifier})"
        for name, requirement in wanted.items()
        if name in installed
        and name not in PINS_THAT_MATTER
        and not requirement.specifier.contains(installed[name], prereleases=True)
    ]
    if others:
        yield Finding("note", "pins", f"differ from constraints.txt: {', '.join(others)}; {install_pins()}")
    else:
        count = len(wanted.keys() & installed.keys())
        yield Finding("ok", "pins", f"{count} installed packages as in constraints.txt")


def read_pins(text: str) -> dict[str, Requirement]:
    """Parse a constraints file into canonical name -> requirement.

    Raises:
        UserError: a line is not a requirement.
    """
    pins: dict[str, Requirement] = {}
    for line in text.splitlines():
        wish = line.split("#", 1)[0].strip()
        if not wish or wish.startswith("-"):
            continue
        try:
            requirement = Requirement(wish)
        except InvalidRequirement as error:
            raise UserError(f"constraints.txt: {wish!r} is no requirement: {error}") from error
        pins[canonicalize_name(requirement.name)] = requirement
    return pins


def install_pins() -> str:
    """The command that fixes wrong versions."""
    return f"type `pip install -c {INSTALLED}/constraints.txt -e {INSTALLED}`"


def check_requirements(_root: Path) -> Iterator[Finding]:
    """Run `pip check`: are the installed packages compatible with each other?"""
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    if done.returncode == 0:
        yield Finding("ok", "pip check", "the installed packages go together")
    else:
        lines = (done.stdout or done.stderr).strip().splitlines()
        yield Finding("FAIL", "pip check", f"{'; '.join(lines[:5])}; {install_pins()}")


def check_ports(_root: Path) -> Iterator[Finding]:
    """Check whether the ports of the user interfaces are free on this machine."""
    for name, port in PORTS.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                text = f"port {port} is in use by this project's server or by a program to stop first"
                yield Finding("note", name, text)
            else:
                yield Finding("ok", name, f"port {port} is free")


def check_prefect(_root: Path) -> Iterator[Finding]:
    """Check that Prefect's server answers, or that Prefect's own database exists."""
    file = database_file()
    if file is None:
        yield check_prefect_server(os.environ.get("PREFECT_API_URL"))
    elif not file.is_file():
        text = "not made yet; the first `python -m flows.run` makes it"
        yield Finding("note", "Prefect database", text)
    elif (revision := table_value(file, "alembic_version", "version_num")) is None:
        mend = f"delete {file} and type `prefect server database upgrade -y` with PREFECT_HOME={file.parent}"
        yield Finding("FAIL", "Prefect database", f"{file} holds no Prefect tables; {mend}")
    else:
        yield Finding("ok", "Prefect database", f"{file}, migrated to {revision}")


def check_prefect_server(url: str | None) -> Finding:
    """Check that the server at `PREFECT_API_URL` answers Prefect's `/health` route."""
    if not url:
        return Finding("ok", "Prefect database", "runs go to another database")
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=SERVER_TIMEOUT_SECONDS):
            return Finding("ok", "Prefect server", f"runs go to {url}")
    except (OSError, ValueError) as error:
        mend = "start it with `metaldefect deploy`, or unset PREFECT_API_URL"
        return Finding("FAIL", "Prefect server", f"PREFECT_API_URL={url} does not answer ({error}); {mend}")


def check_watchdog(root: Path) -> Iterator[Finding]:
    """Check that a watchdog that was started here still runs: nothing else reports that it ended."""
    from pipeline.deployment import Background  # imports much that a broken environment may lack

    watchdog = Background(root, "watchdog")
    if not watchdog.record.is_file():
        return
    if (process := watchdog.process()) is not None:
        yield Finding("ok", "watchdog", f"process {process.pid}")
    else:
        text = (
            f"it has ended, so nothing reports what stands still: type `metaldefect deploy`; {watchdog.log}"
        )
        yield Finding("FAIL", "watchdog", f"{text} may say why")


def check_mlflow(root: Path) -> Iterator[Finding]:
    """Check that MLflow's store exists and that the installed MLflow can read its version."""
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        yield Finding("ok", "MLflow store", f"runs go to {uri}")
        return
    file = root / TRACKING_DIRECTORY / "mlflow.db"
    if not file.is_file():
        yield Finding("note", "MLflow store", "not made yet; the first stage makes it")
        return
    revision = table_value(file, "alembic_version", "version_num")
    if revision is None:
        mend = "move it away: the next run makes a new one"
        yield Finding("FAIL", "MLflow store", f"{file} is no MLflow store; {mend}")
    elif revision not in mlflow_revisions():
        text = f"{file} was written by a newer MLflow (revision {revision}); {install_pins()}"
        yield Finding("FAIL", "MLflow store", text)
    else:
        yield Finding("ok", "MLflow store", f"{file}, revision {revision}")


def mlflow_revisions() -> set[str]:
    """The store revisions that the installed MLflow knows, read from its migration files."""
    from alembic.script import ScriptDirectory

    found = importlib.metadata.distribution("mlflow").locate_file("mlflow/store/db_migrations")
    return {script.revision for script in ScriptDirectory(str(found)).walk_revisions()}


def table_value(file: Path, table: str, column: str) -> str | None:
    """The first value in a column of a SQLite file, or None if the file or table cannot be read."""
    try:
        # As a URI: in a plain path `#` and `?` would end the name
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as store:
            row = store.execute(f"select {column} from {table}").fetchone()
    except sqlite3.Error:
        return None
    return None if row is None else str(row[0])


def check_versioning(root: Path) -> Iterator[Finding]:
    """Check git, DVC, and the remote that DVC pushes to."""
    if shutil.which("git") is None:
        yield Finding("FAIL", "git", "not installed; DVC and the commit tag of every run need it")
    elif run_quietly(["git", "rev-parse", "--short", "HEAD"], root) is None:
        text = "this folder has no commit; type `git init && git add -A && git commit -m start`"
        yield Finding("note", "git", text)
    else:
        yield Finding("ok", "git", f"at {run_quietly(['git', 'rev-parse', '--short', 'HEAD'], root)}")
    if not (root / ".dvc").is_dir():
        yield Finding("FAIL", "DVC", f"{root} is not a DVC repository; type `dvc init`")
        return
    yield Finding("ok", "DVC", importlib.metadata.version("dvc"))
    remotes = run_quietly([sys.executable, "-m", "dvc", "remote", "list"], root)
    if remotes:
        yield Finding("ok", "DVC remote", ", ".join(" ".join(line.split()) for line in remotes.splitlines()))
    else:
        text = "none: data stay on this machine; type `dvc remote add -d storage <path or s3://bucket>`"
        yield Finding("note", "DVC remote", text)


def run_quietly(command: list[str], cwd: Path) -> str | None:
    """A command's output, or None if the command fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def check_machine(root: Path) -> Iterator[Finding]:
    """Check disk and memory, and report which fast instructions the processor has."""
    free = shutil.disk_usage(root).free / 1e9
    if free < MIN_DISK_GB:
        yield Finding(
            "FAIL",
            "disk",
            f"{free:.1f} GB free, {MIN_DISK_GB} needed; after `dvc push`, and while no"
            " run is going on, `dvc gc --all-branches --all-tags` removes outs that no commit names",
        )
    else:
        yield Finding("ok", "disk", f"{free:.0f} GB free")
    memory = psutil.virtual_memory()
    total, available = memory.total / 1e9, memory.available / 1e9
    text = f"{available:.1f} of {total:.1f} GB available"
    if available < MIN_MEMORY_GB:
        yield Finding("note", "memory", f"{text}; the default run needs up to {MIN_MEMORY_GB}")
    else:
        yield Finding("ok", "memory", text)
    units = [unit for unit in BF16_UNITS if unit in cpu_features()]
    cores = f"{os.cpu_count()} cores"
    if units:
        yield Finding("ok", "processor", f"{cores}, bfloat16 by {' and '.join(units)}")
    else:
        yield Finding("note", "processor", f"{cores}, no bfloat16 units: training is slower, in float32")


def cpu_features() -> set[str]:
    """The processor's feature flags as Linux lists them; empty on other systems."""
    file = Path("/proc/cpuinfo")
    if not file.is_file():
        return set()
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return {word for line in lines if line.startswith(("flags", "Features")) for word in line.split()}


def check_weights(_root: Path) -> Iterator[Finding]:
    """Check the weights that the package ships and the optional LPIPS backbone."""
    folder = INSTALLED / "metaldefect" / "weights"
    shipped = sorted(path.name for path in folder.glob("*.safetensors"))
    if shipped:
        yield Finding("ok", "shipped weights", ", ".join(shipped))
    else:
        mend = "install the package again, or type `git checkout -- metaldefect/weights` in its clone"
        text = f"none in {folder}; {mend}"
        yield Finding("FAIL", "shipped weights", text)
    hub = hub_folder(os.environ)
    if found := lpips_backbone(os.environ):
        yield Finding("ok", "LPIPS backbone", str(found))
    else:
        text = "no VGG16 weights (optional): a perceptual loss on the shipped backbone is used instead; "
        mend = f"put {VGG_FILE} in {hub}, or vgg16.safetensors in a folder that METALDEFECT_WEIGHTS names"
        yield Finding("note", "LPIPS backbone", text + mend)


def lpips_backbone(environment: Mapping[str, str]) -> Path | None:
    """The file that `metaldefect.tokenizer.perceptual` would load, or None.

    Repeats the search without importing torch, which takes seconds.
    """
    hub = hub_folder(environment) / VGG_FILE
    if hub.is_file():
        return hub
    own = environment.get("METALDEFECT_WEIGHTS")
    return next(iter(sorted(Path(own).glob("vgg*.safetensors"))), None) if own else None


def hub_folder(environment: Mapping[str, str]) -> Path:
    """The folder in which torch.hub keeps weights."""
    cache = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(environment.get("TORCH_HOME") or cache / "torch") / "hub" / "checkpoints"


CHECKS: tuple[Callable[[Path], Iterator[Finding]], ...] = (
    check_python,
    check_pins,
    check_requirements,
    check_versioning,
    check_ports,
    check_prefect,
    check_watchdog,
    check_mlflow,
    check_machine,
    check_weights,
)


def diagnose(root: Path) -> list[Finding]:
    """All findings about the project in `root`, in a fixed order."""
    prepare_environment(root)
    return [finding for check in CHECKS for finding in check(root)]
