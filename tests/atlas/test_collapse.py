from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributions import MultivariateNormal

from noisette.atlas import collapse, page_named
from noisette.atlas.collapse import digits, linear
from noisette.atlas.collapse.bench import QUICK, Digits, interval
from noisette.atlas.collapse.linear import LinearVAE, gap, law, trained
from noisette.errors import UserError


def few_digits(*_: Any) -> Digits:
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 10
    images = (
        (torch.randint(0, 256, (40, 1, 32, 32), generator=random) / 127.5 - 1) * labels.view(-1, 1, 1, 1) / 9
    )
    return Digits(images, labels, images[:20], labels[:20])


@pytest.fixture(scope="module", autouse=True)
def quicker() -> Iterator[None]:
    """What is tested is the page, not the trainings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collapse, "QUICK", replace(QUICK, linear_steps=3, steps=2, count=20))
        patch.setattr(collapse, "_digits", few_digits)
        patch.setattr(digits, "NET", replace(digits.NET, widths=(8, 8, 8, 8)))
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("atlas")
    page = page_named("collapse").run(folder, quick=True, data=folder)
    assert page == folder / "collapse.html"
    return folder


def test_the_page_needs_no_other_file_and_no_network(made: Path) -> None:
    text = (made / "collapse.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://", text)
    assert not re.search(r"\b(nan|inf|None)\b", re.sub(r"base64,[^']*", "", text))
    assert text.count("<section") == 2 and "quick" in text and "data:image/png;base64," in text
    targets = set(re.findall(r"href='#([^']*)'", text))
    assert targets == set(re.findall(r"<section id='([^']*)'", text))


def test_what_is_measured_is_not_measured_again(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = json.loads((made / "collapse.json").read_text())
    count = len(linear.NOISE) * QUICK.seeds + len(digits.WAYS) * QUICK.seeds + 1
    assert len(before["cells"]) == count

    def never(*_: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(linear, "measure", never)
    monkeypatch.setattr(digits, "measure", never)
    page_named("collapse").run(made, quick=True, data=made)
    assert json.loads((made / "collapse.json").read_text()) == before


def test_without_data_the_digits_are_left_out(tmp_path: Path) -> None:
    text = page_named("collapse").run(tmp_path, quick=True).read_text(encoding="utf-8")
    assert text.count("<section") == 1 and "Left out: the digits" in text


def test_the_bound_in_closed_form_is_that_of_samples() -> None:
    net = LinearVAE(3, 2)
    variances, noise = torch.tensor([2.0, 1.0, 0.3], dtype=torch.float64), 0.4
    x = torch.randn(200_000, 3, dtype=torch.float64) * variances.sqrt()
    mean, std = x @ net.encode.mT, (net.log_variance / 2).exp()
    z = mean + std * torch.randn(len(x), 2, dtype=torch.float64)
    error = (x - z @ net.decode.mT).square().sum(1) / (2 * noise)
    kl = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).sum(1)
    found = (error + kl).mean()
    assert net.loss(variances, noise).item() == pytest.approx(found.item(), rel=0.01)


@pytest.mark.parametrize("noise", [1.3, 3.0, 8.0])
def test_training_finds_the_law_of_collapse(noise: float) -> None:
    found = linear._found(trained(1, noise, 250))
    assert found["active"] == len(law(noise)) == {1.3: 4, 3.0: 2, 8.0: 0}[noise]
    assert gap(found["divergences"], noise) < 0.02
    assert all(one < 1e-3 for one in found["divergences"][len(law(noise)) :])


def test_at_the_law_the_bound_is_the_likelihood() -> None:
    noise, count = 1.3, len(linear.VARIANCES)
    variances = torch.tensor(linear.VARIANCES, dtype=torch.float64)
    net = LinearVAE(count, linear.UNITS)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        for k, one in enumerate(one for one in linear.VARIANCES if one > noise):
            net.decode[k, k] = math.sqrt(one - noise)
            net.encode[k, k] = math.sqrt(one - noise) / one
            net.log_variance[k] = math.log(noise / one)
    assert net.divergence(variances)[:4].tolist() == pytest.approx(law(noise))
    covariance = net.decode @ net.decode.mT + noise * torch.eye(count, dtype=torch.float64)
    model = MultivariateNormal(torch.zeros(count, dtype=torch.float64), covariance)
    # E log p(x) of Gaussian data under the model, and the constant that the loss leaves out.
    trace = (torch.linalg.inv(covariance).diagonal() * variances).sum()
    likelihood = -0.5 * (trace + torch.logdet(covariance) + count * math.log(2 * math.pi))
    assert model.log_prob(torch.zeros(count, dtype=torch.float64)) > likelihood
    bound = -net.loss(variances, noise) - count / 2 * math.log(2 * math.pi * noise)
    assert bound.item() == pytest.approx(likelihood.item(), abs=1e-9)


def test_variances_are_about_the_mean_of_each_class() -> None:
    data = few_digits()
    found = digits.variances(data, lambda n: None)["variances"]
    x = (data.images.flatten(1).double() + 1) / 2
    means = torch.stack([x[data.labels == k].mean(0) for k in range(10)])
    centred = x - means[data.labels]
    wanted = torch.linalg.eigvalsh(centred @ centred.mT / len(x)).flip(0)
    torch.testing.assert_close(
        torch.tensor(found, dtype=torch.float64), wanted[: len(found)], atol=1e-9, rtol=0
    )


def test_a_training_is_decided_by_its_seed() -> None:
    data = few_digits()
    one, again, other = (digits.measure(data, digits.WAYS[3], seed, 2, lambda n: None) for seed in (0, 0, 1))
    assert one == again and one["bits"] != other["bits"]
    assert len(one["kl"]) == digits.UNITS and one["sigma"] == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize(
    ("active", "finding"),
    [
        (((10, 12), (60, 61), (40, 41), (64, 64)), "holds"),
        (((10, 14), (60, 61), (40, 41), (64, 64)), "holds in part"),
        (((10, 12), (60, 57), (40, 41), (64, 64)), "holds in part"),
        (((40, 41), (50, 51), (60, 61), (50, 50)), "does not hold"),
    ],
)
def test_the_verdict_is_that_of_the_worst_seed(active: Any, finding: str) -> None:
    groups = {
        way.name: [{"active": one} for one in group] for way, group in zip(digits.WAYS, active, strict=True)
    }
    assert digits.verdict(groups).finding == finding


def test_the_interval_of_three_values_is_students() -> None:
    mean, half = interval([1.0, 2.0, 3.0])
    assert mean == 2 and half == pytest.approx(4.303 / math.sqrt(3))


def test_what_the_page_cannot_do_is_told(tmp_path: Path) -> None:
    run = page_named("collapse").run
    for options, message in (
        ({"model": "digits"}, "leave --model out"),
        ({"count": 1}, "number of held-out digits"),
    ):
        with pytest.raises(UserError, match=message):
            run(tmp_path, quick=True, **options)
