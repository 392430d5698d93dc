"""The loss, the stages of a training and what held-out tokens say about it."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from metaldefect.errors import UserError
from metaldefect.maskgit import lightning_module
from metaldefect.maskgit.evaluation import held_out_cross_entropy, unigram_losses
from metaldefect.maskgit.lightning_module import MaskGITLightning
from metaldefect.maskgit.loss import masked_cross_entropy
from metaldefect.maskgit.model import MaskGIT
from metaldefect.maskgit.soft_targets import soft_targets
from metaldefect.maskgit.training import train
from metaldefect.maskgit.training_config import MaskGITTrainingConfig, Schedule
from metaldefect.maskgit.training_masks import defect_cells, training_mask
from metaldefect.training.data import SampledBatches
from metaldefect.training.trainer import fit
from tests.tiny_models import TINY, randomised


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


def test_training_masks_hide_something_and_rectangles_are_solid() -> None:
    torch.manual_seed(0)
    assert training_mask(500, 8, 0.0).any(dim=1).all()
    for mask in training_mask(50, 8, 1.0).view(-1, 8, 8).numpy():
        rows, columns = np.where(mask)
        assert mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
        assert mask.sum() < 64


def test_defects_are_hidden_whole_one_or_all_with_or_without_the_cells_around() -> None:
    torch.manual_seed(0)
    defects = torch.zeros(200, 8, 8, dtype=torch.bool)
    defects[:, 1, 1] = True  # one defect of a cell
    defects[:, 4:6, 5] = True  # another one of two
    defects[150:] = False  # of these images no defect is known
    found = training_mask(200, 8, 0.0, defects, 1.0).view(-1, 8, 8)
    # One alone, the other alone, both; and with the cells around 9, 12 and 21
    assert {int(mask.sum()) for mask in found[:150]} == {1, 2, 3, 9, 12, 21}
    assert all((mask & known).any() for mask, known in zip(found[:150], defects[:150], strict=True))
    assert len({int(mask.sum()) for mask in found[150:]}) > 15  # scattered, at any ratio
    torch.manual_seed(0)
    half = training_mask(200, 8, 0.0, defects, 0.5).view(-1, 8, 8)[:150]
    whole = sum(int(mask.sum()) in {1, 2, 3, 9, 12, 21} and bool(mask[1, 1] | mask[4, 5]) for mask in half)
    assert 60 < whole < 110


def test_cells_of_defects_come_from_the_mask_else_from_the_boxes() -> None:
    mask = np.zeros((200, 200), np.uint8)
    mask[60:65, 10:101] = 255  # 12.5 pixels per cell: row 4 and 5, columns 0 to 8
    expected = np.zeros((16, 16), bool)
    expected[4:6, 0:9] = True
    boxes = '[{"label": "crazing", "xmin": 30.0, "ymin": 100.0, "xmax": 75.0, "ymax": 100.0}]'
    assert np.array_equal(defect_cells(mask, boxes, 200, 16), expected)
    expected = np.zeros((16, 16), bool)
    expected[8, 2:6] = True  # a box without height still lies in a row of cells
    assert np.array_equal(defect_cells(None, boxes, 200, 16), expected)
    assert not defect_cells(None, "[]", 200, 16).any()


def test_a_training_hides_the_known_defects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of images whose only defect is known, every step hides just that cell: so only its token is learnt."""
    seen = []

    def spy(*arguments: Any, **settings: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        seen.append(arguments[3])
        return masked_cross_entropy(*arguments, **settings)

    monkeypatch.setattr(lightning_module, "masked_cross_entropy", spy)
    defects = torch.zeros(6, 4, 4, dtype=torch.bool)
    defects[:, 2, 3] = True
    config = MaskGITTrainingConfig(steps=2, warmup_steps=1, hidden_defect_share=1.0, rectangle_share=0.0)
    schedule = Schedule(unconditional_steps=0, batch_size=3, checkpoint_steps=2, seed=0)
    tokens, labels = torch.randint(0, 11, (6, 4, 4)), torch.randint(0, 3, (6,))
    train(MaskGIT(TINY), config, tokens, labels, schedule, None, defects=defects)
    assert len(seen) == 2
    assert all(mask.view(-1, 4, 4)[:, 2, 3].all() for mask in seen)


def test_a_resumed_training_ends_with_the_same_weights(tmp_path) -> None:
    torch.manual_seed(0)
    data = TensorDataset(torch.randint(0, 11, (20, 4, 4)), torch.randint(0, 3, (20,)))

    def trained(steps: int, directory) -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        model = MaskGIT(TINY)
        module = MaskGITLightning(model, MaskGITTrainingConfig(steps=12, warmup_steps=2))
        fit(
            module,
            SampledBatches(data, 4, 3, [1.0] * 20),
            steps=steps,
            epoch_steps=4,
            seed=3,
            checkpoint_directory=directory,
        )
        return module.state_dict()

    straight = trained(12, tmp_path / "a")
    for steps in (4, 8):
        trained(steps, tmp_path / "b")
    resumed = trained(12, tmp_path / "b")
    assert [key for key, value in straight.items() if not torch.equal(value, resumed[key])] == []


def two_stages(directory, data, until: int | None = None) -> tuple[dict[str, torch.Tensor], list]:
    """Train 4 steps without labels and 8 with them; `until` kills it at that step of the second stage."""
    torch.manual_seed(1)
    model = MaskGIT(TINY)
    config = MaskGITTrainingConfig(steps=12, warmup_steps=2, soft_weight=0.1)
    step = MaskGITLightning.training_step
    calls = 0

    def stops(module, batch, index):
        nonlocal calls
        calls += module.config.conditional
        if calls == until:
            raise KeyboardInterrupt
        return step(module, batch, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MaskGITLightning, "training_step", stops)
        try:
            history = train(
                model,
                config,
                *data,
                Schedule(unconditional_steps=4, batch_size=4, checkpoint_steps=4, seed=3, weights=[1.0] * 20),
                directory,
                soft_targets(torch.randn(11, 3, generator=torch.Generator().manual_seed(0)), 2, 1.0),
            )
        except (KeyboardInterrupt, SystemExit):
            return {}, []
    return model.state_dict(), history


def test_a_training_of_two_stages_resumes_to_the_same_weights_and_records(tmp_path) -> None:
    torch.manual_seed(0)
    data = torch.randint(0, 11, (20, 4, 4)), torch.randint(0, 3, (20,))
    straight, history = two_stages(tmp_path / "a", data)
    assert [row["step"] for row in history] == [4.0, 8.0, 12.0]
    assert two_stages(tmp_path / "b", data, until=6) == ({}, [])
    resumed, rewritten = two_stages(tmp_path / "b", data)
    assert rewritten == history
    assert [key for key, value in straight.items() if not torch.equal(value, resumed[key])] == []


def test_the_first_stage_learns_nothing_about_classes() -> None:
    torch.manual_seed(0)
    tokens, labels = torch.randint(0, 11, (20, 4, 4)), torch.randint(0, 3, (20,))
    model = MaskGIT(TINY)
    before = model.cls_emb.weight.detach().clone()
    module = MaskGITLightning(model, MaskGITTrainingConfig(steps=4, warmup_steps=1, conditional=False))
    data = TensorDataset(tokens, labels)
    fit(module, SampledBatches(data, 4, 0), steps=4, epoch_steps=4, seed=0, checkpoint_directory=None)
    assert torch.equal(model.cls_emb.weight[:3], before[:3])
    assert not torch.equal(model.cls_emb.weight[3], before[3])


def test_a_first_stage_that_leaves_no_steps_is_an_error() -> None:
    schedule = Schedule(unconditional_steps=12, batch_size=4, checkpoint_steps=4, seed=0, weights=None)
    with pytest.raises(UserError, match="unconditional_steps = 12 leaves nothing of 12 steps"):
        train(
            MaskGIT(TINY),
            MaskGITTrainingConfig(steps=12),
            torch.zeros(2, 4, 4),
            torch.zeros(2),
            schedule,
            None,
        )


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
        at_90 = float(found["per_sample_at_90"][name].mean())
        assert at_90 == pytest.approx(found["per_ratio"]["0.9"][name], rel=1e-5)
    assert len({round(found[name], 6) for name in ("true", "wrong", "null")}) == 3
