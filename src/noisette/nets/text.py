"""Text encoders, from a bag of words to CLIP's transformer, and networks that bring their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

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


@dataclass(frozen=True)
class TowersConfig:
    """Shape of a text encoder of several towers, SDXL's: each reads the text with its own tokenizer.

    `layer` and `final_norm` choose the state that is read from all of them, as in `TextEncoder`; the
    defaults are SDXL's. Raises UserError for no tower at all.
    """

    towers: tuple[TextConfig, ...]
    layer: int = -2
    final_norm: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "towers", tuple(self.towers))
        if not self.towers:
            raise UserError("a text encoder of towers needs at least one")

    @property
    def hidden_size(self) -> int:
        """Width of a token: the widths of all towers together."""
        return sum(tower.hidden_size for tower in self.towers)

    @property
    def pooled_size(self) -> int:
        """Width of the pooled vector, the last tower's."""
        return self.towers[-1].pooled_size


def weigh(tokens: Tensor, weights: Tensor) -> Tensor:
    """Tokens [N, L, D] times their weights [N, L], every row brought back to the mean it had.

    `z' = w z`, then `z' * mean(z) / mean(z')`, means over L and D: the web interfaces' rule. A row of
    weights 1 stays as it is, bit for bit. Deviations: theirs takes the mean over all rows, so that a text
    hears of its neighbours; and the factor is held in [1 / max w, 1 / min w], where it lies of itself unless
    the tokens' means differ in sign, for around a mean of zero it would be anything.
    """
    precise = torch.promote_types(tokens.dtype, torch.float32)
    weighted = tokens * weights[..., None].to(tokens.dtype)
    before, after = (z.mean((1, 2), dtype=precise) for z in (tokens, weighted))
    low, high = (w.to(precise) for w in weights.aminmax(dim=1))
    factor = (before / after).nan_to_num(1.0).clamp(1 / high, 1 / low)
    weighted = weighted * factor[:, None, None].to(tokens.dtype)
    return torch.where((weights == 1).all(1)[:, None, None], tokens, weighted)


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

    `forward(ids, layer=..., final_norm=...) -> (tokens, pooled)`: ids LongTensor [B, L], L at most
    `max_position_embeddings`; tokens [B, L, hidden_size]; pooled [B, pooled_size].

    `read(ids, weights=None, skip=0)` reads texts of several windows, at the `layer` and `final_norm` that the
    encoder was made with (-1 and True); `forward` takes those where it is told no others.

    `layer` indexes the states (words, after block 1, ..., after block n): -1 is the last, which Stable
    Diffusion 1 reads with the final norm; -2 is the penultimate, which SDXL reads without it. Where other
    tools say "clip skip", mind that they count from 1 (`clip_skip` 1 is layer -1, 2 is layer -2: the web
    interfaces) or from 0 (1 is layer -2: diffusers, and `skip` here). A text longer than L is the tokenizer's
    to cut, or that of `conditioning.weighting.windows`.

    `pooled` is always the last state after the final norm, at the FIRST end-of-text token (see
    `TextConfig.eos_token_id`), through `text_projection` where the config has one. Without blocks that
    token has heard nothing, so the pooled vector is the mean up to and including it: a bag of words.

    Attention sites: "<site>.<layer>.self". `gradient_checkpointing` (attribute, off) recomputes each block in
    backward. Source: arXiv:2103.00020, Sec. 2.4; initialised as there (Sec. 2.5 and its release).
    Raises UserError for too long a text, an id out of range (on the CPU), and an unknown layer.
    """

    def __init__(
        self, config: TextConfig, *, layer: int = -1, final_norm: bool = True, site: str = "text"
    ) -> None:
        super().__init__()
        self.config = config
        self.layer, self.norms = layer, final_norm
        self.gradient_checkpointing = False
        dim, places = config.hidden_size, config.max_position_embeddings
        self.token_embedding = nn.Embedding(config.vocab_size, dim)
        self.position_embedding = nn.Embedding(places, dim) if config.positions else None
        self.layers = nn.ModuleList(
            TextBlock(config, f"{site}.{i}.self") for i in range(config.num_hidden_layers)
        )
        self.final_norm = nn.LayerNorm(dim, config.layer_norm_eps)
        projects = config.projection_dim is not None
        self.text_projection = nn.Linear(dim, config.pooled_size, bias=False) if projects else None
        self._initialise()
        self._check_layer(layer)

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

    def read(self, ids: Tensor, weights: Tensor | None = None, skip: int = 0) -> tuple[Tensor, Tensor]:
        """Tokens [B, W*L, D] and pooled [B, P] of texts in W windows, ids [B, W, L] or [B, L] for one.

        Each window is encoded by itself, as a text of its own; the tokens lie one window after the other, and
        the pooled vector is the first window's. ``weights`` in the shape of the ids go through `weigh`,
        window by window, so that windows that only fill up change nothing. ``skip`` (0 or more) reads that
        many layers earlier: diffusers' `clip_skip`. Raises UserError as `forward` does.
        """
        states = len(self.layers) + 1
        layer = self.layer % states - skip
        if not 0 <= layer <= self.layer % states:
            raise UserError(f"clip skip {skip} must lie in 0 to {self.layer % states} for this text encoder")
        if weights is not None and weights.shape != ids.shape:
            raise UserError(f"{list(weights.shape)} weights do not fit token ids {list(ids.shape)}")
        windows = ids if ids.ndim == 3 else ids[:, None]
        tokens, pooled = self(windows.flatten(0, 1), layer=layer)
        if weights is not None:
            tokens = weigh(tokens, weights.reshape(tokens.shape[:2]))
        shape = windows.shape[:2]
        return tokens.unflatten(0, shape).flatten(1, 2), pooled.unflatten(0, shape)[:, 0]

    def forward(
        self, ids: Tensor, *, layer: int | None = None, final_norm: bool | None = None
    ) -> tuple[Tensor, Tensor]:
        layer = self.layer if layer is None else layer
        final_norm = self.norms if final_norm is None else final_norm
        self._check_layer(layer)
        self._check(ids)
        length = ids.shape[1]
        x = self.token_embedding(ids)
        if self.position_embedding is not None:
            x = x + self.position_embedding(torch.arange(length, device=ids.device))
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

    def _check_layer(self, layer: int) -> None:
        blocks = len(self.layers)
        if not -blocks - 1 <= layer <= blocks:
            raise UserError(f"this text encoder has {blocks} layers, so layer {layer} is none of its states")

    def _check(self, ids: Tensor) -> None:
        places = self.config.max_position_embeddings
        if self.position_embedding is not None and ids.shape[1] > places:
            raise UserError(f"the text has {ids.shape[1]} tokens, but this text encoder reads {places}")
        if ids.device.type == "cpu" and ids.numel() and not torch.compiler.is_compiling():
            low, high = int(ids.min()), int(ids.max())
            if low < 0 or high >= self.config.vocab_size:
                raise UserError(
                    f"token {low if low < 0 else high} is out of range: this text encoder knows 0 to "
                    f"{self.config.vocab_size - 1}; is the tokenizer another model's?"
                )


class TextTowers(nn.Module):
    """Several text encoders that read the same texts beside each other; the last one gives the pooled vector.

    `read(ids, weights=None, skip=0)`: ids, and weights where there are any, are tuples with a tensor
    [B, W, L] or [B, L] for each tower, since tokenizers differ, if only in how they pad. Returns the tokens
    [B, W*L, config.hidden_size], channels of one tower after those of the other, and pooled [B, P].

    Attention sites: "text.<tower>.<layer>.self". Source: arXiv:2307.01952, Sec. 2.1.
    Raises UserError for another number of tensors, texts of different shapes, and what `TextEncoder` refuses.
    """

    def __init__(self, config: TowersConfig) -> None:
        super().__init__()
        self.config = config
        self.towers = nn.ModuleList(
            TextEncoder(tower, layer=config.layer, final_norm=config.final_norm, site=f"text.{i}")
            for i, tower in enumerate(config.towers)
        )

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether the towers recompute their activations in backward."""
        return all(tower.gradient_checkpointing for tower in self.towers)

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, recompute: bool) -> None:
        for tower in self.towers:
            tower.gradient_checkpointing = recompute  # pyright: ignore[reportArgumentType]

    def read(
        self, ids: Sequence[Tensor], weights: Sequence[Tensor] | None = None, skip: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Tokens and the pooled vector of texts, as the class describes."""
        of_each = [ids, [None] * len(self.towers) if weights is None else weights]
        # A tensor is a sequence too, of its rows: a batch of as many texts must not pass for a tuple.
        if any(isinstance(part, Tensor) or len(part) != len(self.towers) for part in of_each):
            raise UserError(f"this text encoder takes a tuple of {len(self.towers)} tensors, one per tower")
        if len({one.shape for one in ids}) > 1:
            raise UserError(
                "the towers' token ids differ in shape: cut the texts into as many windows for each"
            )
        parts = [tower.read(*told, skip) for tower, *told in zip(self.towers, *of_each, strict=True)]
        return torch.cat([tokens for tokens, _ in parts], dim=-1), parts[-1][1]

    forward = read


Text: TypeAlias = TextEncoder | TextTowers


class Prompted(nn.Module):
    """A network that reads token ids, because it brings its own text encoder: both train as one module.

    `forward(x, time, cond)` is `net(x, time, encode(cond))`. `encode` puts the encoder's "tokens" [B, W*L, D]
    and "pooled" [B, P] in the place of cond["ids"]: [B, L], or [B, W, L] for texts of W windows, and for
    `TextTowers` a tuple of them. Beside the ids may stand "token_weights" in their form, and "layer", how
    many layers earlier than usual the text is read (diffusers' `clip_skip`); both go with the ids. A
    "token_mask" [B, W, L] becomes [B, W*L], and all the rest stays; a condition with tokens, or without ids,
    comes back as it is. So training calls the whole, and sampling encodes its prompts once.
    """

    def __init__(self, net: nn.Module, text: Text) -> None:
        super().__init__()
        self.net, self.text = net, text

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
        tokens, pooled = self.text.read(cond["ids"], cond.get("token_weights"), cond.get("layer", 0))
        rest = {key: value for key, value in cond.items() if key not in ("ids", "token_weights", "layer")}
        mask = cond.get("token_mask")
        if mask is not None and mask.ndim == 3:
            rest["token_mask"] = mask.flatten(1)
        return {**rest, "tokens": tokens, "pooled": pooled}

    def forward(self, x: Tensor, time: Tensor, cond: Mapping[str, Any] | None = None) -> Tensor:
        return self.net(x, time, self.encode(cond or {}))
