"""Everything that a finished run needs to predict, found where it is or gathered in one folder that can be copied.

An exported folder contains

export.json    the run, its classes, the columns of its catalogue, and where the backbones are
runs/          config.json, summary.json and weights of the run; of an ensemble, also its members'
backbones/     weights, configurations and tokenizers of backbones from the hub or a directory
packages/      files of backbones that pip had installed
SHA256SUMS     the hash of each file, checked whenever the folder is read (also by sha256sum -c)
"""

import dataclasses
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import save_file

from kit.config import OWN, TrainConfig, short_name
from kit.core.cache import fingerprint
from kit.core.exceptions import KitError
from kit.core.files import TRAIN_AGAIN, read_json, write_json, write_text
from kit.core.paths import resolve, runs_folder
from kit.data.catalogue import Description, read_description, read_labels
from kit.data.challenge import read_names
from kit.data.items import COLUMNS
from kit.models import registry
from kit.models.backbones import check_backbones
from kit.models.image_backbones import read_timm_directory
from kit.models.pretrained import local_directory
from kit.models.registry import IMAGE
from kit.models.text_backbones import load_text
from kit.models.tokenizer import FILES, tokenizer_folder
from kit.runs import STACKER, EnsembleRun, Run, TrainingRun, find_run, run_at
from kit.stacking.members import is_current
from kit.training.run_trainer import predicting
from kit.training.saved_weights import require_backbones

MANIFEST, SUMS = "export.json", "SHA256SUMS"
EXPORT_AGAIN = "copy the folder again, or export the run again"


@dataclass(frozen=True)
class Source:
    """A finished run and what it takes to predict with it.

    `members`: the run itself, or those of an ensemble · `codes` `[K]`: in the order of the probabilities · `names`:
    class names by code, all labels of a catalogue, of which `description` has the columns · `backbones`: directories by
    the names that configurations have for them, in an exported folder, `exported`.
    """

    run: Run
    members: list[TrainingRun]
    codes: list[int]
    names: dict[int, str]
    description: Description | None
    backbones: dict[str, str]
    exported: bool

    def config(self, member: TrainingRun) -> TrainConfig:
        """Return a member's configuration for predicting on this machine."""
        config = member.config
        places = {side: self.backbones.get(getattr(config, side), getattr(config, side)) for side in ("text", "image")}
        return predicting(dataclasses.replace(config, **places, images_gb=0.0))  # new images are read once


def open_source(run: str | Path) -> Source:
    """Return what predicts: a run by its name or its folder, or a folder that `export` wrote.

    Raise KitError if there is no such run, if it is not finished, or if something that it needs is missing, damaged
    or another than in training.
    """
    place = Path(run).expanduser()
    if (place / MANIFEST).is_file() or (place / SUMS).is_file():
        return _open_export(place.resolve())
    if (place / "config.json").is_file():
        source = run_at(place.resolve())
    elif place.name and place.parent in (Path(), Path("runs"), runs_folder()):
        source = find_run(place.name)
    else:  # not the run that happens to have the name of that folder
        raise KitError(f"{place} is neither the folder of a run nor one of kit export: check the path, or name a run.")
    source.require()
    members = _members(source)
    if isinstance(source, EnsembleRun) and source.folder.parent == runs_folder() and not is_current(source):
        raise KitError(f"The members of {source.name!r} were trained again since it was made: make the ensemble again.")
    for member in members:
        require_backbones(member)
    items, codes, _ = source.predictions("oof")
    names, description = _read_classes(source, members, items)
    return Source(source, members, codes, names, description, {}, False)


def _members(run: Run) -> list[TrainingRun]:
    names = run.config.members if isinstance(run, EnsembleRun) else [run.name]
    members = [TrainingRun(run.folder.parent / name) for name in names]
    for member in members:
        member.require()
        if member.config.system == OWN:
            raise KitError(f"{member.name!r} has the predictions of a model of your own: only that predicts new items.")
    return members


def _read_classes(
    run: Run, members: list[TrainingRun], learned: pd.DataFrame
) -> tuple[dict[int, str], Description | None]:
    """Return the class names by code, and the description of a catalogue, with the columns that the members read in
    training; `learned`: the run's items.

    Raise KitError if the catalogue is gone or has other labels now: the codes would mean others.
    """
    folder, labels = resolve(run.config.data), learned.get("class_fingerprint", [""])[0]
    description = read_description(folder) if folder.is_dir() else None
    if not labels:
        return read_names(folder) if folder.is_dir() else {}, None
    if description is None:
        raise KitError(f"{folder} no longer has the catalogue that names the classes of {run.name!r}: put it back.")
    names = read_labels(description)
    if fingerprint(*names) != labels:
        raise KitError(
            f"{folder} has other labels now than {run.name!r} learned: put the old ones back, or train again."
        )
    outlines = [member.summary.get("outline", {}) for member in members]
    records = {(name, outline[name]) for outline in outlines for name in COLUMNS if name in outline}
    if len(records) > len({name for name, _ in records}):
        raise KitError(f"The members of {run.name!r} read different columns of {folder}: train them again on the same.")
    return dict(enumerate(names)), description.with_columns(record for _, record in records)


def _open_export(folder: Path) -> Source:
    _check_hashes(folder)
    content = read_json(folder / MANIFEST)
    try:
        description = content["description"] and Description.of(content["description"])
        names = {int(code): name for code, name in content["names"].items()}
        places = {name: str(folder / place) for name, place in content["backbones"].items()}
        run = run_at(folder / "runs" / content["run"])
        source = Source(run, _members(run), content["codes"], names, description, places, True)
    except (KeyError, TypeError, AttributeError) as error:
        raise KitError(
            f"{folder / MANIFEST} was written by another version of the kit ({error}): export again."
        ) from None
    if (packages := folder / "packages") not in registry.BROUGHT:
        registry.BROUGHT.append(packages)
    for member in source.members:
        check_backbones(source.config(member))
    return source


def _check_hashes(folder: Path) -> None:
    """Raise KitError if a file of an exported folder is not as it was written."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise KitError(f"{folder / SUMS} cannot be read ({error}): {EXPORT_AGAIN}.") from None
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    if MANIFEST not in sums:
        raise KitError(f"{folder / SUMS} is cut short: {EXPORT_AGAIN}.")
    for name, digest in sums.items():
        path = folder / name
        if not path.is_file():
            raise KitError(f"{path} is missing: {EXPORT_AGAIN}.")
        if _sha256(path) != digest:
            raise KitError(f"{path} is damaged (its hash is not the one in {SUMS}): {EXPORT_AGAIN}.")


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise KitError(f"{path} cannot be read ({error.strerror}): {EXPORT_AGAIN}.") from None


def export(run: str | Path, folder: Path) -> str:
    """Gather in `folder` what a finished run needs to predict elsewhere, and return a sentence about its size.

    Raise KitError if the run has no saved models, or if the folder is not empty or cannot be written.
    """
    folder = folder.resolve()
    if folder == Path.cwd():
        raise KitError(f"{folder} is the working directory, which cannot be replaced: name a new folder for export.")
    source = open_source(run)
    if source.exported:
        raise KitError(f"{run} is an exported folder already: copy it.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise KitError(f"{folder} exists: choose a new folder for the export.")
    if rehearsed := [member.name for member in source.members if not member.config.pretrained]:
        raise KitError(f"{rehearsed[0]!r} was a rehearsal with random weights: export a run of pretrained ones.")
    made = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        shutil.rmtree(made, ignore_errors=True)
        _copy_runs(source, made / "runs")
        places: dict[str, str] = {}
        for config in map(source.config, source.members):
            for side in config.sides:
                if place := _copy_backbone(side, getattr(config, side), made):
                    places[getattr(config, side)] = place
        own = source.description and dataclasses.asdict(
            dataclasses.replace(
                source.description, items="", test="", images=source.description.images_below.as_posix()
            )
        )
        content = {"run": source.run.name, "codes": source.codes, "names": source.names}
        write_json(made / MANIFEST, content | {"description": own, "backbones": places})
        files = sorted(path for path in made.rglob("*") if path.is_file())
        write_text(made / SUMS, "".join(f"{_sha256(path)}  {path.relative_to(made).as_posix()}\n" for path in files))
        folder.parent.mkdir(parents=True, exist_ok=True)
        os.replace(made, folder)
    except OSError as error:
        raise KitError(f"{folder} cannot be written ({error}): free space or fix permissions.") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    sizes = {part: sum(f.stat().st_size for f in (folder / part).rglob("*") if f.is_file()) for part in ("", "runs")}
    whole, models = (f"{size / 1e6:,.1f} MB" for size in sizes.values())
    return f"{folder}: {whole}, of which {models} are trained models and the rest backbones."


def _copy_runs(source: Source, folder: Path) -> None:
    """Copy what predicts from the folders of a run and its members. Raise KitError if a model is missing."""
    for run in {one.folder: one for one in (source.run, *source.members)}.values():
        if isinstance(run, EnsembleRun):
            models = [STACKER]
        else:
            models = [f"model-{fold}.safetensors" for fold in range(TrainingRun(run.folder).config.folds)]
        (folder / run.name).mkdir(parents=True)
        for name in ("config.json", "summary.json", *models):
            if not (run.folder / name).is_file():
                raise KitError(f"{run.folder / name} is missing: the run keeps no model, so {TRAIN_AGAIN}.")
            shutil.copy(run.folder / name, folder / run.name)


def _copy_backbone(side: str, name: str, folder: Path) -> str:
    """Copy a backbone into an exported folder, and return the directory that its name stands for there.

    "": the name stays, and stands for the files of packages.
    """
    spec = registry.BACKBONES[side].get(name)
    if spec and spec.file:
        for file in filter(None, (spec.file, getattr(spec, "tokenizer", None))):
            target = folder / "packages" / file.package / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file.locate(), target)
        return ""
    target = folder / "backbones" / f"{side}-{short_name(name)}-{fingerprint(name)[:6]}"
    if not target.is_dir():
        target.mkdir(parents=True)
        save_text(name, target) if side == "text" else save_image(name, target)
    return target.relative_to(folder).as_posix()


def save_text(name: str, folder: Path) -> None:
    """Save a text backbone and its tokenizer as a directory that `load_text` and `load_tokenizer` read."""
    tokenizer = tokenizer_folder(name)
    for path in tokenizer.iterdir():
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in FILES):
            shutil.copy(path, folder)
    load_text(name).model.save_pretrained(folder)


def save_image(name: str, folder: Path) -> None:
    """Save an image backbone as a directory that `load_image` reads."""
    if directory := local_directory(name, "image"):
        _, weights = read_timm_directory(directory)
        for path in (directory / "config.json", weights):
            shutil.copy(path, folder)
        return
    import timm

    # whole, as its architecture has it: what the kit drops may be more than a classifier
    model: Any = timm.create_model(IMAGE[name].timm if name in IMAGE else name, pretrained=True)
    known = ("architecture", "input_size", "fixed_input_size", "mean", "std", "interpolation", "crop_pct", "classifier")
    config: dict[str, Any] = {key: model.pretrained_cfg[key] for key in known if key in model.pretrained_cfg}
    content = {
        "architecture": config.pop("architecture"),
        "pretrained_cfg": config | {"num_classes": model.num_classes},
    }
    write_text(folder / "config.json", json.dumps(content, indent=1))
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "model.safetensors")
