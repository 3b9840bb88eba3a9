"""The run that is analysed and submitted: the one that 05_ensemble chose.

runs/<study>/choice.json records its choice for a study, runs/choice.json its choice among runs named by hand.
06_error_analysis, 07_submission and the report read them.
"""

from dataclasses import dataclass
from pathlib import Path

from kit.analysis.estimates import from_summary
from kit.config import EnsembleConfig
from kit.core.exceptions import KitError, shorten
from kit.core.files import now, read_json, read_time, write_json
from kit.core.paths import runs_folder
from kit.runs import EnsembleRun, Run, find_run, finished_at, list_runs, open_run
from kit.stacking.ensemble import TOO_GOOD
from kit.stacking.members import is_current
from kit.studies.study_runs import member_runs, study_runs


@dataclass(frozen=True)
class Choice:
    """A run, and a sentence that says why it was chosen, and from how many."""

    run: Run
    why: str


def choose(run: Run) -> None:
    """Record the ensemble `run` as the one to submit for its study, or for runs outside a study. Raise KitError if the
    file cannot be written."""
    if not isinstance(run, EnsembleRun):
        raise KitError(f"{run.name!r} is not an ensemble: 05_ensemble makes those that can be chosen.")
    settings = {"method": run.config.method, "evaluation": run.config.evaluation}
    write_json(_file(run.config.study), {"run": run.name, **settings, "chosen": now()})


def preferred(study: str) -> dict[str, str]:
    """Return the `method` and `evaluation` that 05_ensemble chose; {} if it chose nothing. Raise KitError if the record
    is damaged.
    """
    content = _read(_file(study))
    return {name: content[name] for name in ("method", "evaluation") if name in content}


def choice_of(study: str) -> Choice:
    """Return the run to submit for a study: the choice of 05_ensemble.

    If there is no choice, or it is out of date, return the nested ensemble of most members, by the default method;
    without an ensemble, the best member. Raise KitError if the study has neither.
    """
    if choice := _choice(study, study_runs(study)):
        return choice
    raise KitError(
        f"The study {study!r} has no ensemble and no finished member yet: stack its runs with 05_ensemble, or train a "
        f"member with 03_train."
    )


def _choice(study: str, runs: list[Run]) -> Choice | None:
    """Return the choice among a study's finished `runs`, or None if none of them is a member or an ensemble."""
    if not runs:
        return None
    members, (recorded, note) = [open_run(name) for name in member_runs(study)], _recorded(study)
    pool = f"of {len(runs)} finished runs of the study {study!r}"
    if recorded:
        known = recorded.config.members if isinstance(recorded, EnsembleRun) else ()
        later = [run.name for run in members if run.name not in known and run.name != recorded.name]
        without = f"; it lacks {shorten(later)}: run 05_ensemble again" if later else ""
        return Choice(recorded, f"{recorded.name}, {pool}: {_chooser(recorded)} chose it{without}.{_caution(recorded)}")
    stacked = [run for run in runs if isinstance(run, EnsembleRun) and is_current(run)]
    if nested := [run for run in stacked if run.config.evaluation == "nested"]:
        usual = EnsembleConfig.method
        run = max(nested, key=lambda run: (len(run.config.members), run.config.method == usual, run.name))
        return Choice(run, f"{run.name}, {pool}: the ensemble of most members, by {run.config.method}{note}.")
    if not members:
        return None
    member = max(members, key=lambda run: run.summary["macro_f1"])
    return Choice(member, f"{member.name}, {pool}: the best member, because there is no ensemble{note}.")


def expectation(run: Run) -> str:
    """Return a sentence on what an ensemble is and how many points it is expected to gain; "" for a training."""
    if not isinstance(run, EnsembleRun):
        return ""
    summary = run.summary
    method, count = summary.get("chosen", run.config.method), len(run.config.members)
    if count == 1:
        return f"The stack {run.name!r} submits its only member, {summary['best_member']}."
    if method == "single":
        return (
            f"The stack {run.name!r} submits its best member, {summary['best_member']}, alone: in inner folds no "
            f"combination of its {count} members did better. Its own score may be another, since each fold's stack "
            "chooses without that fold."
        )
    return (
        f"The stack {run.name!r} of {count} members (method {method}) is expected to change macro-F1 by "
        f"{from_summary(run, 'gain', signed=True)} points, compared with its best member, {summary['best_member']}: "
        f"{summary['evaluation']}, on validation items."
    )


def chosen(study: str) -> Run:
    """Return the run to analyse and submit for a study. Raise KitError as `choice_of` does."""
    return choice_of(study).run


def find_choice(name: str = "", study: str = "") -> Choice:
    """Return the finished run of that name, or the run to submit of that study; without both, of the study that was
    worked on last. Raise KitError if there is no such run, or if both are named."""
    if name and study:
        raise KitError(f"run {name!r} and study {study!r} both say what to take: leave one of them out.")
    if study:
        return choice_of(study)
    return Choice(run := find_run(name), _caution(run).strip()) if name else _latest()


def find_result(name: str = "", study: str = "") -> Run:
    """Return the run of `find_choice`, and print which it is, from how many, and why."""
    choice = find_choice(name, study)
    if choice.why:
        print(choice.why)
    return choice.run


def _latest() -> Choice:
    """Return the choice of 05_ensemble for the latest study, or for runs outside a study; otherwise the newest run."""
    newest, note = find_run(), ""
    study, last = newest.config.study or None, finished_at(newest)[0]
    for file in [_file(""), *runs_folder().glob("*/choice.json")]:
        time = read_time(_read(file).get("chosen"))
        if time and time >= last:
            study, last = "" if file == _file("") else file.parent.name, time
    if study and (choice := _choice(study, _runs_left(study))):
        return choice
    pool = f"of {len(list_runs())} finished runs"
    if study == "":
        run, note = _recorded("")
        if run:
            return Choice(run, f"{run.name}, {pool}: 05_ensemble chose it last.{_caution(run)}")
    return Choice(newest, f"{newest.name}, {pool}: the newest{note}.{_caution(newest)}")


def _runs_left(study: str) -> list[Run]:
    try:
        return study_runs(study)
    except KitError:  # all its runs were removed
        return []


def _recorded(study: str) -> tuple[Run | None, str]:
    """Return the run that 05_ensemble chose, or None and the reason why its choice does not count."""
    name = _read(_file(study)).get("run")
    if not name:
        return None, ""
    run = open_run(name)
    if not run.finished:
        wrong = "is gone"
    elif isinstance(run, EnsembleRun) and not is_current(run):
        wrong = "has members that were trained again or are gone"
    else:
        return run, ""
    return None, f"; 05_ensemble chose {name}, which {wrong}: run it again"


def _chooser(run: Run) -> str:
    return "kit best" if run.name == run.config.study else "05_ensemble"


def _caution(run: Run) -> str:
    warning = run.summary.get("warning", "")
    return f" It is evaluated {TOO_GOOD}" if warning == TOO_GOOD else f" {warning}".rstrip()


def _file(study: str) -> Path:
    return runs_folder() / study / "choice.json"


def _read(file: Path) -> dict:
    """Return what `choose` wrote; {} if nothing was chosen. Raise KitError if the file is damaged."""
    if not file.is_file():
        return {}
    try:
        content = read_json(file)
        if isinstance(content["run"], str) and read_time(content["chosen"]):
            return content
    except (KitError, KeyError):
        pass
    raise KitError(f"{file} is damaged: run 05_ensemble again, or remove it.")
