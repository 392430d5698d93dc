"""The command `metaldefect`: `train` a detector, `infer` with one."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metaldefect.errors import UserError, exit_on_user_error

# Options of `train` that stand for a key of the settings file, with how their text is read.
OVERRIDES: dict[str, type] = {
    "output": Path,
    "model": str,
    "teacher": str,
    "source": str,
    "root": Path,
    "adapter": str,
    "image_size": int,
    "steps": int,
    "batch_size": int,
    "learning_rate": float,
    "hard_quantile": float,
    "checkpoint_steps": int,
    "accelerator": str,
    "natural": Path,
    "penalty_images": int,
    "threshold_quantile": float,
    "seed": int,
}
SHOWN = ("image_auroc", "pixel_auroc", "au_pro", "f1_max", "f1_at_threshold", "threshold", "steps")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; wrong input ends it with 1 and one message."""
    options = parser().parse_args(arguments)
    with exit_on_user_error(f"metaldefect {options.command}"):
        options.run(options)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="metaldefect", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)

    train = commands.add_parser("train", help="train a detector on normal images and measure it")
    train.add_argument("--config", type=Path, required=True, help="settings, see conf/efficientad.yaml")
    for name, kind in OVERRIDES.items():
        help_text = f"instead of the settings' {name}"
        train.add_argument(f"--{name.replace('_', '-')}", type=kind, dest=name, help=help_text)
    train.set_defaults(run=train_command)

    infer = commands.add_parser("infer", help="score images and draw heat maps over them")
    infer.add_argument("--model", type=Path, required=True, help="folder of a trained or exported detector")
    images = infer.add_mutually_exclusive_group(required=True)
    images.add_argument("--image", type=Path, help="an image, or a folder of images at any depth")
    images.add_argument("--synthetic", type=int, metavar="N", help="N procedural images instead")
    infer.add_argument("--output", type=Path, required=True, help="folder for heat maps and scores.csv")
    infer.add_argument("--precision", default="fp16", help="of an exported detector: fp32, fp16, int8")
    infer.add_argument("--seed", type=int, default=0, help="of procedural images")
    infer.set_defaults(run=infer_command)
    return top


def train_command(options: argparse.Namespace) -> None:
    """`metaldefect train`."""
    # torch and Lightning take seconds to import: not for --help
    from metaldefect.commands.settings import load_settings
    from metaldefect.commands.train import run_training

    overrides = {name: value for name in OVERRIDES if (value := getattr(options, name)) is not None}
    settings = load_settings(options.config, overrides)
    metrics = run_training(settings)
    shown: dict[str, Any] = {key: metrics[key] for key in SHOWN if key in metrics}
    print(json.dumps(shown | {"output": str(settings.output)}))


def infer_command(options: argparse.Namespace) -> None:
    """`metaldefect infer`."""
    from metaldefect.commands.infer import frames_of, load_model, run_inference, synthetic_frames

    if options.synthetic is not None and options.synthetic < 1:
        raise UserError(f"--synthetic {options.synthetic}: expected at least 1")
    if options.image is not None and options.output.resolve().is_relative_to(options.image.resolve()):
        raise UserError(
            f"--output {options.output} lies inside --image {options.image}: choose another folder"
        )
    model = load_model(options.model, options.precision)
    if options.synthetic is None:
        frames = frames_of(options.image)
    else:
        frames = synthetic_frames(options.synthetic, model.image_size, options.seed)
    unreadable = run_inference(model, frames, options.output)
    print(f"{len(frames) - len(unreadable)} images judged: {options.output / 'scores.csv'}")
    if unreadable:
        listed = "\n".join(f"  {reason}" for _, reason in unreadable)
        raise UserError(f"{len(unreadable)} images could not be read and were left out:\n{listed}")


if __name__ == "__main__":
    main()
