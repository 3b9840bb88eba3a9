"""The paper's tables beside those of a study; each row names its runs.

All scores are in per cent. Intervals are 95 % bootstraps over items; differences are paired on the same items.
"""

from typing import Any

import numpy as np
import pandas as pd

from kit.analysis.errors import Errors, welch
from kit.analysis.estimates import Answers, Estimate, estimate, from_summary, gain
from kit.config import TrainConfig
from kit.core.console import in_words
from kit.core.paths import resolve
from kit.runs import EnsembleRun, Run, TrainingRun, open_run, open_training
from kit.stacking.members import is_current
from kit.studies.paper_numbers import (
    PAPER_ABLATIONS,
    PAPER_ALL,
    PAPER_ENSEMBLES,
    PAPER_MODELS,
    PAPER_WELCH,
    paper_change,
)
from kit.studies.study_runs import (
    ABLATIONS,
    BASELINES,
    MATCHED,
    ablation,
    backbone_names,
    baseline,
    is_frozen,
    member_runs,
    resolved_backbones,
    study_runs,
)

GAINS = "co-attention gains"
OWN_GAIN = "co-attention itself gains"


def models(study: str, answers: Answers | None = None) -> pd.DataFrame:
    """Return table 1: the co-attention model on each pair of backbones."""
    rows = []
    for name, (text, image) in member_runs(study).items():
        rows.append({"image": image, "text": text, **_scores(open_run(name), answers)})
        rows[-1] |= {"paper": _paper(PAPER_MODELS.get((image, text))), "run": name}
    return pd.DataFrame(rows)


def baselines(study: str, answers: Answers | None = None) -> pd.DataFrame:
    """Return the fusions, each side alone, the light references, the runs that separate fine-tuning from co-attention,
    and the member, all on the same backbones: of several pairs, one that has a member, with the most rows.
    """
    configs = {run.name: run.config for run in study_runs(study) if isinstance(run, TrainingRun)}
    named = {name: baseline(config) or "" for name, config in configs.items()}
    row_of = {name: row for name, row in named.items() if row in (*BASELINES, *MATCHED)}
    members = member_runs(study)

    def beside(name: str) -> dict[str, str]:
        """Return by row the newest run that reads no other backbones than the run of that name."""
        return {row: other for other, row in row_of.items() if _reads_alike(configs[other], configs[name])}

    def rank(name: str) -> tuple[bool, bool, int]:
        others = beside(name).values()
        return any(configs[other].sides for other in others), name in members, len(others)

    first = max([*members, *row_of], key=rank, default="")
    systems = beside(first) if first else {}
    names = {row: systems[row] for row in (*BASELINES, *MATCHED) if row in systems}
    names |= {"co-attention": first} if names and first in members else {}
    rows = []
    for system, name in names.items():
        row = {"system": system, **_scores(run := open_training(name), answers)}
        if first in members:
            row[GAINS] = "" if name == first else gain([open_training(first)], [run])
        rows.append(row | {"run": name})
    return pd.DataFrame(rows)


def own_gain(compared: pd.DataFrame) -> pd.DataFrame:
    """Return what co-attention itself gains: its score and that of `concat`, both with fine-tuned or both with frozen
    backbones, from the table of `baselines`."""
    if compared.empty:
        return compared
    runs = {row: open_training(name) for row, name in zip(compared["system"], compared["run"], strict=True)}
    model, rows = runs.get("co-attention"), []
    alike = bool(model and is_frozen(model.config))
    pairs = {"fine-tuned": (None if alike else model, runs.get(MATCHED[0]))}
    pairs["frozen"] = model if alike else runs.get(MATCHED[1]), runs.get("concat")
    for backbones, (ours, concat) in pairs.items():
        if ours and concat:
            scores = {"co-attention": from_summary(ours, "macro_f1"), "concat": from_summary(concat, "macro_f1")}
            rows.append({"backbones": backbones, **scores, OWN_GAIN: gain([ours], [concat])})
    return pd.DataFrame(rows)


def explain_own_gain(compared: pd.DataFrame) -> str:
    """Return what `own_gain` compares, and why the gain over the fusions is another question; or what is lacking."""
    if "concat" not in set(compared.get("system", ())):
        return "Nothing to compare: the study has no run of `concat`, which reads texts and images."
    text = "What co-attention itself gains: its score minus that of `concat`, with the same backbones on both sides."
    model = next((open_training(row.run) for row in compared.itertuples() if row.system == "co-attention"), None)
    if not model:
        return (
            "Nothing to compare yet: train the model with 03_train and this study's name, then run this notebook again."
        )
    if not is_frozen(model.config):
        text += (
            " The gain over the frozen fusions, which is the paper's comparison, mixes it with what fine-tuning gains."
        )
        if not set(MATCHED) <= set(compared["system"]):
            text += " Runs are missing: 02_baselines trains them with matched True."
    return text


def ablations(study: str) -> pd.DataFrame:
    """Return table 2: each ablation's mean over seeds, and its difference from the full model on the same items and
    seeds.
    """
    rows_of = {run: ablation(run.config) for run in study_runs(study) if isinstance(run, TrainingRun)}
    ablated = [run.config for run, row in rows_of.items() if row and row != "full"]
    pair = next(map(resolved_backbones, ablated), None)
    seeds: dict[str, dict[int, TrainingRun]] = {row: {} for row in ABLATIONS}
    for run, row in rows_of.items():
        if row and resolved_backbones(run.config) == pair:
            seeds[row][run.config.seed] = run
    rows = []
    for row, by_seed in seeds.items():
        shared = sorted(set(by_seed) & set(seeds["full"]))
        if not shared:
            continue
        ours, full = [by_seed[seed] for seed in shared], [seeds["full"][seed] for seed in shared]
        values = [100 * run.summary["macro_f1"] for run in ours]
        change, paper = "" if row == "full" else gain(ours, full), paper_change(row)
        rows.append(
            {
                "model": row,
                "macro-F1": f"{np.mean(values):.1f}",
                "seeds": ", ".join(f"{value:.1f}" for value in values),
                "difference": change,
                "paper": _paper(PAPER_ABLATIONS.get(row)),
                "paper's difference": "" if row == "full" or paper is None else f"{paper:+.2f}",
                "runs": ", ".join(run.name for run in ours),
            }
        )
    return pd.DataFrame(rows)


def ensembles(study: str, answers: Answers | None = None) -> pd.DataFrame:
    """Return table 3: the stacked ensemble of each grouping and method, with its gain over its best member."""
    rows, runs = [], study_runs(study)
    stacked = [run for run in runs if isinstance(run, EnsembleRun) and is_current(run)]
    every = {pair[::-1] for pair in member_runs(study).values()}  # (image, text)
    names = backbone_names([*runs, *(open_run(name) for run in stacked for name in run.config.members)])
    for run in stacked:
        summary, config = run.summary, run.config
        others = [name for name in config.members if baseline(open_training(name).config)]
        pairs = [names[name][::-1] for name in config.members if name not in others]  # (image, text)
        models = f"all {len(pairs)}" if set(pairs) == every else _grouping(pairs)
        parts = [models] * bool(pairs) + [f"{len(others)} baselines"] * bool(others)
        row = {"members": len(config.members), "grouping": " + ".join(parts), "method": config.method}
        row |= {"evaluation": config.evaluation, **_scores(run, answers)}
        row["gain over best member"] = from_summary(run, "gain", signed=True)
        row["in-sample"] = f"{100 * summary['in_sample_macro_f1']:.1f}"
        rows.append(row | {"paper": "" if others else _paper(_paper_ensemble(pairs)), "run": run.name})
    table = pd.DataFrame(rows)
    if not rows:
        return table
    table = table.sort_values(["evaluation", "members", "grouping", "method"], ignore_index=True)
    return table.drop(columns="evaluation") if set(table["evaluation"]) == {"nested"} else table


def descriptions(errors: Errors) -> pd.DataFrame:
    """Return table 4: the loss of items without and with a description (`errors.welch`), beside the paper's."""
    rows, rates = [], welch(errors, "wrong")
    for name, row in welch(errors).iterrows():
        cells = {"items": name, "n without / with": f"{row.items_without} / {row.items_with}"}
        if name != "within class":
            cells["mean loss without / with"] = f"{row.mean_loss_without:.3f} / {row.mean_loss_with:.3f}"
        if name == "all items":
            cells["errors without / with, %"] = f"{100 * row.error_rate_without:.1f} / {100 * row.error_rate_with:.1f}"
        if not rates.loc[name, "note"]:
            cells["difference in errors, points"] = str(_points(rates.loc[name]))
        bounds = f"{row.difference:+.3f} [{row.difference_low:+.3f}, {row.difference_high:+.3f}]"
        tested = {"difference": bounds, "t": f"{row.t:.2f}", "p, one-sided": f"{row.p:.2g}"}
        rows.append(cells | ({"difference": row.note} if row.note else tested))
    paper = {"t": f"{PAPER_WELCH['t']:.2f}", "p, one-sided": f"{PAPER_WELCH['p']:.2g}"}
    return pd.DataFrame([*rows, {"items": "paper: misclassified items", **paper}]).fillna("")


def tell_descriptions(errors: Errors) -> str:
    """Return in a sentence whether items without a description do worse than others of their class."""
    loss, rate = (welch(errors, value).loc["within class"] for value in ("loss", "wrong"))
    if loss.note:
        return f"Whether items without a description do worse than others of their class is not tested. {loss.note}"
    worse, better = loss.difference_low > 0, loss.difference_high < 0
    verdict = "do worse than" if worse else "do better than" if better else "are not told apart from"
    bounds = f"{loss.difference:+.2f} [{loss.difference_low:+.2f}, {loss.difference_high:+.2f}]"
    text = f"Items without a description {verdict} others of their class: their loss differs by {bounds} nats"
    return text + ("." if rate.note else f", their error rate by {_points(rate)} points.")


def paper_models() -> pd.DataFrame:
    """Return the paper's table 1 as printed."""
    grid = pd.Series(PAPER_MODELS).unstack()[["camembert", "flaubert", "mbert"]]
    return grid.map(_paper).rename_axis("image").reset_index()


def paper_ensembles() -> pd.DataFrame:
    """Return the paper's table 3 as printed."""
    rows = [
        (f"{image} × {texts.replace(' ', ' + ')}", f"{score:.2f}")
        for image, scores in PAPER_ENSEMBLES.items()
        for texts, score in scores.items()
    ]
    return pd.DataFrame([*rows, ("all six", f"{PAPER_ALL:.2f}")], columns=["members", "macro-F1"])


def runs(finished: list[Run]) -> pd.DataFrame:
    """Return the run folders with their settings, scores and costs; a dash means not measured."""
    rows: list[dict[str, Any]] = []
    for run in finished:
        summary, config = run.summary, run.config
        system = run.config.system if isinstance(run, TrainingRun) else "ensemble"
        row = {"run": f"runs/{run.name}", "system": system, "seed": config.seed}
        row |= {"macro-F1": from_summary(run, "macro_f1"), "time": in_words(summary.get("seconds"))}
        measured = {"seconds per step": "step_seconds", "process peak GB": "peak_memory_gb"}
        rows.append(row | {name: _measured(summary.get(key)) for name, key in measured.items()})
    return pd.DataFrame(rows)


def _reads_alike(config: TrainConfig, other: TrainConfig) -> bool:
    """Return whether the backbones that `config` reads are those of `other`."""
    return all(resolve(getattr(config, side)) == resolve(getattr(other, side)) for side in config.sides)


def _measured(value: float | None) -> str:
    return "–" if not value else f"{value:.2g}" if value < 10 else f"{value:.0f}"


def _scores(run: Run, answers: Answers | None) -> dict[str, Estimate]:
    validation = {"macro-F1": from_summary(run, "macro_f1")}
    test = answers.score(run) if answers else None
    return validation | ({"test": test} if test else {})


def _points(row: pd.Series) -> Estimate:
    """Return the difference of two rates, in points, from a row of `welch`."""
    return estimate(row.difference, (row.difference_low, row.difference_high), signed=True)


def _paper(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _grouping(pairs: list[tuple[str, str]]) -> str:
    images, texts = sorted({image for image, _ in pairs}), sorted({text for _, text in pairs})
    return (
        f"{' + '.join(images)} × {' + '.join(texts)}"
        if len(pairs) == len(images) * len(texts)
        else f"{len(pairs)} runs"
    )


def _paper_ensemble(pairs: list[tuple[str, str]]) -> float | None:
    if set(pairs) == set(PAPER_MODELS):
        return PAPER_ALL
    images = {image for image, _ in pairs}
    key = " ".join(sorted(text for _, text in pairs))
    return PAPER_ENSEMBLES.get(images.pop(), {}).get(key) if len(images) == 1 else None
