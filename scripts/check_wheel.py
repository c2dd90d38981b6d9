"""Does the built wheel work where the source is not? Builds it, installs it in an environment of its own, runs it.

python scripts/check_wheel.py

The wheel is built from the source distribution, and that from the files that belong to the repository, so nothing that
merely lies about gets in. The other environment borrows the third-party packages of this one (through a path file, so
that an editable installation in it has no effect) and runs in an empty folder. Exit 0 when all of it holds.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CODE_FOLDERS = ("sgsd", "skillbank")
DATA_SUFFIXES = (
    ".md", ".safetensors", ".json", ".jinja", ".yaml", ".typed", ".txt", ".sql", ".html", ".css", ".js", ".svg",
)  # fmt: skip
DEMO_FIELDS = {
    "accuracy_before", "accuracy_after", "accuracy_best", "curve", "generated_tokens", "entries", "retrieval_hit_share",
    "polarity", "seconds", "student",
}  # fmt: skip


def run(*command: str | Path, cwd: Path) -> str:
    """Stdout of a command; ends the script with its whole output when it fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def build(work: Path) -> Path:
    """The wheel, from a copy of the repository's files (tracked, or new and not ignored)."""
    copy = work / "source"
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0")
    for name in listed:
        if name and (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", work / "dist", copy, cwd=work)
    (wheel,) = (work / "dist").glob("*.whl")
    return wheel


def check_contents(wheel: Path) -> None:
    """Every data file of the packages is in, and nothing but the packages."""
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    source = [file for folder in CODE_FOLDERS for file in (wheel.parent.parent / "source" / folder).rglob("*")]
    wanted = {
        file.relative_to(wheel.parent.parent / "source").as_posix()
        for file in source
        if file.is_file() and file.suffix in (".py", *DATA_SUFFIXES)
    }
    if missing := sorted(wanted - inside):
        sys.exit(f"the wheel lacks {', '.join(missing)}: add them to [tool.setuptools.package-data]")
    if strange := sorted(inside - wanted):
        sys.exit(f"the wheel carries {', '.join(strange)}, which are no files of the packages")
    if not any(name.endswith(".safetensors") for name in inside):
        sys.exit("the wheel carries no model: sgsd demo needs the one in sgsd/arena/data")
    print(f"{wheel.name}: {len(inside)} files, {wheel.stat().st_size / 1e6:.1f} MB")


def install(wheel: Path, work: Path) -> Path:
    """The folder of the scripts of a new environment that holds the wheel alone and borrows the rest."""
    home = work / "elsewhere"
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel, cwd=work)
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=work).strip())
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return home / "bin"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder).resolve()
        wheel = build(work)
        check_contents(wheel)
        scripts = install(wheel, work)
        empty = work / "empty"
        empty.mkdir()
        where = run(
            scripts / "python", "-c", "import sgsd, skillbank; print(sgsd.__file__, skillbank.__file__)", cwd=empty
        )
        if not all(path.startswith(str(work)) for path in where.split()):
            sys.exit(f"not the wheel's packages were imported, but {where}")
        run(scripts / "sgsd", "--help", cwd=empty)
        if any(empty.iterdir()):
            sys.exit("sgsd --help left files behind")
        demo = json.loads(run(scripts / "sgsd", "demo", "--quick", "--json", "--out", empty / "demo", cwd=empty))
        if missing := sorted(DEMO_FIELDS - demo.keys()):
            sys.exit(f"sgsd demo --json lacks {', '.join(missing)}")
        print(f"sgsd demo --quick: accuracy {demo['accuracy_before']:.3f} -> {demo['accuracy_after']:.3f}")


if __name__ == "__main__":
    main()
