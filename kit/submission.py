"""Write a run's test predictions as the files that the boards, or the owner of a catalogue, take; check such files."""

import codecs
import csv
import io
import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from kit.core.exceptions import KitError, shorten
from kit.core.paths import resolve, submissions_folder
from kit.data.challenge import Challenge, read_challenge, read_test_keys
from kit.data.items import changed_images, require_same_items
from kit.data.table import check_separator, read_text
from kit.predictions import FINGERPRINTS, read_test
from kit.runs import Run, open_run


class Format(NamedTuple):
    """What the files with predictions for a challenge look like."""

    files: dict[str, str]  # split → file name: the sigir board requires it, otherwise any is accepted
    columns: dict[str, str]  # header in the file → our column, the first identifies an item
    sep: str
    label: str  # what a label is called in a sentence
    written: dict[int, str]  # code → what stands for it in the file


def format_of(challenge: Challenge) -> Format:
    """Return the format in which the challenge's board, or the owner of a catalogue, wants predictions."""
    if (own := challenge.description) is not None:
        columns = {own.key: "key", own.label: "label"}
        return Format(dict.fromkeys(challenge.test, "predictions.csv"), columns, ",", "label", challenge.names)
    codes = {code: str(code) for code in challenge.classes}
    if challenge.edition == "sigir":
        files = {split: f"y_test_{split}_pred.tsv" for split in challenge.test}
        columns = {"Integer_id": "id", "Image_id": "image_id", "Product_id": "product_id", "Prdtypecode": "label"}
        return Format(files, columns, "\t", "code", codes)
    return Format(
        dict.fromkeys(challenge.test, "y_test_pred.csv"), {"": "id", "prdtypecode": "label"}, ",", "code", codes
    )


def read_predictions(path) -> pd.DataFrame:
    """Return `id, split, label` (the most probable code) from a run's `test.parquet`, or from its run folder.

    The file has `id`, one `p_<code>` column per class, and optionally `split` (None without it) and `fold`: the folds
    of one id are averaged. A column `label` in the file is the truth, and is not read. FINGERPRINTS in the file are
    returned too. Raise KitError if the file is damaged.
    """
    path = resolve(path)
    path = path / "test.parquet" if path.is_dir() else path
    predicted, means = read_test(path, ["id"])
    labelled = predicted.assign(label=means.idxmax(axis=1).to_numpy())
    known = [name for name in FINGERPRINTS if name in labelled]
    return labelled[["id", "split", "label", *known]]


def write_submission(predictions: pd.DataFrame, challenge: Challenge, out_dir) -> list[Path]:
    """Write one checked file per test split of `predictions` (`id, label`, and if there are several splits, `split`).

    Predictions with FINGERPRINTS are refused if the test file now has other products under the same ids. Rows are put
    in the test file's order. Every file must pass `check_submission` under a temporary name before any is renamed.
    Raise KitError if one fails, and leave the folder's files unchanged.
    """
    if not challenge.test:
        raise KitError(f"{challenge.folder} has no test file, so there is nothing to submit: {challenge.add_test}.")
    if missing := [name for name in ("id", "label") if name not in predictions]:
        raise KitError(f"the predictions lack the column {shorten(missing)}; they have {shorten(predictions.columns)}.")
    named = "split" in predictions and predictions["split"].notna().any()
    splits = list(dict.fromkeys(predictions["split"])) if named else list(challenge.test)
    if unknown := [name for name in splits if name not in challenge.test]:
        raise KitError(f"there is no test split {unknown[0]!r}; choose among {shorten(challenge.test)}.")
    if not named and len(splits) > 1:
        raise KitError(f"the predictions do not name their split; add a column split with {' or '.join(splits)}.")
    texts = {}
    for name in splits:
        rows = predictions[predictions["split"] == name] if named else predictions
        texts[format_of(challenge).files[name]] = name, _as_text(rows, challenge, name)
    out, written = resolve(out_dir), {}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, (split_name, text) in texts.items():
            temporary = out / f".{name}.{os.getpid()}"
            written[temporary] = out / name
            temporary.write_text(text, encoding="utf-8", newline="\n")
            _check_rows(temporary, challenge, split_name)
        for temporary, path in written.items():
            os.replace(temporary, path)
    except OSError as error:
        raise KitError(f"{out} cannot be written ({error.strerror}); give another folder.") from None
    finally:
        for temporary in written:
            temporary.unlink(missing_ok=True)
    return list(written.values())


def class_shares(predictions: pd.DataFrame, challenge: Challenge, validated: pd.Series) -> pd.DataFrame:
    """Return each class's share in per cent among the training items, among the labels predicted for them out of fold
    (`validated`), and among the predictions, largest first."""
    shares = {"training": challenge.train["label"], "out of fold": validated, "predictions": predictions["label"]}
    shares = {name: labels.value_counts(normalize=True) * 100 for name, labels in shares.items()}
    frame = pd.DataFrame(shares).fillna(0).sort_values("training", ascending=False)
    return frame.set_axis([f"{code}  {challenge.names.get(code, '')}".strip() for code in frame.index])


def _as_text(rows: pd.DataFrame, challenge: Challenge, split: str) -> str:
    test, subject = challenge.test[split], f"the predictions of {split!r}"
    _, columns, sep, _, written = format_of(challenge)
    if rows["id"].duplicated().any():
        raise KitError(
            f"{subject} repeat id {shorten(rows['id'][rows['id'].duplicated()].unique())}; keep one row of each."
        )
    _require_same_products(rows, test, subject)
    wrong = rows[~rows["label"].isin(challenge.classes)]  # NaN is in no set of codes
    if len(wrong):
        raise KitError(
            f"{subject} give id {wrong['id'].iloc[0]} the code {wrong['label'].iloc[0]}, "
            f"which training does not have; predict one of {shorten(challenge.classes, 3)}."
        )
    labels = rows.set_index("id")["label"].loc[test["id"]].astype("int64")
    table = test.assign(label=[written[code] for code in labels])[list(columns.values())]
    table.columns = list(columns)
    return table.to_csv(index=False, sep=sep, lineterminator="\n")


def _require_same_products(rows: pd.DataFrame, test: pd.DataFrame, subject: str) -> None:
    """Raise KitError if predictions have other ids than the test items, or other products under the same ids.

    If a product's image was blank, or is missing now, it is not compared.
    """
    own = test["key"] if "key" in test else test["id"]
    sides = {"lack": own[~test["id"].isin(rows["id"])], "have unknown": rows["id"][~rows["id"].isin(test["id"])]}
    for what, ids in sides.items():
        if len(ids):
            raise KitError(
                f"{subject} {what} id {shorten(ids)} ({len(rows)} rows for {len(test)}): predict that test file, by a "
                "training that starts again (-p again True) or with kit predict."
            )
    rows = rows.set_index("id").loc[test["id"]].reset_index()
    for name in {"class_fingerprint"}.intersection(rows, test):
        if (rows[name] != test[name]).any():
            raise KitError(
                f"{subject} are for other classes than the catalogue has now; train again with -p again True, or put "
                f"back the labels that were learned."
            )
    differ = changed_images(rows, test)
    if "fingerprint" in rows and "fingerprint" in test:
        old = rows["fingerprint"].fillna("").to_numpy()
        differ |= (old != "") & (old != test["fingerprint"].to_numpy())
    if differ.any():
        ids = shorten(own[differ])
        raise KitError(
            f"{subject} are for other products than the test file has now: {differ.sum()} of {len(test)} differ under "
            f"the same ids ({ids}); train again with -p again True, or put back the test items that were predicted."
        )


def check_test_items(run: Run, challenge: Challenge | None = None) -> None:
    """Raise KitError if a finished run did not learn from the current training items of its challenge folder, or if its
    predictions are not for the current test items.

    `challenge`: the folder, read with images.
    """
    challenge = challenge or read_challenge(run.config.data, False, False, images="leave")
    predictions, learned = run.read_test()[0].reset_index(), run.predictions("oof")[0]
    require_same_items(run, learned, challenge)
    for split, test in challenge.test.items():
        subject = f"the predictions of the run {run.name!r} for {split!r}"
        _require_same_products(predictions[predictions["split"] == split], test, subject)


def check_submission(path, challenge: Challenge) -> str:
    """Return one sentence that the file is valid, or raise KitError that names the first wrong line.

    The ids are compared with the test file itself, which is read again.
    """
    path = resolve(path)
    names = {file: split for split, file in format_of(challenge).files.items()}
    if not names:
        raise KitError(f"{challenge.folder} has no test file to check {path.name} against: {challenge.add_test}.")
    if challenge.edition == "sigir" and path.name not in names:
        raise KitError(f"{path.name} is not a name that the board accepts; rename it to {' or '.join(names)}.")
    split = names.get(path.name, next(iter(challenge.test)))
    rows = _check_rows(path, challenge, split)
    kind = "file of predictions" if challenge.description else f"{challenge.edition} submission"
    return f"{path.name} is a valid {kind} of {rows} rows for {split}."


def _check_rows(path: Path, challenge: Challenge, split: str) -> int:
    text, (_, columns, sep, label, written) = read_text(path), format_of(challenge)
    if path.read_bytes().startswith(codecs.BOM_UTF8):
        raise KitError(
            f"{path.name} begins with a byte-order mark, which a board may read as part of the header; save it as "
            f"UTF-8 without one."
        )
    header = text.splitlines()[0]
    check_separator(path.name, header, sep)
    *keys, _ = columns.values()
    test = challenge.test[split]
    if (now := read_test_keys(challenge, split)) != test[keys[0]].tolist():
        raise KitError(
            f"the test file of {split!r} in {challenge.folder} has changed since it was read ({len(now)} items now, "
            f"{len(test)} then); read the challenge folder again."
        )
    expected = list(test[keys].astype(str).itertuples(index=False, name=None))
    place, labels = {row[0]: n for n, row in enumerate(expected)}, set(written.values())
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=sep)
    try:
        rows = [(f"{path.name}, line {reader.line_num}: ", row) for row in reader]
    except csv.Error as error:
        raise KitError(f"{path.name}, line {reader.line_num}: {error}; write the file again.") from None
    if rows[0][1] != list(columns):
        raise KitError(f"{path.name}, line 1: the header is {header!r}, not {sep.join(columns)!r}; write that header.")
    for n, (line, row) in enumerate(rows[1:]):
        if len(row) != len(columns):
            raise KitError(f"{line}{len(row)} fields, not {len(columns)}; keep only {shorten(map(repr, columns))}.")
        *ids, given = row
        if n >= len(expected) or ids[0] != expected[n][0]:
            if ids[0] not in place:
                wrong = f"id {ids[0]!r} is not in the test file"
            elif place[ids[0]] < n:
                wrong = f"id {ids[0]} occurs a second time"
            else:
                wrong = f"id {ids[0]} is in the place of {expected[n][0]}"
            raise KitError(f"{line}{wrong}; write each of the {len(expected)} ids once, in the test file's order.")
        for key, value, right in zip(keys, ids, expected[n], strict=True):
            if value != right:
                raise KitError(f"{line}{key} is {value!r}, not {right}; copy it from the test file.")
        if given not in labels:
            wrong = f"the {label} is {given!r}, which training does not have"
            wrong = wrong if given.strip() else f"the {label} is missing"
            example = written[challenge.classes[0]]
            usual = (
                f"one of the table's own, such as {example!r}"
                if challenge.description
                else f"a code as a whole number, such as {example}"
            )
            raise KitError(f"{line}{wrong}; write {usual}.")
    if len(rows) - 1 < len(expected):
        raise KitError(
            f"{path.name} has {len(rows) - 1} rows, not {len(expected)}: it ends before id "
            f"{expected[len(rows) - 1][0]}; write one row per id of the test file."
        )
    return len(expected)


def check_file(file: Path, data: Path | None) -> str:
    """Return one sentence that the submission `file` is valid for the challenge folder `data`; otherwise raise
    KitError.

    Without `data`, a file in submissions/<run>/ is checked against the folder that the run was trained on.
    """
    if not file.is_file():
        raise KitError(f"There is no file {file}; give the file of a submission.")
    folder, run = file.resolve().parent, None
    with suppress(KitError):  # there is no project here
        run = open_run(folder.name) if folder.parent == submissions_folder() else None
    run = run if run and run.finished else None
    source = data or (run.config.data if run else None)
    if source is None:
        raise KitError(
            f"{file.name} is not in the submissions/ folder of a finished run; name its challenge: --data DIR."
        )
    challenge = read_challenge(source, False, False, images="leave" if run else "ignore")
    if run:
        check_test_items(run, challenge)
    return check_submission(file, challenge)
