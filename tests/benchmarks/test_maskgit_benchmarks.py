"""What the benchmarks compare with is the same mathematics; the ablation's variants are parameters."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml

from benchmarks.ablation_table import markdown
from benchmarks.ablation_variants import overridden, variants
from benchmarks.maskgit import matrix_gflops, measure_sampling, our_loss, plain_loss, timed_training
from benchmarks.plain_maskgit import plain_halton, plain_logits
from metaldefect.maskgit.config import MaskGITConfig
from metaldefect.maskgit.model import MaskGIT
from metaldefect.maskgit.sampler import halton_sample
from metaldefect.maskgit.sampling_config import SamplingConfig
from metaldefect.random_numbers import image_generator, uniforms
from pipeline.params import ParamsError

ROOT = Path(__file__).resolve().parents[2]

SHAPE = MaskGITConfig(dim=32, depth=2, heads=2, classes=3, codebook_size=11, grid=4)


@pytest.fixture
def model() -> MaskGIT:
    torch.manual_seed(0)
    model = MaskGIT(SHAPE)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
    return model.eval()


def test_plain_formulation_gives_the_models_logits_and_the_samplers_tokens(model: MaskGIT) -> None:
    tokens, labels = torch.randint(0, 12, (2, 16)), torch.tensor([0, 3])
    torch.testing.assert_close(
        plain_logits(model, tokens, labels), model(tokens, labels), rtol=1e-4, atol=1e-4
    )
    labels = torch.tensor([0, 1, 2])
    chances = uniforms([image_generator(1, number) for number in range(3)], 16)
    config = SamplingConfig(temperature=1.0, steps=5, guidance=1.5, roll=False)
    drawn = halton_sample(model, labels, config, [image_generator(1, number) for number in range(3)])
    assert torch.equal(drawn.flatten(1), plain_halton(model, labels, 5, 1.5, chances))
    by_categorical = plain_halton(model, labels, 5, 1.5, None)
    assert int(by_categorical.max()) < SHAPE.codebook_size


def test_both_training_formulations_step(model: MaskGIT) -> None:
    formulations = {
        "plain": (lambda *inputs: plain_loss(*inputs, dropout=0.1), False),
        "ours": (our_loss, True),
    }
    seconds = timed_training(model, formulations, steps=2, batch=2)
    assert {name: len(values) for name, values in seconds.items()} == {"plain": 2, "ours": 2}


def test_sampling_is_timed_over_fewer_steps_too(model: MaskGIT) -> None:
    found = measure_sampling(model, steps=6, fewer_steps=3, images=2, batch=3, repeats=1)
    assert found["tokens_equal"]
    per_image = found["seconds_per_image"]
    assert found["sample_speedup_fewer_steps"] == per_image["upstream_fp32"] / per_image["ours_fewer_steps"]


def test_matrix_products_are_timed_in_the_dtypes_of_the_formulations(
    model: MaskGIT, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METALDEFECT_PRECISION", "bfloat16")
    rates = matrix_gflops(model, tokens=16, seconds=0.01)
    assert set(rates) == {"float32", "bfloat16"}
    assert min(rates.values()) > 0


def test_our_loss_is_cross_entropy_over_masked_positions(
    model: MaskGIT, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METALDEFECT_PRECISION", "float32")
    tokens, labels = torch.randint(0, 11, (2, 16)), torch.tensor([0, 2])
    mask = torch.rand(2, 16) < 0.5
    logits = plain_logits(model, tokens.masked_fill(mask, SHAPE.mask_id), labels)
    expected = F.cross_entropy(logits[mask], tokens[mask])
    assert float(our_loss(model.train(), tokens, labels, mask).detach()) == pytest.approx(
        float(expected.detach()), rel=1e-5
    )


def test_every_variant_of_the_ablation_is_reachable_by_parameters() -> None:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    found = variants()
    assert len({variant.name for variant in found}) == len(found)
    for variant in found:
        assert overridden(content, variant.overrides).seed == content["seed"]
    questions = {variant.question for variant in found}
    assert {"conditioning", "stages", "vocabulary", "steps", "guidance", "order of sampling"} <= questions
    guidances = [v.overrides.get("synthesize.sampling.guidance") for v in found if v.question == "guidance"]
    assert guidances[:5] == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_a_variants_unknown_parameter_is_named() -> None:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    with pytest.raises(ParamsError, match=r"train_maskgit\.condition"):
        overridden(content, {"train_maskgit.condition": "sum"})


def test_the_table_says_how_to_rerun_a_line(tmp_path: Path) -> None:
    mean = {"mean": 0.5, "low": 0.25, "high": 0.75}
    row = {
        "variant": "uniform",
        "trains": True,
        "overrides": {"train_maskgit.training.balanced": False, "METALDEFECT_PRECISION": "float32"},
        "ce_below_class_unigram": 0.7, "ce_wrong_minus_true": 0.2, "class_agreement": mean, "kid": 0.1,
        "kid_ratio": 1.5, "cas_ratio": 0.4, "precision": 0.3, "coverage": 0.2,
    }  # fmt: skip
    about = {
        "steps": 9, "batch_size": 2, "size": "cpu", "seed": 0, "images_per_class": 3, "machine": "here",
        "command": "python -m benchmarks.ablation", "sampling_images_seen": 1800,
    }  # fmt: skip
    text = markdown([row, row | {"variant": "guidance 0", "trains": False}], about)
    assert "`-S train_maskgit.training.balanced=false` `METALDEFECT_PRECISION=float32`" in text
    assert "| uniform | 0.700 | 0.200 | 0.500 (0.25-0.75) |" in text
    training, sampling = text.split("## Sampling, with weights that have seen 1,800 images")
    assert "uniform" in training
    assert "uniform" not in sampling
    assert "guidance 0" in sampling
