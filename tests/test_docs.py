"""README and docs say nothing that is not so: code runs, commands parse, links lead somewhere."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml

from noisette.cli import app
from noisette.hub import embedded_models

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
FENCE = re.compile(r"^(?:<!-- (runs(?: with [\w-]+)?) -->\n)?^```(\w+)\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"(?<!`)!?\[[^]]*]\(([^)\s]+)\)")
CITED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
MARKS = {"runs", "runs with digits", "runs with scenes", "runs with scenes-reader"}
NUMBER = re.compile(r"<!--=(\w+)-->(.*?)<!--/-->")
READER = ROOT / "src" / "noisette" / "scenes" / "weights" / "scenes-reader.safetensors"
# A page shows what a person would wait for; a test shows that it works.
STEPS = re.compile(r"(num_inference_steps\"?[=:] ?)\d+")

pages = pytest.mark.parametrize("page", PAGES, ids=NAMES)


def blocks(page: Path, language: str) -> Iterator[tuple[str, str]]:
    """(mark, code) of every fenced block in a language."""
    for mark, found, code in FENCE.findall(page.read_text(encoding="utf-8")):
        if found == language:
            yield mark, code


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every line after a prompt."""
    for _, code in blocks(page, "console"):
        for line in code.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                yield shlex.split(line[2:])


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


WITH_CODE = [page for page in PAGES if any(mark for mark, _ in blocks(page, "python"))]


@pytest.mark.parametrize("page", WITH_CODE, ids=[page.relative_to(ROOT).as_posix() for page in WITH_CODE])
def test_code_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page, one after the other, in an empty folder; those about a model where it ships."""
    monkeypatch.chdir(tmp_path)
    # What is kept on disk to save time is not looked for where another test, or a person, has left it.
    monkeypatch.setenv("NOISETTE_CACHE", str(tmp_path / ".cache"))
    ships = {f"runs with {listing.name}" for listing in embedded_models()}
    there = {"runs", *ships, *({"runs with scenes-reader"} if READER.exists() else ())}
    names: dict[str, Any] = {"__name__": "page"}
    for mark, code in blocks(page, "python"):
        assert not mark or mark in MARKS, f"{page.name}: no block is marked {mark!r}"
        if mark in there:
            module = compile(STEPS.sub(r"\g<1>2", code), page.name, "exec", dont_inherit=True)
            with torch.enable_grad():
                exec(module, names)


@pages
def test_code_imports_what_exists(page: Path) -> None:
    for _, code in blocks(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("noisette"):
                module = import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


@pages
def test_commands_parse(page: Path) -> None:
    """Every `noisette` line by the parser itself, every `make` line by the Makefile's targets."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for words in commands(page):
        if "noisette" in words:
            parse(words[words.index("noisette") + 1 :])
        elif words[0] == "make":
            for word in words[1:]:
                name, given, _ = word.partition("=")
                assert re.search(rf"^{name}\s*={'' if given else 'x'}|^{name}:", makefile, re.M), words


@cache
def commands_of_noisette() -> Any:
    return typer.main.get_command(app)


def parse(words: list[str]) -> None:
    name, rest = "", words
    command = commands_of_noisette()
    while hasattr(command, "commands"):
        name, *rest = rest
        assert name in command.commands, words
        command = command.commands[name]
    command.make_context(name, rest)


@pytest.mark.parametrize(
    "line",
    [
        "sample digits --lable 7 -o x.png",
        "paint digits",
        "sample digits -o x.png -n many",
        "scenes sheet --lable 7 -o x.png",
        "scenes paint",
    ],
)
def test_a_wrong_command_line_would_be_found(line: str) -> None:
    with pytest.raises(Exception, match=r"(?i)no such option|valid integer|paint"):
        parse(shlex.split(line))


@pages
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            assert target.startswith("https://"), target
            continue
        # What docs include from the root is read there, beside docs/index.md.
        found = (page.parent / path).resolve() if path else page
        assert found.is_file(), target
        if anchor:
            assert anchor in anchors(found), target


def anchors(page: Path) -> set[str]:
    text = page.read_text(encoding="utf-8")
    for included in re.findall(r'^--8<-- "(.+)"$', text, re.M):
        text += (ROOT / included).read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w]+", "-", heading.lower()).strip("-") for heading in headings}


@pages
def test_cited_tests_exist(page: Path) -> None:
    for file, function in CITED.findall(page.read_text(encoding="utf-8")):
        source = (ROOT / file).read_text(encoding="utf-8")
        assert not function or re.search(rf"^def {function}\(", source, re.M), f"{file}::{function}"


@pages
def test_numbers_are_the_measured_ones(page: Path) -> None:
    measured = json.loads((ROOT / "docs" / "measured.json").read_text(encoding="utf-8"))
    for name, value in NUMBER.findall(page.read_text(encoding="utf-8")):
        assert value == measured[name], f"{name}: run python docs/figures.py"


def test_the_table_of_parity_is_the_recorded_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    parity = import_module("parity")
    page = parity.PAGE.read_text(encoding="utf-8")
    assert parity.filled(page) == page, "run python docs/figures.py parity"
    measured = json.loads((ROOT / "docs" / "measured.json").read_text(encoding="utf-8"))
    assert parity.numbers().items() <= measured.items(), "run python docs/figures.py parity"


def test_nothing_is_left_unmeasured_of_a_model_that_ships() -> None:
    measured = json.loads((ROOT / "docs" / "measured.json").read_text(encoding="utf-8"))
    if any(listing.name == "scenes" for listing in embedded_models()):
        left = [name for name, value in measured.items() if value == "-"]
        assert not left, "run `noisette evaluate scenes`, then python docs/figures.py"


def test_every_page_is_in_the_navigation_and_every_method_page_is_whole() -> None:
    loader = type("Loader", (yaml.SafeLoader,), {})
    loader.add_multi_constructor("", lambda *_: None)
    config = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), loader)  # a subclass of SafeLoader

    def leaves(entry: Any) -> set[str]:
        if isinstance(entry, str):
            return {entry}
        return set().union(*map(leaves, entry.values() if isinstance(entry, dict) else entry))

    docs = ROOT / "docs"
    assert leaves(config["nav"]) == {page.relative_to(docs).as_posix() for page in docs.rglob("*.md")}
    for page in (docs / "methods").glob("*.md"):
        text = page.read_text(encoding="utf-8")
        if page.name != "index.md":
            assert "## Call" in text and "## Measured" in text and "../images/" in text, page.name
            assert re.search(r"```text\n", text) and CITED.search(text), page.name


def test_every_figure_is_used_and_can_be_made_again() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    script = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.py"))
    for figure in (ROOT / "docs" / "images").iterdir():
        assert f"images/{figure.name}" in text, figure.name
        assert figure.name in script or re.search(rf"\b{figure.stem}\b", script), figure.name
