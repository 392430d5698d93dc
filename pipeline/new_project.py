"""`metaldefect new`: a git and DVC project for the user's own images, which calls this package's stages."""

from __future__ import annotations

import io
import json
import logging
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from ruamel.yaml import YAML

from metaldefect.artifacts import atomic_directory
from metaldefect.commands.check import facts
from metaldefect.commands.settings import FROM_IMAGES
from metaldefect.errors import UserError
from metaldefect.images import Channels
from metaldefect.ingest.overview import Overview
from metaldefect.inspection.layout import GOOD
from pipeline.code_version import CODE, INSTALLED, STAGES, in_package
from pipeline.new_data import Folders, copy_images
from pipeline.params import parse_params
from pipeline.plots_template import template

PARTS = Path(__file__).parent / "project"
RAW = "data/raw"

# Minutes of the default run (README) on two cores without bf16 units: all stages that train nothing, and
# seconds per step of each training
OTHER_MINUTES = 20
STEP_SECONDS = {"finetune_vq": 4.8, "train_maskgit": 1.07, "train_efficientad": 0.65}
# Of the rest of the time. MaskGIT gains most from more steps
SHARES = {"finetune_vq": 0.3, "train_maskgit": 0.5, "train_efficientad": 0.2}
SHORTEST_MINUTES = 30
DETECTOR_MINUTES = 10  # of the detector alone

IGNORED = """\
/data/raw/
/mlruns/
/reports/
/logs/
/.checkpoints/
/detector/
/inserted/
/data/holdout/
/models/bundles/
/models/champion
/models/challenger
/models/champions.jsonl
/inbox/
/quarantine/
/scores/
/.prefect/
.*.tmp-*
.*.old-*
"""
DVC_CONFIG = "[core]\n    analytics = false\n[plots]\n    html_template = plots.html\n"
SAMPLE_PLOTS = "plots/sample"


def create_project(target: Path, folders: Folders, minutes: float) -> str:
    """Make the project's folder; the user's files are only read.

    Args:
        target: the folder to make.
        folders: the user's images.
        minutes: what a run of the whole pipeline should take; see `training_steps`.

    Returns:
        What to tell the user: what the images are, and what to type next.

    Raises:
        UserError: the target cannot be used, files are refused, or the minutes are too few.
    """
    check_target(target)
    steps = training_steps(minutes)
    with atomic_directory(target) as root:
        (root / RAW).mkdir(parents=True)
        seen = copy_images(folders, root / RAW)
        write_files(root, target.resolve().name, seen, steps, minutes)
        start_versioning(root)
    return "\n".join([*facts(seen), "", *next_steps(target, seen, minutes)])


def check_target(target: Path) -> None:
    """Raise `UserError` where no new project may be made."""
    if Path.cwd().is_relative_to(target.resolve()):
        raise UserError(f"{target} holds the folder you are in: go one up and name a folder to make there")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} exists already: choose another name, or remove it")
    if (INSTALLED / ".git").exists() and target.resolve().is_relative_to(INSTALLED.resolve()):
        raise UserError(
            f"{target} would lie inside the tool's own folder: name a place outside, such as ../{target.name}"
        )


def training_steps(minutes: float) -> dict[str, int]:
    """Steps of each training, so that the whole run takes about `minutes` on two cores.

    `OTHER_MINUTES` go to everything else; the trainings share the rest by `SHARES`.

    Raises:
        UserError: too few minutes.
    """
    if minutes < SHORTEST_MINUTES:
        raise UserError(
            f"--minutes {minutes:g}: data, drawing and measuring alone take {OTHER_MINUTES} minutes, so that"
            f" a run needs at least {SHORTEST_MINUTES}"
        )
    seconds = 60 * (minutes - OTHER_MINUTES)
    return {stage: round(share * seconds / STEP_SECONDS[stage]) for stage, share in SHARES.items()}


def write_files(root: Path, name: str, seen: Overview, steps: dict[str, int], minutes: float) -> None:
    """Write everything but the images."""
    classes = [label for label in seen.classes if label != GOOD]
    (root / "params.yaml").write_text(
        params_text(name, classes or [GOOD], steps, seen.channels), encoding="utf-8"
    )
    (root / "dvc.yaml").write_text(graph_text(), encoding="utf-8")
    (root / "detector.yaml").write_text(detector_text(), encoding="utf-8")
    (root / ".gitignore").write_text(IGNORED, encoding="utf-8")
    shutil.copyfile(PARTS / "prefect.yaml", root / "prefect.yaml")
    environment = Environment(
        loader=FileSystemLoader(PARTS), trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    text = environment.get_template("README.md.j2").render(
        name=name,
        classes=classes,
        insert=insert_command(seen),
        minutes=f"{minutes:g}",
        version=version("metaldefect"),
    )
    (root / "README.md").write_text(text, encoding="utf-8")


def round_trip() -> YAML:
    """A YAML reader and writer that keeps comments."""
    reader = YAML()
    reader.preserve_quotes = True
    reader.width = 110
    reader.indent(mapping=2, sequence=4, offset=2)
    reader.representer.add_representer(
        type(None), lambda writer, _: writer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return reader


def edited(file: Path, header: str, changes: dict[str, str]) -> str:
    """A settings file with its comments, another header and other values.

    Args:
        file: it starts with a comment, which an empty line ends.
        header: replaces that comment.
        changes: YAML text of the new value by dotted key.
    """
    reader = round_trip()
    content = reader.load(file.read_text(encoding="utf-8").split("\n\n", 1)[1])
    for key, value in changes.items():
        *parents, last = key.split(".")
        section: Any = content
        for parent in parents:
            section = section[parent]
        if last not in section:
            raise KeyError(f"{file}: {key}")
        section[last] = reader.load(value)
        section.ca.items.pop(last, None)  # its comment explains the old value
    stream = io.StringIO()
    reader.dump(content, stream)
    return header + "\n" + stream.getvalue()


def params_text(name: str, classes: list[str], steps: dict[str, int], channels: Channels) -> str:
    """The project's params.yaml: the default profile on the user's images, with other numbers of steps."""
    header = (
        "# The settings of every stage. `dvc repro` reruns what a change concerns, and nothing else.\n"
        "# Hardware settings (device, threads, workers, precision) are environment variables, such as\n"
        "# METALDEFECT_DEVICE=cuda.\n"
    )
    text = edited(
        PARTS / "params.yaml",
        header,
        {
            "data.root": RAW,
            "data.channels": f"{channels}",
            "data.classes": json.dumps(classes, ensure_ascii=False),
            "sample": "null",
            "merge.image_size": "256",
            "merge.datasets": "[{adapter: folder, root: .}]",
            "merge.inspection.adapter": "folder",
            "merge.inspection.root": ".",
            "finetune_vq.training.steps": f"{steps['finetune_vq']}",
            "finetune_vq.training.discriminator_start": f"{steps['finetune_vq'] // 2}",
            "train_maskgit.training.steps": f"{steps['train_maskgit']}",
            "train_maskgit.training.learning_rate": "1.0e-3",  # metal that the base has not seen
            "synthesize.insertion_attempts": "8",  # few photographs teach little: many tries draw nothing
            "train_efficientad.steps": f"{steps['train_efficientad']}",
            "report.title": json.dumps(name, ensure_ascii=False),
        },
    )
    parse_params(yaml.safe_load(text), "params.yaml of a new project")
    return text


def detector_text() -> str:
    """The settings of the detector alone: those of `metaldefect train` on images, for a few minutes."""
    return edited(
        PARTS / "detector.yaml",
        "# Settings of `metaldefect train --config detector.yaml`: a detector without the pipeline.\n",
        {
            "output": "detector",
            "source": "real",
            "root": RAW,
            "adapter": "folder",
            **{key: f"{value}" for key, value in FROM_IMAGES.items()},
            "minutes": f"{DETECTOR_MINUTES}",
        },
    )


def graph_text() -> str:
    """The project's dvc.yaml: this package's stages without procedural images, with code by its digest."""
    reader = round_trip()
    content = reader.load(STAGES.read_text(encoding="utf-8"))
    stages = content["stages"]
    sample = {out if isinstance(out, str) else next(iter(out)) for out in stages.pop("sample")["outs"]}
    for name, entry in stages.items():
        entry["deps"] = [dep for dep in entry["deps"] if not in_package(dep) and dep not in sample]
        entry["params"] = [*entry.get("params", []), {CODE.name: [name]}]
    stages["report"]["outs"].remove(SAMPLE_PLOTS)
    code = {
        "cmd": "python -m pipeline.code_version",
        "always_changed": True,
        "outs": [{CODE.name: {"cache": False}}],
    }
    stages.insert(0, "code", code)
    content.yaml_set_start_comment(
        "The stages of the installed package `metaldefect`. The stage `code` runs every time and writes\n"
        "what stands for their code, so that an upgrade reruns the stages that it changes.\n"
    )
    stream = io.StringIO()
    reader.dump(content, stream)
    return stream.getvalue()


def start_versioning(root: Path) -> None:
    """Make a git and a DVC repository with a first commit.

    Raises:
        UserError: git is missing or fails.
    """
    from dvc.repo import Repo

    git(root, "init", "--quiet")
    logging.getLogger("dvc").setLevel(logging.WARNING)  # DVC says how to commit, which happens here
    Repo.init(str(root)).close()
    (root / ".dvc/config").write_text(DVC_CONFIG, encoding="utf-8")
    (root / ".dvc/plots.html").write_text(template(), encoding="utf-8")
    git(root, "add", "--all")
    # Whoever has told git no name yet can commit all the same
    known = subprocess.run(["git", "config", "user.email"], cwd=root, capture_output=True).returncode == 0
    identity = [] if known else ["-c", "user.name=metaldefect", "-c", "user.email=metaldefect@localhost"]
    git(root, *identity, "commit", "--quiet", "--message", f"Made by metaldefect {version('metaldefect')}")


def git(root: Path, *arguments: str) -> None:
    """Run git in a folder; raises `UserError` with its message."""
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise UserError("git is missing: install it, for example with `apt install git`") from error
    if done.returncode:
        raise UserError(f"git {arguments[0]} failed: {done.stderr.strip()}")


def insert_command(seen: Overview) -> str:
    """The command that moves the user's own defects into the good images; empty if none has a mask."""
    labels = " ".join(f"--label {shlex.quote(label)}" for label in seen.classes if seen.masks.get(label))
    return (
        f"metaldefect insert --images {RAW}/{GOOD} --method transplant --defects {RAW} {labels}"
        " --output inserted"
        if labels
        else ""
    )


def next_steps(target: Path, seen: Overview, minutes: float) -> list[str]:
    """What to type next, and how long it takes."""
    steps = [(f"cd {shlex.quote(str(target))}", "")]
    if shutil.which("dvc") is None or Path(shutil.which("dvc") or "").parent != Path(sys.executable).parent:
        steps.insert(0, (f"source {shlex.quote(str(Path(sys.executable).parent / 'activate'))}", ""))
    if command := insert_command(seen):
        steps.append((command, "seconds: your defects, moved into your good images"))
    steps.append(
        ("metaldefect train --config detector.yaml", f"about {DETECTOR_MINUTES} minutes: a first detector")
    )
    steps.append(("dvc repro", f"about {minutes:g} minutes on two cores: everything, on reports/index.html"))
    lines = [f"{target} is ready. Next:", ""]
    for command, comment in steps:
        lines += [f"  # {comment}"] if comment else []
        lines.append(f"  {command}")
    return lines
