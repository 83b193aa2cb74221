"""One module, three names: ours, diffusers' (transformers' for text), and the first releases' (LDM).

The tables are walked from a config, a row for every module that owns parameters. What follows a module's name
("weight", "bias") is the same everywhere; how a tensor lies is not, and `fitted` is for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

from torch import Tensor

from noisette.errors import UserError
from noisette.nets.dit import DiTConfig
from noisette.nets.text import TextConfig
from noisette.nets.unet import UNetConfig
from noisette.nets.vae import AutoencoderKLConfig

__all__ = ["Column", "Name", "dit_names", "fitted", "renamed", "text_names", "unet_names", "vae_names"]

Column: TypeAlias = Literal["ours", "diffusers", "ldm"]


class Name(NamedTuple):
    """The name of one module in each of three places; "" where it has none there.

    ``ldm`` leaves out the prefix of the part ("model.diffusion_model." and the like).
    """

    ours: str
    diffusers: str
    ldm: str = ""

    def __truediv__(self, part: Name) -> Name:
        """The module ``part`` inside this one; where either has no name, the whole has none."""
        pairs = zip(self, part, strict=True)
        return Name(*(f"{outer}.{inner}" if outer and inner else "" for outer, inner in pairs))


_SKIP = Name("skip", "conv_shortcut", "skip_connection")
_RES = (
    Name("norm1", "norm1", "in_layers.0"),
    Name("conv1", "conv1", "in_layers.2"),
    Name("emb", "time_emb_proj", "emb_layers.1"),
    Name("norm2", "norm2", "out_layers.0"),
    Name("conv2", "conv2", "out_layers.3"),
)
# The first releases keep q, k and v of this block in one tensor, so that no module of theirs is one of ours.
_PIXEL_ATTENTION = (
    Name("norm", "group_norm", "norm"),
    Name("attention.to_q", "to_q"),
    Name("attention.to_k", "to_k"),
    Name("attention.to_v", "to_v"),
    Name("attention.to_out", "to_out.0", "proj_out"),
)


def _everywhere(*names: str) -> tuple[Name, ...]:
    return tuple(Name(name, name, name) for name in names)


_TRANSFORMER = _everywhere("norm", "proj_in", "proj_out")
_TRANSFORMER_BLOCK = (
    *_everywhere("norm1", "norm2", "norm3"),
    *(
        Name(f"{ours}.{part}", f"{theirs}.{name}", f"{theirs}.{name}")
        for ours, theirs in (("self_attention", "attn1"), ("cross_attention", "attn2"))
        for part, name in (("to_q", "to_q"), ("to_k", "to_k"), ("to_v", "to_v"), ("to_out", "to_out.0"))
    ),
    Name("feed_forward.proj_in", "ff.net.0.proj", "ff.net.0.proj"),
    Name("feed_forward.proj_out", "ff.net.2", "ff.net.2"),
)


def unet_names(config: UNetConfig) -> Iterator[Name]:
    """The modules of a U-Net: UNet2DModel's and UNet2DConditionModel's, and those of "diffusion_model".

    What no other U-Net has goes by the nearest name: a pooled vector through one matrix is the class
    embedding of "simple_projection", and "add_embedding" beside a class embedding.
    """
    if config.guidance_dim is not None:
        yield Name("time.told", "time_embedding.cond_proj")
    yield Name("time.linear1", "time_embedding.linear_1", "time_embed.0")
    yield Name("time.linear2", "time_embedding.linear_2", "time_embed.2")
    if config.num_classes is not None:
        yield Name("label.table", "class_embedding", "label_emb")
    if config.size_count:
        yield Name("pooled.0", "add_embedding.linear_1", "label_emb.0.0")
        yield Name("pooled.2", "add_embedding.linear_2", "label_emb.0.2")
    elif config.pooled_dim is not None:
        alone = config.num_classes is None
        yield Name("pooled", "class_embedding" if alone else "add_embedding", "label_emb.0")
    yield Name("conv_in", "conv_in", "input_blocks.0.0")
    skips = [config.model_channels]
    yield from _unet_down(config, skips)
    last = len(config.channels) - 1
    yield from _res(Name("mid.0.res", "mid_block.resnets.0", "middle_block.0"))
    yield from _attention(Name("mid.0.attention", "mid_block.attentions.0", "middle_block.1"), config, last)
    yield from _res(Name("mid.1.res", "mid_block.resnets.1", "middle_block.2"))
    yield from _unet_up(config, skips)
    yield Name("norm_out", "conv_norm_out", "out.0")
    yield Name("conv_out", "conv_out", "out.2")


def _unet_down(config: UNetConfig, skips: list[int]) -> Iterator[Name]:
    """The way down; ``skips`` gathers the channels of every skip connection."""
    for level, width in enumerate(config.channels):
        ours, theirs = f"down.{level}", f"down_blocks.{level}"
        for block in range(config.num_res_blocks):
            stage, place = f"{ours}.stages.{block}", f"input_blocks.{len(skips)}"
            skip = skips[-1] != width
            yield from _res(Name(f"{stage}.res", f"{theirs}.resnets.{block}", f"{place}.0"), skip)
            if level in config.attention_levels:
                attention = Name(f"{stage}.attention", f"{theirs}.attentions.{block}", f"{place}.1")
                yield from _attention(attention, config, level)
            skips.append(width)
        if level < len(config.channels) - 1:
            shrink = Name(f"{ours}.resample", f"{theirs}.downsamplers.0", f"input_blocks.{len(skips)}.0")
            yield from _res(shrink) if config.resblock_updown else [shrink / Name("conv", "conv", "op")]
            skips.append(width)


def _unet_up(config: UNetConfig, skips: list[int]) -> Iterator[Name]:
    """The way up, which uses the ``skips`` up from the last to the first."""
    channels, count = config.channels[-1], 0
    for index, level in enumerate(reversed(range(len(config.channels)))):
        ours, theirs, width = f"up.{level}", f"up_blocks.{index}", config.channels[level]
        attends = level in config.attention_levels
        for block in range(config.num_res_blocks + 1):
            stage, place = f"{ours}.stages.{block}", f"output_blocks.{count}"
            skip = channels + skips.pop() != width
            yield from _res(Name(f"{stage}.res", f"{theirs}.resnets.{block}", f"{place}.0"), skip)
            if attends:
                attention = Name(f"{stage}.attention", f"{theirs}.attentions.{block}", f"{place}.1")
                yield from _attention(attention, config, level)
            channels, count = width, count + 1
        if level > 0:
            place = f"output_blocks.{count - 1}.{2 if attends else 1}"
            grow = Name(f"{ours}.resample", f"{theirs}.upsamplers.0", place)
            yield from _res(grow) if config.resblock_updown else [grow / Name("conv", "conv", "conv")]


def _res(place: Name, skip: bool = False) -> Iterator[Name]:
    yield from (place / part for part in _RES)
    if skip:
        yield place / _SKIP


def _attention(place: Name, config: UNetConfig, level: int) -> Iterator[Name]:
    if config.context_dim is None:
        yield from (place / part for part in _PIXEL_ATTENTION)
        return
    yield from (place / part for part in _TRANSFORMER)
    for block in range(config.depth(level)):
        theirs = f"transformer_blocks.{block}"
        inside = place / Name(f"blocks.{block}", theirs, theirs)
        yield from (inside / part for part in _TRANSFORMER_BLOCK)


_VAE_RES = _everywhere("norm1", "conv1", "norm2", "conv2")
_VAE_SKIP = Name("skip", "conv_shortcut", "nin_shortcut")
_VAE_ATTENTION = (
    Name("norm", "group_norm", "norm"),
    Name("attention.to_q", "to_q", "q"),
    Name("attention.to_k", "to_k", "k"),
    Name("attention.to_v", "to_v", "v"),
    Name("attention.to_out", "to_out.0", "proj_out"),
)


def vae_names(config: AutoencoderKLConfig) -> Iterator[Name]:
    """The modules of an AutoencoderKL: diffusers', and those of "first_stage_model"."""
    widths = config.block_out_channels
    last, half = len(widths) - 1, Name("conv", "conv", "conv")
    encoder, decoder = _everywhere("encoder", "decoder")
    for level, width in enumerate(widths):
        stage = encoder / Name(f"down.{level}", f"down_blocks.{level}", f"down.{level}")
        yield from _vae_stage(stage, config.layers_per_block, widths[max(level - 1, 0)] != width)
        if level < last:
            yield stage / Name("resample", "downsamplers.0", "downsample") / half
        stage = decoder / Name(f"up.{level}", f"up_blocks.{last - level}", f"up.{level}")
        yield from _vae_stage(stage, config.layers_per_block + 1, widths[min(level + 1, last)] != width)
        if level > 0:
            yield stage / Name("resample", "upsamplers.0", "upsample") / half
    for side in (encoder, decoder):
        yield side / Name("conv_in", "conv_in", "conv_in")
        yield from _vae_res(side / Name("mid.before", "mid_block.resnets.0", "mid.block_1"))
        if config.mid_block_add_attention:
            attention = side / Name("mid.attention", "mid_block.attentions.0", "mid.attn_1")
            yield from (attention / part for part in _VAE_ATTENTION)
        yield from _vae_res(side / Name("mid.after", "mid_block.resnets.1", "mid.block_2"))
        yield side / Name("norm_out", "conv_norm_out", "norm_out")
        yield side / Name("conv_out", "conv_out", "conv_out")
    if config.use_quant_conv:
        yield Name("encoder.quant", "quant_conv", "quant_conv")
    if config.use_post_quant_conv:
        yield Name("decoder.quant", "post_quant_conv", "post_quant_conv")


def _vae_stage(stage: Name, blocks: int, skip: bool) -> Iterator[Name]:
    for block in range(blocks):
        inside = stage / Name(f"blocks.{block}", f"resnets.{block}", f"block.{block}")
        yield from _vae_res(inside, skip and block == 0)


def _vae_res(place: Name, skip: bool = False) -> Iterator[Name]:
    yield from (place / part for part in _VAE_RES)
    if skip:
        yield place / _VAE_SKIP


def text_names(config: TextConfig) -> Iterator[Name]:
    """The modules of a text encoder: CLIPTextModel's and CLIPTextModelWithProjection's.

    The files of Stable Diffusion 1 use the same names; OpenCLIP's are `noisette.hub.openclip`'s business.
    """
    yield _text("token_embedding", "text_model.embeddings.token_embedding")
    if config.positions:
        yield _text("position_embedding", "text_model.embeddings.position_embedding")
    for layer in range(config.num_hidden_layers):
        ours, theirs = f"layers.{layer}", f"text_model.encoder.layers.{layer}"
        for which in (1, 2):
            yield _text(f"{ours}.norm{which}", f"{theirs}.layer_norm{which}")
            yield _text(f"{ours}.fc{which}", f"{theirs}.mlp.fc{which}")
        for which in ("q", "k", "v"):
            yield _text(f"{ours}.to_{which}", f"{theirs}.self_attn.{which}_proj")
        yield _text(f"{ours}.to_out", f"{theirs}.self_attn.out_proj")
    yield _text("final_norm", "text_model.final_layer_norm")
    if config.projection_dim is not None:
        yield _text("text_projection", "text_projection")


def _text(ours: str, theirs: str) -> Name:
    return Name(ours, theirs, theirs)


def dit_names(config: DiTConfig) -> Iterator[Name]:
    """The modules of a diffusion transformer: DiTTransformer2DModel's, which has no pooled vector.

    Diffusers repeats the embeddings of time and class in every block ("transformer_blocks.<i>.norm1.emb"), in
    the released weights with equal values. Of a config that shares them only block 0's are named.
    """
    for block in range(config.depth if config.own_embeddings else 1):
        place = Name(f"embeddings.{block}", f"transformer_blocks.{block}.norm1.emb")
        yield place / Name("time.linear1", "timestep_embedder.linear_1")
        yield place / Name("time.linear2", "timestep_embedder.linear_2")
        if config.num_classes is not None:
            yield place / Name("label.table", "class_embedder.embedding_table")
        if config.pooled_dim is not None:
            yield place / Name("pooled", "")
    yield Name("patches", "pos_embed.proj")
    attentions = [("attention", "attn1")]
    if config.context_dim is not None:
        attentions.append(("cross_attention", "attn2"))
    for block in range(config.depth):
        place = Name(f"blocks.{block}", f"transformer_blocks.{block}")
        for ours, theirs in attentions:
            for part in ("to_q", "to_k", "to_v"):
                yield place / Name(f"{ours}.{part}", f"{theirs}.{part}")
            yield place / Name(f"{ours}.to_out", f"{theirs}.to_out.0")
        yield place / Name("mlp_in", "ff.net.0.proj")
        yield place / Name("mlp_out", "ff.net.2")
        yield place / Name("modulation", "norm1.linear")
    yield Name("modulation_out", "proj_out_1")
    yield Name("linear_out", "proj_out_2")


def renamed(
    state: Mapping[str, Tensor], names: Iterable[Name], source: Column, target: Column
) -> dict[str, Tensor]:
    """A state dict under the names of another column; the tensors are the same objects, unmoved.

    A key that no row explains stays as it is, for the caller to report. Older spellings are understood, never
    written: "query", "key", "value", "proj_attn" of diffusers' attention, and transformers' text models
    without "text_model.". Raises UserError where two spellings of one tensor are there.
    """
    table: dict[str, str] = {}
    for row in names:
        if getattr(row, target):
            table |= {spelling: getattr(row, target) for spelling in _spellings(getattr(row, source))}
    found: dict[str, Tensor] = {}
    for key, tensor in state.items():
        module, _, leaf = key.rpartition(".")
        name = f"{table[module]}.{leaf}" if module in table else key
        if name in found:
            raise UserError(
                f"the weights hold {name!r} twice, under an old and a new name: remove one of them"
            )
        found[name] = tensor
    return found


_OLD_ATTENTION = {".to_q": ".query", ".to_k": ".key", ".to_v": ".value", ".to_out.0": ".proj_attn"}


def _spellings(name: str) -> Iterator[str]:
    if name:
        yield name
    if name.startswith("text_model."):
        yield name.removeprefix("text_model.")
    for new, old in _OLD_ATTENTION.items():
        block = name.removesuffix(new)
        if block != name and block.rpartition(".")[0].endswith("attentions"):
            yield block + old


def fitted(state: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Tensors with as many trailing dimensions of 1 as ``shapes`` has: 1x1 convolutions and linear maps.

    They are views of the same storage. What differs in more than that, or is not in ``shapes``, is left as it
    is, for the caller to report.
    """
    return {
        key: tensor.reshape(tuple(shapes[key]))
        if key in shapes and _core(tensor.shape) == _core(shapes[key])
        else tensor
        for key, tensor in state.items()
    }


def _core(shape: Sequence[int]) -> tuple[int, ...]:
    end = len(shape)
    while end and shape[end - 1] == 1:
        end -= 1
    return tuple(shape[:end])
