"""The folder of a run: who may write there, and what lies in it."""

from __future__ import annotations

import json
import secrets
import shutil
from pathlib import Path

from noisette.files import atomic_write, ensure_writable
from noisette.hub import to_record
from noisette.training.checkpoint import checkpoint_folders
from noisette.training.recipe import Plan
from noisette.training.tasks import Savable

__all__ = ["CHECKPOINTS", "claim", "last_checkpoint", "replace_model"]

CHECKPOINTS = "checkpoints"
OURS = (CHECKPOINTS, "samples", "logs", "model", "recipe.json")


def claim(out: Path, recipe: Plan, *, overwrite: bool) -> None:
    """Make ``out`` the folder of a run of ``recipe``; with ``overwrite`` the run that was there goes.

    Only what a run writes is removed. Raises UserError when something is there and it is not set.
    """
    ensure_writable(out, overwrite=overwrite)
    for name in OURS:
        path = out / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    with atomic_write(out / "recipe.json") as path:
        path.write_text(json.dumps(to_record(recipe), indent=1) + "\n", encoding="utf-8")


def last_checkpoint(out: Path) -> Path | None:
    """The newest checkpoint of the run in ``out``."""
    folders = checkpoint_folders(out / CHECKPOINTS)
    return folders[-1] if folders else None


def replace_model(model: Savable, folder: Path) -> None:
    """Save beside ``folder``, then put it in its place, so that no half model is ever there."""
    temporary = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
    try:
        model.save(temporary)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
