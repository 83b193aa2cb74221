from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import noisette
from noisette.core import Cond, Eps, IndexTime, NetDenoiser, ScaledTime, Step, V, prior
from noisette.errors import UserError
from noisette.guidance import Interval
from noisette.models import Defaults, Model, ModelSpec
from noisette.nets import DiTConfig, UNetConfig
from noisette.schedules import CosineVP, LinearVP
from noisette.solvers import DDIM, NoiseStreams

NET = UNetConfig(in_channels=1, out_channels=1, model_channels=16, channel_mult=(1, 2), num_res_blocks=1,
                 norm_groups=8, num_classes=3)  # fmt: skip
SPEC = ModelSpec(
    "tiny", NET, CosineVP(), V(), IndexTime(), 8, 1, ("ant", "bee", "cat"), Defaults(guidance_scale=2.0)
)


def alive(spec: ModelSpec) -> Model:
    """A model with random weights whose output is not the zero of initialisation."""
    torch.manual_seed(1)
    model = Model.new(spec)
    with torch.no_grad():
        for parameter in model.denoiser.net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.03)
    model.denoiser.net.eval()
    return model


@pytest.fixture(scope="module")
def model() -> Model:
    return alive(SPEC)


def draw(model: Model, label: Any = None, **options: Any) -> Tensor:
    options = {"num_inference_steps": 3, "output_type": "torch", "seed": 0, **options}
    return model.generate(label=label, **options).images


class Counting(nn.Module):
    """A network that predicts v = 0 and writes down the labels it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(1))
        self.seen: list[list[int]] = []

    def forward(self, x: Tensor, time: Tensor, cond: Cond) -> Tensor:
        self.seen.append(cond["label"].tolist() if "label" in cond else [])
        return x * self.scale


@pytest.mark.parametrize("solver", ["ddim", "ddpm", "dpmpp-2m", "dpmpp-2m-sde", "heun", "unipc"])
def test_a_picture_does_not_depend_on_its_batch(solver: str) -> None:
    model = alive(replace(SPEC, schedule=LinearVP()))
    options = {"solver": solver, "grid": "uniform_logsnr", "num_inference_steps": 4}
    labels = ["ant", "bee", "cat", "bee"]
    together = model.generate(label=labels, seed=7, output_type="torch", **options)
    assert together.seeds == (7, 8, 9, 10)
    assert together.labels == (0, 1, 2, 1)
    assert torch.allclose(together.images[2:3], draw(model, "cat", **{**options, "seed": 9}), atol=1e-4)
    split = draw(model, labels, **{**options, "seed": 7, "batch_size": 3})
    assert torch.allclose(split, together.images, atol=1e-4)
    assert (together.images[1] - together.images[3]).abs().mean() > 0.1


def test_seeds_decide_and_are_told(model: Model) -> None:
    assert torch.equal(draw(model, "ant"), draw(model, "ant"))
    listed = model.generate(
        label="ant", seed=[5, 3], num_images_per_prompt=2, num_inference_steps=2, output_type="torch"
    )
    assert listed.seeds == (5, 3)
    assert torch.allclose(listed.images[1:], draw(model, "ant", seed=3, num_inference_steps=2), atol=1e-5)
    fresh = [model.generate(label="ant", num_inference_steps=1) for _ in range(2)]
    assert fresh[0].seeds != fresh[1].seeds
    again = model.generate(label="ant", seed=fresh[0].seeds[0], num_inference_steps=1)
    assert np.array_equal(np.asarray(again.images[0]), np.asarray(fresh[0].images[0]))


def test_labels_by_name_number_list_and_in_turn(model: Model) -> None:
    def labels(label: Any = None, each: int = 1) -> Any:
        return model.generate(label=label, num_images_per_prompt=each, num_inference_steps=1).labels

    assert labels("bee") == labels(1) == labels("1") == (1,)
    assert labels(["cat", 0], 2) == (2, 2, 0, 0)
    assert labels(None, 2) == (0, 1, 2, 0, 1, 2)
    assert labels(np.int64(2)) == (2,) if isinstance(np.int64(2), int) else True
    for wrong in ("dog", 3, -1, "3", "-1", True, 1.5, "", "9" * 5000):
        with pytest.raises(UserError, match="tiny knows no label"):
            model.label_index(wrong)  # pyright: ignore[reportArgumentType]


def test_names_that_are_numbers_mean_themselves() -> None:
    odd = Model.new(replace(SPEC, labels=("7", "8", "9")))
    assert odd.label_index("8") == 1
    assert odd.label_index(1) == 1
    with pytest.raises(UserError, match="no label '1'"):
        odd.label_index("1")


def test_guidance_is_one_call_of_two_lanes_and_scale_one_is_off() -> None:
    net = Counting()
    model = Model.new(SPEC, net)
    draw(model, "bee", guidance_scale=3.0, num_inference_steps=2, solver="ddim")
    assert net.seen == [[1, -1]] * 2
    net.seen.clear()
    draw(model, "bee", guidance_scale=1, num_inference_steps=2, solver="ddim")
    assert net.seen == [[1]] * 2
    net.seen.clear()
    draw(model, "bee", guidance_scale=0.0, num_inference_steps=1, solver="ddim")
    assert net.seen == [[-1]]
    net.seen.clear()
    draw(model, "bee", guidance_scale=Interval(3.0, 0.0, 2.0), num_inference_steps=10, solver="ddim")
    assert sorted({len(seen) for seen in net.seen}) == [1, 2]


def test_the_defaults_of_the_spec_are_used(model: Model) -> None:
    plain = model.generate(label="ant", seed=0, output_type="torch")
    told = {**plain.settings, "latents": None}
    assert told["num_inference_steps"] == 20
    assert (told["solver"], told["grid"], told["guidance_scale"]) == ("dpmpp-2m", "trailing", 2.0)
    asked = draw(model, "ant", num_inference_steps=20, solver="dpmpp-2m", grid="trailing", guidance_scale=2.0)
    assert torch.equal(plain.images, asked)
    assert plain.settings_of(0)["seed"] == 0
    assert plain.settings["noisette"] == noisette.__version__


def test_x0_is_clipped_at_every_step(model: Model) -> None:
    seen: list[float] = []

    def look(step: Step) -> None:
        seen.append(float(step.prediction.x0.abs().max()))
        assert torch.allclose(step.prediction.x, step.prediction.x)

    images = draw(model, "ant", guidance_scale=30.0, num_inference_steps=4, callback=look)
    assert len(seen) == 4
    assert max(seen) <= 1.0
    assert float(images.abs().max()) <= 1.0 + 1e-6


def test_a_callback_may_steer(model: Model) -> None:
    def erase(step: Step) -> None:
        if step.index == step.total - 1:
            step.x = torch.zeros_like(step.x)

    assert not draw(model, "ant", callback=erase).any()


def test_latents_replace_the_first_noise_only(model: Model) -> None:
    noise = NoiseStreams([11]).initial((1, 8, 8))
    given, own = (draw(model, "ant", seed=11, solver="ddpm", **more) for more in ({"latents": noise}, {}))
    assert torch.equal(given, own)
    other = draw(model, "ant", seed=12, solver="ddim", latents=noise)
    assert torch.equal(other, draw(model, "ant", seed=11, solver="ddim"))


def test_eta_makes_ddim_ancestral(model: Model) -> None:
    assert torch.equal(draw(model, "ant", solver="ddim", eta=1.0), draw(model, "ant", solver="ddpm"))
    assert torch.equal(draw(model, "ant", solver=DDIM(0.5)), draw(model, "ant", solver="ddim", eta=0.5))


def test_inversion_finds_the_noise_of_a_picture() -> None:
    # With v = 0 the trajectory of DDIM is known: x only turns, and what comes back is what went in.
    model = Model.new(SPEC, Counting())
    images = torch.rand(2, 1, 8, 8) * 0.6 - 0.3

    def round_trip(steps: int) -> float:
        latents = model.invert(images, label="bee", num_inference_steps=steps)
        options = {"num_inference_steps": steps, "solver": "ddim", "guidance_scale": 1}
        again = draw(model, ["bee", "bee"], latents=latents, **options)
        return float((again - images).abs().max())

    assert round_trip(500) < 2e-3
    assert round_trip(10) > 5 * round_trip(500)
    with pytest.raises(UserError, match="2 pictures need one label, or one each, not 3"):
        model.invert(images, label=["ant", "bee", "cat"])
    with pytest.raises(UserError, match="tiny knows no label -1"):
        model.invert(images, label=-1)
    with pytest.raises(UserError, match="takes no prompt, it draws labels: give one as label="):
        model.invert(images, "bee")


def test_other_sizes_and_a_transformer_without_labels() -> None:
    wide = draw(alive(SPEC), "ant", height=16, width=12)
    assert wide.shape == (1, 1, 16, 12)
    dit = DiTConfig(in_channels=3, out_channels=3, dim=32, depth=1, num_heads=2)
    model = alive(ModelSpec("free", dit, LinearVP(), Eps(), ScaledTime(), 8, 3))
    assert draw(model, num_images_per_prompt=2).shape == (2, 3, 8, 8)
    assert model.generate(num_inference_steps=1).labels is None


def test_half_precision_touches_the_network_alone(model: Model) -> None:
    half = Model(SPEC, NetDenoiser(alive(SPEC).denoiser.net, V(), IndexTime())).to(dtype=torch.bfloat16)
    images = draw(half, "ant")
    assert images.dtype == torch.float32
    assert 0 < (images - draw(model, "ant")).abs().max() < 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps must be a whole number from 1"),
        ({"num_inference_steps": -5}, "num_inference_steps must be"),
        ({"num_inference_steps": 2.5}, "num_inference_steps must be"),
        ({"num_inference_steps": 1001}, "1001 steps asked of a schedule with 1000 levels"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt must be"),
        ({"num_images_per_prompt": 10**9}, "num_images_per_prompt must be"),
        ({"num_images_per_prompt": 10**6, "height": 4096}, "too many for one call"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"seed": -1}, "seed must be"),
        ({"seed": [1, 2]}, "2 seeds were given for 1 pictures"),
        ({"seed": 0.5}, "seed must be"),
        ({"solver": "magic"}, 'no solver "magic"'),
        ({"solver": "heun", "eta": 0.5}, "'heun' has no eta"),
        ({"solver": "ddim", "eta": 1.5}, "eta is between 0"),
        ({"grid": "spiral"}, "no grid 'spiral'"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be a finite number"),
        ({"height": -9}, "sides of whole pixels, 1 or more, not 8x-9"),
        ({"width": 0}, "sides of whole pixels"),
        ({"latents": torch.zeros(1, 1, 4, 4)}, r"shape \[1, 1, 4, 4\], but \[1, 1, 8, 8\]"),
        ({"output_type": "gif"}, "output_type 'gif'"),
        ({"label": []}, "list of labels is empty"),
    ],
)
def test_what_cannot_be_drawn_is_told_in_one_line(
    model: Model, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        draw(model, **{"label": "ant", **options})
    assert "\n" not in str(caught.value)


def test_guiding_without_labels_is_refused() -> None:
    free = Model.new(replace(SPEC, net=replace(NET, num_classes=None), labels=None))
    with pytest.raises(UserError, match="no labels, so there is nothing to guide"):
        free.generate(guidance_scale=2.0)
    with pytest.raises(UserError, match="takes no prompt, it draws without being told what"):
        free.generate("ant")
    with pytest.raises(UserError, match="draws without labels"):
        free.generate(label=0)


def test_the_start_is_scaled_to_the_first_level(model: Model) -> None:
    first: list[Tensor] = []
    draw(model, "ant", num_inference_steps=2, callback=lambda step: first.append(step.prediction.x))
    noise = NoiseStreams([0]).initial((1, 8, 8))
    assert torch.allclose(first[0], prior(noise, model.levels(2)[0]), atol=1e-5)
