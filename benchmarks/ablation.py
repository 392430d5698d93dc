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
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from benchmarks.ablation_table import describe, figures, figures_of, markdown
from benchmarks.ablation_variants import SAMPLING, TRAINING, Variant, overridden, variants
from benchmarks.results import add_results_argument, command_line, publish
from metaldefect.artifacts import atomic_directory, atomic_file, read_json, sha256_file, write_json
from metaldefect.backbones import pooled_features
from metaldefect.errors import UserError
from metaldefect.hardware import keep_freed_memory, machine_name, set_threads
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
from metaldefect.synthesis.exemplars import Exemplars
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
    exemplars: Exemplars | None
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
            Exemplars.load(TOKENIZER),
            tuple(classes),
            int(read_json(TOKENIZER / "config.json")["image_size"]),
        )

    def painter(self, model: MaskGIT) -> Painter:
        """A painter that draws with this model and this tokenizer."""
        return Painter(
            self.tokenizer, model, self.classes, self.vocabulary, self.image_size, self.grain, self.exemplars
        )


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
    if section.detail != "exemplars":
        painter = replace(painter, exemplars=None)
    if section.detail == "none":
        painter = replace(painter, grain=None)
    drawn = draw_classes(
        painter, MERGED, section.images_per_class, config,
        section.candidates, section.sampling.batch_size, params.seed,
    )  # fmt: skip
    fake = Labelled.ungrouped(pooled_features(drawn.images), drawn.labels)
    return evaluate(*real, fake, params.seed)


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
        StageRun("ablation", active.info.run_id, "", "").log_metrics(found)


def base_parameters(arguments: argparse.Namespace) -> dict[str, Any]:
    """`params.yaml` with the options of the command line: the parameters of v2."""
    content: dict[str, Any] = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    training = content["train_maskgit"]["training"]
    training["steps"] = arguments.steps or training["steps"]
    training["unconditional_steps"] = round(arguments.first_stage * training["steps"])
    sampler = content["synthesize"]["sampling"]
    sampler["steps"] = arguments.sampling_steps or sampler["steps"]
    content["tokenize"]["vocabulary"] = "used"
    content["synthesize"]["images_per_class"] = arguments.images_per_class
    content["synthesize"]["candidates"]["per_image"] = 1  # unless a variant sets more
    return content


def choose_variants(names: Sequence[str] | None) -> list[Variant]:
    """The variants of these names; all without names.

    Raises:
        UserError: no variant has one of the names.
    """
    chosen = [v for v in variants() if not names or v.name in names]
    if not chosen:
        raise UserError(f"--only: choose from {', '.join(v.name for v in variants())}")
    return chosen


def describe_run(base: Params, sampling: Path | None) -> dict[str, Any]:
    """What all variants share, for the report's first lines."""
    training = base.train_maskgit.training
    images_seen = training.steps * training.batch_size
    return {
        "command": command_line("ablation"),
        "machine": machine_name(),
        "steps": training.steps,
        "batch_size": training.batch_size,
        "images_seen": images_seen,
        "sampling_images_seen": read_json("metrics/train_maskgit.json")["images_seen"]
        if sampling
        else images_seen,
        "size": base.train_maskgit.size,
        "seed": base.seed,
        "images_per_class": base.synthesize.images_per_class,
    }


class VariantComparison:
    """Measures variants on the same tokens and images; keeps what it has measured.

    Args:
        content: parameters of v2.
        data: tokens that variants learn from and are compared on.
        sampling: model that variants of sampling draw with; None: v2's.
    """

    def __init__(self, content: Mapping[str, Any], data: Tokens, sampling: Path | None) -> None:
        self.content, self.data, self.sampling = content, data, sampling
        self.drawn_by = sha256_file(sampling / "maskgit.safetensors") if sampling else ""
        inputs = "".join(sha256_file(TOKENS / side / "tokens.npy") for side in ("train", "held_out"))
        self.inputs = inputs + sha256_file(TOKENIZER / "tokenizer.safetensors")
        self.real: RealSides | None = None

    @property
    def whole_codebook(self) -> bool:
        """Whether the images use every code: both vocabularies are then the same and share one training."""
        return len(self.data.vocabulary.codes) == self.data.tokenizer.config.codebook_size

    def params_of(self, variant: Variant) -> Params:
        """The parameters of a variant."""
        same = {"tokenize.vocabulary": "used"} if self.whole_codebook else {}
        return overridden(self.content, dict(variant.overrides) | same)

    def measure(self, variant: Variant, params: Params) -> dict[str, Any]:
        """The figures of a variant; read from its file if an earlier run measured it."""
        made_from = [self.inputs, params.model_dump(mode="json"), variant.precision]
        made_from += [] if variant.trains else [self.drawn_by]
        kept = KEPT / "results" / f"{key_of(made_from)}.json"
        if not kept.is_file():
            own = with_vocabulary(self.data, params)
            model, metrics = weights(variant, params, own, self.inputs, self.sampling)
            if self.real is None:
                self.real = real_sides(own.painter(model), MERGED, "validation")
            with environment("METALDEFECT_PRECISION", variant.precision):
                write_json(kept, figures(metrics, quality_of(params, own, model, self.real)))
        return read_json(kept)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure every chosen variant; write the report after each, so that it can be read during a long run."""
    content = base_parameters(arguments)
    base, chosen = parse_params(content), choose_variants(arguments.only)
    seed_everything(base.seed)
    set_threads()
    keep_freed_memory()
    comparison = VariantComparison(content, Tokens.load(base), arguments.sampling_weights)
    if comparison.whole_codebook:
        print("every code of the codebook is used, so both vocabularies are equal", flush=True)
    about = describe_run(base, arguments.sampling_weights)
    connect_tracking()
    import mlflow

    rows: list[dict[str, Any]] = []
    with mlflow.start_run(
        run_name="ablation", tags={"pipeline.key": "ablation", "git.commit": git_commit()}
    ) as parent:
        for variant in tqdm(chosen, desc="variants", unit="variant"):
            params = comparison.params_of(variant)
            found = describe(variant) | comparison.measure(variant, params)
            rows.append(found)
            log(variant, found, params, parent.info.run_id)
            write_json(REPORT.with_suffix(".json"), {**about, "rows": rows})
            with atomic_file(REPORT) as temporary:
                temporary.write_text(markdown(rows, about), encoding="utf-8")
    return {**about, "rows": rows}


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
