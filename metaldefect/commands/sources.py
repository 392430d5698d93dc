"""The dataset provider that the settings of `metaldefect train` ask for."""

from __future__ import annotations

from pathlib import Path

from metaldefect.artifacts import atomic_directory
from metaldefect.commands.settings import GeneratedSettings, TrainSettings
from metaldefect.errors import UserError
from metaldefect.ingest.inspection import build_inspection
from metaldefect.inspection.provider import (
    DatasetProvider,
    GeneratedDatasetProvider,
    InspectionImages,
    RealDatasetProvider,
    SyntheticCounts,
    SyntheticDatasetProvider,
)
from metaldefect.maskgit.sampler import SamplingConfig
from metaldefect.synthesis.insertion import write_inserted
from metaldefect.synthesis.painter import Painter, load_painter

MVTEC = "mvtec_ad"


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
    root = category_folder(settings.adapter, settings.root, settings.seed, work)
    real = RealDatasetProvider(root)
    if settings.source == "real":
        return real
    inserted = work / "inserted"
    if not inserted.is_dir():
        insert_into(real.validation(), settings.generated, settings.seed, inserted)
    return GeneratedDatasetProvider(root, inserted)


def category_folder(adapter: str, root: Path, seed: int, work: Path) -> Path:
    """The dataset as a category folder in MVTec AD's layout: itself, or converted into `work`."""
    if adapter == MVTEC:
        return root
    folder = work / "inspection"
    if not folder.is_dir():
        with atomic_directory(folder) as partial:
            counts, rejected = build_inspection(adapter, root, partial, seed)
        print(f"{root}: {counts.train} train, {counts.validation} validation, test {counts.test}")
        for file in rejected:
            print(f"left out: {file.path}: {file.reason}")
    return folder


def insert_into(canvases: InspectionImages, settings: GeneratedSettings, seed: int, folder: Path) -> None:
    """Write `folder` with defects drawn into normal images that no training sees."""
    painter = require_painter(settings.tokenizer, settings.maskgit)
    config = SamplingConfig(
        steps=settings.steps, guidance=settings.guidance, temperature=settings.temperature
    )
    with atomic_directory(folder) as partial:
        write_inserted(
            painter,
            {item.name.rpartition("/")[2]: item.image for item in canvases},
            settings.per_class,
            partial,
            seed=seed,
            config=config,
            feather=settings.feather,
            batch_size=settings.batch_size,
        )


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
