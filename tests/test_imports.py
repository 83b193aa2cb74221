"""What an import may bring along: `import noisette` is cheap, and the core knows torch alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import noisette

SOURCE = Path(noisette.__file__).parent
HEAVY = {
    "accelerate", "av", "datasets", "diffusers", "gradio", "matplotlib", "scipy", "sklearn",
    "tensorboard", "torchdata", "torchmetrics", "torchvision", "transformers", "trimesh",
}  # fmt: skip


def loaded_after(statement: str) -> set[str]:
    """The top-level packages that a fresh interpreter holds after `statement`."""
    script = f"import sys\n{statement}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def runtime_imports(tree: ast.AST, *, in_functions: bool) -> Iterator[str]:
    """The modules that running `tree` imports, without those that only type checkers see."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, level=0):
                yield module or ""
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                pass
            case ast.FunctionDef() | ast.AsyncFunctionDef() if not in_functions:
                pass
            case _:
                yield from runtime_imports(node, in_functions=in_functions)


def packages(file: Path, *, in_functions: bool) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {name.partition(".")[0] for name in runtime_imports(tree, in_functions=in_functions)}


def test_importing_noisette_loads_nothing_else() -> None:
    assert loaded_after("import noisette") - loaded_after("pass") <= {"noisette"} | sys.stdlib_module_names


def test_the_public_names_load_no_heavy_library() -> None:
    brought = loaded_after("import noisette; noisette.load, noisette.Model") - loaded_after("import torch")
    assert not brought & HEAVY


def test_the_public_names_are_what_they_say() -> None:
    assert set(noisette.__all__) <= set(dir(noisette))
    for name in noisette.__all__:
        assert getattr(noisette, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'sampel'"):
        _ = noisette.sampel


def test_no_module_imports_a_heavy_library_at_its_top() -> None:
    heavy = {
        str(file.relative_to(SOURCE)): found
        for file in SOURCE.rglob("*.py")
        if (found := packages(file, in_functions=False) & HEAVY)
    }
    assert heavy == {}


def test_core_imports_torch_and_itself_alone() -> None:
    for file in (SOURCE / "core").rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for name in runtime_imports(tree, in_functions=True):
            package = name.partition(".")[0]
            ours = name.startswith("noisette.core")
            assert ours or package == "torch" or package in sys.stdlib_module_names, f"{file.name}: {name}"
