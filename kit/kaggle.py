"""A folder for Kaggle: all that its notebook needs there, where nothing can be downloaded."""

import contextlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from kit.core.exceptions import KitError
from kit.core.files import write_text
from kit.core.paths import find_project, project
from kit.models.pretrained import local_directory, refuse_pointers, text_hub_name, timm_hub_name
from kit.models.registry import BACKBONES, PipFile

PYTHON = "3.12"  # of Kaggle's image, for which wheels with machine code are fetched
# What Kaggle's image has in versions that do, and is not brought along. (Its scikit-learn is too old.)
THERE = {
    *("torch", "torchvision", "numpy", "scipy", "pandas", "pyarrow", "matplotlib", "pillow", "pywavelets", "protobuf"),
    *("jupyterlab", "notebook", "jupyter-console", "nbconvert", "ipywidgets", "ipykernel", "papermill", "psutil"),
}


def build(out: Path, text: str, image: str) -> str:
    """Write the folder to upload: wheels, weights, notebooks and the shop. Return what it has, and what it lacks.

    `text`, `image`: backbones, each a name or a directory. Raise KitError if `out` exists and holds something, if
    weights are not on this machine, or if the package cannot be built.
    """
    source = find_project(project())
    if source is None:
        raise KitError(f"{project()} is not the kit's repository: run this in a clone of it.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise KitError(f"{out} exists already: remove it, or name another folder with --out.")
    weights = {"text": _weights("text", text), "image": _weights("image", image)}
    try:
        (out / "wheels").mkdir(parents=True)
        _build_wheel(source, out / "wheels")
        names = {side: _copy_weights(side, *weights[side], out / "weights") for side in weights}
        for folder, pattern in (("notebooks", "0*.ipynb"), ("data/shop", "**/*")):
            for path in (source / folder).glob(pattern):
                if path.is_file():
                    (copy := out / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, copy)
        notebook = (source / "docs" / "kaggle.ipynb").read_text(encoding="utf-8")
        for side, name in names.items():
            notebook = re.sub(rf'({side}: str = \\").*?(\\")', rf"\g<1>{name}\g<2>", notebook, count=1)
        if all(isinstance(files, list) for _, files in weights.values()):  # the demo's, which its recipe is for
            notebook = notebook.replace('recipe: str = \\"paper\\"', 'recipe: str = \\"demo\\"')
        write_text(out / "kaggle.ipynb", notebook)
    except OSError as error:
        raise KitError(f"{out} cannot be written ({error}): make room, or name another folder with --out.") from error
    lacking = _download_wheels(out / "wheels")
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return f"{out} ({size / 1e6:,.0f} MB) is ready to be uploaded to Kaggle: docs/kaggle.md has the steps.{lacking}"


def _weights(side: str, name: str) -> tuple[str, list[PipFile] | Path]:
    """Return a backbone's name on Kaggle, and its pip files or its directory on this machine. Raise KitError if there
    is none."""
    spec = BACKBONES[side].get(name)
    if spec and spec.file:
        return name, [file for file in (spec.file, getattr(spec, "tokenizer", None)) if file]
    if directory := local_directory(name, side):
        refuse_pointers(directory)
        return directory.name, directory
    repo = text_hub_name(name) if side == "text" else timm_hub_name(name) or name
    with contextlib.suppress(LocalEntryNotFoundError, HFValidationError):
        return name.rpartition("/")[2], Path(snapshot_download(repo, local_files_only=True))
    raise KitError(
        f"The weights of {repo} are not on this machine: fetch them with hf download {repo} --local-dir DIR, and pass "
        f"--{side} DIR."
    )


def _copy_weights(side: str, name: str, files: list[PipFile] | Path, folder: Path) -> str:
    """Copy a backbone's weights into `folder`, and return its name there. Files that pip installed keep their package's
    name, so that the registry finds them."""
    if isinstance(files, Path):
        name = f"{side}-{name}"
        shutil.copytree(files, folder / name)
    else:
        for file in files:
            (copy := folder / file.package / file.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file.locate(), copy)
    return name


def _build_wheel(source: Path, wheels: Path) -> None:
    """Build the package's wheel from a copy, so that nothing is left in the repository. Raise KitError if it fails."""
    with tempfile.TemporaryDirectory() as copy:
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copyfile(source / name, Path(copy) / name)
        shutil.copytree(source / "kit", Path(copy) / "kit", ignore=shutil.ignore_patterns("__pycache__"))
        for isolation in (["--no-build-isolation"], []):  # the latter fetches setuptools, if the one here is too old
            done = _pip("wheel", "--no-deps", *isolation, "--wheel-dir", str(wheels), copy)
            if done.returncode == 0:
                return
    raise KitError(f"The package's wheel cannot be built ({_last_line(done)}): pip install --upgrade setuptools.")


def _download_wheels(wheels: Path) -> str:
    """Fetch the wheels that Kaggle lacks; return "" or a sentence that names them if they cannot be fetched."""
    platforms = [f"--platform=manylinux_{version}_x86_64" for version in ("2_28", "2_17")]
    options = ["--no-deps", "--only-binary=:all:", f"--python-version={PYTHON}", *platforms, "--retries=0"]
    wanted = _brought()
    done = _pip("download", *options, "--dest", str(wheels), *wanted)
    if done.returncode == 0:
        return ""
    return (
        f"\nThese wheels could not be fetched ({_last_line(done)}); if Kaggle's image lacks one, its install stops "
        f"there, so remove the folder and give the command again with a network: {', '.join(wanted)}"
    )


def _brought() -> list[str]:
    """Return, as name==version, what the package requires and Kaggle's image does not have."""
    wanted: dict[str, str] = {}
    waiting = importlib.metadata.requires("rakuten-notebook-kit") or []
    while waiting:
        requirement, _, marker = waiting.pop().partition(";")
        name = re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0]).lower()
        if "extra" in marker or name in THERE | wanted.keys():
            continue
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # its marker is for other machines
            wanted[name] = importlib.metadata.version(name)
            waiting += importlib.metadata.requires(name) or []
    return [f"{name}=={version}" for name, version in sorted(wanted.items())]


def _pip(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _last_line(done: subprocess.CompletedProcess) -> str:
    lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
    return lines[-1].removeprefix("ERROR: ").strip() if lines else f"exit status {done.returncode}"
