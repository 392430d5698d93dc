"""`python -m benchmarks.reproducibility`: how equal two runs of the pipeline are that share no cache.

Runs a profile three times in a fresh clone of the committed code, each time every stage anew: twice as it is,
and once on one thread with the instructions of a CPU from 2015, in float32, because such a CPU has neither
AVX-512 nor bf16 units. OpenVINO alone keeps this CPU's instructions. Compares the outputs' hashes and every
number of the metrics, except latencies. A number differs by more than the noise of the data only where its
difference is larger than its own 95 % interval is wide. Writes `benchmarks/results/reproducibility.json`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.pipeline import FIGURES, collect_run, make_clone
from benchmarks.results import Figure, Interval, add_results_argument, publish
from metaldefect.artifacts import read_json, sha256_file
from metaldefect.deploy.bundle import METADATA
from metaldefect.errors import exit_on_user_error

# Differ from run to run by their nature: times, dates, and the machine's speed
TIMED = ("metrics/latency.json", "plots/evaluate_openvino", "reports/index.html", "metrics/headline.json")
BUNDLE = "models/openvino"
# Limits torch. OpenVINO reads it too, but still computes FP16 in bf16, and finds no kernel that may
ISA = "ONEDNN_MAX_CPU_ISA"
OTHER_MACHINE = {
    "METALDEFECT_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "ATEN_CPU_CAPABILITY": "avx2",
    ISA: "AVX2",
    "MKL_CBWR": "AVX2",
    "METALDEFECT_PRECISION": "float32",  # else bf16, which PyTorch emulates slowly
}
EXPORT = "export_openvino"  # this stage and those after it use OpenVINO
BEFORE_EXPORT = ("evaluate_vq", "evaluate_maskgit", "evaluate_synthesis", "evaluate_efficientad")
RUNS = 3
STAGE = re.compile(r"Running stage '(?P<name>[^']+)'")  # DVC's line before each stage
TAIL = 60  # last lines of a failed run to show


def run(root: Path, profile: str, number: int, more: Mapping[str, str]) -> None:
    """Run every stage anew, with a line on stderr as each begins.

    Args:
        root: the clone.
        profile: a file of conf/profile.
        number: of this run, from 1 to `RUNS`, for the lines.
        more: environment variables on top of this process's.

    Raises:
        SystemExit: a stage failed; the message ends with its last lines.
    """
    environment = os.environ | {"PYTHONPATH": str(root), "DVC_NO_ANALYTICS": "1"} | dict(more)
    unlimited = {name: value for name, value in environment.items() if name != ISA}
    repro = [sys.executable, "-m", "dvc", "repro", "--force", "--no-run-cache"]
    started, label = time.monotonic(), f"run {number} of {RUNS}"
    for command, variables in (
        ([sys.executable, "-m", "pipeline.profiles", profile], environment),
        ([*repro, *BEFORE_EXPORT], environment),
        ([*repro, "--downstream", EXPORT], unlimited),
    ):
        tail: deque[str] = deque(maxlen=TAIL)
        with subprocess.Popen(
            command, cwd=root, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                tail.append(line)
                if found := STAGE.search(line):
                    report(f"{label}, {minutes_since(started)} min: {found['name']}")
        if process.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{''.join(tail)}")
    report(f"{label} took {minutes_since(started)} min")


def minutes_since(started: float) -> str:
    """Minutes since a time of the monotonic clock, with one decimal."""
    return f"{(time.monotonic() - started) / 60:.1f}"


def report(line: str) -> None:
    """Print a line of progress to stderr."""
    print(line, file=sys.stderr, flush=True)


def outputs(root: Path) -> dict[str, str]:
    """The hash of every output that no clock shapes; the bundle's leaves out which MLflow run exported it."""
    lock = yaml.safe_load((root / "dvc.lock").read_text())
    found = (out for stage in lock["stages"].values() for out in stage.get("outs", ()))
    hashes = {out["path"]: out["md5"] for out in found if out["path"] not in TIMED}
    if BUNDLE in hashes:
        hashes[BUNDLE] = bundle_hash(root / BUNDLE)
    return hashes


def bundle_hash(bundle: Path) -> str:
    """The hash of a bundle without the id of the MLflow run that exported it."""
    files = {str(path.relative_to(bundle)): path for path in sorted(bundle.rglob("*")) if path.is_file()}
    found: dict[str, Any] = {name: sha256_file(path) for name, path in files.items()}
    metadata = read_json(files[METADATA])
    metadata["lineage"].pop("mlflow_run")
    found[METADATA] = metadata
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def numbers(content: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a JSON value, by its dotted key."""
    if isinstance(content, Mapping):
        for name, value in content.items():
            yield from numbers(value, f"{key}.{name}" if key else str(name))
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield from numbers(value, f"{key}.{index}")
    elif isinstance(content, int | float) and not isinstance(content, bool):
        yield key, float(content)


def metrics(root: Path) -> dict[str, float]:
    """Every number of the metrics that no clock shapes."""
    paths = (path for path in sorted((root / "metrics").glob("*.json")))
    timed = {Path(path).stem for path in TIMED}
    return {
        f"{path.stem}.{key}": n
        for path in paths
        if path.stem not in timed
        for key, n in numbers(read_json(path))
    }


def compare(root: Path, profile: str) -> tuple[dict[str, Figure], dict[str, Any]]:
    """Run three times and compare."""
    run(root, profile, 1, {})
    first, hashes, main = metrics(root), outputs(root), collect_run(root).figures
    run(root, profile, 2, {})
    again = outputs(root)
    unequal = sorted(path for path, digest in hashes.items() if again.get(path) != digest)
    repeated = metrics(root)
    run(root, profile, RUNS, OTHER_MACHINE)
    other, elsewhere = collect_run(root).figures, outputs(root)
    differences: dict[str, Figure] = {}
    beyond = []
    for name, figure in main.items():
        if FIGURES[name][0] == "latency" or name not in other:
            continue
        before, after = value_of(figure), value_of(other[name])
        differences[f"{name}_difference"] = abs(after - before)
        if isinstance(figure, Interval) and abs(after - before) > figure.high - figure.low:
            beyond.append(name)
    figures: dict[str, Figure] = {
        "outputs": len(hashes),
        "outputs_unequal_on_one_machine": len(unequal),
        "numbers": len(first),
        "numbers_unequal_on_one_machine": sum(repeated.get(key) != value for key, value in first.items()),
        "outputs_unequal_elsewhere": sum(elsewhere.get(path) != digest for path, digest in hashes.items()),
        "figures_beyond_their_interval_elsewhere": len(beyond),
        **differences,
    }
    return figures, {"profile": profile, "unequal": unequal, "beyond": beyond, "elsewhere": OTHER_MACHINE}


def value_of(figure: Figure) -> float:
    """A figure without its interval."""
    return figure.value if isinstance(figure, Interval) else float(figure)


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reproducibility",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--profile", default="tiny", help="default: %(default)s")
    add_results_argument(parser, "reproducibility")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="metaldefect-") as name:
        root = Path(name) / "clone"
        make_clone(root)
        figures, details = compare(root, arguments.profile)
    publish(arguments.results, "reproducibility", figures, details)


if __name__ == "__main__":
    with exit_on_user_error("benchmarks.reproducibility"):
        main()
