"""The library's commands: look at images, train a detector, distil a teacher, train base weights."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer
from pydantic import ValidationError

from metaldefect.config import Config
from metaldefect.efficientad.config import Size
from metaldefect.efficientad.distillation_config import DistillationConfig
from metaldefect.errors import UserError, exit_on_user_error, printable
from metaldefect.maskgit.training_config import MaskGITPretrainSettings
from metaldefect.terminal import quiet
from metaldefect.tokenizer.training_config import PretrainSettings

# torch and Lightning take seconds to import, so each command imports them itself and --help stays quick
app = typer.Typer(
    help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown"
)

Settings = TypeVar("Settings", bound=Config)
# What a path can have against its use that its user can change
UNUSABLE = frozenset(
    {errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EROFS, errno.ENAMETOOLONG}
)
SHOWN = ("image_auroc", "pixel_auroc", "au_pro", "f1_max", "f1_at_threshold", "threshold", "steps")


def defaults(settings: type[Config]) -> dict[str, Any]:
    """Defaults by name, from where they are declared."""
    return {name: field.default for name, field in settings.model_fields.items()}


def checked(settings: type[Settings], **values: Any) -> Settings:
    """Settings from options; a value out of range is a wrong command line."""
    try:
        return settings(**values)
    except ValidationError as error:
        wrong = [
            ": ".join([*(f"--{str(name).replace('_', '-')}" for name in item["loc"][:1]), item["msg"]])
            for item in error.errors()
        ]
        raise typer.BadParameter("; ".join(wrong)) from error


DISTILLING = defaults(DistillationConfig)
PRETRAINING = defaults(PretrainSettings)
DRAWING = defaults(MaskGITPretrainSettings)


def run_app(commands: typer.Typer, arguments: list[str] | None = None) -> None:
    """Run a command and exit: 0, 1 after a `UserError`, 2 after a wrong command line."""
    quiet()
    with exit_on_user_error("metaldefect"), unusable_paths_named():
        commands(arguments, prog_name="metaldefect")


@contextmanager
def unusable_paths_named() -> Iterator[None]:
    """Raise `UserError` for a path that cannot be used as meant, such as a file where a folder belongs.

    A file that does not exist is none of these: commands say themselves what they expected there.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in UNUSABLE or error.filename is None:
            raise
        raise UserError(f"{printable(str(error.filename))}: {os.strerror(error.errno)}") from error


def option(help_text: str, **details: Any) -> Any:
    """Return a command-line option named after its parameter."""
    return typer.Option(help=help_text, show_default=False, **details)


RateOption = Annotated[
    str | None, option("Share of good images that the threshold may flag, such as 1% or 0.01.")
]
CostMissOption = Annotated[
    float | None, option("Cost of a defect that passes, in any currency: sets the threshold of least cost.")
]
CostFalseAlarmOption = Annotated[
    float | None, option("Cost of a good image that is flagged, beside --cost-miss.")
]


@app.command()
def train(
    config: Annotated[
        Path | None, option("Settings file, instead of defaults; conf/efficientad.yaml explains every key.")
    ] = None,
    output: Annotated[
        Path | None, option("Folder to write the detector to; default: models/, named after the dataset.")
    ] = None,
    source: Annotated[
        Literal["real", "synthetic", "generated"] | None,
        option(
            "Where images come from: real (--root), synthetic (procedural metal), or generated (good images"
            " of --root with defects that trained models insert); default: real with --root, else"
            " synthetic."
        ),
    ] = None,
    root: Annotated[Path | None, option("Folder of the dataset; default with --source: this folder.")] = None,
    adapter: Annotated[
        str | None, option("Layout of the dataset, such as mvtec_ad or folder; default: recognised.")
    ] = None,
    minutes: Annotated[
        float | None,
        option("Minutes for everything, evaluation and export included; default for images: 30."),
    ] = None,
    max_rejected: Annotated[int | None, option("Unusable files that may be left out.")] = None,
    model: Annotated[Size | None, option("Size of the network.")] = None,
    teacher: Annotated[str | None, option("`shipped`, or a file of teacher weights.")] = None,
    image_size: Annotated[
        str | None,
        option("Side, or height x width as 160x400, that images are resized to, px; default: chosen."),
    ] = None,
    channels: Annotated[
        Literal["auto", "1", "3"] | None,
        option("Grey (1) or colour (3); default: colour where the training images are coloured."),
    ] = None,
    tiles: Annotated[
        int | None,
        option("Cut images into tiles of --image-size that share this many pixels, instead of resizing."),
    ] = None,
    steps: Annotated[int | None, option("Training steps, instead of minutes.")] = None,
    export: Annotated[bool | None, option("Also write ONNX and OpenVINO files.")] = None,
    real_golden_frames: Annotated[
        bool | None,
        option("Put validation images into the export's self-test; not where their licence forbids it."),
    ] = None,
    batch_size: Annotated[int | None, option("Images per step.")] = None,
    learning_rate: Annotated[float | None, option("Adam's learning rate.")] = None,
    hard_quantile: Annotated[
        float | None, option("Share of the student's errors that the hard feature loss leaves out.")
    ] = None,
    natural: Annotated[
        Path | None, option("Folder of natural images for the penalty, instead of packaged photographs.")
    ] = None,
    penalty_images: Annotated[int | None, option("Natural images that the penalty uses.")] = None,
    checkpoint_steps: Annotated[int | None, option("Steps between two saved states.")] = None,
    false_alarms: RateOption = None,
    cost_miss: CostMissOption = None,
    cost_false_alarm: CostFalseAlarmOption = None,
    defect_share: Annotated[
        str | None, option("Share of the line's images that show a defect, for the costs; default: 1%.")
    ] = None,
    accelerator: Annotated[
        Literal["auto", "cpu", "cuda", "mps"] | None, option("Device; one that is absent is an error.")
    ] = None,
    seed: Annotated[int | None, option("Seed of everything random.")] = None,
) -> None:
    """Train a detector on good images, set its threshold, measure it, export it.

    `metaldefect train --source real --root FOLDER --minutes 30` needs no settings file. Good images alone are
    enough: train/good, or a folder called good. Other options override the defaults or the file of --config.

    The threshold lets 1% of the good images raise a false alarm. `--false-alarms 5%` asks for another rate,
    `--cost-miss 200 --cost-false-alarm 3 --defect-share 2%` for the least cost; `metaldefect calibrate`
    changes it later without training.
    """
    if minutes is not None and steps is not None:
        raise typer.BadParameter("give either --minutes or --steps")
    overrides = {key: value for key, value in locals().items() if key != "config" and value is not None}
    from metaldefect.commands.settings import load_settings
    from metaldefect.commands.train import run_training
    from metaldefect.commands.verdict import verdict

    settings = load_settings(config, overrides)
    metrics = run_training(settings)
    shown: dict[str, Any] = {key: metrics[key] for key in SHOWN if key in metrics}
    print(json.dumps(shown | {"output": str(settings.output)}))
    print("\n".join(verdict(metrics, settings.output)))


@app.command()
def calibrate(
    model: Annotated[Path, typer.Argument(help="Folder of a detector that `train` wrote.")],
    false_alarms: RateOption = None,
    cost_miss: CostMissOption = None,
    cost_false_alarm: CostFalseAlarmOption = None,
    defect_share: Annotated[
        str, typer.Option(help="Share of the line's images that show a defect, for the costs.")
    ] = "1%",
    good: Annotated[
        Path | None, option("Folder of further good images that the detector has never seen.")
    ] = None,
) -> None:
    """Set a detector's threshold again, for a rate of false alarms or the least cost, without training."""
    if (false_alarms is None) == (cost_miss is None and cost_false_alarm is None):
        raise typer.BadParameter("give either --false-alarms, or --cost-miss and --cost-false-alarm")
    from metaldefect.commands.calibrate import recalibrate, share_of
    from metaldefect.efficientad.thresholds import Target

    rate = {} if false_alarms is None else {"false_alarms": share_of(false_alarms)}
    costs = {"cost_miss": cost_miss, "cost_false_alarm": cost_false_alarm}
    target = checked(Target, **rate, **costs, defect_share=share_of(defect_share))
    print("\n".join(recalibrate(model, target, good)))


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="Folder of images.")],
    adapter: Annotated[str | None, option("Its layout, if it should not be recognised.")] = None,
    levels: Annotated[
        str | None, option("Of images with more than 8 bits: a bit depth, or black and white, such as 0,1.")
    ] = None,
    page: Annotated[Path | None, option("Also write an HTML page with thumbnails to this file.")] = None,
) -> None:
    """Say what the tool sees in a folder: layout, classes, sizes, depths, masks, duplicates, refusals."""
    from metaldefect.commands.check import describe, write_page
    from metaldefect.image_files import levels_setting
    from metaldefect.ingest.overview import look_at

    seen = look_at(folder, adapter, None if levels is None else levels_setting(levels))
    print(describe(seen))
    if page is not None:
        write_page(seen, page)
        print(f"\nwith thumbnails: {printable(str(page))}")


@app.command()
def distill(
    minutes: Annotated[float, option("Computing time in minutes, over all resumed runs.", min=0)],
    output: Annotated[Path, option("The .safetensors file to write; card and loss curve go beside it.")],
    natural: Annotated[
        Path | None, option("Folder of natural images, instead of packaged photographs.")
    ] = None,
    metal: Annotated[
        list[Path] | None, option("Folder of metal images, or a merged dataset; may be repeated.")
    ] = None,
    base: Annotated[Path | None, option("Weights to start from: the --output of another run.")] = None,
    backbone: Annotated[
        str, typer.Option(help="Network whose features the teacher learns.")
    ] = "efficientnet_lite0",
    tap: Annotated[
        list[str] | None, option("Module of the backbone to distil; may be repeated, fine to coarse.")
    ] = None,
    size: Annotated[Size, typer.Option(help="Size of the teacher.")] = DISTILLING["size"],
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = DISTILLING["batch_size"],
    learning_rate: Annotated[float, typer.Option(help="Adam's learning rate.")] = DISTILLING["learning_rate"],
    metal_share: Annotated[
        float, typer.Option(help="Share of the images of a step that are metal.")
    ] = DISTILLING["metal_share"],
    checkpoint_steps: Annotated[int, typer.Option(help="Steps between two saved states.")] = DISTILLING[
        "checkpoint_steps"
    ],
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = DISTILLING["seed"],
) -> None:
    """Distil a teacher for the detector from an ImageNet backbone."""
    from metaldefect.commands.distill import run_distillation

    config = checked(
        DistillationConfig,
        size=size,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seconds=60 * minutes,
        metal_share=metal_share,
        checkpoint_steps=checkpoint_steps,
        seed=seed,
    )
    run_distillation(config, output, natural, metal or [], backbone, tap or None, base)


pretraining = typer.Typer(
    help="Train the shipped base weights again, on procedural metal; a stopped training goes on.",
    no_args_is_help=True,
)
app.add_typer(pretraining, name="pretrain")
Minutes = Annotated[
    float | None,
    option("Computing time in minutes, over all legs: a leg goes on from the last state.", min=0),
]
PretrainImages = Annotated[
    int | None,
    option("Images to train on: the learning rate falls to the last one. Without it, --minutes is needed."),
]


def require_end(minutes: float | None, images: int | None) -> None:
    """Refuse a training that would never end."""
    if minutes is None and images is None:
        raise typer.BadParameter("give --minutes or --images: how long to train")


@pretraining.command("tokenizer")
def pretrain_tokenizer(
    output: Annotated[Path, option("The .safetensors file to write; the card goes beside it.")],
    minutes: Minutes = None,
    images: PretrainImages = None,
    natural: Annotated[
        Path | None, option("Folder of photographs, instead of those in installed packages.")
    ] = None,
    base: Annotated[Path | None, option("Weights to start from: the --output of another training.")] = None,
    tokenizer: Annotated[str, typer.Option(help="Named shape of the model.")] = PRETRAINING["tokenizer"],
    image_size: Annotated[int, typer.Option(help="Side of the images, px.")] = PRETRAINING["image_size"],
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = PRETRAINING["batch_size"],
    learning_rate: Annotated[float, typer.Option(help="Adam's learning rate.")] = PRETRAINING[
        "learning_rate"
    ],
    mode: Annotated[
        Literal["full", "decoder_only"], typer.Option(help="decoder_only keeps what the tokens mean.")
    ] = PRETRAINING["mode"],
    discriminator_start: Annotated[
        int, typer.Option(help="Images after which the adversarial loss starts.")
    ] = PRETRAINING["discriminator_start"],
    checkpoint_steps: Annotated[int, typer.Option(help="Steps between two saved states.")] = PRETRAINING[
        "checkpoint_steps"
    ],
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = PRETRAINING["seed"],
    checkpoints: Annotated[Path, typer.Option(help="Folder of the state between legs.")] = Path(
        ".checkpoints/pretrain_tokenizer"
    ),
) -> None:
    """Train base weights of the tokenizer on photographs and procedural metal."""
    from metaldefect.hardware import set_threads
    from metaldefect.tokenizer.pretrain import pretrain

    set_threads()
    settings = checked(
        PretrainSettings,
        tokenizer=tokenizer,
        image_size=image_size,
        batch_size=batch_size,
        learning_rate=learning_rate,
        mode=mode,
        images=images,
        discriminator_start=discriminator_start,
        checkpoint_steps=checkpoint_steps,
        seed=seed,
    )
    require_end(minutes, images)
    pretrain(settings, minutes, natural, base, checkpoints, output)


@pretraining.command("maskgit")
def pretrain_maskgit(
    output: Annotated[Path, option("Folder to write the model and its card to.")],
    minutes: Minutes = None,
    images: PretrainImages = None,
    symmetries: Annotated[
        int,
        typer.Option(help="Show each drawn image in so many symmetries, as drawing is slow."),
    ] = DRAWING["symmetries"],
    base: Annotated[
        str | None, option("Weights to start from: `shipped`, or the --output of another training.")
    ] = None,
    size: Annotated[str, typer.Option(help="Named size of the model.")] = DRAWING["size"],
    image_size: Annotated[int, typer.Option(help="Side of the images, px.")] = DRAWING["image_size"],
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = DRAWING["batch_size"],
    learning_rate: Annotated[float, typer.Option(help="AdamW's learning rate.")] = DRAWING["learning_rate"],
    checkpoint_steps: Annotated[int, typer.Option(help="Steps between two saved states.")] = DRAWING[
        "checkpoint_steps"
    ],
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = DRAWING["seed"],
    checkpoints: Annotated[Path, typer.Option(help="Folder of the state between legs.")] = Path(
        ".checkpoints/pretrain_maskgit"
    ),
) -> None:
    """Train base weights of MaskGIT on procedural metal, as tokens of the shipped tokenizer."""
    from metaldefect.hardware import set_threads
    from metaldefect.maskgit.pretrain import pretrain

    set_threads()
    settings = checked(
        MaskGITPretrainSettings,
        size=size,
        image_size=image_size,
        images=images,
        symmetries=symmetries,
        batch_size=batch_size,
        learning_rate=learning_rate,
        checkpoint_steps=checkpoint_steps,
        seed=seed,
    )
    require_end(minutes, images)
    pretrain(settings, minutes, base, checkpoints, output)
