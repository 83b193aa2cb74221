from __future__ import annotations

from pathlib import Path

import pytest
import torch

from noisette.errors import UserError
from noisette.hub.spec import build_codec
from noisette.nets import UNet
from noisette.recipes import recipe_named, recipe_names
from noisette.recipes.images import images
from noisette.training import AutoencoderRecipe, GeneratorRecipe, Recipe


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_builds_its_network(name: str) -> None:
    recipe = recipe_named(name)
    assert isinstance(recipe, Recipe | AutoencoderRecipe | GeneratorRecipe) and recipe.spec.name == name
    if isinstance(recipe, AutoencoderRecipe):
        with torch.device("meta"):
            net = build_codec(recipe.spec.codec)
    else:
        with torch.device("meta"):
            net = recipe.spec.build()
    assert sum(p.numel() for p in net.parameters()) > 1e6


def test_digits_fit_into_the_package() -> None:
    config = recipe_named("digits").spec.net
    with torch.device("meta"):
        net = UNet(config)
    assert sum(p.numel() for p in net.parameters()) <= 2_000_000  # 4 MB in float16


@pytest.mark.parametrize("name", ["digits-gan", "digits-flow", "digits-vae", "digits-hvae"])
def test_digits_of_one_call_are_of_the_size_of_digits(name: str) -> None:
    spec, diffusion = recipe_named(name).spec, recipe_named("digits").spec
    assert 1.7e6 < sum(p.numel() for p in spec.build().parameters()) < 2.2e6
    assert (spec.image_size, spec.channels, spec.labels) == (32, 1, diffusion.labels)


def test_cifar10_is_the_network_of_ddpm() -> None:
    config = recipe_named("cifar10").spec.net
    with torch.device("meta"):
        net = UNet(config)
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(35.7e6, rel=0.005)


@pytest.mark.parametrize("size", [16, 32, 64, 128, 256])
def test_the_recipe_for_any_folder_has_many_sizes(size: int) -> None:
    spec = images(size, channels=1, labels=("a", "b")).spec
    assert spec.image_size == size and spec.net.num_classes == 2
    assert size >> (len(spec.net.channel_mult) - 1) == 8
    with pytest.raises(UserError, match="not 50"):
        images(50)


def test_an_unknown_name_gets_the_list_and_the_closest() -> None:
    with pytest.raises(
        UserError, match=r"did you mean 'digits'.*cifar10, digits, digits-flow, .*emoji, images, scenes"
    ):
        recipe_named("digit")
    with pytest.raises(UserError, match=r"there is no recipe '\.\./images'"):
        recipe_named("../images")
    with pytest.raises(UserError, match="there is no recipe '__init__'"):
        recipe_named("__init__")


def test_a_file_of_your_own_is_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("from noisette.recipes.images import images\n\nrecipe = images(32, flip=False)\n")
    assert recipe_named(path) == images(32, flip=False)
    path.write_text("recept = 1\n")
    with pytest.raises(UserError, match="defines no `recipe`"):
        recipe_named(path)
    with pytest.raises(UserError, match="no such file"):
        recipe_named(tmp_path / "none.py")
