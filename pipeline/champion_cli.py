"""Commands about which detector serves: compare two, promote, roll back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from metaldefect.errors import UserError

app = typer.Typer()

Root = Annotated[Path, typer.Option(help="The project's folder.")]
CHALLENGER = Path("models/openvino")
INSPECTION = Path("data/merged/inspection")


@app.command()
def gate(
    challenger: Annotated[Path, typer.Option(help="The exported detector that wants to serve.")] = CHALLENGER,
    output: Annotated[Path, typer.Option(help="Folder for verdict.json, .md and .png.")] = Path(
        "reports/gate"
    ),
    champion: Annotated[
        Path | None, typer.Option(help="The exported detector that serves; default: models/champion.")
    ] = None,
    holdout: Annotated[
        Path | None, typer.Option(help="Images to compare on; default: data/holdout, made if missing.")
    ] = None,
    training: Annotated[
        Path | None,
        typer.Option(
            help="Prepared dataset that the challenger learnt from; default: data/merged/inspection."
        ),
    ] = None,
    params: Annotated[Path, typer.Option(help="Settings, of which the section `gate` counts.")] = Path(
        "params.yaml"
    ),
    root: Root = Path(),
) -> None:
    """Compare a new detector with the one that serves, now, on the same images: PROMOTE, HOLD or REJECT.

    Promotes nothing. The section `gate` of params.yaml holds the limits. Every verdict exits with 0.
    """
    from pipeline.champion import current
    from pipeline.gate.holdout import HOLDOUT, ensure
    from pipeline.gate.run import run_gate
    from pipeline.params import load_params

    serving = current(root) if champion is None else existing(root / champion, "--champion")
    learnt_from = root / INSPECTION if (root / INSPECTION).is_dir() else None
    if training is not None:
        learnt_from = existing(root / training, "--training")
    settings, folder = load_params(root / params), root / output
    if holdout is None:
        holdout = root / HOLDOUT
        if (card := ensure(learnt_from or root / INSPECTION, holdout)) is not None:
            print(f"{holdout} holds the test images from now on: {card['images']}")
    content = run_gate(
        root / challenger,
        serving,
        holdout,
        learnt_from,
        settings.gate,
        folder,
        settings.seed,
    )
    print(f"{content['verdict']}: {content['reason']}\n{folder / 'verdict.md'}  {folder / 'verdict.png'}")


def existing(folder: Path, option: str) -> Path:
    """A folder that somebody named.

    Raises:
        UserError: it does not exist: a verdict without it would be another one.
    """
    if not folder.is_dir():
        raise UserError(f"{option} {folder} does not exist")
    return folder.resolve()


@app.command()
def holdout(
    source: Annotated[
        Path, typer.Option("--from", help="Prepared dataset whose test split becomes the holdout.")
    ] = Path("data/merged/inspection"),
    accept: Annotated[
        bool, typer.Option("--accept", help="Keep data/holdout as it is now, and write its hashes again.")
    ] = False,
    root: Root = Path(),
) -> None:
    """Make or renew data/holdout, the images that every new detector is compared on."""
    from pipeline.gate import holdout as images

    folder = root / images.HOLDOUT
    card = images.accept(folder) if accept else images.freeze(root / source, folder)
    counts = ", ".join(f"{count} {label}" for label, count in card["images"].items())
    print(f"{folder}: {counts}; commit {images.card_path(folder)}")


@app.command()
def promote(
    bundle: Annotated[Path, typer.Argument(help="An exported detector; default: the one on hold.")] = Path(
        "models/challenger"
    ),
    reason: Annotated[str, typer.Option(help="Why; goes into the list of champions.")] = "by hand",
    root: Root = Path(),
) -> None:
    """Let a detector serve, without a gate: models/champion leads to it, by one rename."""
    from metaldefect.deploy.runtime import Detector
    from pipeline.champion import promote as make_champion

    version = Detector.load(root / bundle).version
    before = make_champion(root, (root / bundle).resolve(), {"reason": reason})
    print(f"champion: {version}, before: {before or 'none'}. Back again: metaldefect rollback")
    update_registry(root)


@app.command()
def rollback(root: Root = Path()) -> None:
    """Let the previous champion serve again, in one rename; a second time goes forward again."""
    from pipeline.champion import rollback as go_back

    before, now = go_back(root)
    print(f"champion: {now}, before: {before}")
    update_registry(root)


def update_registry(root: Path) -> None:
    """Let MLflow's aliases follow the links; the swap is done, so a store that fails is only reported."""
    if not (root / "mlruns").is_dir():
        return
    from pipeline.registry import follow_links

    try:
        follow_links(root.resolve())
    except Exception as error:
        print(f"MLflow's aliases are not updated ({error}); the next retraining updates them")


@app.command()
def lineage(
    bundle: Annotated[Path, typer.Argument(help="An exported detector.")] = Path("models/champion"),
    images: Annotated[bool, typer.Option("--images", help="Name every image with its hash.")] = False,
    root: Root = Path(),
) -> None:
    """Print the way from a deployed detector back to its images: runs, commit, stages, hashes."""
    from pipeline.lineage_report import describe_lineage

    print(describe_lineage(root.resolve(), root / bundle, images))


@app.command()
def compare(
    last: Annotated[int, typer.Option(help="Pipeline runs to show.", min=1)] = 8,
    page: Annotated[Path, typer.Option(help="HTML page to write.")] = Path("reports/compare.html"),
    root: Root = Path(),
) -> None:
    """Compare the run whose detector serves with the last ones, here and on one HTML page."""
    from metaldefect.artifacts import atomic_file
    from pipeline.compare import as_text, find_runs, render_page

    rows = find_runs(root.resolve(), last)
    with atomic_file(root / page) as temporary:
        temporary.write_text(render_page(rows, root.resolve().name), encoding="utf-8")
    print(f"{as_text(rows, sys.stdout.isatty())}\n\n{root / page}")
