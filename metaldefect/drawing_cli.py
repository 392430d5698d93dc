"""Draw defects, insert them into normal images, and review the result."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from metaldefect.cli import checked, defaults, option
from metaldefect.commands.insert_settings import DrawSettings, InsertSettings
from metaldefect.errors import UserError
from metaldefect.image_files import levels_setting
from metaldefect.synthesis.config import Format, Method

if TYPE_CHECKING:
    from metaldefect.commands.insert import Summary

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)

DRAWING = defaults(DrawSettings)
INSERTING = defaults(InsertSettings)

Labels = Annotated[list[str], option("Class to draw; may be repeated.")]
Steps = Annotated[int, typer.Option(help="MaskGIT's steps (drawn).")]
Guidance = Annotated[float, typer.Option(help="Strength of the class (drawn).")]
Temperature = Annotated[float, typer.Option(help="Higher is more diverse (drawn).")]
Tokenizer = Annotated[Path, typer.Option(help="Folder of the tokenizer (drawn).")]
MaskGIT = Annotated[Path, typer.Option(help="Folder of the MaskGIT (drawn).")]


@app.command()
def draw(
    label: Labels,
    output: Annotated[Path, option("Folder to write images and manifest to.")],
    count: Annotated[int, typer.Option(help="Images per class.")] = DRAWING["count"],
    seed: Annotated[int, typer.Option(help="Another seed draws other images, without training.")] = DRAWING[
        "seed"
    ],
    method: Annotated[
        Literal["drawn", "procedural"],
        typer.Option(help="By the trained models, or procedurally, which needs none and gives masks."),
    ] = DRAWING["method"],
    size: Annotated[int, typer.Option(help="Side of procedural images, px.")] = DRAWING["size"],
    tokenizer: Tokenizer = DRAWING["tokenizer"],
    maskgit: MaskGIT = DRAWING["maskgit"],
    steps: Steps = DRAWING["steps"],
    guidance: Guidance = DRAWING["guidance"],
    temperature: Temperature = DRAWING["temperature"],
) -> None:
    """Draw whole images of defects.

    Image k of a class depends on the seed and k alone: run again with a larger count to add images. A killed
    run goes on where it was.
    """
    settings = checked(DrawSettings, **{name: value for name, value in locals().items() if value is not None})
    from metaldefect.commands.draw import draw as run

    report(run(settings), output)


@app.command()
def insert(
    images: Annotated[Path, option("Folder of normal images, or one image. They are only read.")],
    label: Labels,
    output: Annotated[Path, option("Folder to write images, masks and manifest to.")],
    method: Annotated[
        Method,
        typer.Option(
            help="drawn: by the trained models. transplant: real masked defects, moved; needs --defects and"
            " no training. procedural: painted; needs neither."
        ),
    ] = INSERTING["method"],
    per_image: Annotated[
        int, typer.Option(help="Defects per image; several lie at random places, inside the mask if given.")
    ] = INSERTING["per_image"],
    defects: Annotated[
        Path | None,
        option("Real defects to move, or whose shapes to draw: a folder with --defect-masks, or a dataset."),
    ] = None,
    defect_masks: Annotated[Path | None, option("Masks of --defects, with the same file names.")] = None,
    adapter: Annotated[str, typer.Option(help="Layout of --defects without --defect-masks.")] = INSERTING[
        "adapter"
    ],
    masks: Annotated[
        Path | None, option("Where to insert: a folder with a mask at each image's path.")
    ] = None,
    mask: Annotated[Path | None, option("Where to insert: one mask for all images.")] = None,
    at: Annotated[str | None, option("Where to insert: x,y of the defect's centre, px.")] = None,
    size: Annotated[int | None, option("Longer side of the defect, px.")] = None,
    levels: Annotated[
        str | None,
        option("Images with more than 8 bits: their depth, such as 12, or black,white. Default: found."),
    ] = None,
    format_: Annotated[Format, typer.Option("--format", help="How to write images and masks.")] = INSERTING[
        "format"
    ],
    seed: Annotated[
        int, typer.Option(help="Another seed makes other defects, without training.")
    ] = INSERTING["seed"],
    feather: Annotated[
        float, typer.Option(help="Width of the fade beside a defect; beyond it no pixel changes, px.")
    ] = INSERTING["feather"],
    attempts: Annotated[int, typer.Option(help="Tries for a defect that nobody could see.")] = INSERTING[
        "attempts"
    ],
    turn: Annotated[
        float, typer.Option(help="Largest angle of moved defects, degrees (transplant).")
    ] = INSERTING["turn"],
    smallest: Annotated[
        float, typer.Option(help="Smallest scale of moved defects (transplant).")
    ] = INSERTING["smallest"],
    largest: Annotated[float, typer.Option(help="Largest scale of moved defects (transplant).")] = INSERTING[
        "largest"
    ],
    tokenizer: Tokenizer = INSERTING["tokenizer"],
    maskgit: MaskGIT = INSERTING["maskgit"],
    steps: Steps = INSERTING["steps"],
    guidance: Guidance = INSERTING["guidance"],
    temperature: Temperature = INSERTING["temperature"],
) -> None:
    """Insert defects into normal images, with exact masks.

    Writes each image in its own resolution, channels and bit depth; away from the masks no pixel changes. A
    defect that nobody could see is not written, only listed. A killed run goes on where it was.
    """
    values = {name: value for name, value in locals().items() if value is not None}
    values["format"] = values.pop("format_")
    if at is not None:
        values["at"] = point(at)
    if levels is not None:
        values["levels"] = levels_setting(levels)
    settings = checked(InsertSettings, **values)
    from metaldefect.commands.insert import insert as run

    report(run(settings), output)


@app.command()
def review(
    folder: Annotated[Path, typer.Argument(help="Output of draw or insert.")],
    drop: Annotated[
        list[str] | None, option("Drop this image, named as in the manifest, instead of opening the page.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port of the page, on this machine only; 0 takes any.")] = 7861,
) -> None:
    """Look at all images on one page, and drop those that you tick.

    Dropped images lose their files and annotations, and the manifest keeps their rows as dropped.
    """
    from metaldefect.commands.review import ReviewServer, drop_images

    if drop:
        print(f"{counted(drop_images(folder, drop), 'image')} dropped: {folder / 'manifest.csv'}")
        return
    with ReviewServer(folder, port) as server:
        found = counted(len(server.images), "image")
        print(f"{found} to review: {server.address} (stop with Ctrl-C)", flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()


def point(text: str) -> tuple[int, int]:
    """Read `x,y`."""
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise typer.BadParameter(f"--at {text}: expected x,y in whole pixels, such as 120,80")
    return int(parts[0]), int(parts[1])


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 image`, `2 images`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def report(summary: Summary, output: Path) -> None:
    """Print what was written; unreadable images are an error at the end, after all others were done."""
    images, defects = counted(summary.images, "image"), counted(summary.defects, "defect")
    print(f"{images} with {defects}: {output / 'manifest.csv'}")
    for reason, number in summary.left_out.items():
        print(f"{counted(number, 'defect')} left out: {reason}")
    if summary.unmasked:
        print(f"left out {counted(summary.unmasked, 'photograph')} of defects without a mask")
    if summary.unreadable:
        listed = "\n".join(f"  {reason}" for reason in summary.unreadable)
        raise UserError(
            f"left out {counted(len(summary.unreadable), 'image')} that cannot be read:\n{listed}"
        )
