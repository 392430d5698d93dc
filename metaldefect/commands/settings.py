"""The settings of `metaldefect train`: a YAML file with overrides, validated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from metaldefect.config import Config
from metaldefect.efficientad.config import (
    AUTO,
    AutoImageSettings,
    CalibrationSettings,
    Size,
    TrainingConfig,
    with_target_of,
)
from metaldefect.errors import UserError
from metaldefect.image_files import LevelsSetting
from metaldefect.maskgit.sampling_config import DrawingSettings
from metaldefect.procedural.textures import Finish
from metaldefect.synthesis.config import InsertionSettings

# Without a settings file. The paper trains 70,000 steps with 1e-4 and 0.999; a training of minutes needs
# larger steps and more of an image's errors to learn from.
SHORT = {"learning_rate": 4e-4, "hard_quantile": 0.97, "steps": 600}
FROM_IMAGES = {"image_size": AUTO, "minutes": 30.0, "penalty_images": 500}
PROCEDURAL = {"image_size": 128, "source": "synthetic"}


class SyntheticSettings(Config):
    """Sizes of the procedural splits."""

    train: PositiveInt = 200
    validation: PositiveInt = 40
    test_normal: PositiveInt = 60
    test_anomalies: PositiveInt = 20
    finish: Finish | None = None


class GeneratedSettings(DrawingSettings, InsertionSettings):
    """Which models insert defects, how many defects per class, and how the models sample."""

    tokenizer: Path = Path("models/vq")
    maskgit: Path = Path("models/maskgit")


class TrainSettings(TrainingConfig, AutoImageSettings, CalibrationSettings):
    """All keys of `conf/efficientad.yaml`, which explains each of them."""

    output: Path
    minutes: float | None = Field(default=None, gt=0)
    export: bool = True
    real_golden_frames: bool = True
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    model: Size = "S"
    teacher: str = "shipped"
    source: Literal["real", "synthetic", "generated"]
    root: Path | None = None
    adapter: str = AUTO
    levels: LevelsSetting | None = None
    scenes: str | None = None
    tiles: NonNegativeInt | None = None
    max_rejected: NonNegativeInt = 0
    synthetic: SyntheticSettings = SyntheticSettings()
    generated: GeneratedSettings = GeneratedSettings()

    @model_validator(mode="after")
    def source_has_a_root(self) -> TrainSettings:
        if self.source != "synthetic" and self.root is None:
            raise ValueError(f"source: {self.source} needs root: the folder of the dataset (--root)")
        if self.source == "synthetic" and self.root is not None:
            raise ValueError(
                "source: synthetic draws its own images and reads no root (--root): set source to real"
                " (--source real), or leave root out"
            )
        return self


def load_settings(path: Path | None, overrides: Mapping[str, Any]) -> TrainSettings:
    """Read a settings file and apply the overrides; without a file, start from the defaults of a short run.

    Steps among the overrides end the training instead of minutes; a target of the threshold replaces the
    file's. A dataset without a folder is looked for in the working directory.

    Raises:
        UserError: the file is missing, not UTF-8 or not YAML, or a key or value is wrong; the message lists
            all.
    """
    chosen = dict(overrides)
    if "steps" in chosen:
        chosen.setdefault("minutes", None)
    if path is None:
        return TrainSettings.parse(without_file(chosen), "the command line")
    if not path.is_file():
        raise UserError(f"{path} does not exist: copy conf/efficientad.yaml")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error}): save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no settings: copy conf/efficientad.yaml")
    return TrainSettings.parse(with_target_of(content, chosen), str(path))


def without_file(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run without a settings file; a dataset's folder alone makes it a real one."""
    if "root" in chosen:
        chosen = {"source": "real", **chosen}
    if chosen.get("source", "synthetic") == "synthetic":
        return {**SHORT, **PROCEDURAL, "output": Path("models/procedural"), **chosen}
    root = Path(chosen.get("root", "."))
    output = Path("models") / (root.resolve().name or "detector")
    return {**SHORT, **FROM_IMAGES, "output": output, **chosen, "root": root}
