"""LoRA files, read and written in the dialects of kohya, diffusers and PEFT.

| dialect | a key | its alpha |
| --- | --- | --- |
| kohya | `lora_unet_down_blocks_0_..._attn1_to_q.lora_down.weight` | a tensor `.alpha` of each module |
| diffusers, now | `unet.down_blocks.0....attn1.to_q.lora_A.weight` | the file's metadata |
| diffusers, before | `unet.down_blocks.0....attn1.to_q.lora.down.weight` | a tensor, or none |
| diffusers, first | `down_blocks.0....attn1.processor.to_q_lora.down.weight` | a tensor, or none |
| PEFT | `base_model.model.down_blocks.0....attn1.to_q.lora_A.weight` | `adapter_config.json` beside it |

Where nothing is said, alpha is the rank and the scale 1. kohya turns the dots of a module's name into
underscores, and no rule turns them back; so every spelling of every module of the model at hand is
written down first (also with the names of the first releases, which files for SDXL use), and a module of the
file is looked up among them. What is not found there is an error, never left out in silence.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from noisette.adapters import LowRank
from noisette.errors import UserError
from noisette.files import atomic_write, ensure_writable
from noisette.hub.names import Name
from noisette.hub.records import parse_json
from noisette.hub.tensors import PICKLED, read_tensors

__all__ = ["LoraFile", "read_lora", "write_lora"]

Tables = Mapping[str, Iterable[Name]]

PEFT_WEIGHTS, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
DIFFUSERS_WEIGHTS, DIFFUSERS_CONFIG = "pytorch_lora_weights.safetensors", "lora_adapter_metadata"
PEFT_PREFIX = "base_model.model."
LARGEST_CONFIG = 2**22

# The first that fits counts. The last two pairs leave "to_q_lora" as the module, a spelling of its own.
_ROLES = {
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_A.default.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".down.weight": "down",
    ".up.weight": "up",
    ".alpha": "alpha",
}
# Other methods that come in files of the same look; their updates are not a product of two matrices.
_OTHERS = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "oft_": "OFT",
    "lora_mid": "a Tucker decomposition",
}
_KOHYA = {
    "unet": ("lora_unet_",),
    "text_encoder": ("lora_te_", "lora_te1_"),
    "text_encoder_2": ("lora_te2_",),
}


@dataclass(frozen=True, eq=False)
class LoraFile:
    """The low-rank updates in a file, by the names that the file has for their modules.

    ``metadata`` are the notes that came along, such as kohya's on the training; ``where`` names the file.
    """

    where: str
    modules: Mapping[str, LowRank]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def updates(self, tables: Tables) -> dict[str, dict[str, LowRank]]:
        """The updates by part of the model and by our path in it, as `adapters.attach` takes them.

        ``tables``: the names (`hub.names`) of each part, "unet", "text_encoder", "text_encoder_2", or
        others. Parts that the file does not touch are left out.
        Raises UserError for modules that no part has, that two parts have, and that the file names twice.
        """
        places = _places(tables)
        found: dict[str, dict[str, LowRank]] = {}
        unknown = [module for module in self.modules if module not in places]
        if unknown:
            raise UserError(
                f"{self.where}: {len(unknown)} of {len(self.modules)} updates are for modules that this "
                f"model does not have, such as {unknown[0][:120]!r}: was it made for another kind of model?"
            )
        for module, update in self.modules.items():
            if len(places[module]) > 1:
                parts = " or ".join(sorted(f"{part}'s {ours}" for part, ours in places[module]))
                raise UserError(
                    f"{self.where}: {module!r} may be {parts}: name only the part that the file is for"
                )
            ((part, ours),) = places[module]
            if ours in found.setdefault(part, {}):
                raise UserError(f"{self.where} holds two updates of {part}'s {ours}, one of them {module!r}")
            found[part][ours] = update
        return {part: found[part] for part in tables if part in found}


def read_lora(path: str | os.PathLike[str]) -> LoraFile:
    """Read a LoRA in any of the dialects above: a file, or a folder as PEFT or diffusers save it.

    Safetensors, or a pickle of nothing but tensors: nothing in a file is ever executed. A rank-stabilised
    alpha (PEFT's ``use_rslora``) becomes the alpha of the same scale; a tensor `.alpha` of 0 counts as none.
    Raises UserError for what cannot be read, for keys of other methods (DoRA, LoHa, LoKr) and of none, for a
    half without the other, halves of different ranks, and numbers that are none.
    """
    file = _file(Path(path))
    tensors, metadata = read_tensors(file), _notes(file)
    halves, alphas = _sorted_out(tensors, str(path))
    configs = _configs(file, metadata)
    modules = {}
    for module, (down, up) in halves.items():
        try:
            rank = down.shape[0] if down.ndim else 0
            alpha = alphas.get(module) or _alpha(configs, module, rank)
            modules[module] = LowRank(down, up, float(rank) if alpha is None else alpha)
        except UserError as error:
            raise UserError(f"{path}: {module[:120]!r}: {error}") from None
    return LoraFile(str(path), modules, metadata)


def _file(path: Path) -> Path:
    if path.is_dir():
        for name in (PEFT_WEIGHTS, DIFFUSERS_WEIGHTS):
            if (path / name).is_file():
                return path / name
        raise UserError(f"{path} holds no LoRA: there is no {PEFT_WEIGHTS} or {DIFFUSERS_WEIGHTS} in it")
    return path


def _notes(file: Path) -> dict[str, str]:
    """The metadata in the header of a safetensors file."""
    from safetensors import safe_open

    if file.suffix.lower() in PICKLED:
        return {}
    with safe_open(file, framework="pt") as opened:
        return opened.metadata() or {}


def _sorted_out(
    tensors: Mapping[str, Tensor], where: str
) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, float]]:
    """The halves, down and up, and the alphas that the keys speak of, by module."""
    found: dict[str, dict[str, Tensor]] = {}
    strange = []
    for key, tensor in tensors.items():
        suffix = next((suffix for suffix in _ROLES if key.endswith(suffix)), "")
        module = key.removesuffix(suffix)
        if not suffix or not module:
            strange.append(key)
        elif _ROLES[suffix] in found.setdefault(module, {}):
            raise UserError(f"{where} holds two updates of {module[:120]!r}")
        else:
            found[module][_ROLES[suffix]] = tensor
    if strange:
        raise UserError(f"{where} {_strangers(strange)}")
    if not found:
        raise UserError(f"{where} holds no LoRA: it is empty")
    if lacking := [module for module, halves in found.items() if not halves.keys() >= {"down", "up"}]:
        raise UserError(
            f"{where}: {len(lacking)} updates lack one of their halves, such as {lacking[0][:120]!r}: "
            "the file is not whole"
        )
    alphas = {module: _number(halves["alpha"]) for module, halves in found.items() if "alpha" in halves}
    return {module: (halves["down"], halves["up"]) for module, halves in found.items()}, alphas


def _strangers(keys: list[str]) -> str:
    """What to say of keys that are not LoRA's."""
    for mark, method in _OTHERS.items():
        if marked := [key for key in keys if mark in key]:
            return (
                f"is not plain LoRA but {method} ({len(marked)} tensors, such as {marked[0][:120]!r}), "
                "which is not read here: fuse it into a model with the tool it came from"
            )
    return f"holds {len(keys)} tensors that are no part of a LoRA, such as {keys[0][:120]!r}"


def _number(alpha: Tensor) -> float:
    return float(alpha) if alpha.numel() == 1 and not alpha.is_complex() else math.nan


def _configs(file: Path, metadata: Mapping[str, str]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """What the file's metadata and the adapter_config.json beside it say; empty where there is nothing."""
    beside, noted = file.with_name(PEFT_CONFIG), metadata.get(DIFFUSERS_CONFIG, "{}")
    inside = parse_json(noted, f"{file}: {DIFFUSERS_CONFIG}")
    outside: Any = {}
    if beside.is_file():
        if beside.stat().st_size > LARGEST_CONFIG:
            raise UserError(f"{beside} is too large to be the description of an adapter")
        outside = parse_json(beside.read_bytes(), str(beside))
    if not isinstance(inside, dict) or not isinstance(outside, dict):
        raise UserError(f"{file}: its description of the adapter is not a JSON object")
    # Another LoRA may lie beside somebody's adapter: the description is for the file that PEFT named.
    return inside, outside if file.stem == Path(PEFT_WEIGHTS).stem else {}


def _alpha(configs: tuple[Mapping[str, Any], Mapping[str, Any]], module: str, rank: int) -> float | None:
    """What a description says of the alpha of a module, None where it says nothing."""
    inside, outside = configs
    part, _, rest = module.partition(".")
    own = {key.removeprefix(f"{part}."): value for key, value in inside.items() if key.startswith(f"{part}.")}
    for config, name in ((own, rest), (inside, module), (outside, module.removeprefix(PEFT_PREFIX))):
        if "lora_alpha" in config:
            patterns = config.get("alpha_pattern") or {}
            if not isinstance(patterns, dict):
                raise UserError(f"its alpha_pattern is {patterns!r:.60}, not a JSON object")
            alpha = next((patterns[one] for one in patterns if _names(one, name)), config["lora_alpha"])
            if isinstance(alpha, bool) or not isinstance(alpha, int | float) or abs(alpha) > 1e30:
                raise UserError(f"its lora_alpha is {alpha!r:.60}, not a number")
            return alpha * math.sqrt(rank) if config.get("use_rslora") is True else float(alpha)
    return None


def _names(pattern: str, module: str) -> bool:
    """Whether a key of alpha_pattern means a module: its name, or the end of it; "^" asks for the whole.

    PEFT takes these keys for regular expressions; a stranger's are not run here, and tools write names.
    """
    name = pattern.removeprefix("^").replace("\\.", ".")
    if not name.replace(".", "").replace("-", "").isidentifier():
        raise UserError(f"its alpha_pattern {pattern[:80]!r} is a rule, and only names of modules are read")
    return module == name or (not pattern.startswith("^") and module.endswith(f".{name}"))


def _places(tables: Tables) -> dict[str, set[tuple[str, str]]]:
    """Every spelling of every module, and the part and our path that it stands for: one, if all is well."""
    places: dict[str, set[tuple[str, str]]] = {}
    for part, names in tables.items():
        for row in names:
            for spelling in _spellings(part, row):
                places.setdefault(spelling, set()).add((part, row.ours))
    return places


def _spellings(part: str, row: Name) -> Iterator[str]:
    # transformers' text models lost their "text_model." on the way; files have it or not.
    theirs = {row.diffusers, row.diffusers.removeprefix("text_model.")} - {""}
    for name in theirs:
        for spelled in (name, *_as_processor(name)):
            yield from (spelled, f"{part}.{spelled}")
            yield from (f"{PEFT_PREFIX}{spelled}", f"{PEFT_PREFIX}{part}.{spelled}")
            yield f"{part}.{PEFT_PREFIX}{spelled}"
    for name in (theirs | {row.ldm}) - {""}:
        yield from (prefix + name.replace(".", "_") for prefix in _prefixes(part))


def _as_processor(name: str) -> Iterator[str]:
    """The first diffusers' names of an attention's projections, which belonged to its "processor"."""
    for ends in (("to_q", "q_proj"), ("to_k", "k_proj"), ("to_v", "v_proj"), ("to_out.0", "out_proj")):
        for end in ends:
            if name.endswith(f".{end}"):
                block, kind = name.removesuffix(end), ends[0].removesuffix(".0")
                yield from (f"{block}processor.{kind}_lora", f"{block}{kind}_lora")


def _prefixes(part: str) -> tuple[str, ...]:
    return _KOHYA.get(part, (f"lora_{part}_",))


def write_lora(
    path: str | os.PathLike[str],
    updates: Mapping[str, Mapping[str, LowRank]],
    tables: Tables,
    dialect: Literal["kohya", "diffusers", "peft"] = "diffusers",
    *,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write updates, by part and by our path, under the names that others know; returns the path.

    ``dialect``: "kohya" is what the web interfaces read, "diffusers" what `load_lora_weights` does; both
    are one safetensors file. "peft" is a folder for one part alone. The tensors keep their precision.
    ``metadata`` are notes for the file. Reading gives the same numbers back, bit for bit.
    Shapes are kept as well: where `proj_in` is a 1x1 convolution elsewhere (Stable Diffusion 1) and a linear
    layer here, an update that was read keeps the other's shape until it is attached, and has ours after that.
    Raises UserError when there is something already and ``overwrite`` is not set, for modules that have no
    name elsewhere, and for a dialect that is none of these; OSError of the disk.
    """
    modules = {part: _theirs(part, found, tables) for part, found in updates.items() if found}
    if not modules:
        raise UserError("there are no updates to write")
    path, notes = ensure_writable(path, overwrite=overwrite), dict(metadata or {})
    match dialect:
        case "kohya":
            _save(_kohya(modules, "text_encoder_2" in tables), path, notes)
        case "diffusers":
            config = {
                f"{part}.{key}": value
                for part, found in modules.items()
                for key, value in _description(found).items()
            }
            _save(_dotted(modules), path, notes | {DIFFUSERS_CONFIG: _json(config)})
        case "peft":
            if len(modules) > 1:
                raise UserError(f"a PEFT folder is for one network, not for {', '.join(modules)}: write each")
            (found,) = modules.values()
            _save(_dotted({PEFT_PREFIX.removesuffix("."): found}), path / PEFT_WEIGHTS, notes)
            with atomic_write(path / PEFT_CONFIG) as file:
                file.write_text(_json({"peft_type": "LORA", **_description(found)}), encoding="utf-8")
        case _:
            raise UserError(f"{dialect!r} is no dialect of LoRA files: kohya, diffusers and peft are")
    return path


def _theirs(part: str, updates: Mapping[str, LowRank], tables: Tables) -> dict[str, LowRank]:
    """The updates of a part by diffusers' names of their modules."""
    names = {row.ours: row.diffusers for row in tables.get(part, ()) if row.diffusers}
    if unknown := [ours for ours in updates if ours not in names]:
        raise UserError(f"{len(unknown)} updates of {part} have no name elsewhere, such as {unknown[0]!r}")
    return {names[ours]: update for ours, update in updates.items()}


def _kohya(modules: Mapping[str, Mapping[str, LowRank]], two_encoders: bool) -> dict[str, Tensor]:
    tensors = {}
    for part, updates in modules.items():
        prefix = _prefixes(part)[-1 if two_encoders else 0]
        for name, update in updates.items():
            key = prefix + name.replace(".", "_")
            alpha = torch.tensor(update.alpha, dtype=torch.float64)
            tensors[f"{key}.lora_down.weight"] = update.down
            tensors[f"{key}.lora_up.weight"] = update.up
            exact = float(alpha.float()) == update.alpha
            tensors[f"{key}.alpha"] = alpha.float() if exact else alpha
    return tensors


def _dotted(modules: Mapping[str, Mapping[str, LowRank]]) -> dict[str, Tensor]:
    tensors = {}
    for part, updates in modules.items():
        for name, update in updates.items():
            tensors[f"{part}.{name}.lora_A.weight"] = update.down
            tensors[f"{part}.{name}.lora_B.weight"] = update.up
    return tensors


def _description(updates: Mapping[str, LowRank]) -> dict[str, Any]:
    """What PEFT's LoraConfig is made of; modules with the most common rank and alpha go without saying."""
    named = {name.removeprefix("text_model."): update for name, update in updates.items()}
    ranks = {name: update.rank for name, update in named.items()}
    alphas = {name: _whole(update.alpha) for name, update in named.items()}
    ((rank, _),), ((alpha, _),) = (
        Counter(ranks.values()).most_common(1),
        Counter(alphas.values()).most_common(1),
    )
    return {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: value for name, value in ranks.items() if value != rank},
        "alpha_pattern": {name: value for name, value in alphas.items() if value != alpha},
        "target_modules": sorted(named),
    }


def _whole(alpha: float) -> int | float:
    return int(alpha) if alpha.is_integer() else alpha


def _json(record: Mapping[str, Any]) -> str:
    return json.dumps(record, indent=2, allow_nan=False)


def _save(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    from safetensors.torch import save_file

    # A file holds each tensor by itself, even where two updates share their memory.
    own = {
        key: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, value in tensors.items()
    }
    with atomic_write(path) as file:
        save_file(own, file, {"format": "pt", **metadata})
