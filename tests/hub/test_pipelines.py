"""Folders of pipelines from strangers: whatever their bytes, a checkpoint or one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from noisette.errors import UserError
from noisette.hub.checkpoint import Checkpoint
from noisette.hub.configs import dit_config, pixel_unet_config, text_config, unet_config, vae_config
from noisette.hub.pipelines import read_pipeline, write_pipeline
from noisette.hub.schedulers import SCHEDULERS, sampler
from noisette.models.checkpoints import parts_of

UNET = {
    "_class_name": "UNet2DModel",
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": [8],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"],
    "norm_num_groups": 4,
}
INDEX = {
    "_class_name": "DDPMPipeline",
    "scheduler": ["diffusers", "DDPMScheduler"],
    "unet": ["diffusers", "UNet2DModel"],
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline without diffusers: the smallest network there is."""
    from noisette.hub.names import renamed, unet_names
    from noisette.nets import UNet

    folder = tmp_path_factory.mktemp("small")
    config = pixel_unet_config(UNET)
    weights = renamed(UNet(config).state_dict(), unet_names(config), "ours", "diffusers")
    scheduler = {"_class_name": "DDPMScheduler"}
    configs: dict[str, Any] = {"unet": UNET, "scheduler": scheduler}
    write_pipeline(Checkpoint("DDPMPipeline", configs, {"unet": weights}), folder, overwrite=True)
    return folder


def test_a_folder_is_read_as_it_was_written(small: Path) -> None:
    read = read_pipeline(small)
    assert read.pipeline == "DDPMPipeline" and read.configs["unet"] == UNET
    spec, net, codec, texts = parts_of(read, "small")
    assert (codec, texts, spec.image_size) == (None, None, 8)
    mine = net.state_dict()["conv_in.weight"]
    assert torch.equal(mine, read.tensors["unet"]["conv_in.weight"])
    assert mine.data_ptr() == read.tensors["unet"]["conv_in.weight"].data_ptr()  # one memory, no copy


def outcome(folder: Path) -> str:
    """What comes of a folder: a model, or one line."""
    try:
        parts_of(read_pipeline(folder), "hostile")
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 600
        return "refused"
    return "read"


@settings(max_examples=60)
@given(
    name=st.sampled_from(
        ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json", "unet/weights"]
    ),
    place=st.floats(0, 1, exclude_max=True),
    flipped=st.integers(1, 255),
    cut=st.booleans(),
)
def test_flipped_and_missing_bytes_are_a_model_or_one_line(
    name: str, place: float, flipped: int, cut: bool, small: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("flipped")
    shutil.copytree(small, folder, dirs_exist_ok=True)
    path = folder / name.replace("weights", "diffusion_pytorch_model.safetensors")
    data = bytearray(path.read_bytes())
    spot = int(place * len(data))
    data[spot] ^= flipped
    path.write_bytes(bytes(data[:spot] if cut else data))
    assert outcome(folder) in ("read", "refused")


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=150)
@given(key=st.sampled_from(sorted(UNET)), value=values)
def test_any_value_in_a_network_config_is_read_or_refused(key: str, value: Any) -> None:
    for read in (pixel_unet_config, unet_config):
        try:
            read({**UNET, key: value})
        except UserError as error:
            assert "\n" not in str(error)


@settings(max_examples=150)
@given(
    key=st.sampled_from(
        [
            "_class_name",
            "num_train_timesteps",
            "beta_schedule",
            "beta_start",
            "beta_end",
            "trained_betas",
            "prediction_type",
            "timestep_spacing",
            "steps_offset",
            "use_karras_sigmas",
            "solver_order",
            "sigma_min",
            "variance_type",
            "algorithm_type",
            "dynamic_thresholding_ratio",
            "thresholding",
        ]
    ),
    value=values,
    name=st.sampled_from(sorted(SCHEDULERS)),
)
def test_any_value_in_a_scheduler_config_is_read_or_refused(key: str, value: Any, name: str) -> None:
    try:
        sampler({"_class_name": name, "skip_prk_steps": True, key: value}).grid(5)
    except UserError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("read", "config"),
    [
        (unet_config, {"layers_per_block": 10**9}),
        (unet_config, {"block_out_channels": [2**40]}),
        (pixel_unet_config, {"block_out_channels": [32] * 10_000}),
        (text_config, {"num_hidden_layers": 10**9}),
        (dit_config, {"num_layers": 10**9}),
        (vae_config, {"block_out_channels": [2**33], "norm_num_groups": 1}),
    ],
)
def test_sizes_that_would_never_end_are_refused(read: Any, config: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="is beyond what can be built"):
        read(config)


def test_an_index_leads_nowhere_else(small: Path, tmp_path: Path) -> None:
    """Shards are named by a file that a stranger wrote: only names in the same folder are followed."""
    save_file({"x": torch.zeros(1)}, tmp_path / "secret.safetensors")
    folder = tmp_path / "pipeline"
    shutil.copytree(small, folder)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    for name in ("../../secret.safetensors", str(tmp_path / "secret.safetensors"), "..", ""):
        index.write_text(json.dumps({"weight_map": {"x": name}}))
        with pytest.raises(UserError, match="which is no file of its folder"):
            read_pipeline(folder)


def test_a_pickle_with_code_in_a_folder_is_not_run_trap_23(small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pipeline"
    shutil.copytree(small, folder)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    touched = tmp_path / "touched"

    class Code:
        def __reduce__(self) -> Any:
            return (Path.touch, (touched,))

    torch.save({"conv_in.weight": Code()}, folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match="holds more than tensors, which was not run"):
        read_pipeline(folder)
    assert not touched.exists()
    torch.save(read_pipeline(small).tensors["unet"], folder / "unet" / "diffusion_pytorch_model.bin")
    assert outcome(folder) == "read"
