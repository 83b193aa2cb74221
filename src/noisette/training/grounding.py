"""Teaching a text encoder where things are, as a task of the runner.

A diffusion loss is slow to teach "left of": which of two objects stands on which side hangs on the word, on
the object and on the place at once, and no two of the three say anything. What hangs on a word alone is
learned long before, and the encoder settles into it. Asked outright which shape and which color is in each
cell of a picture of which it knows the caption only, the encoder of `scenes` found out within 52,000 captions
after it had not in 640,000 pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from PIL.ImageColor import getrgb
from torch import Tensor, nn

from noisette.data import Images
from noisette.errors import UserError
from noisette.models import Model
from noisette.nets.attention import Attention
from noisette.nets.text import Prompted, TextEncoder
from noisette.scenes import Scene
from noisette.scenes.render import render
from noisette.scenes.scene import COLORS, SHAPES
from noisette.scenes.textures import PALETTE
from noisette.training.denoising import Denoising
from noisette.training.draws import Draws
from noisette.training.kept import KeptScenes
from noisette.training.samples import SHOWN, tile

__all__ = ["CellReader", "Grounding", "cells"]

SIDE = 8
ASKED = (SHAPES, COLORS)
"""What each cell is asked for; 0 answers that there is nothing."""


def cells(scenes: Sequence[Scene], side: int = SIDE) -> Tensor:
    """Shape and color at the centre of each cell, counted from 1, 0 where no object is: [B, 2, S, S]."""
    truth = render(scenes, side, samples=1)
    return torch.stack([truth.shape, truth.color], dim=1) + 1


class CellReader(nn.Module):
    """What a text says of each cell of its picture: every cell looks at the tokens once.

    `forward(ids, mask)`: ids, mask [B, L]; returns logits of shapes [B, 8, S, S] and colors [B, 11, S, S].
    """

    def __init__(self, text: TextEncoder) -> None:
        super().__init__()
        dim, heads = text.config.hidden_size, text.config.num_attention_heads
        self.text = text
        self.places = nn.Parameter(0.5 * torch.randn(SIDE * SIDE, dim))
        self.whole = nn.Linear(text.config.pooled_size, dim)
        self.norm = nn.LayerNorm(dim)
        self.look = Attention(dim, heads, "cells.cross", context_dim=dim)
        self.out = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, 2 * dim),
            nn.GELU(),
            nn.Linear(2 * dim, sum(len(names) + 1 for names in ASKED)),
        )

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        tokens, pooled = self.text(ids)
        x = self.places + self.whole(pooled)[:, None]
        x = x + self.look(self.norm(x), tokens, mask)
        logits = self.out(x).transpose(1, 2).unflatten(2, (SIDE, SIDE))
        return logits.split([len(names) + 1 for names in ASKED], dim=1)


class Grounding(Denoising):
    """The task of a `GroundingRecipe`: a model whose text encoder has learned, and whose network has not.

    Its pictures are the colors that captions lead to expect in each cell, mixed by how likely they are, above
    the true ones.
    """

    def prepare(self, data: Images) -> Images:
        """The latents, as for `Denoising`; only scenes know what is where."""
        data = super().prepare(data)
        if not isinstance(data, KeptScenes):
            raise UserError(f"{data.origin}: {self.name} learns what is where, which only scenes tell")
        self.data = data
        return data

    def build(self) -> nn.Module:
        """The text encoder and what reads cells from it."""
        self.whole = super().build()
        if not isinstance(self.whole, Prompted) or not isinstance(self.whole.text, TextEncoder):
            raise UserError(f"{self.name} does not train its text encoder: there is nothing to teach")
        self.net = CellReader(self.whole.text)
        return self.net

    def loss(self, net: nn.Module, batch: Mapping[str, Any], draws: Draws, step: int) -> Tensor:
        """Cross-entropy of shapes and of colors, the mean over cells."""
        told, truth = self._cond(batch, draws), cells(batch["scene"]).to(batch["image"].device)
        logits = net(told["ids"], told["token_mask"])
        pairs = zip(logits, truth.unbind(1), strict=True)
        return torch.stack([F.cross_entropy(said, true) for said, true in pairs]).sum()

    @torch.no_grad()
    def pictures(self) -> Tensor:
        """What captions are understood to say, above the truth."""
        batch = self.data.fetch(range(SHOWN))
        assert self.texts is not None
        told = self.texts.cond(batch["text"], self.device)
        guess = self.net(told["ids"], told["token_mask"])[1].softmax(1).cpu()
        truth = F.one_hot(cells(batch["scene"])[:, 1], len(COLORS) + 1).movedim(-1, 1).float()
        return tile(torch.cat([_colored(guess), _colored(truth)]), SHOWN // 2)

    def finished(self, notes: Mapping[str, str | int | float]) -> Model:
        """The model, of whose parts only the text encoder has learned."""
        notes = {**notes, "objective": f"shape and color of {SIDE} x {SIDE} cells, from the caption"}
        return Model.new(self.spec, self.whole, notes, codec=self.codec, texts=self.texts)


def _colored(shares: Tensor) -> Tensor:
    """Shares of nothing and of each color, [N, 11, S, S], as small pictures [N, 3, 4 S, 4 S] in [-1, 1]."""
    palette = torch.tensor([(0, 0, 0), *(getrgb(PALETTE[name]) for name in COLORS)]) / 127.5 - 1
    return F.interpolate(torch.einsum("nkhw,kc->nchw", shares, palette), scale_factor=4, mode="nearest")
