"""The settings of `metaldefect draw` and `metaldefect insert`: typed, and stored beside what they made."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from metaldefect.image_files import LevelsSetting
from metaldefect.inspection.layout import GOOD
from metaldefect.maskgit.sampling_config import DrawingSettings
from metaldefect.synthesis.config import BlendSettings, Format, Method, TransplantConfig


class ModelSettings(DrawingSettings):
    """The models that draw, and how they sample."""

    tokenizer: Path = Path("models/vq")
    maskgit: Path = Path("models/maskgit")

    def absolute(self) -> Self:
        """The same settings with absolute paths, which mean the same in every working directory."""
        return self.replace(**{name: value.absolute() for name, value in self if isinstance(value, Path)})


class DrawSettings(ModelSettings):
    """What `metaldefect draw` draws.

    Attributes:
        label: classes.
        output: folder to write to.
        count: images per class.
        method: `drawn` by the models, or `procedural`, which needs none and knows the mask.
        size: side of procedural images in pixels; the models have their own.
        seed: of the images; another one retrains nothing.
    """

    label: tuple[str, ...] = Field(min_length=1)
    output: Path
    count: PositiveInt = 10
    method: Literal["drawn", "procedural"] = "drawn"
    size: int = Field(default=256, ge=16)
    seed: NonNegativeInt = 0


class InsertSettings(ModelSettings, BlendSettings, TransplantConfig):
    """What `metaldefect insert` inserts, where, and how.

    Attributes:
        images: folder of normal images at any depth, or one image.
        label: classes; each image is written once per class.
        output: folder to write to.
        method: `drawn` by the models, `transplant` of real defects, or `procedural` paint.
        steps: passes of MaskGIT; fewer than for whole images, because fewer tokens are unknown.
        per_image: defects per image.
        defects: folder with real defects; transplants need it, drawn ones take their shapes from it.
        defect_masks: folder of their masks, with the same names.
        adapter: layout of `defects` where there is no `defect_masks`; None: found by looking.
        masks: folder with a mask per image, at the image's path inside `images`: the shape to fill, or for
            several defects per image the region in which they lie.
        mask: one mask for all images, likewise.
        at: x, y of the defect's centre in pixels.
        size: longer side of the defect in pixels.
        levels: how images and defects with more than 8 bits are read: a bit depth, or the levels that are
            black and white. None: drawn defects by that of the models' training images; others, and those
            of models that saw only 8 bits, by the bit depth that holds all images.
        attempts: tries for a defect that cannot be seen or finds no room.
        format: how the result is written.
        seed: of everything random; another one retrains nothing.
    """

    images: Path
    label: tuple[str, ...] = Field(min_length=1)
    output: Path
    method: Method = "drawn"
    steps: PositiveInt = 6
    per_image: PositiveInt = 1
    defects: Path | None = None
    defect_masks: Path | None = None
    adapter: str | None = None
    masks: Path | None = None
    mask: Path | None = None
    at: tuple[NonNegativeInt, NonNegativeInt] | None = None
    size: PositiveInt | None = None
    levels: LevelsSetting | None = None
    attempts: PositiveInt = 5
    format: Format = "coco"
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def places_agree(self) -> InsertSettings:
        """At most one way to name the place, and one defect at a point; transplants need real defects."""
        named = [name for name in ("masks", "mask", "at") if getattr(self, name) is not None]
        if len(named) > 1:
            raise ValueError(f"give only one of {' and '.join(named)}")
        if self.at is not None and self.per_image > 1:
            raise ValueError("at names one place, so that per_image must be 1")
        if self.size is not None and self.per_image == 1 and {"masks", "mask"} & set(named):
            raise ValueError(f"size is that of the mask, so that {named[0]} and size exclude each other")
        if self.method == "transplant" and self.defects is None:
            raise ValueError("method transplant needs defects: a folder of masked photographs (--defects)")
        return self

    @model_validator(mode="after")
    def output_is_apart(self) -> InsertSettings:
        """The output lies in none of the folders whose every file counts: the next run would read it."""
        for name in ("images", "masks"):
            folder = getattr(self, name)
            if folder is not None and self.output.resolve().is_relative_to(folder.resolve()):
                raise ValueError(
                    f"--output {self.output} lies inside --{name} {folder}: choose another folder"
                )
        return self

    @model_validator(mode="after")
    def images_hold_normal_ones_alone(self) -> InsertSettings:
        """Neither defects nor masks lie in the folder of normal images, where each would count as one."""
        if not self.images.is_dir():
            return self
        for name in ("defects", "defect_masks", "masks"):
            folder = getattr(self, name)
            if folder is not None and folder.resolve().is_relative_to(self.images.resolve()):
                raise ValueError(
                    f"--{name.replace('_', '-')} {folder} lies inside --images {self.images}, where every"
                    " file counts as a normal image: move it out, or name the folder of normal images alone"
                )
        return self

    @model_validator(mode="after")
    def labels_are_classes_of_defects(self) -> InsertSettings:
        """No class is called as the folder of normal images is, nor as this folder or the one above."""
        for label in self.label:
            if label.strip().lower() == GOOD:
                raise ValueError(
                    f"--label {label}: {GOOD!r} names images without a defect; name the class of the defects"
                )
            if label.strip() in ("", ".", ".."):
                raise ValueError(f"--label {label!r} is no class of defects: name one, such as scratch")
        return self
