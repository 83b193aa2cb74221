"""Text encoders, from a bag of words to CLIP's transformer, and networks that bring their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from noisette.core.attention import attend
from noisette.errors import UserError
from noisette.nets.layers import run

LEGACY_EOS = 2


def quick_gelu(x: Tensor) -> Tensor:
    """`x * sigmoid(1.702 x)`, the approximation of GELU that the first CLIP was trained with."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": F.gelu}


@dataclass(frozen=True)
class TextConfig:
    """Shape of a text encoder, in the field names of CLIP's text tower; the defaults are CLIP ViT-L/14's.

    `hidden_act` is "quick_gelu" (CLIP) or "gelu" (OpenCLIP). `projection_dim` adds the linear map that the
    pooled vector goes through; None leaves it out. `eos_token_id` 2 is the mark of old configs that never
    said where a text ends: the largest id of a row is then taken for it. `pad_token_id` and `bos_token_id`
    are kept for the tokenizer's sake. `positions=False` leaves position vectors out; with
    `num_hidden_layers=0` as well the encoder is a bag of words. Raises UserError for numbers that do not fit.
    """

    vocab_size: int = 49408
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    bos_token_id: int = 49406
    eos_token_id: int = 49407
    pad_token_id: int = 1
    projection_dim: int | None = None
    positions: bool = True

    def __post_init__(self) -> None:
        if self.hidden_act not in ACTIVATIONS:
            raise UserError(f"hidden_act {self.hidden_act!r} is not one of {', '.join(ACTIVATIONS)}")
        sizes = (self.vocab_size, self.hidden_size, self.intermediate_size, self.num_attention_heads)
        widths = (self.max_position_embeddings, 1 if self.projection_dim is None else self.projection_dim)
        if min(*sizes, *widths) < 1 or self.num_hidden_layers < 0:
            raise UserError("a text encoder needs 1 or more of everything that is counted, but for layers")
        if self.hidden_size % self.num_attention_heads:
            raise UserError(f"{self.hidden_size} channels do not split into {self.num_attention_heads} heads")

    @property
    def pooled_size(self) -> int:
        """Width of the pooled vector."""
        return self.hidden_size if self.projection_dim is None else self.projection_dim


class TextBlock(nn.Module):
    """Causal self-attention, then a feed-forward layer, each residual after a layer norm; x: [B, L, D]."""

    def __init__(self, config: TextConfig, site: str) -> None:
        super().__init__()
        dim, self.heads, self.site = config.hidden_size, config.num_attention_heads, site
        self.activation = ACTIVATIONS[config.hidden_act]
        self.norm1 = nn.LayerNorm(dim, config.layer_norm_eps)
        self.to_q, self.to_k, self.to_v = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.to_out = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim, config.layer_norm_eps)
        self.fc1 = nn.Linear(dim, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, dim)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, causal: Tensor) -> Tensor:
        h = self.norm1(x)
        q, k, v = self._split(self.to_q(h)), self._split(self.to_k(h)), self._split(self.to_v(h))
        x = x + self.to_out(attend(q, k, v, self.site, mask=causal).transpose(1, 2).flatten(2))
        return x + self.fc2(self.activation(self.fc1(self.norm2(x))))


class TextEncoder(nn.Module):
    """Texts as vectors: a causal pre-norm transformer over token ids, CLIP's text tower.

    `forward(ids, layer=-1, final_norm=True) -> (tokens, pooled)`: ids LongTensor [B, L], L at most
    `max_position_embeddings`; tokens [B, L, hidden_size]; pooled [B, pooled_size].

    `layer` indexes the states (words, after block 1, ..., after block n): -1 is the last, which Stable
    Diffusion 1 reads with the final norm; -2 is the penultimate, which SDXL reads without it. Where other
    tools say "clip skip", mind that they count from 1 (`clip_skip` 1 is layer -1, 2 is layer -2: the web
    interfaces) or from 0 (1 is layer -2: diffusers). A text longer than L is the tokenizer's to cut.

    `pooled` is always the last state after the final norm, at the FIRST end-of-text token (see
    `TextConfig.eos_token_id`), through `text_projection` where the config has one. Without blocks that
    token has heard nothing, so the pooled vector is the mean up to and including it: a bag of words.

    Attention sites: "text.<layer>.self". `gradient_checkpointing` (attribute, off) recomputes each block in
    backward. Source: arXiv:2103.00020, Sec. 2.4; initialised as there (Sec. 2.5 and its release).
    Raises UserError for too long a text, an id out of range (on the CPU), and an unknown layer.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        dim, places = config.hidden_size, config.max_position_embeddings
        self.token_embedding = nn.Embedding(config.vocab_size, dim)
        self.position_embedding = nn.Embedding(places, dim) if config.positions else None
        self.layers = nn.ModuleList(
            TextBlock(config, f"text.{i}.self") for i in range(config.num_hidden_layers)
        )
        self.final_norm = nn.LayerNorm(dim, config.layer_norm_eps)
        projects = config.projection_dim is not None
        self.text_projection = nn.Linear(dim, config.pooled_size, bias=False) if projects else None
        self._initialise()

    def _initialise(self) -> None:
        """CLIP's own: what is added to the stream shrinks with the number of additions, 2 per block."""
        outward = self.config.hidden_size**-0.5
        inward = outward * (2 * max(self.config.num_hidden_layers, 1)) ** -0.5
        for name, parameter in self.named_parameters():
            match name.split(".")[-2:]:
                case ["token_embedding" | "position_embedding", _]:
                    nn.init.normal_(parameter, std=0.02)
                case ["to_q" | "to_k" | "to_v" | "fc2", "weight"]:
                    nn.init.normal_(parameter, std=inward)
                case ["to_out" | "text_projection", "weight"]:
                    nn.init.normal_(parameter, std=outward)
                case ["fc1", "weight"]:
                    nn.init.normal_(parameter, std=outward * 2**-0.5)
                case [_, "bias"]:
                    nn.init.zeros_(parameter)

    def forward(self, ids: Tensor, *, layer: int = -1, final_norm: bool = True) -> tuple[Tensor, Tensor]:
        self._check(ids, layer)
        length = ids.shape[1]
        x = self.token_embedding(ids)
        if self.position_embedding is not None:
            x = x + self.position_embedding.weight[:length]
        causal = torch.ones(1, 1, length, length, dtype=torch.bool, device=ids.device).tril()
        states = [x]
        for block in self.layers:
            states.append(run(block, states[-1], causal, recompute=self.gradient_checkpointing))
        last = self.final_norm(states[-1])
        is_last = layer in (-1, len(self.layers))
        tokens = states[layer]
        if final_norm:
            tokens = last if is_last else self.final_norm(tokens)
        return tokens, self._pool(last, ids)

    def _pool(self, last: Tensor, ids: Tensor) -> Tensor:
        eos = self.config.eos_token_id
        # argmax finds the first of equals; of a row without an end it makes the first place, as CLIP's does.
        end = (ids if eos == LEGACY_EOS else (ids == eos).int()).argmax(dim=-1)
        if len(self.layers):
            pooled = last[torch.arange(len(ids), device=ids.device), end]
        else:
            heard = torch.arange(ids.shape[1], device=ids.device) <= end[:, None]
            pooled = (last * heard[..., None]).sum(1) / heard.sum(1, keepdim=True).to(last.dtype)
        return pooled if self.text_projection is None else self.text_projection(pooled)

    def _check(self, ids: Tensor, layer: int) -> None:
        blocks, places = len(self.layers), self.config.max_position_embeddings
        if not -blocks - 1 <= layer <= blocks:
            raise UserError(f"this text encoder has {blocks} layers, so layer {layer} is none of its states")
        if self.position_embedding is not None and ids.shape[1] > places:
            raise UserError(f"the text has {ids.shape[1]} tokens, but this text encoder reads {places}")
        if ids.device.type == "cpu" and ids.numel() and not torch.compiler.is_compiling():
            low, high = int(ids.min()), int(ids.max())
            if low < 0 or high >= self.config.vocab_size:
                raise UserError(
                    f"token {low if low < 0 else high} is out of range: this text encoder knows 0 to "
                    f"{self.config.vocab_size - 1}; is the tokenizer another model's?"
                )


class Prompted(nn.Module):
    """A network that reads token ids, because it brings its own text encoder: both train as one module.

    `forward(x, time, cond)` is `net(x, time, encode(cond))`. `encode` puts the encoder's "tokens" [B, L, D]
    and "pooled" [B, P] in the place of cond["ids"] [B, L] and leaves the rest, "token_mask" among it; a
    condition with tokens, or without ids, comes back as it is. So training calls the whole, and sampling
    encodes its prompts once. `layer` and `final_norm` choose the state that is read, as in `TextEncoder`.
    """

    def __init__(
        self, net: nn.Module, text: TextEncoder, *, layer: int = -1, final_norm: bool = True
    ) -> None:
        super().__init__()
        self.net, self.text = net, text
        self.layer, self.final_norm = layer, final_norm

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether both halves recompute their activations in backward."""
        return bool(self.net.gradient_checkpointing) and self.text.gradient_checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, recompute: bool) -> None:
        self.net.gradient_checkpointing = recompute  # pyright: ignore[reportArgumentType]
        self.text.gradient_checkpointing = recompute

    def encode(self, cond: Mapping[str, Any]) -> Mapping[str, Any]:
        """The condition with tokens and a pooled vector in the place of its ids; nothing else changes."""
        if "ids" not in cond or "tokens" in cond:
            return cond
        tokens, pooled = self.text(cond["ids"], layer=self.layer, final_norm=self.final_norm)
        rest = {key: value for key, value in cond.items() if key != "ids"}
        return {**rest, "tokens": tokens, "pooled": pooled}

    def forward(self, x: Tensor, time: Tensor, cond: Mapping[str, Any] | None = None) -> Tensor:
        return self.net(x, time, self.encode(cond or {}))
