"""Benchmark results: one file per command, written only by that command.

`benchmarks/results/<name>.json` holds the command, machine, time and commit, and flat `figures`. `publish`
writes it; `read` and `is_stale` serve the tables of README and docs.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from metaldefect.artifacts import read_json, write_json
from metaldefect.errors import UserError
from metaldefect.hardware import machine_name

RESULTS = Path("benchmarks/results")
CODE = ("metaldefect/", "stages/")
DRAWING = ":(exclude,glob)**/*figures.py"  # modules that only draw: their changes leave every number valid
CONF = Path("conf")
# What each benchmark measures: a result is stale if one of these has changed since its commit.
MEASURES: dict[str, tuple[str, ...]] = {
    "ablation": ("metaldefect/maskgit", "metaldefect/metrics", "metaldefect/synthesis", "conf"),
    "agreement": (
        "deploy/cpp", "metaldefect/deploy/bundle.py", "metaldefect/deploy/compiled.py",
        "metaldefect/deploy/export.py", "metaldefect/deploy/for_anomalib.py", "metaldefect/deploy/frames.py",
        "metaldefect/deploy/golden.py", "metaldefect/deploy/graph.py", "metaldefect/deploy/runtime.py",
    ),
    "categories": (
        "metaldefect/commands", "metaldefect/efficientad", "metaldefect/inspection", "metaldefect/weights",
    ),
    "data": ("metaldefect/ingest", "metaldefect/procedural"),
    "efficientad_speed": ("metaldefect/efficientad", "metaldefect/kernels", "metaldefect/hardware.py"),
    "efficientad_synthetic": ("metaldefect/efficientad", "metaldefect/procedural"),
    "demo": ("app", "metaldefect/deploy", "metaldefect/maskgit", "metaldefect/tokenizer"),
    "drift": ("metaldefect/metrics/drift.py",),
    "edge": (
        "metaldefect/deploy/compiled.py", "metaldefect/deploy/export.py", "metaldefect/deploy/frames.py",
        "metaldefect/deploy/graph.py", "metaldefect/deploy/quantisation.py", "metaldefect/deploy/runtime.py",
        "metaldefect/efficientad/torch_model.py",
    ),
    "generation": ("metaldefect/maskgit", "metaldefect/metrics", "metaldefect/synthesis"),
    "grain": ("metaldefect/synthesis/grain.py", "metaldefect/metrics"),
    "insert": ("metaldefect/commands/insert.py", "metaldefect/maskgit", "metaldefect/synthesis"),
    "kills": (
        "flows", "pipeline/worker.py", "pipeline/deployment.py", "pipeline/orphans.py",
        "pipeline/dead_runs.py", "pipeline/dead_flow_runs.py", "pipeline/champion.py", "pipeline/registry.py",
    ),
    "kernels": ("metaldefect/kernels", "metaldefect/efficientad"),
    "learning": ("metaldefect/efficientad", "metaldefect/inspection", "metaldefect/weights"),
    "maskgit_speed": ("metaldefect/maskgit", "metaldefect/hardware.py"),
    "methods": ("metaldefect/efficientad", "metaldefect/metrics", "metaldefect/synthesis"),
    "patch_limits": ("metaldefect/metrics/reconstruction.py",),
    "precisions": (
        "metaldefect/deploy/export.py", "metaldefect/deploy/quantisation.py", "metaldefect/efficientad",
    ),
    "perceptual_scale": ("metaldefect/tokenizer/perceptual.py",),
    "service": ("metaldefect/deploy", "metaldefect/commands/serve.py"),
    "synthesis_helps": ("metaldefect/efficientad", "metaldefect/synthesis", "metaldefect/metrics"),
    "tile_classes": (
        "metaldefect/maskgit", "metaldefect/metrics", "metaldefect/synthesis", "metaldefect/tokenizer",
    ),
    "tiles": ("metaldefect/efficientad", "metaldefect/inspection", "metaldefect/weights"),
    "tiles_256": ("metaldefect/efficientad", "metaldefect/inspection", "metaldefect/weights"),
    "tokenizer_speed": ("metaldefect/tokenizer", "metaldefect/hardware.py"),
}  # fmt: skip


class Interval(BaseModel):
    """A figure with its 95 % interval."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat

    @model_validator(mode="after")
    def _ordered(self) -> Interval:
        if self.low > self.high:
            raise ValueError(f"low = {self.low} is above high = {self.high}")
        return self


Figure = int | FiniteFloat | Interval
Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{7,40}$")]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class Result(BaseModel):
    """What one run of one command measured.

    `confirmed` is a later commit whose code gives the same figures, as a rerun has shown.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: Annotated[str, Field(pattern=r"^python -m ")]
    machine: Annotated[str, Field(min_length=1)]
    commit: Commit
    confirmed: Commit | None = None
    date: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d")]
    figures: Annotated[dict[Name, Figure], Field(min_length=1)]
    details: dict[str, Any]

    @model_serializer(mode="wrap")
    def _without_an_empty_confirmation(self, standard: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = standard(self)
        return {name: value for name, value in content.items() if name != "confirmed" or value is not None}


def path_of(name: str) -> Path:
    """The file of a benchmark's result, relative to the project's root."""
    return RESULTS / f"{name}.json"


def command_line(module: str) -> str:
    """The command as typed; an absolute path is shortened to `.../` and its last part."""
    words = []
    for word in sys.argv[1:]:
        option, equals, value = word.partition("=")
        if equals and Path(value).is_absolute():
            word = f"{option}={short(value)}"
        words.append(short(word))
    return shlex.join(["python", "-m", f"benchmarks.{module}", *words])


def short(word: str) -> str:
    """A word of a command; of an absolute path the last part."""
    return f".../{Path(word).name}" if Path(word).is_absolute() else word


def git(*words: str, root: Path = Path()) -> subprocess.CompletedProcess[str]:
    """Run a git command; the caller checks the return code."""
    return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)


# HEAD when a benchmark began: it may measure for hours, while somebody commits
BEGUN_AT = {Path.cwd(): git("rev-parse", "HEAD").stdout.strip()}


def commit_and_date(root: Path = Path()) -> tuple[str, str]:
    """The commit that was checked out when this module was imported, or else HEAD, and the current time.

    Raises:
        UserError: this is not a git repository, so the result cannot name its commit.
    """
    head = git("rev-parse", "HEAD", root=root)
    if head.returncode:
        raise UserError(f"a result needs the commit that it measures: {head.stderr.strip()}")
    begun_at = BEGUN_AT.get(root.absolute()) or head.stdout.strip()
    return begun_at, datetime.now(UTC).isoformat(timespec="seconds")


def write(path: Path, result: Result) -> None:
    """Write a result atomically."""
    write_json(path, result.model_dump(mode="json"))


def read(path: Path) -> Result:
    """Read and validate a result.

    Raises:
        UserError: the file is not a result; the message names the file and the fields.
    """
    try:
        return Result.model_validate(read_json(path))
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise UserError(f"{path} is not a result: {found}") from error


def add_results_argument(parser: argparse.ArgumentParser, name: str) -> None:
    """Add `--results FILE`; the default is the file in `benchmarks/results` that README and docs read."""
    parser.add_argument(
        "--results", type=Path, default=path_of(name), metavar="FILE", help="default: %(default)s"
    )


def publish(
    path: Path,
    module: str,
    figures: Mapping[str, Any],
    details: Mapping[str, Any],
    machine: str | None = None,
) -> Result:
    """Write this run's result, print it as one line of JSON, and return it.

    Args:
        path: the file to write.
        module: name in `benchmarks`, for the command.
        figures: name -> number, or `{value, low, high}`.
        details: everything else that the run measured, stored unchanged.
        machine: that measured, where its parts come from elsewhere; None: this one.
    """
    commit, date = commit_and_date()
    result = Result(
        command=command_line(module),
        machine=machine or machine_name(),
        commit=commit,
        date=date,
        figures=dict(figures),
        details=dict(details),
    )
    write(path, result)
    print(json.dumps(result.model_dump(mode="json", exclude={"details"})))
    return result


def measured_paths(name: str, root: Path = Path()) -> tuple[str, ...]:
    """The files that a result measures; a name that `MEASURES` lacks is a run of the pipeline."""
    return MEASURES[name] if name in MEASURES else pipeline_paths(name, root)


def pipeline_paths(name: str, root: Path) -> tuple[str, ...]:
    """What a run of the pipeline reads: the code and weights that `dvc.yaml` names, and its profile.

    Commands and benchmarks are no part of it, so that a change of theirs leaves its figures valid.

    Args:
        name: of the result: a profile; `default` and others ran the profile cpu.
        root: the project's root.
    """
    stages = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    code = {path for stage in stages.values() for path in stage["deps"] if path.startswith(CODE)}
    profile = CONF / "profile" / f"{name}.yaml"
    if not (root / profile).is_file():
        profile = CONF / "profile/cpu.yaml"
    return (*sorted(code), f"{CONF}/config.yaml", str(profile))


def is_stale(result: Result, paths: Iterable[str], root: Path = Path()) -> bool:
    """Whether the measured code has changed since the result's commit.

    Compares contents, not dates, so that a table made before a commit stays valid after it. A commit that
    this repository does not know counts as stale.

    Args:
        result: names the commit, or a later one that confirmed it.
        paths: files and folders relative to the repository's root.
        root: the repository's root.
    """
    commit = result.confirmed or result.commit
    return git("diff", "--quiet", commit, "--", *paths, DRAWING, root=root).returncode != 0


def with_interval(value: Mapping[str, Any]) -> dict[str, float]:
    """Convert `{mean, low, high, ...}` to a figure `{value, low, high}`."""
    return {"value": value["mean"], "low": value["low"], "high": value["high"]}
