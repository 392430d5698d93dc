"""Each hyper-parameter is declared once, in the library's class of the model that it belongs to."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import pytest
import yaml
from pydantic import ValidationError

import metaldefect
from metaldefect.commands import settings as command_settings
from metaldefect.commands.settings import TrainSettings
from metaldefect.config import Config
from metaldefect.efficientad.config import TrainingConfig
from metaldefect.efficientad.distillation_config import DistillationConfig
from pipeline import params
from pipeline.params import ParamsError, TrainEfficientAD, parse_params

USERS = (params, command_settings)
# Words that mean another value for each thing that is made: of the tokenizer's images, of a sampler's draws
SHARED_WORDS = {
    "base",
    "batch_size",
    "channels",
    "checkpoint_steps",
    "classes",
    "image_size",
    "natural",
    "seed",
    "steps",
    "tokenizer",
}


def library_classes() -> list[type[Config]]:
    modules = [
        import_module(found.name)
        for found in walk_packages(metaldefect.__path__, "metaldefect.")
        if found.name.endswith("config") and found.name != "metaldefect.config"
    ]
    return [kind for module in modules for kind in own_classes(module.__name__)]


def own_classes(module: str) -> Iterator[type[Config]]:
    for _, kind in inspect.getmembers(import_module(module), inspect.isclass):
        if issubclass(kind, Config) and kind.__module__ == module:
            yield kind


def declared(kind: type[Config]) -> set[str]:
    """Names of the values that a class declares itself; a section in it is no value."""
    own = {name: field for name, field in kind.model_fields.items() if name in kind.__annotations__}
    return {
        name
        for name, field in own.items()
        if not inspect.isclass(field.annotation) or not issubclass(field.annotation, Config)
    }


def test_no_hyper_parameter_of_the_library_is_declared_again() -> None:
    of_library = {name for kind in library_classes() for name in declared(kind)}
    assert {"hard_quantile", "threshold_quantile", "guidance", "feather", "entropy_ratio"} <= of_library
    again = [
        f"{module.__name__}.{kind.__name__}.{name}"
        for module in USERS
        for kind in own_classes(module.__name__)
        for name in sorted(declared(kind) & (of_library - SHARED_WORDS))
    ]
    # A tokenizer's loss and the measure that judges it are two choices of a distance
    again.remove("pipeline.params.EvaluateVQ.perceptual")
    assert again == []


def test_no_class_declares_a_field_of_its_bases_again() -> None:
    users = [kind for module in USERS for kind in own_classes(module.__name__)]
    for kind in [*library_classes(), *users]:
        inherited = {
            name for base in kind.__mro__[1:] if issubclass(base, Config) for name in base.model_fields
        }
        assert (declared(kind) & inherited) - {"training"} == set(), kind


@pytest.mark.parametrize(
    "name",
    [
        "codebook_size",
        "conditioning",
        "dropout",
        "entropy_ratio",
        "hard_quantile",
        "heads",
        "mixing",
        "rectangle_share",
        "threshold_quantile",
        "top_p",
    ],
)
def test_a_hyper_parameter_has_one_declaration(name: str) -> None:
    users = [kind for module in USERS for kind in own_classes(module.__name__)]
    assert len([kind for kind in [*library_classes(), *users] if name in declared(kind)]) == 1


def test_hard_quantile_has_the_papers_default_wherever_it_is_set() -> None:
    for kind in (TrainingConfig, TrainSettings, TrainEfficientAD):
        assert kind.model_fields["hard_quantile"].default == 0.999


def test_a_key_with_a_default_may_not_be_left_out_of_the_parameters() -> None:
    with open("params.yaml", encoding="utf-8") as stream:
        content = yaml.safe_load(stream)
    del content["train_efficientad"]["hard_quantile"]
    del content["synthesize"]["sampling"]["top_p"]
    with pytest.raises(ParamsError) as error:
        parse_params(content)
    assert str(error.value).splitlines()[1:] == [
        "  synthesize.sampling.top_p: Field required",
        "  train_efficientad.hard_quantile: Field required",
    ]


def test_a_project_that_was_made_before_a_setting_runs_without_it() -> None:
    with open("params.yaml", encoding="utf-8") as stream:
        content = yaml.safe_load(stream)
    content["data"].pop("channels", None)
    for name in ("labels", "ignore"):
        content["merge"]["inspection"].pop(name, None)
    params = parse_params(content)
    assert params.data.channels == 1
    assert (params.merge.inspection.labels, params.merge.inspection.ignore) == ({}, [])


def test_settings_of_a_part_are_taken_from_settings_of_the_whole() -> None:
    section = TrainEfficientAD(steps=7, hard_quantile=0.9, image_size=128)
    assert TrainingConfig.of(section, seed=3) == TrainingConfig(steps=7, hard_quantile=0.9, seed=3)
    with pytest.raises(ValidationError, match=r"sneed\s+Extra inputs are not permitted"):
        TrainingConfig.of(section, sneed=3)


def test_a_copy_with_other_values_is_checked() -> None:
    section = TrainEfficientAD(steps=7, hard_quantile=0.9, image_size=128)
    assert section.replace(steps=8) == TrainEfficientAD(steps=8, hard_quantile=0.9, image_size=128)
    with pytest.raises(ValidationError, match=r"steps\s+Input should be greater than 0"):
        section.replace(steps=0)


def test_a_distillation_needs_an_end() -> None:
    for steps in (None, 0):
        with pytest.raises(ValidationError, match="needs a number of steps or a time limit"):
            DistillationConfig(steps=steps)
    assert DistillationConfig(seconds=60.0).steps is None


@pytest.mark.parametrize(
    ("literal", "home"),
    [
        ('"good"', "inspection/layout.py"),
        ('".jpeg"', "image_files.py"),
        ('".gif"', "image_files.py"),
    ],
)
def test_a_constant_of_the_library_is_written_once(literal: str, home: str) -> None:
    library = Path(metaldefect.__path__[0])
    files = [file for file in library.rglob("*.py") if literal in file.read_text()]
    assert [file.relative_to(library).as_posix() for file in files] == [home]
