"""`python -m benchmarks.pipeline`: time a whole profile and publish its headline figures.

Runs `make repro PROFILE=...` in a fresh clone of the committed code (`--clone`) or in this folder. In this
folder only changed stages run, so only a clone gives `seconds`, `peak_rss_mb` and `noop_flow_s`, the time of
a flow of the whole graph that finds nothing to do. Writes `benchmarks/results/default.json` for the profile
cpu, else `<profile>.json`, and the run's pictures to `docs/images/<profile>_<picture>.png`; the last line
printed is JSON. If `noop_flow_s` is above 15, it exits with 1 after it wrote the result.

`--confirm FOLDER` shows after a change of the code that the published figures still hold: it brings the kept
run in FOLDER (`--keep`) up to HEAD, where DVC reruns the stages whose code has changed. If every figure but
times and memory comes out as published, the result names HEAD as confirmed, and the pictures are copied anew.
`--update FOLDER` brings a kept run up to HEAD in the same way and publishes what it gives now; the time and
the memory of a whole run stay those published, of this machine, and the result names their commit.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from benchmarks.results import Figure, Interval, commit_and_date, git, path_of, publish, read, write
from metaldefect.artifacts import read_json
from metaldefect.errors import UserError, exit_on_user_error
from metaldefect.hardware import machine_name
from pipeline.main_metrics import estimate
from pipeline.run import lookup

DEFAULT_PROFILE = "cpu"
STAMP = ".venv/.installed"
RUNS_OWN = ("dvc.lock", "params.yaml", "metrics")  # what a run writes for git
WHOLE_RUN = ("seconds", "peak_rss_mb", "noop_flow_s")  # figures that only a run of every stage gives
COSTS = (*WHOLE_RUN, "latency_")  # how figures begin that no run repeats
NOOP_LIMIT_S = 15.0  # of a flow that finds nothing to do
# Figure -> (stage that measures it, dotted key in its metrics)
FIGURES: dict[str, tuple[str, str]] = {
    "ssim": ("evaluate_vq", "after.ssim"),
    "ssim_gain": ("evaluate_vq", "gain.ssim"),
    "edge_iou": ("evaluate_vq", "after.edge_iou"),
    "edge_iou_gain": ("evaluate_vq", "gain.edge_iou"),
    "edge_iou_1px": ("evaluate_vq", "after.edge_iou_1px"),
    "lpips": ("evaluate_vq", "after.lpips"),
    "masked_ce": ("evaluate_maskgit", "masked_ce"),
    "ce_wrong_minus_true": ("evaluate_maskgit", "ce_wrong_minus_true"),
    "ce_wrong_minus_true_at_90": ("evaluate_maskgit", "ce_wrong_minus_true_at_90"),
    "reconstruction_block_ratio": ("evaluate_vq", "after.block_ratio"),
    "block_ratio": ("evaluate_synthesis", "block_ratio"),
    "block_ratio_highest": ("evaluate_synthesis", "block_ratio.highest"),
    "block_ratio_insertions": ("evaluate_synthesis", "block_ratio_insertions"),
    "judge_accuracy_on_real": ("evaluate_synthesis", "judge_accuracy_on_real"),
    "class_agreement_independent": ("evaluate_synthesis", "class_agreement_independent"),
    "class_agreement_independent_lowest": ("evaluate_synthesis", "class_agreement_independent_lowest"),
    "class_agreement": ("evaluate_synthesis", "class_agreement"),
    "cas_ratio": ("evaluate_synthesis", "cas.ratio"),
    "gain_at_10": ("evaluate_synthesis", "gain_at_10.gain"),
    "kid_ratio": ("evaluate_synthesis", "kid.ratio"),
    "seam_ratio": ("evaluate_synthesis", "seams.inserted_to_canvas"),
    "insertion_realism_auroc": ("evaluate_synthesis", "realism.insertion_realism_auroc"),
    "copy_paste_realism_auroc": ("evaluate_synthesis", "realism.copy_paste_realism_auroc"),
    "procedural_realism_auroc": ("evaluate_synthesis", "realism.procedural_realism_auroc"),
    "image_auroc": ("evaluate_efficientad", "image_auroc"),
    "au_pro": ("evaluate_efficientad", "au_pro"),
    "memory_bank_image_auroc": ("evaluate_efficientad", "memory_bank.image_auroc"),
    "memory_bank_au_pro": ("evaluate_efficientad", "memory_bank.au_pro"),
    "detection_rate_drawn": ("evaluate_efficientad", "generated.detection_rate"),
    "f1_at_threshold": ("evaluate_efficientad", "f1_at_threshold"),
    "false_alarm_rate": ("evaluate_efficientad", "false_alarm_rate"),
    "parity_max_abs_error": ("evaluate_openvino", "parity.max_abs_error"),
    "latency_fp32_ms": ("latency", "fp32.p50_ms"),
    "latency_fp16_ms": ("latency", "fp16.p50_ms"),
    "latency_int8_ms": ("latency", "int8.p50_ms"),
}
# Figures that README and docs show -> the stage that draws them
PICTURES = {
    "from_good_metal_to_a_found_defect": "evaluate_efficientad",
    "inserted_defects": "evaluate_synthesis",
    "real_and_drawn_per_class": "evaluate_synthesis",
    "real_or_drawn": "evaluate_synthesis",
    "real_or_drawn_key": "evaluate_synthesis",
}
IMAGES = Path("docs/images")


class PeakMemory(threading.Thread):
    """Peak of the summed resident memory of a process and its children, sampled twice a second."""

    def __init__(self, process: psutil.Process) -> None:
        super().__init__(daemon=True)
        self.process = process
        self.peak = 0

    def run(self) -> None:
        while self.process.is_running():
            try:
                family = [self.process, *self.process.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            total = 0
            for member in family:
                try:
                    total += member.memory_info().rss
                except psutil.Error:
                    continue
            self.peak = max(self.peak, total)
            time.sleep(0.5)


class PipelineRun(NamedTuple):
    """The wall time and the peak memory of a run."""

    seconds: float
    peak_rss_mb: float


def figure_at(metrics: Mapping[str, Any], key: str) -> Figure | None:
    """The number at a dotted key, with its interval if it has one, or None if there is no number.

    The interval is part of the value (`{mean, low, high}`) or is stored next to it under `interval_95`.
    """
    found = lookup(metrics, key)
    if (estimated := estimate(found)) is not None:
        value, bounds = estimated
        return Interval(value=value, low=bounds[0], high=bounds[1]) if len(bounds) == 2 else value
    if isinstance(found, Mapping) and {"mean", "low", "high"} <= found.keys():  # may hold further keys
        return Interval(value=found["mean"], low=found["low"], high=found["high"])
    if not isinstance(found, int | float) or isinstance(found, bool):
        return None
    parent, _, last = key.rpartition(".")
    interval = lookup(metrics, f"{parent}.interval_95.{last}" if parent else f"interval_95.{last}")
    return found if interval is None else Interval(value=found, low=interval[0], high=interval[1])


class Collected(NamedTuple):
    """What a run measured."""

    figures: dict[str, Figure]  # those of `FIGURES` that it measured
    left_out: list[str]  # the others, each with the place where it was expected
    metrics: dict[str, Any]  # all metrics by stage


def collect_run(root: Path) -> Collected:
    """What a finished run in `root` measured.

    A figure may be missing where the data or the machine does not allow it: LPIPS without its weights, the
    realism of insertions with too few masks.
    """
    metrics = {path.stem: read_json(path) for path in sorted((root / "metrics").glob("*.json"))}
    found = {name: figure_at(metrics.get(stage, {}), key) for name, (stage, key) in FIGURES.items()}
    left_out = [
        f"{name} (metrics/{stage}.json: {key})"
        for name, (stage, key) in FIGURES.items()
        if found[name] is None
    ]
    return Collected({name: one for name, one in found.items() if one is not None}, left_out, metrics)


def copy_pictures(root: Path, name: str, images: Path) -> None:
    """Copy the pictures of a finished run in `root` to `images`, as `<name>_<picture>.png`.

    Raises:
        UserError: the run did not draw one of them.
    """
    drawn = {picture: root / "plots" / stage / f"{picture}.png" for picture, stage in PICTURES.items()}
    if missing := [picture for picture, path in drawn.items() if not path.is_file()]:
        raise UserError(f"pictures that the run did not draw: {', '.join(missing)}")
    images.mkdir(parents=True, exist_ok=True)
    for picture, path in drawn.items():
        shutil.copyfile(path, images / f"{name}_{picture}.png")


def make_clone(clone: Path) -> None:
    """Clone HEAD into a new folder that shares this one's environment and raw data."""
    done = git("clone", "--quiet", ".", str(clone))
    if done.returncode:
        sys.exit(f"cannot clone this folder: {done.stderr.strip()}")
    (clone / ".venv").symlink_to(Path(sys.prefix))
    with (clone / ".git/info/exclude").open("a", encoding="utf-8") as excluded:
        excluded.write(".venv\n")  # .gitignore names a folder, which a link is not
    (clone / "data/raw").mkdir(parents=True, exist_ok=True)
    for item in Path("data/raw").absolute().glob("*"):
        if not (clone / "data/raw" / item.name).exists():
            (clone / "data/raw" / item.name).symlink_to(item)


@contextmanager
def workspace(clone: bool, keep: Path | None) -> Iterator[Path]:
    """The folder to run the profile in: this folder, or a clone, which is removed unless it is `keep`."""
    if not clone:
        yield Path.cwd()
    elif keep is not None:
        make_clone(keep.absolute())
        yield keep.absolute()
    else:
        with tempfile.TemporaryDirectory(prefix="metaldefect-") as name:
            make_clone(Path(name) / "clone")
            yield Path(name) / "clone"


def run_profile(root: Path, profile: str) -> PipelineRun:
    """Run `make repro PROFILE=...` in `root`, without reinstalling the environment.

    Raises:
        SystemExit: the run failed.
    """
    # -o: do not reinstall, although pyproject.toml is newer in a clone
    command = ["make", "-o", STAMP, "repro", f"PROFILE={profile}"]
    start = time.monotonic()
    process = subprocess.Popen(command, cwd=root, env=os.environ | {"PYTHONPATH": str(root)})
    watch = PeakMemory(psutil.Process(process.pid))
    watch.start()
    if process.wait():
        sys.exit(f"{' '.join(command)} failed with status {process.returncode}")
    return PipelineRun(round(time.monotonic() - start, 1), round(watch.peak / 2**20, 1))


def update_clone(root: Path) -> None:
    """Bring a kept clone to HEAD; what its run has written for git is not touched, whatever happens.

    Raises:
        SystemExit: git refuses.
    """
    others = [".", *(f":(exclude){entry}" for entry in RUNS_OWN)]
    for words in (
        ["fetch", "--quiet", str(Path.cwd()), "HEAD"],
        ["checkout", "--quiet", "--no-overlay", "FETCH_HEAD", "--", *others],
        ["reset", "--quiet", "--soft", "FETCH_HEAD"],
    ):
        done = git(*words, root=root)
        if done.returncode:
            sys.exit(f"git {words[0]} in {root} failed: {done.stderr.strip()}")


def bring_up_to_date(root: Path, profile: str) -> Collected:
    """Bring a kept run in `root` to HEAD: DVC reruns what has changed. Returns all that it measured."""
    update_clone(root)
    run_profile(root, profile)
    return collect_run(root)


def update(root: Path, profile: str, path: Path) -> None:
    """Publish what a kept run gives at HEAD, with the time and the memory of the published whole run.

    Args:
        root: the kept clone.
        profile: that it ran.
        path: the published result, which is replaced.

    Raises:
        UserError: another machine published it, so its time and memory are not those of this one.
    """
    published = read(path)
    if published.machine != machine_name():
        raise UserError(f"{path} is of {published.machine}, not of this machine: run it whole, with --clone")
    found = bring_up_to_date(root, profile)
    whole = published.details.get("whole_run", published.commit)
    costs = {name: figure for name, figure in published.figures.items() if name in WHOLE_RUN}
    details = {
        "metrics": found.metrics,
        "left_out": found.left_out,
        "whole_run": whole,
        "note": f"time and memory are of the whole run at `{whole[:7]}`, of which every stage that has "
        "changed since ran again",
    }
    publish(path, "pipeline", found.figures | costs, details)


def confirm(root: Path, profile: str, path: Path) -> list[str]:
    """Bring a kept run up to date with HEAD; if its figures are those published, say so in the result.

    Args:
        root: the kept clone.
        profile: that it ran.
        path: the published result.

    Returns:
        The figures that differ, with both values; the result is left alone if there are any.
    """
    published = read(path)
    found = bring_up_to_date(root, profile).figures
    differ = [
        f"{name}: {published.figures.get(name)} -> {found.get(name)}"
        for name in sorted(published.figures.keys() | found.keys())
        if not name.startswith(COSTS) and published.figures.get(name) != found.get(name)
    ]
    if not differ:
        head, _ = commit_and_date()
        write(path, published.model_copy(update={"confirmed": head}))
    return differ


def time_noop_flow(root: Path) -> float:
    """Seconds that the flow of the whole graph takes where every stage is up to date.

    Args:
        root: a folder with a finished run.

    Raises:
        SystemExit: the flow failed.
    """
    environment = os.environ | {"PYTHONPATH": str(root)}
    # A folder's first flow makes Prefect's database, which no later one does
    prepare = [sys.executable, "-c", "from flows.run import prepare; prepare('.')"]
    command = [sys.executable, "-m", "flows.run"]
    for words in (prepare, command):
        start = time.monotonic()
        done = subprocess.run(words, cwd=root, env=environment)
        if done.returncode:
            sys.exit(f"{' '.join(words[1:])} failed with status {done.returncode}")
    return round(time.monotonic() - start, 1)


def parse_arguments() -> argparse.Namespace:
    """Read the command line; `results` gets its default from the profile."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline", description=__doc__)
    parser.add_argument(
        "--profile",
        default=DEFAULT_PROFILE,
        help="a file of conf/profile, such as real (default: %(default)s)",
    )
    parser.add_argument(
        "--clone", action="store_true", help="run in a fresh clone of HEAD, not in this folder"
    )
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="with --clone: clone to FOLDER, which stays"
    )
    parser.add_argument(
        "--results", type=Path, metavar="FILE", help="default: benchmarks/results/<profile>.json"
    )
    parser.add_argument(
        "--images",
        type=Path,
        default=IMAGES,
        metavar="FOLDER",
        help="for the pictures (default: %(default)s)",
    )
    parser.add_argument(
        "--confirm",
        type=Path,
        metavar="FOLDER",
        help="show that HEAD gives the figures of the kept run there",
    )
    parser.add_argument(
        "--update", type=Path, metavar="FOLDER", help="publish what the kept run there gives at HEAD"
    )
    args = parser.parse_args()
    if args.keep and not args.clone:
        parser.error("--keep is for --clone")
    if sum(map(bool, (args.clone, args.confirm, args.update))) > 1:
        parser.error("--clone, --confirm and --update exclude one another")
    if args.results is None:
        args.results = path_of(name_of(args.profile))
    return args


def name_of(profile: str) -> str:
    """Of a profile's result and pictures."""
    return "default" if profile == DEFAULT_PROFILE else profile


def run_and_publish(args: argparse.Namespace) -> float:
    """Run the profile and publish its figures and pictures; returns the seconds of a flow without work.

    Returns:
        0 outside a clone, where it is not measured.
    """
    with workspace(args.clone, args.keep) as root:
        run = run_profile(root, args.profile)
        print(f"{run.seconds} s, peak memory {run.peak_rss_mb} MiB", flush=True)
        costs: dict[str, float] = run._asdict() | {"noop_flow_s": time_noop_flow(root)} if args.clone else {}
        found = collect_run(root)
        left_out = list(found.left_out)
        if not args.clone:
            left_out += [f"{cost} (of a whole run: --clone)" for cost in WHOLE_RUN]
        for missing in left_out:
            print(f"not measured: {missing}")
        details = {"metrics": found.metrics, "left_out": left_out}
        publish(args.results, "pipeline", found.figures | costs, details)
        copy_pictures(root, name_of(args.profile), args.images)  # after the numbers of hours are safe
    return costs.get("noop_flow_s", 0.0)


def main() -> None:
    args = parse_arguments()
    with exit_on_user_error("python -m benchmarks.pipeline"):
        if kept := args.update or args.confirm:
            kept = kept.absolute()
            if args.update:
                update(kept, args.profile, args.results)
            elif differ := confirm(kept, args.profile, args.results):
                sys.exit("no longer as published, measure again:\n" + "\n".join(differ))
            copy_pictures(kept, name_of(args.profile), args.images)
        elif (seconds := run_and_publish(args)) > NOOP_LIMIT_S:
            sys.exit(f"a flow with nothing to do took {seconds} s, more than {NOOP_LIMIT_S:g} s")


if __name__ == "__main__":
    main()
