"""The autoencoder by itself: to and from disk, and over pictures of any size and number."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from noisette.core import IndexTime, V
from noisette.errors import UserError
from noisette.hub import list_folder
from noisette.models import Autoencoder, AutoencoderSpec, Model, ModelSpec, load_codec
from noisette.models.autoencoder import decoded, encoded
from noisette.nets import UNetConfig
from noisette.nets.vae import AutoencoderKL, AutoencoderKLConfig
from noisette.nets.vq import VQConfig, VQModel
from noisette.schedules import CosineVP

SMALL: dict[str, Any] = {
    "block_out_channels": (4, 8), "layers_per_block": 1, "norm_num_groups": 4,
    "mid_block_add_attention": False, "scaling_factor": 1.3, "shift_factor": 0.2,
}  # fmt: skip
KL = AutoencoderKLConfig(latent_channels=2, patch_size=2, **SMALL)
VQ = VQConfig(latent_channels=3, vq_embed_dim=2, num_vq_embeddings=8, **SMALL)


def autoencoder(config: AutoencoderKLConfig | VQConfig = KL) -> Autoencoder:
    torch.manual_seed(2)
    codec = AutoencoderKL(config) if isinstance(config, AutoencoderKLConfig) else VQModel(config)
    return Autoencoder(AutoencoderSpec("tiny-vae", config, 16), codec.eval(), {"steps": 3})


def diffusion(**changes: Any) -> Model:
    net = UNetConfig(2, 2, 8, (1,), 1, (), norm_groups=4)
    spec = ModelSpec("tiny", net, CosineVP(100), V(), IndexTime(100), 16, 3, codec=KL)
    return Model.new(replace(spec, **changes), codec=autoencoder().codec)


@pytest.mark.parametrize("config", [KL, VQ], ids=["kl", "vq"])
def test_a_folder_reads_back_bit_for_bit(config: Any, tmp_path: Path) -> None:
    before = autoencoder(config)
    before.save(tmp_path / "vae")
    assert {path.name for path in (tmp_path / "vae").iterdir()} == {
        "model.json",
        "codec.safetensors",
        "README.md",
    }
    after = Autoencoder.load(tmp_path / "vae")
    assert after.spec == before.spec and after.notes == {"steps": 3} and not after.codec.training
    assert not any(value.requires_grad for value in after.codec.parameters())
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    latents = before.encode(images)
    assert latents.shape == (2, 2, 16 // config.factor, 16 // config.factor)
    assert torch.equal(after.encode(images), latents)
    assert torch.equal(after.decode(latents), before.decode(latents))
    torch.testing.assert_close(latents, (before.codec.mode(images) - 0.2) * 1.3)
    card = (tmp_path / "vae" / "README.md").read_text()
    assert "# tiny-vae" in card and "| steps | 3 |" in card and "Autoencoder.load" in card
    assert list_folder(tmp_path / "vae").parameters == sum(p.numel() for p in before.codec.parameters())


def test_half_precision_halves_the_file(tmp_path: Path) -> None:
    before = autoencoder()
    full, half = before.save(tmp_path / "full"), before.save(tmp_path / "half", dtype=torch.float16)
    sizes = [(folder / "codec.safetensors").stat().st_size for folder in (full, half)]
    assert sizes[1] < 0.75 * sizes[0]
    after = Autoencoder.load(half)
    for name, value in before.codec.state_dict().items():
        assert torch.equal(after.codec.state_dict()[name], value.half().float())
    with pytest.raises(UserError, match="exists already"):
        before.save(half)
    before.save(half, overwrite=True)


def test_pictures_are_coded_a_few_at_a_time_and_it_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    one = autoencoder()
    images = torch.rand(5, 3, 16, 24) * 2 - 1
    latents = one.encode(images)
    back = one.decode(latents)
    counts: list[int] = []
    forward = type(one.codec.decoder).forward

    def watched(self: Any, z: torch.Tensor, *rest: Any) -> torch.Tensor:
        counts.append(len(z))
        return forward(self, z, *rest)

    monkeypatch.setattr(type(one.codec.decoder), "forward", watched)
    monkeypatch.setattr("noisette.models.autoencoder.PIXELS_AT_ONCE", 2 * 16 * 24)
    torch.testing.assert_close(one.encode(images), latents, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.decode(latents), back, atol=1e-5, rtol=1e-5)
    assert counts == [2, 2, 1]


def test_large_pictures_are_coded_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    one = autoencoder()
    images = torch.rand(1, 3, 16, 64) * 2 - 1
    latents = one.encode(images)
    widths: list[int] = []
    codec = one.codec
    monkeypatch.setattr(codec, "from_latents", lambda z: widths.append(z.shape[-1]) or z.repeat(1, 2, 4, 4))
    assert decoded(codec, latents, tile=32).shape == (1, 4, 16, 64)
    assert widths == [8, 8, 8]  # 32 pixels are 8 latents, and the neighbours share 1
    monkeypatch.setattr(codec, "to_latents", lambda x: widths.append(x.shape[-1]) or x[:, :2, ::4, ::4])
    assert torch.equal(encoded(codec, images, tile=32), images[:, :2, ::4, ::4])
    assert widths[3:] == [32, 32, 32]
    with pytest.raises(UserError, match="tiles of this autoencoder are 32 pixels at least, not 16"):
        encoded(codec, images, tile=16)


def test_the_autoencoder_of_a_latent_model_is_found_too(tmp_path: Path) -> None:
    model = diffusion()
    model.save(tmp_path / "model")
    autoencoder().save(tmp_path / "vae")
    for name in ("model", "vae"):
        codec = load_codec(tmp_path / name)
        assert codec.config == KL and not codec.training
        for key, value in codec.state_dict().items():
            assert torch.equal(value, autoencoder().codec.state_dict()[key])
    half = load_codec(tmp_path / "vae", dtype=torch.bfloat16)
    assert half.decoder.conv_in.weight.dtype == torch.bfloat16
    loaded = Model.load(tmp_path / "model")
    images = torch.rand(1, 3, 16, 16) * 2 - 1
    assert torch.equal(loaded.encode(images), model.encode(images))
    total = sum(p.numel() for part in (model.denoiser.net, autoencoder().codec) for p in part.parameters())
    assert list_folder(tmp_path / "model").parameters == total
    assert f"| parameters | {total:,} |" in (tmp_path / "model" / "README.md").read_text()


def test_what_is_taken_for_something_else_is_told(tmp_path: Path) -> None:
    net = UNetConfig(3, 3, 8, (1,), 1, (), norm_groups=4)
    diffusion(codec=None, net=net).save(tmp_path / "pixels")
    with pytest.raises(UserError, match="draws pixels and has no autoencoder"):
        load_codec(tmp_path / "pixels")
    with pytest.raises(UserError, match="is a diffusion model: load it with"):
        Autoencoder.load(tmp_path / "pixels")
    autoencoder().save(tmp_path / "vae")
    with pytest.raises(UserError, match="is an autoencoder and draws nothing: name a model trained with it"):
        Model.load(tmp_path / "vae")
    (tmp_path / "vae" / "codec.safetensors").unlink()
    with pytest.raises(UserError, match=r"there is no codec\.safetensors in it"):
        load_codec(tmp_path / "vae")
