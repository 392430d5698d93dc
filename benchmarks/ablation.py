"""`python -m benchmarks.ablation`: compare v1 with v2 one choice at a time, at equal compute.

Run it in a pipeline's folder after `tokenize`. Every variant changes parameters of `params.yaml`, and the
table names them, so `dvc exp run -S <parameter>=<value>` repeats a variant in the pipeline itself. Training
variants share size, steps, batches and seed. Sampling variants draw with v2's weights, or with those of the
pipeline's longer training (`--sampling-weights models/maskgit`). All variants are compared on validation
images, because the table decides which choices to make, and test images must not.

Each variant is an MLflow run under a parent run `ablation`. Finished variants are kept, and a killed
training resumes. Writes `reports/ablation.md` after each variant, and `benchmarks/results/ablation.json` at
the end; the last line printed is JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from tqdm import tqdm

from benchmarks.results import add_results_argument, command_line, publish, with_interval
from metaldefect.artifacts import atomic_directory, atomic_file, read_json, sha256_file, write_json
from metaldefect.backbones import pooled_features
from metaldefect.errors import UserError
from metaldefect.hardware import autocast_dtype, cpu_name, keep_freed_memory, set_threads
from metaldefect.maskgit.checkpoints import load_maskgit, save_maskgit
from metaldefect.maskgit.evaluation import measure
from metaldefect.maskgit.model import MaskGIT
from metaldefect.maskgit.recipe import Recipe, train_recipe
from metaldefect.maskgit.sampling_config import SamplingConfig
from metaldefect.maskgit.token_data import TokenGrids
from metaldefect.maskgit.vocabulary import Vocabulary
from metaldefect.metrics.generation_suite import Labelled, evaluate
from metaldefect.synthesis.drawing import draw_classes
from metaldefect.synthesis.evaluation import RealSides, real_sides
from metaldefect.synthesis.grain import Grain
from metaldefect.synthesis.painter import Painter
from metaldefect.tokenizer.checkpoints import load_tokenizer
from metaldefect.tokenizer.model import VQModel
from pipeline.params import Params, parse_params
from pipeline.run import (
    StageRun,
    connect_tracking,
    flatten,
    git_commit,
    seed_everything,
)

REPORT = Path("reports/ablation.md")
MERGED, TOKENS, TOKENIZER = Path("data/merged"), Path("data/tokens"), Path("models/vq")
KEPT = Path(".checkpoints/ablation")
TRAINING, SAMPLING = "train_maskgit", "synthesize.sampling"


@dataclass(frozen=True)
class Variant:
    """A variant: its dotted parameters that differ from v2, and the comparison it belongs to."""

    name: str
    question: str
    overrides: Mapping[str, Any]
    precision: str | None = None  # METALDEFECT_PRECISION: hardware settings are not parameters

    @property
    def trains(self) -> bool:
        """Whether the variant needs its own training: v2, and variants with changed training parameters."""
        return not self.precision and (
            self.name == "v2" or any(not key.startswith("synthesize.") for key in self.overrides)
        )


V1 = {
    f"{TRAINING}.conditioning": "sum",
    f"{TRAINING}.mixing": 0,
    f"{TRAINING}.codebook_start": 0.0,
    f"{TRAINING}.training.balanced": False,
    f"{TRAINING}.training.unconditional_steps": 0,
    "tokenize.vocabulary": "full",
    f"{SAMPLING}.order": "confidence",
}
SHORT = {
    f"{TRAINING}.conditioning": "conditioning",
    f"{TRAINING}.mixing": "local mixing",
    f"{TRAINING}.codebook_start": "start of embeddings",
    f"{TRAINING}.training.balanced": "sampling of training images",
    f"{TRAINING}.training.unconditional_steps": "stages",
    "tokenize.vocabulary": "vocabulary",
    f"{SAMPLING}.order": "order of sampling",
}


def variants() -> list[Variant]:
    """v2, v1, then the variants with one difference each."""
    found = [Variant("v2", "whole", {}), Variant("v1", "whole", V1)]
    found += [Variant(f"{SHORT[key]}: v1's", SHORT[key], {key: value}) for key, value in V1.items()]
    found.append(Variant("order: random", SHORT[f"{SAMPLING}.order"], {f"{SAMPLING}.order": "random"}))
    found += [Variant(f"{n} steps", "steps", {f"{SAMPLING}.steps": n}) for n in (8, 16, 32, 64)]
    found += [
        Variant(f"guidance {w:g}", "guidance", {f"{SAMPLING}.guidance": w}) for w in (0.0, 1.0, 2.0, 3.0, 4.0)
    ]
    found.append(
        Variant("guidance rising", "guidance", {f"{SAMPLING}.guidance_schedule": "linear"}),
    )
    found.append(Variant("chosen of 4 candidates", "candidates", {"synthesize.candidates.per_image": 4}))
    found.append(Variant("without grain", "grain", {"synthesize.grain": False}))
    if autocast_dtype() == torch.bfloat16:  # else emulation takes hours
        found += [Variant(f"sampled in {p}", "precision", {}, p) for p in ("float32", "bfloat16")]
    return found


def overridden(params: Mapping[str, Any], overrides: Mapping[str, Any]) -> Params:
    """`params.yaml` with dotted keys replaced.

    Raises:
        ParamsError: names an unknown key.
    """
    content = deepcopy(dict(params))
    for dotted, value in overrides.items():
        *path, last = dotted.split(".")
        section = content
        for part in path:
            section = section[part]
        section[last] = value
    return parse_params(content, "params.yaml with the variant's changes")


@dataclass(frozen=True)
class Tokens:
    """The output of `tokenize`, and its tokenizer.

    Attributes:
        train: what variants learn from.
        validation: what variants are compared on; test images decide nothing.
        vocabulary: the numbering of both.
    """

    train: TokenGrids
    validation: TokenGrids
    vocabulary: Vocabulary
    tokenizer: VQModel
    grain: Grain | None
    classes: tuple[str, ...]
    image_size: int

    @classmethod
    def load(cls, params: Params) -> Tokens:
        """Read `data/tokens` and `models/vq`."""
        classes = params.data.classes
        return cls(
            TokenGrids.training(TOKENS / "train", classes),
            TokenGrids.held_out(TOKENS / "held_out", "validation", classes),
            Vocabulary.load(TOKENS / "train"),
            load_tokenizer(TOKENIZER),
            Grain.load(TOKENIZER),
            tuple(classes),
            int(read_json(TOKENIZER / "config.json")["image_size"]),
        )

    def painter(self, model: MaskGIT) -> Painter:
        """A painter that draws with this model and this tokenizer."""
        return Painter(self.tokenizer, model, self.classes, self.vocabulary, self.image_size, self.grain)


def with_vocabulary(data: Tokens, params: Params) -> Tokens:
    """The tokens in the numbering that the parameters select."""
    size = data.tokenizer.config.codebook_size
    if params.tokenize.vocabulary == "used" or len(data.vocabulary.codes) == size:
        return data
    codes = data.vocabulary.codes.numpy()

    def renumbered(grids: TokenGrids) -> TokenGrids:
        return grids._replace(tokens=codes[grids.tokens].astype(grids.tokens.dtype))

    return replace(
        data,
        train=renumbered(data.train),
        validation=renumbered(data.validation),
        vocabulary=Vocabulary.full(size),
    )


@contextmanager
def environment(name: str, value: str | None) -> Iterator[None]:
    """Set an environment variable for a block; None leaves it unchanged."""
    before = os.environ.get(name)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        if value is not None:
            os.environ.pop(name)
            if before is not None:
                os.environ[name] = before


def key_of(content: object) -> str:
    """The file name of a result: a hash of everything that determines it."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def trained(params: Params, data: Tokens, inputs: str) -> tuple[MaskGIT, dict[str, Any]]:
    """A variant's model and its cross-entropies; loads them if an earlier run trained the variant."""
    section = params.train_maskgit.model_dump(mode="json")
    folder = KEPT / key_of([inputs, section, params.tokenize.vocabulary, params.seed])
    if not (folder / "model/metrics.json").is_file():
        seed_everything(params.seed)
        model, _ = train_recipe(
            Recipe.of(params.train_maskgit, params.seed),
            data.train,
            data.vocabulary,
            data.tokenizer.quantize.codebook.detach(),
            data.classes,
            folder / "state",
        )
        with atomic_directory(folder / "model") as directory:
            save_maskgit(model, directory)
            write_json(directory / "metrics.json", measure(model, data.train, data.validation, params.seed))
    return load_maskgit(folder / "model"), read_json(folder / "model/metrics.json")


def weights(
    variant: Variant, params: Params, data: Tokens, inputs: str, sampling: Path | None
) -> tuple[MaskGIT, dict[str, Any]]:
    """The model that a variant draws with, and its cross-entropies."""
    if variant.trains or sampling is None:
        return trained(params, data, inputs)
    model = load_maskgit(sampling)
    return model, measure(model, data.train, data.validation, params.seed)


def quality_of(params: Params, data: Tokens, model: MaskGIT, real: RealSides) -> dict[str, Any]:
    """The generation metrics of images drawn with the parameters."""
    section = params.synthesize
    config = SamplingConfig.of(section.sampling)
    painter = data.painter(model)
    if not params.synthesize.grain:
        painter = replace(painter, grain=None)
    drawn = draw_classes(
        painter, MERGED, section.images_per_class, config,
        section.candidates, section.sampling.batch_size, params.seed,
    )  # fmt: skip
    fake = Labelled.ungrouped(pooled_features(drawn.images), drawn.labels)
    return evaluate(*real, fake, params.seed)


def described(variant: Variant) -> dict[str, Any]:
    """A variant's own columns in its row of the table."""
    hardware = {"METALDEFECT_PRECISION": variant.precision} if variant.precision else {}
    return {
        "variant": variant.name,
        "question": variant.question,
        "trains": variant.trains,
        "overrides": dict(variant.overrides) | hardware,
    }


def figures(trained_metrics: dict[str, Any], quality: dict[str, Any]) -> dict[str, Any]:
    """The figures of a variant in the table."""
    manifold = quality["manifold"]["synthetic"]
    return {
        "ce_true": trained_metrics["ce_true"],
        "ce_below_class_unigram": trained_metrics["ce_below_class_unigram"],
        "ce_wrong_minus_true": trained_metrics["ce_wrong_minus_true"],
        "class_agreement": quality["class_agreement"],
        "kid": quality["kid"]["synthetic"],
        "kid_interval_95": quality["kid"]["interval_95"]["synthetic"],
        "kid_ratio": quality["kid"]["ratio"],
        "cas_ratio": quality["cas"]["ratio"],
        "precision": manifold["precision"]["mean"],
        "recall": manifold["recall"]["mean"],
        "density": manifold["density"]["mean"],
        "coverage": manifold["coverage"]["mean"],
    }


COLUMNS = {
    "ce_below_class_unigram": "CE below class unigram",
    "ce_wrong_minus_true": "CE wrong − true",
    "class_agreement": "class agreement",
    "kid": "KID",
    "kid_ratio": "KID / tokenizer's",
    "cas_ratio": "CAS ratio",
    "precision": "precision",
    "coverage": "coverage",
}


def cell(value: Any) -> str:
    """Format a figure as `0.912` or `0.912 (0.89-0.93)`."""
    if isinstance(value, Mapping):
        return f"{value['mean']:.3f} ({value['low']:.2f}-{value['high']:.2f})"
    return f"{value:.3f}"


def markdown(rows: list[dict[str, Any]], about: Mapping[str, Any]) -> str:
    """The report: both tables, and how to repeat each row in the pipeline."""
    lines = [
        "# v1 against v2, one choice at a time",
        "",
        f"One run of `{about['command']}` on {about['machine']}. "
        f"Every training runs {about['steps']} steps of {about['batch_size']} images, "
        f"with size `{about['size']}` and seed {about['seed']}. "
        f"Every variant draws {about['images_per_class']} images per class; brackets are 95 % intervals.",
    ]
    drawing = f"## Sampling, with weights that have seen {about['sampling_images_seen']:,} images"
    for title, trains in (("## Training", True), (drawing, False)):
        chosen = [found for found in rows if found["trains"] == trains]
        if not chosen:
            continue
        lines += ["", title, ""]
        lines.append("| | " + " | ".join(COLUMNS.values()) + " | `dvc exp run` with |")
        lines.append("|---" * (len(COLUMNS) + 2) + "|")
        for found in chosen:
            changes = " ".join(
                f"`{key}={value}`" if key.isupper() else f"`-S {key}={str(value).lower()}`"
                for key, value in found["overrides"].items()
            )
            cells = [cell(found[key]) for key in COLUMNS]
            lines.append(f"| {found['variant']} | " + " | ".join(cells) + f" | {changes} |")
    return "\n".join(lines) + "\n"


def log(variant: Variant, found: Mapping[str, Any], params: Params, parent: str) -> None:
    """Log the variant as a child run in MLflow."""
    import mlflow

    with mlflow.start_run(
        run_name=variant.name, parent_run_id=parent, nested=True, tags={"ablation": variant.question}
    ) as active:
        sections = {
            TRAINING: params.train_maskgit.model_dump(mode="json"),
            SAMPLING: params.synthesize.sampling.model_dump(mode="json"),
            "tokenize": {"vocabulary": params.tokenize.vocabulary},
        }
        mlflow.log_params({key: str(value) for key, value in flatten(sections)})
        StageRun("ablation", active.info.run_id, "").log_metrics(found)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure every chosen variant; write the report after each, so that it can be read during a long run."""
    content = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    training = content["train_maskgit"]["training"]
    training["steps"] = arguments.steps or training["steps"]
    training["unconditional_steps"] = round(arguments.first_stage * training["steps"])
    sampler = content["synthesize"]["sampling"]
    sampler["steps"] = arguments.sampling_steps or sampler["steps"]
    content["tokenize"]["vocabulary"] = "used"
    content["synthesize"]["images_per_class"] = arguments.images_per_class
    content["synthesize"]["candidates"]["per_image"] = 1  # unless a variant sets more
    base = parse_params(content)
    chosen = [v for v in variants() if not arguments.only or v.name in arguments.only]
    if not chosen:
        raise UserError(f"--only: choose from {', '.join(v.name for v in variants())}")
    data = Tokens.load(base)
    whole = len(data.vocabulary.codes) == data.tokenizer.config.codebook_size
    if whole:
        print("every code of the codebook is used, so both vocabularies are equal", flush=True)
    seed_everything(base.seed)
    set_threads()
    keep_freed_memory()
    sampling = arguments.sampling_weights
    drawn_by = sha256_file(sampling / "maskgit.safetensors") if sampling else ""
    inputs = "".join(sha256_file(TOKENS / side / "tokens.npy") for side in ("train", "held_out"))
    inputs += sha256_file(TOKENIZER / "tokenizer.safetensors")
    about = {
        "command": command_line("ablation"),
        "machine": cpu_name(),
        "steps": training["steps"],
        "batch_size": training["batch_size"],
        "images_seen": training["steps"] * training["batch_size"],
        "sampling_images_seen": read_json("metrics/train_maskgit.json")["images_seen"]
        if sampling
        else training["steps"] * training["batch_size"],
        "size": content["train_maskgit"]["size"],
        "seed": base.seed,
        "images_per_class": arguments.images_per_class,
    }
    connect_tracking()
    import mlflow

    real: RealSides | None = None
    rows = []
    with mlflow.start_run(
        run_name="ablation", tags={"pipeline.key": "ablation", "git.commit": git_commit()}
    ) as parent:
        for variant in tqdm(chosen, desc="variants", unit="variant"):
            # If every code is used, both vocabularies are the same and share one training
            params = overridden(
                content, dict(variant.overrides) | ({"tokenize.vocabulary": "used"} if whole else {})
            )
            made_from = [inputs, params.model_dump(mode="json"), variant.precision]
            made_from += [] if variant.trains else [drawn_by]
            kept = KEPT / "results" / f"{key_of(made_from)}.json"
            if not kept.is_file():
                own = with_vocabulary(data, params)
                model, metrics = weights(variant, params, own, inputs, sampling)
                if real is None:
                    real = real_sides(own.painter(model), MERGED, "validation")
                with environment("METALDEFECT_PRECISION", variant.precision):
                    write_json(kept, figures(metrics, quality_of(params, own, model, real)))
            found = described(variant) | read_json(kept)
            rows.append(found)
            log(variant, found, params, parent.info.run_id)
            write_json(REPORT.with_suffix(".json"), {**about, "rows": rows})
            with atomic_file(REPORT) as temporary:
                temporary.write_text(markdown(rows, about), encoding="utf-8")
    return {**about, "rows": rows}


def figures_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The table's columns as flat figures, named `<column>_<variant>`."""
    flat: dict[str, Any] = {}
    for row in rows:
        variant = re.sub(r"[^a-z0-9]+", "_", row["variant"].lower()).strip("_")
        for name in COLUMNS:
            flat[f"{name}_{variant}"] = (
                with_interval(row[name]) if isinstance(row[name], Mapping) else row[name]
            )
    return flat


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=__doc__)
    parser.add_argument("--steps", type=int, help="steps of each training (default: from params.yaml)")
    parser.add_argument(
        "--first-stage", type=float, default=0.3, help="share of v2's training steps without labels"
    )
    parser.add_argument("--images-per-class", type=int, default=30, help="images drawn per variant and class")
    parser.add_argument("--sampling-steps", type=int, help="sampling steps (default: from params.yaml)")
    parser.add_argument(
        "--sampling-weights", type=Path, metavar="FOLDER",
        help="model that sampling variants draw with, such as models/maskgit (default: v2's)",
    )  # fmt: skip
    parser.add_argument(
        "--only", nargs="+", metavar="VARIANT", help="measure only these, such as v2 v1 'guidance 3'"
    )
    add_results_argument(parser, "ablation")
    arguments = parser.parse_args()
    try:
        result = run(arguments)
    except UserError as error:
        sys.exit(f"ablation: {error}")
    publish(arguments.results, "ablation", figures_of(result["rows"]), result)


if __name__ == "__main__":
    main()
