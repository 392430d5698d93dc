"""Build the dataset provider that the settings of `metaldefect train` name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from metaldefect.artifacts import atomic_directory, read_json, write_json
from metaldefect.commands.settings import GeneratedSettings, TrainSettings
from metaldefect.efficientad.config import AUTO
from metaldefect.efficientad.size_choice import SizeChoice, choose_size
from metaldefect.efficientad.torch_model import PatchDescriptionNetwork
from metaldefect.efficientad.training_data import teacher_content
from metaldefect.errors import UserError
from metaldefect.image_files import Levels
from metaldefect.images import Channels
from metaldefect.ingest.adapters import recognise
from metaldefect.ingest.inspection import build_inspection
from metaldefect.inspection.layout import SCENES
from metaldefect.inspection.look import SIDE, look_for_channels, look_for_size
from metaldefect.inspection.provider import (
    DatasetProvider,
    GeneratedDatasetProvider,
    RealDatasetProvider,
)
from metaldefect.inspection.synthetic import SyntheticCounts, SyntheticDatasetProvider
from metaldefect.maskgit.sampling_config import SamplingConfig
from metaldefect.synthesis.insertion import (
    Canvas,
    canvases_of,
    draw_insertions,
    plan_insertions,
    write_insertions,
)
from metaldefect.synthesis.painter import Painter, load_painter
from metaldefect.training.resume import kept_folder

INSERTION_ATTEMPTS = 3
CHOICE = "choice.json"
FOLDER = "folder"  # the layout of a folder per class


def make_provider(settings: TrainSettings, work: Path) -> DatasetProvider:
    """Return the provider for the settings' source; prepared data and inserted defects go to `work`.

    Raises:
        UserError: the provider raises it, the models that insert defects are missing, or the output would lie
            among the classes of images.
    """
    if settings.source == "synthetic":
        counts = settings.synthetic
        return SyntheticDatasetProvider(
            settings.seed,
            SyntheticCounts(counts.train, counts.validation, counts.test_normal, counts.test_anomalies),
            SIDE if isinstance(settings.image_size, str) else settings.image_size,
            counts.finish,
            1 if isinstance(settings.channels, str) else settings.channels,
        )
    assert settings.root is not None
    adapter = recognise(settings.root) if settings.adapter == AUTO else settings.adapter
    if adapter == FOLDER and settings.output.resolve().is_relative_to(settings.root.resolve()):
        raise UserError(
            f"--output {settings.output} lies inside {settings.root.resolve()}, whose folders are classes of"
            " images: choose another folder"
        )
    root = prepared_folder(
        adapter,
        settings.root,
        settings.seed,
        work,
        Levels.of_setting(settings.levels),
        settings.max_rejected,
        settings.scenes,
    )
    real = RealDatasetProvider(root, chosen_channels(settings, root))
    if settings.source == "real":
        return real
    generated, canvases = settings.generated, canvases_of(real)
    parts = {
        "settings": generated.model_dump(mode="json") | {"seed": settings.seed},
        "tokenizer": generated.tokenizer,
        "maskgit": generated.maskgit,
        "canvases": {item.name: [item.scene, item.image, item.split] for item in canvases},
    }
    inserted = kept_folder(
        work / "inserted", parts, lambda folder: insert_into(canvases, generated, settings.seed, folder)
    )
    return GeneratedDatasetProvider(root, inserted, real.channels)


def chosen_channels(settings: TrainSettings, root: Path) -> Channels:
    """The channels that the settings name, or those that suit the training images of a prepared folder."""
    if not isinstance(settings.channels, str):
        return settings.channels
    channels, why = look_for_channels(RealDatasetProvider(root, 3).train())
    print(why)
    return channels


def chosen_size(
    settings: TrainSettings, provider: DatasetProvider, teacher: PatchDescriptionNetwork, work: Path
) -> SizeChoice:
    """The image size that the settings name, or the one that suits the training images.

    A size that nobody named follows the images' shape, and painted defects decide whether a smaller one shows
    them better. `work` keeps that choice, which takes about a minute, for a run that goes on after a kill.
    """
    if not isinstance(settings.image_size, str):
        return SizeChoice(settings.image_size, {}, "")
    if settings.tiles is not None:
        return SizeChoice(SIDE, {}, "")
    largest, why = look_for_size(provider.train())
    parts = {
        "seed": settings.seed,
        "largest": largest,
        "teacher": teacher_content(teacher),
        "images": [provider.train(), provider.validation(), provider.canvases(), provider.defects()],
    }

    def choose(folder: Path) -> None:
        write_json(folder / CHOICE, choose_size(provider, largest, teacher, settings.seed)._asdict())

    kept = read_json(kept_folder(work / "image_size", parts, choose) / CHOICE)
    size = kept["size"]
    choice = SizeChoice(size if isinstance(size, int) else (size[0], size[1]), kept["aurocs"], kept["why"])
    for line in filter(None, (why, choice.why)):
        print(line, flush=True)
    return choice


def prepared_folder(
    adapter: str,
    root: Path,
    seed: int,
    work: Path,
    levels: Levels | None = None,
    max_rejected: int = 0,
    scenes: str | None = None,
) -> Path:
    """Return a folder with splits and scenes: `root` if it is prepared already, else a new one in `work`.

    Prepares the dataset again on every call, because its images may have changed since a killed run.

    Raises:
        UserError: `build_inspection` raises it or rejects more than `max_rejected` files.
    """
    if (root / SCENES).is_file():
        return root
    folder = work / "inspection"
    with atomic_directory(folder) as partial:
        counts, rejected = build_inspection(adapter, root, partial, seed, levels=levels, scene_rule=scenes)
        lines = "\n".join(f"  {file.path}: {file.reason}" for file in rejected)
        if len(rejected) > max_rejected:
            raise UserError(
                f"{root}: {len(rejected)} file(s) cannot be used and max_rejected is {max_rejected};"
                f" repair or remove them:\n{lines}"
            )
        if rejected:
            print(f"left out, because they cannot be used:\n{lines}")
    print(
        f"{root}: {counts.train} train, {counts.validation} validation, {counts.canvas} canvases,"
        f" test {counts.test}, {counts.without_mask} defects without a mask"
    )
    for note in counts.notes:
        print(f"note: {note}")
    return folder


def insert_into(canvases: Sequence[Canvas], settings: GeneratedSettings, seed: int, folder: Path) -> None:
    """Insert defects into the canvases and write the results to `folder`.

    No canvas shows a piece of metal that the detector trains on.
    """
    painter = require_painter(settings.tokenizer, settings.maskgit)
    config = SamplingConfig.of(settings)
    jobs = plan_insertions(painter.classes, settings.per_class, seed, canvases, {})
    drawn = draw_insertions(
        painter, jobs, config, seed, settings.feather, settings.batch_size, INSERTION_ATTEMPTS
    )
    counts = write_insertions(folder, jobs, drawn)
    print(f"insertions: {counts['drawn']} drawn, {counts['invisible']} of them left out as invisible")


def require_painter(tokenizer: Path, maskgit: Path) -> Painter:
    """Load the models that draw defects.

    Raises:
        UserError: a model's folder does not exist.
    """
    for folder, stage in ((tokenizer, "finetune_vq"), (maskgit, "train_maskgit")):
        if not folder.is_dir():
            raise UserError(
                f"{folder} does not exist: inserting defects needs its model; run `dvc repro {stage}`,"
                " or name another folder"
            )
    return load_painter(tokenizer, maskgit)
