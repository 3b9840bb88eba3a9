"""The whole story on one challenge folder: notebooks 01, 03 and 07 in turn, then the run beside linear references.

`python -m kit.story --data DIR --text NAME --image NAME --recipe NAME [--run NAME] [--answers FILE] [--again]`
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import papermill
from papermill.exceptions import PapermillExecutionError

from kit.backbones import check_backbones
from kit.challenge import read_challenge
from kit.config import PROJECT, ROOT, KitError, TrainConfig, resolve, train_config
from kit.datasets import fingerprint, read_items
from kit.linear import references
from kit.metrics import bootstrap_macro_f1, macro_f1
from kit.runs import Run, open_run, write_atomically
from kit.submission import file_name

STEPS = {"01_eda": ["data"], "03_train": ["data", "text", "image", "recipe", "run", "again"], "07_submission": ["run"]}


def tell(config: TrainConfig, again: bool) -> None:
    """Executes the notebooks into the run's folder. Raises KitError with the failing cell's sentence."""
    values = {"data": config.data, "text": config.text, "image": config.image, "recipe": config.recipe}
    values |= {"run": config.run, "again": again}
    folder = open_run(config.run).folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KitError(f"{folder} cannot be made ({error}): fix its permissions, or set KIT_ROOT.") from error
    for notebook, names in STEPS.items():
        print(f"\n── {notebook} → {folder / notebook}.ipynb", flush=True)
        try:
            papermill.execute_notebook(
                PROJECT / "notebooks" / f"{notebook}.ipynb",
                folder / f"{notebook}.ipynb",
                {name: values[name] for name in names},
                progress_bar=False,
                stdout_file=sys.stdout,
            )
        except PapermillExecutionError as error:
            raise KitError(f"{notebook}: {error.evalue} (the executed notebook is in {folder})") from error


def read_answers(path: Path, config: TrainConfig) -> pd.Series:
    """Codes by id, in the order of the test file. Raises KitError where they are not those of `config.data`."""
    challenge = read_challenge(config.data, images="ignore")
    if challenge.edition != "challengedata":
        raise KitError(f"--answers scores submissions of the challengedata edition; {config.data} is of another.")
    try:
        known = pd.read_csv(path, index_col=0)["prdtypecode"]
    except (OSError, ValueError, KeyError) as error:
        raise KitError(f"{path} cannot be read as answers ({error}): it needs an index and 'prdtypecode'.") from error
    ids = challenge.test["test"]["id"] if challenge.test else []
    if known.isna().any() or not known.index.is_unique:
        raise KitError(f"{path} has an item twice or without a code: give the answers whole.")
    if set(known.index) != set(ids):
        raise KitError(f"{path} has other ids than the test file of {config.data}: give the answers of that file.")
    return known.loc[ids]


def compare(run: Run, answers: pd.Series | None) -> pd.DataFrame:
    """Macro-F1, in per cent, of the run and of the linear references on the run's validation items and, where there are
    `answers`, of the submission that was written; each with its 95 % interval and what the run gains on it."""
    config = run.config
    if fingerprint(read_items(config)[1]) != run.summary["data"]:
        raise KitError(f"{config.data} has changed since {run.name} was trained on it: train again with --again.")
    frame, codes, values = run.predictions("oof")
    truths = {"validation": frame["label"].to_numpy()}
    ours = {"validation": np.array(codes)[values.argmax(1)]}
    others = references(config)
    if answers is not None:
        submitted = pd.read_csv(ROOT / "submissions" / run.name / file_name("challengedata", "test"), index_col=0)
        truths["test"] = answers.to_numpy()
        ours["test"] = submitted["prdtypecode"].to_numpy()
    rows = []
    for name in (run.name, *others):
        row = {"system": f"co-attention ({name})" if name == run.name else name}
        for part, true in truths.items():
            predicted = ours[part] if name == run.name else others[name]["oof" if part == "validation" else part]
            row[part] = _interval(macro_f1(true, predicted), bootstrap_macro_f1(true, predicted))
            if name != run.name:
                gain = macro_f1(true, ours[part]) - macro_f1(true, predicted)
                row[f"co-attention gains, {part}"] = _interval(gain, bootstrap_macro_f1(true, ours[part], predicted))
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def _interval(value: float, bounds: tuple[float, float]) -> str:
    return f"{100 * value:.1f} [{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m kit.story", description="Notebooks 01, 03, 07 and a comparison.")
    parser.add_argument("--data", default=TrainConfig.data, help="challenge folder, either edition")
    parser.add_argument("--text", default=TrainConfig.text, help="text backbone")
    parser.add_argument("--image", default=TrainConfig.image, help="image backbone")
    parser.add_argument("--recipe", default=TrainConfig.recipe, help="paper or demo")
    parser.add_argument("--run", default="", help="name of the run's folder; made from the others where empty")
    parser.add_argument("--answers", type=Path, help="the test items' codes, to score the submission with")
    parser.add_argument("--again", action="store_true", help="train again where the run is finished")
    options = vars(parser.parse_args())
    answers, again = options.pop("answers"), options.pop("again")
    try:
        config = train_config(**options)
        check_backbones(config.text, config.image)
        known = read_answers(resolve(answers), config) if answers else None
        tell(config, again)
        run = open_run(config.run)
        print("\n── linear references on the same items", flush=True)
        table = compare(run, known)
    except KitError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted: the run is not finished; the same command starts it again.", file=sys.stderr)
        return 130
    write_atomically(run.folder / "comparison.csv", partial(table.to_csv, index=False))
    print(f"\nMacro-F1 in per cent, with 95 % bootstrap intervals over items ({run.folder / 'comparison.csv'}):\n")
    print(table.to_string(index=False))
    summary = run.summary
    print(
        f"\n{summary['items']['train']} items trained, {summary['items']['oof']} validated, {summary['items']['test']} "
        f"predicted in {summary['seconds']:.0f} s; the training process took at most {summary['peak_memory_gb']} GB.\n"
        f"To upload: {ROOT / 'submissions' / run.name}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
