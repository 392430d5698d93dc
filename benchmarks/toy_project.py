"""A project whose pipeline takes seconds: its stages copy planted detectors instead of training them.

Everything around the training is real: git, DVC, the gate, MLflow, Prefect, the exported bundles. A detector
is one graph whose score is the largest distance of a grey level from 128, so its threshold alone decides how
good it is.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import openvino
import yaml
from openvino import opset13 as ops
from PIL import Image

from metaldefect.deploy.bundle import TOLERANCES, graph_file, write_metadata
from metaldefect.deploy.golden import write_golden_frames
from metaldefect.deploy.graph import INPUT
from metaldefect.inspection.layout import mask_path, write_levels, write_scenes

ROOT = Path(__file__).resolve().parents[1]
SIZE = 64
GOOD_IMAGES, DEFECTS = 16, 8
# Every second defect stands out less than the second threshold
THRESHOLDS = {"good": 0.4, "half_blind": 0.7}
KINDS = ("dent", "scratch")
PIPELINE = """\
stages:
  merge:
    cmd: python take.py inspection data/merged/inspection
    deps: [take.py]
    outs: [data/merged/inspection]
  export_openvino:
    cmd: python take.py "$(cat which.txt)" models/openvino
    deps: [take.py, which.txt, round.txt, data/merged/inspection, data/raw]
    outs: [models/openvino]
"""
# The stage takes a while, so that something can happen to it
TAKE = """\
import os, shutil, sys, time
source = os.path.join({detectors!r}, sys.argv[1])
if not os.path.isdir(source):
    sys.exit(f"export_openvino: {{sys.argv[1]}} is no detector:\\nname another in which.txt")
if sys.argv[2] == "models/openvino":
    time.sleep(float(open("seconds.txt").read()))
shutil.copytree(source, sys.argv[2], dirs_exist_ok=True)
"""
IGNORED = """\
/mlruns/
/data/raw/
/data/holdout/
/reports/
/models/
/inbox/
/quarantine/
/scores/
/.checkpoints/
/.prefect/
/logs/
"""


def write_detectors(folder: Path) -> Path:
    """Write the dataset `inspection/` and the bundles `good/` and `half_blind/`; returns `folder`."""
    write_inspection(folder / "inspection")
    for name, threshold in THRESHOLDS.items():
        write_detector(folder / name, threshold)
    return folder


def write_inspection(root: Path) -> None:
    """Grey noise around 128 as good images; half of the defects are bright spots, the others faint ones."""
    write_prepared(root, KINDS, GOOD_IMAGES, DEFECTS, metal, lambda kind, key: f"{kind}{key}")


def write_prepared(
    root: Path,
    kinds: Sequence[str],
    good_images: int,
    defects: int,
    draw: Callable[[int, str], tuple[np.ndarray, np.ndarray]],
    scene_of: Callable[[str, int], str],
) -> None:
    """Write a prepared dataset in the detector's layout: four good images to train, four to validate, a test.

    Args:
        root: the folder.
        kinds: of defects.
        good_images: number of good test images.
        defects: number of test images of each kind.
        draw: image and mask of a key and a kind, `good` among them.
        scene_of: the scene of a kind and a key.
    """
    scenes = {}
    splits = (("train", 0, 4), ("validation", 100, 4), ("test", 200, good_images))
    jobs = [(f"{split}/good", "good", start + k) for split, start, count in splits for k in range(count)]
    jobs += [(f"test/{kind}", kind, 300 + k) for kind in kinds for k in range(defects)]
    for folder, kind, key in jobs:
        image, mask = draw(key, kind)
        path = root / folder / f"{key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        scenes[f"{folder}/{key}.png"] = scene_of(kind, key)
        if kind != "good":
            target = mask_path(root, kind, path.stem)
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(target)
    write_scenes(root, scenes)
    write_levels(root, None)


def metal(key: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """An image and the mask of its defect, both `uint8 [SIZE, SIZE]`."""
    rng = np.random.default_rng([key, len(kind)])
    image = np.clip(rng.normal(128, 5, (SIZE, SIZE)), 100, 156).astype(np.uint8)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    if kind == "dent":
        mask[20:40, 20:34] = 255
    elif kind == "scratch":
        mask[30:34, 4:60] = 255
    image[mask > 0] = 182 if key % 2 else 228
    return image, mask


def write_detector(folder: Path, threshold: float) -> None:
    """Write a bundle whose anomaly map is |grey level - 128| / 100."""
    frame = ops.parameter([1, -1, -1, 1], np.uint8, name=INPUT)
    levels = ops.transpose(ops.convert(frame, "f32"), np.array([0, 3, 1, 2]))
    anomaly_map = ops.multiply(ops.abs(ops.subtract(levels, np.float32(128))), np.float32(0.01))
    score = ops.reduce_max(anomaly_map, np.array([1, 2, 3]), keep_dims=False)
    outputs = []
    for name, node in (("anomaly_map", anomaly_map), ("score", score)):
        node.output(0).get_tensor().set_names({name})
        outputs.append(ops.result(node))
    frame.output(0).get_tensor().set_names({INPUT})
    folder.mkdir(parents=True)
    model = openvino.Model(outputs, [frame], "toy")
    openvino.save_model(model, folder / graph_file("fp32"), compress_to_fp16=False)
    validation = {"images": 4, "false_alarm_rate": 0, "changed_decisions": 0, "largest_difference": 0}
    (golden,) = write_golden_frames(folder, [np.full((SIZE, SIZE, 1), 228, np.uint8)])
    content = {
        "model": "toy",
        "padding": True,
        "image_size": SIZE,
        "input": {"name": INPUT, "type": "u8", "channels": (1,), "levels": None},
        "outputs": {},
        "map_weights": {},
        "threshold_source": "made up",
        "precisions": {
            "fp32": {
                "graph": graph_file("fp32"),
                "threshold": threshold,
                "tolerance": TOLERANCES["fp32"],
                "execution": "f32",
                "validation": validation,
            }
        },
        "golden": [{"file": golden, "scores": {"fp32": 1.0}}],
        "lineage": {},
    }
    write_metadata(folder, content)


def write_project(root: Path, detectors: Path, environment: Mapping[str, str], seconds: float) -> Path:
    """Make a committed project that takes its detector from a folder; nothing has run in it.

    Args:
        root: the new folder.
        detectors: holds `inspection/` and the bundles that `which.txt` may name.
        environment: of git and DVC.
        seconds: how long the last stage takes.
    """
    (root / "data/raw").mkdir(parents=True)
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    # New images from the inbox may join data/raw
    params["data"] = {"root": "data/raw", "channels": 1, "classes": list(KINDS)}
    params["merge"]["datasets"] = [{"adapter": "folder", "root": "."}]
    params["gate"] |= {"precision": "fp32"}
    params["gate"]["cost"] |= {"latency_frames": 1, "latency_ratio": 1000}
    files = {
        "dvc.yaml": PIPELINE,
        "take.py": TAKE.format(detectors=str(detectors)),
        "seconds.txt": str(seconds),
        "which.txt": "good",
        "round.txt": "0",
        "params.yaml": yaml.safe_dump(params),
        "prefect.yaml": (ROOT / "prefect.yaml").read_text(encoding="utf-8"),
        ".gitignore": IGNORED,
        "data/raw/one.txt": "1",
    }
    for name, text in files.items():
        (root / name).write_text(text, encoding="utf-8")
    for command in (
        ["git", "init", "-q"],
        ["git", "config", "user.email", "x@localhost"],
        ["git", "config", "user.name", "x"],
        [sys.executable, "-m", "dvc", "init", "-q"],
        ["git", "add", "--all"],
        ["git", "commit", "-qm", "start"],
    ):
        subprocess.run(command, cwd=root, env=dict(environment), check=True)
    return root


def commit_change(root: Path, which: str, number: int) -> None:
    """Commit what the next pipeline run is to make, with a number that no earlier run has seen."""
    (root / "which.txt").write_text(which, encoding="utf-8")
    (root / "round.txt").write_text(str(number), encoding="utf-8")
    command = ["git", "commit", "--quiet", "--all", "--message", f"{which}, round {number}"]
    subprocess.run(command, cwd=root, check=True)
