from __future__ import annotations

import json
import re
import warnings
from dataclasses import asdict, replace

import pytest
import torch
from diffusers import AutoencoderKL as Peer
from torch.distributions import Normal, kl_divergence

from noisette.core import attention
from noisette.errors import UserError
from noisette.nets.vae import AutoencoderKL, AutoencoderKLConfig, CodecConfig, DiagonalGaussian, calibrated

SMALL = AutoencoderKLConfig(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4)
DEEP = replace(SMALL, block_out_channels=(8, 8, 16), layers_per_block=2, latent_channels=3)
BARE = replace(SMALL, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1, scaling_factor=0.3)
SHAPES = {
    "two levels": SMALL,
    "three levels": DEEP,
    "one level, grey": replace(SMALL, block_out_channels=(8,), in_channels=1, out_channels=1),
    "no quant": BARE,
    "one quant": replace(SMALL, use_quant_conv=False),
    "no attention": replace(DEEP, mid_block_add_attention=False),
}


def renamed(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A peer's names as ours; `up` counts levels as `down` does, from the full resolution."""
    levels = 1 + max(int(i) for key in weights for i in re.findall(r"down_blocks\.(\d)", key))
    rules = [
        (r"^quant_conv", "encoder.quant"),
        (r"^post_quant_conv", "decoder.quant"),
        (r"down_blocks\.(\d)", r"down.\1"),
        (r"up_blocks\.(\d)", lambda found: f"up.{levels - 1 - int(found[1])}"),
        (r"mid_block\.resnets\.0", "mid.before"),
        (r"mid_block\.resnets\.1", "mid.after"),
        (r"mid_block\.attentions\.0\.group_norm", "mid.attention.norm"),
        (r"mid_block\.attentions\.0", "mid.attention.attention"),
        (r"to_out\.0", "to_out"),
        (r"resnets\.(\d)", r"blocks.\1"),
        (r"(down|up)samplers\.0", "resample"),
        (r"conv_shortcut", "skip"),
        (r"conv_norm_out", "norm_out"),
    ]
    named = {}
    for key, weight in weights.items():
        for pattern, name in rules:
            key = re.sub(pattern, name, key)
        named[key] = weight
    return named


def peer(config: AutoencoderKLConfig) -> Peer:
    fields = asdict(config)
    del fields["patch_size"]
    levels = len(config.block_out_channels)
    return Peer(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        **fields,
    )


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_equals_diffusers_traps_20_and_asymmetric_padding(config, dtype, within, shaken):
    theirs = shaken(peer(config)).to(dtype)
    ours = AutoencoderKL(config).to(dtype).eval()
    ours.load_state_dict(renamed(theirs.state_dict()))
    x = torch.rand(2, config.in_channels, 3 * config.factor, 4 * config.factor, dtype=dtype) * 2 - 1
    posterior, expected = ours.encode(x), theirs.encode(x).latent_dist
    torch.testing.assert_close(posterior.mean, expected.mean, rtol=within, atol=within)
    torch.testing.assert_close(posterior.logvar, expected.logvar, rtol=within, atol=within)
    torch.testing.assert_close(posterior.kl(), expected.kl(), rtol=within, atol=1e2 * within)
    z = torch.randn_like(posterior.mean)
    torch.testing.assert_close(ours.decode(z), theirs.decode(z).sample, rtol=within, atol=within)
    scale, shift = theirs.config.scaling_factor, theirs.config.shift_factor or 0
    torch.testing.assert_close(
        ours.to_latents(x), (expected.mode() - shift) * scale, rtol=within, atol=within
    )
    image = theirs.decode(z / scale + shift).sample
    torch.testing.assert_close(ours.from_latents(z), image, rtol=within, atol=within)


@pytest.mark.parametrize("patch", [1, 2, 3])
def test_patches_shrink_the_latent_and_keep_the_image(patch):
    config = replace(DEEP, patch_size=patch)
    net = AutoencoderKL(config)
    x = torch.randn(2, 3, 2 * config.factor, config.factor)
    assert config.factor == 4 * patch
    assert net.to_latents(x).shape == (2, config.embed_dim, 2, 1)
    assert net(x)[0].shape == x.shape
    assert AutoencoderKLConfig(**json.loads(json.dumps(asdict(config)))) == config


def test_every_parameter_learns_and_recomputing_changes_no_gradient(shaken):
    net = shaken(AutoencoderKL(replace(DEEP, patch_size=2)))
    x, noise = torch.randn(2, 3, 16, 8), torch.randn(2, 3, 2, 1)
    found = []
    for net.gradient_checkpointing in (False, True):
        net.zero_grad()
        image, posterior = net(x, noise)
        (image.square().sum() + posterior.kl().sum()).backward()
        found.append({name: p.grad.clone() for name, p in net.named_parameters()})
    assert [name for name, grad in found[0].items() if not grad.any()] == []
    for name, grad in found[0].items():
        assert torch.equal(grad, found[1][name]), name


def test_a_training_step_decodes_the_sample_it_was_given_noise_for(shaken):
    net, x = shaken(AutoencoderKL(SMALL)), torch.randn(2, 3, 8, 8)
    noise = torch.randn(2, 4, 4, 4)
    image, posterior = net(x, noise)
    z = posterior.mean + (posterior.logvar / 2).exp() * noise
    torch.testing.assert_close(image, net.decode(z))
    torch.testing.assert_close(net(x)[0], net.decode(posterior.mean))


def test_attention_is_seen_under_its_site_names():
    sites = []

    def watch(call, proceed):
        sites.append((call.site, call.q.shape[1]))
        return proceed(call)

    with attention.attention_lanes(((watch,),)):
        AutoencoderKL(SMALL)(torch.randn(1, 3, 8, 8))
    assert sites == [("encoder.mid.self", 1), ("decoder.mid.self", 1)]


def test_the_gaussian_is_that_of_torch_distributions_and_its_kl_is_a_sum_trap_27():
    mean, logvar = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64)
    ours = DiagonalGaussian(mean, logvar)
    theirs = Normal(mean, (logvar / 2).exp())
    exact = kl_divergence(theirs, Normal(torch.zeros_like(mean), 1.0))
    torch.testing.assert_close(ours.kl(), exact.sum((1, 2, 3)))
    torch.testing.assert_close(ours.sample(torch.ones_like(mean)), theirs.mean + theirs.stddev)
    assert ours.mode() is mean
    twice = DiagonalGaussian(torch.cat([mean, mean], 2), torch.cat([logvar, logvar], 2))
    torch.testing.assert_close(twice.kl(), 2 * ours.kl())


def test_log_variances_are_clamped_and_half_precision_sums_stay_finite():
    wild = DiagonalGaussian(torch.zeros(2, 1, 1, 1), torch.tensor([-1e4, 1e4]).view(2, 1, 1, 1))
    assert wild.logvar.flatten().tolist() == [-30, 20]
    assert wild.kl().isfinite().all()
    big = DiagonalGaussian(*torch.full((2, 1, 4, 64, 64), 10.0, dtype=torch.float16))
    assert big.kl().item() == pytest.approx(4 * 64 * 64 * 0.5 * (100 + 22026.4658 - 1 - 10), rel=1e-5)
    standard = DiagonalGaussian(*torch.zeros(2, 3, 4, 8, 8))
    assert standard.kl().tolist() == [0, 0, 0]


def test_scaling_and_restoring_are_inverse_and_calibration_gives_unit_variance():
    latents = torch.randn(16, 4, 8, 8) * 5 + 3
    plain, shifted = calibrated(SMALL, latents), calibrated(SMALL, latents, shift=True)
    assert plain.shift_factor is None
    for config, mean in [(plain, 3 / 5), (shifted, 0.0)]:
        z = config.standardize(latents)
        assert z.std().item() == pytest.approx(1, abs=1e-3)
        assert z.mean().item() == pytest.approx(mean, abs=0.02)
        torch.testing.assert_close(config.restore(z), latents)
    assert replace(plain, scaling_factor=SMALL.scaling_factor) == SMALL
    for bad in (torch.zeros(4), torch.tensor([1.0, float("nan")]), torch.zeros(0)):
        with pytest.raises(UserError, match="latents"):
            calibrated(SMALL, bad)


def test_latents_round_trip_through_the_network(shaken):
    net = shaken(AutoencoderKL(BARE))
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(net.from_latents(net.to_latents(x)), net.decode(net.encode(x).mode()))


def overflowing(shaken) -> AutoencoderKL:
    """In float16, latents of usual size overflow behind the first convolution; the group norm undoes it."""
    net = shaken(AutoencoderKL(replace(SMALL, scaling_factor=1.0)))
    with torch.no_grad():
        for coder in (net.encoder, net.decoder):
            coder.conv_in.weight.mul_(6e4)
    return net.half()


def test_an_overflow_in_half_precision_is_redone_in_float32_and_told_once_trap_21(shaken):
    net = overflowing(shaken)
    z = torch.randn(3, 4, 4, 4).half()
    z[1] *= 1e-3
    with torch.no_grad():
        raw = net.decoder(z).isfinite().flatten(1).all(1)
        assert raw.tolist() == [False, True, False]
        with pytest.warns(RuntimeWarning, match="decoder overflowed in float16"):
            image = net.decode(z)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(net.decode(z[:1]), image[:1])
            assert torch.equal(net.decode(z[1:2]), image[1:2])
            assert net.decode(torch.full_like(z, float("nan"))).isnan().all()
        assert image.dtype == torch.float16
        with pytest.warns(RuntimeWarning, match="encoder overflowed"):
            assert net.encode(torch.rand(1, 3, 8, 8).half() + 1).mean.isfinite().all()
        assert all(weight.dtype == torch.float16 for weight in net.parameters())
        exact = net.float().decode(z.float())
    torch.testing.assert_close(image[[0, 2]].float(), exact[[0, 2]], rtol=1e-3, atol=1e-3)


def test_latents_keep_the_dtype_of_the_image_whatever_the_weights(shaken):
    net = shaken(AutoencoderKL(SMALL)).bfloat16()
    x = torch.randn(1, 3, 8, 8)
    assert net.to_latents(x).dtype == torch.float32
    assert net.from_latents(torch.randn(1, 4, 4, 4)).dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"block_out_channels": ()}, "at least one level"),
        ({"layers_per_block": 0}, "1 or more"),
        ({"norm_num_groups": 3}, "norm_num_groups 3 does not divide"),
        ({"scaling_factor": 0.0}, "positive"),
    ],
)
def test_numbers_that_do_not_fit_are_told(change, told):
    with pytest.raises(UserError, match=told):
        CodecConfig(**{"block_out_channels": (8,), "norm_num_groups": 4} | change)


def test_wrong_images_are_told():
    net = AutoencoderKL(SMALL)
    with pytest.raises(UserError, match=r"9x8.*divisible by 2"):
        net.to_latents(torch.zeros(1, 3, 8, 9))
    with pytest.raises(UserError, match=r"takes \[B, 3, H, W\]"):
        net.encode(torch.zeros(1, 1, 8, 8))
    with pytest.raises(UserError, match=r"decodes \[B, 4, h, w\]"):
        net.from_latents(torch.zeros(1, 3, 4, 4))
