"""MaskGIT is Halton-MaskGIT by shape and name; its order, schedule and sampler are the published ones."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset

from metaldefect.maskgit.checkpoints import load_maskgit, read_halton, save_maskgit, start_from_halton
from metaldefect.maskgit.config import MaskGITConfig, named_config
from metaldefect.maskgit.evaluation import held_out_cross_entropy, unigram_losses
from metaldefect.maskgit.lightning_module import MaskGITLightning, MaskGITTrainingConfig
from metaldefect.maskgit.loss import masked_cross_entropy
from metaldefect.maskgit.model import Attention, MaskGIT, sincos_positions, start_from_codebook
from metaldefect.maskgit.sampler import SamplingConfig, halton_sample
from metaldefect.maskgit.schedule import arccos_mask_ratio, cumulative_counts, halton_order
from metaldefect.maskgit.soft_targets import soft_targets
from metaldefect.maskgit.training import Schedule, Watch, train
from metaldefect.maskgit.training_masks import training_mask
from metaldefect.training import fit

TINY = MaskGITConfig(dim=32, depth=2, heads=2, classes=3, codebook_size=11, grid=4)


def randomised(config: MaskGITConfig, seed: int = 0) -> MaskGIT:
    """A model whose every weight matters (fresh ones are the identity: their gates are closed)."""
    torch.manual_seed(seed)
    model = MaskGIT(config)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
    return model.eval()


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
    with pytest.raises(ValueError, match=r"unknown MaskGIT size 'smal'.*base"):
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


def test_training_masks_hide_something_and_rectangles_are_solid() -> None:
    torch.manual_seed(0)
    assert training_mask(500, 8, 0.0).any(dim=1).all()
    for mask in training_mask(50, 8, 1.0).view(-1, 8, 8).numpy():
        rows, columns = np.where(mask)
        assert mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
        assert mask.sum() < 64


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


def test_positions_select_rows_of_the_full_logits() -> None:
    model = randomised(TINY)
    tokens = torch.randint(0, 12, (2, 16))
    labels = torch.tensor([0, 3])
    positions = torch.tensor([[3, 0], [15, 7]])
    full = model(tokens, labels)
    torch.testing.assert_close(
        model(tokens, labels, positions), torch.stack([full[0, [3, 0]], full[1, [15, 7]]])
    )


def test_masked_cross_entropy_against_numpy() -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(2, 4, 8), torch.nn.Linear(8, 5)
    tokens = torch.randint(0, 5, (2, 4))
    mask = torch.tensor([[True, False, False, True], [False, True, False, False]])
    loss, parts = masked_cross_entropy(hidden, head, tokens, mask, label_smoothing=0.1, unmasked_weight=0.5)
    logits = head(hidden).detach().numpy().astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    own = np.take_along_axis(log_p, tokens.numpy()[..., None], -1)[..., 0]
    smooth = -(0.9 * own + 0.1 * log_p.mean(-1))
    m = mask.numpy()
    assert float(loss.detach()) == pytest.approx(smooth[m].mean() - 0.5 * own[~m].mean(), rel=1e-5)
    assert float(parts["masked_ce"]) == pytest.approx(-own[m].mean(), rel=1e-5)


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
    config = SamplingConfig(steps=6, guidance=guidance)
    drawn = halton_sample(model, labels, config, torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    shifts = torch.randint(0, 16, (3, 1), generator=generator)
    uniforms = torch.rand((3, 16), generator=generator)
    # The sampler draws a position's uniform by its place, not by its turn
    for i, label in enumerate(labels.tolist()):
        plain = slow_halton(model, label, 6, guidance, int(shifts[i]), uniforms[i].numpy())
        assert torch.equal(drawn[i], plain)


def test_known_tokens_are_never_rewritten_and_holes_are_filled() -> None:
    model = randomised(TINY)
    known = torch.randint(0, 11, (2, 4, 4))
    holes = torch.zeros(2, 4, 4, dtype=torch.bool)
    holes[0, 1:3, 1:3] = True
    holes[1, 0, 0] = True
    start = known.masked_fill(holes, TINY.mask_id)
    drawn = halton_sample(
        model, torch.tensor([0, 1]), SamplingConfig(steps=3), torch.Generator().manual_seed(0), known=start
    )
    assert torch.equal(drawn[~holes], known[~holes])
    assert int(drawn.max()) < TINY.codebook_size


def test_same_seed_same_tokens_and_classes_differ() -> None:
    model = randomised(TINY)

    def draw(label: int, seed: int) -> torch.Tensor:
        return halton_sample(
            model, torch.full((4,), label), SamplingConfig(steps=4), torch.Generator().manual_seed(seed)
        )

    assert torch.equal(draw(0, 1), draw(0, 1))
    assert not torch.equal(draw(0, 1), draw(0, 2))
    assert not torch.equal(draw(0, 1), draw(1, 1))


def test_bad_sampler_input() -> None:
    model = randomised(TINY)
    generator = torch.Generator()
    with pytest.raises(ValueError, match=r"labels \[3\]: expected numbers from 0 to 2"):
        halton_sample(model, torch.tensor([3]), SamplingConfig(), generator)
    with pytest.raises(ValueError, match=r"shape \[1, 3, 3\], expected \[1, 4, 4\]"):
        halton_sample(model, torch.tensor([0]), SamplingConfig(), generator, torch.zeros(1, 3, 3).long())
    with pytest.raises(ValueError, match=r"must lie in \[0, 11\]"):
        halton_sample(model, torch.tensor([0]), SamplingConfig(), generator, torch.full((1, 4, 4), 12))
    with pytest.raises(ValueError, match="temperature"):
        SamplingConfig(temperature=0)


def test_halton_checkpoint_gives_its_body_and_new_classes_start_from_null(tmp_path) -> None:
    source = randomised(MaskGITConfig(dim=32, depth=2, heads=2, classes=1000, codebook_size=11, grid=4))
    path = tmp_path / "ImageNet_256_small.pth"
    state = {f"module._orig_mod.{key}": value for key, value in source.state_dict().items()}
    torch.save({"iter": 3, "global_epoch": 1, "model_state_dict": state, "optimizer_state_dict": {}}, path)
    model = MaskGIT(TINY)
    start_from_halton(model, read_halton(path), str(path))
    null = source.cls_emb.weight[1000]
    assert torch.equal(model.cls_emb.weight, null.expand(4, -1))
    assert torch.equal(model.transformer.layers[1].ff.w2.weight, source.transformer.layers[1].ff.w2.weight)
    assert model.head.weight is model.tok_emb.weight
    torch.testing.assert_close(
        model(torch.zeros(1, 16).long(), torch.tensor([3])),
        source(torch.zeros(1, 16).long(), torch.tensor([1000])),
    )


def test_halton_checkpoint_gives_the_rows_of_the_codes_that_are_used() -> None:
    source = randomised(MaskGITConfig(dim=32, depth=2, heads=2, classes=1000, codebook_size=16, grid=4))
    codes = torch.tensor([15, 0, 3, 4, 5, 6, 7, 8, 9, 10, 11])
    model = MaskGIT(TINY)
    start_from_halton(model, source.state_dict(), "a.pth", codes)
    assert torch.equal(model.tok_emb.weight[0], source.tok_emb.weight[15])
    assert torch.equal(model.tok_emb.weight[TINY.mask_id], source.tok_emb.weight[16])
    assert float(model.head.bias[1].detach()) == float(source.head.bias[0].detach())
    with pytest.raises(ValueError, match=r"a\.pth knows 16 codes, the vocabulary goes up to 16"):
        start_from_halton(model, source.state_dict(), "a.pth", codes + 1)


def test_save_and_load(tmp_path) -> None:
    model = randomised(TINY)
    save_maskgit(model, tmp_path, {"classes": ["a", "b", "c"]})
    loaded = load_maskgit(tmp_path)
    tokens, labels = torch.randint(0, 12, (1, 16)), torch.tensor([1])
    assert torch.equal(loaded(tokens, labels), model(tokens, labels))
    assert F.mse_loss(loaded.head.weight, loaded.tok_emb.weight) == 0


def test_a_resumed_training_ends_with_the_same_weights(tmp_path) -> None:
    torch.manual_seed(0)
    data = TensorDataset(torch.randint(0, 11, (20, 4, 4)), torch.randint(0, 3, (20,)))

    def trained(steps: int, directory) -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        model = MaskGIT(TINY)
        module = MaskGITLightning(model, MaskGITTrainingConfig(steps=12, warmup_steps=2))
        fit(
            module, data, steps=steps, batch_size=4, epoch_steps=4, seed=3, checkpoint_directory=directory,
            weights=[1.0] * 20,
        )  # fmt: skip
        return module.state_dict()

    straight = trained(12, tmp_path / "a")
    for steps in (4, 8):
        trained(steps, tmp_path / "b")
    resumed = trained(12, tmp_path / "b")
    assert [key for key, value in straight.items() if not torch.equal(value, resumed[key])] == []


def two_stages(directory, data, until: int | None = None) -> tuple[dict[str, torch.Tensor], list, list]:
    """Train 4 steps without labels and 8 with them; `until` kills it after that many epochs of 4 steps."""
    torch.manual_seed(1)
    model = MaskGIT(TINY)
    seen: list[int] = []

    def look(step: int, averaged: MaskGIT) -> None:
        assert not averaged.training
        seen.append(step)
        if len(seen) == until:
            raise KeyboardInterrupt

    try:
        _, watched = train(
            model,
            MaskGITTrainingConfig(steps=12, warmup_steps=2, soft_weight=0.1),
            *data,
            Schedule(4, batch_size=4, checkpoint_steps=4, seed=3, weights=[1.0] * 20),
            directory,
            soft_targets(torch.randn(11, 3, generator=torch.Generator().manual_seed(0)), 2, 1.0),
            Watch(data[0][:6].long(), data[1][:6], every=4, look=look),
        )
    except (KeyboardInterrupt, SystemExit):
        return {}, [], seen
    return model.state_dict(), watched, seen


def test_a_training_of_two_stages_resumes_to_the_same_weights_and_records(tmp_path) -> None:
    torch.manual_seed(0)
    data = torch.randint(0, 11, (20, 4, 4)), torch.randint(0, 3, (20,))
    straight, watched, seen = two_stages(tmp_path / "a", data)
    assert seen == [4, 8, 12]
    assert [row["step"] for row in watched] == [4.0, 8.0, 12.0]
    assert all({"ce_true", "ce_wrong", "ce_null", "top1", "top5", "ce_at_0.5"} <= set(row) for row in watched)
    two_stages(tmp_path / "b", data, until=2)
    resumed, rewatched, reseen = two_stages(tmp_path / "b", data)
    assert reseen == [8, 12]
    assert rewatched == watched
    assert [key for key, value in straight.items() if not torch.equal(value, resumed[key])] == []


def test_the_first_stage_learns_nothing_about_classes() -> None:
    torch.manual_seed(0)
    tokens, labels = torch.randint(0, 11, (20, 4, 4)), torch.randint(0, 3, (20,))
    model = MaskGIT(TINY)
    before = model.cls_emb.weight.detach().clone()
    module = MaskGITLightning(model, MaskGITTrainingConfig(steps=4, warmup_steps=1, conditional=False))
    data = TensorDataset(tokens, labels)
    fit(module, data, steps=4, batch_size=4, epoch_steps=4, seed=0, checkpoint_directory=None)
    assert torch.equal(model.cls_emb.weight[:3], before[:3])
    assert not torch.equal(model.cls_emb.weight[3], before[3])


def test_a_first_stage_that_leaves_no_steps_is_an_error() -> None:
    schedule = Schedule(12, batch_size=4, checkpoint_steps=4, seed=0, weights=None)
    with pytest.raises(ValueError, match="unconditional_steps = 12 leaves nothing of 12 steps"):
        train(
            MaskGIT(TINY),
            MaskGITTrainingConfig(steps=12),
            torch.zeros(2, 4, 4),
            torch.zeros(2),
            schedule,
            None,
        )


def test_summed_class_embedding_needs_no_modulation() -> None:
    config = MaskGITConfig(32, 2, 2, 3, 11, 4, conditioning="sum")
    model = randomised(config)
    assert not [key for key in model.state_dict() if "mlp" in key or "identity" in key]
    tokens = torch.randint(0, 12, (1, 16))
    assert not torch.equal(model(tokens, torch.tensor([0])), model(tokens, torch.tensor([1])))
    with pytest.raises(ValueError, match="conditioning = 'film': expected adaln or sum"):
        MaskGITConfig(32, 2, 2, 3, 11, 4, conditioning="film")


def test_unigram_losses_are_those_of_counted_frequencies() -> None:
    train, labels = np.array([[[0, 0, 1]], [[2, 2, 2]]]), np.array([0, 1])
    losses = unigram_losses(train, labels, np.array([[[0, 2]]]), np.array([0]), 3, 2)
    # One count is added to each code of each class: class 0 has 3, 2, 1 of 6; all together 4, 3, 5 of 12
    assert losses["class_unigram"].tolist() == pytest.approx([-(math.log(3 / 6) + math.log(1 / 6)) / 2])
    assert losses["unigram"].tolist() == pytest.approx([-(math.log(4 / 12) + math.log(5 / 12)) / 2])


def test_held_out_cross_entropy_agrees_with_the_mean_of_its_samples() -> None:
    model = randomised(TINY)
    tokens, labels = torch.randint(0, 11, (6, 4, 4)), torch.randint(0, 3, (6,))
    found = held_out_cross_entropy(model, tokens, labels, seed=0, batch_size=4)
    for name in ("true", "wrong", "null"):
        assert found[name] == pytest.approx(float(found["per_sample"][name].mean()), rel=1e-5)
    assert len({round(found[name], 6) for name in ("true", "wrong", "null")}) == 3


def test_codes_that_look_alike_start_with_embeddings_that_are_alike() -> None:
    torch.manual_seed(0)
    codebook = F.normalize(torch.randn(11, 8), dim=1)
    codebook[1] = F.normalize(codebook[0] + 0.1 * torch.randn(8), dim=0)
    model = MaskGIT(TINY)
    mask = model.tok_emb.weight[TINY.mask_id].clone()
    start_from_codebook(model, codebook, 0.5)
    near = F.cosine_similarity(model.tok_emb.weight[:1], model.tok_emb.weight[1:11])
    assert int(near.argmax()) == 0
    assert float(near[0]) > 0.9 > float(near[1:].max())
    assert torch.equal(model.tok_emb.weight[TINY.mask_id], mask)
    assert model.head.weight is model.tok_emb.weight
    with pytest.raises(ValueError, match="10 codes for a model of 11"):
        start_from_codebook(model, codebook[:10], 0.5)


def test_a_checkpoint_without_mixing_starts_one_with_it_unchanged() -> None:
    source = randomised(MaskGITConfig(dim=32, depth=2, heads=2, classes=1000, codebook_size=11, grid=4))
    model = MaskGIT(replace(TINY, mixing=3))
    start_from_halton(model, source.state_dict(), "a.pth")
    torch.testing.assert_close(
        model(torch.zeros(1, 16).long(), torch.tensor([3])),
        source(torch.zeros(1, 16).long(), torch.tensor([1000])),
    )
    with pytest.raises(ValueError, match="mixing = 4: must be 0 or odd"):
        replace(TINY, mixing=4)


def test_fresh_positions_know_their_neighbours() -> None:
    waves = sincos_positions(8, 32)
    assert waves.shape == (64, 32)
    likeness = (waves @ waves.T).view(8, 8, 8, 8)[4, 4]
    assert int(likeness.argmax()) == 4 * 8 + 4
    assert likeness[4, 5] > likeness[4, 7]
    assert likeness[5, 4] == pytest.approx(float(likeness[4, 5]))
    torch.testing.assert_close(MaskGIT(TINY).pos_emb.weight, 0.05 * sincos_positions(4, 32))
