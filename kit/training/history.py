"""How far a run is: its epochs in metrics.csv, its status, and the lines that a training prints."""

import functools

import pandas as pd

from kit.core.console import in_words
from kit.core.files import write_atomically
from kit.training.session import Session
from kit.training.status import report

PACE_STEPS = 10  # the steps after the first that say how long a run will take


def record_epoch(session: Session, row: dict, epochs: int) -> None:
    """Add a row to the history and to metrics.csv, and tell a tracker. Of a fold's rows, the last kept is marked."""
    history = session.progress.history
    for past in history:
        past["kept"] = past["kept"] and not (row["kept"] and past["fold"] == row["fold"])
    history.append(row)
    if session.accelerator.is_main_process:
        print(session.title + describe_epoch(row, epochs) + ("  *" if row["kept"] else ""), flush=True)
    write_metrics(session)
    scores = {name: value for name, value in row.items() if isinstance(value, float)}
    session.accelerator.log({f"fold {row['fold']}/{name}": value for name, value in scores.items()}, len(history))


def write_metrics(session: Session) -> None:
    """Write the history to metrics.csv."""
    if session.accelerator.is_main_process:
        table = pd.DataFrame(session.progress.history)
        write_atomically(session.run.folder / "metrics.csv", functools.partial(table.to_csv, index=False))


def report_step(session: Session, before: int, steps: int, first: int, slow: float) -> None:
    """Report how far the run is; once enough steps are measured also their pace, which is printed once.

    `before`: the run's steps before this training · `steps` per epoch · `first`: the epoch's first step in this
    process, which is slow, as the model is compiled and the loader starts · `slow`: the epoch's seconds up to its end.
    """
    progress = session.progress
    measured, total = min(first + PACE_STEPS, steps), session.steps
    timed = progress.step - first
    seconds = (progress.epoch_seconds - slow) / timed if timed else progress.epoch_seconds / progress.step
    done = before + progress.epoch * steps + progress.step
    place = {"fold": progress.fold + 1, "epoch": progress.epoch + 1, "step": progress.step}
    report(**place, done=done, total=total, **({"seconds_per_step": seconds} if progress.step >= measured else {}))
    if progress.step == measured and not (progress.epoch or progress.history) and session.accelerator.is_main_process:
        print(f"{seconds:.3g} s a step: about {in_words(seconds * total)} for {total} steps", flush=True)


def describe_epoch(row: dict, epochs: int) -> str:
    """Return a row of metrics.csv as a line to read."""
    validated = ""
    if "loss" in row:
        validated = f"validation loss {row['loss']:.4f}  macro-F1 {100 * row['macro_f1']:5.2f}  "
        validated += f"accuracy {100 * row['accuracy']:5.2f}  "
    if not row["epoch"]:
        return f"start      {validated}".rstrip()
    pace = row["samples_per_second"]
    return (
        f"epoch {row['epoch']:>2}/{epochs}  training loss {row['train_loss']:.4f}  {validated}"
        f"{row['seconds']:.0f} s, {pace:.{0 if pace >= 10 else 1}f} items/s"
    )
