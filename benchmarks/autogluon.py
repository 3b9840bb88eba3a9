"""The kit beside AutoGluon 1.6's MultiModal predictor: user CPU seconds and macro-F1 on the shipped catalogues.

`python benchmarks/autogluon.py` trains all sides on a part of the items, for `make bench`; `--full` on all of them with
the demo's epochs. Both train the same training items in batches of 32 with the same pretrained backbones, see the same
validation items, 64 tokens and 224 pixels, and predict the test items, whose answers are read to report, never to
choose. On the CPU, with a GPU hidden. Each side is one process from its start to its predictions, and its seconds are
those of that process and the ones that it started, in one round. Between two small runs on a busy machine they moved by
a tenth: a ratio that misses or meets its goal by less is not decided.

After the part's few steps AutoGluon's models have hardly learned: only the macro-F1 of `--full` means anything.

The kit's sides are the demo's member and, with `--full`, on both shipped catalogues: the same with both backbones
fine-tuned, for those who ask what that alone costs, and `kit best` on its light members, with the demo's two pairs of
backbones. Each starts with an empty cache.
AutoGluon's is fusion_mlp and fusion_transformer with its defaults, which fine-tune all weights, change training images
at random, validate twice an epoch, and of the three checkpoints of best accuracy average those that help. Other than by
default it never stops early, and leaves training texts as they are: changing them needs a thesaurus from the network.
It lives in an environment of its own, `cache/autogluon-env`, made on first use (2 GB; more if torch comes with
CUDA).
"""

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from accuracy import pooled
from measure import DEMO, report, row

from kit.analysis.estimates import Estimate, macro_f1_of
from kit.config import TrainConfig, train_config
from kit.core.exceptions import KitError
from kit.core.files import write_json, write_text
from kit.core.paths import cache_folder, project
from kit.data.challenge import read_challenge
from kit.data.items import read_items
from kit.data.text import product_texts
from kit.metrics import macro_f1
from kit.models.image_backbones import load_image
from kit.models.registry import TEXT, TOKENIZER
from kit.models.text_backbones import load_text
from kit.runs import Run
from kit.studies.report import read_answers

SIDE = Path(__file__).resolve().with_name("autogluon_side.py")
HOME = cache_folder() / "autogluon"  # backbones and logs
ENVIRONMENT = cache_folder() / "autogluon-env"
PACKAGES = ("autogluon.multimodal==1.6.3", "torch==2.13.0")  # a torch that 1.6.3 admits
PYTHONS = ((3, 10), (3, 13))  # that it admits

QUESTION = "user CPU seconds ÷ AutoGluon's, and macro-F1 beside its, on the same items (best: with a second pair)"
KINDS = ("fusion_mlp", "fusion_transformer")
CATALOGUES = ("emoji", "shop")
SAME = {"folds": 1, "split": "random", "val_share": 0.2, "batch_size": 32, "max_tokens": 64, "image_size": 224}
OURS = {  # what each of the kit's sides changes of the demo's member
    "frozen": {},
    "fine-tuned": {"freeze_text": False, "freeze_image": False, "lr": 1e-2, "backbone_lr_scale": 0.006},
}
PART, FULL = {"limit": 216, "epochs": 2}, {"limit": 0, "epochs": 6}
BEST = "best, light members"


@dataclasses.dataclass(frozen=True)
class Side:
    """One side's measurements: user CPU seconds, those of them that its imports took, and the predicted codes of the
    test items `[N]`."""

    seconds: float
    imports: float
    predicted: np.ndarray


# ---------------------------------------------------------------- processes


def user_seconds(command: list, log: Path, **environment: str) -> float:
    """Return the user CPU seconds of `command` and of all that it started. Raise KitError if it fails.

    The environment is alike on both sides: no GPU, nothing from a hub, and waiting threads that sleep and don't count.
    """
    alike = {"OMP_NUM_THREADS": str(os.cpu_count()), "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
    alike |= os.environ | {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1"}
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=project(),
            env=alike | environment,
        )
        _, status, usage = os.wait4(process.pid, 0)  # counts the children that it waited for, its readers of images
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise KitError(f"{log.stem} stopped with exit status {process.returncode}: {log} says why.")
    return usage.ru_utime


def interpreter() -> Path:
    """Return the Python of AutoGluon's environment, and make that first if it is not complete. Raise KitError."""
    python, marker = ENVIRONMENT / "bin" / "python", ENVIRONMENT / ".ready"
    wanted = "\n".join(PACKAGES) + "\n"
    if marker.is_file() and marker.read_text(encoding="utf-8") == wanted:
        return python
    if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        least, most = (".".join(map(str, version)) for version in PYTHONS)
        raise KitError(f"{PACKAGES[0]} needs Python {least} to {most}: run this benchmark with one of them.")
    print(f"Installing {' and '.join(PACKAGES)} in {ENVIRONMENT} …", flush=True)
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    quiet = ("--quiet", "--disable-pip-version-check")
    try:
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", *quiet, *PACKAGES], check=True)
    except subprocess.CalledProcessError as error:
        raise KitError(
            f"AutoGluon could not be installed (exit status {error.returncode}): see pip's own words above."
        ) from error
    write_text(marker, wanted)
    return python


# ---------------------------------------------------------------- AutoGluon's side


def save_text(folder: Path) -> None:
    """Write the text backbone as a Hugging Face directory."""
    from transformers import PreTrainedTokenizerFast

    load_text(DEMO["text"]).model.save_pretrained(folder)
    special = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    special |= {"unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>"}
    PreTrainedTokenizerFast(tokenizer_file=str(TOKENIZER.locate()), **special).save_pretrained(folder)


def save_image(folder: Path) -> None:
    """Write the image backbone as a timm directory, without a classifier: AutoGluon brings its own."""
    import torch

    model = load_image(DEMO["image"]).model
    config = {"architecture": model.pretrained_cfg["architecture"], "num_features": model.num_features}
    size = SAME["image_size"]
    pixels = {"input_size": [3, size, size], "mean": [0.5] * 3, "std": [0.5] * 3}  # as these weights were trained
    write_json(folder / "config.json", config | {"pretrained_cfg": pixels})
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    torch.save(state, folder / "pytorch_model.bin")


def backbones() -> dict[str, str]:
    """Return the directories of both backbones, each written on first use, whole or not at all."""
    found = {}
    for side, save in (("text", save_text), ("image", save_image)):
        folder = HOME / DEMO[side]
        if not folder.is_dir():
            HOME.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=HOME) as made:
                half = Path(made) / "half"
                half.mkdir()
                save(half)
                half.rename(folder)
        found[side] = str(folder)
    return found


def train_autogluon(kind: str, config: TrainConfig, frames: dict[str, pd.DataFrame], folder: Path) -> Side:
    """Train AutoGluon's model `kind` on the items that `config` trains on, in `folder`. Raise KitError if it fails."""
    parts = {"train": frames["train"].query("fold != 0"), "validation": frames["train"].query("fold == 0")}
    parts["test"] = frames["test"]
    job = {"model": kind, "epochs": config.epochs, "batch": config.batch_size, "tokens": config.max_tokens}
    job |= {"pixels": config.image_size, "seed": config.seed, **backbones()}
    for part, frame in parts.items():
        texts = [TEXT[config.text].prefix + text for text in product_texts(frame)]
        table = pd.DataFrame({"text": texts, "image": frame["image_path"].to_numpy()})
        if part != "test":
            table["label"] = frame["label"].to_numpy()
        job[part] = str(folder / f"{part}.parquet")
        table.to_parquet(job[part])
    job |= {"folder": str(folder / "predictor"), "output": str(folder / "output.json")}
    write_json(folder / "job.json", job)
    seconds = user_seconds([interpreter(), "-P", SIDE, folder / "job.json"], HOME / f"{kind}.log")
    found = json.loads(Path(job["output"]).read_text(encoding="utf-8"))
    return Side(seconds, found["import_seconds"], np.array(found["predicted"]))


# ---------------------------------------------------------------- the kit's side


def train_kit(name: str, config: TrainConfig, ids: pd.Series, folder: Path) -> Side:
    """Train `config` in `folder`, where nothing is cached, and return its codes of the test items `ids`."""
    run = Run(folder / "runs" / config.run)
    write_json(run.folder / "config.json", dataclasses.asdict(config))
    imports = user_seconds([sys.executable, "-c", "import kit.train"], HOME / "imports.log", KIT_ROOT=str(folder))
    command = [sys.executable, "-m", "kit.train", run.folder / "config.json"]
    seconds = user_seconds(command, HOME / f"{name}.log", KIT_ROOT=str(folder))
    predicted = run.read_test()[1].idxmax(axis=1).droplevel("split")
    return Side(seconds, imports, predicted.loc[ids].to_numpy())


def train_best(data: str, ids: pd.Series, folder: Path) -> Side:
    """Climb the ladder's light rungs in `folder`, where nothing is cached, and return its codes of the test items."""
    imports = user_seconds([sys.executable, "-c", "import kit.train"], HOME / "imports.log", KIT_ROOT=str(folder))
    command = [sys.executable, "-m", "kit", "best", "--data", data, "--recipe", DEMO["recipe"], "--seeds", "0"]
    seconds = user_seconds(command, HOME / "best.log", KIT_ROOT=str(folder))
    predicted = Run(folder / "runs" / "best").read_test()[1].idxmax(axis=1).droplevel("split")
    return Side(seconds, imports, predicted.loc[ids].to_numpy())


# ---------------------------------------------------------------- both


def compare(name: str, limit: int, epochs: int) -> None:
    """Train each side on `limit` items (0: all) for `epochs`, and report as `name`. Raise KitError if one fails."""
    interpreter()  # before anything is timed
    rows: list[dict] = []
    gains: dict[tuple[str, str], list[Estimate]] = {}
    for catalogue in CATALOGUES[: 1 if limit else None]:
        true, sides, items = train_all(catalogue, limit, epochs)
        for kind in KINDS:
            for ours in [side for side in sides if side not in KINDS]:
                left, right, case = sides[ours], sides[kind], f"{catalogue}: kit {ours} beside {kind}"
                goal = {"frozen": "<= 0.5", BEST: "<= 0.25"}.get(ours, "")
                spent = " and ".join(f"{side.seconds:.0f} s (imports {side.imports:.0f} s)" for side in (left, right))
                rows.append(row(f"{case}: CPU seconds, ratio", left.seconds / right.seconds, goal, f"{spent}; {items}"))
                gain = macro_f1_of(true, left.predicted, right.predicted)
                reached = " and ".join(f"{100 * macro_f1(true, side.predicted):.1f}" for side in (left, right))
                rows.append(gain_row(case, gain, "", f"{reached}; {items}"))
                gains.setdefault((ours, kind), []).append(gain)
        report(name, QUESTION, rows)
    if not limit:
        for (ours, kind), both in gains.items():
            goal = ">= 0" if ours == BEST else ""
            rows.append(
                gain_row(f"both: kit {ours} beside {kind}", pooled(both), goal, "mean of the catalogues' gains")
            )
        report(name, QUESTION, rows)


def train_all(catalogue: str, limit: int, epochs: int) -> tuple[np.ndarray, dict[str, Side], str]:
    """Return the test items' codes `[N]`, every side, and a line about the items."""
    base = DEMO | SAME | {"data": f"data/{catalogue}", "seed": 0, "limit": limit, "epochs": epochs}
    sides_of = {"frozen": OURS["frozen"]} if limit else OURS  # on a part, the demo's alone
    configs = {ours: train_config(**base | changed | {"run": ours}) for ours, changed in sides_of.items()}
    config = next(iter(configs.values()))
    _, frames = read_items(config)
    ids = frames["test"]["id"]
    answers = read_answers(f"data/{catalogue}_answers/Y_test.csv", read_challenge(config.data, images="ignore"))
    sides = {}
    for side in (*configs, *([] if limit else [BEST]), *KINDS):
        print(f"{catalogue}: {side} …", flush=True)
        HOME.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=HOME) as folder:
            if side in configs:
                sides[side] = train_kit(side, configs[side], ids, Path(folder))
            elif side == BEST:
                sides[side] = train_best(config.data, ids, Path(folder))
            else:
                sides[side] = train_autogluon(side, config, frames, Path(folder))
        print(f"   {sides[side].seconds:.0f} s", flush=True)
    validate = int((frames["train"]["fold"] == 0).sum())
    items = f"{len(frames['train']) - validate} items trained, {validate} validated, {len(ids)} scored"
    return answers.codes.loc[ids].to_numpy(), sides, f"{items}, {epochs} epochs, one round"


def gain_row(case: str, gain: Estimate, goal: str, detail: str) -> dict:
    return row(f"{case}: macro-F1, points gained", gain.value, goal, detail, gain.low, gain.high)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="all items and 6 epochs, in place of a part and 2")
    full = parser.parse_args().full
    try:
        compare("autogluon_full" if full else "autogluon", **(FULL if full else PART))
    except KitError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
