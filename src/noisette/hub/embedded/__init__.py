"""The models that ship inside the package: one folder each, beside this file."""

from __future__ import annotations

import os
from pathlib import Path

from noisette.errors import UserError
from noisette.hub.folder import SPEC, Listing, list_folder

HERE = Path(__file__).parent


def embedded_models(home: Path = HERE) -> list[Listing]:
    """What ships with the package, by name, with sizes and what each was trained on."""
    return [list_folder(path.parent) for path in sorted(home.glob(f"*/{SPEC}"))]


def find_model(name: str | os.PathLike[str], home: Path = HERE) -> Path:
    """The folder of a model: an embedded name, a model folder, or the folder of a training run.

    Embedded names come first; a folder of the same name is meant by ``./name``. Of a run it is the
    ``model`` folder inside. Raises UserError, naming what there is, when nothing fits.
    """
    text = os.fspath(name)
    names = sorted(path.parent.name for path in home.glob(f"*/{SPEC}"))
    if text in names:
        return home / text
    folder = Path(text)
    for candidate in (folder, folder / "model"):
        if text and (candidate / SPEC).is_file():
            return candidate
    known = f"the models that ship are: {', '.join(names)}" if names else "no model ships with this package"
    if text and folder.exists():
        raise UserError(
            f"{text} holds no model: there is no {SPEC} in it nor in its model/ folder, no model_index.json"
        )
    raise UserError(
        f"there is no model {text!r}: name a folder, a .safetensors file, owner/name on the Hub, or a model "
        f"that ships ({known})"
    )
