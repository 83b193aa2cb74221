import pytest
import torch
from torch import Tensor

from noisette.core import attention
from noisette.core.attention import attend


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("masked", [False, True])
def test_small_attention_in_half_precision_has_the_gradients_of_the_fused_kernel(dtype, masked) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 8) for n in (9, 7, 7))
    mask = torch.rand(2, 1, 1, 7) < 0.6 if masked else None
    if mask is not None:
        mask[..., 0] = True
    weight = torch.randn(2, 3, 9, 8)

    def gradients(kind: torch.dtype) -> list[Tensor]:
        leaves = [x.to(kind).requires_grad_() for x in (q, k, v)]
        out = attend(*leaves, "site", mask)  # pyright: ignore[reportArgumentType]
        assert out.dtype == kind
        (out.float() * weight).sum().backward()
        return [out.detach().float(), *(x.grad.float() for x in leaves)]  # pyright: ignore

    for half, exact in zip(gradients(dtype), gradients(torch.float32), strict=True):
        assert (half - exact).abs().max() < 0.02 * exact.abs().max()


def test_the_map_is_made_only_where_that_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    fused = []
    kernel = attention.scaled_dot_product_attention
    monkeypatch.setattr(
        attention, "scaled_dot_product_attention", lambda *a, **k: fused.append(a[0].dtype) or kernel(*a, **k)
    )
    small = torch.randn(1, 1, 4, 8, dtype=torch.bfloat16)
    attend(small, small, small, "site")  # nothing to differentiate
    attend(*[small.float().requires_grad_()] * 3, "site")
    large = torch.randn(1, 1, 129, 8, dtype=torch.bfloat16, requires_grad=True)
    attend(large, large, large, "site")
    assert fused == [torch.bfloat16, torch.float32, torch.bfloat16]
    attend(*[small.requires_grad_()] * 3, "site")
    assert len(fused) == 3
