"""The dataset provider that the settings of `metaldefect train` ask for."""

from __future__ import annotations

from pathlib import Path

from metaldefect.artifacts import atomic_directory
from metaldefect.commands.settings import GeneratedSettings, TrainSettings
from metaldefect.errors import UserError
from metaldefect.ingest.inspection import build_inspection
from metaldefect.inspection.layout import SCENES
from metaldefect.inspection.provider import (
    DatasetProvider,
    GeneratedDatasetProvider,
    InspectionImages,
    RealDatasetProvider,
)
from metaldefect.inspection.synthetic import SyntheticCounts, SyntheticDatasetProvider
from metaldefect.maskgit.sampler import SamplingConfig
from metaldefect.synthesis.insertion import Canvas, draw_insertions, plan_insertions, write_insertions
from metaldefect.synthesis.painter import Painter, load_painter
from metaldefect.training.resume import kept_folder

INSERTION_ATTEMPTS = 3


def make_provider(settings: TrainSettings, work: Path) -> DatasetProvider:
    """The provider of the settings' source; what has to be made for it is kept in `work`.

    Raises:
        UserError: as the providers; or the models that insert defects are not there.
    """
    if settings.source == "synthetic":
        counts = settings.synthetic
        return SyntheticDatasetProvider(
            settings.seed,
            SyntheticCounts(counts.train, counts.validation, counts.test_normal, counts.test_anomalies),
            settings.image_size,
            counts.finish,
        )
    assert settings.root is not None
    root = prepared_folder(settings.adapter, settings.root, settings.seed, work)
    real = RealDatasetProvider(root)
    if settings.source == "real":
        return real
    generated, canvases = settings.generated, real.canvases()
    parts = {
        "settings": generated.model_dump(mode="json") | {"seed": settings.seed},
        "tokenizer": generated.tokenizer,
        "maskgit": generated.maskgit,
        "canvases": {item.name: [item.scene, item.image] for item in canvases},
    }
    inserted = kept_folder(
        work / "inserted", parts, lambda folder: insert_into(canvases, generated, settings.seed, folder)
    )
    return GeneratedDatasetProvider(root, inserted)


def prepared_folder(adapter: str, root: Path, seed: int, work: Path) -> Path:
    """The dataset with its splits and scenes: itself where it is prepared, else prepared in `work`.

    Prepared anew whenever it is asked for: images may have changed since a run that was killed.

    Raises:
        UserError: as `build_inspection`; or a file may not be used.
    """
    if (root / SCENES).is_file():
        return root
    folder = work / "inspection"
    with atomic_directory(folder) as partial:
        counts, rejected = build_inspection(adapter, root, partial, seed)
        if rejected:
            lines = "\n".join(f"  {file.path}: {file.reason}" for file in rejected)
            raise UserError(f"{root}: {len(rejected)} files may not be used, mend or remove them:\n{lines}")
    print(
        f"{root}: {counts.train} train, {counts.validation} validation, {counts.canvas} canvases,"
        f" test {counts.test}"
    )
    return folder


def insert_into(canvases: InspectionImages, settings: GeneratedSettings, seed: int, folder: Path) -> None:
    """Write `folder` with defects drawn into normal images that nothing else sees."""
    painter = require_painter(settings.tokenizer, settings.maskgit)
    config = SamplingConfig(
        steps=settings.steps, guidance=settings.guidance, temperature=settings.temperature
    )
    images = [Canvas(item.name, item.scene, item.image) for item in canvases]
    jobs = plan_insertions(painter.classes, settings.per_class, seed, images, {})
    drawn = draw_insertions(
        painter, jobs, config, seed, settings.feather, settings.batch_size, INSERTION_ATTEMPTS
    )
    counts = write_insertions(folder, jobs, drawn)
    print(f"insertions: {counts['drawn']} drawn, {counts['invisible']} of them left out as invisible")


def require_painter(tokenizer: Path, maskgit: Path) -> Painter:
    """The models that draw defects.

    Raises:
        UserError: they have not been trained.
    """
    for folder, stage in ((tokenizer, "finetune_vq"), (maskgit, "train_maskgit")):
        if not folder.is_dir():
            raise UserError(
                f"{folder} does not exist: inserting defects needs its model; run `dvc repro {stage}`,"
                " or name another folder"
            )
    return load_painter(tokenizer, maskgit)
