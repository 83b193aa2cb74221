"""Feature caching: most calls of a U-Net run its shallow part alone, over an earlier deep feature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from noisette.errors import UserError
from noisette.nets.unet import UNet


class DeepCache(nn.Module):
    """A U-Net that runs whole in every ``every``-th call, and shallow over the last deep feature in between.

    `forward(x, time, cond)` is the U-Net's. Of two neighbouring noise levels the deep feature hardly differs,
    so a shallow call, `up(deep of an earlier call, shallow part of this one)`, is close to a whole one at a
    part of its cost; `every=1` is the U-Net itself, bit for bit. ``branch`` (0 to `num_res_blocks`) stages of
    level 0 on the way down, and one more on the way up, are shallow: 0 is the cheapest.

    The state is the deep feature and the number of calls. It belongs to ONE trajectory: take a new wrapper
    for each (it shares the weights), or call `reset()` before. Another shape of x resets it, so lanes of
    guidance may come and go along the batch. Lanes that take one call each, because their conditions differ
    in shape, would read each other's features: give each a wrapper of its own. A solver's calls count one by
    one, not by step. Attention rules are heard at deep sites in whole calls only.

    With a text encoder: `Prompted(DeepCache(prompted.net, 3), prompted.text)`. Not for training: no gradient
    flows into the feature. Source: arXiv:2312.00858, Sec. 3.2 and 3.3, intervals uniform (1:N).
    Raises UserError for an ``every`` below 1 and a ``branch`` that the U-Net does not have.
    """

    def __init__(self, net: UNet, every: int, branch: int = 0) -> None:
        super().__init__()
        if every < 1:
            raise UserError(f"every {every} must be 1 or more: the U-Net runs whole in each such call")
        if not 0 <= branch <= net.config.num_res_blocks:
            raise UserError(f"branch {branch} must lie in 0 to {net.config.num_res_blocks} for this U-Net")
        self.net = net
        self.every, self.branch = every, branch
        self.reset()

    def reset(self) -> None:
        """Forget the trajectory: the next call runs whole."""
        self.calls = 0
        self._deep: Tensor | None = None
        self._seen: object = None

    def forward(self, x: Tensor, time: Tensor, cond: Mapping[str, Any] | None = None) -> Tensor:
        seen = (x.shape, x.dtype, x.device)
        if seen != self._seen:
            self.reset()
            self._seen = seen
        deep = self._deep if self.calls % self.every else None
        out, deep = self.net.through(x, time, cond, branch=self.branch, deep=deep)
        self._deep = deep.detach()
        self.calls += 1
        return out
