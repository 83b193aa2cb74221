"""The README of a model folder."""

from __future__ import annotations

from collections.abc import Mapping

from noisette.hub.folder import Notes
from noisette.hub.generator import GeneratorSpec
from noisette.hub.spec import AutoencoderSpec, ModelSpec

_CARD = """---
library_name: noisette
pipeline_tag: {task}
---
# {name}

{kind} for noisette.

| | |
|---|---|
{rows}
```python
import noisette

{call}
```
"""


def model_card(spec: ModelSpec, parameters: int, notes: Notes) -> str:
    """The model card in Markdown: what it draws, what it learned from, how to call it."""
    facts: dict[str, object] = {"images": f"{spec.image_size} x {spec.image_size}, {spec.channels} channels"}
    if spec.text is None:
        facts["labels"] = "none" if spec.labels is None else ", ".join(spec.labels)
    facts |= {
        "parameters": f"{parameters:,}",
        "network": repr(spec.net),
        "text encoder": spec.text,
        "autoencoder": spec.codec,
        "schedule": repr(spec.schedule),
        "parameterization": repr(spec.parameterization),
        **notes,
    }
    told = f"label={spec.labels[0]!r}, " if spec.labels else '"a red cube", ' if spec.text else ""
    return _CARD.format(
        name=spec.name,
        task="unconditional-image-generation" if spec.text is None else "text-to-image",
        kind="A diffusion model",
        rows=_rows(facts),
        call=f'noisette.load("path/to/this/folder").generate({told}seed=0).images',
    )


def autoencoder_card(spec: AutoencoderSpec, parameters: int, notes: Notes) -> str:
    """The card of an autoencoder by itself."""
    facts = {"images": f"{spec.image_size} x {spec.image_size}", "parameters": f"{parameters:,}"}
    return _CARD.format(
        name=spec.name,
        task="image-to-image",
        kind="The autoencoder of latent diffusion models",
        rows=_rows({**facts, "network": repr(spec.codec), **notes}),
        call='noisette.models.Autoencoder.load("path/to/this/folder")',
    )


def generator_card(spec: GeneratorSpec, parameters: int, notes: Notes) -> str:
    """The card of a model that draws in one call."""
    facts = {
        "images": f"{spec.image_size} x {spec.image_size}, {spec.channels} channels",
        "labels": ", ".join(spec.labels),
        "parameters": f"{parameters:,}",
        "temperature": spec.temperature,
    }
    call = f'Generator.load("path/to/this/folder").generate({spec.labels[0]!r}, seed=0).images'
    return _CARD.format(
        name=spec.name,
        task="unconditional-image-generation",
        kind=spec.kind,
        rows=_rows({**facts, "network": repr(spec.net), **notes}),
        call=f"from noisette.models import Generator\n\n{call}",
    ).replace("import noisette\n\nfrom", "from")


def _rows(facts: Mapping[str, object]) -> str:
    return "".join(f"| {key} | {_cell(value)} |\n" for key, value in facts.items() if value is not None)


def _cell(value: object) -> str:
    return " ".join(str(value).replace("|", "\\|").split())
