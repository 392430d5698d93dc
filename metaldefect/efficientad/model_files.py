"""A detector on disk: `model.safetensors` and `config.json` in one folder, before and after calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from metaldefect.artifacts import check_sha256, read_json, sha256_file, write_json
from metaldefect.efficientad.calibration import MAPS, Calibration, PapersScore, Scores
from metaldefect.efficientad.config import Size
from metaldefect.efficientad.torch_model import EfficientAD, check_image_size
from metaldefect.errors import UserError
from metaldefect.hardware import device
from metaldefect.image_files import Levels
from metaldefect.images import Channels, ImageSize, height_and_width

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
SCORES = "calibration_scores.json"
TRAINED = "trained"
PAPERS = "paper_score"  # in the configuration: what the paper's score needs; in metrics: what it reaches


@dataclass(frozen=True)
class NetworkConfig:
    """What is needed to run trained networks.

    Attributes:
        size: `S` or `M`.
        padding: whether the PDNs are padded.
        image_size: side of the square, or height and width, that images are resized to (antialiased
            bilinear).
        count_include_pad: how the PDNs pool at the border: the same as in the teacher's training.
        levels: how images with more than 8 bits are read; None: the training had none, so they are refused.
        channels: 1, colour images become grey; or 3, grey images become three equal channels.
        tiles: images are cut into tiles of `image_size` that share so many pixels; None: they are resized.
    """

    size: Size
    padding: bool
    image_size: ImageSize
    count_include_pad: bool = field(default=True, kw_only=True)
    levels: Levels | None = field(default=None, kw_only=True)
    channels: Channels = field(default=1, kw_only=True)
    tiles: int | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class DetectorConfig(NetworkConfig):
    """What is needed to use a calibrated detector.

    Attributes:
        threshold: scores above it are anomalous.
        threshold_quantile: the quantile of the validation normals' scores that is the threshold.
        threshold_source: where the threshold comes from, in words.
    """

    threshold: float
    threshold_quantile: float
    threshold_source: str


Config = TypeVar("Config", bound=NetworkConfig)


def calibrated(config: NetworkConfig, calibration: Calibration) -> DetectorConfig:
    """Complete the networks' configuration with the values that a calibration chose."""
    chosen = calibration.record["threshold"]
    return DetectorConfig(
        config.size,
        config.padding,
        config.image_size,
        calibration.threshold,
        calibration.scores.quantile(calibration.threshold),
        f"{chosen['method']}; {chosen['support']}",
        count_include_pad=config.count_include_pad,
        levels=config.levels,
        channels=config.channels,
        tiles=config.tiles,
    )


def save_detector(
    folder: Path,
    model: EfficientAD,
    config: NetworkConfig,
    training: Mapping[str, Any],
    calibration: Calibration | None = None,
) -> None:
    """Write the weights (teacher, student, autoencoder, constants), the configuration and, if there is one,
    the calibration's scores.

    Args:
        folder: an existing folder.
        model: the networks.
        config: what is needed to use them; a `DetectorConfig` after calibration.
        training: how they were trained.
        calibration: how scales, weights and threshold were chosen; None before calibration.

    Raises:
        ValueError: the configuration does not match the networks.
    """
    for name in ("size", "padding", "count_include_pad"):
        if getattr(config, name) != getattr(model, name):
            raise ValueError(
                f"the networks have {name} = {getattr(model, name)}, their configuration says"
                f" {getattr(config, name)}"
            )
    weights = folder / WEIGHTS
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}, weights
    )
    weights.chmod(0o644)  # safetensors makes the file private
    content: dict[str, Any] = asdict(config) | {
        "training": dict(training),
        "sha256": sha256_file(weights),
        # Also stored in the weights; repeated here for people and other programs.
        "teacher_mean": [round(value, 6) for value in model.teacher_mean.flatten().tolist()],
        "teacher_std": [round(value, 6) for value in model.teacher_std.flatten().tolist()],
    }
    if isinstance(config, DetectorConfig):
        content |= {
            "map_quantiles": {
                name: dict(zip(("q_a", "q_b"), row, strict=True))
                for name, row in zip(MAPS, model.quantiles.tolist(), strict=True)
            },
            "map_weights": dict(zip(MAPS, model.map_weights.tolist(), strict=True)),
            "calibration": dict(calibration.record) if calibration else {},
        }
    if calibration is not None:
        content[PAPERS] = asdict(calibration.papers)
        write_scores(folder, {TRAINED: calibration.scores})
    write_json(folder / CONFIG, content)


def write_scores(folder: Path, scores: Mapping[str, Scores]) -> None:
    """Write the scores of the calibration images, by precision; `TRAINED` is that of the trained networks."""
    write_json(folder / SCORES, {precision: asdict(found) for precision, found in scores.items()})


def read_scores(folder: Path) -> dict[str, Scores]:
    """Read what `write_scores` wrote.

    Raises:
        UserError: the detector has no such file.
    """
    path = folder / SCORES
    if not path.is_file():
        raise UserError(
            f"{path} does not exist: an earlier version made this detector; calibrate or train anew"
        )
    return {precision: Scores(**found) for precision, found in read_json(path).items()}


def read_papers_score(folder: Path) -> PapersScore:
    """What gives the networks of a calibrated detector the paper's score.

    Raises:
        UserError: the detector's configuration does not say.
    """
    content = read_json(folder / CONFIG)
    if PAPERS not in content:
        raise UserError(
            f"{folder / CONFIG} says nothing about {PAPERS!r}: an earlier version made this detector;"
            " calibrate or train anew"
        )
    return PapersScore(**content[PAPERS])


def load_networks(folder: Path | str) -> tuple[EfficientAD, NetworkConfig, dict[str, Any]]:
    """Load trained networks in evaluation mode on `device()`, their configuration and their record.

    Raises:
        UserError: as in `load_detector`, except for a missing calibration.
    """
    model, config = load(Path(folder), NetworkConfig)
    return model, config, dict(read_json(Path(folder) / CONFIG)["training"])


def load_detector(folder: Path | str) -> tuple[EfficientAD, DetectorConfig]:
    """Load a calibrated detector in evaluation mode on `device()`, and its configuration.

    Raises:
        UserError: a file is missing or broken, the networks were never calibrated, or weights and
            configuration disagree about the size or the map weights.
    """
    folder = Path(folder)
    model, config = load(folder, DetectorConfig)
    stated = read_json(folder / CONFIG).get("map_weights", {})
    if stated != dict(zip(MAPS, model.map_weights.tolist(), strict=True)):
        raise UserError(f"{folder / CONFIG} has map_weights {stated}, {WEIGHTS} {model.map_weights.tolist()}")
    return model, config


def load(folder: Path, kind: type[Config]) -> tuple[EfficientAD, Config]:
    """Load networks in evaluation mode and their configuration of type `kind`."""
    content = read_json(folder / CONFIG)
    try:
        # Older models lack these
        later = {"levels": content.get("levels"), "channels": content.get("channels", 1)}
        later["tiles"] = content.get("tiles")
        values = {field.name: content[field.name] for field in fields(kind) if field.name not in later}
        if isinstance(values["image_size"], list):
            values["image_size"] = tuple(values["image_size"])
        later["levels"] = later["levels"] and Levels(**later["levels"])
        config = kind(**values, **later)
        sha256 = content["sha256"]
    except KeyError as error:
        raise UserError(
            f"{folder / CONFIG} says nothing about {error}: it is not a calibrated detector's"
        ) from error
    check_image_size(*height_and_width(config.image_size))
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise UserError(f"{weights} does not exist")
    model = EfficientAD(config.size, config.padding, config.count_include_pad)
    check_sha256(weights, sha256)
    try:
        model.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError) as error:
        raise UserError(f"{weights} does not hold a detector of size {config.size}: {error}") from error
    return model.eval().requires_grad_(False).to(device()), config
