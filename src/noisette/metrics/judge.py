"""The judge of the digits world: a small classifier that says which digit an image shows."""

from __future__ import annotations

from importlib.resources import files

from torch import Tensor, nn

from noisette.errors import UserError
from noisette.metrics.features import Images, collect
from noisette.metrics.frechet import Statistics

WEIGHTS = files("noisette.metrics") / "weights"


def _block(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class Judge(nn.Module):
    """Read 32x32 one-channel digits: `judge(x)` gives logits [B, 10], `judge.features(x)` vectors [B, 64].

    x: [B, 1, 32, 32] in [-1, 1], background -1 (28x28 digits padded by 2). The features are the input of
    the last linear layer; the digits world measures its Frechet distance in them. Raises UserError on any
    other image shape. Cost: 6.8e6 multiply-adds per image, 0.17 million weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            _block(1, 32, kernel=5, stride=2),
            _block(32, 32, kernel=3, stride=1),
            _block(32, 64, kernel=3, stride=2),
            _block(64, 64, kernel=3, stride=1),
            _block(64, 64, kernel=3, stride=2),
            nn.Flatten(),
            nn.Linear(64 * 4 * 4, 64, bias=False),
            nn.BatchNorm1d(64),
            nn.SiLU(),
        )
        self.head = nn.Linear(64, 10)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate activations [B, 64] of images x [B, 1, 32, 32] in [-1, 1]."""
        if x.shape[1:] != (1, 32, 32):
            raise UserError(f"The digits judge reads images [B, 1, 32, 32], not {list(x.shape)}.")
        return self.trunk(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

    @classmethod
    def load(cls) -> Judge:
        """The trained judge that ships with the package: frozen, in evaluation mode, float32, on the CPU."""
        from safetensors.torch import load

        judge = cls()
        judge.load_state_dict(load((WEIGHTS / "digits-judge.safetensors").read_bytes()))
        return judge.eval().requires_grad_(False)


def accuracy(judge: nn.Module, images: Images, labels: Tensor) -> float:
    """Fraction in [0, 1] of images that the judge reads as the label they should show.

    images: [N, 1, 32, 32] in [-1, 1] or batches of them, rounded to uint8 levels first; labels: [N] integers.
    Raises UserError when there are not as many labels as images.
    """
    read = collect(judge, images).argmax(1)
    if read.shape != labels.shape:
        raise UserError(f"{len(read)} images need as many labels, not {list(labels.shape)}.")
    return (read == labels.cpu()).double().mean().item()


def digits_reference() -> Statistics:
    """Judge-feature statistics of the 60,000 MNIST training digits: a Frechet distance with no data at hand.

    A distance between 60,000 real and n generated digits is biased upwards, the more the smaller n is:
    compare such distances only at equal n. Where the data is at hand, `evaluate` takes equal numbers of both.
    """
    from safetensors.torch import load

    return Statistics(**load((WEIGHTS / "digits-reference.safetensors").read_bytes()))
