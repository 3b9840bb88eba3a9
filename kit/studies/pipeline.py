"""The whole paper on one challenge folder: every notebook in turn, then the report.

Finished steps are skipped, so after an interruption the same command resumes. If a run fails, the others are still
trained, and it is named at the end.
"""

import argparse
import contextlib
import dataclasses
import io
import logging
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TextIO

import papermill
import psutil
from papermill.exceptions import PapermillExecutionError

from kit.config import NAMES, EnsembleConfig, TrainConfig, check_type, split_names
from kit.core.console import SHELL
from kit.core.exceptions import KitError
from kit.core.files import write_json
from kit.core.machine import available_gpus, available_threads
from kit.core.paths import notebooks_folder, project, require_encoding, resolve, runs_folder, submissions_folder
from kit.data.challenge import read_challenge
from kit.notebook_parameters import parameter_types
from kit.runs import EnsembleRun, open_run
from kit.studies.choice import choice_of, chosen, find_choice, preferred
from kit.studies.plan import RESERVED_FIELDS, Plan, Study, is_done
from kit.studies.report import read_answers, write_report
from kit.studies.study_runs import baseline_runs, member_runs, one_run, study_runs

# the shipped values of the notebooks' parameters that no option of a study sets
SHIPPED: dict[str, dict] = {
    "01_eda": {"items": 6, "seed": 0, "limit": 20000},
    "05_ensemble": {"members": "", "method": EnsembleConfig.method, "evaluation": EnsembleConfig.evaluation, "seed": 0},
    "06_error_analysis": {"study": "", "data": "", "top": 5, "worst": 12},
    "07_submission": {"study": "", "data": "", "edition": ""},
}


def parameters(notebook: str, given: dict, configs: Sequence[TrainConfig]) -> dict:
    """Return a notebook's parameters for papermill: `given`, and for all others the planned or shipped value, because
    somebody may have edited the parameters cell. Raise KitError if the notebook cannot be read."""
    planned: dict = {field.name: "" if field.name in NAMES else None for field in dataclasses.fields(TrainConfig)}
    planned = dataclasses.asdict(configs[0]) if notebook == "03_train" else SHIPPED.get(notebook, planned)
    names = _inspect(notebooks_folder() / f"{notebook}.ipynb")
    return {name: planned[name] for name in names if name in planned} | given


def _inspect(notebook: Path) -> dict:
    """Return what papermill knows of a notebook's parameters, by name. Raise KitError if it cannot be read."""
    try:
        return papermill.inspect_notebook(str(notebook))
    except (OSError, ValueError) as error:
        raise KitError(f"{notebook} cannot be read ({error}): restore it with git checkout notebooks.") from error


def run_notebook(notebook: str, given: list[list[str]]) -> Path:
    """Execute one notebook with papermill into the folder of its run or study; return the executed copy.

    `given`: names and values as typed. A value stays text if its parameter is text. Raise KitError with the sentence of
    a cell that fails, or if there is no such notebook.
    """
    source = notebooks_folder() / f"{notebook.removesuffix('.ipynb')}.ipynb"
    if not source.is_file():
        shipped = ", ".join(path.stem for path in sorted(source.parent.glob("*.ipynb")))
        raise KitError(f"There is no notebook {notebook!r}; the notebooks are: {shipped or 'none here'}.")
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of fields that a notebook does not list
    known = _inspect(source)
    kinds: dict[str, type | None] = {**parameter_types(TrainConfig)}
    kinds |= {name: str if one["inferred_type_name"] == "str" else None for name, one in known.items()}
    for name, value in given:
        require_encoding(name, value)
    values = {name: _value(value, kinds.get(name)) for name, value in given}
    out = runs_folder() / _folder(source.stem, values, known) / source.name
    os.environ[SHELL] = "1"
    try:
        _papermill(source, out, values, sys.stdout)
    except (PapermillExecutionError, RuntimeError) as error:  # the latter: the kernel died
        raise KitError(_reason(error)) from error
    finally:
        del os.environ[SHELL]
    return out


def _reason(error: Exception) -> str:
    """Return why a notebook failed: the sentence of a KitError; of any other error, which is none, its name as well."""
    name, text = getattr(error, "ename", KitError.__name__), str(getattr(error, "evalue", error)).strip()
    kinds: list[type[KitError]] = [KitError, *KitError.__subclasses__()]
    return text if name in [kind.__name__ for kind in kinds] else f"{name}: {text}"


def _folder(notebook: str, values: dict, known: dict) -> str:
    """Return the name of the folder under runs/ that keeps the executed notebook.

    It is named after its run or study, or after the notebook and the data that it reads.
    """
    if notebook in ("06_error_analysis", "07_submission"):
        return find_choice(values.get("run", ""), values.get("study", "")).run.name
    if notebook == "03_train":
        fields = parameter_types(TrainConfig)
        return one_run({name: value for name, value in values.items() if name in fields}).run
    owner = next((name for name in ("study", "run") if name in known), "")
    if not owner:
        return "-".join(filter(None, (notebook, resolve(values["data"]).name if values.get("data") else "")))
    return values.get(owner) or str(known[owner]["default"]).strip("\"'")


def _papermill(source: Path, out: Path, values: dict, stream: io.TextIOBase | TextIO) -> None:
    """Execute `source` into `out`, which appears once it is complete; the output of its cells goes to `stream`."""
    partial = out.with_suffix(".partial.ipynb")
    quiet = ["--IPKernelApp.log_level=CRITICAL"]  # the kernel warns of local sockets, and of its own shutdown
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        papermill.execute_notebook(
            source, partial, values, progress_bar=False, stdout_file=stream, extra_arguments=quiet
        )
        partial.replace(out)
    except OSError as error:
        raise KitError(f"{out} cannot be written ({error}): fix its permissions, or set KIT_ROOT.") from error


class Named(io.TextIOBase):
    """Standard output of one notebook among several: each line begins with its name."""

    def __init__(self, name: str):
        self.name, self.pending = name, ""

    def write(self, text: str) -> int:
        *lines, self.pending = (self.pending + text).split("\n")
        sys.stdout.write("".join(f"{self.name}: {line}\n" for line in lines))
        return len(text)

    def close(self) -> None:
        if not self.closed and self.pending:
            self.write("\n")
        super().close()

    def flush(self) -> None:
        sys.stdout.flush()


class Step(NamedTuple):
    """One execution of a notebook into runs/<folder>/, which shows the runs of `configs`."""

    notebook: str
    folder: str
    values: dict
    configs: Sequence[TrainConfig] = ()


def run_notebooks(plan: Plan) -> None:
    """Execute the notebooks of a study in order; record each failure and its sentence in `plan.failed`."""
    study, failed = plan.study, plan.failed
    shared = study.values | {"processes": study.processes, "again": study.again}
    several, compared = shared | {"jobs": study.jobs}, plan.groups["02_baselines"]
    matched = several | {"matched": study.matched}
    trained = [config for config in plan.members if config.run not in plan.cannot]
    each = [Step("03_train", c.run, shared | {"text": c.text, "image": c.image, "run": c.run}, [c]) for c in trained]
    rows = [plan.members[0], *plan.groups["04_ablations"]]

    _execute_all([Step("01_eda", study.name, {"data": study.values["data"]})], plan)
    _execute_all([Step("02_baselines", study.name, matched, compared)], plan)
    _execute_all(each, plan)
    if "02_baselines" not in failed:  # once more, beside the members: it trains nothing
        beside = [*compared, *filter(is_done, trained)]
        _execute_all([Step("02_baselines", study.name, matched | {"again": False}, beside)], plan)
    _execute_all([Step("04_ablations", study.name, several | {"seeds": study.seeds}, rows)], plan)
    try:
        if len(member_runs(study.name)) + len(baseline_runs(study.name)) > 1:
            chosen = {} if study.again else preferred(study.name)  # what the user chose with 05_ensemble stays chosen
            _execute(Step("05_ensemble", study.name, {"study": study.name, "again": study.again} | chosen), plan)
        choice = choice_of(study.name)
    except KitError as error:
        failed |= dict.fromkeys(("06_error_analysis", "07_submission"), str(error))
        return
    print(f"\n── analysed and submitted: {choice.why}", flush=True)
    _execute(Step("06_error_analysis", study.name, {"run": choice.run.name}), plan)
    if plan.workload.predicted:
        _execute(Step("07_submission", study.name, {"run": choice.run.name}), plan)
    else:
        print(f"\n── 07_submission: left out, because {study.values['data']} has no items to predict", flush=True)


def _execute_all(steps: Sequence[Step], plan: Plan) -> None:
    """Execute several notebooks at once, as many as the study's jobs, which share the cores. Leave out those whose copy
    is there and newer than its runs, unless the study is made again."""
    todo = []
    for step in steps:
        if not plan.study.again and _is_current(step):
            print(f"── {step.notebook} ({step.folder}): finished already", flush=True)
        else:
            todo.append(step)
    with plan.following():
        _execute_several(todo, plan)


def _is_current(step: Step) -> bool:
    """Return whether an executed notebook is there and shows its runs, all finished, as they are now."""
    copy = _copy(step)
    if not copy.is_file() or not all(is_done(config) for config in step.configs):
        return False
    written = (open_run(config.run).folder / "summary.json" for config in step.configs)
    return copy.stat().st_mtime_ns >= max((path.stat().st_mtime_ns for path in written), default=0)


def _copy(step: Step) -> Path:
    return runs_folder() / step.folder / f"{step.notebook}.ipynb"


def _execute_several(todo: Sequence[Step], plan: Plan) -> None:
    """Execute the notebooks of `todo`, as many at a time as the study's jobs, or one by one if there are GPUs."""
    jobs = 1 if available_gpus() else plan.study.jobs  # each notebook trains on all GPUs
    if min(jobs, len(todo)) < 2:
        for step in todo:
            _execute(step, plan)
        return
    usual = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(max(1, available_threads() // jobs))  # for the kernels and their processes
    with ThreadPoolExecutor(jobs) as pool:
        try:
            list(pool.map(lambda step: _execute(step, plan, named=True), todo))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in psutil.Process().children():  # kernels; their training saves and ends when they are gone
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.terminate()
            raise
        finally:
            os.environ.pop("OMP_NUM_THREADS")
            os.environ |= {} if usual is None else {"OMP_NUM_THREADS": usual}


def _execute(step: Step, plan: Plan, named: bool = False) -> None:
    """Execute one notebook; record a failing cell's sentence in `plan.failed`. `named`: it is one of several at once,
    so its name begins each line."""
    notebook, folder, values, configs = step
    out = _copy(step)
    print(f"\n── {notebook} → {out}", flush=True)
    started = time.perf_counter()
    try:
        source = notebooks_folder() / f"{notebook}.ipynb"
        _papermill(source, out, parameters(notebook, values, configs), Named(folder) if named else sys.stdout)
        _require_planned(notebook, configs)
        print(f"   {notebook} took {time.perf_counter() - started:.0f} s", flush=True)
    except (PapermillExecutionError, RuntimeError) as error:  # the latter: the kernel died
        name = folder if notebook == "03_train" else notebook
        plan.failed[name] = f"{_reason(error)} (the notebook as far as it came: {out.with_suffix('.partial.ipynb')})"
        print(f"   failed: {plan.failed[name]}", flush=True)
    finally:
        plan.look()


def _require_planned(notebook: str, configs: Sequence[TrainConfig]) -> None:
    """Raise KitError if a notebook that succeeded has not made the planned runs."""
    for config in configs:
        if not is_done(config):
            run = open_run(config.run)
            state = f"with other settings ({', '.join(run.changes(config))})" if run.finished else "unfinished"
            raise KitError(
                f"{notebooks_folder() / notebook}.ipynb left the run {run.name!r} {state}, so it is not the notebook "
                f"that was shipped: restore it with git checkout notebooks, and remove {run.folder}."
            )


def _tell_failed(failed: dict[str, str]) -> None:
    for name, sentence in failed.items():
        print(f"FAILED {name}: {sentence}", file=sys.stderr)


def _value(text: str, kind: type | None):
    """Return `text` as papermill's -p reads it, as True, False, a number or text; as text if `kind` is str."""
    if text in ("True", "False") and kind is not str:
        return text == "True"
    for number in (int, float) if kind is not str else ():
        try:
            return number(text)
        except ValueError:
            continue
    return text


def read_run_fields(given: list[list[str]], **others: type) -> dict:
    """Return fields of a run, and `others`, from names and values as typed. Raise KitError if one is unknown or of
    another type."""
    types = parameter_types(TrainConfig, **others)
    if unknown := {name for name, _ in given} - set(types):
        raise KitError(f"-p {min(unknown)} is no field of a run; the fields are: {', '.join(types)}.")
    return {name: check_type(name, _value(value, types[name]), types[name]) for name, value in given}


def read_fields(given: list[list[str]], **others: type) -> dict:
    """Return the fields of every run of a study as `read_run_fields` does; also refuse those of its own options."""
    values = read_run_fields(given, **others)
    if taken := set(values) & RESERVED_FIELDS:
        raise KitError(f"-p {min(taken)} cannot be set for a whole study, which varies it or has an option for it.")
    return values


def run_study(options: argparse.Namespace) -> int:
    """Run a whole study as `kit.studies.options:add_paper` describes it; return the exit status."""
    texts, images = split_names(options.texts), split_names(options.images)
    started = time.perf_counter()
    failed: dict[str, str] = {}
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of fields that a notebook does not list
    try:
        if not notebooks_folder().is_dir():
            raise KitError(f"There are no notebooks in {project()}: change to the project's folder.")
        if options.jobs < 1:
            raise KitError(f"jobs={options.jobs} is too small: it must be at least 1.")
        if not texts or not images:
            raise KitError("texts and images must each name at least one backbone.")
        values = read_fields(options.p, processes=int, again=bool)
        fields = {"processes": values.pop("processes", 0), "again": values.pop("again", False)}
        fields |= {name: getattr(options, name) for name in ("seeds", "jobs", "matched")}
        values |= {"study": options.study, "data": options.data, "recipe": options.recipe}
        values |= {"text": texts[0], "image": images[0]}
        challenge = read_challenge(options.data, clean_titles=False, clean_descriptions=False, images="ignore")
        read_answers(options.answers, challenge)
        plan = Plan(Study(values, texts, images, **fields))
        failed = plan.failed
        plan.tell()
        run_notebooks(plan)
        settings = {"data": options.data, "answers": options.answers, "failed": failed}
        write_json(runs_folder() / options.study / "study.json", settings)
        print("\n── report", flush=True)
        report = write_report(options.study)
        final = chosen(options.study)
    except KitError as error:
        print(f"\n{error}", file=sys.stderr)
        _tell_failed(failed)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted: the same command resumes (-p again True would start over).", file=sys.stderr)
        return 130
    text = (runs_folder() / options.study / "REPORT.md").read_text(encoding="utf-8")
    print(text.partition("## Table 1")[0])
    peak = max(run.summary.get("peak_memory_gb", 0) for run in study_runs(options.study))
    members_of = len(final.config.members) if isinstance(final, EnsembleRun) else 1
    folder = submissions_folder() / final.name if plan.workload.predicted else final.folder
    print(
        f"{(time.perf_counter() - started) / 60:.1f} min{f'; a training process took at most {peak} GB' * bool(peak)}. "
        f"{final.name} ({members_of} members) is in {folder}.\n"
        f"Report: open {report}"
    )
    _tell_failed(failed)
    return int(bool(failed))
