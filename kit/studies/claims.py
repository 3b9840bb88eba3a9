"""What holds up of the paper's claims in a study, and how sure that is."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import norm

from kit.analysis.attention import MOVED
from kit.analysis.errors import Errors, welch
from kit.analysis.estimates import Estimate, from_summary, gain
from kit.runs import EnsembleRun, Run, open_run, open_training
from kit.stacking.members import is_current
from kit.studies.paper_numbers import PAPER_ABLATIONS, PAPER_BASELINE, PAPER_GAIN, PAPER_WELCH, paper_change
from kit.studies.study_runs import MATCHED, is_frozen, member_runs, study_runs
from kit.studies.tables import GAINS, OWN_GAIN, own_gain

AT_ONCE = "verdict, all at once"
MARKS = {"holds": "✓", "not told apart": "–", "contradicted": "✗", "not tested": "·", "not testable": "·"}
LEGEND = (
    "✓ holds: the interval confirms the sign, also when it is judged with all the others · – not told apart: the "
    "interval includes zero, which refutes nothing, or excludes it only alone · ✗ contradicted: the interval lies on "
    "the other side · more at the end"
)
WORSE = {  # ablation → its claim
    "no-bilstm": "without its BiLSTM the model is worse",
    "no-layer-weights": "with the top text layer alone the model is worse",
    "no-co-attention": "with even attention the model is worse",
    "text-attention-only": "without the attended image the model is worse",
    "image-attention-only": "without the attended text the model is worse",
}
REMOVED = {  # ablation → the sides whose attention it takes away
    "text-attention-only": ("image",),
    "image-attention-only": ("text",),
    "no-co-attention": ("text", "image"),
}


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
    changed = ablated.to_dict("records")
    runs = {row["model"]: [*map(open_run, row["runs"].split(", "))] for row in changed if "runs" in row}
    full = runs.get("full", [])
    for row in changed:
        if row["difference"]:
            change, sides = paper_change(row["model"]), REMOVED.get(row["model"], ())
            rows.append(_gain_claim(WORSE[row["model"]], change, row["difference"], full, sides, sign=-1))
    image, text = "image-attention-only", "text-attention-only"
    if runs.keys() >= {image, text}:
        paper, ours = PAPER_ABLATIONS[image] - PAPER_ABLATIONS[text], gain(runs[image], runs[text])
        rows.append(_gain_claim("the attended image is worth more than the attended text", paper, ours, full))
    in_sample = ""
    if isinstance(final, EnsembleRun):
        if final.config.evaluation == "in-sample":
            in_sample = "in-sample: the ensemble is scored on the items that it learned from"
        ours = from_summary(final, "gain", signed=True)
        papers = final.config.method == "network"
        gained = PAPER_GAIN if papers else None
        rows.append(_gain_claim("the ensemble beats its best member", gained, ours, untestable=in_sample))
        if not papers and (network := _network(final.config.study)):
            ours = from_summary(network, "gain", signed=True)
            rows.append(_gain_claim("the members' network ensemble beats their best", PAPER_GAIN, ours))
    tests = welch(errors)
    claim = "items without a description have a larger loss than others of their class"
    rows.append(_description_claim(claim, "not asked", tests.loc["within class"], "items", in_sample))
    claim, papers_t = "mistakes on items without a description have a larger loss", f"t = {PAPER_WELCH['t']}"
    rows.append(_description_claim(claim, papers_t, tests.loc["misclassified items"], "mistakes", in_sample))
    table = pd.DataFrame(rows)
    stands = table["p"].isna() | (holm(table["p"]) < 0.05)  # nan: not testable, or not tested
    table[AT_ONCE] = table["verdict"].where(stands, "not told apart")
    return table[["claim", "paper", "ours", "attention", "verdict", AT_ONCE]]


def mark(claimed: pd.DataFrame) -> pd.DataFrame:
    """Return the table of `claims` to be shown: verdicts first, with MARKS; the mark is that of all claims at once."""
    tested, verdicts = _tested(claimed), []
    for alone, at_once in claimed[["verdict", AT_ONCE]].itertuples(index=False):
        only = "" if alone == at_once else f" alone, not among {tested}"
        verdicts.append(f"{MARKS[at_once]} {alone}{only}")
    return claimed.assign(verdict=verdicts)[["verdict", "claim", "ours", "paper", "attention"]]


def explain_verdicts(claimed: pd.DataFrame) -> str:
    """Return how to read the verdicts of `claims`."""
    text = (
        "holds: the difference has the claimed sign, and its 95 % interval excludes zero; this says nothing about the "
        "size. not told apart: the interval includes zero, which refutes nothing. contradicted: the interval lies on "
        "the other side. The claims about descriptions are tested one-sidedly, as the paper does: they hold if p "
        "is below .05. A verdict covers the choice of the items only: other seeds and splits would "
        "also change a difference."
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
    if (tested := _tested(claimed)) > 1:
        text += (
            f" {tested} claims are tested at once. If each is judged alone, chance confirms at least one more often "
            f"than 1 time in 20. So a mark counts all of them (Holm's method; the p of a difference of scores is that "
            f"of a normal distribution with the width of its interval), and “alone, not among {tested}” is a verdict "
            "that this takes back."
        )
    return text


def _tested(claimed: pd.DataFrame) -> int:
    return int((~claimed["verdict"].isin(("not testable", "not tested"))).sum())


def _network(study: str) -> EnsembleRun | None:
    """Return the ensemble of all members of a study by a network, nested: what the paper submits."""
    members = set(member_runs(study)) if study else set()
    for run in study_runs(study) if study else ():
        if not isinstance(run, EnsembleRun) or set(run.config.members) != members:
            continue
        if (run.config.method, run.config.evaluation) == ("network", "nested") and is_current(run):
            return run
    return None


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


def _description_claim(claim: str, paper: str, test: pd.Series, items: str, untestable: str) -> dict:
    """Return the row of a claim that `items` lose more without a description, from a row of `welch`."""
    row = {"claim": claim, "paper": paper, "attention": ""}
    if untestable or test.note:
        return row | {"ours": untestable or test.note, "verdict": "not testable", "p": np.nan}
    ours = f"{test.difference:+.2f} [{test.difference_low:+.2f}, {test.difference_high:+.2f}] nats, p = {test.p:.2g}, "
    ours += f"{test.items_without} of {test.items_without + test.items_with} {items} lack one"
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
