"""``noisette models``: what ships with the package."""

from __future__ import annotations

EPILOG = "\b\nExample:\n  noisette models"


def models() -> None:
    """List the models that ship with the package: size, parameters, what they were trained on."""
    from rich.console import Console
    from rich.table import Table

    from noisette.hub.embedded import embedded_models

    found = embedded_models()
    if not found:
        print("No model ships with this package: train one with noisette train.")
        return
    table = Table("model", "size", "parameters", "trained on", box=None)
    for one in found:
        trained_on = str(one.notes.get("trained_on", ""))
        table.add_row(one.name, f"{one.size / 1e6:.1f} MB", f"{one.parameters:,}", trained_on)
    Console().print(table)
