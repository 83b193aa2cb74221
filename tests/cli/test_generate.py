"""``noisette generate`` as a person types it, with a latent text-to-image model of a few thousand weights."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from noisette.cli import main
from noisette.cli.drawing import Picture, batches_of
from noisette.cli.prompts import parse_prompts
from noisette.cli.request import restored
from noisette.cli.targets import slug
from noisette.core import IndexTime, V
from noisette.errors import UserError
from noisette.hub import read_settings, write_png
from noisette.hub.spec import build_codec
from noisette.models import Defaults, Model, ModelSpec, load
from noisette.models.texts import fitted
from noisette.nets import UNetConfig
from noisette.nets.text import TextConfig
from noisette.nets.vae import AutoencoderKLConfig
from noisette.schedules import CosineVP

Run = Callable[..., tuple[int, str, str]]
COLORS, SHAPES = ("red", "green", "blue", "purple", "orange"), ("cube", "sphere", "cone", "ring", "pill")
CAPTIONS = [f"a {size} {c} {s}" for c in COLORS for s in SHAPES for size in ("small", "large")]


def alive(module: torch.nn.Module) -> None:
    """Away from the zeros of initialisation, so that prompts and steps matter."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    module.eval()


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the model ``tiny``."""
    torch.manual_seed(3)
    text = TextConfig(vocab_size=600, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                      num_attention_heads=2, max_position_embeddings=20)  # fmt: skip
    config, texts = fitted(text, CAPTIONS)
    codec = AutoencoderKLConfig(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
                                mid_block_add_attention=False, scaling_factor=0.5)  # fmt: skip
    net = UNetConfig(4, 4, model_channels=8, channel_mult=(1, 2), num_res_blocks=1, attention_levels=(1,),
                     norm_groups=4, context_dim=16)  # fmt: skip
    spec = ModelSpec("tiny", net, CosineVP(steps=100), V(), IndexTime(100), 16, 3, None,
                     Defaults("ddim", steps=3, guidance_scale=3.0), config, codec)  # fmt: skip
    model = Model.new(spec, codec=build_codec(codec), texts=texts)
    assert model.codec is not None
    alive(model.denoiser)
    alive(model.codec)
    folder = tmp_path_factory.mktemp("shelf")
    model.save(folder / "tiny")
    return folder


@pytest.fixture
def run(
    tmp_path: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Type the rest of ``noisette generate --model tiny`` in a folder that holds the model."""
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(shelf / "tiny", tmp_path / "tiny")

    def typed(line: str, *, model: bool = True) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["generate", *(["--model", "tiny"] if model else []), *shlex.split(line)])
        out, err = capsys.readouterr()
        return code, out, err

    return typed


def done(result: tuple[int, str, str]) -> str:
    """What a run that went well has said."""
    code, out, err = result
    assert (code, err) == (0, "")
    return out


def files() -> set[str]:
    return {str(path) for path in Path().rglob("*") if path.is_file() and path.parts[0] != "tiny"}


def pixels(path: str | Path) -> Any:
    with Image.open(path) as image:
        return np.asarray(image)


def contents(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def test_a_sentence_makes_the_picture_that_python_makes(run: Run) -> None:
    said = done(run("'a small red cube' --seed 4 -o out.png"))
    assert said.startswith("out.png: 1 picture, seed 4, ")
    want = load("tiny").generate("a small red cube", seed=4).images[0]
    assert np.array_equal(pixels("out.png"), np.asarray(want))
    assert np.asarray(want).std() > 5
    found = read_settings("out.png")
    assert (found["prompt"], found["seed"], found["guidance_scale"], found["size"]) == (
        "a small red cube", 4, 3.0, "16x16")  # fmt: skip
    with Image.open("out.png") as image:
        assert image.text["parameters"].startswith("a small red cube\nSteps: 3, Sampler: ddim, ")


def test_without_a_name_pictures_are_called_by_prompt_and_seed_and_never_replaced(run: Run) -> None:
    done(run("'A small, RED cube' --seed 4"))
    first = Path("a-small-red-cube-4.png").read_bytes()
    done(run("'A small, RED cube' --seed 4"))
    done(run("'A small, RED cube' --seed 3 -n 2"))
    done(run("'a red cube' --seed 0 -n 4 --grid"))
    assert files() == {"a-small-red-cube-4.png", "a-small-red-cube-4-2.png", "a-small-red-cube-3.png",
                       "a-small-red-cube-4-3.png", "a-red-cube-0-sheet.png"}  # fmt: skip
    assert Path("a-small-red-cube-4.png").read_bytes() == first


def test_fresh_seeds_differ_and_are_told(run: Run) -> None:
    said = [done(run(f"'a red cube' -o {name}.png")) for name in "ab"]
    seeds = [read_settings(f"{name}.png")["seed"] for name in "ab"]
    assert seeds[0] != seeds[1]
    assert all(f"seed {seed}," in line for seed, line in zip(seeds, said, strict=True))


def test_several_pictures_stand_beside_each_other(run: Run) -> None:
    said = done(run("'a red cube' -n 3 --seed 7 -o out.png"))
    assert said.startswith("out-0.png to out-2.png: 3 pictures, seeds 7 to 9")
    assert files() == {"out-0.png", "out-1.png", "out-2.png"}
    assert [read_settings(f"out-{k}.png")["seed"] for k in range(3)] == [7, 8, 9]
    done(run("'a red cube' -n 11 --steps 1 --batch-size 4 -o many.png"))
    assert {"many-00.png", "many-10.png"} < files()


def test_a_folder_is_a_data_set(run: Run) -> None:
    done(run("'a red cube' -n 3 --seed 7 --negative 'a blue pill' -o many/"))
    assert files() == {"many/metadata.jsonl", *(f"many/{k:06d}.png" for k in range(3))}
    rows = [json.loads(line) for line in Path("many/metadata.jsonl").read_text().splitlines()]
    assert rows[2] == {"file_name": "000002.png", "text": "a red cube", "negative_prompt": "a blue pill",
                       "seed": 9}  # fmt: skip

    from noisette.data import open_dataset

    assert open_dataset("many").has_text


@pytest.mark.parametrize(
    "options",
    [
        "--seed 4",
        "--seed 5 --negative 'a blue pill' --guidance-scale 7.5 --guidance-rescale 0.7",
        "--seed 6 --solver ddim --eta 1 --steps 5 --spacing leading",
        "--seed 7 --width 32 --height 24 --solver heun",
        "--seed 8 --precision bf16",
    ],
)
def test_a_picture_draws_itself_again(run: Run, options: str) -> None:
    done(run(f"'a small red cube' {options} -o a.png"))
    done(run("--from a.png -o b.png", model=False))
    assert Path("b.png").read_bytes() == Path("a.png").read_bytes()


def test_one_picture_of_a_batch_draws_itself_again(run: Run) -> None:
    done(run("'a small red cube' -n 5 --batch-size 3 --solver ddim --eta 1 --seed 2 -o a.png"))
    for k in range(5):
        done(run(f"--from a-{k}.png -o b-{k}.png", model=False))
        assert Path(f"b-{k}.png").read_bytes() == Path(f"a-{k}.png").read_bytes()
    done(run("--from a-1.png -o c/", model=False))
    assert Path("c/000000.png").read_bytes() == Path("a-1.png").read_bytes()


def test_a_picture_of_a_list_of_seeds_draws_itself_again(run: Run) -> None:
    output = load("tiny").generate("a red cube", seed=[9, 4], num_images_per_prompt=2, batch_size=1)
    for k in range(2):
        write_png(f"a{k}.png", output.images[k], {**output.settings_of(k), "weights": "tiny"})
        done(run(f"--from a{k}.png -o b{k}.png", model=False))
        assert np.array_equal(pixels(f"a{k}.png"), pixels(f"b{k}.png"))


def test_a_sheet_draws_itself_again_and_may_come_apart(run: Run) -> None:
    done(run("'a red cube' -n 5 --seed 2 --batch-size 3 --grid -o a.png"))
    assert pixels("a.png").shape == (34, 52, 3)
    assert read_settings("a.png")["seeds"] == [2, 3, 4, 5, 6]
    done(run("--from a.png -o b.png", model=False))
    assert Path("b.png").read_bytes() == Path("a.png").read_bytes()
    done(run("--from a.png --no-grid -o c.png", model=False))
    assert np.array_equal(pixels("c-4.png"), pixels("a.png")[18:, 18:34])
    done(run("--from a.png -n 9 -o d.png", model=False))
    assert read_settings("d.png")["seeds"] == list(range(2, 11))
    assert read_settings("d.png")["columns"] == 3


def test_options_go_before_what_a_picture_says(run: Run) -> None:
    done(run("'a red cube' --negative 'a pill' --seed 4 --solver ddim --eta 1 -n 2 -o a.png"))
    done(
        run("'a blue cone' --from a-1.png --steps 2 --solver heun --width 32 --seed 8 -o b.png", model=False)
    )
    found, before = read_settings("b.png"), read_settings("a-1.png")
    changed = {"prompt": "a blue cone", "num_inference_steps": 2, "solver": "heun", "eta": None, "seed": 8,
               "size": "32x16", "batch_size": 1, "batch_index": 0}  # fmt: skip
    assert found == {**before, **changed}
    done(run("--from a-1.png --batch-size 1 -n 3 -o c.png", model=False))
    assert [read_settings(f"c-{k}.png")["seed"] for k in range(3)] == [5, 6, 7]


def test_other_weights_are_noticed(run: Run) -> None:
    done(run("'a red cube' --seed 4 -o a.png"))
    model = load("tiny")
    alive(model.denoiser)
    model.save("tiny", overwrite=True)
    code, _, err = run("--from a.png -o b.png", model=False)
    assert (code, err.count("\n")) == (0, 1)
    assert "the weights of tiny are others" in err
    assert not np.array_equal(pixels("a.png"), pixels("b.png"))


def foreign(text: str) -> None:
    chunks = PngInfo()
    chunks.add_text("parameters", text)
    Image.new("RGB", (4, 4)).save("foreign.png", pnginfo=chunks)


def test_a_picture_of_other_tools_is_understood_as_far_as_it_goes(run: Run) -> None:
    foreign("a red cube\nNegative prompt: a pill\nSteps: 5, Sampler: DPM++ 2M Karras, CFG scale: 7, "
            "Seed: 12, Size: 32x16, Model hash: 6ce0161689, Model: v1-5-pruned, Clip skip: 2")  # fmt: skip
    code, _, err = run("--from foreign.png -o b.png")
    assert (code, err.count("\n")) == (0, 1)
    assert "foreign.png: not understood, and left out: " in err
    assert all(word in err for word in ("Model hash 6ce0161689", "Clip skip 2"))
    found = read_settings("b.png")
    want = {"prompt": "a red cube", "negative_prompt": "a pill", "num_inference_steps": 5, "grid": "karras",
            "solver": "dpmpp-2m", "guidance_scale": 7.0, "seed": 12, "size": "32x16"}  # fmt: skip
    assert {name: found[name] for name in want} == want
    request, line = restored(Path("foreign.png"))
    assert request.model is None and "Model v1-5-pruned" in line
    foreign("a red cube")
    done(run("--from foreign.png -o c.png"))
    assert read_settings("c.png")["prompt"] == "a red cube"


PROMPTS = "# shapes\n\na small red cube\r\n  a green cone\na blue ring  \na large pill\na purple sphere\n"


def test_prompts_of_a_file(run: Run) -> None:
    Path("prompts.txt").write_bytes(b"\xef\xbb\xbf" + PROMPTS.encode())
    done(run("--prompts prompts.txt -n 2 --seed 3 -o out/"))
    rows = [json.loads(line) for line in Path("out/metadata.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows[:4]] == ["a small red cube"] * 2 + ["a green cone"] * 2
    assert [row["seed"] for row in rows] == list(range(3, 13))
    assert all(read_settings(f"out/{row['file_name']}")["seed"] == row["seed"] for row in rows)
    want = load("tiny").generate(parse_prompts(PROMPTS), num_images_per_prompt=2, seed=3, batch_size=2)
    assert np.array_equal(pixels("out/000005.png"), np.asarray(want.images[5]))
    done(run("--from out/000005.png -o again.png", model=False))
    assert Path("again.png").read_bytes() == Path("out/000005.png").read_bytes()


@pytest.mark.parametrize("options", ["", "-n 3 --batch-size 2", "--batch-size 2"])
def test_processes_share_prompts_and_the_last_writes_the_table(
    run: Run, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    Path("prompts.txt").write_text(PROMPTS)
    done(run(f"--prompts prompts.txt {options} -o one/"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert "are left to other processes" in done(run(f"--prompts prompts.txt {options} -o two/"))
    half = set(contents("two"))
    assert "metadata.jsonl" not in half and half
    if not options:
        assert half == {"000001.png", "000003.png"}
    monkeypatch.setenv("RANK", "0")
    done(run(f"--prompts prompts.txt {options} -o two/"))
    assert contents("two") == contents("one")
    monkeypatch.setenv("WORLD_SIZE", "several")
    assert run("--prompts prompts.txt -o three/")[0] == 2


def test_an_interrupted_run_goes_on_and_ends_the_same(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("prompts.txt").write_text(PROMPTS)
    line = "--prompts prompts.txt -n 2 --solver ddim --eta 1"
    done(run(f"{line} -o whole/"))
    draw, calls = Model.generate, [0]

    def stopped(*args: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == 4:
            raise KeyboardInterrupt
        return draw(*args, **options)

    monkeypatch.setattr(Model, "generate", stopped)
    code, _, err = run(f"{line} -o out/")
    assert code == 130
    assert "out: 6 pictures were drawn; the same command goes on, with --seed 0" in err
    assert len(contents("out")) == 6
    Path("out/000001.png").unlink()
    kept = Path("out/000004.png").stat().st_mtime_ns
    assert "5 pictures, " in done(run(f"{line} -o out/"))
    assert contents("out") == contents("whole")
    assert Path("out/000004.png").stat().st_mtime_ns == kept
    calls[0] = 3
    assert "0 pictures, " in done(run(f"{line} -o out/"))
    with Path("prompts.txt").open("a") as more:
        more.write("a green pill\n")
    monkeypatch.setattr(Model, "generate", draw)
    assert "2 pictures, " in done(run(f"{line} -o out/"))


def test_a_folder_of_another_run_is_left_alone(run: Run) -> None:
    done(run("'a red cube' -n 2 --seed 0 -o out/"))
    before = contents("out")
    for line, message in (
        ("'a red cube' -n 2 --seed 1 -o out/", "lists other pictures"),
        ("'a red cube' -n 2 --seed 0 --steps 2 -o out/", "was drawn with num_inference_steps 3, not 2"),
        ("'a red cube' -n 2 --seed 0 -o tiny/", "tiny exists already"),
    ):
        code, _, err = run(line)
        assert (code, message in err) == (2, True), err
        assert contents("out") == before
    Path("out/000000.png").write_bytes(b"\x89PNG")
    assert run("'a red cube' -n 2 --seed 0 -o out/")[0] == 2
    done(run("'a red cube' -n 2 --seed 0 -o out/ --overwrite"))
    assert contents("out") == before


def test_unknown_words_are_named(run: Run) -> None:
    code, out, err = run("'a smal red dragon' -o a.png")
    assert (code, out, err.count("\n"), files()) == (2, "", 1, set())
    assert err.startswith('noisette: tiny does not know "smal" (near: small), "dragon"')
    assert "--words" in err and "--anyway" in err
    assert '"ugly"' in run("'a red cube' --negative ugly -o a.png")[2]
    done(run("'a smal red dragon' --anyway -o a.png"))
    done(run("--from a.png -o b.png", model=False))
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    assert '"unicorn"' in run("--from a.png --negative 'a unicorn' -o c.png", model=False)[2]
    shutil.copytree("tiny", "other")
    assert '"dragon"' in run("--from a.png --model other -o c.png", model=False)[2]
    said = done(run("--words"))
    assert said.split() == sorted({word for caption in CAPTIONS for word in caption.split()})
    Path("prompts.txt").write_text("\n".join(f"a red thing{'abcdefgh'[k]}" for k in range(8)))
    assert '"thinge" and 3 more:' in run("--prompts prompts.txt -o out/")[2].replace(" (near: ring)", "")


def test_what_is_cut_is_told(run: Run) -> None:
    code, _, err = run(f"'{'a small red cube ' * 5}a small blue ring' -o a.png")
    assert (code, err.count("\n")) == (0, 1)
    assert 'is not seen: "' in err and 'a small blue ring"' in err
    assert Path("a.png").exists()


def test_a_preview_shows_the_way_and_leaves(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    decode, seen = Model.decode, []

    def watched(self: Model, latents: torch.Tensor) -> torch.Tensor:
        path = Path("out.preview.png")
        seen.append((len(latents), pixels(path).shape if path.exists() else None))
        return decode(self, latents)

    monkeypatch.setattr(Model, "decode", watched)
    done(run("'a red cube' -n 2 --steps 10 --seed 0 --preview -o out.png"))
    # One picture is decoded at step 5; at step 10 both are done.
    assert seen == [(1, None), (2, (16, 16, 3))]
    assert files() == {"out-0.png", "out-1.png"}
    Path("out.preview.png").write_text("mine")
    assert run("'a red cube' --preview -o out.png")[0] == 2
    assert Path("out.preview.png").read_text() == "mine"


def test_interrupting_keeps_what_is_done(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = Model.generate

    def stopped(self: Model, prompt: Any, **options: Any) -> Any:
        if options["seed"] == [2, 3]:
            raise KeyboardInterrupt
        return draw(self, prompt, **options)

    monkeypatch.setattr(Model, "generate", stopped)
    line = "'a red cube' -n 4 --batch-size 2 --seed 0 --preview"
    assert run(f"{line} -o a.png")[::2] == (130, "noisette: interrupted\n")
    assert run(f"{line} --grid -o b.png")[0] == 130
    assert files() == {"a-0.png", "a-1.png", "b.png"}
    assert read_settings("b.png")["seeds"] == [0, 1]
    monkeypatch.setattr(Model, "generate", draw)
    done(run("--from b.png -o c.png", model=False))
    assert Path("c.png").read_bytes() == Path("b.png").read_bytes()


def test_compiling_and_its_setting(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(Model, "compiled", lambda self: made.append(self) or self)
    done(run("'a red cube' --seed 0 --compile -o a.png"))
    done(run("--from a.png -o b.png", model=False))
    assert len(made) == 2
    done(run("--from a.png --no-compile -o c.png", model=False))
    assert len(made) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "say what to draw"),
        ("'a red cube' -n 0 -o a.png", "'-n'"),
        ("'a red cube' --steps 0 -o a.png", "num_inference_steps must be a whole number from 1"),
        ("'a red cube' --solver dpm-2m -o a.png", 'did you mean "dpmpp-2m"?'),
        ("'a red cube' --spacing spiral -o a.png", "no grid 'spiral'"),
        ("'a red cube' --width 17 -o a.png", "sides divisible by 2, not 17x16"),
        ("'a red cube' --seed -1 -o a.png", "seed"),
        ("'a red cube' --seed 0 -n 5 --precision fp8 -o a.png", "take fp32, bf16, fp16"),
        ("'a red cube' --guidance-scale nan -o a.png", "guidance_scale must be a finite number"),
        ("'a red cube' --guidance-rescale 2 -o a.png", "guidance_rescale is a part in [0, 1]"),
        ("'a red cube' -o a.jpg", "pictures are written as PNG"),
        ("'a red cube' --device abacus -o a.png", "there is no device 'abacus'"),
        ("'a red cube' -n 100 --grid -o many/", "--grid makes one PNG"),
        ("'a red cube' -n 1000000 --grid -o a.png", "1000000 pictures do not fit into one"),
        ("'a red cube' --prompts p.txt -o many/", "--prompts brings prompts of its own"),
        ("--prompts p.txt -o many/", "there is no file of prompts p.txt"),
        ("--prompts tiny/model.safetensors -o many/", "is not text in UTF-8"),
        ("--prompts tiny/model.json -o a.png", "--prompts fills a folder"),
        ("--from nothing.png -o a.png", "there is no picture nothing.png"),
        ("--from tiny/model.json -o a.png", "is not a readable PNG"),
        ("'a red cube' -o tiny/model.json/a.png", "is a file, not a folder"),
        ("'a red cube' -o tiny/README.md", "tiny/README.md exists already"),
    ],
)
def test_a_mistake_costs_one_line_and_leaves_nothing(run: Run, line: str, message: str) -> None:
    code, out, err = run(line)
    assert (code, out) == (2, ""), err
    assert message in err
    assert err.startswith("noisette: ") and err.count("\n") == 1
    assert files() == set()


def test_models_that_are_not_there_or_take_no_prompt(run: Run) -> None:
    code, _, err = run("'a red cube' --model nowhere -o a.png", model=False)
    assert (code, "there is no model 'nowhere'" in err) == (2, True)
    code, _, err = run("seven --model digits -o a.png", model=False)
    assert (code, "digits takes no prompt: noisette sample" in err) == (2, True)
    assert run("--words --model digits", model=False)[0] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latents": "given"}, "was drawn from latents that it does not carry"),
        ({"label": 3}, "was drawn from labels: noisette sample"),
        ({"guidance_scale": "Interval(7)"}, "its guidance_scale 'Interval(7)' is not to be had by an option"),
        ({"num_inference_steps": "many"}, "its num_inference_steps 'many' is not"),
        ({"num_inference_steps": 10**9}, "num_inference_steps must be a whole number"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"seeds": [1, "2"]}, "its seeds are not whole numbers"),
        ({"seeds": [1, 2], "columns": 0}, "a sheet has 1 to 4096 columns"),
        ({"size": "big"}, "not of the form 64x64"),
        ({"size": "999996x999996"}, "too many for one call"),
        ({"batch_index": 1, "batch_size": 1}, "there is no picture 1 in a batch of 1"),
        ({"batch_index": 1, "batch_size": 10**9}, "there is no picture 1 in a batch of 1000000000"),
        ({"weights": "gone"}, "there is no model 'gone'"),
        ({"prompt": ["a"]}, "its prompt ['a'] is not"),
        ({"precision": "fp8"}, "there is no precision 'fp8'"),
        ({"solver": "DDIM(eta=1)"}, 'there is no solver "DDIM(eta=1)"'),
        ({"grid": 7}, "its grid 7 is not"),
    ],
)
def test_settings_that_cannot_be_restored(run: Run, change: dict[str, Any], message: str) -> None:
    good = {"prompt": "a red cube", "num_inference_steps": 3, "seed": 0, "weights": "tiny"}
    write_png("a.png", Image.new("RGB", (4, 4)), {**good, **change})
    code, out, err = run("--from a.png -o b.png", model=False)
    assert (code, out) == (2, ""), err
    assert message in err
    assert err.startswith("noisette: ") and err.count("\n") == 1
    assert files() == {"a.png"}


def test_an_option_mends_what_cannot_be_restored(run: Run) -> None:
    settings = {"prompt": "a red cube", "num_inference_steps": 3, "seed": 0, "guidance_scale": "Interval(7)"}
    write_png("a.png", Image.new("RGB", (4, 4)), settings)
    done(run("--from a.png --guidance-scale 2 -o b.png"))
    write_png("c.png", Image.new("RGB", (4, 4)), {"prompt": "a red cube", "scene": {}, "seed": 1})
    assert "c.png was not drawn by a model" in run("--from c.png -o d.png")[2]


def test_several_processes_need_a_folder(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    code, _, err = run("'a red cube' -o a.png")
    assert (code, "several processes share a folder" in err) == (2, True)


def test_a_cold_picture_loads_what_it_needs_and_no_more(shelf: Path, tmp_path: Path) -> None:
    heavy = {"accelerate", "datasets", "torchdata", "torchmetrics", "transformers", "matplotlib", "rich",
             "tensorboard", "scipy", "sympy", "torch._dynamo", "torch._inductor", "noisette.scenes",
             "noisette.training"}  # fmt: skip
    script = (
        "import sys; from noisette.cli import main; code = main(); "
        f"print(sorted({heavy} & set(sys.modules))); sys.exit(code)"
    )
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    arguments = ["generate", "a red cube", "--model", str(shelf / "tiny"), "-o", "a.png"]
    command = [sys.executable, "-c", script, *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "[]"
    help_ = [sys.executable, "-c", script.replace("sys.exit", "assert 'torch' not in sys.modules; sys.exit")]
    asked = subprocess.run([*help_, "generate", "--help"], capture_output=True, env=environment, check=False)
    assert asked.returncode == 0


LINE = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\n"), max_size=30)


@given(st.lists(LINE, max_size=8), st.sampled_from(["\n", "\r\n"]))
def test_prompts_are_the_lines_that_say_something(lines: list[str], end: str) -> None:
    found = parse_prompts(end.join(lines))
    stripped = [line.strip() for line in lines]
    assert found == [line for line in stripped if line and line[0] != "#"]
    assert parse_prompts("\n".join(found)) == found


@given(st.text(max_size=300))
def test_the_name_of_a_picture_is_the_name_of_a_file(prompt: str) -> None:
    name = slug(prompt)
    assert 0 < len(name.encode()) <= 80
    assert not set(name) & set('/\\:*?"<>|. \n\0') and not name.startswith("-")


@given(st.integers(1, 7), st.integers(1, 6), st.integers(1, 20))
def test_batches_hold_every_picture_once_and_whole_prompts(count: int, n: int, size: int) -> None:
    pictures = [Picture(k, str(k // n), k) for k in range(count * n)]
    batches = list(batches_of(pictures, n, size))
    assert [picture for batch in batches for picture in batch.pictures] == pictures
    assert all(len(batch.pictures) <= size for batch in batches)
    shares: dict[str, set[int]] = {}
    for batch in batches:
        for picture in batch.pictures:
            shares.setdefault(picture.prompt, set()).add(batch.share)
    assert all(len(share) == 1 for share in shares.values())
    # The first prompts are drawn as they would be without those that follow.
    fewer = list(batches_of(pictures[:n], n, min(size, n)))
    assert size >= 2 * n or batches[: len(fewer)] == fewer


def test_a_user_error_is_what_unreadable_prompts_are(tmp_path: Path) -> None:
    from noisette.cli.prompts import read_prompts

    (tmp_path / "none.txt").write_text("# only this\n\n")
    with pytest.raises(UserError, match="holds no prompt"):
        read_prompts(tmp_path / "none.txt")
