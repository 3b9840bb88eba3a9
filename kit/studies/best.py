"""The best submission that the time allows: a ladder of members, of which each rung leaves a valid submission.

The first rung is the text alone (TF-IDF), or the images if there is no text; then come light members on frozen
features, and trainings, in the order of the gain that is expected per minute. After each rung all finished members are
stacked by the method `best`, which includes its best member alone. All that a rung leaves is run folders and the
submission, so the same command resumes.
"""

import argparse
import math
import signal
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product

from kit.analysis.estimates import from_summary
from kit.config import (
    LIGHT,
    LIGHT_PAIRS,
    PAIRS,
    SYSTEMS,
    TrainConfig,
    bounded_name,
    check_name,
    short_names,
    split_names,
    train_config,
    unused,
)
from kit.core.console import in_words
from kit.core.exceptions import KitError
from kit.core.paths import submissions_folder
from kit.data.challenge import read_sides
from kit.data.items import challenge_of
from kit.runs import EnsembleRun, Run, TrainingRun, open_run, prepare_run
from kit.stacking.ensemble import ensemble_config, stack
from kit.studies.choice import choose, expectation
from kit.studies.pace import duration, steps_left
from kit.studies.pipeline import read_fields
from kit.studies.plan import is_done, missing_backbones, survey
from kit.studies.study_runs import is_frozen, usable_systems
from kit.submission import read_predictions, write_submission
from kit.training.launch import launch

LIGHT_MEMBERS = ("logistic_text", "neighbours", "logistic_image", "logistic")
TRAININGS = ("text", "coattention")
NAMES = {"text": "text alone", "image": "image alone", "coattention": "co-attention"}
Pairs = list[tuple[str, str]]  # backbones: text, image
# Macro-F1 points that a rung is expected to add, which decide only the order; of a training with backbones that are
# frozen but for a few layers, and of one that fine-tunes them.
LIGHT_GAINS = 5.0, 0.5  # of the first pair, of further ones
GAINS = {"text": (0.5, 2.0), "image": (0.5, 2.0), "coattention": (0.1, 3.5)}
LEAST = 60.0  # seconds that are worth beginning a training in
AGAIN = 0.5  # share of a training's gain that the next pair still has; the next seed has its square


class TimeUp(KeyboardInterrupt):
    """The ladder's minutes are over."""


@dataclass(frozen=True)
class Rung:
    """The runs that one step of the ladder adds, and the gain that is expected of them."""

    name: str
    configs: list[TrainConfig]
    gain: float

    @property
    def todo(self) -> list[TrainConfig]:
        return [config for config in self.configs if not is_done(config)]


def rungs(study: str, values: dict, light: Pairs, trained: Pairs, seeds: int) -> list[Rung]:
    """Return the rungs that read what the items have, first the text alone, or the images if there is no text.

    Beside co-attention the text is trained alone, and the image if there is no text, but only with layers of its
    backbone: on frozen features the probe is as good.

    `values`: parameters of `kit.config.train_config` · `light`, `trained`: the pairs of backbones (text, image) that
    light members and trainings read · `seeds`: trainings of each model.
    """
    check_name(study)
    if seeds < 0:
        raise KitError(f"seeds={seeds} is too small: it must be at least 0.")
    short = [short_names(dict.fromkeys(pair[side] for pair in [*light, *trained])) for side in (0, 1)]

    def config(system: str, pair: tuple[str, str], **changes) -> TrainConfig:
        """Return a run's configuration; its name has the backbones that it reads."""
        names = {"text": short[0][pair[0]], "image": short[1][pair[1]]}
        label = "-".join([system, *(names[side] for side in SYSTEMS[system]), *map(str, changes.values())])
        run = {"study": study, "run": bounded_name(f"{study}-{label}"), "system": system}
        return train_config(**values | run | unused(system) | {"text": pair[0], "image": pair[1]} | changes)

    def title(kind: str, pair: tuple[str, str], read: Collection[str]) -> str:
        return f"{kind} {' × '.join(short[i][pair[i]] for i, side in enumerate(('text', 'image')) if side in read)}"

    sides = read_sides(train_config(**values).data)
    first, *_ = usable_systems(("tfidf", "logistic_image"), sides)
    ladder = [Rung(first, [config(first, light[0])], 0.0)]
    seen = {config.run for config in ladder[0].configs}
    for place, pair in enumerate(light):
        members = [config(system, pair) for system in usable_systems(LIGHT_MEMBERS, sides)]
        members = [one for one in members if one.run not in seen]  # another pair may have the same text or image
        seen |= {one.run for one in members}
        if members:
            ladder.append(Rung(title("light", pair, sides), members, LIGHT_GAINS[place > 0]))
    systems = usable_systems(TRAININGS if "text" in sides else ("image",), sides)
    for place, number, system in product(range(len(trained)), range(seeds), systems):
        training = config(system, trained[place], seed=values.get("seed", 0) + number)
        if training.run in seen or (is_frozen(training) and system != "coattention"):
            continue
        seen.add(training.run)
        name = f"{title(NAMES[system], trained[place], training.sides)}, seed {training.seed}"
        gain = GAINS[system][training.frozen != training.sides] * AGAIN ** (place + 2 * number)
        ladder.append(Rung(name, [training], gain))
    return ladder


class Ladder:
    """The rungs on one challenge folder, in the order of the gain per minute.

    Without items to predict, the stack is made all the same, for `kit predict`. Raise KitError if existing runs were
    made with other settings or data.
    """

    def __init__(self, study: str, values: dict, light: Pairs, trained: Pairs, seeds: int, again: bool):
        self.study, self.started = study, time.monotonic()
        self.resume = f"the same command resumes{' without -p again True' * again}"
        self.submitted: Run | None = None
        ladder = rungs(study, values, light, trained, seeds)
        if isinstance(open_run(study), TrainingRun):
            raise KitError(f"The run {study!r} is a training, and the study's stack would have its name: pass --study.")
        self.configs = [config for rung in ladder for config in rung.configs]
        self.cannot = missing_backbones(self.configs)
        self.workload = survey(self.configs, self.cannot, again)
        able = [replace(rung, configs=[c for c in rung.configs if c.run not in self.cannot]) for rung in ladder]
        if not (able := [rung for rung in able if rung.configs]):
            raise KitError(next(iter(self.cannot.values())))
        self.rungs = [able[0], *sorted(able[1:], key=lambda rung: -rung.gain / max(self.duration(rung.configs)[0], 1))]

    def duration(self, configs: list[TrainConfig]) -> tuple[float, bool]:
        return duration(configs, self.workload)

    @property
    def minutes(self) -> float:
        return (time.monotonic() - self.started) / 60

    def tell(self) -> None:
        """Print the plan."""
        total, configs = 0.0, []
        for place, rung in enumerate(self.rungs, 1):
            state = "finished"
            if rung.todo:
                configs += rung.todo
                measured, before = self.duration(rung.todo)[1], total
                total = self.duration(configs)[0]  # rungs share features
                seconds = total - before
                steps = sum(steps_left(config, self.workload.learned) for config in rung.todo)
                state = f"{steps:,} steps, " * bool(steps) + in_words(seconds) + " (estimated)" * (not measured)
            print(f"  {place:>2}  {rung.name:<60} {state}")
        if self.cannot:
            print(f"  left out, because their backbones cannot be loaded: {', '.join(self.cannot)}")
            print(f"  {next(iter(self.cannot.values()))} (Here the options are --texts, --images and --recipe.)")
        if left_out := self._no_longer_stacked():
            print(f"  no longer stacked, because these options do not name them: {', '.join(left_out)}")
        print(f"In all about {in_words(total)}, without stacking and features that are in the cache.", flush=True)

    def _no_longer_stacked(self) -> list[str]:
        """Return the finished members of the study's stack that are in no rung."""
        last, planned = open_run(self.study), {config.run for config in self.configs}
        members = last.config.members if last.finished and isinstance(last, EnsembleRun) else ()
        return [name for name in members if name not in planned and open_run(name).finished]

    def climb(self, max_minutes: float | None) -> dict[str, str]:
        """Climb as far as the minutes allow, the first rung in any case; return why rungs failed, by name.

        Minutes that are left at the end go to the first training that did not fit, which saves its state: one that
        takes longer than all the minutes gets done over several calls. Raise KitError if not even the first rung can be
        made.
        """
        failed: dict[str, str] = {}
        end = math.inf if max_minutes is None else max_minutes
        if done := [rung for rung in self.rungs if not rung.todo]:
            self.submit(f"{len(done)} of {len(self.rungs)} rungs, finished already")
        too_long = []
        for place, rung in enumerate(self.rungs, 1):
            if not rung.todo:
                continue
            label, left = f"{place:>2}  {rung.name}", math.inf if place == 1 else 60 * (end - self.minutes)
            seconds, measured = self.duration(rung.todo) if left < math.inf else (0.0, True)
            if seconds > left:
                needed = in_words(seconds) + " (estimated)" * (not measured)
                print(f"{label}: left out, it needs {needed} and {in_words(max(left, 0))} are left", flush=True)
                too_long.append((label, rung))
                continue
            self._make(label, rung, left, failed)
            if failed and place == 1:
                raise KitError(failed[rung.name])
        for label, rung in too_long:
            left = 60 * (end - self.minutes)
            if any(config.system not in LIGHT for config in rung.todo) and left > LEAST:
                self._make(f"{label}, in the {in_words(left)} that are left", rung, left, failed)
        return failed

    def _make(self, label: str, rung: Rung, left: float, failed: dict[str, str]) -> None:
        """Make a rung, for `left` seconds at most, and submit; record in `failed` why it failed."""
        try:
            with limited(left if left < math.inf else None):
                launch([prepare_run(config) for config in rung.todo])
        except TimeUp:
            print(f"{label}: stopped when the time was over, {self.resume}", flush=True)
        except KitError as error:
            failed[rung.name] = str(error)
            print(f"{label}: failed: {error}", flush=True)
        if any(is_done(config) for config in self.configs):
            self.submit(label)

    def submit(self, label: str) -> None:
        """Stack all finished members, write the submission and print a line about it."""
        names = [config.run for config in self.configs if is_done(config)]  # the rungs' order may change
        run = stack(replace(ensemble_config(names, "members", self.study), run=self.study))
        choose(run)
        folder = run.folder
        if self.workload.predicted:
            folder = submissions_folder() / self.study
            write_submission(read_predictions(run.folder), challenge_of(run, images="leave"), folder)
        score = from_summary(run, "macro_f1")
        count = f"{len(names)} member{'s' * (len(names) > 1)}"
        print(f"{label}: macro-F1 {score}, {count}, {self.minutes:.1f} min → {folder}", flush=True)
        self.submitted = run


@contextmanager
def limited(seconds: float | None) -> Iterator[None]:
    """Raise TimeUp inside after so many seconds (None: never); a training that is launched there saves its state."""

    def end(*_) -> None:
        raise TimeUp

    usual = signal.signal(signal.SIGALRM, end)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0 if seconds is None else max(seconds, 0.001))
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, usual)


def run_ladder(options: argparse.Namespace) -> int:
    """Climb the ladder as `kit.studies.options:add_best` describes it; return the exit status."""
    values = read_fields(options.p, again=bool) | {"data": options.data, "recipe": options.recipe}
    again = values.pop("again", False)
    if options.max_minutes is not None and not 0 <= options.max_minutes < math.inf:
        raise KitError(f"max_minutes={options.max_minutes} is not a number of minutes: leave it out for no limit.")
    train_config(**values)  # refuses an unknown recipe
    texts, images = split_names(options.texts), split_names(options.images)
    trained = PAIRS[options.recipe]
    light = LIGHT_PAIRS.get(options.recipe, trained)
    if texts or images:
        texts, images = texts or [text for text, _ in trained], images or [image for _, image in trained]
        count = max(len(texts), len(images))
        light = trained = [*dict.fromkeys((texts[i % len(texts)], images[i % len(images)]) for i in range(count))]
    ladder = Ladder(options.study, values, light, trained, options.seeds, again)
    ladder.tell()
    try:
        failed = ladder.climb(options.max_minutes)
    except KeyboardInterrupt:
        print(f"\nInterrupted: {ladder.resume}.", file=sys.stderr)
        return 130
    if ladder.submitted and (sentence := expectation(ladder.submitted)):
        print(sentence)
    if ladder.cannot:
        print(f"{len(ladder.cannot)} runs were left out, because their backbones cannot be loaded here (see above).")
    for name, sentence in failed.items():
        print(f"FAILED {name}: {sentence}", file=sys.stderr)
    return int(bool(failed))
