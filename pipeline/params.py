"""`params.yaml` as typed, validated data: one model per section; unknown keys are errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from metaldefect.errors import UserError

Fraction = float
Perceptual = Literal["vgg", "alex", "squeeze", "efficientnet_lite0"]


class Section(BaseModel):
    """A section of `params.yaml`; unknown keys are errors, and values cannot change after parsing."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Section):
    root: Path
    classes: list[str] = Field(min_length=2)


class Sample(Section):
    neu_det: PositiveInt
    sd_saliency_900: PositiveInt
    x_sdd: PositiveInt
    normal: PositiveInt
    defective: PositiveInt


class DatasetParams(Section):
    adapter: str
    root: str
    splits: list[str] | None = None
    labels: dict[str, str]
    ignore: list[str] = []
    name: str | None = None


class InspectionParams(Section):
    adapter: str
    root: str


class Split(Section):
    validation: Fraction = Field(gt=0, lt=0.5)
    test: Fraction = Field(gt=0, lt=0.5)


class Merge(Section):
    image_size: PositiveInt
    datasets: list[DatasetParams] = Field(min_length=1)
    inspection: InspectionParams
    split: Split
    duplicates: Literal["keep", "drop"]
    normalise_source: bool
    max_rejected: NonNegativeInt
    expected_counts: dict[str, int] | None = None


class Augment(Section):
    png_level: int = Field(ge=0, le=9)
    photometric: bool


class Tokenizer(Section):
    base: Literal["shipped", "none"] | str
    name: str
    image_size: PositiveInt
    codebook_size: PositiveInt


class VQTraining(Section):
    steps: PositiveInt
    batch_size: PositiveInt
    learning_rate: PositiveFloat
    warmup_steps: NonNegativeInt
    mode: Literal["full", "decoder_only"]
    perceptual: Perceptual
    l1_weight: float
    ssim_weight: float
    perceptual_weight: float
    edge_weight: float
    adversarial_weight: float
    discriminator_start: NonNegativeInt
    discriminator_channels: PositiveInt
    entropy_ratio: float
    codebook_decay: float | None = Field(gt=0, lt=1)
    ema_decay: float = Field(ge=0, lt=1)
    checkpoint_steps: PositiveInt
    snapshots: int = Field(ge=2)


class FinetuneVQ(Section):
    tokenizer: Tokenizer
    training: VQTraining


class EvaluateVQ(Section):
    perceptual: Perceptual
    images: PositiveInt
    curve_points: PositiveInt
    curve_images: PositiveInt


class Tokenize(Section):
    batch_size: PositiveInt
    vocabulary: Literal["used", "full"]


class MaskGITTraining(Section):
    steps: PositiveInt
    unconditional_steps: NonNegativeInt
    balanced: bool
    batch_size: PositiveInt
    learning_rate: PositiveFloat
    warmup_steps: NonNegativeInt
    weight_decay: float
    label_dropout: Fraction
    label_smoothing: Fraction
    soft_weight: float = Field(ge=0, lt=1)
    soft_neighbours: PositiveInt
    soft_temperature: PositiveFloat
    unmasked_weight: float
    rectangle_share: Fraction
    ema_decay: float = Field(ge=0, lt=1)
    checkpoint_steps: PositiveInt
    snapshots: int = Field(ge=2)


class TrainMaskGIT(Section):
    size: str
    heads: PositiveInt
    dropout: Fraction
    conditioning: Literal["adaln", "sum"]
    mixing: NonNegativeInt
    codebook_start: float = Field(ge=0)
    base: str | None
    training: MaskGITTraining


class EvaluateMaskGIT(Section):
    images: PositiveInt
    curve_points: PositiveInt
    curve_images: PositiveInt


class Sampling(Section):
    steps: PositiveInt
    order: Literal["halton", "random", "confidence"]
    roll: bool
    guidance: float = Field(ge=0)
    guidance_schedule: Literal["constant", "linear"]
    temperature: PositiveFloat
    temperature_convention: Literal["divide", "multiply"]
    top_k: NonNegativeInt
    top_p: float = Field(gt=0, le=1)
    confidence_noise: float = Field(ge=0)
    batch_size: PositiveInt


class Candidates(Section):
    per_image: PositiveInt
    steps: PositiveInt
    guidance: float = Field(ge=0)
    temperature: PositiveFloat


class Synthesize(Section):
    images_per_class: PositiveInt
    candidates: Candidates
    insertions_per_class: PositiveInt
    insertion_attempts: PositiveInt
    sampling: Sampling
    feather: PositiveFloat
    grain: bool


class EvaluateSynthesis(Section):
    border_images: PositiveInt


class DistillTeacher(Section):
    size: Literal["S", "M"]
    source: Literal["shipped", "distill"]
    backbone: str
    steps: NonNegativeInt
    batch_size: PositiveInt
    learning_rate: PositiveFloat
    image_size: PositiveInt
    natural: str | None
    natural_images: PositiveInt
    checkpoint_steps: PositiveInt

    @model_validator(mode="after")
    def steps_fit_the_source(self) -> DistillTeacher:
        """Shipped weights need 0 steps, and a distillation needs at least one."""
        if (self.source == "shipped") != (self.steps == 0):
            raise ValueError("source: shipped needs steps: 0, source: distill needs steps of at least 1")
        return self


class TrainEfficientAD(Section):
    image_size: int = Field(ge=128)
    steps: PositiveInt
    batch_size: PositiveInt
    learning_rate: PositiveFloat
    weight_decay: float
    hard_quantile: float = Field(ge=0, lt=1)
    padding: bool
    penalty: bool
    natural: str | None
    penalty_images: PositiveInt
    checkpoint_steps: PositiveInt


class Calibrate(Section):
    threshold_quantile: float = Field(gt=0, le=1)


class EvaluateEfficientAD(Section):
    bootstrap_samples: PositiveInt


class ExportOpenVINO(Section):
    calibration_images: PositiveInt


class EvaluateOpenVINO(Section):
    parity_images: PositiveInt
    latency_frames: PositiveInt
    max_parity_error: PositiveFloat


class Report(Section):
    title: str


class Params(Section):
    """The whole of `params.yaml`."""

    seed: NonNegativeInt
    data: Data
    sample: Sample
    merge: Merge
    augment: Augment
    finetune_vq: FinetuneVQ
    evaluate_vq: EvaluateVQ
    tokenize: Tokenize
    train_maskgit: TrainMaskGIT
    evaluate_maskgit: EvaluateMaskGIT
    synthesize: Synthesize
    evaluate_synthesis: EvaluateSynthesis
    distill_teacher: DistillTeacher
    train_efficientad: TrainEfficientAD
    calibrate: Calibrate
    evaluate_efficientad: EvaluateEfficientAD
    export_openvino: ExportOpenVINO
    evaluate_openvino: EvaluateOpenVINO
    report: Report


class ParamsError(UserError):
    """`params.yaml` is missing, unreadable or invalid; the message names the keys."""


def load_params(path: Path | str = "params.yaml") -> Params:
    """Read and validate `params.yaml`.

    Raises:
        ParamsError: names the file and every offending key, with what was expected.
    """
    path = Path(path)
    if not path.is_file():
        raise ParamsError(f"{path} does not exist: run from the project's root")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ParamsError(f"{path} is not valid YAML: {error}") from error
    return parse_params(content, str(path))


def parse_params(content: Any, origin: str = "params.yaml") -> Params:
    """Validate parsed YAML; error messages call the file `origin`.

    Raises:
        ParamsError: names `origin` and every offending key, with what was expected.
    """
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        lines = [
            f"  {'.'.join(str(part) for part in item['loc']) or '(top level)'}: {item['msg']}"
            + ("" if item["type"] in ("missing", "extra_forbidden") else f" (got {item['input']!r})")
            for item in error.errors()
        ]
        raise ParamsError(f"{origin} is not valid:\n" + "\n".join(lines)) from error
