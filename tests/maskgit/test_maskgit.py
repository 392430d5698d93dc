"""MaskGIT is Halton-MaskGIT by shape and name; its order, schedule and sampler are the published ones."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from metaldefect.errors import UserError
from metaldefect.maskgit.config import named_config
from metaldefect.maskgit.model import Attention, Block, MaskGIT, Mixing
from metaldefect.maskgit.sampler import halton_sample
from metaldefect.maskgit.sampling_config import SamplingConfig
from metaldefect.maskgit.schedule import arccos_mask_ratio, cumulative_counts, halton_order
from metaldefect.random_numbers import image_generator, uniforms
from tests.tiny_models import TINY, randomised


@pytest.mark.parametrize(
    ("size", "heads", "classes", "parameters"),
    [
        ("tiny", 6, 1000, 23_031_425),
        ("small", 6, 1000, 69_344_769),
        ("small", 8, 6, 68_884_993),
        ("base", 12, 1000, 142_224_641),
    ],
)
def test_parameter_counts(size: str, heads: int, classes: int, parameters: int) -> None:
    with torch.device("meta"):
        model = MaskGIT(named_config(size, classes=classes, codebook_size=16384, grid=16, heads=heads))
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_state_dict_keys_of_the_small_model() -> None:
    with torch.device("meta"):
        state = MaskGIT(
            named_config("small", classes=1000, codebook_size=16384, grid=16, heads=6)
        ).state_dict()
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    assert shapes["cls_emb.weight"] == (1001, 512)
    assert shapes["tok_emb.weight"] == shapes["head.weight"] == (16385, 512)
    assert shapes["head.bias"] == (16385,)
    assert shapes["pos_emb.weight"] == (256, 512)
    assert shapes["reg_tokens.weight"] == (1, 512)
    assert shapes["last_norm.norm_final.bias"] == (512,)
    assert shapes["last_norm.mlp.1.weight"] == (1024, 512)
    layer = {k.removeprefix("transformer.layers.11."): s for k, s in shapes.items() if ".layers.11." in k}
    assert layer == {
        "mlp.1.weight": (3072, 512),
        "mlp.1.bias": (3072,),
        "ln1.weight": (512,),
        "ln2.weight": (512,),
        "attn.wq.weight": (510, 512),
        "attn.wk.weight": (510, 512),
        "attn.wv.weight": (510, 512),
        "attn.wo.weight": (512, 510),
        "ff.w1.weight": (1536, 512),
        "ff.w2.weight": (512, 1536),
        "ff.w3.weight": (1536, 512),
    }


def test_unknown_size_is_an_error() -> None:
    with pytest.raises(UserError, match=r"unknown MaskGIT size 'smal'.*base"):
        named_config("smal", classes=6, codebook_size=16, grid=4)


def test_halton_order_begins_as_published_and_visits_all_once() -> None:
    order = halton_order(16)
    first = [
        (8, 5),
        (4, 10),
        (12, 1),
        (2, 7),
        (10, 12),
        (6, 3),
        (14, 8),
        (1, 14),
        (9, 0),
        (5, 5),
        (13, 11),
        (3, 2),
    ]
    assert [divmod(p, 16) for p in order[:12]] == first
    assert sorted(order) == list(range(256))


def test_cumulative_schedule_is_the_published_one() -> None:
    assert cumulative_counts(256, 32) == [
        5, 10, 15, 20, 25, 30, 35, 41, 46, 51, 57, 62, 68, 73, 79, 85, 91, 97, 103, 110, 116, 123, 130,
        138, 146, 154, 163, 173, 184, 198, 215, 256,
    ]  # fmt: skip
    assert cumulative_counts(3, 3) == [1, 2, 3]
    assert cumulative_counts(5, 1) == [5]
    with pytest.raises(ValueError, match="steps = 0"):
        cumulative_counts(5, 0)


def test_arccos_ratio() -> None:
    assert arccos_mask_ratio(torch.tensor([0.0, 0.5, 1.0])).tolist() == pytest.approx(
        [1.0, 2 / 3, 0.0], abs=1e-6
    )
    torch.manual_seed(0)
    assert float(arccos_mask_ratio(torch.rand(100_000)).mean()) == pytest.approx(2 / math.pi, abs=0.003)


def test_attention_normalises_before_the_split_into_heads() -> None:
    torch.manual_seed(0)
    attention = Attention(TINY)
    x = torch.randn(1, 5, 32)
    q, k, v = attention.wq(x)[0], attention.wk(x)[0], attention.wv(x)[0]
    q = q / (q.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    k = k / (k.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    heads = []
    for i in range(2):
        part = slice(16 * i, 16 * (i + 1))
        weights = torch.softmax(q[:, part] @ k[:, part].T / 4.0, dim=-1)
        heads.append(weights @ v[:, part])
    torch.testing.assert_close(attention(x)[0], attention.wo(torch.cat(heads, dim=1)), atol=1e-5, rtol=1e-5)


def test_mixing_against_loops_and_silent_at_the_start() -> None:
    torch.manual_seed(0)
    layer = Mixing(TINY.replace(mixing=3))
    x = torch.randn(2, 17, 32)
    torch.testing.assert_close(layer(x), x)
    layer.weight.data.normal_()
    expected = x.clone()
    for row in range(4):
        for column in range(4):
            for i in range(-1, 2):
                for j in range(-1, 2):
                    if 0 <= row + i < 4 and 0 <= column + j < 4:
                        weight = layer.weight[:, 0, 1 + i, 1 + j]
                        expected[:, 4 * row + column] += weight * x[:, 4 * (row + i) + column + j]
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_dropout_falls_on_both_branches_and_never_on_what_passes_them() -> None:
    block = Block(TINY.replace(dropout=0.5))
    for parameter in block.parameters():
        parameter.data.normal_(std=0.3)
    x, condition = torch.randn(2, 17, 32), torch.randn(2, 32)
    drops = []
    block.dropout.register_forward_hook(lambda _module, given, made: drops.append((made == 0).float().mean()))
    block.train()(x, condition)
    assert [float(share) for share in drops] == pytest.approx([0.5, 0.5], abs=0.1)
    block.dropout.p = 1.0
    assert torch.equal(block(x, condition), x)
    assert not torch.equal(block.eval()(x, condition), x)


def test_positions_select_rows_of_the_full_logits() -> None:
    model = randomised(TINY)
    tokens = torch.randint(0, 12, (2, 16))
    labels = torch.tensor([0, 3])
    positions = torch.tensor([[3, 0], [15, 7]])
    full = model(tokens, labels)
    torch.testing.assert_close(
        model(tokens, labels, positions), torch.stack([full[0, [3, 0]], full[1, [15, 7]]])
    )


def test_summed_class_embedding_needs_no_modulation() -> None:
    config = TINY.replace(conditioning="sum")
    model = randomised(config)
    assert not [key for key in model.state_dict() if "mlp" in key or "identity" in key]
    tokens = torch.randint(0, 12, (1, 16))
    assert not torch.equal(model(tokens, torch.tensor([0])), model(tokens, torch.tensor([1])))
    with pytest.raises(ValidationError, match="Input should be 'adaln' or 'sum'"):
        TINY.replace(conditioning="film")


def generators(seed: int, count: int) -> list[torch.Generator]:
    return [image_generator(seed, number) for number in range(count)]


def slow_halton(model: MaskGIT, label: int, steps: int, guidance: float, shift: int, uniforms: np.ndarray):
    """The published algorithm in plain Python: all-position logits, two passes, one position at a time."""
    shape = model.config
    size = shape.grid**2
    base = halton_order(shape.grid)
    order = [base[(i + shift) % size] for i in range(size)]
    tokens = torch.full((1, size), shape.mask_id)
    done = 0
    for step in range(steps):
        until = max(step + 1, int(size * (1 - math.acos((step + 1) / steps) / (math.pi / 2))))
        with torch.no_grad():
            conditional = model(tokens, torch.tensor([label]))[0].numpy().astype(np.float64)
            unconditional = model(tokens, torch.tensor([shape.null_label]))[0].numpy().astype(np.float64)
        logits = (1 + guidance) * conditional - guidance * unconditional
        for position in order[done:until]:
            p = np.exp(logits[position, : shape.codebook_size] - logits[position].max())
            p /= p.sum()
            drawn, total = 0, p[0]
            while total <= uniforms[position]:
                drawn += 1
                total += p[drawn]
            tokens[0, position] = drawn
        done = until
    return tokens.view(shape.grid, shape.grid)


@pytest.mark.parametrize("guidance", [0.0, 1.5])
def test_sampler_gives_the_tokens_of_the_plain_algorithm(guidance: float) -> None:
    model = randomised(TINY)
    labels = torch.tensor([0, 2, 1])
    config = SamplingConfig(temperature=1.0, steps=6, guidance=guidance)
    drawn = halton_sample(model, labels, config, generators(5, 3))
    again = generators(5, 3)
    shifts = [torch.randint(0, 16, (1,), generator=one) for one in again]
    chances = uniforms(again, 16)
    # The sampler draws a position's uniform by its place, not by its turn
    for i, label in enumerate(labels.tolist()):
        plain = slow_halton(model, label, 6, guidance, int(shifts[i]), chances[i].numpy())
        assert torch.equal(drawn[i], plain)


def test_known_tokens_are_never_rewritten_and_holes_are_filled() -> None:
    model = randomised(TINY)
    known = torch.randint(0, 11, (2, 4, 4))
    holes = torch.zeros(2, 4, 4, dtype=torch.bool)
    holes[0, 1:3, 1:3] = True
    holes[1, 0, 0] = True
    start = known.masked_fill(holes, TINY.mask_id)
    drawn = halton_sample(model, torch.tensor([0, 1]), SamplingConfig(steps=3), generators(0, 2), known=start)
    assert torch.equal(drawn[~holes], known[~holes])
    assert int(drawn.max()) < TINY.codebook_size


def test_same_seed_same_tokens_and_classes_differ() -> None:
    model = randomised(TINY)

    def draw(label: int, seed: int) -> torch.Tensor:
        return halton_sample(model, torch.full((4,), label), SamplingConfig(steps=4), generators(seed, 4))

    assert torch.equal(draw(0, 1), draw(0, 1))
    assert not torch.equal(draw(0, 1), draw(0, 2))
    assert not torch.equal(draw(0, 1), draw(1, 1))


def test_bad_sampler_input() -> None:
    model = randomised(TINY)
    own = generators(0, 1)
    with pytest.raises(ValueError, match=r"labels \[3\]: expected numbers from 0 to 2"):
        halton_sample(model, torch.tensor([3]), SamplingConfig(), own)
    with pytest.raises(ValueError, match=r"shape \[1, 3, 3\], expected \[1, 4, 4\]"):
        halton_sample(model, torch.tensor([0]), SamplingConfig(), own, torch.zeros(1, 3, 3).long())
    with pytest.raises(ValueError, match=r"must lie in \[0, 11\]"):
        halton_sample(model, torch.tensor([0]), SamplingConfig(), own, torch.full((1, 4, 4), 12))
    with pytest.raises(ValidationError, match="temperature"):
        SamplingConfig(temperature=0)
