"""Lightning module that fine-tunes a tokenizer with all its losses."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from metaldefect.tokenizer.discriminator import PatchDiscriminator
from metaldefect.tokenizer.losses import (
    adaptive_weight,
    edge_loss,
    hinge_discriminator_loss,
    hinge_generator_loss,
    ssim_loss,
)
from metaldefect.tokenizer.model import VQModel
from metaldefect.tokenizer.patch_start import spherical_kmeans
from metaldefect.tokenizer.perceptual import perceptual_loss
from metaldefect.tokenizer.quantizer import Quantized, on_sphere
from metaldefect.tokenizer.training_config import VQTrainingConfig
from metaldefect.training.average import WeightAverage
from metaldefect.training.module import Trainee
from metaldefect.training.schedule import warmup_constant, warmup_cosine


class VQLightning(Trainee):
    """Train a `VQModel` on `uint8 [N, H, W]` grey or `[N, H, W, 3]` colour batches.

    Each step updates the tokenizer, then the discriminator (from `discriminator_start` on). Codebook entries
    that were unused for a whole epoch move to encoder outputs of the last batch.
    """

    model: VQModel
    average: WeightAverage
    max_gradient_norm = 1.0
    tokens_seen: Tensor
    code_sums: Tensor

    def __init__(self, model: VQModel, config: VQTrainingConfig) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.config = config
        # Of weights that stay as they are, no gradient is computed
        trained = {id(parameter) for parameter in self.trained_parameters()}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in trained)
        self.discriminator = PatchDiscriminator(config.discriminator_channels)
        self.average = WeightAverage(model, config.ema_decay)
        self.register_buffer("tokens_seen", torch.zeros(model.config.codebook_size, dtype=torch.long))
        # Sum of the vectors that each entry quantised, for `codebook_decay`. Entries have unit length,
        # so dividing the sum by a count is unnecessary.
        self.register_buffer("code_sums", model.quantize.codebook.detach().clone())
        # Outside the module tree: frozen weights do not belong in checkpoints
        net, self.perceptual_name = perceptual_loss(config.perceptual)
        self._perceptual = [net]
        self._recent: Tensor | None = None

    def trained_parameters(self) -> list[torch.nn.Parameter]:
        """Parameters that the mode trains by gradient: all, or those behind the codebook."""
        if self.config.mode == "full":
            return list(self.model.parameters())
        trained = [*self.model.decoder.parameters(), *self.model.post_quant_conv.parameters()]
        path = self.model.patch_path
        return trained if path is None else [*trained, *path.outwards.parameters()]

    def content(self) -> dict[str, Any]:
        """The settings, and the network behind the perceptual loss."""
        return {"settings": self.config, "perceptual_loss": self._perceptual[0]}

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[LRScheduler]]:
        config = self.config
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Adam(parameters, lr=config.learning_rate, betas=(0.9, 0.95))
            for parameters in (self.trained_parameters(), list(self.discriminator.parameters()))
        ]
        if config.schedule == "constant":
            return optimizers, [warmup_constant(one, config.warmup_steps) for one in optimizers]
        return optimizers, [warmup_cosine(one, config.steps, config.warmup_steps) for one in optimizers]

    def on_fit_start(self) -> None:
        self._perceptual[0].to(self.device)

    def training_step(self, batch: Tensor, index: int) -> None:
        images = to_model_input(batch)
        step = self.step
        if step == 0 and self.config.data_initialised_codebook:
            self.initialise_codebook(images)
        adversarial = self.config.adversarial_weight > 0 and step >= self.config.discriminator_start
        optimizers = self.optimizers()
        assert isinstance(optimizers, list)
        self.discriminator.requires_grad_(False)
        reconstruction = self.model(images)
        loss, parts = self.generator_loss(images, reconstruction, adversarial)
        self.take_step(optimizers[0], loss, self.trained_parameters())
        if adversarial:
            self.discriminator.requires_grad_(True)
            # Separate passes: in a joint batch, BatchNorm's statistics alone would separate real from fake,
            # and the generator's pass, which has no real images, would see a different network
            real = self.discriminator(images).float()
            fake = self.discriminator(reconstruction.images.detach()).float()
            d_loss = hinge_discriminator_loss(real, fake)
            self.take_step(optimizers[1], d_loss, list(self.discriminator.parameters()))
            parts["discriminator"] = d_loss.detach()
        if self.config.codebook_decay is not None and self.config.mode != "decoder_only":
            self.follow_vectors(reconstruction.quantized, self.config.codebook_decay)
        self.tokens_seen += torch.bincount(
            reconstruction.quantized.tokens.flatten(), minlength=self.model.config.codebook_size
        )
        schedulers = self.lr_schedulers()
        assert isinstance(schedulers, list)
        for scheduler in schedulers:
            assert isinstance(scheduler, LRScheduler)
            scheduler.step()
        self.log_dict(parts)

    def generator_loss(
        self, images: Tensor, output: Any, adversarial: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return a scalar with the gradient of the tokenizer's loss for one batch, and the loss's parts."""
        config = self.config
        # The losses use a detached copy of the pixels: their gradients add up there, so one backward pass
        # through the decoder is enough
        pixels = output.images.detach().float().requires_grad_()
        l1 = (pixels - images).abs().mean()
        structure = ssim_loss(pixels, images, self.model.config.image_channels)
        perceptual = self._perceptual[0](pixels, images).float().mean()
        edge = edge_loss(pixels, images)
        reconstruction = (
            config.l1_weight * l1
            + config.ssim_weight * structure
            + config.perceptual_weight * perceptual
            + config.edge_weight * edge
        )
        (gradient,) = torch.autograd.grad(reconstruction, pixels)
        parts = {"l1": l1, "ssim": structure, "perceptual": perceptual, "edge": edge}
        if adversarial:
            fooling = hinge_generator_loss(self.discriminator(pixels).float())
            (fooling_gradient,) = torch.autograd.grad(fooling, pixels)
            weight = adaptive_weight(
                output.images,
                gradient.to(output.images.dtype),
                fooling_gradient.to(output.images.dtype),
                self.model.decoder.last_layer,
            )
            # An untrained discriminator's gradient is tiny, so the plain adaptive weight can explode
            weight = weight.clamp(max=10.0)
            gradient = gradient + config.adversarial_weight * weight * fooling_gradient
            parts |= {"adversarial": fooling, "adversarial_scale": weight}
        quantized = output.quantized
        follows = config.codebook_decay is not None
        codebook_loss = quantized.codebook_loss * (0.0 if follows else 1.0)
        codebook = codebook_loss + self.model.config.commitment * quantized.commitment_loss
        parts["codebook"] = codebook
        # Linear in the pixels, with the gradient of the losses above
        surrogate = (output.images.float() * gradient).sum()
        total = surrogate + codebook + config.entropy_ratio * quantized.entropy_loss
        return total, {name: part.detach() for name, part in parts.items()}

    def take_step(self, optimizer: Any, loss: Tensor, parameters: list[torch.nn.Parameter]) -> None:
        """Backward, clip to norm 1, step."""
        optimizer.zero_grad(set_to_none=True)
        self.manual_backward(loss)
        self.limit_gradients(parameters)
        optimizer.step()

    @torch.no_grad()
    def follow_vectors(self, quantized: Quantized, decay: float) -> None:
        """Move each entry to the running mean of the vectors it quantised (van den Oord et al. 2017, A.1)."""
        tokens = quantized.tokens.flatten()
        sums = torch.zeros_like(self.code_sums).index_add_(0, tokens, quantized.vectors)
        self.code_sums.lerp_(sums, 1.0 - decay)
        entries = self.model.quantize.embedding.weight
        kept = entries.shape[1] - self.model.config.hue_dim  # an entry's hue stays what it started with
        entries[:, :kept] = F.normalize(self.code_sums[:, :kept], dim=-1)

    @torch.no_grad()
    def initialise_codebook(self, images: Tensor) -> None:
        """Start the codebook from encoder outputs: from their k-means, or from the outputs if too few.

        The running sums start there too, with the weight of the batch: any other start would pull the entries
        back at the first step.
        """
        vectors = self.normalised_features(images)
        size = self.model.config.codebook_size
        enough = len(vectors) >= 4 * size
        centres = spherical_kmeans(vectors, size, torch.Generator().manual_seed(0)) if enough else None
        codebook = pick(vectors, size) if centres is None else centres
        self.model.quantize.embedding.weight.copy_(codebook)
        counts = torch.bincount(self.model.quantize.nearest(vectors), minlength=size)
        self.code_sums.copy_(codebook * counts.clamp(min=1)[:, None])

    def normalised_features(self, images: Tensor) -> Tensor:
        """Encoder outputs on the unit sphere, `float [M, D]`."""
        z = self.model.features(images).float()
        return self.model.quantize.on_sphere(z.permute(0, 2, 3, 1).reshape(-1, z.shape[1]))

    def on_train_batch_end(self, outputs: Any, batch: Tensor, index: int) -> None:
        if self.trainer.is_last_batch and self.config.mode == "full":
            self.revive_dead_codes(to_model_input(batch))

    @torch.no_grad()
    def revive_dead_codes(self, images: Tensor) -> None:
        """Move entries that were unused in the epoch to encoder outputs of the last batch."""
        dead = (self.tokens_seen == 0).nonzero().flatten()
        self.tokens_seen.zero_()
        # Near the end, the decoder would have no time to learn a moved entry
        if len(dead) and self.step < 0.7 * self.config.steps:
            fresh = pick(self.normalised_features(images), len(dead), self.model.config.hue_dim)
            self.model.quantize.embedding.weight[dead] = fresh
            self.average.module.get_parameter("quantize.embedding.weight")[dead] = fresh
            self.code_sums[dead] = fresh


def to_model_input(batch: Tensor) -> Tensor:
    """`uint8 [N, H, W]` or `[N, H, W, 3]` to `float32 [N, 3, H, W]` in [-1, 1]."""
    images = batch.float().div(127.5).sub(1.0)
    grey = images.dim() == 3
    return images.unsqueeze(1).repeat(1, 3, 1, 1) if grey else images.permute(0, 3, 1, 2).contiguous()


def pick(vectors: Tensor, count: int, hue: int = 0) -> Tensor:
    """Take `count` rows in random order; if there are fewer, repeat them with a little noise.

    The last `hue` coordinates stay outside the unit length, see `quantizer.on_sphere`.
    """
    order = torch.randperm(len(vectors))
    rows = vectors[order.repeat(-(-count // len(vectors)))[:count]]
    noise = torch.randn(rows.shape).to(rows)  # drawn on the CPU, so that it is the same on every device
    return on_sphere(rows + 0.01 * noise, hue)
