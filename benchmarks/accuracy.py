"""How accurate each model and each stack is on the shipped catalogues: three grouped folds, three seeds.

`python benchmarks/accuracy.py` trains what is not trained yet (over five hours of one core, of which the paper's recipe
takes more than two), prints the tables and writes them to benchmarks/results/accuracy.txt. With `--folds 5` it leaves
out whole fine-tuned backbones and writes accuracy_5.txt: other folds, and each model learns from more items. With
`--unseen` it measures the same on clip art (make it first: data/build_clipart.py), without whole fine-tuned backbones:
recipes, rules and members were chosen on the shipped catalogues before it was there. The answers of the test part are
read to report, never to choose.

N items · S seeds
"""

import argparse
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import pandas as pd
from measure import DEMO, UNSEEN, publish

from kit.analysis.calibration import certainty
from kit.analysis.estimates import READING, Answers, Estimate, macro_f1_of
from kit.config import train_config
from kit.data.challenge import read_challenge
from kit.metrics import calibration_error, macro_f1, scores
from kit.runs import Run, prepare_run
from kit.stacking.ensemble import ensemble_config, stack
from kit.studies.report import read_answers
from kit.training.launch import launch

SMALLER = {"image_size": 224, "max_tokens": 64, "split": "grouped"}
FOLDS = 3  # the demo's
CATALOGUES, SEEDS = ("shop", "emoji"), (0, 1, 2)
SYSTEMS = {
    "tfidf": {"system": "tfidf"},
    "text alone": {"system": "text"},
    "image alone": {"system": "image"},
    "text probe": {"system": "logistic_text"},
    "image probe": {"system": "logistic_image"},
    "probe": {"system": "logistic"},
    "neighbours": {"system": "neighbours"},
    "dot": {"system": "dot"},
    "bilinear": {"system": "bilinear"},
    "concat": {"system": "concat"},
    "even attention": {"coattention": False},
    "co-attention": {},
    # the trainings of `kit best` on a laptop
    "two layers of text": {"system": "text", "train_text_layers": 2},
    "co-attention, two layers of text": {"train_text_layers": 2},
    "fine-tuned text": {"system": "text", "freeze_text": False},
    "fine-tuned co-attention": {"freeze_text": False},
    # the paper's but for smaller inputs, which a CPU can train on, and the folds of all rows
    "paper recipe": {"recipe": "paper", "keep": "last"} | SMALLER,
}
NO_SEED = ("tfidf", "text probe", "image probe", "probe", "neighbours")
SECOND = {f"second {name}": SYSTEMS[name] | {"text": "minilm", "image": "efficientnet_lite2"} for name in NO_SEED[1:]}
SLOW = ("fine-tuned text", "fine-tuned co-attention", "paper recipe")  # only with FOLDS folds
ONE_SEED = (*NO_SEED, *SECOND, *SLOW[1:])
STACKED = (*NO_SEED, "text alone", "image alone", "concat", "co-attention")
LADDER = {  # what each rung of `kit best` adds with the recipe laptop
    "tfidf": ("tfidf",),
    "+ neighbours and the probes: the light members": NO_SEED[1:],
    "+ the text alone, two layers trained": ("two layers of text",),
    "+ co-attention, two layers of text trained": ("co-attention, two layers of text",),
    "+ the light members on MiniLM and Lite2": tuple(SECOND),
}
METHODS = ("network", "logistic", "blend", "greedy", "best")
EXPLAIN = (
    "Out of fold: mean of the seeds; stacks are nested, and each seed stacks that seed's members "
    f"({', '.join(STACKED)}). Gain: on the probe, and for stacks on the member that is best out of fold in the mean of "
    "the seeds. Log-loss in nats and expected calibration error (ECE) in per cent, out of fold. Attention: mean total "
    "variation from even attention on words and on regions, 0 to 1, and the share of predictions that even attention "
    "in its place would change. Seconds: of one run, on a machine that had other work. Two layers of text: the text "
    "backbone's top two are trained. Fine-tuned: the whole text backbone is; co-attention so with one seed. Paper "
    "recipe: co-attention with both backbones fine-tuned, one seed; the paper's settings, but 224 pixels, 64 tokens, "
    "these folds, the last epoch. The ladder: each row adds members to those above it, but for a last one that says "
    "its own; each seed stacks that seed's, and the rows are means of the three."
)


def runs_of(catalogue: str, system: str, folds: int) -> list[Run]:
    """Return the system's runs on a catalogue, one per seed."""
    name = f"accuracy{'' if folds == FOLDS else folds}-{catalogue}-{system.replace(',', '').replace(' ', '-')}"
    values = DEMO | (SYSTEMS | SECOND)[system] | {"data": f"data/{catalogue}", "folds": folds, "curve": False}
    seeds = SEEDS[:1] if system in ONE_SEED else SEEDS
    return [prepare_run(train_config(**values, seed=seed, run=f"{name}-s{seed}")) for seed in seeds]


def stacks_of(label: str, runs: dict[str, list[Run]], method: str, systems: Sequence[str] = STACKED) -> list[Run]:
    """Return a stack of each seed's runs of the systems; of a system without seeds it is the same run in all."""
    members = [[runs[system][seed % len(runs[system])].name for system in systems] for seed in SEEDS]
    return [stack(ensemble_config(names, f"{label}{i}", method=method)) for i, names in enumerate(members)]


def ladder(catalogue: str, runs: dict[str, list[Run]], answers: Answers) -> pd.DataFrame:
    """Return the nested score of the stack by `best` after each rung, its gain on the best of its members out of fold,
    and its score on the test part; last, with the whole text fine-tuned in place of two layers."""
    groups = dict(zip(LADDER, accumulate(LADDER.values()), strict=True))
    if SLOW[0] in runs:
        groups["the light members and the text alone, fine-tuned"] = (*NO_SEED, SLOW[0])
    rows = []
    for label, members in groups.items():
        stacks = stacks_of(f"{catalogue}-{len(members)}-", runs, "best", members)
        true, predicted, together = known = out_of_fold(stacks)
        best = max(members, key=lambda system: score_of(runs[system]))
        gained = gain(known, out_of_fold(runs[best])) if len(members) > 1 else ""
        score = macro_f1_of(true, predicted, groups=together)
        row = {"members": label, "out of fold": score, "gain on the best of them": gained, "best of them": best}
        rows.append(row | {"test": mean_score(*test_part(stacks, answers))})
    return pd.DataFrame(rows)


def mean_score(true: np.ndarray, predicted: np.ndarray) -> str:
    """Return in per cent the mean macro-F1 of predictions `[S, N]`."""
    return f"{100 * np.mean([macro_f1(true, row) for row in predicted]):.1f}"


def score_of(runs: list[Run]) -> float:
    """Return macro-F1 out of fold, the mean of the seeds."""
    return float(np.mean([run.summary["macro_f1"] for run in runs]))


def moved(runs: list[Run]) -> str:
    """Return how far attention is from even on words and regions, and what share of predictions that changes."""
    found = [run.summary["attention"] for run in runs if "attention" in run.summary]
    if not found:
        return ""
    text, image = (np.mean([one[side]["variation"] for one in found]) for side in ("text", "image"))
    return f"{text:.3f}, {image:.3f}; {100 * np.mean([one['both']['changed'] for one in found]):.1f} %"


def out_of_fold(runs: list[Run]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the true codes `[N]` in the order of ids, what each run predicts `[S, N]`, and the groups `[N]`."""
    frames = [run.read_oof() for run in runs]
    items = frames[0][0].sort_index()
    predicted = [values.idxmax(axis=1).loc[items.index].to_numpy() for _, values in frames]
    return items["label"].to_numpy(), np.stack(predicted), items["group"].to_numpy()


def test_part(runs: list[Run], answers: Answers) -> tuple[np.ndarray, np.ndarray]:
    """Return the answers `[N]` of the test part in the order of ids, and what each run predicts `[S, N]`."""
    codes = answers.codes.sort_index()
    means = [run.read_test()[1].droplevel("split").loc[codes.index] for run in runs]
    return codes.to_numpy(), np.stack([mean.idxmax(axis=1).to_numpy() for mean in means])


def gain(ours: tuple[np.ndarray, ...], theirs: tuple[np.ndarray, ...]) -> Estimate:
    true, predicted, *groups = ours
    return macro_f1_of(true, predicted, theirs[1], *groups)


def pooled(gains: list[Estimate]) -> Estimate:
    """Return the mean of gains on separate items, with an interval from their standard errors (normal)."""
    value, error = np.mean([one.value for one in gains]), 0.0
    for one in gains:
        error += ((one.high - one.low) / (2 * 1.96 * len(gains))) ** 2
    half = 1.96 * error**0.5
    return Estimate(float(value), float(value - half), float(value + half), True)


def calibration(runs: list[Run]) -> tuple[float, float]:
    """Return log-loss and expected calibration error out of fold, means of the runs."""
    found = []
    for run in runs:
        frame, codes, values = run.predictions("oof")
        labels = pd.Index(codes).get_indexer(frame["label"])
        found.append((scores(values, labels)["loss"], calibration_error(*certainty(run))))
    return tuple(np.mean(found, axis=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", type=int, default=FOLDS)
    parser.add_argument("--unseen", action="store_true", help=f"on data/{UNSEEN}")
    args = parser.parse_args()
    folds, catalogues = args.folds, (UNSEEN,) if args.unseen else CATALOGUES
    tables, own, moves = [], [], {"out of fold": [], "test": []}
    for catalogue in catalogues:
        left_out = () if folds == FOLDS and catalogue != UNSEEN else SLOW
        runs = {system: runs_of(catalogue, system, folds) for system in SYSTEMS | SECOND if system not in left_out}
        launch([run for several in runs.values() for run in several])
        challenge = read_challenge(f"data/{catalogue}", images="ignore")
        answers = read_answers(f"data/{catalogue}_answers/Y_test.csv", challenge)
        best = max(STACKED, key=lambda system: score_of(runs[system]))
        rows = {system: runs[system] for system in SYSTEMS if system in runs}
        rows |= {f"stack: {method}": stacks_of(catalogue, runs, method) for method in METHODS}
        own.append(gain(out_of_fold(runs["co-attention"]), out_of_fold(runs["even attention"])))
        table = []
        for name, several in rows.items():
            values = [100 * run.summary["macro_f1"] for run in several]
            reference = best if name.startswith("stack") else "probe"
            known, tested = out_of_fold(several), test_part(several, answers)
            loss, error = calibration(several)
            gains = [gain(known, out_of_fold(runs[reference])), gain(tested, test_part(runs[reference], answers))]
            if name == "stack: best":
                for part, one in zip(moves, gains, strict=True):
                    moves[part].append(one)
            table.append(
                {
                    "system": name,
                    "out of fold": f"{np.mean(values):.1f}",
                    "seeds": " ".join(f"{value:.1f}" for value in values),
                    "gain": "" if name == reference else gains[0],
                    "test": mean_score(*tested),
                    "gain, test": "" if name == reference else gains[1],
                    "log-loss": f"{loss:.3f}",
                    "ECE": f"{100 * error:.1f}",
                    "attention": moved(several),
                    "seconds": round(np.mean([run.summary["seconds"] for run in several])),
                }
            )
        sizes = f"{len(challenge.train)} training items, {len(challenge.classes)} classes, {folds} folds"
        systems, rungs = (f.to_string(index=False) for f in (pd.DataFrame(table), ladder(catalogue, runs, answers)))
        tables.append(f"data/{catalogue}: {sizes}; best member: {best}\n\n{systems}\n\n{rungs}\n")
    both = "; ".join(f"{part} {pooled(gains)}" for part, gains in moves.items())
    text = f"{READING}\n{EXPLAIN}\n\n{chr(10).join(tables)}\n"
    whole = " and ".join(f"data/{catalogue}" for catalogue in catalogues)
    text += f"{whole}, mean gain of the stack by `best` on the best member: {both}\n"
    text += f"{whole}, mean gain of co-attention on even attention out of fold: {pooled(own)}\n"
    name = "accuracy" + f"_{UNSEEN}" * args.unseen + f"_{folds}" * (folds != FOLDS)
    publish(name, text)


if __name__ == "__main__":
    main()
