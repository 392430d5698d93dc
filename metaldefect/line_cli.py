"""Run a detector on images: from files, over HTTP, signed, or in anomalib."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from metaldefect.cli import option
from metaldefect.errors import UserError

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)

Precision = Literal["fp32", "fp16", "int8"]


@app.command()
def detect(
    model: Annotated[Path, option("Folder of a trained or an exported detector.")],
    output: Annotated[Path, option("Folder to write heat maps, scores.csv and scores.jsonl to.")],
    image: Annotated[
        Path | None,
        option("An image, a folder of images at any depth, or a pattern as 'a/*.png'."),
    ] = None,
    synthetic: Annotated[
        int | None, option("Score this many procedural images instead of --image.", min=1)
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on with images that arrive in the folder, until Ctrl-C.")
    ] = False,
    tiles: Annotated[
        int | None,
        option("Score tiles that share this many pixels, instead of resizing the whole image.", min=0),
    ] = None,
    precision: Annotated[
        Precision, typer.Option(help="Which graph of an exported detector to run.")
    ] = "fp16",
    public_key: Annotated[
        Path | None, option("PEM file; the exported detector must be signed by its owner.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the procedural images.")] = 0,
) -> None:
    """Score images and draw heat maps over them."""
    if (image is None) == (synthetic is None):
        raise typer.BadParameter("give either --image or --synthetic")
    if image is not None and output.resolve().is_relative_to(image.resolve()):
        raise typer.BadParameter(f"--output {output} lies inside --image {image}: choose another folder")
    if watch and image is None:
        raise typer.BadParameter("--watch needs --image FOLDER")
    from metaldefect.commands.detect import (
        frames_of,
        load_model,
        run_detection,
        synthetic_frames,
        watch_frames,
    )

    detector = load_model(model, precision, tiles, public_key)
    if image is not None:
        frames = watch_frames(image, detector.read) if watch else frames_of(image, detector.read, output)
    else:
        assert synthetic is not None
        frames = synthetic_frames(synthetic, detector.image_size, seed)
    scored, unreadable = run_detection(detector, frames, output, append=watch)
    print(f"{scored} images scored: {output / 'scores.csv'}")
    if unreadable:
        listed = "\n".join(f"  {reason}" for _, reason in unreadable)
        raise UserError(f"{len(unreadable)} images could not be read and were left out:\n{listed}")


@app.command()
def serve(
    model: Annotated[Path, option("Folder of an exported detector.")],
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 listens on all addresses, without a password.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen at.")] = 8000,
    precision: Annotated[Precision, typer.Option(help="Which graph to run.")] = "fp16",
    public_key: Annotated[Path | None, option("PEM file; the detector must be signed by its owner.")] = None,
    challenger: Annotated[
        Path | None,
        option("Another exported detector that scores the same images without a say."),
    ] = None,
    log: Annotated[Path | None, option("Folder for Parquet files of all scores.")] = None,
    keep_frames: Annotated[
        int,
        typer.Option(
            min=0, help="Keep so many of the latest images beside the log, for operators' verdicts on them."
        ),
    ] = 0,
    follow: Annotated[
        bool,
        typer.Option("--follow", help="Take another detector or challenger as soon as its folder holds it."),
    ] = False,
    device: Annotated[str, typer.Option(help="OpenVINO's device, such as CPU or GPU.")] = "CPU",
    cache: Annotated[
        Path | None, option("Folder for compiled graphs: later starts and swaps are quicker.")
    ] = None,
) -> None:
    """Serve an exported detector over HTTP: POST an image to /predict; /docs explains every route."""
    from metaldefect.commands.serve import run_service
    from metaldefect.deploy.compiled import Compute

    compute = Compute("THROUGHPUT", device=device, cache=cache)
    run_service(model, precision, host, port, compute, public_key, challenger, log, follow, keep_frames)


@app.command()
def sign(
    bundle: Annotated[Path, typer.Argument(help="Folder of an exported detector.")],
    key: Annotated[Path, option("PEM file of a private key: `openssl genpkey -algorithm ed25519`.")],
) -> None:
    """Sign an exported detector, so that runtimes with the public key accept no other."""
    from metaldefect.deploy.signature import sign as sign_bundle

    print(f"signed: {sign_bundle(bundle, key)}")


@app.command()
def anomalib(
    bundle: Annotated[Path, typer.Argument(help="Folder of an exported detector.")],
    output: Annotated[Path, option("New folder for model.xml and model.bin.")],
    precision: Annotated[Precision, typer.Option(help="Which graph to copy.")] = "fp16",
) -> None:
    """Copy an exported detector for anomalib's `OpenVINOInferencer`, with the same scores."""
    from metaldefect.deploy.for_anomalib import write_for_anomalib

    print(f"OpenVINOInferencer loads {write_for_anomalib(bundle, precision, output)}")
