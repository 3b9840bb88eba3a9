"""What one model that learns from a stack keeps of the stack's gain, on both shipped catalogues, one seed.

`python benchmarks/distillation.py` trains what is not trained yet (about 10 minutes of CPU), prints the table and
writes it to benchmarks/results/distillation.txt. The answers of the test part are read to report, never to choose.
"""

import dataclasses

import numpy as np
import pandas as pd
from accuracy import gain, out_of_fold, pooled, test_part
from measure import publish
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from kit.data.challenge import read_challenge
from kit.metrics import macro_f1
from kit.runs import prepare_run
from kit.stacking.ensemble import ensemble_config, stack
from kit.studies.best import rungs
from kit.studies.distil import student_config
from kit.studies.report import read_answers
from kit.training.launch import launch
from kit.training.teacher import TAUGHT

PAIR = ("e5_small", "efficientnet_lite0")
SHARES = (0.5, 1.0)  # of the target that is the teacher's
COMPARED = (
    ("stack", "best member"),
    ("student 0.5", "best member"),
    ("student 0.5", "stack"),
    ("student 0.5", "co-attention"),
    ("student 1.0", "co-attention"),
)
EXPLAIN = (
    "Macro-F1 in per cent. The stack by `best` (nested) is of TF-IDF, four light members and the co-attention model; "
    "`student 0.5` is that model with half of the target from the stack. Gains in points, paired on the same items, "
    "with 95 % intervals over items; the best member is that of the highest macro-F1 out of fold. `kept`: the gain on "
    f"the best member, as a share of the stack's. Of a student: {TAUGHT} Seconds: on a machine that had other work."
)


def leak(repeats: int = 40, items: int = 600, classes: int = 4) -> str:
    """Return a sentence on what a student scores out of fold if labels are pure noise: above chance, its teacher tells
    it the labels on which it is scored."""
    right: dict[float, list[float]] = {share: [] for share in (0.0, *SHARES)}
    for seed in range(repeats):
        random = np.random.default_rng(seed)
        X, y = random.normal(size=(items, 8)), random.integers(classes, size=items)
        folds = list(StratifiedKFold(5, shuffle=True, random_state=seed).split(X, y))
        soft = cross_val_predict(KNeighborsClassifier(3), X, y, cv=folds, method="predict_proba")
        for share, found in right.items():
            targets = (1 - share) * np.eye(classes)[y] + share * soft
            predicted = cross_val_predict(KernelRidge(kernel="rbf"), X, targets, cv=folds).argmax(1)
            found.append(float((predicted == y).mean()))
    told = ", ".join(f"{100 * np.mean(found):.1f} with share {share:g}" for share, found in right.items())
    return (
        f"Labels of pure noise, {classes} classes, {items} items, {repeats} repeats: a kernel ridge taught by three "
        f"nearest neighbours is right on this per cent of the items out of fold: {told} (chance: {100 / classes:.0f})."
    )


def main() -> None:
    rows: list[dict] = []
    gains: dict[str, list] = {}
    for catalogue in ("shop", "emoji"):
        study, data = f"distil-{catalogue}", f"data/{catalogue}"
        ladder = rungs(study, {"data": data, "recipe": "demo"}, [PAIR], [PAIR], seeds=1)
        members = [prepare_run(config) for rung in ladder for config in rung.configs]
        launch(members)
        teacher = stack(dataclasses.replace(ensemble_config([run.name for run in members], "all", study), run=study))
        students = {
            f"student {share}": prepare_run(
                student_config(teacher, {"run": f"{study}-student-{share}", "teacher_share": share})
            )
            for share in SHARES
        }
        launch(list(students.values()), jobs=2)
        best = next(run for run in members if run.name == teacher.summary["best_member"])
        runs = {"best member": best, "co-attention": members[-1], "stack": teacher} | students
        answers = read_answers(f"{data}_answers/Y_test.csv", read_challenge(data, images="ignore"))
        parts = {
            "out of fold": {name: out_of_fold([run]) for name, run in runs.items()},
            "test": {name: test_part([run], answers) for name, run in runs.items()},
        }
        for name, run in runs.items():
            row = {"catalogue": catalogue, "model": name}
            for part, told in parts.items():
                true, predicted, *_ = told[name]
                on_best, stacks = gain(told[name], told["best member"]), gain(told["stack"], told["best member"]).value
                kept = f"{on_best.value / stacks:.0%}" if name.startswith("student") and stacks > 0 else ""
                row |= {part: f"{100 * macro_f1(true, predicted[0]):.1f}", f"{part}, kept": kept}
                row[f"{part}, on the best member"] = "" if run is best else on_best
            rows.append(row | {"seconds": round(run.summary["seconds"])})
        for part, told in parts.items():
            for ours, theirs in COMPARED:
                gains.setdefault(f"{part}, {ours} on {theirs}", []).append(gain(told[ours], told[theirs]))
    both = "".join(f"  {name}: {pooled(several)}\n" for name, several in gains.items())
    text = f"{EXPLAIN}\n\n{pd.DataFrame(rows).to_string(index=False)}\n\nMean of both catalogues:\n{both}\n"
    text += f"{leak()}\n"
    publish("distillation", text)


if __name__ == "__main__":
    main()
