"""The README of a model folder."""

from __future__ import annotations

from noisette.hub.folder import Notes
from noisette.hub.spec import ModelSpec

_CARD = """---
library_name: noisette
pipeline_tag: unconditional-image-generation
---
# {name}

A diffusion model for noisette.

| | |
|---|---|
{rows}
```python
import noisette

noisette.load("path/to/this/folder").generate({call}seed=0).images
```
"""


def model_card(spec: ModelSpec, parameters: int, notes: Notes) -> str:
    """The model card in Markdown: what it draws, what it learned from, how to call it."""
    facts = {
        "images": f"{spec.image_size} x {spec.image_size}, {spec.channels} channels",
        "labels": "none" if spec.labels is None else ", ".join(spec.labels),
        "parameters": f"{parameters:,}",
        "network": repr(spec.net),
        "schedule": repr(spec.schedule),
        "parameterization": repr(spec.parameterization),
        **notes,
    }
    rows = "".join(f"| {key} | {_cell(value)} |\n" for key, value in facts.items())
    call = f"label={spec.labels[0]!r}, " if spec.labels else ""
    return _CARD.format(name=spec.name, rows=rows, call=call)


def _cell(value: object) -> str:
    return " ".join(str(value).replace("|", "\\|").split())
