"""The stages `merge` and `augment` on the procedural sample, as the default pipeline runs them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import yaml

from metaldefect.ingest.figures import merge_figures
from metaldefect.procedural.datasets import SampleCounts, write_sample_datasets
from pipeline.params import Augment, Data, Merge
from stages import augment, merge

CLASSES = ["crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches"]
MERGE = {
    "expected_counts": None,
    "image_size": 64,
    "datasets": [
        {"adapter": "neu_det", "root": "NEU-DET", "splits": ["train"], "labels": {c: c for c in CLASSES}},
        {
            "adapter": "sd_saliency_900",
            "root": "SD-saliency-900",
            "labels": {c: c for c in ("inclusion", "patches", "scratches")},
        },
        {
            "adapter": "x_sdd",
            "root": "X-SDD",
            "labels": {
                "iron sheet ash": "patches",
                "oxide scale of plate system": "rolled-in_scale",
                "surface scratch": "scratches",
            },
            "ignore": ["red iron"],
        },
    ],
    "inspection": {"adapter": "mvtec_ad", "root": "inspection", "levels": None, "scenes": None},
    "split": {"validation": 0.15, "test": 0.15},
    "duplicates": "keep",
    "normalise_source": False,
    "max_rejected": 0,
}


class RecordingRun:
    """Stands in for the MLflow run and keeps what the stage logs."""

    checkpoint_directory = Path(".checkpoints/augment/hash")

    def __init__(self) -> None:
        self.metrics: dict[str, Any] = {}
        self.artifacts: list[str] = []

    def log_metrics(self, metrics: dict[str, Any]) -> None:
        self.metrics = metrics

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        self.artifacts.append(path.name)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RecordingRun, RecordingRun]:
    root = tmp_path_factory.mktemp("workspace")
    params = SimpleNamespace(
        seed=42,
        data=Data(root=Path("data/sample"), channels=1, classes=CLASSES),
        merge=Merge.model_validate(MERGE),
        augment=Augment(png_level=1, photometric=False),
    )
    merged, augmented = RecordingRun(), RecordingRun()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        write_sample_datasets(Path("data/sample"), SampleCounts(10, 6, 4, 20, 2), seed=42)
        merge.main(params, merged)  # type: ignore[arg-type]
        augment.main(params, augmented)  # type: ignore[arg-type]
    return root, merged, augmented


def test_merge_writes_outs_metrics_and_plots(workspace):
    root, run, _ = workspace
    metrics = json.loads((root / "metrics/merge.json").read_text())
    # 8 of 10 a class in train x 6, 6 x 3 saliency, 4 x 3 of X-SDD
    assert metrics["total"] == 48 + 18 + 12
    assert metrics["per_source"] == {"neu_det": 48, "sd_saliency_900": 18, "x_sdd": 12}
    assert metrics["groups_across_splits"] == 0
    assert metrics["expectations_failed"] == 0
    # the saliency images 1, 2 and 4 of each class are training photographs of NEU-DET, 5 is a validation one
    assert metrics["duplicate_pairs"] == 9
    assert metrics == run.metrics
    pairs = pd.read_csv(root / "data/merged/near_duplicates.csv")
    assert pairs["same_photograph"].sum() == 9
    assert all((root / "data/merged" / path).is_file() for path in [*pairs["first"], *pairs["second"]])
    assert not (root / "plots").exists()  # the report draws the figures
    figures = merge_figures(root / "data/merged")
    assert list(figures) == ["images_per_class_and_source", "share_of_each_split", "near_duplicate_pairs"]
    assert len(figures["near_duplicate_pairs"].axes) == 12  # six pairs
    assert run.artifacts == [
        "expectations_merged.html",
        "expectations_merged.json",
        "expectations_merged.md",
        "rejected.csv",
    ]
    for split in ("train", "validation", "test"):
        assert list((root / "data/merged/inspection" / split / "good").glob("*.png"))


def test_augment_writes_eight_versions_of_train(workspace):
    root, _, run = workspace
    metrics = json.loads((root / "metrics/augment.json").read_text())
    table = pd.read_parquet(root / "data/merged/samples.parquet")
    train = table[table["split"] == "train"]
    assert metrics["total"] == 8 * len(train)
    assert metrics["per_class"] == {
        label: 8 * count for label, count in sorted(train["label"].value_counts().items())
    }
    assert len(list((root / "data/augmented/images").rglob("*.png"))) == metrics["total"]
    assert metrics == run.metrics
    assert not (root / ".checkpoints/augment/hash/augmented").exists()


def test_dvc_keeps_the_last_good_data_while_the_stage_runs() -> None:
    """Without `persist` DVC deletes them first, and a refused file would cost the last good run."""
    stages = yaml.safe_load((Path(__file__).parents[2] / "dvc.yaml").read_text())["stages"]
    outs = {path: options for out in stages["merge"]["outs"] for path, options in out.items()}
    assert outs.keys() == {"data/merged", "metrics/merge.json"}
    assert all(options["persist"] for options in outs.values())
