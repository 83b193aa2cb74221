"""What every test gets: seeded randomness, one thread per worker, and real images where there are some."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]

# A busy machine makes an example slow without making it wrong; the same examples are tried in each run.
hypothesis.settings.register_profile(
    "noisette", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("noisette")

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Start each test from the same state of torch's global generator."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real images: $NOISETTE_DATA, else ../shared/data beside the checkout."""
    folder = Path(os.environ.get("NOISETTE_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"needs real data: there is no folder {folder}; name one in NOISETTE_DATA")
    return folder
