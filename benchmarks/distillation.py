"""What one model that learns from a stack keeps of the stack's gain, on both shipped catalogues, one seed.

`python benchmarks/distillation.py` trains what is not trained yet (about 15 minutes of CPU), prints the table and
writes it to benchmarks/results/distillation.txt. The answers of the test part are read to report, never to choose.
"""

import dataclasses
import os
import platform

import numpy as np
import pandas as pd
from accuracy import RESULTS, gain, out_of_fold, pooled, test_part
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from kit.core.files import write_text
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
EXPLAIN = (
    "Macro-F1 in per cent. The stack by `best` (nested) is of TF-IDF, four light members and the co-attention model; "
    "the students are that model, with a share of the target from the stack. Gains in points, paired on the same "
    "items, with 95 % intervals over items; the best member is that of the highest macro-F1 out of fold. `kept`: the "
    f"gain on the best member, as a share of the stack's. Of a student: {TAUGHT} Epochs: those that held-out items "
    "chose, per fold. Seconds: on a machine that had other work."
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
        f"Labels of pure noise, {classes} classes, {items} items, {repeats} repeats: a kernel ridge taught by three nearest "
        f"neighbours is right on this per cent of the items out of fold: {told} (chance: {100 / classes:.0f})."
    )


def main() -> None:
    rows, gains = [], {}
    for catalogue in ("shop", "emoji"):
        study, data = f"distil-{catalogue}", f"data/{catalogue}"
        ladder = rungs(study, {"data": data, "recipe": "demo"}, [PAIR], seeds=1)
        members = [prepare_run(config) for rung in ladder for config in rung.configs]
        launch(members)
        teacher = stack(dataclasses.replace(ensemble_config([run.name for run in members], "all", study), run=study))
        names = {share: f"{study}-student-{share}" for share in SHARES}
        students = {
            f"student, share {share}": prepare_run(student_config(teacher, {"run": name, "teacher_share": share}))
            for share, name in names.items()
        }
        launch(list(students.values()))
        plain, best = members[-1], next(run for run in members if run.name == teacher.summary["best_member"])
        answers = read_answers(f"{data}_answers/Y_test.csv", read_challenge(data, images="ignore"))
        parts = {"out of fold": out_of_fold, "test": lambda runs, answers=answers: test_part(runs, answers)}
        kinds = {f"best member ({best.config.system})": best, "co-attention": plain, "stack": teacher} | students
        for name, run in kinds.items():
            row = {"catalogue": catalogue, "model": name}
            for part, read in parts.items():
                true, predicted = read([run])
                on_best = gain(read([run]), read([best]))
                of_stack = gain(read([teacher]), read([best])).value
                row |= {part: f"{100 * macro_f1(true, predicted[0]):.1f}"}
                row |= {f"{part}, on the best member": "" if run is best else on_best}
                row |= {f"{part}, kept": f"{on_best.value / of_stack:.0%}" if run is not best and of_stack > 0 else ""}
                row |= {f"{part}, on co-attention": "" if run is plain else gain(read([run]), read([plain]))}
                if name in ("stack", *students):
                    for other, reference in (("best member", best), ("co-attention", plain), ("stack", teacher)):
                        gains.setdefault((name, part, other), []).append(gain(read([run]), read([reference])))
            row["epochs"] = " ".join(map(str, run.summary.get("kept_epochs", [])))
            rows.append(row | {"seconds": round(run.summary["seconds"])})
    both = [
        f"  {name}, {part}, on the {other}: {pooled(several)}"
        for (name, part, other), several in gains.items()
        if name != other
    ]
    text = (
        f"{EXPLAIN}\n\n{pd.DataFrame(rows).to_string(index=False)}\n\nMean of both catalogues:\n{chr(10).join(both)}\n"
    )
    text += f"{leak()}\n"
    text += f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n"
    print(text)
    write_text(RESULTS / "distillation.txt", text)


if __name__ == "__main__":
    main()
