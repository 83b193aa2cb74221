from __future__ import annotations

from pathlib import Path

import pytest
import torch

from noisette.errors import UserError
from noisette.hub.spec import build_codec
from noisette.nets import UNet
from noisette.recipes import recipe_named, recipe_names
from noisette.recipes.images import images
from noisette.training import AutoencoderRecipe, Recipe


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_builds_its_network(name: str) -> None:
    recipe = recipe_named(name)
    assert isinstance(recipe, Recipe | AutoencoderRecipe) and recipe.spec.name == name
    with torch.device("meta"):
        net = recipe.spec.build() if isinstance(recipe, Recipe) else build_codec(recipe.spec.codec)
    assert sum(p.numel() for p in net.parameters()) > 1e6


def test_digits_fit_into_the_package() -> None:
    config = recipe_named("digits").spec.net
    with torch.device("meta"):
        net = UNet(config)
    assert sum(p.numel() for p in net.parameters()) <= 2_000_000  # 4 MB in float16


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
    with pytest.raises(UserError, match=r"did you mean 'digits'.*cifar10, digits, emoji, images, scenes"):
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
