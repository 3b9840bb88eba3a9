"""The board of runs: all of them at a glance, one in detail, two compared.

N items
"""

import shutil
import sys
import textwrap
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from kit.analysis.attention import describe_attention
from kit.analysis.errors import per_class, read_errors
from kit.analysis.estimates import Estimate, from_summary, gain, predicted_codes, weighted_f1_of
from kit.config import SAME_RESULT, EnsembleConfig, recipe_changes
from kit.core.console import in_words
from kit.core.exceptions import Busy, KitError
from kit.core.files import read_time
from kit.core.paths import runs_folder
from kit.data.items import challenge_of
from kit.runs import Run, finished_at, open_run, run_at
from kit.training.status import read_error, read_status

WIDE = 10_000  # columns of a file or a pipe
FLIPS = 10  # items that a comparison lists unless it lists all


def board(study: str = "") -> pd.DataFrame:
    """Return one row per run, finished or not, in the order in which they finished; of one study if it is named.

    Columns: run, macro-F1 (an Estimate), weighted F1, time, state (finished, at work, interrupted, failed, not begun,
    or damaged), why (it is not finished, or its scores are too good), and changes (from the run's recipe). Scores
    are in per cent.
    """
    runs = [run_at(path.parent) for path in runs_folder().glob("*/config.json")]
    runs.sort(key=lambda run: (not run.finished, *(finished_at(run) if run.finished else (run.name,))))
    columns = ["run", "macro-F1", "weighted F1", "time", "state", "why", "changes"]
    return pd.DataFrame([_row(run) for run in runs if not study or _study(run) == study], columns=columns)


def tell_board(frame: pd.DataFrame, width: int = 0, study: str = "") -> str:
    """Return the result of `board`, perhaps of one study, as text, two lines per run.

    `width`: columns of the text; 0: the terminal's, or as many as the longest line needs if the output is no terminal.
    """
    if frame.empty:
        return f"{runs_folder()} has no run {f'of the study {study!r}' if study else 'to list'} yet."
    if not width:
        width = shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else WIDE
    room = min(max(20, width - 52), frame["run"].str.len().max())
    layout = "{:<%d}  {:<18}  {:>8}  {:>7}  {}" % room  # noqa: UP031 (braces within braces)
    lines = [layout.format("run", "macro-F1, per cent", "weighted", "time", "state")]
    for row in frame.itertuples(index=False):
        _, score, weighted, time, state, why, changes = row
        lines.append(layout.format(_middle(row[0], room), str(score), weighted, time, state).rstrip())
        for text in filter(None, (why, changes)):
            lines += textwrap.wrap(text, width, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def show(name: str) -> str:
    """Return the facts of one run, one paragraph per subject. Raise KitError if there is no such run."""
    run = open_run(name)
    if not run.folder.is_dir():
        run.require()
    row = _row(run)
    parts = [f"{row['run']}: {row['state']}. {row['why']}".strip(), row["changes"]]
    if run.finished:
        summary = run.summary
        score = (
            f"macro-F1 {row['macro-F1']}, weighted F1 {row['weighted F1']}, accuracy {100 * summary['accuracy']:.1f}"
        )
        parts += [f"{score} per cent; cross-entropy {summary['loss']:.3f} nats; {summary['items']['oof']:,} items."]
        costs = [row["time"], f"{memory} GB of memory" if (memory := summary.get("peak_memory_gb")) else ""]
        costs += [f"{summary['step_seconds']:.2g} s per step"] if summary.get("step_seconds") else []
        parts += [f"It took {', '.join(filter(None, costs))}."]
        parts += [describe_attention(run)] if "attention" in summary else []
        parts += ["The worst classes:\n" + _worst_classes(run)]
    width = shutil.get_terminal_size((100, 24)).columns
    text = [part if "\n" in part else textwrap.fill(part, width) for part in parts if part]
    files = [f"{path.name} ({_size(path)})" for path in sorted(run.folder.iterdir()) if path.name[0] != "."]
    return "\n\n".join([*text, textwrap.fill(f"Files in {run.folder}: {', '.join(files)}", width)])


def compare(first: str, second: str) -> tuple[Estimate, pd.DataFrame]:
    """Return how much macro-F1 `second` gains on `first`, paired on the same items, and the items that flip: those that
    one of them gets right and the other wrong, with id, title, the true class, and what each predicts.

    Raise KitError if the runs were not scored on the same items, or their challenge folder cannot be read or has
    changed.
    """
    one, other = open_run(first), open_run(second)
    gained = gain([other], [one])
    frame = one.predictions("oof")[0]
    ids, true = frame["id"], frame["label"].to_numpy()
    sides = [predicted_codes(run, ids, first) for run in (one, other)]
    flips = np.flatnonzero((sides[0] == true) != (sides[1] == true))
    challenge = challenge_of(one, images="ignore")
    errors = read_errors(one, challenge)
    keys = challenge.train.set_index("id").reindex(ids).get("key", ids)  # a catalogue's own ids
    columns = dict(zip(("true", "A", "B"), (true, *sides), strict=True))
    named = {"id": np.array(keys), "title": errors.items["title"]}
    table = pd.DataFrame({**named, **columns, "gets it right": ""}).iloc[flips]
    table["gets it right"] = np.where(table["B"] == table["true"], "B", "A")
    for side in columns:
        table[side] = [f"{code} {errors.names.get(code, '')}".strip() for code in table[side]]
    return gained, table.sort_values("gets it right", kind="stable", ignore_index=True)


def tell_comparison(first: str, second: str, everything: bool = False) -> str:
    """Return the result of `compare` as text, with the first FLIPS items of each kind, or with `everything` all.

    Raise KitError as `compare` does.
    """
    gained, flips = compare(first, second)
    counts = flips["gets it right"].value_counts()
    decided = "B is better" if gained.low > 0 else "A is better" if gained.high < 0 else "undecided"
    runs = {"A": open_run(first), "B": open_run(second)}
    lines = [f"{side}  {run.name}: macro-F1 {from_summary(run, 'macro_f1')}" for side, run in runs.items()]
    lines += [f"{run.name}: {run.summary['warning']}" for run in runs.values() if "warning" in run.summary]
    lines.append(f"B − A: {gained} points, paired on the same items: {decided}.")
    lines.append(f"{counts.get('A', 0):,} items only A gets right, {counts.get('B', 0):,} only B.")
    shown = flips if everything else flips.groupby("gets it right").head(FLIPS)
    width = shutil.get_terminal_size((100, 24)).columns
    for side, rows in shown.groupby("gets it right"):
        lines.append(f"\nOnly {side} is right ({len(rows)} of {counts[side]:,}):")
        other = "B" if side == "A" else "A"
        for row in rows.to_dict("records"):
            lines.append(textwrap.shorten(f"{row['id']}  {row['title']}", width, placeholder="…"))
            text = f"true {row['true']}; {other} says {row[other]}"
            lines += textwrap.wrap(text, width, initial_indent="    ", subsequent_indent="    ")
    if len(shown) < len(flips):
        lines.append(f"\n{len(flips) - len(shown):,} more: --all lists them.")
    return "\n".join(lines)


def _study(run: Run) -> str:
    try:
        return run.config.study
    except KitError:
        return ""


def _row(run: Run) -> dict:
    row = dict.fromkeys(("macro-F1", "weighted F1", "time", "why", "changes"), "") | {"run": run.name}
    try:
        row["changes"] = _changes(run)
        if run.finished:
            scores = {"macro-F1": from_summary(run, "macro_f1"), "weighted F1": f"{weighted_f1_of(run):.1f}"}
            summary = {"time": in_words(run.summary.get("seconds")), "why": run.summary.get("warning", "")}
            return row | scores | summary | {"state": "finished"}
        return row | _unfinished(run)
    except KitError as error:
        return row | {"state": "damaged", "why": str(error)}


def _changes(run: Run) -> str:
    """Return in words what sets a run apart: from its recipe, or for an ensemble, its method and members."""
    config = run.config
    if isinstance(config, EnsembleConfig):
        return f"{config.method} of {len(config.members)} runs" + (
            f", {config.evaluation}" if config.evaluation != "nested" else ""
        )
    left_out = {"study", "recipe", *SAME_RESULT, *config.unread}
    changed = [f"system {config.system}"] * (config.system != "coattention")
    changed += [f"{name} {new}" for name, (_, new) in recipe_changes(config).items() if name not in left_out]
    return f"{config.recipe}: {', '.join(changed) or 'as the recipe'}"


def _unfinished(run: Run) -> dict:
    """Return state, reason and time of an unfinished run, from its lock and from what its training reported."""
    status, error = read_status(run), read_error(run)
    began = read_time(status.get("started"))
    if _at_work(run):
        elapsed = (datetime.now(UTC) - began).total_seconds() if began else None
        return {"state": "at work", "time": in_words(elapsed), "why": _progress(status)}
    if error.get("kind") in ("error", "memory"):
        return {"state": "failed", "why": error.get("sentence", "")}
    if error or run.begun or status:
        return {"state": "interrupted", "why": error.get("sentence", "") or _progress(status)}
    return {"state": "not begun"}


def _at_work(run: Run) -> bool:
    """Return whether a living process holds the run's lock."""
    if not (run.folder / ".lock").exists():
        return False
    try:
        with run.alone(patience=0):
            return False
    except Busy:
        return True
    except KitError:  # a folder that cannot be written
        return False


def _progress(status: dict) -> str:
    if not status.get("total"):
        return status.get("phase", "")
    return f"fold {status['fold']}, epoch {status['epoch']}, {status['done'] / status['total']:.0%} of the steps done"


def _worst_classes(run: Run) -> str:
    scores = per_class(read_errors(run)).nsmallest(5, "f1")
    lines = [
        f"  {Estimate(*100 * row[['f1', 'f1_low', 'f1_high']].astype(float))!s:<20} {row['code']} "
        f"{row['name'] if str(row['name']) != str(row['code']) else ''} ({row['support']:,} items)"
        for _, row in scores.iterrows()
    ]
    return "\n".join(lines)


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 2**20:.1f} MB" if size >= 2**20 else f"{max(1, size // 2**10)} kB"


def _middle(text: str, width: int) -> str:
    """Return `text` with its middle cut out if it is wider than `width`."""
    half = (width - 1) // 2
    return text if len(text) <= width else f"{text[: width - 1 - half]}…{text[-half:]}"
