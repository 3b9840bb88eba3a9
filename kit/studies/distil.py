"""One model that learns from a stack, to predict at one model's cost (`kit.training.teacher`)."""

import argparse
import dataclasses

from kit.analysis.estimates import from_summary
from kit.config import OWN, TrainConfig, bounded_name, train_config
from kit.core.exceptions import KitError
from kit.data.challenge import read_sides
from kit.runs import EnsembleRun, Run, open_run, open_training, prepare_run
from kit.stacking.members import is_current, open_members
from kit.studies.pipeline import read_run_fields
from kit.submission import check_test_items
from kit.training.launch import launch
from kit.training.teacher import teacher_fingerprint

# what decides on which items a run trains and is scored, or what faults they may have: the student's are its teacher's
ITEMS = (
    "data",
    "limit",
    "folds",
    "split",
    "val_share",
    "split_seed",
    "clean_titles",
    "clean_descriptions",
    "missing",
    "corrupt",
)
PAIR = ("recipe", "text", "image", "pretrained")


def student_config(teacher: Run, values: dict) -> TrainConfig:
    """Return the configuration of the run that learns from `teacher`; `values` are fields that differ.

    It is that of the teacher's best co-attention member. If it has none, or another recipe is asked for, the recipe
    makes it, on the items and backbones of the teacher's first member that has any; of items with one side,
    it reads that side.
    """
    members = (
        open_members(teacher.config.members) if isinstance(teacher, EnsembleRun) else [open_training(teacher.name)]
    )
    best = max(members, key=lambda run: (run.config.system == "coattention", run.summary["macro_f1"])).config
    run = {"run": bounded_name(f"{teacher.name}-student"), "study": best.study, "teacher": teacher.name}
    if best.system == "coattention" and "recipe" not in values:
        return dataclasses.replace(best, **run | values)
    first = {name: getattr(members[0].config, name) for name in ITEMS}
    if pairs := [run.config for run in members if run.config.system != OWN]:
        first |= {name: getattr(pairs[0], name) for name in PAIR}
    elif not {"text", "image"} <= values.keys():
        raise KitError(f"{teacher.name!r} has no member with backbones: name the student's with -p text and -p image.")
    sides = read_sides(first["data"])
    return train_config(**first | run | ({"system": sides[0]} if len(sides) == 1 else {}) | values)


def distil(options: argparse.Namespace) -> None:
    """Train the student as `kit.studies.options:add_distil` describes it.

    Raise KitError if the two do not fit together, or the teacher is out of date or changed since the student learned.
    """
    values, teacher = read_run_fields(options.p, again=bool), open_run(options.teacher)
    teacher.require()
    again = values.pop("again", False)
    if isinstance(teacher, EnsembleRun) and not is_current(teacher):
        raise KitError(f"Members of {teacher.name!r} were trained again or are gone: stack it again with 05_ensemble.")
    run = prepare_run(student_config(teacher, values), again)
    if run.finished and run.summary["teacher_identity"] != teacher_fingerprint(teacher.name):
        raise KitError(f"{teacher.name!r} changed since {run.name!r} learned from it: pass -p again True.")
    if run.finished:
        check_test_items(run)
    launch([run])
    print(f"{run.name}: macro-F1 {from_summary(run, 'macro_f1')}. {run.summary['warning']}")
