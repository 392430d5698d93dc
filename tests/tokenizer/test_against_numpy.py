"""Encoder, quantiser and decoder on fixed weights against a forward pass written in numpy alone."""

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from metaldefect.tokenizer.config import VQConfig
from metaldefect.tokenizer.model import VQModel

# LlamaGen's network, narrow: two levels, attention at the lower one, a width that changes
SMALL = VQConfig(
    channels=32, multipliers=(1, 2), encoder_blocks=1, decoder_blocks=1, z_channels=32, codebook_size=32
)


class Numpy:
    """LlamaGen's forward pass for one image `[C, H, W]` in float64, from a state dict."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        self.state = {key: value.double().numpy() for key, value in state.items()}

    def conv(self, x, name, pad=None, stride=1):
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        k = weight.shape[-1]
        (top, bottom) = (k // 2, k // 2) if pad is None else pad
        x = np.pad(x, ((0, 0), (top, bottom), (top, bottom)))
        windows = sliding_window_view(x, (k, k), axis=(1, 2))[:, ::stride, ::stride]
        return np.einsum("chwij,ocij->ohw", windows, weight) + bias[:, None, None]

    def norm(self, x, name):
        groups = x.reshape(32, -1)
        y = (groups - groups.mean(1, keepdims=True)) / np.sqrt(groups.var(1, keepdims=True) + 1e-6)
        return (
            y.reshape(x.shape) * self.state[f"{name}.weight"][:, None, None]
            + self.state[f"{name}.bias"][:, None, None]
        )

    @staticmethod
    def silu(x):
        return x / (1 + np.exp(-x))

    def res(self, x, name):
        h = self.conv(self.silu(self.norm(x, f"{name}.norm1")), f"{name}.conv1")
        h = self.conv(self.silu(self.norm(h, f"{name}.norm2")), f"{name}.conv2")
        return h + (
            self.conv(x, f"{name}.nin_shortcut") if f"{name}.nin_shortcut.weight" in self.state else x
        )

    def attn(self, x, name):
        h = self.norm(x, f"{name}.norm")
        q, k, v = (self.conv(h, f"{name}.{part}").reshape(len(x), -1) for part in "qkv")
        scores = q.T @ k / np.sqrt(len(x))
        weights = np.exp(scores - scores.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        return x + self.conv((v @ weights.T).reshape(x.shape), f"{name}.proj_out")

    def middle(self, x, name):
        return self.res(self.attn(self.res(x, f"{name}.0"), f"{name}.1"), f"{name}.2")

    def encode(self, x):
        x = self.conv(x, "encoder.conv_in")
        x = self.res(x, "encoder.conv_blocks.0.res.0")
        x = self.conv(x, "encoder.conv_blocks.0.downsample.conv", pad=(0, 1), stride=2)
        x = self.attn(self.res(x, "encoder.conv_blocks.1.res.0"), "encoder.conv_blocks.1.attn.0")
        x = self.silu(self.norm(self.middle(x, "encoder.mid"), "encoder.norm_out"))
        z = self.conv(self.conv(x, "encoder.conv_out"), "quant_conv")
        flat = z.reshape(len(z), -1).T
        flat = flat / np.linalg.norm(flat, axis=1, keepdims=True)
        distances = ((flat[:, None] - self.book()[None]) ** 2).sum(-1)
        return distances.argmin(1).reshape(z.shape[1:])

    def book(self):
        book = self.state["quantize.embedding.weight"]
        return book / np.linalg.norm(book, axis=1, keepdims=True)

    def decode(self, tokens):
        x = self.conv(self.book()[tokens].transpose(2, 0, 1), "post_quant_conv")
        x = self.middle(self.conv(x, "decoder.conv_in"), "decoder.mid")
        x = self.attn(self.res(x, "decoder.conv_blocks.0.res.0"), "decoder.conv_blocks.0.attn.0")
        x = self.conv(x.repeat(2, axis=1).repeat(2, axis=2), "decoder.conv_blocks.0.upsample.conv")
        x = self.res(x, "decoder.conv_blocks.1.res.0")
        return self.conv(self.silu(self.norm(x, "decoder.norm_out")), "decoder.conv_out")


def test_tokens_and_images_are_those_of_the_written_out_network() -> None:
    torch.manual_seed(0)
    model = VQModel(SMALL).eval()
    for parameter in model.parameters():  # norms and biases away from one and zero
        parameter.data += 0.05 * torch.randn_like(parameter)
    with torch.no_grad():
        z = model.features(torch.rand(4, 3, 16, 16) * 2 - 1)
        model.quantize.embedding.weight.copy_(z.permute(0, 2, 3, 1).reshape(-1, 8)[::8])
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    plain = Numpy(model.state_dict())
    tokens = model.encode(images)
    assert len(tokens.unique()) > 8
    for index in range(2):
        np.testing.assert_array_equal(tokens[index].numpy(), plain.encode(images[index].double().numpy()))
        expected = plain.decode(tokens[index].numpy())
        np.testing.assert_allclose(model.decode(tokens)[index].numpy(), expected, atol=2e-4)
