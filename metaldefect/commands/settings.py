"""The settings of `metaldefect train`: a YAML file with overrides, validated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from metaldefect.errors import UserError
from metaldefect.procedural.textures import Finish


class Section(BaseModel):
    """Base of all settings: rejects unknown keys, and is immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SyntheticSettings(Section):
    """Sizes of the procedural splits."""

    train: PositiveInt = 200
    validation: PositiveInt = 40
    test_normal: PositiveInt = 60
    test_anomalies: PositiveInt = 20
    finish: Finish | None = None


class GeneratedSettings(Section):
    """Which models insert defects, how many defects per class, and how the models sample."""

    tokenizer: Path = Path("models/vq")
    maskgit: Path = Path("models/maskgit")
    per_class: PositiveInt = 10
    steps: PositiveInt = 16
    guidance: float = Field(default=2.0, ge=0)
    temperature: PositiveFloat = 0.7
    feather: PositiveFloat = 6.0
    batch_size: PositiveInt = 16


class TrainSettings(Section):
    """All keys of `conf/efficientad.yaml`, which explains each of them."""

    output: Path
    seed: int = Field(default=0, ge=0)
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    model: Literal["S", "M"] = "S"
    teacher: str = "shipped"
    padding: bool = True
    image_size: int = Field(default=256, ge=128)
    source: Literal["real", "synthetic", "generated"]
    root: Path | None = None
    adapter: str = "mvtec_ad"
    synthetic: SyntheticSettings = SyntheticSettings()
    generated: GeneratedSettings = GeneratedSettings()
    steps: PositiveInt
    batch_size: PositiveInt = 1
    learning_rate: PositiveFloat = 1e-4
    weight_decay: float = Field(default=1e-5, ge=0)
    hard_quantile: float = Field(default=0.999, ge=0, lt=1)
    penalty: bool = True
    natural: Path | None = None
    penalty_images: PositiveInt = 128
    checkpoint_steps: PositiveInt = 100
    threshold_quantile: float = Field(default=0.99, gt=0, le=1)

    @model_validator(mode="after")
    def source_has_a_root(self) -> TrainSettings:
        if self.source != "synthetic" and self.root is None:
            raise ValueError(f"source: {self.source} needs root: the folder of the dataset (--root)")
        return self


def load_settings(path: Path, overrides: Mapping[str, Any]) -> TrainSettings:
    """Read a settings file and apply the overrides.

    Raises:
        UserError: the file is missing or not YAML, or a key or value is wrong; the message lists all.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: copy conf/efficientad.yaml")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no settings: copy conf/efficientad.yaml")
    try:
        return TrainSettings.model_validate({**content, **overrides})
    except ValidationError as error:
        lines = [
            f"  {'.'.join(map(str, item['loc'])) or '(settings)'}: {item['msg']}" for item in error.errors()
        ]
        raise UserError(f"{path} is not valid:\n" + "\n".join(lines)) from error
