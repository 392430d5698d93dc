"""`python -m benchmarks.tile_classes`: two classes that the shipped models have not seen, as a user has them.

Takes 30 photographs with masks of each of two defects of magnetic tiles (blowhole, break) and 60 good tiles,
makes a project of them (`metaldefect new`), and runs its stages up to drawing and measuring (`dvc repro`).
Fine-tuning the shipped tokenizer and MaskGIT takes about 15 minutes on two cores with bf16 units, the whole
run less than 20; after far fewer steps of MaskGIT, nobody sees the small defects it inserts. Writes
`benchmarks/results/tile_classes.json` and a picture: training images beside drawn ones, and insertions, per
class. The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from matplotlib.figure import Figure

from benchmarks.pipeline import figure_at
from benchmarks.results import Figure as Number
from benchmarks.results import add_results_argument, publish
from metaldefect.artifacts import read_json
from metaldefect.errors import UserError, exit_on_user_error
from metaldefect.figures import image_grid, save_figure
from metaldefect.images import U8, read_grey, read_own, write_png
from metaldefect.ingest.loading import split_rows
from metaldefect.synthesis.insertion_set import read_insertions

ROOT = Path(__file__).resolve().parents[1]
CLASSES = {"blowhole": "MT_Blowhole", "break": "MT_Break"}  # class -> folder of the dataset
FREE = "MT_Free"
STAGES = ("evaluate_vq", "evaluate_synthesis")  # DVC runs what they need before them
MINUTES = 30  # the shortest that `metaldefect new` accepts; the steps are set afterwards
SHOWN = 6  # pictures per row
# Figure -> (stage that measures it, dotted key in its metrics)
FIGURES: dict[str, tuple[str, str]] = {
    "training_images": ("finetune_vq", "train_images"),
    "ssim_before": ("evaluate_vq", "before.ssim"),
    "ssim_after": ("evaluate_vq", "after.ssim"),
    "ssim_gain": ("evaluate_vq", "gain.ssim"),
    "lpips_before": ("evaluate_vq", "before.lpips"),
    "lpips_after": ("evaluate_vq", "after.lpips"),
    "judge_accuracy_on_real": ("evaluate_synthesis", "judge_accuracy_on_real"),
    "class_agreement_independent": ("evaluate_synthesis", "class_agreement_independent"),
    "class_agreement": ("evaluate_synthesis", "class_agreement"),
    "insertion_realism_auroc": ("evaluate_synthesis", "realism.insertion_realism_auroc"),
    "copy_paste_realism_auroc": ("evaluate_synthesis", "realism.copy_paste_realism_auroc"),
    "procedural_realism_auroc": ("evaluate_synthesis", "realism.procedural_realism_auroc"),
    "block_ratio": ("evaluate_synthesis", "block_ratio"),
    "block_ratio_insertions": ("evaluate_synthesis", "block_ratio_insertions"),
}


def chosen_tiles(folder: Path, count: int) -> list[Path]:
    """The first photographs of a class: one exposure of every tile before the second of any.

    Args:
        folder: `MT_<class>`; its `Imgs` holds `exp<exposure>_num_<tile>.jpg`.
        count: how many.

    Raises:
        UserError: there are fewer.
    """
    files = sorted((folder / "Imgs").glob("*.jpg"))
    if len(files) < count:
        raise UserError(
            f"{folder / 'Imgs'} holds {len(files)} photographs, {count} are needed: `make data` fetches"
            " the dataset, `--dataset` names its folder"
        )
    seen: Counter[str] = Counter()
    order = []
    for file in files:
        tile = file.stem.rpartition("_num_")[2]
        order.append((seen[tile], file))
        seen[tile] += 1
    return [file for _, file in sorted(order)[:count]]


def copy_tiles(dataset: Path, target: Path, defects: int, good: int) -> None:
    """Write `good/`, `defects/<class>/` and `masks/<class>/`, as a user would bring them.

    Masks are {0, 255}; the dataset's have shades, of which those above 127 belong to the defect.

    Args:
        dataset: folder of the magnetic tiles in their published layout.
        target: folder to make.
        defects: images per class.
        good: images without a defect.

    Raises:
        UserError: the dataset has fewer.
    """
    for file in chosen_tiles(dataset / FREE, good):
        write_png(target / "good" / f"{file.stem}.png", read_grey(file))
    for label, folder in CLASSES.items():
        for file in chosen_tiles(dataset / folder, defects):
            mask = read_grey(file.with_suffix(".png")) > 127
            write_png(target / "defects" / label / f"{file.stem}.png", read_grey(file))
            write_png(target / "masks" / label / f"{file.stem}.png", (mask * 255).astype("uint8"))


def set_steps(project: Path, steps: Mapping[str, int]) -> None:
    """Set the steps of trainings in a project's settings, as its owner would by hand."""
    path = project / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    for stage, count in steps.items():
        params[stage]["training"]["steps"] = count
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def run(command: list[str], folder: Path) -> None:
    """Run a command of this environment with this clone's code.

    Raises:
        SystemExit: it failed.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT), "PATH": path}
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed with status {done.returncode}")


def make_project(dataset: Path, work: Path, defects: int, good: int, steps: Mapping[str, int]) -> Path:
    """The project of the tiles, in `work/tiles`."""
    copy_tiles(dataset, work / "plant", defects, good)
    folders = [word for name in ("good", "defects", "masks") for word in (f"--{name}", f"plant/{name}")]
    run(["pipeline.cli", "new", "tiles", *folders, "--minutes", str(MINUTES)], work)
    set_steps(work / "tiles", steps)
    return work / "tiles"


def measured(project: Path) -> tuple[dict[str, Number], list[str]]:
    """The figures that the project's run measured, and the names of the others."""
    content = {
        stage: read_json(path) if (path := project / f"metrics/{stage}.json").is_file() else {}
        for stage in {stage for stage, _ in FIGURES.values()}
    }
    found = {name: figure_at(content[stage], key) for name, (stage, key) in FIGURES.items()}
    return (
        {name: figure for name, figure in found.items() if figure is not None},
        [name for name, figure in found.items() if figure is None],
    )


def picture(project: Path) -> Figure:
    """Per class: training images, drawn images, and defects drawn into good tiles."""
    merged, synthetic = project / "data/merged", project / "data/synthetic"
    train, drawn = split_rows(merged, "train"), pd.read_parquet(synthetic / "samples.parquet")
    insertions = list(read_insertions(synthetic))
    rows: list[list[U8]] = []
    names = []
    for label in CLASSES:
        for kind, folder, table in (("training", merged, train), ("drawn", synthetic, drawn)):
            paths = table.loc[table["label"] == label, "path"].head(SHOWN)
            rows.append([read_own(folder / path) for path in paths])
            names.append(f"{label}\n{kind}")
        inserted = [item.image[item.window] for item in insertions if item.label == label][:SHOWN]
        if inserted:
            rows.append(inserted)
            names.append(f"{label}\ninserted")
    return image_grid(rows, names)


@contextmanager
def work_folder(keep: Path | None) -> Iterator[Path]:
    """An empty folder outside the clone: `keep`, or a temporary one.

    Raises:
        UserError: `keep` has content.
    """
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="metaldefect-") as name:
            yield Path(name)
        return
    if keep.exists() and any(keep.iterdir()):
        raise UserError(f"{keep} is not empty: name a new folder")
    keep.mkdir(parents=True, exist_ok=True)
    yield keep.resolve()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tile_classes", description=__doc__)
    parser.add_argument(
        "--dataset", type=Path, default=Path("data/raw/Magnetic-tile-defect"),
        help="magnetic tiles in their published layout (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--defects", type=int, default=30, help="photographs per class (default: %(default)s)"
    )
    parser.add_argument("--good", type=int, default=60, help="good tiles (default: %(default)s)")
    parser.add_argument(
        "--tokenizer-steps", type=int, default=150, help="steps of finetune_vq (default: %(default)s)"
    )
    parser.add_argument(
        "--maskgit-steps", type=int, default=700, help="steps of train_maskgit (default: %(default)s)"
    )
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="work in FOLDER, which stays")
    parser.add_argument(
        "--picture", type=Path, default=Path("docs/images/tile_classes.png"), metavar="FILE",
        help="default: %(default)s",
    )  # fmt: skip
    add_results_argument(parser, "tile_classes")
    arguments = parser.parse_args()
    steps = {"finetune_vq": arguments.tokenizer_steps, "train_maskgit": arguments.maskgit_steps}
    with exit_on_user_error(parser.prog), work_folder(arguments.keep) as work:
        start = time.monotonic()
        dataset = arguments.dataset.resolve()
        project = make_project(dataset, work, arguments.defects, arguments.good, steps)
        run(["dvc", "repro", *STAGES], project)
        seconds = round(time.monotonic() - start, 1)
        figures, left_out = measured(project)
        metrics = {path.stem: read_json(path) for path in sorted((project / "metrics").glob("*.json"))}
        save_figure(picture(project), arguments.picture)
    for name in left_out:
        print(f"not measured: {name}")
    counts = {"images_per_class": arguments.defects, "good_images": arguments.good}
    details: dict[str, Any] = {"steps": steps, "left_out": left_out, "metrics": metrics}
    publish(arguments.results, "tile_classes", {"seconds": seconds, **counts, **figures}, details)


if __name__ == "__main__":
    main()
