"""The plan of the house, tested: who may import whom, what is light to import, how large a file may grow."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "torch",
    "transformers",
    "faiss",
    "sentence_transformers",
    "datasets",
    "trl",
    "peft",
    "numpy",
    "pandas",
    "scipy",
}
PACKAGES = ("sgsd", "skillbank")
CODE_AND_DOCS = ("sgsd", "skillbank", "configs", "scripts", "tests", "docs", ".ci")
ROOT = Path(__file__).resolve().parent.parent


def sources(*folders: str) -> list[Path]:
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def modules_after(code: str) -> set[str]:
    """Top-level packages that a fresh interpreter has loaded after running `code`."""
    report = "import json as _json, sys as _sys; print('\\n' + _json.dumps(sorted(_sys.modules)))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("from sgsd.cli import main; assert main(['--help']) == 0", id="sgsd --help"),
        pytest.param("from sgsd.cli import main; assert main(['train', '--help']) == 0", id="sgsd train --help"),
        pytest.param("from sgsd.cli import main; assert main(['bank', '--help']) == 0", id="sgsd bank --help"),
        pytest.param("import skillbank", id="skillbank"),
        pytest.param("import skillbank.store, skillbank.records, skillbank.rollouts", id="skillbank.store"),
        pytest.param("import skillbank.retrieve, skillbank.index, skillbank.index.embed", id="skillbank.retrieve"),
        pytest.param("import sgsd.report.report", id="sgsd.report"),
        pytest.param("import sgsd.config, sgsd.records, sgsd.prompts", id="sgsd.config"),
    ],
)
def test_is_light(code: str) -> None:
    assert modules_after(code) & HEAVY == set()


def test_help_waits_for_no_configuration() -> None:
    """pydantic and YAML are a third of the time that `sgsd --help` may take: commands import them inside."""
    assert modules_after("from sgsd.cli import main; assert main(['--help']) == 0") & {"pydantic", "yaml"} == set()


def test_a_heavy_import_would_be_seen() -> None:
    assert "numpy" in modules_after("import numpy")


def test_import_contracts_hold() -> None:
    lint = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([lint, "--no-logo", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 kept, 0 broken" in done.stdout


def imported_roots(file: Path) -> set[str]:
    """Every top-level package a file imports, anywhere in it."""
    roots = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute here"
            assert node.module is not None
            roots.add(node.module.split(".")[0])
    return roots


def test_objectives_and_logits_import_torch_alone() -> None:
    for file in [*sources("sgsd/objectives"), ROOT / "sgsd/logits.py"]:
        foreign = imported_roots(file) - set(sys.stdlib_module_names) - {"torch", "sgsd"}
        assert not foreign, f"{file} imports {foreign}"


def test_third_party_imports_are_declared(root: Path) -> None:
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.split(r"[<>=\[ ;]", line)[0].lower() for line in project["dependencies"]}
    # What only an extra brings may be imported only where its absence is handled.
    extras = {
        "ray": {"skillbank/building/sharded.py", "skillbank/building/workers.py"},
        "matplotlib": {"sgsd/report/figures.py"},
        "vllm": {"sgsd/generate/vllm.py", "sgsd/generate/vllm_engine.py"},
        "deepspeed": {"sgsd/generate/weights.py", "sgsd/shards.py"},
    }
    assert {"ray", "vllm", "deepspeed"} <= project["optional-dependencies"].keys()
    assert any(line.startswith("matplotlib") for line in project["optional-dependencies"]["report"])
    # `sgsd bank ui` alone imports `skillbank.web`, and says what is missing. The last two come with fastapi and jinja2.
    pages = {str(file.relative_to(root)) for file in [*sources("skillbank/web"), root / "sgsd/cli/bank/ui.py"]}
    extras |= dict.fromkeys(("fastapi", "jinja2", "uvicorn", "starlette", "markupsafe"), pages)
    names = {"yaml": "pyyaml", "faiss": "faiss-cpu", "sentence_transformers": "sentence-transformers"}
    for file in sources(*PACKAGES):
        for package in imported_roots(file) - set(sys.stdlib_module_names) - {*PACKAGES}:
            wanted = names.get(package, package.replace("_", "-"))
            if str(file.relative_to(root)) in extras.get(package, ()):
                continue
            assert wanted in declared, f"{file.relative_to(root)} imports {package}, pyproject.toml does not declare it"


def test_files_hold_one_idea(root: Path) -> None:
    """300 lines is where a file is asked whether it is two; 400 is where the answer is yes."""
    long = {str(file.relative_to(root)): len(file.read_text().splitlines()) for file in sources(*PACKAGES)}
    assert not {name: lines for name, lines in long.items() if lines > 400}


def test_no_utils(root: Path) -> None:
    assert not [file for file in sources(*PACKAGES) if file.stem in {"utils", "util", "helpers", "misc"}]


def test_every_package_and_module_says_what_it_is(root: Path) -> None:
    silent = [file for file in sources(*PACKAGES) if not ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))]
    assert silent == []


def test_nothing_depends_on_this_machine(root: Path) -> None:
    """No absolute path of somebody's machine in code, configurations, documents."""
    files = [file for folder in CODE_AND_DOCS for file in (root / folder).rglob("*") if file.is_file()]
    files += [*root.glob("*.md"), *root.glob("*.toml"), root / "Makefile", root / ".pre-commit-config.yaml"]
    pattern = re.compile(r"(?<![\w.])/(?:work|home|root|Users)/|\.\./shared")
    binary = {".safetensors", ".pyc", ".png"}
    named = []
    for file in files:
        if file == Path(__file__).resolve() or "__pycache__" in file.parts or file.suffix in binary:
            continue
        if pattern.search(file.read_text(encoding="utf-8")):
            named.append(str(file.relative_to(root)))
    assert named == []
