"""Tensors in files: read without running anything, and put into networks without a second copy."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from noisette.errors import UserError

__all__ = ["assigned", "read_safetensors", "read_tensors", "unfilled", "unpickled"]

M = TypeVar("M", bound=nn.Module)

PICKLED = (".ckpt", ".pt", ".pth", ".bin")
"""Endings of files that torch writes; any other is read as safetensors."""

MAPPED_TOGETHER = 16
"""Tensors of one mapping of a file."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, memory-mapped, in the precision they are kept in.

    A safetensors file; or, by its ending, one of torch's, of which only tensors are read and nothing is run.
    Raises UserError for whatever else it is.
    """
    if path.suffix.lower() not in PICKLED:
        return read_safetensors(path)
    return _tensors_in(unpickled(path), path)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, memory-mapped a few together. Raises UserError for a broken one.

    Pages that were looked at count as memory until all tensors of their mapping are gone: with one mapping
    for the whole file, a network that is cast tensor by tensor would hold all of it beside the copy.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
        found: dict[str, Tensor] = {}
        for first in range(0, len(names), MAPPED_TOGETHER):
            with safe_open(path, framework="pt") as file:
                found |= {name: file.get_tensor(name) for name in names[first : first + MAPPED_TOGETHER]}
        return found
    except (SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{path} is not a whole safetensors file: {_first_line(error)}") from None


def unpickled(path: Path) -> Any:
    """What a file of torch's holds, as far as it is tensors, numbers and texts; nothing in it is run.

    Raises UserError for what holds more, and for a damaged file.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    try:
        # Files of before torch 1.6 are no archives, and cannot be mapped.
        with path.open("rb") as file:
            mapped = file.read(2) == b"PK"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of old and new ways to pickle
            return torch.load(path, weights_only=True, map_location="cpu", mmap=mapped)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} holds more than tensors, which was not run: convert it where you trust it, or ask "
            "for a safetensors file"
        ) from None
    # What damaged bytes make of torch's reader is anything: none of it is for the person at the keyboard.
    except Exception as error:
        raise UserError(f"{path} is not a whole file of torch's: {_first_line(error)}") from None


def _tensors_in(content: Any, path: Path) -> dict[str, Tensor]:
    """A state dict, also where it lies in a dictionary under "state_dict"."""
    inner = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(inner, Mapping):
        raise UserError(f"{path} holds no dictionary of tensors")
    found = {str(key): value for key, value in inner.items() if isinstance(value, Tensor)}
    if not found:
        raise UserError(f"{path} holds no tensors")
    return found


def unfilled(build: Callable[[], M]) -> M:
    """The network that ``build`` makes, without storage: no memory is taken and no weight is drawn."""
    with torch.device("meta"), _NoDraws():
        return build()


def assigned(net: M, state: Mapping[str, Tensor], where: str) -> M:
    """An `unfilled` network with ``state`` as its weights: the same tensors, uncast.

    ``where`` names the weights in messages. Raises UserError for missing or unknown tensors, wrong shapes,
    and numbers that are no weights: a description that does not match its weights costs nothing.
    """
    expected = net.state_dict()
    missing, unknown = expected.keys() - state.keys(), state.keys() - expected.keys()
    if missing or unknown:
        count, word = (len(missing), "misses") if missing else (len(unknown), "has unknown")
        example = min(missing or unknown)
        raise UserError(f"{where} {word} {count} tensors of this network, such as {example!r}")
    for name, tensor in expected.items():
        if tensor.shape != state[name].shape:
            found, wanted = list(state[name].shape), list(tensor.shape)
            raise UserError(f"{where}: {name!r} has shape {found}, but the network described needs {wanted}")
        if tensor.is_floating_point() != state[name].is_floating_point():
            raise UserError(f"{where}: {name!r} holds {state[name].dtype}, which are not weights")
    net.load_state_dict(state, strict=True, assign=True)
    return net


class _NoDraws(TorchFunctionMode):
    """Leaves weights undrawn: on the meta device `normal_` would import torch's compiler, for nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (Tensor.normal_, nn.init.normal_):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
