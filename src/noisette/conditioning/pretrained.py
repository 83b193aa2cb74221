"""Text encoders that others trained, frozen: CLIP, T5 and their kin, through transformers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from noisette.conditioning.tokenizer import without_surrogates
from noisette.core import Cond
from noisette.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CLIPS = ("clip", "clip_text_model")


@dataclass(frozen=True)
class PretrainedText:
    """Which text encoder to use, and how to read it; `load` gives the encoder.

    ``name``: a folder, or a model of the Hugging Face hub (downloaded once, if it is not there already).
    ``max_length``: tokens per text; what is longer is cut. ``layer`` counts states as `nets.text` does: -1 is
    the last, -2 the one before. ``final_norm`` puts CLIP's last norm on the state that is read (Stable
    Diffusion: layer -1 with it; SDXL: layer -2 without); T5 has it in its last state and in no other.
    ``dtype``: the precision of the weights. Raises UserError for a value that is none of these.
    """

    name: str
    max_length: int = 77
    layer: int = -1
    final_norm: bool = True
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UserError(f"dtype {self.dtype!r} is not one of {', '.join(DTYPES)}")
        if self.max_length < 2:
            raise UserError(f"max_length {self.max_length} must be at least 2")

    def load(self, device: torch.device | str | None = None) -> FrozenText:
        """The encoder, frozen, on a device. Reads safetensors only, and never runs code of the model's.

        Raises UserError when transformers is missing, when the model is neither here nor to be downloaded,
        and when it does not fit ``max_length`` or ``layer``.
        """
        try:
            import transformers  # noqa: F401
        except ImportError:
            raise UserError(
                f"the text encoder {self.name} needs transformers: pip install noisette[transformers]"
            ) from None
        model, tokenizer = self._read()
        states, places = (
            model.config.num_hidden_layers,
            getattr(model.config, "max_position_embeddings", None),
        )
        if places is not None and self.max_length > places:
            raise UserError(f"{self.name} reads {places} tokens, so max_length {self.max_length} is too long")
        if not -states - 1 <= self.layer <= states:
            raise UserError(f"{self.name} has {states} layers, so layer {self.layer} is none of its states")
        if tokenizer.pad_token is None:
            raise UserError(f"the tokenizer of {self.name} has no padding token, so texts cannot be batched")
        return FrozenText(self, model.requires_grad_(False).eval().to(device), tokenizer)

    def _read(self) -> tuple[Any, PreTrainedTokenizerBase]:
        from safetensors import SafetensorError

        # What is here already is taken as it is; the network is asked only for what is missing.
        reason = ""
        for local in (True,) if Path(self.name).is_dir() else (True, False):
            try:
                return self._read_from(local)
            except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"the text encoder {self.name} cannot be loaded ({reason[:200]}): name a folder with its "
            "config.json, safetensors and tokenizer, or be online for a model of the Hugging Face hub"
        )

    def _read_from(self, local: bool) -> tuple[Any, PreTrainedTokenizerBase]:
        import transformers

        where = {"local_files_only": local, "trust_remote_code": False}
        config = transformers.AutoConfig.from_pretrained(self.name, **where)
        kind: Any = transformers.AutoModelForTextEncoding
        if config.model_type in CLIPS:
            projects = "CLIPTextModelWithProjection" in (config.architectures or ())
            kind = transformers.CLIPTextModelWithProjection if projects else transformers.CLIPTextModel
        with _quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(self.name, **where)
            model, report = kind.from_pretrained(
                self.name, **where, use_safetensors=True, dtype=DTYPES[self.dtype], output_loading_info=True
            )
        if missing := sorted(report["missing_keys"]):
            raise UserError(f"its weights lack {len(missing)} tensors, such as {missing[0]}")
        return model, tokenizer


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the table of weights that are not used: the decoder of T5, the eyes of CLIP."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


class FrozenText:
    """A loaded encoder: ``encoder(texts) -> {"tokens": [B, L, D], ...}``, with no gradient, L = max_length.

    T5 and others add "token_mask" [B, L], False on padding. CLIP adds "pooled" [B, P] and no mask, because
    Stable Diffusion's networks were trained to see its padding. Texts longer than L are cut.
    """

    def __init__(
        self, spec: PretrainedText, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self.spec, self.model, self.tokenizer = spec, model, tokenizer
        self.is_clip = model.config.model_type in CLIPS

    @property
    def device(self) -> torch.device:
        """Where the encoder is, and where its conditions are made."""
        return next(self.model.parameters()).device

    @cached_property
    def identity(self) -> str:
        """A digest of all that decides what a text becomes: weights, tokenizer, length, layer, precision.

        The name is left out: the same weights are the same encoder wherever they lie. Reads all weights.
        """
        digest = hashlib.sha256()
        spec = {key: value for key, value in asdict(self.spec).items() if key != "name"}
        digest.update(json.dumps([spec, _tokenizer_record(self.tokenizer)], sort_keys=True).encode())
        digest.update(json.dumps(_architecture(self.model), sort_keys=True, default=str).encode())
        for name, tensor in self.model.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Cond:
        batch = self.tokenizer(
            [without_surrogates(text) for text in texts],
            padding="max_length",
            truncation=True,
            max_length=self.spec.max_length,
            return_tensors="pt",
        ).to(self.device)
        mask: Tensor = batch["attention_mask"]
        seen = {} if self.is_clip else {"attention_mask": mask}
        out: Any = self.model(input_ids=batch["input_ids"], **seen, output_hidden_states=True)
        tokens = out.hidden_states[self.spec.layer]
        if not self.is_clip:
            return {"tokens": tokens, "token_mask": mask.bool()}
        if self.spec.final_norm:
            tower: Any = getattr(self.model, "text_model", self.model)
            tokens = tower.final_layer_norm(tokens)
        return {"tokens": tokens, "pooled": out.get("text_embeds", out.get("pooler_output"))}


def _tokenizer_record(tokenizer: Any) -> Any:
    """What a tokenizer does to a text, without how its last call happened to pad and cut."""
    if not hasattr(tokenizer, "backend_tokenizer"):
        return sorted(tokenizer.get_vocab().items())
    record = json.loads(tokenizer.backend_tokenizer.to_str())
    return {key: value for key, value in record.items() if key not in ("padding", "truncation")} | {
        "pad": tokenizer.pad_token_id,
        "side": [tokenizer.padding_side, tokenizer.truncation_side],
    }


def _architecture(model: Any) -> dict[str, Any]:
    """The numbers of a config that shape a network, without its name and the version that wrote it."""
    config = model.config.to_dict()
    skipped = ("_name_or_path", "transformers_version", "architectures", "torch_dtype", "dtype")
    return {key: value for key, value in config.items() if key not in skipped}
