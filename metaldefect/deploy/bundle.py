"""The bundle: a folder of exported graphs that says what it holds and is refused when a file is not it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from metaldefect.artifacts import check_sha256, sha256_file, write_json
from metaldefect.config import Config
from metaldefect.errors import UserError
from metaldefect.image_files import Levels
from metaldefect.images import Channels, ImageSize

METADATA = "metadata.json"
SIGNATURE = "metadata.sig"
ONNX = "model.onnx"
GOLDEN = "golden"
SCHEMA_VERSION = 2
PRECISIONS = ("fp32", "fp16", "int8")
LICENCE = "Apache-2.0"
HIGHEST_LEVEL = 65535  # of a 16-bit frame
GREY_RANGE = 255.0


class Tolerance(Config):
    """How far a score may be from the expected one: `absolute + relative * |expected|`."""

    absolute: float
    relative: float

    def allows(self, score: float, expected: float) -> bool:
        """Whether a score is close enough to the expected one."""
        return abs(score - expected) <= self.absolute + self.relative * abs(expected)


# FP32 always computes in float32. The others compute in what the machine has, such as bfloat16, and INT8
# rounds differently with and without VNNI.
TOLERANCES = {
    "fp32": Tolerance(absolute=1e-4, relative=1e-4),
    "fp16": Tolerance(absolute=0.005, relative=0.02),
    "int8": Tolerance(absolute=0.01, relative=0.05),
}


class Validation(Config):
    """What a precision does with the validation images, which are normal.

    Attributes:
        images: how many there are.
        false_alarm_rate: share of them above the threshold.
        changed_decisions: share of them that FP32 decides otherwise.
        largest_difference: from FP32's score.
        auroc_drop: image AUROC lost against FP32 on defects painted onto these images, by kind of defect.
    """

    images: int
    false_alarm_rate: float
    changed_decisions: float
    largest_difference: float
    auroc_drop: dict[str, float] = Field(default_factory=dict)


class Precision(Config):
    """One precision of the detector.

    Attributes:
        graph: file name of the OpenVINO graph; its weights have the suffix `.bin`.
        threshold: scores above it are anomalous.
        tolerance: of the golden frames' scores.
        execution: what the exporting machine computed in, such as `f32` or `bf16`.
        validation: figures from validation images.
        kept_in_float: layers of an INT8 graph that stay in floating point, because quantising them too cost
            more accuracy than allowed.
    """

    graph: str
    threshold: float
    tolerance: Tolerance
    execution: str
    validation: Validation
    kept_in_float: tuple[str, ...] = ()


class GoldenFrame(Config):
    """A frame and the score that each precision gives it."""

    file: str
    scores: dict[str, float]


class FrameRule(Config):
    """What frames look like: `[1, H, W, C]`, any height and width.

    Attributes:
        name: of the graph's input.
        layout: always NHWC.
        type: `u8`, or `u16` for a detector that was trained on images with more than 8 bits, if 16 bits hold
            its levels.
        channels: how many a frame may have; three are RGB.
        seen: what the detector sees of them. 1: colour becomes grey by Rec. 601; 3: colours are kept, a grey
            frame gives three equal channels.
        levels: which levels become black and white: of a `u16` frame, inside the graph; with `u8`, of an
            image file with more than 8 bits, when it is read.
        resize: how frames become the model's size, inside the graph.
    """

    name: str
    layout: Literal["NHWC"] = "NHWC"
    type: Literal["u8", "u16"]
    channels: tuple[int, ...]
    seen: Channels = 1
    levels: Levels | None
    resize: str = "antialiased bilinear, rounded to whole levels after each axis, as Pillow does"

    @model_validator(mode="after")
    def frames_hold_their_levels(self) -> FrameRule:
        if self.type == "u16" and self.levels is not None:
            low, high = self.levels.low, self.levels.high
            if low < 0 or high > HIGHEST_LEVEL:
                raise ValueError(f"16-bit frames do not hold levels {low:g} to {high:g}: export again")
        return self

    @property
    def frame_levels(self) -> Levels | None:
        """Levels that the graph applies to frames; None: frames have 8 bits."""
        return self.levels if self.type == "u16" else None


def fit_frames(levels: Levels) -> bool:
    """Whether 16-bit frames hold both levels, and all 256 grey levels between them.

    Levels of 32-bit or float images may not fit. The reader of files applies those, so frames have 8 bits.
    """
    within = levels.low >= 0 and levels.high <= HIGHEST_LEVEL
    return within and levels.high - levels.low >= GREY_RANGE


class Lineage(Config):
    """Where a bundle comes from; what is unknown is None.

    Attributes:
        model_sha256: of the trained weights.
        data_sha256: of the images that the detector was trained and calibrated with.
        git_commit: of the code that exported.
        mlflow_run: id of the run that exported.
    """

    model_sha256: str | None = None
    data_sha256: str | None = None
    git_commit: str | None = None
    mlflow_run: str | None = None


class Metadata(Config):
    """Content of `metadata.json`: all that a program needs to run the files.

    Attributes:
        schema_version: of this format.
        model: name of the network.
        padding: whether its feature networks are padded.
        image_size: side of the square, or height and width, that frames are resized to, px.
        tiles: larger frames are cut into tiles of `image_size` that share so many pixels, and get the largest
            score; None: the graph resizes them.
        input: what frames look like.
        outputs: the graph's outputs by name, in words.
        map_weights: of the two maps that make the anomaly map.
        threshold_source: how the thresholds were chosen.
        precisions: by name.
        golden: frames with known scores, which every runtime scores before it starts.
        lineage: where the bundle comes from.
        licence: of the software and its shipped weights.
        sha256: of every other file.
    """

    schema_version: int = SCHEMA_VERSION
    model: str
    padding: bool
    image_size: ImageSize
    tiles: int | None = None
    input: FrameRule
    outputs: dict[str, str]
    map_weights: dict[str, float]
    threshold_source: str
    precisions: dict[str, Precision]
    golden: list[GoldenFrame] = Field(min_length=1)
    lineage: Lineage
    licence: str = LICENCE
    sha256: dict[str, str]

    @model_validator(mode="after")
    def golden_frames_test_every_precision(self) -> Metadata:
        for frame in self.golden:
            if missing := sorted(self.precisions.keys() - frame.scores.keys()):
                raise ValueError(f"golden frame {frame.file} has no score in {', '.join(missing)}")
        return self


def graph_file(precision: str) -> str:
    """File name of a precision's OpenVINO graph."""
    if precision not in PRECISIONS:
        raise UserError(f"precision {precision!r}: expected one of {', '.join(PRECISIONS)}")
    return f"detector_{precision}.xml"


def bundle_version(folder: Path) -> str:
    """Names a bundle: the first 12 digits of the SHA-256 of its metadata, which hold every file's hash.

    Raises:
        UserError: the folder holds no bundle.
    """
    if not (folder / METADATA).is_file():
        raise UserError(f"{folder} is not an exported detector: it has no {METADATA}")
    return version_of((folder / METADATA).read_bytes())


def version_of(description: bytes) -> str:
    """`bundle_version` of a bundle with these bytes of `metadata.json`."""
    return hashlib.sha256(description).hexdigest()[:12]


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder but its metadata and their signature, by relative path."""
    own = {folder / METADATA, folder / SIGNATURE}
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path not in own)
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def write_metadata(folder: Path, content: Mapping[str, Any]) -> Metadata:
    """Complete the metadata with the hashes of the files beside it, and write it."""
    metadata = Metadata(**content, sha256=hashes(folder))
    write_json(folder / METADATA, metadata.model_dump(mode="json"))
    return metadata


def read_metadata(folder: Path) -> Metadata:
    """Read `metadata.json`.

    Raises:
        UserError: it is missing, not valid, or of another version.
    """
    return parse_metadata(read_description(folder), folder / METADATA)


def read_description(folder: Path) -> bytes:
    """The bytes of `metadata.json`, for whoever needs signature, content and version of one file.

    Raises:
        UserError: it is missing.
    """
    path = folder / METADATA
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    return path.read_bytes()


def parse_metadata(description: bytes, path: Path) -> Metadata:
    """Metadata from the bytes of `metadata.json`; `path` names the file in errors.

    Raises:
        UserError: they are not valid, or of another version.
    """
    try:
        content = json.loads(description)
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema_version {version}, this version reads {SCHEMA_VERSION}: export the detector"
            " again (`dvc repro export_openvino`)"
        )
    return Metadata.parse(content, str(path))


def check_files(folder: Path, metadata: Metadata, names: list[str]) -> None:
    """Check that files are those that the metadata describes.

    Raises:
        UserError: one is missing, unknown to the metadata, or has other content.
    """
    for name in names:
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} does not exist, but {METADATA} describes it: copy the whole bundle")
        if name not in metadata.sha256:
            raise UserError(f"{folder / METADATA} says nothing about {name}: copy the whole bundle")
        check_sha256(path, metadata.sha256[name])


def precision_files(metadata: Metadata, precision: str) -> list[str]:
    """Files that a runtime reads to run one precision and to check itself."""
    graph = metadata.precisions[precision].graph
    weights = Path(graph).with_suffix(".bin").name
    return [graph, weights, *(f"{GOLDEN}/{frame.file}" for frame in metadata.golden)]
