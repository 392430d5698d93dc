"""The simulated device refuses what PyTorch refuses of a CUDA device, and computes the CPU's numbers."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn import functional

from tests.devices.simulated import simulated_device

# What is done with a tensor on the device (first) and one on the CPU
MIXES: dict[str, Callable[[Tensor, Tensor], object]] = {
    "sum": lambda there, here: there + here,
    "product of matrices": lambda there, here: there @ here,
    "concatenation": lambda there, here: torch.cat([there, here]),
    "stack": lambda there, here: torch.stack([there, here]),
    "choice": lambda there, here: torch.where(here > 0, there, there),
    "masking": lambda there, here: there.masked_fill(here > 0, 1.0),
    "gathering": lambda there, here: there.gather(0, here.long()),
    "scattering": lambda there, here: there.scatter(0, here.long(), there),
    "embedding": lambda there, here: functional.embedding(here.long(), there),
    "convolution": lambda there, here: functional.conv2d(there[None, None], here[None, None]),
    "in place": lambda there, here: there.clone().add_(here),
    "product in place": lambda there, here: here.clone().mul_(there),
    "indexing the device by the CPU": lambda there, here: there[here.long()],
    "writing at the CPU's positions": lambda there, here: there.index_put((here.long()[0],), there[0, 0]),
    "copying there": lambda there, here: there.clone().copy_(here),
    "copying here": lambda there, here: here.clone().copy_(there),
    "moving": lambda there, here: there + here.to(there.device),
    "scaling by a number on the CPU": lambda there, here: there * torch.tensor(2.0),
    "clamping by a number on the CPU": lambda there, here: torch.minimum(there, torch.tensor(2.0)),
    "interpolating": lambda there, here: torch.lerp(there, here, 0.5),
    "comparison": lambda there, here: there == here,
}


def refused(mix: Callable[[Tensor, Tensor], object], device: str | torch.device) -> bool:
    here = torch.ones(2, 2)
    there = torch.ones(2, 2).to(device)
    try:
        mix(there, here)
    except (RuntimeError, AssertionError):
        return True
    return False


@pytest.mark.parametrize("name", MIXES)
def test_a_mix_is_refused_where_fake_cuda_tensors_refuse_it(name: str) -> None:
    with FakeTensorMode():
        by_pytorch = refused(MIXES[name], "cuda")
    with simulated_device() as device:
        assert refused(MIXES[name], device) == by_pytorch


def test_positions_on_the_device_do_not_index_the_cpu() -> None:
    """A real GPU: "indices should be either on cpu or on the same device"; `FakeTensorMode` lets it pass."""
    with simulated_device() as device:
        assert refused(lambda there, here: here[there.long()], device)


def test_some_mixes_are_refused_and_some_are_not() -> None:
    with simulated_device() as device:
        assert {refused(mix, device) for mix in MIXES.values()} == {False, True}


def test_a_training_step_there_ends_in_the_weights_of_one_here() -> None:
    def trained(device: torch.device | str) -> Tensor:
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.SiLU(), nn.Flatten(), nn.Linear(16, 2)
        )
        images = torch.randn(2, 3, 4, 4)
        network.to(device)
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, fused=True)
        for _ in range(2):
            optimizer.zero_grad()
            network(images.to(device)).square().mean().backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
        assert {parameter.device for parameter in network.parameters()} == {torch.device(device)}
        return torch.cat([parameter.detach().cpu().flatten() for parameter in network.parameters()])

    here = trained("cpu")
    with simulated_device() as device:
        there = trained(device)
    assert torch.equal(there, here)
