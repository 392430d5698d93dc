"""Every training goes on where it was killed, to equal bits, and starts anew where its input changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from metaldefect.backbones import Backbone
from metaldefect.cli import app
from metaldefect.efficientad.distillation import distil
from metaldefect.efficientad.distillation_config import DistillationConfig
from metaldefect.efficientad.distillation_data import DistillationImages
from metaldefect.efficientad.teacher_targets import PatchFeatures
from metaldefect.efficientad.teacher_weights import save_teacher
from metaldefect.efficientad.torch_model import LAYERS, PatchDescriptionNetwork
from metaldefect.images import write_png
from metaldefect.ingest.natural import natural_photographs
from metaldefect.inspection.layout import write_scenes
from metaldefect.maskgit.lightning_module import MaskGITLightning
from metaldefect.maskgit.model import MaskGIT
from metaldefect.maskgit.pretrain import DrawnTokens
from metaldefect.maskgit.training import train
from metaldefect.maskgit.training_config import MaskGITTrainingConfig, Schedule
from metaldefect.tokenizer.config import VQConfig
from metaldefect.tokenizer.lightning_module import VQLightning
from metaldefect.tokenizer.model import VQModel
from metaldefect.tokenizer.pretrain import DrawnImages
from metaldefect.tokenizer.training_config import VQTrainingConfig
from metaldefect.training.callbacks import Checkpoint
from metaldefect.training.data import ImageFiles, SampledBatches
from metaldefect.training.resume import kept_folder, resume_key
from metaldefect.training.trainer import fit
from tests.slim_detector import SLIM
from tests.tiny_models import TINY

SETTINGS = Path(__file__).parents[2] / "conf/efficientad.yaml"
TINY_VQ = VQConfig(
    channels=32, multipliers=(1, 1), encoder_blocks=1, decoder_blocks=1, z_channels=32,
    codebook_size=16, stem=2,
)  # fmt: skip
VQ_TRAINING = VQTrainingConfig(
    steps=3, warmup_steps=1, perceptual="efficientnet_lite0", discriminator_channels=8
)
State = dict[str, torch.Tensor]


class Killed(BaseException):
    """Stands for the end of the process."""


def write_image(path: Path, seed: int, side: int, colour: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (side, side, 3) if colour else (side, side)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path)


def change_image(path: Path) -> None:
    with Image.open(path) as image:
        pixels = np.array(image)
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(path)


def change_weights(path: Path) -> None:
    state = load_file(path)
    next(tensor for name, tensor in sorted(state.items()) if name.endswith("bias")).flatten()[0] += 1e-3
    save_file(state, path)


def prepare_tokenizer(folder: Path) -> None:
    for number in range(4):
        write_image(folder / f"images/{number}.png", number, 32)
    torch.manual_seed(0)
    save_file(VQModel(TINY_VQ).state_dict(), folder / "base.safetensors")


def tokenizer(folder: Path, state: Path) -> State:
    torch.manual_seed(1)
    model = VQModel(TINY_VQ)
    model.load_state_dict(load_file(folder / "base.safetensors"))
    module = VQLightning(model, VQ_TRAINING)
    images = ImageFiles(sorted((folder / "images").iterdir()), 32)
    fit(module, SampledBatches(images, 2, 3), steps=3, epoch_steps=2, seed=3, checkpoint_directory=state)
    return module.state_dict()


def prepare_pretraining(folder: Path) -> None:
    for number in range(2):
        write_image(folder / f"natural/{number}.png", number, 40, colour=True)


def pretraining(folder: Path, state: Path) -> State:
    torch.manual_seed(0)
    module = VQLightning(VQModel(TINY_VQ), VQ_TRAINING)
    batches = DrawnImages(natural_photographs(folder / "natural", 32, None), 32, 2, seed=0)
    fit(module, batches, steps=3, epoch_steps=2, seed=0, checkpoint_directory=state)
    return module.state_dict()


def prepare_base_maskgit(folder: Path) -> None:
    torch.manual_seed(0)
    save_file(VQModel(TINY_VQ).state_dict(), folder / "tokenizer.safetensors")


def base_maskgit(folder: Path, state: Path) -> State:
    tokenizer = VQModel(TINY_VQ)
    tokenizer.load_state_dict(load_file(folder / "tokenizer.safetensors"))
    batches = DrawnTokens(tokenizer, 32, 4, seed=0)
    torch.manual_seed(0)
    shape = {"classes": 7, "codebook_size": TINY_VQ.codebook_size, "grid": TINY_VQ.grid(32)}
    model = MaskGIT(TINY.replace(**shape))
    module = MaskGITLightning(model, MaskGITTrainingConfig(steps=1, schedule="constant", warmup_steps=1))
    fit(module, batches, steps=3, epoch_steps=2, seed=0, checkpoint_directory=state)
    return module.state_dict()


def prepare_maskgit(folder: Path) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    np.save(folder / "tokens.npy", rng.integers(0, 11, (8, 4, 4)))
    torch.manual_seed(0)
    # Two of its tensors are one, which a file cannot hold
    weights = {name: tensor.clone() for name, tensor in MaskGIT(TINY).state_dict().items()}
    save_file(weights, folder / "base.safetensors")


def maskgit(folder: Path, state: Path) -> State:
    model = MaskGIT(TINY)
    model.load_state_dict(load_file(folder / "base.safetensors"))
    tokens, labels = torch.from_numpy(np.load(folder / "tokens.npy")), torch.arange(8) % 3
    schedule = Schedule(unconditional_steps=0, batch_size=4, checkpoint_steps=2, seed=3, weights=None)
    train(model, MaskGITTrainingConfig(steps=3, warmup_steps=1), tokens, labels, schedule, state)
    return model.state_dict()


def change_tokens(folder: Path) -> None:
    tokens = np.load(folder / "tokens.npy")
    tokens[0, 0, 0] = (tokens[0, 0, 0] + 1) % 11
    np.save(folder / "tokens.npy", tokens)


def prepare_detector(folder: Path) -> None:
    root = folder / "plates"
    names = [f"train/good/{number}.png" for number in range(3)]
    names += ["validation/good/0.png", "test/good/0.png", "test/stain/0.png"]
    for number, name in enumerate(names):
        write_image(root / name, number, 128)
    write_png(root / "ground_truth/stain/0_mask.png", np.full((128, 128), 255, np.uint8))
    write_scenes(root, {name: name for name in names})
    for number in range(2):
        write_image(folder / f"natural/{number}.png", number, 260, colour=True)
    torch.manual_seed(0)
    save_teacher(folder / "teacher.safetensors", PatchDescriptionNetwork("S"), {})
    content = yaml.safe_load(SETTINGS.read_text()) | {
        "teacher": str(folder / "teacher.safetensors"), "natural": str(folder / "natural"), "source": "real",
        "root": str(folder / "plates"), "steps": 3, "checkpoint_steps": 2, "image_size": 128,
        "penalty_images": 2, "accelerator": "cpu", "export": False,
    }  # fmt: skip
    (folder / "settings.yaml").write_text(yaml.safe_dump(content))


def detector(folder: Path, state: Path) -> State:
    output = state / "detector"
    arguments = ["train", "--config", str(folder / "settings.yaml"), "--output", str(output)]
    app(arguments, standalone_mode=False)
    return load_file(output / "model.safetensors")


def change_teacher(folder: Path) -> None:
    torch.manual_seed(5)
    save_teacher(folder / "teacher.safetensors", PatchDescriptionNetwork("S"), {})


def prepare_distillation(folder: Path) -> None:
    for kind in ("natural", "metal"):
        for number in range(2):
            write_image(folder / f"{kind}/{number}.png", number, 64, colour=kind == "natural")
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 8, stride=8), torch.nn.Conv2d(6, 10, 2, stride=2))
    save_file(network.state_dict(), folder / "backbone.safetensors")
    save_file(PatchDescriptionNetwork("S").state_dict(), folder / "base.safetensors")


def distillation(folder: Path, state: Path) -> State:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 8, stride=8), torch.nn.Conv2d(6, 10, 2, stride=2))
    network.load_state_dict(load_file(folder / "backbone.safetensors"))
    features = PatchFeatures(Backbone(network, ("0", "1"), (0.5,) * 3, (0.5,) * 3))
    base = PatchDescriptionNetwork("S")
    base.load_state_dict(load_file(folder / "base.safetensors"))
    natural, metal = (
        np.stack([np.asarray(Image.open(path)) for path in sorted((folder / kind).iterdir())])
        for kind in ("natural", "metal")
    )
    statistics = (torch.zeros(1, 384, 1, 1), torch.ones(1, 384, 1, 1))
    config = DistillationConfig(image_size=32, batch_size=2, steps=3, checkpoint_steps=2, warmup_steps=1)
    images = DistillationImages(natural, metal, range(2), range(2))
    return distil(images, features, config, state, (base, statistics)).teacher.state_dict()


@dataclass(frozen=True)
class Training:
    """A training of what lies in a folder, and changes to the folder by the name they are reported under."""

    prepare: Callable[[Path], None]
    run: Callable[[Path, Path], State]
    changes: dict[str, Callable[[Path], None]]


TRAININGS = {
    "tokenizer": Training(
        prepare_tokenizer,
        tokenizer,
        {
            "data": lambda folder: change_image(folder / "images/2.png"),
            "start_weights": lambda folder: change_weights(folder / "base.safetensors"),
        },
    ),
    "pretraining": Training(
        prepare_pretraining,
        pretraining,
        {"photographs": lambda folder: change_image(folder / "natural/1.png")},
    ),
    "base_maskgit": Training(
        prepare_base_maskgit,
        base_maskgit,
        {"tokenizer": lambda folder: change_weights(folder / "tokenizer.safetensors")},
    ),
    "maskgit": Training(
        prepare_maskgit,
        maskgit,
        {
            "data": change_tokens,
            "start_weights": lambda folder: change_weights(folder / "base.safetensors"),
        },
    ),
    "detector": Training(
        prepare_detector,
        detector,
        {
            "images": lambda folder: change_image(folder / "plates/train/good/0.png"),
            "natural_images": lambda folder: write_image(folder / "natural/1.png", 7, 260, colour=True),
            "teacher": change_teacher,
        },
    ),
    "distillation": Training(
        prepare_distillation,
        distillation,
        {
            "metal_images": lambda folder: change_image(folder / "metal/1.png"),
            "natural_images": lambda folder: change_image(folder / "natural/0.png"),
            "backbone": lambda folder: change_weights(folder / "backbone.safetensors"),
            "start_weights": lambda folder: change_weights(folder / "base.safetensors"),
        },
    ),
}
CHANGES = [(name, change) for name, training in TRAININGS.items() for change in training.changes]


def kill_after_a_checkpoint(training: Training, folder: Path, state: Path) -> None:
    original = Checkpoint.on_train_epoch_end

    def write_and_die(self: Checkpoint, *arguments: object) -> None:
        original(self, *arguments)  # type: ignore[arg-type]
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, "on_train_epoch_end", write_and_die)
        with pytest.raises(Killed):
            training.run(folder, state)


def different(one: State, other: State) -> list[str]:
    return [name for name, tensor in one.items() if not torch.equal(tensor, other[name])]


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALDEFECT_PRECISION", "float32")
    monkeypatch.setattr("metaldefect.efficientad.distillation.STATISTICS_BATCHES", 2)
    monkeypatch.setattr("metaldefect.commands.train.save_figures", lambda *_: None)  # drawing is no training
    monkeypatch.setitem(LAYERS, "S", SLIM)


@pytest.mark.parametrize("name", TRAININGS)
def test_a_killed_training_goes_on_to_equal_bits(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = TRAININGS[name]
    folder = tmp_path / "data"
    folder.mkdir()
    training.prepare(folder)
    straight = training.run(folder, tmp_path / "straight")
    kill_after_a_checkpoint(training, folder, tmp_path / "killed")
    capsys.readouterr()
    resumed = training.run(folder, tmp_path / "killed")
    assert "going on from step 2 in" in capsys.readouterr().out
    assert different(straight, resumed) == []


@pytest.mark.parametrize(("name", "change"), CHANGES)
def test_a_killed_training_whose_input_changed_starts_anew_and_says_so(
    name: str, change: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = TRAININGS[name]
    folder = tmp_path / "data"
    folder.mkdir()
    training.prepare(folder)
    kill_after_a_checkpoint(training, folder, tmp_path / "killed")
    training.changes[change](folder)
    capsys.readouterr()
    again = training.run(folder, tmp_path / "killed")
    printed = capsys.readouterr().out
    assert "training starts anew" in printed
    line = next(line for line in printed.splitlines() if "starts anew" in line)
    assert change in line.split("these changed:")[1]
    assert different(training.run(folder, tmp_path / "straight"), again) == []


def test_a_folder_made_of_images_and_masks_is_made_anew_when_a_mask_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "raw/image.png", 0, 8)
    write_image(tmp_path / "raw/mask.png", 1, 8)
    made: list[int] = []

    def make(folder: Path) -> None:
        made.append(1)
        (folder / "copy.png").write_bytes((tmp_path / "raw/mask.png").read_bytes())

    for _ in range(2):
        kept_folder(tmp_path / "work/kept", {"images_and_masks": tmp_path / "raw"}, make)
    assert len(made) == 1
    change_image(tmp_path / "raw/mask.png")
    kept_folder(tmp_path / "work/kept", {"images_and_masks": tmp_path / "raw"}, make)
    assert len(made) == 2
    assert "made anew: these changed: images_and_masks" in capsys.readouterr().out
    assert (tmp_path / "work/kept/copy.png").read_bytes() == (tmp_path / "raw/mask.png").read_bytes()
    shutil.rmtree(tmp_path / "work/kept")
    kept_folder(tmp_path / "work/kept", {"images_and_masks": tmp_path / "raw"}, make)
    assert len(made) == 3


def test_the_key_sees_types_shapes_and_names() -> None:
    parts = [
        1, 1.0, "1", [1], [[1]], {"a": 1}, {"b": 1}, None, np.array([1]), np.array([[1]]), torch.tensor([1]),
        torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor([1.0], dtype=torch.float16),
    ]  # fmt: skip
    digests = [resume_key({"part": part})["part"] for part in parts]
    assert len(set(digests)) == len(parts)
    with pytest.raises(TypeError, match="no rule for the content of a object"):
        resume_key({"part": object()})
