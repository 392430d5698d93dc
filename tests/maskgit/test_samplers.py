"""Confidence and random sampling against plain Python; guidance, temperature, top-k and top-p."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from metaldefect.maskgit.config import MaskGITConfig
from metaldefect.maskgit.model import MaskGIT
from metaldefect.maskgit.sampler import (
    confidence_sample,
    guided_logits,
    invert_cumulative,
    probabilities,
    random_sample,
    sample,
)
from metaldefect.maskgit.sampling_config import ORDERS, SamplingConfig
from metaldefect.random_numbers import image_generator, uniforms

SHAPE = MaskGITConfig(dim=32, depth=2, heads=2, classes=3, codebook_size=11, grid=4)


@pytest.fixture(scope="module")
def model() -> MaskGIT:
    torch.manual_seed(0)
    model = MaskGIT(SHAPE)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
    return model.eval()


def generators(seed: int, count: int) -> list[torch.Generator]:
    return [image_generator(seed, number) for number in range(count)]


class Spy:
    """A model that notes what it is asked."""

    def __init__(self, model: MaskGIT) -> None:
        self.model, self.config = model, model.config
        self.asked: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __call__(self, tokens, labels, positions=None):
        self.asked.append((tokens.clone(), positions.clone()))
        return self.model(tokens, labels, positions)


def plain_logits(model: MaskGIT, tokens: list[int], label: int, guidance: float) -> np.ndarray:
    """Guided logits of all positions of one sample, by two passes."""
    with torch.no_grad():
        conditional, unconditional = (
            model(torch.tensor([tokens]), torch.tensor([given]))[0].numpy().astype(np.float64)
            for given in (label, SHAPE.null_label)
        )
    return ((1 + guidance) * conditional - guidance * unconditional)[:, : SHAPE.codebook_size]


def softmax(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits - logits.max())
    return p / p.sum()


def pick(p: np.ndarray, uniform: float) -> int:
    return int(np.searchsorted(np.cumsum(p), uniform, side="right"))


def written_after(step: int, steps: int, total: int) -> int:
    ratio = math.acos((step + 1) / steps) / (math.pi / 2)
    return total if step == steps - 1 else max(step + 1, int(total * (1 - ratio)))


def slow_confidence(model, known, label, config, row, generator_draws):
    """MaskGIT's sampler for one sample in plain Python, on all-position logits."""
    tokens = list(known)
    total = tokens.count(SHAPE.mask_id)
    steps = min(config.steps, total)
    done = 0
    for step in range(steps):
        uniforms, noises = generator_draws[step]
        weight = config.guidance * step / (steps - 1)
        logits = plain_logits(model, tokens, label, weight)
        candidates = []
        for position in [i for i, token in enumerate(tokens) if token == SHAPE.mask_id]:
            p = softmax(logits[position])
            token = pick(p, float(uniforms[row, position]))
            gumbel = -math.log(-math.log(float(noises[row, position])))
            score = math.log(p[token]) + config.confidence_noise * (1 - step / (steps - 1)) * gumbel
            candidates.append((score, position, token))
        until = written_after(step, steps, total)
        for _, position, token in sorted(candidates, reverse=True)[: until - done]:
            tokens[position] = token
        done = until
    return tokens


def test_confidence_sampler_is_the_plain_algorithm_for_grids_and_for_holes(model: MaskGIT) -> None:
    config = SamplingConfig(
        temperature=1.0, steps=5, order="confidence", guidance=1.5, guidance_schedule="linear"
    )
    known = torch.full((3, 16), SHAPE.mask_id)
    known[1, :6] = torch.randint(0, 11, (6,), generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 2, 1])
    drawn = confidence_sample(model, labels, config, generators(7, 3), known=known.view(3, 4, 4))
    again = generators(7, 3)
    draws = [(uniforms(again, 16), uniforms(again, 16)) for _ in range(5)]
    for row, label in enumerate(labels.tolist()):
        plain = slow_confidence(model, known[row].tolist(), label, config, row, draws)
        assert drawn[row].flatten().tolist() == plain


def test_random_sampler_is_the_plain_algorithm(model: MaskGIT) -> None:
    config = SamplingConfig(temperature=1.0, steps=4, order="random", guidance=2.0)
    labels = torch.tensor([1, 0])
    drawn = random_sample(model, labels, config, generators(3, 2))
    again = generators(3, 2)
    order = uniforms(again, 16).argsort(dim=1).tolist()
    chances = uniforms(again, 16)
    for row, label in enumerate(labels.tolist()):
        tokens, done = [SHAPE.mask_id] * 16, 0
        for step in range(4):
            until = written_after(step, 4, 16)
            logits = plain_logits(model, tokens, label, 2.0)
            for position in order[row][done:until]:
                tokens[position] = pick(softmax(logits[position]), float(chances[row, position]))
            done = until
        assert drawn[row].flatten().tolist() == tokens


@pytest.mark.parametrize("order", ORDERS)
def test_known_tokens_stay_and_nothing_is_asked_but_unknown_positions(model: MaskGIT, order: str) -> None:
    generator = torch.Generator().manual_seed(0)
    known = torch.randint(0, 11, (2, 4, 4), generator=generator)
    holes = torch.zeros(2, 4, 4, dtype=torch.bool)
    holes[0, 1:3, 1:4] = True
    holes[1, 0, 0] = True
    start = known.masked_fill(holes, SHAPE.mask_id)
    spy = Spy(model)
    history: list[torch.Tensor] = []
    config = SamplingConfig(temperature=1.0, steps=3, order=order, guidance=0.0)
    drawn = sample(spy, torch.tensor([0, 1]), config, generators(0, 2), start, history)
    assert torch.equal(drawn[~holes], known[~holes])
    assert int(drawn.max()) < SHAPE.codebook_size
    # The first sample's slots are all unknown positions (the second has fewer and ignores its surplus)
    for tokens, positions in spy.asked:
        assert (tokens[0, positions[0]] == SHAPE.mask_id).all()
    assert [int((grids == SHAPE.mask_id).sum()) for grids in history] == [5, 4, 0]
    assert torch.equal(history[-1], drawn)
    for earlier, later in pairwise(history):
        written = earlier != SHAPE.mask_id
        assert torch.equal(earlier[written], later[written])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("steps", [1, 2, 16, 100])
def test_any_number_of_steps(model: MaskGIT, order: str, steps: int) -> None:
    spy = Spy(model)
    config = SamplingConfig(temperature=1.0, steps=steps, order=order, guidance=0.0)
    drawn = sample(spy, torch.tensor([0]), config, generators(0, 1))
    assert int(drawn.max()) < SHAPE.codebook_size
    assert len(spy.asked) == min(steps, 16)


def test_linear_guidance_ramps_from_nothing() -> None:
    config = SamplingConfig(temperature=1.0, guidance=3.0, guidance_schedule="linear")
    assert [config.guidance_at(i, 4) for i in range(4)] == [0.0, 1.0, 2.0, 3.0]
    assert SamplingConfig(temperature=1.0, guidance=3.0).guidance_at(0, 4) == 3.0


def test_guidance_mixes_two_passes(model: MaskGIT) -> None:
    tokens, labels = torch.full((1, 16), SHAPE.mask_id), torch.tensor([1])
    positions = torch.tensor([[2, 9]])
    mixed = guided_logits(model, tokens, labels, positions, torch.tensor([1.5])).detach().numpy()
    plain = plain_logits(model, tokens[0].tolist(), 1, 1.5)
    np.testing.assert_allclose(mixed[0, :, :11], plain[[2, 9]], rtol=1e-4, atol=1e-4)


LOGITS = torch.tensor([[[2.0, 0.0, 1.0, -1.0]]])


def test_temperature_divides_and_upstreams_convention_multiplies() -> None:
    divided = probabilities(LOGITS, SamplingConfig(temperature=0.5))
    torch.testing.assert_close(divided, (2 * LOGITS).softmax(-1))
    upstream = SamplingConfig(temperature=0.5, temperature_convention="multiply")
    torch.testing.assert_close(probabilities(LOGITS, upstream), (0.5 * LOGITS).softmax(-1))


def test_top_k_and_top_p() -> None:
    p = LOGITS.softmax(-1)[0, 0].tolist()
    assert p == pytest.approx([0.6439, 0.0871, 0.2369, 0.0321], abs=1e-4)
    both = [p[0] / (p[0] + p[2]), 0.0, p[2] / (p[0] + p[2]), 0.0]
    assert probabilities(LOGITS, SamplingConfig(temperature=1.0, top_k=2))[0, 0].tolist() == pytest.approx(
        both
    )
    # 0.64 alone is not yet 0.7: the second likeliest is kept too
    assert probabilities(LOGITS, SamplingConfig(temperature=1.0, top_p=0.7))[0, 0].tolist() == pytest.approx(
        both
    )
    assert probabilities(LOGITS, SamplingConfig(temperature=1.0, top_p=0.6))[0, 0].tolist() == [
        1.0,
        0.0,
        0.0,
        0.0,
    ]


def test_draws_follow_the_probabilities() -> None:
    p = torch.tensor([0.5, 0.0, 0.3, 0.2]).expand(1, 20_000, 4)
    uniforms = torch.rand((1, 20_000), generator=torch.Generator().manual_seed(0))
    shares = torch.bincount(invert_cumulative(p, uniforms)[0], minlength=4) / 20_000
    assert shares.tolist() == pytest.approx([0.5, 0.0, 0.3, 0.2], abs=0.015)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, r"steps\s+Input should be greater than 0"),
        ({"temperature": 0.0}, r"temperature\s+Input should be greater than 0"),
        ({"guidance": -1.0}, r"guidance\s+Input should be greater than or equal to 0"),
        ({"top_p": 0.0}, r"top_p\s+Input should be greater than 0"),
        ({"order": "hilbert"}, r"order\s+Input should be 'halton', 'random' or 'confidence'"),
        ({"temperature_convention": "add"}, r"temperature_convention\s+Input should be 'divide' or"),
        ({"top_q": 1.0}, r"top_q\s+Extra inputs are not permitted"),
    ],
)
def test_bad_settings_are_named(wrong: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SamplingConfig(**wrong)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("schedule", ["constant", "linear"])
@pytest.mark.parametrize("holes", [False, True], ids=["whole grids", "grids with holes"])
def test_a_grid_does_not_depend_on_how_batches_are_cut(
    model: MaskGIT, order: str, schedule: str, holes: bool
) -> None:
    count = 6
    labels = torch.arange(count) % 3
    known = torch.full((count, 4, 4), SHAPE.mask_id)
    if holes:
        # From 1 to 6 unknown positions, fewer than the steps or more
        given = torch.randint(0, 11, (count, 16), generator=torch.Generator().manual_seed(2))
        unknown = torch.arange(16)[None] <= torch.arange(count)[:, None]
        known = given.masked_fill(unknown, SHAPE.mask_id).view(count, 4, 4)
    config = SamplingConfig(temperature=1.0, steps=4, order=order, guidance=1.5, guidance_schedule=schedule)

    def draw(cuts: list[list[int]]) -> dict[int, list[int]]:
        found = {}
        for cut in cuts:
            own = [image_generator(5, number) for number in cut]
            for number, grid in zip(cut, sample(model, labels[cut], config, own, known[cut]), strict=True):
                found[number] = grid.flatten().tolist()
        return found

    whole = draw([[0, 1, 2, 3, 4, 5]])
    for cuts in ([[0, 1, 2, 3], [4, 5]], [[5, 0], [3], [4, 1, 2]], [[i] for i in range(count)]):
        assert draw(cuts) == whole
    if not holes:
        assert len({tuple(grid) for grid in whole.values()}) == count


def test_each_image_needs_its_generator(model: MaskGIT) -> None:
    with pytest.raises(ValueError, match="1 generators for 2 labels"):
        sample(model, torch.tensor([0, 1]), SamplingConfig(), generators(0, 1))
