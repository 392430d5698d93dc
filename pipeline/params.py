"""`params.yaml` as typed, validated data: one model per section; unknown keys are errors.

A hyper-parameter of the library is declared there; a section inherits it and adds what only its stage has.
The file is complete: a key may not be left out because the library has a default. Only settings that are
`ADDED_LATER` may, so that older projects still run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from metaldefect.config import ADDED_LATER, Config
from metaldefect.efficientad.config import CalibrationSettings, ImageSettings, TrainingSettings
from metaldefect.efficientad.distillation_config import DistillationSettings
from metaldefect.errors import UserError
from metaldefect.image_files import LevelsSetting
from metaldefect.images import Channels
from metaldefect.maskgit.sampling_config import SamplingConfig
from metaldefect.maskgit.training_config import RecipeSettings, RecipeTrainingSettings
from metaldefect.metrics.judge_config import JudgeSettings
from metaldefect.synthesis.config import BlendSettings, CandidateConfig
from metaldefect.tokenizer.config import CodebookSettings
from metaldefect.tokenizer.training_config import PerceptualName, VQTrainingSettings
from pipeline.gate.settings import Gate

Fraction = float


class Data(Config):
    """Raw data, and how every stage sees images: `channels` 1 makes colour grey, 3 keeps it."""

    root: Path
    channels: Annotated[Channels, ADDED_LATER] = 1
    classes: list[str] = Field(min_length=1)


class Sample(Config):
    """Numbers of procedural images; a project of the user's own images has none (`sample: null`)."""

    neu_det: PositiveInt
    sd_saliency_900: PositiveInt
    x_sdd: PositiveInt
    normal: PositiveInt
    defective: PositiveInt


class DatasetParams(Config):
    adapter: str
    root: str
    splits: list[str] | None = None
    labels: dict[str, str] | None = None
    ignore: list[str] = Field(default=[])
    name: str | None = None
    levels: LevelsSetting | None = None
    scenes: str | None = None


class InspectionParams(Config):
    adapter: str
    root: str
    levels: LevelsSetting | None
    scenes: str | None
    labels: Annotated[dict[str, str], ADDED_LATER] = Field(default={})
    ignore: Annotated[list[str], ADDED_LATER] = Field(default=[])


class Split(Config):
    validation: Fraction = Field(gt=0, lt=0.5)
    test: Fraction = Field(gt=0, lt=0.5)


class Merge(Config):
    image_size: PositiveInt
    datasets: list[DatasetParams] = Field(min_length=1)
    inspection: InspectionParams
    split: Split
    duplicates: Literal["keep", "drop"]
    normalise_source: bool
    max_rejected: NonNegativeInt
    expected_counts: dict[str, int] | None


class Augment(Config):
    png_level: int = Field(ge=0, le=9)
    photometric: bool


class Tokenizer(CodebookSettings):
    base: Literal["shipped", "none"] | str
    name: str
    image_size: PositiveInt


class VQTraining(VQTrainingSettings):
    batch_size: PositiveInt
    checkpoint_steps: PositiveInt
    snapshots: int = Field(ge=2)


class FinetuneVQ(Config):
    tokenizer: Tokenizer
    training: VQTraining


class EvaluateVQ(Config):
    perceptual: PerceptualName
    images: PositiveInt
    curve_points: PositiveInt
    curve_images: PositiveInt


class Tokenize(Config):
    batch_size: PositiveInt
    vocabulary: Literal["used", "full"]


class MaskGITTraining(RecipeTrainingSettings):
    snapshots: int = Field(ge=2)


class TrainMaskGIT(RecipeSettings):
    training: MaskGITTraining


class EvaluateMaskGIT(Config):
    images: PositiveInt
    curve_points: PositiveInt
    curve_images: PositiveInt


class Sampling(SamplingConfig):
    batch_size: PositiveInt


class Synthesize(BlendSettings):
    images_per_class: PositiveInt
    candidates: CandidateConfig
    insertions_per_class: PositiveInt
    insertion_attempts: PositiveInt
    sampling: Sampling
    detail: Literal["exemplars", "grain", "none"]


class EvaluateSynthesis(Config):
    border_images: PositiveInt
    realism_defects: PositiveInt
    judge: JudgeSettings


class DistillTeacher(DistillationSettings):
    source: Literal["shipped", "distill"]
    backbone: str
    natural: Path | None
    natural_images: PositiveInt

    @model_validator(mode="after")
    def steps_fit_the_source(self) -> DistillTeacher:
        """Shipped weights need 0 steps, and a distillation needs at least one."""
        if self.steps is None or (self.source == "shipped") != (self.steps == 0):
            raise ValueError("source: shipped needs steps: 0, source: distill needs steps of at least 1")
        return self


class TrainEfficientAD(TrainingSettings, ImageSettings):
    pass


class Calibrate(CalibrationSettings):
    @model_validator(mode="after")
    def has_a_target(self) -> Calibrate:
        """A project says what its threshold is for, by any of the keys."""
        if self.false_alarms is None and self.costs is None:
            raise ValueError("give false_alarms, or cost_miss and cost_false_alarm")
        return self


class EvaluateEfficientAD(Config):
    bootstrap_samples: PositiveInt


class ExportOpenVINO(Config):
    calibration_images: PositiveInt
    max_auroc_drop: NonNegativeFloat
    real_golden_frames: Annotated[bool, ADDED_LATER] = True


class EvaluateOpenVINO(Config):
    parity_images: PositiveInt
    latency_frames: PositiveInt
    max_parity_error: PositiveFloat


class Report(Config):
    title: str


class Params(Config):
    """The whole of `params.yaml`."""

    seed: NonNegativeInt
    data: Data
    sample: Sample | None
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
    gate: Gate


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
    lines = [f"  {place}: Field required" for place in left_out(Params, content)]
    try:
        params = Params.model_validate(content)
    except ValidationError as error:
        wrong = [
            f"  {'.'.join(str(part) for part in item['loc']) or '(top level)'}: {item['msg']}"
            + ("" if item["type"] in ("missing", "extra_forbidden") else f" (got {item['input']!r})")
            for item in error.errors()
        ]
        lines = wrong + lines
        raise ParamsError(f"{origin} is not valid:\n" + "\n".join(lines)) from error
    if lines:
        raise ParamsError(f"{origin} is not valid:\n" + "\n".join(lines))
    return params


def left_out(section: type[BaseModel], content: Any, place: tuple[str, ...] = ()) -> Iterator[str]:
    """Dotted names of absent keys for which a default would stand in, those of sections in sections too.

    Entries of lists are not looked at: a dataset's keys are optional.
    """
    if not isinstance(content, Mapping):
        return
    for name, field in section.model_fields.items():
        here, kind = (*place, name), field.annotation
        if name not in content:
            if not field.is_required() and ADDED_LATER not in field.metadata:
                yield ".".join(here)
        elif isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from left_out(kind, content[name], here)
