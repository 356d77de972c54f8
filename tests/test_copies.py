"""Files that ship to the Hub: their copies of shared code are in step with the originals, and they need nothing of this project."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# the linear scheduler is saved as diffusers' own DDPMScheduler
NOT_SHIPPED = "scheduling_hfgen_linear_ddpm.py"
SHIPPED = sorted(
    path
    for folder in ("pipelines", "hfgen/models", "hfgen/schedulers")
    for path in (ROOT / folder).glob("*_hfgen_*.py")
    if path.name != NOT_SHIPPED
)
# what comes with diffusers
ALLOWED = {"torch", "diffusers", "numpy", "PIL"} | sys.stdlib_module_names
ORIGINAL = "pipelines/inputs.py"
COPY = "pipelines/pipeline_hfgen_vae.py"
CARD = "model_cards/vae-mnist-2d/pipeline_hfgen_vae.py"
METHOD = "hfgen/models/modeling_hfgen_vae.py"


def copies(root, *flags):
    command = [sys.executable, root / ".ci" / "copies.py", *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stderr.splitlines()


@pytest.fixture
def tree(tmp_path):
    """All code, and of the repositories what names it."""
    for folder in (".ci", "hfgen", "pipelines", "model_cards"):
        wanted = shutil.ignore_patterns("__pycache__", "*.png", "*.safetensors", "*.html")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=wanted)
    return tmp_path


def edit(path, before, after):
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def test_copies_are_in_step():
    assert copies(ROOT) == (0, [])


def test_a_drifted_copy_is_found_and_mended(tree):
    expected = (tree / COPY).read_text()
    edit(tree / COPY, 'raise ValueError("no images: pass at least one")', "return None")
    status, lines = copies(tree)
    assert status == 1
    assert lines[-1] == "run make fix-copies"
    (stale,) = (line for line in lines if line.startswith(COPY))
    assert stale.endswith("is not hfgen.pipelines.inputs.images_to_tensor any more")
    assert (
        expected.splitlines()[int(stale.split(":")[1]) - 1] == "# Copied from hfgen.pipelines.inputs.images_to_tensor"
    )
    # the repositories hold what the copy was before
    assert f"{CARD}: is not {COPY} any more" in lines
    assert copies(tree, "--fix") == (0, [])
    assert copies(tree) == (0, [])
    assert (tree / COPY).read_text() == (tree / CARD).read_text() == expected


def test_a_changed_original_reaches_every_copy(tree):
    edit(tree / ORIGINAL, "no images: pass at least one", "none: pass one")
    edit(tree / METHOD, "it is not an argument of one", "it is no argument")
    edit(
        tree / "pipelines/denoising.py", 'OUTPUT_TYPES = ("pil", ', 'OUTPUT_TYPES = (\n    "latent",\n    "pil",\n    '
    )
    status, lines = copies(tree)
    assert status == 1
    shipped = {line.split(":")[0] for line in lines[:-1]}
    assert {COPY, "pipelines/pipeline_hfgen_class_conditional.py"} <= shipped
    assert copies(tree, "--fix") == (0, [])
    for path in (COPY, "pipelines/pipeline_hfgen_class_conditional.py", CARD):
        text = (tree / path).read_text()
        assert "none: pass one" in text
        assert 'OUTPUT_TYPES = (\n    "latent",\n' in text
        compile(text, path, "exec")
    assert "    it is no argument" not in (tree / COPY).read_text()
    assert "it is no argument" in (tree / COPY).read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "# Copied from hfgen.pipelines.inputs.nothing\ndef nothing(): ...\n",
            "there is no hfgen.pipelines.inputs.nothing",
        ),
        ("# Copied from hfgen.nowhere.nothing\ndef nothing(): ...\n", "there is no hfgen.nowhere.nothing"),
        ("# Copied from hfgen.pipelines.inputs._unit_range, nearly\ndef f(): ...\n", "there is no hfgen.pipelines"),
        (
            "# Copied from hfgen.pipelines.inputs._unit_range\n\n\ndef _unit_range(): ...\n",
            "line 1: nothing is defined",
        ),
    ],
)
def test_marks_that_lead_nowhere(tree, text, message):
    (tree / "pipelines" / "new.py").write_text(text)
    for flags in ((), ("--fix",)):
        status, lines = copies(tree, *flags)
        assert status == 1
        assert lines[0].startswith(f"pipelines/new.py: {message}")


def test_repositories_hold_the_code_that_they_name_and_no_other(tree):
    (tree / CARD).unlink()
    stray = tree / "model_cards/ddpm-mnist/pipeline_hfgen_vae.py"
    stray.write_text("")
    status, lines = copies(tree, "--fix")
    assert status == 1
    assert lines == [f"{stray.relative_to(tree)}: no model_index.json names it, remove it"]
    stray.unlink()
    assert copies(tree) == (0, [])
    assert (tree / CARD).read_bytes() == (tree / COPY).read_bytes()


def test_there_are_files_that_ship():
    assert {path.name for path in SHIPPED} >= {
        "pipeline_hfgen_class_conditional.py",
        "pipeline_hfgen_vae.py",
        "modeling_hfgen_vae.py",
        "scheduling_hfgen_posterior_mean.py",
    }


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_files_import_only_what_a_stranger_has(path):
    for node in ast.walk(ast.parse(path.read_text())):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a sibling is not downloaded with the file"
            modules = [node.module]
        for module in modules:
            assert module.split(".")[0] in ALLOWED, f"line {node.lineno}: {module}"


ALONE = """
import sys
sys.modules["hfgen"] = None
import builtins, dis, importlib.util, types, typing
from pathlib import Path

def codes(code):
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes(constant)

def functions(holder, module):
    for value in list(vars(holder).values()):
        value = getattr(value, "__func__", value)
        if getattr(value, "__module__", None) == module:
            if isinstance(value, type):
                yield from functions(value, module)
            elif isinstance(value, types.FunctionType):
                yield value

for path in map(Path, sys.argv[1:]):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    known = set(vars(module)) | set(dir(builtins))
    for code in codes(compile(path.read_text(), path, "exec")):
        for step in dis.get_instructions(code):
            if step.opname == "LOAD_GLOBAL" and step.argval not in known:
                print(f"{path.name}: {code.co_name} knows no {step.argval}")
    found = list(functions(module, path.stem))
    assert found
    for function in found:
        typing.get_type_hints(function)
"""


@pytest.mark.slow
def test_shipped_files_know_all_their_names_where_this_project_is_not_installed(tmp_path):
    files = [shutil.copy(path, tmp_path) for path in SHIPPED]
    done = subprocess.run([sys.executable, "-c", ALONE, *files], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
