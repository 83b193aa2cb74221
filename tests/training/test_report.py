from __future__ import annotations

import sys

import pytest
import torch

from noisette.training import report
from noisette.training.report import Reporter


class Clock:
    """A clock that a test turns."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(report, "time", clock)
    return clock


def test_speed_and_loss(tmp_path, clock) -> None:
    reporter = Reporter(tmp_path, 0, 1000, 64, visible=False)
    for step in range(1, 201):
        clock.now += 0.5 if step < 100 else 0.25
        reporter.step(step, 2.0, 1.0, 1e-3)
    assert reporter.speed == pytest.approx(64 / 0.25)  # of the last 50 steps
    assert reporter.loss == pytest.approx(2.0)  # a running average without a bias towards 0
    assert not list(tmp_path.iterdir())


def test_plain_lines_without_a_terminal(tmp_path, clock, capsys) -> None:
    with Reporter(tmp_path, 0, 100, 64) as reporter:
        for step in range(1, 101):
            clock.now += 1.0
            reporter.step(step, 0.5, 1.0, 1e-3)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "step 30/100  loss 0.5000  64 images/s  70 s left"
    assert [line.split()[1] for line in lines] == ["30/100", "60/100", "90/100", "100/100"]


def test_a_bar_on_a_terminal(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Reporter(tmp_path, 3, 5, 64) as reporter:
        reporter.step(4, 0.25, 1.0, 1e-3)
        reporter.say("a word")
        reporter.step(5, 0.25, 1.0, 1e-3)
    said = capsys.readouterr().err
    assert "a word" in said and "5/5" in said and "loss 0.2500" in said and "images/s" in said


def test_drawing_is_no_training_time(tmp_path, clock) -> None:
    with Reporter(tmp_path, 0, 100, 64) as reporter:
        clock.now += 1.0
        reporter.step(1, 0.5, 1.0, 1e-3)
        clock.now += 60.0
        path = reporter.pictures(1, torch.zeros(1, 8, 8))
        clock.now += 1.0
        reporter.step(2, 0.5, 1.0, 1e-3)
        assert reporter.speed == pytest.approx(64.0)
    assert path.name == "step-00000001.png" and path.stat().st_size > 0
