"""The vector-quantised autoencoder of latent diffusion."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from noisette.errors import UserError
from noisette.nets.vae import Codec, CodecConfig, Decoder, Encoder

# Distances are held for this many positions at a time.
_ROWS = 4096


@dataclass(frozen=True)
class VQConfig(CodecConfig):
    """Shape of a `VQModel`: `CodecConfig` and a codebook of `num_vq_embeddings` vectors.

    Each is `vq_embed_dim` long (None: `latent_channels`), which is how many channels a latent has.
    """

    latent_channels: int = 3
    num_vq_embeddings: int = 256
    vq_embed_dim: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.num_vq_embeddings, self.embed_dim) < 1:
            raise UserError("a codebook needs at least one vector of at least one number")

    @property
    def embed_dim(self) -> int:
        """Channels of a latent."""
        return self.latent_channels if self.vq_embed_dim is None else self.vq_embed_dim


@dataclass(frozen=True, eq=False)
class Quantized:
    """What a `Quantizer` made of latents z.

    codes: [B, D, h, w], the nearest codebook vectors, with the gradient of z; indices: LongTensor [B, h, w];
    loss: [B], codebook loss plus commitment; perplexity: [], `exp` of the entropy of the batch's indices,
    from 1 (one vector serves all) to the size of the codebook (all are used alike).
    """

    codes: Tensor
    indices: Tensor
    loss: Tensor
    perplexity: Tensor


class Quantizer(nn.Module):
    """Replace each latent vector by the nearest of a codebook, and let gradients pass straight through.

    `loss = |sg(z) - e|^2 + commitment * |z - sg(e)|^2`, each a mean over positions and channels.
    z: [B, D, h, w], computed in float32 at least. An exact tie takes the lower index.
    Source: arXiv:1711.00937, Eq. 1-3. (VQGAN's code, by default, weighs the other term; the values agree, the
    gradients do not.)
    """

    def __init__(self, size: int, dim: int, commitment: float = 0.25) -> None:
        super().__init__()
        self.commitment = commitment
        self.codebook = nn.Embedding(size, dim)
        nn.init.uniform_(self.codebook.weight, -1 / size, 1 / size)

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """Index of the codebook vector nearest to each position: [B, D, h, w] -> LongTensor [B, h, w]."""
        at_least = torch.promote_types(z.dtype, torch.float32)
        book = self.codebook.weight.to(at_least)
        # Expanding the square would be faster and would cancel where latents lie far from the origin.
        rows = z.movedim(1, -1).flatten(0, 2).to(at_least).split(_ROWS)
        found = [torch.cdist(r, book, compute_mode="donot_use_mm_for_euclid_dist").argmin(1) for r in rows]
        return torch.cat(found).unflatten(0, (z.shape[0], *z.shape[2:]))

    def lookup(self, indices: Tensor) -> Tensor:
        """The codebook vectors of indices: LongTensor [B, h, w] -> [B, D, h, w]."""
        return self.codebook(indices).movedim(-1, 1)

    def forward(self, z: Tensor) -> Quantized:
        indices = self.nearest(z)
        codes = self.lookup(indices)
        gap_codebook = (codes - z.detach()).square().flatten(1).mean(1)
        gap_encoder = (codes.detach() - z).square().flatten(1).mean(1)
        used = torch.bincount(indices.flatten(), minlength=self.codebook.num_embeddings) / indices.numel()
        return Quantized(
            # Written so that the value is the code to the last bit, and the gradient that of z.
            codes=codes.detach().to(z.dtype) + (z - z.detach()),
            indices=indices,
            loss=gap_codebook + self.commitment * gap_encoder,
            perplexity=torch.special.entr(used).sum().exp(),
        )


class VQModel(Codec):
    """The autoencoder with a codebook, `x -> z -> nearest codes -> x`.

    Its latents are taken BEFORE quantisation, and `decode` quantises: a diffusion model works on continuous
    z, and the codebook tidies up what it makes.
    `forward(x)` makes a training step's pair, the reconstruction and what quantisation did.
    Attention sites: "encoder.mid.self", "decoder.mid.self".
    Source: arXiv:2112.10752, Sec. 3.1 and App. G; arXiv:2012.09841, Sec. 3.1.
    """

    config: VQConfig

    def __init__(self, config: VQConfig) -> None:
        hidden, dim = config.latent_channels, config.embed_dim
        super().__init__(config, Encoder(config, hidden, dim, quant=True), Decoder(config, dim, quant=True))
        self.quantizer = Quantizer(config.num_vq_embeddings, dim)

    def encode(self, x: Tensor) -> Tensor:
        """Latents before quantisation, [B, embed_dim, h, w], in the autoencoder's own units."""
        return self._encoded(x)

    def decode(self, z: Tensor) -> Tensor:
        """Image of the codes nearest to z, [B, out_channels, H, W]."""
        return super().decode(self.quantizer(z).codes)

    def forward(self, x: Tensor) -> tuple[Tensor, Quantized]:
        quantized = self.quantizer(self.encode(x))
        return super().decode(quantized.codes), quantized
