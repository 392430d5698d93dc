"""Measure the data layer: its speed, its memory, and how well it groups near-duplicates.

`python -m benchmarks.data [--raw FOLDER]` writes `benchmarks/results/data.json` and prints it last. FOLDER
holds the real `NEU-DET`, `SD-saliency-900` and `X-SDD`, and `Magnetic-tile-defect` if it should be checked
too; without it, the benchmark measures procedural images in the same layouts.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks.results import add_results_argument, publish
from metaldefect.images import U8
from metaldefect.ingest.augment import augment
from metaldefect.ingest.examine import DatasetSpec, examine_dataset
from metaldefect.ingest.groups import near_duplicate_pairs
from metaldefect.ingest.merge import InspectionSpec, MergeOptions, MergeResult, merge_datasets
from metaldefect.ingest.samples import TABLE_NAME, read_table
from metaldefect.inspection.layout import GOOD
from metaldefect.inspection.provider import InspectionImage, InspectionImages
from metaldefect.procedural.datasets import SampleCounts, write_sample_datasets
from metaldefect.procedural.images import generate_normal_image

T = TypeVar("T")
CLASSES = ["crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches"]
X_SDD_LABELS = {
    "iron sheet ash": "patches",
    "oxide scale of plate system": "rolled-in_scale",
    "surface scratch": "scratches",
}
X_SDD_IGNORED = ["finishing roll printing", "oxide scale of temperature system", "red iron", "slag inclusion"]
PREFIXES = {"In": "inclusion", "Pa": "patches", "Sc": "scratches"}
# NEU-DET files whose pixels equal those of another file.
REPEATS = {"patches_105": "patches_101"}
GROWTH = 4
LOADED_SIZE = 256
DETECTOR_SIZE, DETECTOR_IMAGES = 128, 100
# Folder of a dataset -> what the figures call it
CHECKED = {
    "NEU-DET": "neu_det",
    "SD-saliency-900": "sd_saliency_900",
    "X-SDD": "x_sdd",
    "Magnetic-tile-defect": "magnetic_tile",
}
SAMPLE = SampleCounts(neu_det=120, sd_saliency_900=90, x_sdd=40, normal=20, defective=2)


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__)
    parser.add_argument("--raw", type=Path, help="folder of the real datasets")
    add_results_argument(parser, "data")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix=".benchmark-", dir=Path.cwd()) as name:
        result = measure(Path(name), arguments.raw)
    details = {key: result.pop(key) for key in ("data", "per_class")}
    publish(arguments.results, "data", result, details)


def measure(folder: Path, raw: Path | None) -> dict[str, Any]:
    """Time the merge, the grouping alone, and the augmentation of all images."""
    sample = folder / "sample"
    write_sample_datasets(sample, SAMPLE, seed=0)
    specs = datasets(raw or sample)
    options = MergeOptions(CLASSES, image_size=200, validation=0.1, test=0.1, seed=42)
    inspection = InspectionSpec("mvtec_ad", sample / "inspection")
    start = time.perf_counter()
    merged = merge_datasets(specs, inspection, folder / "merged", folder / "reports", options)
    merge_seconds = time.perf_counter() - start

    fingerprints = [item.fingerprint for spec in specs for item in examine_dataset(spec, CLASSES, 200)[0]]
    start = time.perf_counter()
    near_duplicate_pairs(fingerprints)
    grouping_seconds = time.perf_counter() - start

    # in a separate process, so that the merge's memory does not count
    augmented, augment_seconds, augment_peak = in_own_process(measure_augment, folder)
    peaks = {
        name: [in_own_process(function, folder, factor) for factor in (1, GROWTH)]
        for name, function in (
            ("tokenizer_loader", peak_of_tokenizer_loader),
            ("detector_loader", peak_of_detector_loader),
            ("merge", peak_of_merge),
        )
    }
    evaluation = [in_own_process(own_memory_of_evaluation, folder, factor) for factor in (1, GROWTH)]
    return {
        "data": "real" if raw else "procedural",
        "merge_images_per_s": round(len(merged.table) / merge_seconds, 1),
        "grouping_s": round(grouping_seconds, 3),
        "augment_images_per_s": round(augmented / augment_seconds, 1),
        "peak_rss_mb": peak_rss_mb(),
        "augment_peak_rss_mb": augment_peak,
        "augmented": augmented,
        **{
            f"{name}_peak_rss_mb_at_{times}x": peak
            for name, both in peaks.items()
            for times, peak in zip((1, 4), both, strict=True)
        },
        **{f"evaluation_own_memory_mb_at_{n}x": peak for n, peak in zip((1, 4), evaluation, strict=True)},
        **grouping(merged),
        **{f"check_s_per_1000_images_{name}": seconds for name, seconds in check_speeds(raw or sample)},
    }


def check_speeds(root: Path) -> Iterator[tuple[str, float]]:
    """How long `metaldefect check` takes for each dataset, from typing it to its answer."""
    for folder, name in CHECKED.items():
        if not (root / folder).is_dir():
            continue
        command = [sys.executable, "-m", "pipeline.cli", "check", str(root / folder)]
        start = time.perf_counter()
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        seconds = time.perf_counter() - start
        (images,) = re.findall(r"^images +(\d+)$", said, re.MULTILINE)
        yield name, round(1000 * seconds / int(images), 2)


def in_own_process(function: Callable[..., T], *arguments: Any) -> T:
    """Run the function in a new process, so that its peak memory is measured alone; return its result."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        return executor.submit(function, *arguments).result()


def peak_of_tokenizer_loader(folder: Path, factor: int) -> float:
    """Peak memory, in MiB, of one pass over `factor` times the augmented images in training batches."""
    from metaldefect.training.data import ImageFiles, Prefetcher, SampledBatches

    table = read_table(folder / "augmented" / TABLE_NAME)
    paths = [folder / "augmented" / path for path in table["path"]] * factor
    batches = SampledBatches(ImageFiles(paths, LOADED_SIZE), batch_size=8, seed=0)
    batches.content()["data"].digest()
    with Prefetcher(batches) as prefetcher:
        for _ in prefetcher.steps(0, len(paths) // 8):
            pass
    return peak_rss_mb()


def peak_of_detector_loader(folder: Path, factor: int) -> float:
    """Peak memory, in MiB, of one pass over `factor` times 100 images with cached teacher features."""
    from metaldefect.efficientad.torch_model import PatchDescriptionNetwork
    from metaldefect.efficientad.training_data import TeacherFeatures, TrainingBatches, TrainingImages
    from metaldefect.training.data import LazyImages, Prefetcher

    readers = [partial(generate_normal_image, number, DETECTOR_SIZE) for number in range(DETECTOR_IMAGES)]
    images = TrainingImages(LazyImages(readers * factor, (DETECTOR_SIZE, DETECTOR_SIZE)), None, "none")
    teacher = PatchDescriptionNetwork("S").eval()
    features = TeacherFeatures(teacher, images.normal, folder / f"features-{factor}.bin")
    with Prefetcher(TrainingBatches(images, features, 1, 0)) as prefetcher:
        for _ in prefetcher.steps(0, len(images.normal)):
            pass
    return peak_rss_mb()


def peak_of_merge(folder: Path, factor: int) -> float:
    """Peak memory, in MiB, of merging `factor` times 120 procedural images; 9 KiB per image stay."""
    sample = folder / f"sample-{factor}"
    counts = SampleCounts(
        **dict.fromkeys(("neu_det", "sd_saliency_900", "x_sdd"), 40 * factor), normal=20, defective=2
    )
    write_sample_datasets(sample, counts, seed=0)
    options = MergeOptions(CLASSES, image_size=200, validation=0.1, test=0.1, seed=42)
    inspection = InspectionSpec("mvtec_ad", sample / "inspection")
    target = folder / f"merged-{factor}"
    merge_datasets(datasets(sample), inspection, target, folder / f"reports-{factor}", options)
    return peak_rss_mb()


def own_memory_of_evaluation(folder: Path, factor: int) -> float:
    """Peak of the memory, in MiB, that scoring and measuring `factor` times 100 images takes for itself.

    Half of them are defective. A blur stands in for the detector.
    """
    from scipy import ndimage

    from metaldefect.efficientad.evaluation import score_images, summarise
    from metaldefect.efficientad.figures import detector_figures

    side = DETECTOR_SIZE
    mask = np.zeros((side, side), bool)
    mask[10:14, 10:30] = True

    def draw(number: int) -> InspectionImage:
        image = generate_normal_image(number, side)
        if number % 2:
            return InspectionImage(image, None, GOOD, str(number), str(number))
        return InspectionImage(np.where(mask, 255 - image, image), mask, "line", str(number), str(number))

    def detect(image: U8) -> tuple[float, NDArray[np.float32]]:
        anomaly_map = np.abs(image - ndimage.gaussian_filter(image.astype(np.float32), 4))
        return float(anomaly_map.max()), anomaly_map

    images = InspectionImages([partial(draw, number) for number in range(DETECTOR_IMAGES * factor)])
    with OwnMemory() as memory:
        scored = score_images(detect, images, side, "score")
        summarise(scored, 100.0, seed=0, samples=20)
        detector_figures({"images": scored}, 100.0)
    return memory.peak_mb


def measure_augment(folder: Path) -> tuple[int, float, float]:
    """Augment the merged set in `folder`; return images written, seconds and peak memory in MiB."""
    start = time.perf_counter()
    table = augment(folder / "merged", folder / "augmented", folder / "partial")
    return len(table), time.perf_counter() - start, peak_rss_mb()


def peak_rss_mb() -> float:
    """The peak memory of this process in MiB, as the Linux kernel reports it.

    `getrusage` would also count the parent's memory from before the child's exec.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return round(int(line.split()[1]) / 1024, 1)


class OwnMemory:
    """The peak of this process's own memory while the block runs, as `peak_mb`, sampled 200 times a second.

    Pages of files do not count: the kernel can take them back. It keeps no peak without them.
    """

    peak_mb = 0.0

    def __enter__(self) -> OwnMemory:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        process = psutil.Process()
        while not self._stop.wait(0.005):
            memory = process.memory_info()
            self.peak_mb = max(self.peak_mb, round((memory.rss - memory.shared) / 2**20, 1))

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def datasets(root: Path) -> list[DatasetSpec]:
    """The three datasets of the merged set."""
    x_sdd = root / "X-SDD"
    found = {path.name for path in (x_sdd / "datas").iterdir()}
    return [
        DatasetSpec("neu_det", root / "NEU-DET", {name: name for name in CLASSES}, splits=["train"]),
        DatasetSpec("sd_saliency_900", root / "SD-saliency-900", {name: name for name in PREFIXES.values()}),
        DatasetSpec("x_sdd", x_sdd, X_SDD_LABELS, ignore=[name for name in X_SDD_IGNORED if name in found]),
    ]


def grouping(merged: MergeResult) -> dict[str, Any]:
    """Counts of the merged set, and precision and recall of its groups, judged by file numbers."""
    by_number: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(merged.table.to_dict("records")):
        by_number[photograph(row)].append(index)
    truth = {pair for rows in by_number.values() for pair in combinations(rows, 2)}
    by_group: dict[str, list[int]] = defaultdict(list)
    for index, group in enumerate(merged.table["group"]):
        by_group[group].append(index)
    found = {pair for rows in by_group.values() for pair in combinations(rows, 2)}
    names = (
        "total",
        "per_class",
        "groups",
        "duplicate_pairs",
        "groups_across_splits",
        "scenes_across_splits",
    )
    return {name: merged.summary[name] for name in names} | {
        "group_precision": round(len(found & truth) / len(found), 5),
        "group_recall": round(len(found & truth) / len(truth), 5),
    }


def photograph(row: dict[Any, Any]) -> str:
    """A photograph's name by its file number: SD-saliency-900 numbers its images as NEU-DET does."""
    if row["source"] == "x_sdd":
        return f"x_sdd/{row['source_path']}"
    stem = PurePosixPath(row["source_path"]).stem
    if row["source"] == "sd_saliency_900":
        prefix, number = stem.split("_")
        stem = f"{PREFIXES[prefix]}_{number}"
    return REPEATS.get(stem, stem)


if __name__ == "__main__":
    main()
