"""Base weights: photographs are held out whole, and a leg writes weights that load, with a card."""

import itertools
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from metaldefect.artifacts import read_json
from metaldefect.images import write_png
from metaldefect.ingest.natural import natural_photographs
from metaldefect.maskgit import pretrain as maskgit_pretrain
from metaldefect.maskgit.checkpoints import load_maskgit
from metaldefect.maskgit.training_config import MaskGITPretrainSettings
from metaldefect.procedural.stream import LABELS
from metaldefect.tokenizer import pretrain as tokenizer_pretrain
from metaldefect.tokenizer.checkpoints import load_strict, read_weights
from metaldefect.tokenizer.config import named_config
from metaldefect.tokenizer.model import VQModel
from metaldefect.tokenizer.training_config import PretrainSettings
from metaldefect.training.data import Prefetcher

A_STEP = 1 / 60  # minutes on the clock of `small`, where each step takes a second


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("natural")
    rng = np.random.default_rng(0)
    for number in range(4):
        write_png(folder / f"{number}.png", rng.integers(0, 256, (80, 80, 3), dtype=np.uint8))
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_pretrain, "START_IMAGES", 20)
    monkeypatch.setattr(tokenizer_pretrain, "HELD_OUT_METAL", 4)
    monkeypatch.setattr(maskgit_pretrain, "HELD_OUT_IMAGES", 7)
    seconds = itertools.count()
    monkeypatch.setattr("metaldefect.training.callbacks.computing_time", lambda: next(seconds))


def test_all_crops_of_a_photograph_are_on_one_side(photographs: Path) -> None:
    training, held_out = tokenizer_pretrain.split_photographs(natural_photographs(photographs, 64, None))
    assert training
    assert held_out
    assert not {one.photograph for one in training} & {one.photograph for one in held_out}


def test_a_leg_of_the_tokenizer_writes_weights_and_their_curve_and_another_goes_on(
    photographs: Path, small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = PretrainSettings(
        tokenizer="vq16_tiny", image_size=64, batch_size=2, checkpoint_steps=1, discriminator_start=0
    )
    output = tmp_path / "base.safetensors"
    for minutes in (A_STEP, 3 * A_STEP):
        tokenizer_pretrain.pretrain(settings, minutes, photographs, None, tmp_path / "state", output)
    assert "going on from step" in capsys.readouterr().out
    model = VQModel(named_config("vq16_tiny"))
    load_strict(model, read_weights(output, output.with_suffix(".json")), "base")
    card = read_json(output.with_suffix(".json"))
    assert [set(row) >= {"metal", "natural", "images_seen"} for row in card["curve"]] == [True, True]
    assert [row["images_seen"] for row in card["curve"]] == [2, 6]
    assert card["images_seen"] == 6


def test_a_leg_of_maskgit_writes_a_model_of_all_labels(small: None, tmp_path: Path) -> None:
    settings = MaskGITPretrainSettings(size="cpu_tiny", batch_size=2, checkpoint_steps=1)
    maskgit_pretrain.pretrain(settings, A_STEP, None, tmp_path / "state", tmp_path / "base")
    model = load_maskgit(tmp_path / "base")
    assert model.config.classes == len(LABELS)
    card = read_json(tmp_path / "base/config.json")
    assert card["classes"] == list(LABELS)
    assert card["curve"][-1]["ce_true"] > 0
    assert card["images_seen"] == 2
    first = load_maskgit(tmp_path / "base").state_dict()
    # Another training starts from these weights, and counts their images
    settings = settings.replace(learning_rate=1e-12, seed=1)
    longer = str(tmp_path / "base")
    maskgit_pretrain.pretrain(settings, A_STEP, longer, tmp_path / "other", tmp_path / "longer")
    second = load_maskgit(tmp_path / "longer").state_dict()
    assert all(torch.allclose(first[name], second[name], atol=1e-3) for name in first)
    after = read_json(tmp_path / "longer/config.json")
    assert [row["images_seen"] for row in after["curve"]] == [2, 4]
    assert after["images_seen"] == 4


def test_a_number_of_images_makes_a_whole_training_with_its_curve(
    photographs: Path, small: None, tmp_path: Path
) -> None:
    settings = PretrainSettings(
        tokenizer="vq16_tiny", image_size=64, batch_size=2, checkpoint_steps=5, images=19
    )
    assert settings.steps == 10
    assert tokenizer_pretrain.training_config(settings).schedule == "cosine"
    output = tmp_path / "base.safetensors"
    tokenizer_pretrain.pretrain(settings, None, photographs, None, tmp_path / "state", output)
    card = read_json(output.with_suffix(".json"))
    assert [row["images_seen"] for row in card["curve"]] == [0, 4, 8, 12, 16, 20]
    assert card["command"] == (
        "metaldefect pretrain tokenizer --tokenizer vq16_tiny --image-size 64 --batch-size 2 --images 19"
        " --checkpoint-steps 5"
    )
    maskgit = MaskGITPretrainSettings(
        size="cpu_tiny", image_size=64, batch_size=16, symmetries=8, checkpoint_steps=5, images=160
    )
    maskgit_pretrain.pretrain(maskgit, None, None, tmp_path / "other", tmp_path / "maskgit")
    card = read_json(tmp_path / "maskgit/config.json")
    assert [row["images_seen"] for row in card["curve"]] == [0, 32, 64, 96, 128, 160]
    # Untrained, MaskGIT cannot know more than that there are so many codes
    assert card["curve"][0]["ce_true"] > card["curve"][-1]["ce_true"]


def test_symmetries_of_an_image_share_a_batch_and_a_label() -> None:
    class Corner(torch.nn.Module):
        """Takes the pixels of the corners for tokens."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def encode(self, images: torch.Tensor) -> torch.Tensor:
            return images[:, 0, ::31, ::31].add(1).mul(127.5).round().long()

    batches = maskgit_pretrain.DrawnTokens(Corner(), 32, 16, seed=0, symmetries=8)  # type: ignore[arg-type]
    tokens, labels = batches.batch(0)
    assert tokens.shape == (16, 2, 2)
    for image in (0, 1):
        views = {tuple(grid.flatten().tolist()) for grid in tokens[image::2]}
        assert len(views) == 8
        assert len({tuple(sorted(view)) for view in views}) == 1
        assert len(set(labels[image::2].tolist())) == 1


def test_processes_draw_the_batches_that_threads_draw(photographs: Path) -> None:
    training, _ = tokenizer_pretrain.split_photographs(natural_photographs(photographs, 32, None))
    batches = tokenizer_pretrain.DrawnImages(training, 32, 2, seed=0)
    with Prefetcher(batches, cores=2) as prefetcher:
        assert isinstance(prefetcher.pool, ProcessPoolExecutor)
        drawn = [batch for _ in range(2) for batch in prefetcher.steps(3, 3)]
    assert [batch.tolist() for batch in drawn] == [batches.batch(step).tolist() for step in (3, 4, 5)] * 2


def test_a_killed_training_leaves_no_process_that_draws(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import time\n"
        "from metaldefect.tokenizer.pretrain import DrawnImages\n"
        "from metaldefect.training.data import Prefetcher\n"
        "if __name__ == '__main__':\n"
        "    with Prefetcher(DrawnImages([], 32, 2, seed=0), cores=2) as prefetcher:\n"
        "        next(iter(prefetcher.steps(0, 1000)))\n"
        "        print('drawn', flush=True)\n"
        "        time.sleep(600)\n"
    )
    root = Path(__file__).parents[2]
    training = subprocess.Popen(
        [sys.executable, script],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
    )
    assert training.stdout is not None
    assert training.stdout.readline() == b"drawn\n"
    children = psutil.Process(training.pid).children(recursive=True)
    assert len(children) >= 2
    training.kill()
    training.wait()  # not for the end of its output, which its processes hold open
    training.stdout.close()
    _, alive = psutil.wait_procs(children, timeout=60)
    for child in alive:
        child.kill()
    assert alive == []


def test_a_training_that_the_clock_ends_keeps_all_points_of_its_curve(
    photographs: Path, small: None, tmp_path: Path
) -> None:
    settings = PretrainSettings(
        tokenizer="vq16_tiny", image_size=64, batch_size=2, checkpoint_steps=1, images=10
    )
    output = tmp_path / "base.safetensors"
    tokenizer_pretrain.pretrain(settings, A_STEP, photographs, None, tmp_path / "state", output)
    seen = [row["images_seen"] for row in read_json(output.with_suffix(".json"))["curve"]]
    assert seen == [0, 2]
