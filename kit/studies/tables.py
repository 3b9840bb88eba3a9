"""The paper's tables beside those of a study; each row names its runs.

All scores are in per cent. Intervals are 95 % bootstraps over items; differences are paired on the same items.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.stats import norm

from kit.analysis.errors import Errors, welch
from kit.core.exceptions import KitError
from kit.metrics import bootstrap_macro_f1, macro_f1
from kit.runs import EnsembleRun, Run, TrainingRun, open_run, open_training
from kit.stacking.members import is_current
from kit.studies.paper_numbers import (
    PAPER_ABLATIONS,
    PAPER_ALL,
    PAPER_BASELINE,
    PAPER_ENSEMBLES,
    PAPER_GAIN,
    PAPER_MODELS,
)
from kit.studies.paper_numbers import PAPER_WELCH as PAPER_WELCH
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
# Total variation from even below which attention counts as even. It bounds the effect: the attended vector is then
# nearer to the mean than .01 of the largest distance between two words or regions.
MOVED = 0.01
REMOVED = {  # ablation → the sides whose attention it takes away
    "text-attention-only": ("image",),
    "image-attention-only": ("text",),
    "no-co-attention": ("text", "image"),
}
READING = (
    "Scores are macro-F1 in per cent on items that the model did not learn from. Intervals are 95 % bootstraps over "
    "items: they cover the choice of the items, but neither the seed nor the split; only the ablations average over "
    "seeds. A score need not be in the middle of its interval: with small classes scores are lower than with more "
    "items, and the interval corrects for that. Differences are paired on the same items. To compare two systems, read "
    "the difference, not whether their intervals overlap."
)


@dataclass(frozen=True)
class Estimate:
    """A score, or with `signed` a difference of scores, in per cent with its 95 % interval."""

    value: float
    low: float
    high: float
    signed: bool = False

    def __str__(self) -> str:
        sign = "+" if self.signed else ""
        return f"{self.value:{sign}.1f} [{self.low:{sign}.1f}, {self.high:{sign}.1f}]"


def estimate(share: float, bounds: tuple[float, float], signed: bool = False) -> Estimate:
    """Return the Estimate, in per cent, of values between 0 and 1."""
    return Estimate(100 * share, 100 * bounds[0], 100 * bounds[1], signed)


def from_summary(run: Run, key: str, signed: bool = False) -> Estimate:
    """Return the Estimate from `key`, `key`_low and `key`_high in summary.json."""
    summary = run.summary
    return estimate(summary[key], (summary[f"{key}_low"], summary[f"{key}_high"]), signed)


@dataclass
class Answers:
    """The true codes of the test items by id, if available: for scoring, never for choosing."""

    codes: pd.Series = field(default_factory=lambda: pd.Series(dtype=int))
    fingerprints: pd.Series | None = None  # by id: identify the products that the answers are for

    def score(self, run: Run) -> Estimate | None:
        """Return macro-F1; None if there are no answers for the items that the run predicts."""
        if self.codes.empty:
            return None
        items, means = run.read_test()
        ids = means.index.get_level_values("id")
        if not len(ids) or not set(ids) <= set(self.codes.index):
            return None  # the run is for another test file
        known = self.fingerprints if "fingerprint" in items else None
        if known is not None and (items["fingerprint"].to_numpy() != known.loc[ids].to_numpy()).any():
            return None  # the same ids stand for other products
        true, predicted = self.codes.loc[ids].to_numpy(), means.idxmax(axis=1).to_numpy()
        return estimate(macro_f1(true, predicted), bootstrap_macro_f1(true, predicted))


def models(study: str, answers: Answers | None = None) -> pd.DataFrame:
    """Return table 1: the co-attention model on each pair of backbones."""
    rows = []
    for name, (text, image) in member_runs(study).items():
        rows.append({"image": image, "text": text, **_scores(open_run(name), answers)})
        rows[-1] |= {"paper": _paper(PAPER_MODELS.get((image, text))), "run": name}
    return pd.DataFrame(rows)


def baselines(study: str, answers: Answers | None = None) -> pd.DataFrame:
    """Return the fusions, each side alone, the light references, the runs that separate fine-tuning from co-attention,
    and the member on the same backbones.
    """
    runs = {baseline(run.config): run for run in study_runs(study) if isinstance(run, TrainingRun)}
    systems = {row: runs[row] for row in (*BASELINES, *MATCHED) if row in runs}
    pairs = {resolved_backbones(run.config): run for run in map(open_training, member_runs(study))}
    member = next((pairs.get(resolved_backbones(run.config)) for run in systems.values()), None)
    rows = []
    for system, run in (systems | ({"co-attention": member} if member else {})).items():
        row = {"system": system, **_scores(run, answers)}
        if member:
            row[GAINS] = "" if run is member else gain([member], [run])
        rows.append(row | {"run": run.name})
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
    """Return what `own_gain` compares, and why the gain over the fusions is another question."""
    text = "What co-attention itself gains: its score minus that of `concat`, with the same backbones on both sides."
    model = next((open_training(row.run) for row in compared.itertuples() if row.system == "co-attention"), None)
    if model and not is_frozen(model.config):
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
        change, paper = "" if row == "full" else gain(ours, full), _paper_change(row)
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
    names = backbone_names([*runs, *(open_run(name) for run in stacked for name in run.config.members)])
    for run in stacked:
        summary, config = run.summary, run.config
        pairs = [names[name][::-1] for name in config.members]  # (image, text)
        row = {"members": len(pairs), "grouping": _grouping(pairs), "method": config.method}
        row |= {"evaluation": config.evaluation, **_scores(run, answers)}
        row["gain over best member"] = from_summary(run, "gain", signed=True)
        row["in-sample"] = f"{100 * summary['in_sample_macro_f1']:.1f}"
        rows.append(row | {"paper": _paper(_paper_ensemble(pairs)), "run": run.name})
    table = pd.DataFrame(rows)
    return table.sort_values(["evaluation", "members", "grouping", "method"], ignore_index=True) if rows else table


def descriptions(errors: Errors) -> pd.DataFrame:
    """Return table 4: the loss of items without and with a description (`errors.welch`), beside the paper's."""
    rows = []
    for name, row in welch(errors).iterrows():
        cells = {"items": name, "n without / with": f"{row.items_without} / {row.items_with}"}
        if name != "within class":
            cells["mean loss without / with"] = f"{row.mean_loss_without:.3f} / {row.mean_loss_with:.3f}"
        if name == "all items":
            cells["errors without / with, %"] = f"{100 * row.error_rate_without:.1f} / {100 * row.error_rate_with:.1f}"
        bounds = f"{row.difference:+.3f} [{row.difference_low:+.3f}, {row.difference_high:+.3f}]"
        tested = {"difference": bounds, "t": f"{row.t:.2f}", "p, one-sided": f"{row.p:.2g}"}
        rows.append(cells | ({"difference": row.note} if row.note else tested))
    paper = {"t": f"{PAPER_WELCH['t']:.2f}", "p, one-sided": f"{PAPER_WELCH['p']:.2g}"}
    return pd.DataFrame([*rows, {"items": "paper: misclassified items", **paper}]).fillna("")


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


def attention(finished: Sequence[Run]) -> pd.DataFrame:
    """Return how far each run's attention is from even, and what even attention would change, on the items that
    validate; runs whose attention was not measured are left out."""
    rows = []
    for run in finished:
        for side, measured in run.summary.get("attention", {}).items():
            if side == "items":
                continue
            row = {"run": run.name, "attention on": side}
            row |= {name: f"{measured[name]:.3f}" if name in measured else "" for name in ("variation", "entropy")}
            row["predictions changed by even attention"] = f"{100 * measured['changed']:.1f} %"
            rows.append(row | {"macro-F1 with even attention": f"{100 * measured['macro_f1']:+.1f}"})
    return pd.DataFrame(rows)


EXPLAIN_ATTENTION = (
    "`variation` is the mean total variation between the attention and even attention on all words or regions: 0 if it "
    "is even, near 1 if one word or region has all the weight. `entropy` is a share of even attention's. The last two "
    "columns replace the learned attention by even attention in the trained model, which turns the attended vector "
    "into a mean, and say what that changes."
)


def describe_attention(run: Run) -> str:
    """Return in words whether the run's attention moved from even."""
    measured = run.summary.get("attention")
    if not measured:
        return "Attention was not measured: the run has none, or was made by an earlier version of the kit."
    sides = [side for side in ("text", "image") if side in measured]
    still = [side for side in sides if measured[side]["variation"] < MOVED]
    words = [
        f"Attention on the {side} {'stayed even' if side in still else 'moved'} (total variation "
        f"{measured[side]['variation']:.3f} from even): with even attention {100 * measured[side]['changed']:.1f} % of "
        f"the {measured['items']:,} predictions change."
        for side in sides
    ]
    if still == sides:
        words.append("So the score says nothing about co-attention: the model classifies means.")
    return " ".join(words)


def claims(compared: pd.DataFrame, ablated: pd.DataFrame, final: Run, errors: Errors) -> pd.DataFrame:
    """Return the paper's claims, its differences, ours with intervals, and whether each interval confirms the claim.

    `compared`, `ablated`: the tables of `baselines` and `ablations` · `final`: the ensemble to submit · `errors`: its
    errors. The paper does not make those claims whose `paper` is "not asked". `attention` says how far the attention on
    which a claim rests is from even; `explain_verdicts` says how to read it and the verdicts.
    """
    rows = []
    systems = compared.to_dict("records") if GAINS in compared else []
    models = {row["system"]: open_training(row["run"]) for row in systems if row["system"].startswith("co-attention")}
    fusions = [row for row in systems if row["system"] in ("concat", "bilinear", "dot")]
    if fusions:
        best, model = max(fusions, key=lambda row: row["macro-F1"].value), models["co-attention"]
        alike = is_frozen(model.config)
        words = ("co-attention", "fusion") if alike else ("fine-tuned co-attention", "frozen fusion")
        claim, paper = "{} beats the best {}".format(*words), PAPER_ABLATIONS["full"] - PAPER_BASELINE
        rows.append(_gain_claim(f"{claim} (here {best['system']})", paper, best[GAINS], [model]))
        for row in own_gain(compared).to_dict("records") if not alike else ():
            both, ours = row["backbones"], row[OWN_GAIN]
            model = models["co-attention" if both == "fine-tuned" else MATCHED[1]]
            rows.append(_gain_claim(f"co-attention itself beats concat, both {both}", None, ours, [model]))
    for row in systems:
        if row["system"] == "logistic":
            claim, model = "co-attention beats logistic regression on frozen features", models["co-attention"]
            rows.append(_gain_claim(claim, None, row[GAINS], [model]))
    full: list[Run] = []
    for row in ablated.to_dict("records"):
        if row["model"] == "full":
            full = [open_run(name) for name in row["runs"].split(", ")]
        if row["difference"]:
            claim, change, sides = (
                f"{row['model']} does worse",
                _paper_change(row["model"]),
                REMOVED.get(row["model"], ()),
            )
            rows.append(_gain_claim(claim, change, row["difference"], full, sides, sign=-1))
    in_sample = ""
    if isinstance(final, EnsembleRun):
        if final.config.evaluation == "in-sample":
            in_sample = "in-sample: the ensemble is scored on the items that it learned from"
        ours = from_summary(final, "gain", signed=True)
        rows.append(_gain_claim("the ensemble beats its best member", PAPER_GAIN, ours, untestable=in_sample))
    rows.append(_description_claim(errors, in_sample))
    table = pd.DataFrame(rows)
    stands = table["p"].isna() | (holm(table["p"]) < 0.05)  # nan: not testable, or not tested
    table[AT_ONCE] = table["verdict"].where(stands, "not told apart")
    return table[["claim", "paper", "ours", "attention", "verdict", AT_ONCE]]


AT_ONCE = "verdict, all at once"


def explain_verdicts(claimed: pd.DataFrame) -> str:
    """Return how to read the verdicts of `claims`."""
    text = (
        "holds: the difference has the claimed sign, and its 95 % interval excludes zero; this says nothing about the "
        "size. not told apart: the interval includes zero, which refutes nothing. contradicted: the interval lies on "
        "the other side. The claim about descriptions is tested one-sidedly, as in the paper: it holds if p is below "
        ".05. A verdict covers the choice of the items only: other seeds and splits would also change a difference."
    )
    if (claimed["attention"] != "").any():
        text += (
            " `attention`, for claims that rest on it: per side its mean total variation from even (0: even), "
            "and the share of predictions that even attention changes, on the items that validate."
        )
    if (claimed["verdict"] == "not tested").any():
        text += (
            f" not tested: that attention stayed even (below {MOVED}), so the difference, whatever its size, is not "
            "its doing. Of the BiLSTM and the layer weights no such thing is measured."
        )
    if (tested := (~claimed["verdict"].isin(("not testable", "not tested"))).sum()) > 1:
        text += (
            f" {tested} claims are tested at once. `verdict` judges each separately, so chance alone confirms at least "
            f"one more often than 1 time in 20; `{AT_ONCE}` limits it to that (Holm's method; the p of a difference of "
            "scores is that of a normal distribution with the width of its interval)."
        )
    return text


def _gain_claim(
    claim: str,
    paper: float | None,
    ours: Estimate,
    models: Sequence[Run] = (),
    sides: Sequence[str] = ("text", "image"),
    sign: int = 1,
    untestable: str = "",
) -> dict:
    """Return the row of a claim that a difference has this sign; it rests on the attention of `models` on `sides`."""
    row = {"claim": claim, "paper": "not asked" if paper is None else f"{paper:+.2f}"}
    if untestable:
        return row | {"ours": f"{ours}, {untestable}", "attention": "", "verdict": "not testable", "p": np.nan}
    row["attention"], moved = _attention(models, sides)
    if not moved:
        return row | {"ours": ours, "verdict": "not tested", "p": np.nan}
    low, high = sorted(sign * np.array([ours.low, ours.high]))
    deviation = max(high - low, 1e-9) / (2 * norm.ppf(0.975))
    return row | {"ours": ours, "verdict": _verdict(low > 0, high < 0), "p": 2 * norm.sf(abs(ours.value) / deviation)}


def _attention(models: Sequence[Run], sides: Sequence[str]) -> tuple[str, bool]:
    """Return how far the attention of `models` on `sides` is from even, and whether a claim about it is tested."""
    if not models or not sides:
        return "", True
    if not all("attention" in run.summary for run in models):
        return "not measured", True
    measured = [run.summary["attention"] for run in models]
    moved = {side: float(np.mean([one[side]["variation"] for one in measured])) for side in sides}
    changed = np.mean([one["both" if len(sides) > 1 else sides[0]]["changed"] for one in measured])
    words = ", ".join(f"{side} {value:.3f}" for side, value in moved.items())
    return f"{words}; {100 * changed:.1f} %", max(moved.values()) >= MOVED


def _description_claim(errors: Errors, untestable: str) -> dict:
    test = welch(errors).loc["misclassified items"]
    row = {"claim": f"mistakes without a description ({test.items_without} here) are worse, nats"}
    row |= {"paper": f"t = {PAPER_WELCH['t']}", "attention": ""}
    if untestable or test.note:
        return row | {"ours": untestable or test.note, "verdict": "not testable", "p": np.nan}
    ours = f"{test.difference:+.2f} [{test.difference_low:+.2f}, {test.difference_high:+.2f}], p = {test.p:.2g}"
    verdict = _verdict(test.p < 0.05, test.difference_high < 0)
    return row | {"ours": ours, "verdict": verdict, "p": min(test.p, 2 * (1 - test.p))}


def _verdict(holds: bool, contradicted: bool) -> str:
    return "holds" if holds else "contradicted" if contradicted else "not told apart"


def holm(p: pd.Series) -> pd.Series:
    """Return p-values adjusted by Holm's method: if no effect is real, the chance of any below .05 is at most .05.

    nan means not tested: it stays nan and does not count.
    """
    ordered = p.dropna().sort_values()
    adjusted = (ordered * np.arange(len(ordered), 0, -1)).cummax().clip(upper=1)
    return adjusted.reindex(p.index)


def runs(finished: list[Run]) -> pd.DataFrame:
    """Return the run folders with their settings, scores and costs; a dash means not measured."""
    rows = []
    for run in finished:
        summary, config = run.summary, run.config
        system = run.config.system if isinstance(run, TrainingRun) else "ensemble"
        row = {"run": f"runs/{run.name}", "system": system, "seed": config.seed}
        row["macro-F1"] = f"{100 * summary['macro_f1']:.2f}"
        measured = {"seconds": "seconds", "seconds per step": "step_seconds", "process peak GB": "peak_memory_gb"}
        rows.append(row | {name: _measured(summary.get(key)) for name, key in measured.items()})
    return pd.DataFrame(rows)


def _measured(value: float | None) -> str:
    return "–" if not value else f"{value:.2g}" if value < 10 else f"{value:.0f}"


def gain(ours: Sequence[Run], others: Sequence[Run]) -> Estimate:
    """How much macro-F1 `ours` gain on `others` in the mean, run by run, paired on the same validation items.

    Raise KitError if the runs were not scored on the same items.
    """
    frame = ours[0].predictions("oof")[0]
    true = frame["label"].to_numpy()
    for run in (*ours, *others):
        if run.summary.get("data") != ours[0].summary.get("data"):
            changed = _changed_settings(
                ours[0], run, ("data", "limit", "split_seed", "clean_titles", "clean_descriptions")
            )
            two = f"{ours[0].name!r} and {run.name!r}"
            if changed:
                raise KitError(f"{two} read different items ({'; '.join(changed)}): train one again like the other.")
            raise KitError(f"The data changed between {two}: train the older one again.")
    sides = [np.stack([_predicted(run, frame["id"], ours[0].name) for run in runs]) for runs in (ours, others)]
    means = [float(np.mean([macro_f1(true, row) for row in rows])) for rows in sides]
    return estimate(means[0] - means[1], bootstrap_macro_f1(true, sides[0], sides[1]), True)


def _predicted(run: Run, ids: pd.Series, first: str) -> np.ndarray:
    """Return the codes `[N]` that the run predicts for `ids`."""
    frame, codes, values = run.predictions("oof")
    predicted = pd.Series(np.array(codes)[values.argmax(1)], index=frame["id"])
    if set(ids) != set(predicted.index):
        changed = _changed_settings(open_run(first), run, ("folds", "split", "val_share", "split_seed", "limit"))
        difference = f" ({'; '.join(changed)})" if changed else ""
        two = f"The runs {first!r} and {run.name!r}"
        raise KitError(f"{two} validate different items{difference}: train them with the same split.")
    return predicted.loc[ids].to_numpy()


def _changed_settings(one: Run, other: Run, settings: tuple[str, ...]) -> list[str]:
    """Return the settings in which two runs differ, with both values."""
    values = {name: [getattr(run.config, name, None) for run in (one, other)] for name in settings}
    return [f"{name}: {first} and {second}" for name, (first, second) in values.items() if first != second]


def _scores(run: Run, answers: Answers | None) -> dict[str, Estimate]:
    validation = {"macro-F1": from_summary(run, "macro_f1")}
    test = answers.score(run) if answers else None
    return validation | ({"test": test} if test else {})


def _paper(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _paper_change(row: str) -> float | None:
    """Return the paper's difference of an ablation from the full model; None if the paper does not have it."""
    return PAPER_ABLATIONS[row] - PAPER_ABLATIONS["full"] if row in PAPER_ABLATIONS else None


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
