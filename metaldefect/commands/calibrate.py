"""`metaldefect calibrate`: set a detector's threshold again, from stored scores and without training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from metaldefect.artifacts import read_json, write_json
from metaldefect.commands.detect import frames_of, load_model
from metaldefect.commands.export import EXPORTED, precision_thresholds
from metaldefect.deploy.bundle import METADATA
from metaldefect.deploy.export import set_thresholds
from metaldefect.efficientad.calibration import Scores, threshold_record
from metaldefect.efficientad.config import read_share
from metaldefect.efficientad.decision_figures import threshold_figures
from metaldefect.efficientad.model_files import (
    CONFIG,
    TRAINED,
    read_scores,
    write_scores,
)
from metaldefect.efficientad.thresholds import Target, percent
from metaldefect.errors import UserError
from metaldefect.figures import save_figures
from metaldefect.training.resume import content_digest

FIGURES = "figures"


def share_of(text: str) -> float:
    """Read `1%`, `1 %` or `0.01` as a share.

    Raises:
        UserError: it is neither, or not between 0 and 100 %.
    """
    try:
        return float(read_share(text))
    except ValueError as error:
        raise UserError(str(error)) from error


def recalibrate(folder: Path, target: Target, good: Path | None) -> list[str]:
    """Choose the threshold for a target and write it wherever the detector keeps one.

    Args:
        folder: a detector that `metaldefect train` or the stage `calibrate` wrote.
        target: what the threshold is for.
        good: further good images that the detector has never seen, to choose by as well; None: only the
            stored scores.

    Returns:
        Lines for the terminal.

    Raises:
        UserError: the folder is no calibrated detector, or an image cannot be read.
    """
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} holds no detector: name the folder that `metaldefect train` wrote")
    scores = read_scores(folder)
    if good is not None:
        scores = with_more_normals(folder, scores, good)
    before = float(read_json(folder / CONFIG)["threshold"])
    chosen = scores[TRAINED].threshold(target)
    exported = precision_thresholds(chosen.value, scores)
    source, bundle = f"{chosen.method}; {chosen.support}", folder / EXPORTED
    if exported and (bundle / METADATA).is_file():
        normals = {name: np.array(scores[name].normals) for name in exported}
        set_thresholds(bundle, exported, source, normals)
    content = read_json(folder / CONFIG)
    content["calibration"]["threshold"] = threshold_record(chosen, scores[TRAINED], target)
    write_scores(folder, scores)
    write_json(
        folder / CONFIG,
        content
        | {
            "threshold": chosen.value,
            "threshold_quantile": scores[TRAINED].quantile(chosen.value),
            "threshold_source": source,
        },
    )
    if (folder / FIGURES).is_dir():
        figures = threshold_figures(scores[TRAINED], chosen.value, target)
        save_figures(figures, folder / FIGURES)
        for figure in figures.values():
            plt.close(figure)
    lines = [
        f"threshold: {before:.6g} -> {chosen.value:.6g}, {chosen.method}",
        f"expected:  {percent(chosen.false_alarms)} false alarms; {chosen.support}",
    ]
    if chosen.detected is not None:
        lines.append(
            f"found:     {percent(chosen.detected)} of {len(scores[TRAINED].defects)} inserted defects"
        )
    if chosen.expected_cost is not None:
        lines.append(f"cost:      {chosen.expected_cost:.4g} expected per image")
    return lines


def with_more_normals(folder: Path, scores: dict[str, Scores], good: Path) -> dict[str, Scores]:
    """The scores, extended by those of good images; each of them counts as a scene of its own."""
    trained = load_model(folder, TRAINED)
    frames = frames_of(good, trained.read)
    images = [frame.load() for frame in frames]
    # By content: every camera counts from 0001.png, and a copied image is still the same one
    digests = [content_digest(image) for image in images]
    added_before = {scene.rpartition(" ")[2] for scene in scores[TRAINED].scenes}
    places = [f"{good.name}/{frame.name}" for frame in frames]
    if known := [place for place, one in zip(places, digests, strict=True) if one in added_before]:
        raise UserError(f"{good}: {len(known)} images were added before, such as {min(known)}")
    names = [f"{place} {one}" for place, one in zip(places, digests, strict=True)]
    found = {}
    for precision, held in scores.items():
        model = trained if precision == TRAINED else load_model(folder / EXPORTED, precision)
        added = [model.score(image)[0] for image in images]
        found[precision] = replace(held, normals=[*held.normals, *added], scenes=[*held.scenes, *names])
    return found
