from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from noisette.core import IndexTime
from noisette.data import open_dataset
from noisette.errors import UserError
from noisette.models import Model
from noisette.nets import UNet
from noisette.training import Hybrid, LossHistory, Rows, Simple, Vlb, fit
from noisette.training.checkpoint import Checkpoint, checkpoint_folders, load_latest
from noisette.training.folder import last_checkpoint
from noisette.training.samples import sample_grid
from noisette.training.setup import batches, begin

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import json, os, signal
from pathlib import Path
import torch
from noisette.core import IndexTime, V
from noisette.models import ModelSpec
from noisette.nets import UNetConfig
from noisette.schedules import CosineVP
from noisette.training import Recipe, Rows, Simple, fit

torch.set_num_threads(1)
net = UNetConfig(1, 1, 8, (1,), 1, (), norm_groups=4, num_classes=2, dropout={dropout})
spec = ModelSpec("tiny", net, CosineVP(100), V(), IndexTime(100), 8, 1, ("dark", "light"))
recipe = Recipe(
    spec=spec, objective=Simple(times=Rows(100)), steps={steps}, batch_size=8, warmup=4, decay="cosine",
    ema=0.99, flip=True, precision="fp32", sample_every=0, checkpoint_every=0,
)
losses = []

def say(line):
    os.write(1, (line + "\\n").encode())  # one write a line: two processes share the pipe

def tell(step):
    losses.append(float(step.loss))
    say(f"step {{step.index}}")
    if os.environ.get("RANK") == "1" and step.index == 12:
        os.kill(os.getpid(), signal.SIGTERM)

result = fit(recipe, {data!r}, {out!r}, on_step=tell)
say(f"left {{result.step}} {{result.interrupted}}")
rank, world = os.environ.get("RANK", "0"), torch.distributed.get_world_size() if "RANK" in os.environ else 1
Path({out!r}, f"losses-{{rank}}-of-{{world}}.json").write_text(json.dumps(losses))
"""


def environment() -> dict[str, str]:
    source = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    hidden = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return {**os.environ, "PYTHONPATH": source, **hidden}


@contextmanager
def started(command: list[object]) -> Iterator[subprocess.Popen[str]]:
    """A process with pipes; it and all that it started are gone after the block."""
    process = subprocess.Popen(
        [str(word) for word in command],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def script(tmp_path: Path, **values: object) -> Path:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT.format(**values))
    return path


def assert_equal(a: Checkpoint, b: Checkpoint) -> None:
    """Bit for bit: weights, average, optimizer, place in the data."""
    assert a.step == b.step and dict(a.facts) == dict(b.facts)
    assert a.tensors.keys() == b.tensors.keys() >= {"weights", "ema", "optimizer"}
    for group in a.tensors:
        assert a.tensors[group].keys() == b.tensors[group].keys()
        for name, value in a.tensors[group].items():
            assert torch.equal(value, b.tensors[group][name]), (group, name)


def test_trap_26_resume_is_bit_for_bit(tiny, images, tmp_path) -> None:
    recipe = tiny(steps=10)
    fit(recipe, images, tmp_path / "straight")
    fit(recipe, images, tmp_path / "parts", max_train_steps=5)
    torch.manual_seed(99)  # whatever the next process happens to hold
    fit(recipe, images, tmp_path / "parts", resume=True)
    straight, parts = (load_latest(tmp_path / name / "checkpoints") for name in ("straight", "parts"))
    assert straight.step == 10
    assert straight.facts["data"]["position"] == 10  # three batches are an epoch: the data went round
    assert_equal(straight, parts)


def test_trap_26_resume_keeps_the_loss_history(tiny, images, tmp_path) -> None:
    objective = Vlb(4, history=LossHistory(4, keep=2))
    recipe = tiny(steps=8, objective=objective, net={"learned_variance": True}, spec={"time": IndexTime(4)})
    fit(recipe, images, tmp_path / "straight")
    fit(recipe, images, tmp_path / "parts", max_train_steps=4)
    fit(recipe, images, tmp_path / "parts", resume=True)
    straight, parts = (load_latest(tmp_path / name / "checkpoints") for name in ("straight", "parts"))
    assert int(straight.tensors["history"]["seen"].sum()) == 64
    assert_equal(straight, parts)
    assert int(objective.history.seen.sum()) == 0  # the recipe itself stays as it was


def test_trap_26_sigterm_saves_and_the_rest_is_the_same(tiny, images, tmp_path) -> None:
    out = tmp_path / "stopped"
    path = script(tmp_path, steps=5000, data=str(images), out=str(out), dropout=0.1)
    with started([sys.executable, path]) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "step 5":
                process.send_signal(signal.SIGTERM)
                break
        rest, complaints = process.communicate(timeout=120)
    assert process.returncode == 0, complaints
    stopped = load_latest(out / "checkpoints").step
    assert f"left {stopped} True" in rest and 5 <= stopped < 5000
    assert f"stopped at step {stopped}, saved in" in complaints and "--resume" in complaints
    assert not (out / "model").exists()

    recipe = tiny(steps=5000)
    fit(recipe, images, out, max_train_steps=stopped + 5, resume=True)
    fit(recipe, images, tmp_path / "straight", max_train_steps=stopped + 5)
    assert_equal(load_latest(tmp_path / "straight" / "checkpoints"), load_latest(out / "checkpoints"))


def test_two_processes_are_one_at_the_doubled_batch_and_stop_together(tiny, images, tmp_path) -> None:
    """Same images, levels, noise and dropped labels; only the order of the sums differs.

    Dropout is off: its masks are drawn inside the network, by each process for itself. The second
    process alone is told to stop, after step 12.
    """
    out, steps = tmp_path / "two", 13
    path = script(tmp_path, steps=5000, data=str(images), out=str(out), dropout=0.0)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", path]
    with started(launch) as process:
        said, complaints = process.communicate(timeout=200)
    assert process.returncode == 0, complaints
    assert said.count(f"left {steps} True") == 2
    losses: list[float] = []
    fit(
        tiny(steps=5000, net={"dropout": 0.0}),
        images,
        tmp_path / "one",
        max_train_steps=steps,
        on_step=lambda s: losses.append(float(s.loss)),
    )
    for rank in (0, 1):
        together = torch.tensor(json.loads((out / f"losses-{rank}-of-2.json").read_text()))
        torch.testing.assert_close(together, torch.tensor(losses), rtol=1e-5, atol=0)
    one, two = (load_latest(tmp_path / name / "checkpoints") for name in ("one", "two"))
    assert one.facts == two.facts
    for name, value in one.tensors["ema"].items():
        torch.testing.assert_close(two.tensors["ema"][name], value, rtol=1e-4, atol=1e-6)


def test_gradient_checkpointing_changes_no_weight_and_may_be_switched_on_later(
    tiny, images, tmp_path
) -> None:
    plain, saving = tiny(steps=6), tiny(steps=6, gradient_checkpointing=True)
    fit(plain, images, tmp_path / "plain")
    fit(plain, images, tmp_path / "saving", max_train_steps=3)
    assert fit(saving, images, tmp_path / "saving", resume=True).model.denoiser.net.gradient_checkpointing
    straight, parts = (load_latest(tmp_path / name / "checkpoints") for name in ("plain", "saving"))
    for name, value in straight.tensors["weights"].items():
        assert torch.equal(parts.tensors["weights"][name], value)


def test_the_folder_of_a_run(tiny, images, tmp_path) -> None:
    out = tmp_path / "run"
    recipe = tiny(steps=6, sample_every=3, checkpoint_every=2, keep_checkpoints=2)
    result = fit(recipe, images, out)
    assert (result.step, result.interrupted, result.folder) == (6, False, out / "model")
    assert [path.name for path in checkpoint_folders(out / "checkpoints")] == [
        "step-00000004",
        "step-00000006",
    ]
    assert {path.name for path in (out / "samples").iterdir()} == {"step-00000003.png", "step-00000006.png"}
    assert json.loads((out / "recipe.json").read_text())["lr"] == recipe.lr
    assert list((out / "logs").glob("events.out.tfevents.*"))
    ema = load_latest(out / "checkpoints").tensors["ema"]
    loaded = Model.load(out / "model")
    for name, value in loaded.denoiser.net.state_dict().items():
        assert torch.equal(value, ema[name])  # trap 25: the average is what is saved
    assert loaded.notes["steps"] == 6 and "24 images" in str(loaded.notes["trained_on"])
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_pictures_come_from_the_average_and_do_not_touch_the_run(tiny, images, tmp_path) -> None:
    fit(tiny(steps=6, sample_every=1), images, tmp_path / "seen")
    fit(tiny(steps=6), images, tmp_path / "unseen")
    seen, unseen = (load_latest(tmp_path / name / "checkpoints") for name in ("seen", "unseen"))
    assert all(torch.equal(v, unseen.tensors["ema"][k]) for k, v in seen.tensors["ema"].items())
    from PIL import Image

    from noisette.data import to_pil

    grid = sample_grid(Model.load(tmp_path / "seen" / "model"))
    kept = Image.open(tmp_path / "seen" / "samples" / "step-00000006.png")
    assert kept.tobytes() == to_pil(grid).tobytes()


def test_tensorboard_has_the_curves(tiny, images, tmp_path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(tiny(steps=20), images, tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "logs"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "grad_norm", "lr", "images_per_second"}
    assert [event.step for event in events.Scalars("lr")] == [10, 20]
    assert events.Scalars("lr")[0].value == pytest.approx(tiny().lr_at(9))  # what the optimizer used


def test_nothing_is_overwritten_unasked(tiny, images, tmp_path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        fit(tiny(steps=2), images, out)
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]
    fit(tiny(steps=4), images, out, overwrite=True)
    fit(tiny(steps=2), images, out, overwrite=True)
    assert (out / "thesis.txt").read_text() == "mine"
    assert [path.name for path in checkpoint_folders(out / "checkpoints")] == ["step-00000002"]


def test_resume_needs_a_checkpoint_of_the_same_recipe(tiny, images, tmp_path) -> None:
    out = tmp_path / "run"
    with pytest.raises(UserError, match=r"there is no checkpoint in .* without --resume"):
        fit(tiny(), images, out, resume=True)
    assert not out.exists()
    fit(tiny(), images, out, max_train_steps=2)
    with pytest.raises(UserError, match=r"another recipe \(.*lr: 0.0002 -> 0.001; seed: 0 -> 1\)"):
        fit(tiny(lr=1e-3, seed=1), images, out, resume=True)
    with pytest.raises(UserError, match="images was 24 and is now 23"):
        next(images.rglob("*.png")).unlink()
        fit(tiny(), images, out, resume=True)


def test_resume_passes_over_a_torn_checkpoint(tiny, images, tmp_path) -> None:
    recipe = tiny(steps=6, checkpoint_every=2)
    fit(recipe, images, tmp_path / "straight")
    fit(recipe, images, tmp_path / "torn", max_train_steps=4)
    newest = last_checkpoint(tmp_path / "torn")
    assert newest is not None and newest.name == "step-00000004"
    weights = newest / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    fit(recipe, images, tmp_path / "torn", resume=True)
    assert_equal(*(load_latest(tmp_path / name / "checkpoints") for name in ("straight", "torn")))


def test_a_finished_run_is_left_alone(tiny, images, tmp_path) -> None:
    fit(tiny(steps=3), images, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "model")
    result = fit(tiny(steps=3), images, tmp_path / "run", resume=True)
    assert result.step == 3 and (tmp_path / "run" / "model" / "model.safetensors").is_file()


def test_a_loss_that_is_not_finite_stops_and_names_the_last_checkpoint(tiny, images, tmp_path) -> None:
    steps: list[int] = []

    class Breaks(Simple):
        def __call__(self, denoiser, schedule, x0, cond, draws):
            loss = super().__call__(denoiser, schedule, x0, cond, draws)
            return loss * float("nan") if len(steps) == 3 else loss

    recipe = tiny(objective=Breaks(times=Rows(100)), checkpoint_every=2)
    with pytest.raises(UserError, match=r"stopped at step 4: the loss is nan .*step-00000002 \("):
        fit(recipe, images, tmp_path / "run", on_step=lambda s: steps.append(s.index))
    saved = load_latest(tmp_path / "run" / "checkpoints")
    assert saved.step == 2 and all(bool(v.isfinite().all()) for v in saved.tensors["weights"].values())
    assert not (tmp_path / "run" / "model").exists()
    steps.clear()
    with pytest.raises(UserError, match="there is no checkpoint yet"):
        fit(
            replace(recipe, checkpoint_every=0),
            images,
            tmp_path / "other",
            on_step=lambda s: steps.append(s.index),
        )


def test_trap_17_labels_are_dropped_at_the_rate_asked(tiny, images) -> None:
    told: list[Tensor] = []

    class Listens(Simple):
        def __call__(self, denoiser, schedule, x0, cond, draws):
            told.append(cond["label"])
            return x0.flatten(1).mean(1)

    def labels(rate: float, steps: int) -> Tensor:
        told.clear()
        state = begin(tiny(cond_dropout=rate, objective=Listens(times=Rows(100))), images)
        stream = batches(state, torch.device("cpu"))
        for state.step in range(1, steps + 1):
            state.task.loss(state.net, *next(stream), state.step)
        return torch.cat(told)

    heard = labels(0.25, 200)
    assert float((heard == -1).float().mean()) == pytest.approx(0.25, abs=0.04)
    assert set(heard.tolist()) == {-1, 0, 1}
    assert set(labels(0.0, 1).tolist()) <= {0, 1}


def test_trap_25_weights_stay_float32_and_the_network_alone_runs_in_bf16(
    tiny, images, tmp_path, monkeypatch
) -> None:
    inside: set[torch.dtype] = set()
    forward = nn.Conv2d.forward

    def watched(self, x):
        out = forward(self, x)
        inside.add(out.dtype)
        return out

    class Watched(Simple):
        def error(self, denoiser, prediction, truth):
            assert prediction.x0.dtype == prediction.eps.dtype == torch.float32
            return super().error(denoiser, prediction, truth)

    monkeypatch.setattr(nn.Conv2d, "forward", watched)
    recipe = tiny(precision="bf16", steps=3, objective=Watched(times=Rows(100)))
    result = fit(recipe, images, tmp_path / "run")
    assert inside == {torch.bfloat16}
    saved = load_latest(tmp_path / "run" / "checkpoints")
    for group in ("weights", "ema", "optimizer"):
        assert {value.dtype for value in saved.tensors[group].values()} == {torch.float32}
    inside.clear()
    result.model.generate(label=0, num_inference_steps=2, seed=0)
    assert inside == {torch.float32}  # the precision of training does not linger


@pytest.mark.parametrize("channels_last", [True, False])
def test_every_objective_trains(tiny, images, tmp_path, channels_last: bool) -> None:
    recipe = tiny(
        steps=3,
        objective=Hybrid(Simple(times=Rows(100))),
        net={"learned_variance": True},
        channels_last=channels_last,
    )
    result = fit(recipe, images, tmp_path / "run")
    new = begin(recipe, images).net.state_dict()
    changed = [k for k, v in result.model.denoiser.net.state_dict().items() if not torch.equal(v, new[k])]
    assert "conv_out.weight" in changed
    assert isinstance(result.model.denoiser.net, UNet) and not result.model.denoiser.net.training


def test_data_that_do_not_fit_are_named(tiny, images, tmp_path) -> None:
    with pytest.raises(UserError, match=r"images are \(3, 8, 8\), but tiny draws \(1, 8, 8\)"):
        fit(tiny(), open_dataset(images, size=8), tmp_path / "run")
    with pytest.raises(UserError, match=r"the classes are .*'dark', 'light'"):
        spec = {"labels": ("light", "dark")}
        fit(tiny(spec=spec), open_dataset(images, size=8, channels=1), tmp_path / "run")
    with pytest.raises(UserError, match="fewer than one batch of 64"):
        fit(tiny(batch_size=64), images, tmp_path / "run")
    with pytest.raises(UserError, match="max_train_steps must be at least 1"):
        fit(tiny(), images, tmp_path / "run", max_train_steps=0)
    with pytest.raises(UserError, match="8 cannot be shared by 3 processes"):
        begin(tiny(), images, world=3)
    assert not (tmp_path / "run").exists()


def test_it_learns(tiny, images, tmp_path) -> None:
    losses: list[float] = []
    recipe = tiny(steps=150, lr=5e-3, decay="constant")
    fit(recipe, images, tmp_path / "run", on_step=lambda s: losses.append(float(s.loss)))
    assert sum(losses[-30:]) < 0.75 * sum(losses[:30])
