"""Rules of the house that no linter knows, read off the syntax trees. Who may import whom is in .importlinter."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = sorted((ROOT / "hfgen").rglob("*.py"))
PIPELINES = sorted((ROOT / "pipelines").rglob("*.py"))
SCRIPTS = sorted((ROOT / "training").rglob("*.py"))
SHIPPED = ("modeling_", "scheduling_", "pipeline_")

# what a repository's index or config says a class is called
CLASS_KEYS = {"_class_name"}
# bases that have no methods to explain
NO_BASES = {"ABC", "Protocol", "object"}
# diffusers' own bases, of which no kind of model can be told
BASES = {"DiffusionPipeline", "EMAModel", "ModelMixin"}
ROOMS_OF_KINDS = ("hfgen/families/", "hfgen/models/", "hfgen/schedulers/", "pipelines/")
SHARED_BY_FAMILIES = {"hfgen.families.base", "hfgen.families.registry", "hfgen.families.model"}

# places that write otherwise than by hfgen.core.files, and why they may
WRITERS = {
    "hfgen/core/files.py": "the one atomic write",
    "hfgen/core/video.py": "opens by PyAV what the one atomic write gives it",
    "hfgen/trainer/checkpoints.py": "renames whole folders, which it has filled beside",
    "hfgen/trainer/output.py": "moves the files of a pipeline that is whole, each in one step",
    "hfgen/trainer/progress.py": "appends a line to the history",
    "pipelines/saving.py": "ships to the Hub, where there is no hfgen.core",
    "pipelines/pipeline_hfgen_class_conditional.py": "ships to the Hub, where there is no hfgen.core",
    "pipelines/pipeline_hfgen_flow.py": "ships to the Hub, where there is no hfgen.core",
    "pipelines/pipeline_hfgen_gan.py": "ships to the Hub, where there is no hfgen.core",
    "pipelines/pipeline_hfgen_mhvae.py": "ships to the Hub, where there is no hfgen.core",
    "pipelines/pipeline_hfgen_vae.py": "ships to the Hub, where there is no hfgen.core",
    "pipelines/pipeline_hfgen_vdm.py": "ships to the Hub, where there is no hfgen.core",
}

Found = Iterator[tuple[ast.AST, str]]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def outside(paths: list[Path], *rooms: str) -> list[Path]:
    return [path for path in paths if not name(path).startswith(rooms)]


def broken(rule: Callable[[ast.Module], Found], paths: list[Path]) -> list[str]:
    """Where a rule is broken, as an editor finds it."""
    return [f"{name(path)}:{node.lineno}: {text}" for path in paths for node, text in rule(tree(path))]


def last_name(node: ast.AST) -> str:
    """`c` of the expressions `c` and `a.b.c`, else nothing."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def called(node: ast.AST, *names: str) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) in names


def literal(node: ast.AST):
    """The value of a literal number or text, else None."""
    return node.value if isinstance(node, ast.Constant) else None


def imported(module: ast.Module) -> Iterator[tuple[ast.stmt, str, list[str]]]:
    """Imports wherever they stand: the statement, the module and the names taken from it."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import: {ast.unparse(node)}"
            yield node, node.module, [alias.name for alias in node.names]


# -- kinds of model are known in families/ alone


def class_tests(module: ast.Module) -> Found:
    """isinstance of a pipeline, and comparisons of a class's name."""
    for node in ast.walk(module):
        if called(node, "isinstance", "issubclass"):
            kinds = node.args[1].elts if isinstance(node.args[1], ast.Tuple) else [node.args[1]]
            if any(last_name(kind).endswith("Pipeline") for kind in kinds):
                yield node, ast.unparse(node)
        elif isinstance(node, ast.Compare):
            parts = [part for side in (node.left, *node.comparators) for part in ast.walk(side)]
            if any(last_name(part) in ("__name__", "__class__") or literal(part) in CLASS_KEYS for part in parts):
                text = ast.unparse(node)
                if not text.endswith(("'__main__'", "Error'")):
                    yield node, text


def concrete_imports(module: ast.Module) -> Found:
    """Pipelines and networks of a kind, hfgen's or diffusers'."""
    for node, source, names in imported(module):
        if source.startswith(("hfgen.models", "hfgen.pipelines")):
            yield node, ast.unparse(node)
        elif source.split(".")[0] == "diffusers":
            kinds = {n for n in names if n.endswith(("Pipeline", "Model")) or n.startswith("Autoencoder")}
            if kinds - BASES:
                yield node, ast.unparse(node)


def imports_of_families(module: ast.Module) -> Found:
    for node, source, names in imported(module):
        modules = {f"{source}.{n}" for n in names} if source == "hfgen.families" else {source}
        if source.startswith("hfgen.families") and not modules <= SHARED_BY_FAMILIES:
            yield node, ast.unparse(node)


def test_nothing_but_a_family_asks_which_class_it_holds():
    assert broken(class_tests, outside(LIBRARY + SCRIPTS, *ROOMS_OF_KINDS)) == []


def test_nothing_but_a_family_imports_pipelines_and_networks():
    assert broken(concrete_imports, outside(LIBRARY + SCRIPTS, *ROOMS_OF_KINDS)) == []


def test_families_are_reached_through_the_registry():
    assert broken(imports_of_families, outside(LIBRARY + PIPELINES + SCRIPTS, "hfgen/families/")) == []


# -- a library, and a command line over it


def namespaces(module: ast.Module) -> Found:
    """Parameters that take what argparse makes."""
    for node in ast.walk(module):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
                if arg.arg in ("flags", "args") or (arg.annotation and "Namespace" in ast.unparse(arg.annotation)):
                    yield node, f"{node.name}({ast.unparse(arg)})"


def test_no_function_of_the_library_takes_parsed_flags():
    assert broken(namespaces, outside(LIBRARY + PIPELINES, "hfgen/cli/")) == []


HEAVY = ("torch", "numpy", "diffusers", "transformers", "datasets", "accelerate", "matplotlib", "PIL")


@pytest.mark.parametrize("module", ["hfgen", "hfgen.cli.main"])
def test_what_everybody_imports_first_is_light(module):
    code = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- one place for each thing


def imports_beyond_torch(module: ast.Module) -> Found:
    known = sys.stdlib_module_names | {"torch"}
    for node, source, _ in imported(module):
        if source.split(".")[0] not in known and not source.startswith("hfgen.process"):
            yield node, ast.unparse(node)


def test_the_process_needs_torch_alone():
    paths = [path for path in LIBRARY if name(path).startswith("hfgen/process/")]
    assert broken(imports_beyond_torch, paths) == []


def opens_to_write(call: ast.Call) -> bool:
    """Whether it is open(path, "w") or path.open("w"), or a mode like it."""
    if last_name(call.func) != "open":
        return False
    words = [*call.args, *(word.value for word in call.keywords if word.arg == "mode")]
    modes = [word.value for word in words if isinstance(word, ast.Constant) and isinstance(word.value, str)]
    return any(re.fullmatch("[rwaxbt+]+", mode) and set(mode) & set("wax+") for mode in modes)


def writes(module: ast.Module) -> Found:
    """Calls by which a file can be left half written, or take the place of another."""
    whole = {"os.replace", "os.rename", "os.renames", "shutil.move", "tempfile.mkstemp"}
    for node in ast.walk(module):
        if isinstance(node, ast.Call):
            method = isinstance(node.func, ast.Attribute) and node.func.attr in ("write_text", "write_bytes", "rename")
            if method or ast.unparse(node.func) in whole or opens_to_write(node):
                yield node, ast.unparse(node)


def test_files_are_written_by_the_one_atomic_write():
    assert broken(writes, outside(LIBRARY + PIPELINES + SCRIPTS, *WRITERS)) == []


def test_no_exception_from_the_atomic_write_is_left_over():
    assert [path for path in WRITERS if not (ROOT / path).is_file() or not broken(writes, [ROOT / path])] == []


def is_product(node: ast.AST, factor: float) -> bool:
    multiplied = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)
    return multiplied and factor in (literal(node.left), literal(node.right))


def range_changes(module: ast.Module) -> Found:
    """x * 2 - 1, x * 127.5 + 127.5 and their like."""
    for node in ast.walk(module):
        lessened = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub) and literal(node.right) == 1
        if (lessened and is_product(node.left, 2)) or is_product(node, 127.5):
            yield node, ast.unparse(node)


def test_only_core_goes_between_the_pipelines_the_models_and_8_bits():
    paths = [path for path in outside(LIBRARY, "hfgen/core/media.py") if not path.name.startswith(SHIPPED)]
    assert broken(range_changes, paths) == []


# -- telling


def untold(module: ast.Module) -> Found:
    """Public functions, classes and methods without a docstring. A method may have that of its class's base, or of the
    class of the same file that has it first: classes that take each other's place say once what they answer."""
    told = set()
    for node in module.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            if ast.get_docstring(node) is None:
                yield node, node.name
            methods = [m for m in getattr(node, "body", []) if isinstance(m, ast.FunctionDef) and m.name[0] != "_"]
            told |= {m.name for m in methods if ast.get_docstring(m)}
            if isinstance(node, ast.ClassDef) and {last_name(base) for base in node.bases} <= NO_BASES:
                yield from ((m, f"{node.name}.{m.name}") for m in methods if m.name not in told)


def test_public_names_have_docstrings():
    assert broken(untold, LIBRARY + PIPELINES) == []


# -- the rules themselves


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        (class_tests, "isinstance(pipeline, VAEPipeline)"),
        (class_tests, "isinstance(pipeline, (hfgen.pipelines.VAEPipeline, int))"),
        (class_tests, "type(pipeline).__name__ == 'VAEPipeline'"),
        (class_tests, "'VAE' in pipeline.__class__.__name__"),
        (class_tests, "index['_class_name'] == 'VAEPipeline'"),
        (concrete_imports, "from diffusers import DDIMScheduler, UNet2DModel"),
        (concrete_imports, "def f():\n    from hfgen.pipelines import VAEPipeline"),
        (imports_of_families, "from hfgen.families import base, vae"),
        (imports_of_families, "import hfgen.families.vae"),
        (namespaces, "def evaluate(pipeline, flags): pass"),
        (namespaces, "def evaluate(pipeline, words: argparse.Namespace): pass"),
        (imports_beyond_torch, "import numpy as np"),
        (imports_beyond_torch, "from hfgen.core.errors import HfgenError"),
        (writes, "os.replace(a, b)"),
        (writes, "path.write_text('...')"),
        (writes, "open(path, mode='w')"),
        (writes, "path.open('ab')"),
        (range_changes, "x = image * 2 - 1"),
        (range_changes, "x = (2 * (a + b)) - 1.0"),
        (range_changes, "x = (x + 1) * 127.5"),
        (untold, "def f(): pass"),
        (untold, "class A:\n    '''A.'''\n    def f(self): pass"),
    ],
)
def test_a_rule_finds_what_breaks_it(rule, code):
    assert len(list(rule(ast.parse(code)))) == 1


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        (class_tests, "isinstance(value, (int, float))\nif __name__ == '__main__': pass"),
        (class_tests, "type(error).__name__ == 'OutOfMemoryError'"),
        (concrete_imports, "from diffusers import DiffusionPipeline\nfrom diffusers.training_utils import EMAModel"),
        (imports_of_families, "from hfgen.families import registry\nfrom hfgen.families.base import Family"),
        (namespaces, "def f(*args, words): pass"),
        (
            imports_beyond_torch,
            "from __future__ import annotations\nimport math, torch.nn\nimport hfgen.process.posterior",
        ),
        (writes, "write_text(path, '...')\nopen(path)\nopen('washed', 'rb')\ntext.replace('a', 'b')"),
        (range_changes, "y = 2 * x + 1\nk = T - 1\nz = 3 * x - 1"),
        (untold, "class A(B):\n    '''A.'''\n    def f(self): pass"),
        (
            untold,
            "class A:\n    '''A.'''\n    def f(self):\n        '''F.'''\nclass B:\n    '''B.'''\n    def f(self): pass",
        ),
        (untold, "def _f(): pass\ndef f():\n    '''F.'''\n    def g(): pass"),
    ],
)
def test_a_rule_lets_the_rest_pass(rule, code):
    assert list(rule(ast.parse(code))) == []


def test_what_the_check_of_the_wheel_imports_is_there():
    assert callable(runpy.run_path(str(ROOT / ".ci" / "wheel.py"))["main"])
