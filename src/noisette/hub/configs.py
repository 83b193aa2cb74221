"""The config.json of diffusers' and transformers' networks, read as configs of ours and written again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from noisette.errors import UserError
from noisette.nets import DiTConfig, UNetConfig
from noisette.nets.text import TextConfig
from noisette.nets.vae import AutoencoderKLConfig

__all__ = ["dit_config", "pixel_unet_config", "text_config", "unet_config", "vae_config"]

Json = Mapping[str, Any]

# What a config must say, where it says anything, for the network to be one of ours.
_UNET: Json = {
    "act_fn": "silu",
    "addition_embed_type_num_heads": 64,
    "attention_type": "default",
    "center_input_sample": False,
    "class_embed_type": None,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "mid_block_only_cross_attention": None,
    "mid_block_scale_factor": 1,
    "num_class_embeds": None,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "reverse_transformer_layers_per_block": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "timestep_post_act": None,
}
_PIXEL_UNET: Json = {
    "act_fn": "silu",
    "add_attention": True,
    "attn_norm_num_groups": None,
    "center_input_sample": False,
    "class_embed_type": None,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2D",
    "num_class_embeds": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
}
_VAE: Json = {"act_fn": "silu", "latents_mean": None, "latents_std": None}
_DIT: Json = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "cross_attention_dim": None,
    "norm_elementwise_affine": False,
    "norm_type": "ada_norm_zero",
}


P = ParamSpec("P")
C = TypeVar("C")


def _stranger(read: Callable[P, C]) -> Callable[P, C]:
    """Values come from a stranger: whatever a reader stumbles over, its words are the message."""

    @wraps(read)
    def reading(*args: P.args, **options: P.kwargs) -> C:
        try:
            return read(*args, **options)
        except UserError:
            raise
        except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            kind = read.__name__.removesuffix("_config").replace("_", " ")
            raise UserError(f"this config of a {kind} has a value of the wrong kind: {reason:.120}") from None

    return reading


@_stranger
def unet_config(json: Json, *, pooled_dim: int | None = None) -> UNetConfig:
    """A U-Net that reads tokens: Stable Diffusion's 1, 2, XL and their inpainting and refiner forms.

    More input than output channels are image conditions. ``pooled_dim`` is the width of the pooled text where
    the network takes one ("text_time"); what its projection takes beyond that are sizes. What their configs
    call ``attention_head_dim`` is the number of heads.
    Raises UserError for an unknown field with a value, and for kinds of blocks that are not ours.
    """
    widths = _widths(json, "UNet2DConditionModel")
    _require(json, _UNET, "UNet2DConditionModel")
    _require(json, {"mid_block_type": "UNetMidBlock2DCrossAttn", "only_cross_attention": False}, "U-Net")
    levels = len(widths)
    blocks = _block_types(json, levels, ("CrossAttnDownBlock2D", "DownBlock2D"), "UpBlock2D")
    heads = json.get("num_attention_heads") or json.get("attention_head_dim", 8)
    depth = json.get("transformer_layers_per_block", 1)
    given = int(json.get("in_channels", 4)), int(json.get("out_channels", 4))
    if given[0] < given[1]:
        raise UserError(f"this U-Net takes {given[0]} channels and gives {given[1]}: it is none of ours")
    return UNetConfig(
        in_channels=given[1],
        out_channels=given[1],
        concat_channels=given[0] - given[1],
        attention_levels=tuple(i for i, kind in enumerate(blocks) if kind.startswith("Cross")),
        num_heads=_per_level(heads, levels),
        transformer_depth=_per_level(depth, levels),
        context_dim=_one(json.get("cross_attention_dim", 1280), "cross_attention_dim"),
        guidance_dim=json.get("time_cond_proj_dim"),
        **_shared(json, widths),
        **_added(json, pooled_dim),
    )


@_stranger
def pixel_unet_config(json: Json) -> UNetConfig:
    """A U-Net that is told nothing but the time: DDPM's and its relatives'. UserError as in `unet_config`."""
    widths = _widths(json, "UNet2DModel")
    _require(json, _PIXEL_UNET, "UNet2DModel")
    names = ("AttnDownBlock2D", "DownBlock2D", "ResnetDownsampleBlock2D")
    blocks = _block_types(json, len(widths), names, "UpBlock2D", "ResnetUpsampleBlock2D")
    folds = json.get("downsample_type", "conv"), json.get("upsample_type", "conv")
    resnets = [kind.startswith("Resnet") for kind in blocks if not kind.startswith("Attn")]
    resnet = folds == ("resnet", "resnet")
    if any(fold not in ("conv", "resnet") for fold in folds) or folds[0] != folds[1]:
        raise UserError(f"U-Nets that halve by {folds[0]!r} and double by {folds[1]!r} are not known here")
    if any(one != resnet for one in resnets):
        raise UserError("U-Nets that mix blocks with and without a changing resolution are not known here")
    head = json.get("attention_head_dim", 8)
    return UNetConfig(
        in_channels=json.get("in_channels", 3),
        out_channels=json.get("out_channels", 3),
        **_shared(json, widths),
        attention_levels=tuple(i for i, kind in enumerate(blocks) if kind.startswith("Attn")),
        head_channels=head,
        num_heads=1,
        resblock_updown=resnet,
        asymmetric_down=json.get("downsample_padding", 1) == 0,
    )


@_stranger
def vae_config(json: Json) -> AutoencoderKLConfig:
    """The autoencoder of latent diffusion. Raises UserError for fields and blocks that are not known here."""
    _require(json, _VAE, "AutoencoderKL")
    known = {field.name for field in fields(AutoencoderKLConfig)} - {"patch_size"}
    given: dict[str, Any] = {name: value for name, value in json.items() if name in known}
    given.setdefault("block_out_channels", (64,))
    given.setdefault("layers_per_block", 1)
    levels = len(given["block_out_channels"])
    for side, kind in (("down", "DownEncoderBlock2D"), ("up", "UpDecoderBlock2D")):
        found = tuple(json.get(f"{side}_block_types", (kind,) * levels))
        if found != (kind,) * levels:
            raise UserError(f"autoencoders with {side}_block_types {list(found)} are not known here")
    return AutoencoderKLConfig(**given)


@_stranger
def text_config(json: Json) -> TextConfig:
    """CLIP's text tower; projected where the config is that of a CLIPTextModelWithProjection."""
    json = json.get("text_config", json)
    _require(json, {}, "CLIPTextModel")
    known = {field.name for field in fields(TextConfig)} - {"projection_dim", "positions"}
    defaults = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
    given: dict[str, Any] = {**defaults, **{name: value for name, value in json.items() if name in known}}
    if "CLIPTextModelWithProjection" in (json.get("architectures") or ()):
        given["projection_dim"] = json.get("projection_dim", 512)
    return TextConfig(**given)


@_stranger
def dit_config(json: Json, *, own_embeddings: bool = False) -> DiTConfig:
    """The class-conditional diffusion transformer. Raises UserError for fields that are not known here.

    Their sines of time run with a shift of 1, the authors' without: weights are the same, pictures differ by
    little; here as there.
    """
    _require(json, _DIT, "DiTTransformer2DModel")
    heads, size = json.get("num_attention_heads", 16), json.get("attention_head_dim", 72)
    given = json.get("in_channels", 4)
    made = json.get("out_channels") or given
    if made not in (given, 2 * given):
        raise UserError(f"this transformer takes {given} channels and gives {made}: it is none of ours")
    labels = json.get("num_embeds_ada_norm", 1000)
    values: dict[str, Any] = {
        "in_channels": given,
        "out_channels": given,
        "learned_variance": made == 2 * given,
        "patch_size": json.get("patch_size", 2),
        "dim": heads * size,
        "depth": json.get("num_layers", 28),
        "num_heads": heads,
        "freq_shift": 1.0,
        "num_classes": labels,
        "own_embeddings": own_embeddings,
        "mlp_norm_eps": float(json.get("norm_eps", 1e-5)),
    }
    return DiTConfig(**values)


def text_json(config: TextConfig) -> dict[str, Any]:
    """The config.json of transformers for one of our text encoders."""
    kind = "CLIPTextModel" + ("WithProjection" if config.projection_dim is not None else "")
    values = {name: value for name, value in asdict(config).items() if name != "positions"}
    if config.projection_dim is None:
        values["projection_dim"] = config.hidden_size
    return {"architectures": [kind], "model_type": "clip_text_model", **values}


def _shared(json: Json, widths: tuple[int, ...]) -> dict[str, Any]:
    """What both kinds of U-Net say in the same words."""
    style = json.get("resnet_time_scale_shift", "default")
    if style not in ("default", "scale_shift"):
        raise UserError(f"resnet_time_scale_shift {style!r} is not known here")
    return {
        "model_channels": widths[0],
        "channel_mult": tuple(width // widths[0] for width in widths),
        "num_res_blocks": _one(json.get("layers_per_block", 2), "layers_per_block"),
        "flip_sin_to_cos": json.get("flip_sin_to_cos", True),
        "freq_shift": float(json.get("freq_shift", 0)),
        "scale_shift": style == "scale_shift",
        "norm_groups": json.get("norm_num_groups", 32),
        "norm_eps": float(json.get("norm_eps", 1e-5)),
        "dropout": float(json.get("dropout", 0.0)),
    }


def _widths(json: Json, kind: str) -> tuple[int, ...]:
    default = (320, 640, 1280, 1280) if kind == "UNet2DConditionModel" else (224, 448, 672, 896)
    widths = tuple(json.get("block_out_channels", default))
    whole = all(isinstance(width, int) and width > 0 for width in widths)
    if not widths or not whole or any(width % widths[0] for width in widths):
        raise UserError(
            f"a {kind} with block_out_channels {list(widths)}: each must be a multiple of the first"
        )
    return widths


def _block_types(json: Json, levels: int, downs: tuple[str, ...], *ups: str) -> tuple[str, ...]:
    """The kind of each level on the way down; the way up must mirror it."""
    attending, plain = downs[0], downs[1]
    default = (attending,) * (levels - 1) + (plain,)
    found = tuple(json.get("down_block_types", default))
    strange = [kind for kind in found if kind not in downs]
    if strange or len(found) != levels:
        raise UserError(f"down_block_types {strange or list(found)} are not known here: {', '.join(downs)}")
    mirrored = json.get("up_block_types")
    if mirrored is not None:
        attends = [kind.startswith(("Cross", "Attn")) for kind in found]
        known = (*ups, attending.replace("Down", "Up"))
        if [kind.startswith(("Cross", "Attn")) for kind in reversed(mirrored)] != attends:
            raise UserError("up_block_types do not mirror down_block_types: such a U-Net is not known here")
        if any(kind not in known for kind in mirrored):
            raise UserError(f"up_block_types {list(mirrored)} are not known here: {', '.join(known)}")
    return found


def _added(json: Json, pooled_dim: int | None) -> dict[str, Any]:
    """The pooled vector and the sizes that join the time."""
    kind = json.get("addition_embed_type")
    if kind is None:
        return {}
    total, waves = json.get("projection_class_embeddings_input_dim"), json.get("addition_time_embed_dim")
    if kind != "text_time" or not isinstance(total, int) or not isinstance(waves, int) or waves < 1:
        raise UserError(f"addition_embed_type {kind!r} is not known here: text_time is")
    if pooled_dim is None or (total - pooled_dim) % waves or total <= pooled_dim:
        raise UserError(f"a pooled text of {pooled_dim} does not fit into {total} with waves of {waves}")
    return {"pooled_dim": pooled_dim, "size_count": (total - pooled_dim) // waves, "size_waves": waves}


def _per_level(value: Any, levels: int) -> int | tuple[int, ...]:
    if isinstance(value, int):
        return value
    if isinstance(value, list | tuple) and len(value) == levels and all(isinstance(v, int) for v in value):
        return value[0] if len(set(value)) == 1 else tuple(value)
    raise UserError(f"{value!r:.60} should be a whole number, or one for each of {levels} levels")


def _one(value: Any, name: str) -> int:
    values = set(value) if isinstance(value, list | tuple) else {value}
    if len(values) != 1 or not isinstance(only := values.pop(), int):
        raise UserError(f"{name} {value!r:.60} differs from level to level, which is not known here")
    return only


MOST_LAYERS, LARGEST = 256, 2**20
_LAYERS = ("layers_per_block", "transformer_layers_per_block", "num_hidden_layers", "num_layers")


def _require(json: Json, wanted: Json, kind: str) -> None:
    """Refuse what the network cannot be, and numbers that would take for ever to build."""
    for name, value in json.items():
        counts = value if isinstance(value, list | tuple) else [value]
        most = MOST_LAYERS if name in _LAYERS else LARGEST
        if any(isinstance(count, int) and count > most for count in counts) or len(counts) > MOST_LAYERS:
            raise UserError(f"a {kind} with {name} = {value!r:.40} is beyond what can be built")
    for name, value in wanted.items():
        found = json.get(name, value)
        if found != value:
            raise UserError(f"a {kind} with {name} = {found!r:.40} is not known here, only {value!r}")
