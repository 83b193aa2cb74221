"""The same pictures as diffusers: pipelines, solvers and options, with random weights and shared noise."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import noisette
from noisette.solvers import NoiseStreams

diffusers = pytest.importorskip("diffusers")

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

STEPS, SEED = 5, 3
SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "plms": "PNDMScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-ancestral": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "dpmpp-2m": "DPMSolverMultistepScheduler",
    "dpmpp-2m-sde": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "lcm": "LCMScheduler",
}


@dataclass(frozen=True)
class Case:
    """One comparison: what is asked of both sides, and what of one in its own words."""

    pipeline: str = "sd"
    solver: str | None = None
    option: str = "plain"
    grid: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    asked: dict[str, Any] = field(default_factory=dict)
    count: int = 2
    start: str | None = None

    def __str__(self) -> str:
        return f"{self.pipeline}-{self.solver or 'own'}-{self.option}".replace(" ", "_")


V_ZERO = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
KARRAS = {"use_karras_sigmas": True}
TRAILING, LINSPACE = {"timestep_spacing": "trailing"}, {"timestep_spacing": "linspace"}

SOLVERS = [Case(solver=name) for name in SCHEDULERS]
GRIDS = [
    *(Case(solver=name, option="Karras", grid="karras", config=KARRAS) for name in ("euler", "heun")),
    *(Case(solver=name, option="Karras", grid="karras", config=KARRAS) for name in ("dpmpp-2m", "unipc")),
    *(Case("sd", name, "trailing", "trailing", TRAILING) for name in ("ddim", "euler", "dpmpp-2m")),
    *(Case("sd", name, "linspace", "linspace", LINSPACE) for name in ("euler", "heun", "dpmpp-2m")),
    Case(solver="euler", option="exponential", grid="exponential", config={"use_exponential_sigmas": True}),
]
PREDICTIONS = [
    Case(solver=name, option="v-prediction, zero terminal SNR", config=V_ZERO)
    for name in ("ddim", "euler", "dpmpp-2m", "unipc")
]
OPTIONS = [
    Case(option="scale 1", asked={"guidance_scale": 1.0}),
    Case(option="negative prompt", asked={"negative_prompt": ["a red dog", "the cat"]}),
    Case(option="several per prompt", asked={"num_images_per_prompt": 2}, count=4),
    Case(option="clip skip", asked={"clip_skip": 1}),
    Case(option="rescaled guidance", asked={"guidance_rescale": 0.7}),
    Case(option="wide", asked={"height": 16, "width": 24}),
    Case(solver="ddim", option="eta", asked={"eta": 0.7}),
]
STARTS = [
    Case(solver=name, option="image to image", asked={"strength": strength}, start="image")
    for name, strength in (("ddim", 0.6), ("euler", 0.6), ("dpmpp-2m", 0.6), ("heun", 0.4), ("unipc", 1.0))
] + [
    Case(solver="ddim", option="inpainting", asked={"strength": 1.0}, start="mask"),
    Case(solver="euler", option="inpainting from half way", asked={"strength": 0.6}, start="mask"),
    Case("inpainting", "ddim", "nine channels", asked={"strength": 1.0}, start="mask"),
    Case("inpainting", "euler", "nine channels", asked={"strength": 0.6}, start="mask"),
]
OTHERS = [
    Case("sd-2"),
    Case("lcm"),
    Case("lcm", option="scale 3", asked={"guidance_scale": 3.0}),
    Case("xl"),
    Case("xl", option="negative prompt", asked={"negative_prompt": ["a red dog", "the cat"]}),
    Case("xl", option="clip skip", asked={"clip_skip": 1}),
    Case("xl", "dpmpp-2m", "Karras", "karras", KARRAS),
    Case("xl", option="image to image", asked={"strength": 0.6}, start="image"),
    Case("refiner", option="image to image", asked={"strength": 0.6}, start="image"),
    Case("ddpm"),
    Case("ddim"),
    Case("dit"),
]
CASES = [*SOLVERS, *GRIDS, *PREDICTIONS, *OPTIONS, *STARTS, *OTHERS]

KINDS = {
    ("sd", "image"): "StableDiffusionImg2ImgPipeline",
    ("sd", "mask"): "StableDiffusionInpaintPipeline",
    ("xl", "image"): "StableDiffusionXLImg2ImgPipeline",
}


class Noise:
    """diffusers' draws from the streams that noisette draws from, in the same order."""

    def __init__(self, seeds: list[int], drawn: int) -> None:
        self.streams = NoiseStreams(seeds)
        self.drawn = drawn

    def __call__(self, shape: Any, **options: Any) -> Tensor:
        for _ in range(self.drawn):
            self.streams.initial(shape[1:])
        self.drawn = 0
        return self.streams.initial(shape[1:]).to(options.get("dtype") or torch.get_default_dtype())


def shared(monkeypatch: pytest.MonkeyPatch, pipe: Any, noise: Noise) -> None:
    """Let every module of the pipeline draw there, and take the mode of posteriors."""
    for part in (pipe, pipe.scheduler):
        module = sys.modules[type(part).__module__]
        if hasattr(module, "randn_tensor"):
            monkeypatch.setattr(module, "randn_tensor", noise)
    vae = sys.modules["diffusers.models.autoencoders.vae"].DiagonalGaussianDistribution
    monkeypatch.setattr(vae, "sample", lambda self, generator=None: self.mode())


def starts(case: Case) -> tuple[dict[str, Any], dict[str, Any]]:
    """A picture and a mask: for diffusers in [0, 1], for noisette in [-1, 1]."""
    if case.start is None:
        return {}, {}
    picture = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(9))
    theirs, ours = {"image": picture}, {"image": picture * 2 - 1}
    if case.start == "mask":
        mask = torch.zeros(1, 1, 16, 16)
        mask[..., 4:13, :9] = 1
        theirs |= {"mask_image": mask, "height": 16, "width": 16}
        ours |= {"mask_image": mask}
    return theirs, ours


def both(
    case: Case, folder: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The latents, or pixels, that diffusers and noisette end with."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, torch_dtype=dtype)
    if case.solver is not None:
        kind = getattr(diffusers, SCHEDULERS[case.solver])
        more = {"algorithm_type": "sde-dpmsolver++"} if case.solver == "dpmpp-2m-sde" else {}
        more |= {"skip_prk_steps": True} if case.solver == "plms" else {}
        pipe.scheduler = kind.from_config(pipe.scheduler.config, clip_sample=False, **more, **case.config)
    if name := KINDS.get((case.pipeline, str(case.start))):
        pipe = getattr(diffusers, name)(**pipe.components)
    pipe.set_progress_bar_config(disable=True)
    pipe.to(dtype)
    if not hasattr(pipe, "text_encoder_2") and hasattr(pipe, "text_encoder"):
        # Where diffusers looks for the final norm of a text encoder, transformers has it no more.
        norm = getattr(pipe.text_encoder, "final_layer_norm", None)
        pipe.text_encoder.text_model = SimpleNamespace(final_layer_norm=norm)
    model = noisette.load(folder, dtype=dtype)
    if case.config.get("prediction_type"):
        model = as_v(model, case.config)
    tall, wide = (case.asked.get(name, 16) // 2 for name in ("height", "width"))
    shape = (case.count, model.spec.shape[0], tall, wide) if case.start is None else None
    seeds = [SEED + i for i in range(case.count)]
    shared(monkeypatch, pipe, Noise(seeds, 0 if shape is None else 1))
    theirs, ours = starts(case)
    if model.spec.codec is None or case.pipeline == "dit":
        return unconditional(case, pipe, model, seeds, monkeypatch)
    if shape is not None:
        latents = NoiseStreams(seeds).initial(shape[1:]).to(torch.get_default_dtype())
        theirs |= {"latents": latents}
        ours |= {"latents": latents}
    asked: dict[str, Any] = {"prompt": ["a red cat", "the dog"], "num_inference_steps": STEPS}
    asked |= {"guidance_scale": 7.5, **case.asked}
    expected = pipe(**asked, **theirs, output_type="latent").images
    eta = {"eta": asked.pop("eta")} if "eta" in asked else {}
    found = model.generate(
        **asked, **eta, **ours, solver=case.solver, grid=case.grid, seed=SEED, output_type="latent"
    )
    return found.images, expected


def as_v(model: noisette.Model, config: dict[str, Any]) -> noisette.Model:
    """The model as if its folder's scheduler said so."""
    from dataclasses import replace

    from noisette.hub.schedulers import parameterization_of, schedule_of

    checkpoint = model.checkpoint
    assert checkpoint is not None
    scheduler = {**checkpoint.configs["scheduler"], **config}
    spec = replace(
        model.spec, schedule=schedule_of(scheduler), parameterization=parameterization_of(scheduler)
    )
    configs = {**checkpoint.configs, "scheduler": scheduler}
    return noisette.Model.new(
        spec,
        model.denoiser.net,
        codec=model.codec,
        texts=model.texts,
        checkpoint=replace(checkpoint, configs=configs),
    )


def unconditional(
    case: Case, pipe: Any, model: noisette.Model, seeds: list[int], monkeypatch: pytest.MonkeyPatch
) -> tuple[Tensor, Tensor]:
    """Pipelines without texts draw their own first noise, as noisette's streams begin."""
    shared(monkeypatch, pipe, Noise(seeds, 0))
    if case.pipeline == "dit":
        seen: list[Tensor] = []
        decode = pipe.vae.decode
        monkeypatch.setattr(pipe.vae, "decode", lambda z, **more: seen.append(z) or decode(z, **more))
        pipe(class_labels=[3, 7], num_inference_steps=STEPS, guidance_scale=4.0, output_type="np")
        asked: dict[str, Any] = {"num_inference_steps": STEPS, "seed": SEED, "output_type": "latent"}
        return model.generate(label=[3, 7], **asked).images, seen[0] * pipe.vae.config.scaling_factor
    expected = pipe(batch_size=case.count, num_inference_steps=STEPS, output_type="np").images
    made = model.generate(
        num_inference_steps=STEPS, seed=SEED, num_images_per_prompt=case.count, output_type="numpy"
    )
    return torch.as_tensor(np.asarray(made.images)), torch.as_tensor(expected)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_same_latents_as_diffusers(
    case: Case,
    pipelines: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    parity: list[dict[str, Any]],
) -> None:
    found, expected = both(case, pipelines(case.pipeline), monkeypatch, torch.float32)
    size = max(1.0, float(expected.abs().max()))
    difference = float((found - expected).abs().max()) / size
    parity.append(
        {"pipeline": case.pipeline, "solver": case.solver, "option": case.option, "difference": difference}
    )
    # Of zero signal the peer makes sigma / alpha = 4096, which takes a digit of its float32.
    assert difference < (1e-4 if case.config == V_ZERO else 2e-5)


class _Doubled(ModuleType):
    """A module whose float32 is float64."""

    def __init__(self, module: ModuleType) -> None:
        super().__init__(module.__name__)
        self.module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, "float64" if name == "float32" else name)


@pytest.fixture
def doubled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything in float64: ours by the default, and the peers' tables, which are float32 otherwise."""
    for name in set(SCHEDULERS.values()):
        module = sys.modules[getattr(diffusers, name).__module__]
        monkeypatch.setattr(module, "torch", _Doubled(torch))
        monkeypatch.setattr(module, "np", _Doubled(np))
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


EXACT = [Case(solver=name) for name in SCHEDULERS] + [Case("xl"), *GRIDS[:3], *STARTS[1:3]]


@pytest.mark.parametrize("case", EXACT, ids=str)
def test_the_same_latents_in_double_precision(
    case: Case, pipelines: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, doubled: None
) -> None:
    found, expected = both(case, pipelines(case.pipeline), monkeypatch, torch.float64)
    assert found.dtype == torch.float64
    assert float((found - expected).abs().max()) < 1e-8 * max(1.0, float(expected.abs().max()))


class Halves:
    """Draws of DPM++ SDE: of each step the noise halfway, and that of the whole, which goes on from it.

    What a step of order 1 adds over its two halves is one Gaussian; the peer asks for it as a whole.
    """

    def __init__(self, noise: Noise, shape: Any) -> None:
        self.noise, self.shape = noise, shape
        self.half: tuple[Tensor, Any] | None = None

    @staticmethod
    def up(high: Tensor, low: Tensor) -> Tensor:
        return low * (1 - (low / high) ** 2) ** 0.5

    def __call__(self, high: Tensor, low: Tensor) -> Tensor:
        if self.half is None:
            self.half = self.noise(self.shape), low
            return self.half[0]
        (first, middle), self.half = self.half, None
        second = self.noise(self.shape)
        kept = (low / middle) ** 2 * self.up(high, middle)
        return (kept * first + self.up(middle, low) * second) / self.up(high, low)


@pytest.mark.parametrize("karras", [False, True])
def test_dpm_solver_sde_with_the_same_noise(
    pipelines: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    parity: list[dict[str, Any]],
    karras: bool,
) -> None:
    monkeypatch.setitem(sys.modules, "torchsde", ModuleType("torchsde"))
    peers = pytest.importorskip("diffusers.schedulers.scheduling_dpmsolver_sde")
    pipe = diffusers.DiffusionPipeline.from_pretrained(pipelines("sd"))
    pipe.scheduler = peers.DPMSolverSDEScheduler.from_config(pipe.scheduler.config, use_karras_sigmas=karras)
    pipe.set_progress_bar_config(disable=True)
    noise = Noise([SEED], 1)
    shared(monkeypatch, pipe, noise)
    monkeypatch.setattr(peers, "BrownianTreeNoiseSampler", lambda x, *_: Halves(noise, x.shape))
    latents = NoiseStreams([SEED]).initial((4, 8, 8))
    asked: dict[str, Any] = {"num_inference_steps": STEPS, "latents": latents, "output_type": "latent"}
    expected = pipe("a red cat", **asked).images
    model = noisette.load(pipelines("sd"))
    found = model.generate(
        "a red cat", **asked, solver="dpmpp-sde", grid="karras" if karras else None, seed=SEED
    ).images
    difference = float((found - expected).abs().max() / expected.abs().max())
    option = "Karras" if karras else "plain"
    parity.append({"pipeline": "sd", "solver": "dpmpp-sde", "option": option, "difference": difference})
    assert difference < 2e-5


def embedded(pipe: Any, pieces: list[tuple[str, float]]) -> Tensor:
    """A prompt as the web interfaces read it, by transformers: windows of 75 tokens, weighed."""
    ids, weights = [], []
    for words, weight in pieces:
        found = pipe.tokenizer(words, add_special_tokens=False).input_ids
        ids, weights = ids + found, weights + [weight] * len(found)
    rows = []
    for first in range(0, len(ids), 75):
        part, heavy = ids[first : first + 75], weights[first : first + 75]
        rest = 76 - len(part)
        window = torch.tensor([[520, *part, *[521] * rest]])
        weight = torch.tensor([1.0, *heavy, *[1.0] * rest])[None, :, None]
        tokens = pipe.text_encoder(window)[0]
        weighed = tokens * weight
        factor = tokens.mean() / weighed.mean()
        rows.append(weighed * factor.clamp(1 / weight.max(), 1 / weight.min()))
    return torch.cat(rows, dim=1)


@pytest.mark.parametrize(
    ("option", "prompt", "pieces"),
    [
        ("two windows", "the red cat " * 40, [("the red cat " * 40, 1.0)]),
        ("a weighed word", "the (red:1.4) cat", [("the ", 1.0), ("red", 1.4), (" cat", 1.0)]),
    ],
)
@torch.no_grad()
def test_prompts_of_the_web_interfaces(
    option: str,
    prompt: str,
    pieces: list[tuple[str, float]],
    pipelines: Callable[[str], Path],
    parity: list[dict[str, Any]],
) -> None:
    pipe = diffusers.DiffusionPipeline.from_pretrained(pipelines("sd"))
    pipe.set_progress_bar_config(disable=True)
    told = embedded(pipe, pieces)
    empty = pipe.text_encoder(torch.tensor([[520, *[521] * 76]]))[0]
    none = torch.cat([empty] * (told.shape[1] // 77), dim=1)
    latents = torch.randn(1, 4, 8, 8)
    asked: dict[str, Any] = {"num_inference_steps": STEPS, "latents": latents, "output_type": "latent"}
    expected = pipe(prompt_embeds=told, negative_prompt_embeds=none, guidance_scale=7.5, **asked).images
    found = noisette.load(pipelines("sd")).generate(prompt, **asked).images
    difference = float((found - expected).abs().max() / expected.abs().max())
    parity.append({"pipeline": "sd", "solver": None, "option": option, "difference": difference})
    assert difference < 2e-5
