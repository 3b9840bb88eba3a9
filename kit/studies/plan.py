"""The plan of a study: its runs, which of them are left to train, and how long that may take."""

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from kit.config import TrainConfig
from kit.core.console import in_words
from kit.core.exceptions import KitError
from kit.data.challenge import read_challenge
from kit.data.items import data_fingerprints, read_items, require_same_data
from kit.models.backbones import check_backbones
from kit.runs import open_run, prepare_run
from kit.studies.pace import Workload, duration, steps_left
from kit.studies.study_runs import ablations, baselines, members
from kit.training.status import read_status

# fields that the study's own options set, or that distinguish members, baselines and ablations
RESERVED_FIELDS = {"study", "data", "text", "image", "recipe", "run", "system"}
RESERVED_FIELDS |= {"bilstm", "layer_weights", "coattention", "attention"}
PERIOD = 1  # seconds between two looks at the runs


@dataclass(frozen=True)
class Study:
    """What a study is to be made of.

    `values`: fields of every run, among them `study` and `data` · `texts`, `images`: backbones · `seeds`: runs per
    ablation · `jobs`: trainings at once · `processes`: per training, 0: one per GPU · `again`: train finished runs
    again · `matched`: also train what tells co-attention's gain from fine-tuning's.
    """

    values: dict
    texts: list[str]
    images: list[str]
    seeds: int = 1
    jobs: int = 1
    processes: int = 0
    again: bool = False
    matched: bool = True

    @property
    def name(self) -> str:
        return self.values["study"]


class Plan:
    """The runs of a study, which of them are left to train, and how long that may take. `failed`: why some can't be
    made, by run or notebook.

    Raise KitError if no member's backbones can be loaded, or if existing runs were made with other settings or data.
    """

    def __init__(self, study: Study):
        self.study, values = study, study.values
        self.members = members(values, study.texts, study.images)
        rows = ablations(values, study.seeds)
        rows["full"][0] = self.members[0]
        self.groups = {
            "02_baselines": baselines(values, study.matched),
            "03_train": self.members,
            "04_ablations": [config for row in rows.values() for config in row if config != self.members[0]],
        }
        self.timed = {config.run: _timed(config) for config in self.configs}  # when each training began
        self.looking = threading.Lock()
        self.cannot = missing_backbones(self.configs)
        self.failed = dict(self.cannot)
        if all(config.run in self.cannot for config in self.members):
            raise KitError(next(iter(self.cannot.values())))
        self.workload = survey(self.configs, self.cannot, study.again)

    @property
    def configs(self) -> list[TrainConfig]:
        return [config for group in self.groups.values() for config in group]

    def left(self) -> list[TrainConfig]:
        return [config for config in self.configs if config.run not in self.cannot and not is_done(config)]

    def tell(self) -> None:
        print(f"{len(self.configs)} runs, {len(self.left())} of them to do:")
        for notebook, configs in self.groups.items():
            for config in configs:
                state = self.cannot.get(config.run) or ("finished" if is_done(config) else "to do")
                steps = 0 if state == "finished" else steps_left(config, self.workload.learned)
                print(f"  {notebook:<13} {config.run:<48} {f'{steps:,} steps' if steps else '':>14}  {state}")
        last = ", 07_submission" if self.workload.predicted else ""
        print(f"Then 05_ensemble, 06_error_analysis{last} and the report.")
        if self.left():
            print(self.estimate(), flush=True)

    @contextmanager
    def following(self) -> Iterator[None]:
        """Inside, a thread looks at the runs' folders every second."""
        ended = threading.Event()

        def follow() -> None:
            while not ended.wait(PERIOD):
                self.look()

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def look(self) -> None:
        """Record the pace of each training that has measured it since the last look, and print the new estimate."""
        with self.looking:
            for place, config in enumerate(self.configs, 1):
                if (began := _timed(config)) and began != self.timed[config.run]:
                    self.timed[config.run] = began
                    pace = read_status(open_run(config.run))["seconds_per_step"]
                    print(f"   run {place} of {len(self.configs)}, {config.run}: {pace:.3g} s per step", flush=True)
                    print(f"   {self.estimate()}", flush=True)

    def estimate(self) -> str:
        """Return a line on how long the runs that are left may take, `jobs` of them at a time."""
        seconds, measured = duration(left := self.left(), self.workload)
        return (
            f"{len(left)} runs left: about {in_words(seconds / self.study.jobs)}{'' if measured else ' (estimated)'}."
        )


def _timed(config: TrainConfig) -> str:
    """Return when the training began whose pace is in the run's folder, or "" if there is none."""
    status = read_status(open_run(config.run))
    return status.get("started", "") if "seconds_per_step" in status else ""


def missing_backbones(configs: list[TrainConfig]) -> dict[str, str]:
    """Return by run name why a run's backbones cannot be loaded here, for those that cannot."""
    sides, missing = {(side, getattr(config, side)): config for config in configs for side in config.sides}, {}
    for (side, name), config in sides.items():
        try:
            check_backbones(config, side)
        except KitError as error:
            missing[side, name] = str(error)
    return {
        config.run: missing[side, getattr(config, side)]
        for config in configs
        for side in config.sides
        if (side, getattr(config, side)) in missing
    }


def survey(configs: list[TrainConfig], cannot: Collection[str], again: bool) -> Workload:
    """Return the work that runs on one challenge folder are.

    `cannot`: the runs that cannot be made · `again`: forget the others that exist. Raise KitError if one was made with
    other settings or data.
    """
    able = [config for config in configs if config.run not in cannot]
    for config in configs if not again else []:
        run = open_run(config.run)
        if (run.finished or run.begun) and (changed := run.changes(config)):
            raise KitError(
                f"The run {run.name!r} exists with other settings than this study's ({', '.join(changed)}): give "
                f"the study another name (--study NAME), remove {run.folder}, or pass -p again True to train all again."
            )
    frames = read_items(max(configs, key=lambda config: len(config.sides)))[1]  # with all that any of them reads
    for config in able if again else []:
        prepare_run(config, again)
    finished = [config for config in configs if is_done(config)]
    fingerprints = data_fingerprints(frames) if finished else {}
    for config in finished:
        advice = "put back the old data, give the study another name, or pass -p again True to train everything again"
        require_same_data(open_run(config.run), fingerprints, advice)
    images = read_challenge(configs[0].data, False, False, images="ignore").images_per_item
    return Workload.of(frames["train"], len(frames["test"]), images)


def is_done(config: TrainConfig) -> bool:
    """Return whether a run of exactly this configuration is finished."""
    run = open_run(config.run)
    try:
        return run.finished and not run.changes(config)
    except KitError:
        return False
