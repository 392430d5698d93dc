"""Each hyper-parameter is declared once, in the library's class of the model that it belongs to."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import pytest
import yaml
from pydantic import ValidationError

import metaldefect
from metaldefect.commands import settings as command_settings
from metaldefect.commands.settings import TrainSettings, load_settings
from metaldefect.config import Config
from metaldefect.efficientad.config import Target, TrainingConfig, with_target_of
from metaldefect.efficientad.distillation_config import DistillationConfig
from metaldefect.errors import UserError
from pipeline import params
from pipeline.params import Calibrate, ParamsError, TrainEfficientAD, parse_params

USERS = (params, command_settings)
SETTINGS = Path("conf/efficientad.yaml")
# Words that mean another value for each thing that is made: of the tokenizer's images, of a sampler's draws
SHARED_WORDS = {
    "base",
    "batch_size",
    "channels",
    "checkpoint_steps",
    "classes",
    "image_size",
    "images",
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
    assert {"hard_quantile", "false_alarms", "guidance", "feather", "entropy_ratio"} <= of_library
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
        "false_alarms",
        "hard_quantile",
        "heads",
        "mixing",
        "rectangle_share",
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


def calibrate_section(**changes: object) -> Calibrate:
    """The section of params.yaml with other keys for the target of the threshold."""
    with open("params.yaml", encoding="utf-8") as stream:
        content = yaml.safe_load(stream)
    content["calibrate"] = {"residual_metric": "paper", **changes}
    return parse_params(content).calibrate


def test_a_rate_of_false_alarms_is_read_from_the_older_key_too() -> None:
    assert calibrate_section(threshold_quantile=0.99) == calibrate_section(false_alarms="1%")
    assert Target.of(calibrate_section(threshold_quantile=0.99)).rate == 0.01
    assert load_settings(None, {"threshold_quantile": 0.95}).false_alarms == 0.05


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "calibrate: Value error, give false_alarms, or cost_miss and cost_false_alarm"),
        (
            {"threshold_quantile": 0.99, "false_alarms": 0.01},
            "threshold_quantile is the older form of false_alarms: give it or false_alarms, not both",
        ),
        (
            {"threshold_quantile": 0.99, "cost_miss": 3, "cost_false_alarm": 1},
            "give it or cost_miss, not both",
        ),
        (
            {"false_alarms": "5%", "cost_miss": 3, "cost_false_alarm": 1},
            "give either false_alarms, or cost_miss and cost_false_alarm",
        ),
        ({"cost_miss": 3}, "give both --cost-miss and --cost-false-alarm"),
        ({"threshold_quantile": 99}, "99 is no number above 0 and up to 1"),
        ({"false_alarms": "lots"}, "'lots' is no share: write 1% or 0.01"),
    ],
)
def test_targets_that_contradict_or_lack_a_half_are_named(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ParamsError, match=re.escape(message)):
        calibrate_section(**keys)


def test_a_target_on_the_command_line_replaces_that_of_the_file() -> None:
    costs = {"cost_miss": 200.0, "cost_false_alarm": 3.0}
    by_cost = load_settings(SETTINGS, costs | {"defect_share": "2%"})
    assert (by_cost.costs, by_cost.false_alarms, by_cost.defect_share) == ((200.0, 3.0), None, 0.02)
    assert with_target_of(costs, {"cost_miss": 5.0}) == costs | {"cost_miss": 5.0}
    assert with_target_of(costs | {"seed": 1}, {"false_alarms": "5%"}) == {"seed": 1, "false_alarms": "5%"}
    assert load_settings(SETTINGS, {"seed": 3}).false_alarms == 0.01


@pytest.mark.parametrize(
    "target", [Target(), Target(false_alarms=0.0), Target(cost_miss=2, cost_false_alarm=1)]
)
def test_a_target_comes_back_from_its_record(target: Target) -> None:
    again = Target(**target.record())
    assert (again.costs, again.rate, again.defect_share) == (target.costs, target.rate, target.defect_share)


@pytest.mark.parametrize(
    ("file", "overrides"), [(SETTINGS, {}), (None, {}), (None, {"source": "real", "root": "images"})]
)
def test_inserted_defects_choose_the_residuals_metric_unless_told_otherwise(
    file: Path | None, overrides: dict[str, str]
) -> None:
    assert load_settings(file, overrides).residual_metric == "choose"
    assert load_settings(file, overrides | {"residual_metric": "paper"}).residual_metric == "paper"


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


def test_a_settings_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes("output: models/Größe\n".encode("latin-1"))
    with pytest.raises(UserError, match=rf"{re.escape(str(path))} is not UTF-8 .*: save it as UTF-8"):
        load_settings(path, {})
