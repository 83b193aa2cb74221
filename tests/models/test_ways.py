"""A model draws by the table of its defaults, unless a solver or a grid is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from noisette.core import IndexTime, V
from noisette.errors import UserError
from noisette.hub.spec import Way
from noisette.models import Defaults, Model, ModelSpec
from noisette.nets import UNetConfig
from noisette.schedules import CosineVP
from noisette.solvers import DDIM

NET = UNetConfig(1, 1, 16, (1, 2), 1, norm_groups=8)
WAYS = (Way(3, "dpmpp-3m", "karras"), Way(5, "ddim", "shifted"))
SPEC = ModelSpec("tiny", NET, CosineVP(), V(), IndexTime(), 8, 1, defaults=Defaults(steps=6, ways=WAYS))


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(1)
    made = Model.new(SPEC)
    with torch.no_grad():
        for parameter in made.denoiser.net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.03)
    made.denoiser.net.eval()
    return made


def drawn(model: Model, **options: Any) -> tuple[torch.Tensor, tuple[str, str]]:
    output = model.generate(seed=0, output_type="torch", **options)
    return output.images, (output.settings["solver"], output.settings["grid"])


@pytest.mark.parametrize(("steps", "way"), [(2, WAYS[0]), (4, WAYS[0]), (5, WAYS[1]), (None, WAYS[1])])
def test_the_table_is_asked_by_the_number_of_steps(model: Model, steps: int | None, way: Way) -> None:
    names = way.solver, way.grid
    images, told = drawn(model, num_inference_steps=steps)
    assert told == names
    named, _ = drawn(model, num_inference_steps=steps, solver=names[0], grid=names[1])
    assert torch.equal(images, named)
    assert len(model.levels(steps)) == (steps or 6) + 1
    other, _ = drawn(model, num_inference_steps=steps, solver="dpmpp-2m", grid="trailing")
    assert not torch.equal(images, other)


def test_a_named_solver_or_grid_switches_the_table_off(model: Model) -> None:
    plain = Model.new(replace(SPEC, defaults=Defaults()), model.denoiser.net)
    for asked, names in (
        ({"solver": "unipc"}, ("unipc", "trailing")),
        ({"grid": "karras"}, ("dpmpp-2m", "karras")),
        ({"solver": DDIM()}, (repr(DDIM()), "trailing")),
    ):
        images, told = drawn(model, num_inference_steps=5, **asked)
        assert told == names
        assert torch.equal(images, drawn(plain, num_inference_steps=5, **asked)[0])


def test_inversion_names_its_solver_and_so_its_grid_is_the_default_one(model: Model) -> None:
    images = torch.zeros(1, 1, 8, 8)
    plain = Model.new(replace(SPEC, defaults=Defaults()), model.denoiser.net)
    asked: dict[str, Any] = {"num_inference_steps": 5}
    assert torch.equal(model.invert(images, **asked), plain.invert(images, **asked))


def test_settings_draw_the_same_picture_when_the_table_has_changed(model: Model) -> None:
    first = model.generate(seed=7, num_inference_steps=4, output_type="torch")
    table = Defaults(steps=6, ways=(Way(3, "unipc", "trailing"),))
    later = Model.new(replace(SPEC, defaults=table), model.denoiser.net)
    assert not torch.equal(
        later.generate(seed=7, num_inference_steps=4, output_type="torch").images, first.images
    )
    names = ("seed", "num_inference_steps", "solver", "grid", "eta", "guidance_scale", "guidance_rescale")
    settings = first.settings_of(0)
    again = later.generate(output_type="torch", **{name: settings[name] for name in names})
    assert torch.equal(again.images, first.images)


def test_eta_goes_to_the_solver_of_the_table(model: Model) -> None:
    calm, _ = drawn(model, num_inference_steps=5)
    noisy, names = drawn(model, num_inference_steps=5, eta=1.0)
    assert names == ("ddim", "shifted") and not torch.equal(calm, noisy)
    with pytest.raises(UserError, match="'dpmpp-3m' has no eta"):
        model.generate(num_inference_steps=3, eta=1.0)
