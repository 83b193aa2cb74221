"""The command line as a person types it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import noisette
from noisette import cli, models
from noisette.cli import main
from noisette.core import IndexTime, V
from noisette.hub import read_settings
from noisette.models import Defaults, Model, ModelSpec
from noisette.nets import UNetConfig
from noisette.schedules import CosineVP

Run = Callable[..., tuple[int, str, str]]


def tiny(size: int = 16, labels: tuple[str, ...] | None = ("ant", "bee", "cat")) -> Model:
    count = None if labels is None else len(labels)
    net = UNetConfig(1, 1, model_channels=8, channel_mult=(1, 2), num_res_blocks=1, attention_levels=(),
                     norm_groups=4, num_classes=count)  # fmt: skip
    scale = 1.0 if labels is None else 2.0
    defaults = Defaults("ddim", steps=3, guidance_scale=scale)
    return Model.new(
        ModelSpec("tiny", net, CosineVP(steps=100), V(), IndexTime(100), size, 1, labels, defaults)
    )


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Type a command line in a folder that holds the model ``tiny`` and the run ``runs/old``."""
    monkeypatch.chdir(tmp_path)
    tiny().save("tiny")
    tiny(labels=None).save("runs/old/model")

    def typed(line: str, *more: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([*line.split(), *more])
        out, err = capsys.readouterr()
        return code, out, err

    return typed


def files() -> set[str]:
    return {
        str(path) for path in Path().rglob("*") if path.is_file() and path.parts[0] not in ("tiny", "runs")
    }


def test_a_picture_of_one_label(run: Run) -> None:
    code, out, err = run(
        "sample tiny --label bee -n 4 --steps 2 --solver dpmpp-2m --guidance-scale 2 --seed 0 -o out.png"
    )
    assert (code, err) == (0, "")
    assert out.startswith("out.png: 4 pictures, seeds 0 to 3")
    settings = read_settings("out.png")
    assert settings["seeds"] == [0, 1, 2, 3]
    assert settings["labels"] == [1] * 4
    assert (settings["solver"], settings["num_inference_steps"], settings["guidance_scale"]) == (
        "dpmpp-2m",
        2,
        2.0,
    )
    with Image.open("out.png") as image:
        assert image.size == (34, 34)
        assert image.text["parameters"].startswith("bee\nSteps: 2, Sampler: dpmpp-2m, ")


def test_the_picture_is_what_python_gives(run: Run) -> None:
    assert run("sample tiny --label cat -n 1 --seed 5 -o a.png")[0] == 0
    want = noisette.load("tiny").generate(label="cat", seed=5).images[0]
    with Image.open("a.png") as image:
        assert np.array_equal(np.asarray(image), np.asarray(want))


def test_all_labels_in_turn_make_a_column_each(run: Run) -> None:
    assert run("sample tiny -n 6 --seed 0 -o a.png")[0] == 0
    settings = read_settings("a.png")
    assert settings["labels"] == [0, 1, 2, 0, 1, 2]
    assert (settings["columns"], settings["prompt"]) == (3, "ant, bee, cat")
    assert run("sample tiny -n 5 --seed 0 -o b.png")[0] == 0
    assert read_settings("b.png")["columns"] == 3


def test_a_folder_of_pictures_is_a_data_set_and_batches_do_not_matter(run: Run) -> None:
    assert run("sample tiny --label ant --label cat -n 5 --seed 9 --batch-size 2 -o many/")[0] == 0
    assert files() == {"many/metadata.jsonl", *(f"many/{k:06d}.png" for k in range(5))}
    rows = [json.loads(line) for line in Path("many/metadata.jsonl").read_text().splitlines()]
    assert rows[3] == {"file_name": "000003.png", "seed": 12, "label": "cat"}
    assert read_settings("many/000003.png")["seed"] == 12
    assert run("sample tiny --label cat -n 1 --seed 12 -o one.png")[0] == 0
    difference = np.asarray(Image.open("one.png")).astype(int) - np.asarray(Image.open("many/000003.png"))
    assert np.abs(difference).max() <= 1

    from noisette.data import open_dataset

    assert open_dataset("many", channels=1).labels == ("ant", "cat")


def test_a_run_folder_and_a_model_without_labels(run: Run) -> None:
    code, out, _ = run("sample runs/old -n 2 -o a.png")
    assert code == 0
    settings = read_settings("a.png")
    assert settings["labels"] is None
    assert str(settings["seeds"][0]) in out
    assert run("sample runs/old -n 1 --size 24 -o big.png")[0] == 0
    with Image.open("big.png") as image:
        assert image.size == (24, 24)


def test_nothing_is_overwritten_unasked(run: Run) -> None:
    Path("out.png").write_text("precious")
    code, _, err = run("sample tiny -o out.png -n 1")
    assert (code, Path("out.png").read_text()) == (2, "precious")
    assert (
        err == "noisette: out.png exists already: choose another name, or add --overwrite (overwrite=True)\n"
    )
    assert run("sample tiny -o out.png -n 1 --overwrite")[0] == 0
    assert read_settings("out.png")
    Path("full").mkdir()
    Path("full/note").touch()
    assert run("sample tiny -o full -n 1")[0] == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("smaple tiny", "No such command 'smaple'"),
        ("sample", "Missing"),
        ("sample tiny", "Missing option '--out'"),
        ("sample tiny -o a.png --stpes 3", "No such option"),
        ("sample tiny -o a.png --steps many", "'--steps'"),
        ("sample tiny -o a.png --steps 0", "num_inference_steps must be a whole number from 1"),
        ("sample tiny -o a.png --steps -4", "num_inference_steps must be a whole number from 1"),
        ("sample tiny -o a.png --steps 101", "101 steps asked of a schedule with 100 levels"),
        ("sample tiny -o a.png -n 0", "'-n'"),
        ("sample tiny -o a.png -n 99999999999", "'-n'"),
        ("sample tiny -o a.png -n 1000000", "1000000 pictures do not fit into one"),
        ("sample tiny -o a.png --label dog", "tiny knows no label 'dog': its labels are ant, bee, cat"),
        ("sample tiny -o a.png --label 3", "tiny knows no label '3'"),
        ("sample runs/old -o a.png --label 3", "draws without labels"),
        ("sample runs/old -o a.png --guidance-scale 2", "no labels, so there is nothing to guide"),
        ("sample tiny -o a.png --solver dmpp-2m", 'no solver "dmpp-2m"; did you mean "dpmpp-2m"?'),
        ("sample tiny -o a.png --grid spiral", "no grid 'spiral'"),
        ("sample tiny -o a.png --eta 7", "eta is between 0"),
        ("sample tiny -o a.png --solver heun --eta 0.5", "has no eta"),
        ("sample tiny -o a.png --guidance-scale nan", "guidance_scale must be a finite number"),
        ("sample tiny -o a.png --size -2", "sides of whole pixels"),
        ("sample tiny -o a.png --size 0", "sides of whole pixels"),
        ("sample tiny -o a.png --seed -1", "seed"),
        ("sample tiny -o a.png --batch-size 0", "batch-size must be at least 1"),
        ("sample tiny -o a.png --device abacus", "there is no device 'abacus'"),
        ("sample tiny -o a.jpg", "pictures are written as PNG"),
        ("sample tiny -o tiny/model.json/a.png", "is a file, not a folder"),
        ("sample nowhere -o a.png", "there is no model 'nowhere'"),
        ("sample runs -o a.png", "holds no model"),
        ("train nothing --data tiny --out b", "there is no recipe 'nothing'"),
        ("train digits --data nowhere --out b", "there is no data at nowhere"),
        ("train digits --data tiny --out b --lr -1", "lr must be positive"),
        ("train digits --data tiny --out b --max-train-steps 0", "'--max-train-steps'"),
        ("train digits --data tiny --out b --resume --overwrite", "give one of them"),
        ("train digits --data tiny --out tiny", "exists already"),
        ("train digits --data runs --out b", "runs"),
        (
            "evaluate tiny",
            "a judge for digits of 1x32x32, and a reader for scenes from text: tiny draws neither",
        ),
        ("evaluate tiny --bits-per-dim", "give them with --data"),
        ("evaluate tiny --bits-per-dim --data nowhere", "nowhere"),
        ("evaluate tiny --json tiny/model.json", "exists already"),
        ("atlas nothing -o b", "no page 'nothing'"),
    ],
)
def test_a_mistake_costs_one_line_and_leaves_nothing(run: Run, line: str, message: str) -> None:
    before = files()
    code, out, err = run(line)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("noisette: ") and err.count("\n") == 1
    assert files() == before


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.ENOSPC, "No space left on device", "a.png"), 2, "a.png: the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "a.png"), 2, "a.png: Permission denied"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "a.png"), 2, "a.png: Is a directory"),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "b"),
            2,
            "b: No such file or directory",
        ),
        (MemoryError(), 2, "not enough memory"),
    ],
)
def test_what_the_machine_says_is_one_line_too(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    def fail(*args: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(Model, "generate", fail)
    got, _, err = run("sample tiny -o a.png")
    assert got == code
    assert err.startswith(f"noisette: {message}") and err.count("\n") == 1
    assert files() == set()


def test_our_own_mistakes_keep_their_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "load", lambda name: {}["ours"])
    with pytest.raises(KeyError):
        run("sample tiny -o a.png")


def test_help_has_examples(run: Run) -> None:
    for command in ("", "generate", "sample", "convert", "train", "evaluate", "models", "atlas"):
        code, out, err = run(f"{command} --help")
        assert (code, err) == (0, "")
        assert "Example" in out
        assert f"  noisette {command}".rstrip() in out
    assert run("") == run("--help")
    assert run("--version") == (0, f"noisette {noisette.__version__}\n", "")


def test_models_lists_what_ships(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from noisette import hub

    model = tiny()
    Model(model.spec, model.denoiser, {"trained_on": "dust"}).save("home/speck")
    (shown,) = hub.embedded_models(tmp_path / "home")
    monkeypatch.setattr("noisette.hub.embedded.embedded_models", lambda: [shown])
    code, out, _ = run("models")
    assert code == 0
    assert [
        word in out for word in ("speck", f"{shown.size / 1e6:.1f} MB", "dust", f"{shown.parameters:,}")
    ] == [True] * 4
    monkeypatch.setattr("noisette.hub.embedded.embedded_models", lambda: [])
    assert run("models")[1].startswith("No model ships")


def digits_folder() -> Path:
    """Fifteen pictures of each of ten classes, with splits."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for digit in range(10):
            folder = Path("data") / split / str(digit)
            folder.mkdir(parents=True)
            for k in range(8):
                Image.fromarray(rng.integers(0, 255, (32, 32), dtype=np.uint8)).save(folder / f"{k}.png")
    return Path("data")


def test_evaluating_digits(run: Run) -> None:
    tiny(32, tuple("0123456789")).save("digits-like")
    digits_folder()
    code, out, err = run("evaluate ./digits-like --data data -n 60 --steps 1 --json found.json")
    assert (code, err) == (0, "")
    found = json.loads(Path("found.json").read_text())
    assert {"accuracy", "frechet", "kid", "precision", "recall", "pictures_per_second"} < found.keys()
    assert (found["pictures"], found["n"], found["num_inference_steps"]) == (60, 60, 1)
    assert 0 <= found["accuracy"] <= 1
    assert "accuracy" in out and "frechet" in out
    code, out, _ = run("evaluate ./digits-like -n 40 --steps 1")
    assert code == 0
    assert "frechet to 60000" in out


def test_bits_per_dim_of_any_model(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from noisette.cli import evaluate

    monkeypatch.setattr(evaluate, "BITS_IMAGES", 4)
    digits_folder()
    code, _, err = run("evaluate runs/old --data data --bits-per-dim --json bits.json")
    assert (code, err) == (0, "")
    found = json.loads(Path("bits.json").read_text())
    assert found["bits_images"] == 4
    # Uniform noise holds 8 bits a pixel; a network that has learned nothing pays more than that.
    assert 8 < found["bits_per_dim"] < 100


def python(script: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


COMMAND = "import sys; from noisette.cli import main; code = main(); "


def test_a_cold_sample_loads_what_it_needs_and_no_more(tmp_path: Path) -> None:
    tiny().save(tmp_path / "tiny")
    heavy = "{'torch._dynamo', 'torch._inductor', 'accelerate', 'datasets', 'torchdata', 'torchmetrics', "
    heavy += "'matplotlib', 'tensorboard', 'sympy', 'rich'}"
    script = COMMAND + f"print(sorted({heavy} & set(sys.modules))); sys.exit(code)"
    done = python(script, "sample", "tiny", "-n", "2", "-o", "a.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert read_settings(tmp_path / "a.png")["seeds"]


def test_help_and_mistakes_in_words_do_not_load_torch(tmp_path: Path) -> None:
    script = COMMAND + "assert 'torch' not in sys.modules; sys.exit(code)"
    assert python(script, "sample", "--help", cwd=tmp_path).returncode == 0
    wrong = python(script, "sample", "tiny", "--steps", "x", "-o", "a.png", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    script = COMMAND + "sys.exit(code)"
    full = f"{sys.executable} -c {script!r} --help | true"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(["bash", "-c", full], capture_output=True, text=True, env=environment, check=True)
    assert "Traceback" not in done.stderr


def test_training_from_the_command_line(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits_folder()
    recipe = tmp_path / "mine.py"
    recipe.write_text(
        "from noisette.models import Model\nfrom noisette.training import Recipe\n"
        "spec = Model.load('runs/old').spec\n"
        "recipe = Recipe(spec=spec, steps=3, warmup=1, sample_every=0, precision='fp32')\n"
    )
    code, out, err = run(
        "train mine.py --data data --out runs/new --batch-size 4 --lr 1e-3 --seed 1 --max-train-steps 2"
    )
    assert code == 0, err
    assert "runs/new/model: step 2" in out
    kept = json.loads(Path("runs/new/recipe.json").read_text())
    assert (kept["batch_size"], kept["lr"], kept["seed"]) == (4, 1e-3, 1)
    assert run("train mine.py --data data --out runs/new --batch-size 4")[0] == 2
    code, out, err = run(
        "train mine.py --data data --out runs/new --batch-size 4 --lr 1e-3 --seed 1 --resume"
    )
    assert code == 0, err
    assert "step 3" in out
    assert run("sample runs/new -n 1 --steps 1 -o new.png")[0] == 0


def test_threads_hardly_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    assert cli.main(["--version"]) == 0
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE" and int(os.environ["GOMP_SPINCOUNT"]) <= 10_000
    assert torch.get_num_threads() >= 1
