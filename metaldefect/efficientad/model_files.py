"""A trained detector on disk: `model.safetensors` and `config.json` in one folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from metaldefect.artifacts import read_json, sha256_file, write_json
from metaldefect.efficientad.torch_model import EfficientAD, Size, check_image_size
from metaldefect.errors import UserError

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


@dataclass(frozen=True)
class DetectorConfig:
    """What must be known to use a detector.

    Attributes:
        size: `S` or `M`.
        padding: whether the PDNs are padded.
        image_size: side of the square that images are resized to (antialiased bilinear).
        threshold: scores above it are anomalous.
        threshold_quantile: the quantile of the validation normals' scores that it is.
        threshold_source: the same in words.
    """

    size: Size
    padding: bool
    image_size: int
    threshold: float
    threshold_quantile: float
    threshold_source: str


def save_detector(
    folder: Path, model: EfficientAD, config: DetectorConfig, record: Mapping[str, Any]
) -> None:
    """Write the weights (teacher, student, autoencoder, constants) and the configuration.

    Args:
        folder: an existing folder.
        model: the networks.
        config: what is needed to use them.
        record: how they were trained, kept under `training`.
    """
    weights = folder / WEIGHTS
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}, weights
    )
    weights.chmod(0o644)  # safetensors makes it private
    content = asdict(config) | {
        "training": dict(record),
        "sha256": sha256_file(weights),
        # Also in the weights, repeated here for people and other programs.
        "teacher_mean": [round(value, 6) for value in model.teacher_mean.flatten().tolist()],
        "teacher_std": [round(value, 6) for value in model.teacher_std.flatten().tolist()],
        "map_quantiles": {
            name: dict(zip(("q_a", "q_b"), row, strict=True))
            for name, row in zip(("student", "autoencoder"), model.quantiles.tolist(), strict=True)
        },
    }
    write_json(folder / CONFIG, content)


def load_detector(folder: Path | str) -> tuple[EfficientAD, DetectorConfig]:
    """A detector in evaluation mode and its configuration.

    Raises:
        UserError: a file is missing; or a file is broken, or the weights are of another size than the
            configuration says.
    """
    folder = Path(folder)
    content = read_json(folder / CONFIG)
    try:
        config = DetectorConfig(**{field.name: content[field.name] for field in fields(DetectorConfig)})
    except KeyError as error:
        raise UserError(f"{folder / CONFIG} says nothing about {error}: it is not a detector's") from error
    check_image_size(config.image_size, config.image_size)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise UserError(f"{weights} does not exist")
    model = EfficientAD(config.size, config.padding)
    try:
        model.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError) as error:
        raise UserError(f"{weights} does not hold a detector of size {config.size}: {error}") from error
    return model.eval().requires_grad_(False), config
