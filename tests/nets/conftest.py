"""What the tests of the networks share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn


@pytest.fixture
def shaken() -> Callable[[nn.Module], nn.Module]:
    """A network in eval mode, its zero initialisation shaken out so that every path matters."""

    def shake(net: nn.Module) -> nn.Module:
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        return net.eval()

    return shake
