"""Models that draw in one call, for the commands that draw with any model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from noisette.cli.terminal import device_named, load_on
from noisette.errors import UserError

if TYPE_CHECKING:
    from noisette.models import Generator, Model


def drawer_on(
    name: str, device: str, steps: Mapping[str, Any], temperature: float | None
) -> Model | Generator:
    """The model on a device, whether it draws in one call or in many.

    ``steps`` are the options, by their names, that only a model of many has; one of one call alone has a
    temperature. Raises UserError where one is given to the other.
    """
    from noisette.models import Generator

    if not draws_in_one_call(name):
        if temperature is not None:
            raise UserError(f"{name} is a diffusion model: leave --temperature out")
        return load_on(name, device)
    if meant := [option for option, value in steps.items() if value is not None]:
        raise UserError(f"{name} draws in one call of its network: leave {', '.join(meant)} out")
    place = device_named(device)
    return Generator.load(name).to(place)


def draws_in_one_call(name: str) -> bool:
    """Whether a name is that of a GAN, a flow or a VAE."""
    from noisette.hub import read_spec
    from noisette.hub.finding import located
    from noisette.hub.folder import SPEC
    from noisette.hub.generator import GeneratorSpec

    place = located(name)
    return (place / SPEC).is_file() and isinstance(read_spec(place)[0], GeneratorSpec)
