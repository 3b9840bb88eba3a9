"""A study's report: the paper's tables and figures beside ours, as Markdown and as one HTML page.

It is made from the study's run folders and the items of its challenge folder; nothing is trained.
"""

import base64
import html
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import mistune
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kit.analysis import plots
from kit.analysis.attention import EXPLAIN_ATTENTION, attention_table, describe_attention
from kit.analysis.errors import confusions, read_errors, worst_mistakes
from kit.analysis.estimates import READING, Answers
from kit.analysis.gallery import gallery
from kit.core.exceptions import KitError
from kit.core.files import read_json, write_atomically, write_text
from kit.core.paths import resolve, runs_folder
from kit.data.challenge import EDITIONS, Challenge
from kit.data.items import challenge_of
from kit.data.table import read_table
from kit.runs import TrainingRun, open_run, open_training
from kit.studies import claims, tables
from kit.studies.choice import choice_of, expectation
from kit.studies.paper_numbers import PAPER_BASELINE
from kit.studies.study_runs import is_frozen, member_runs, study_runs

STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:1300px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;font-size:14px;margin:1em 0;display:block;overflow-x:auto}
th,td{padding:.3em .7em;border-bottom:1px solid #ddd;text-align:left;white-space:nowrap}
img{max-width:100%}h2{margin-top:2em;border-bottom:2px solid #2a6f97}"""


def read_answers(path: str, challenge: Challenge) -> Answers:
    """Return the codes of the test items; none for "". Raise KitError if they do not belong to the challenge."""
    if not path:
        return Answers()
    if challenge.edition != "challengedata":
        raise KitError(
            f"Answers exist only for the challengedata edition, and {challenge.folder} is of another: leave them out."
        )
    columns = EDITIONS[challenge.edition].label_columns
    known = read_table(resolve(path), ",", columns).set_index("id")["label"]
    ids = challenge.test["test"]["id"] if challenge.test else []
    if set(known.index) != set(ids):
        raise KitError(
            f"{path} has different ids than the test file of {challenge.folder}: give the answers to that file."
        )
    return Answers(known, challenge.test["test"].set_index("id")["fingerprint"])


def write_report(study: str) -> Path:
    """Write the report of a study from its run folders, and return the Markdown file.

    Raise KitError if the study has no members, or its data is damaged.
    """
    folder = runs_folder() / study
    settings = read_json(folder / "study.json") if (folder / "study.json").is_file() else {}
    runs = study_runs(study)
    choice = choice_of(study)
    final = choice.run
    challenge = challenge_of(final)
    answers = read_answers(settings.get("answers", ""), challenge)
    errors = read_errors(final, challenge)
    plotters = {
        "figure2": lambda: plots.sample_rows(challenge.train, challenge.names),
        "figure3": lambda: plots.text_length(challenge.train),
        "figure4": lambda: plots.confusion_bars(confusions(errors)),
        "figure5": lambda: plots.loss_boxes(errors.items),
    }
    figures = [_draw(folder / "figures" / f"{name}.png", FIGURES[name], draw) for name, draw in plotters.items()]
    described = 100 * challenge.train["description"].notna().mean()
    members = [open_training(name) for name in member_runs(study)]
    member = members[0].config
    compared, ablated = tables.baselines(study, answers), tables.ablations(study)
    held_up, measured = claims.claims(compared, ablated, final, errors), attention_table(members)
    protocol = (
        f"{member.folds}-fold" if member.folds > 1 else f"one split, {100 * member.val_share:.0f} % for validation"
    )
    parts = [
        f"# {study}: the paper beside this study",
        f"{challenge.folder.name} ({challenge.edition} edition): {len(challenge.train):,} training items of "
        f"{len(challenge.classes)} classes, {described:.0f} % with a description. Recipe {member.recipe}, {protocol}, "
        f"{member.split} split. {READING}",
        *notes(members, answers),
        *_failures(settings),
        f"Analysed and submitted: {choice.why} {expectation(final)}".rstrip(),
        "## What held up",
        _table(held_up),
        claims.explain_verdicts(held_up),
        "## Table 1: models",
        _table(tables.models(study, answers)),
        "The paper's, on the challenge's 20 % validation split (on another catalogue, compare rankings, not levels):",
        _table(tables.paper_models()),
        "## Baselines",
        _table(compared),
        f"The paper reports only its best fusion: {PAPER_BASELINE:.2f}.",
        tables.explain_own_gain(compared),
        _table(tables.own_gain(compared)),
        "## Attention",
        f"{members[0].name}: {describe_attention(members[0])}",
        *([] if measured.empty else [_table(measured), EXPLAIN_ATTENTION]),
        "## Table 2: ablations",
        _table(ablated),
        "`no-co-attention`, which is not in the paper, weighs all tokens and all regions equally: its difference says "
        "what the attention gains over means.",
        "## Table 3: ensembles",
        _table(tables.ensembles(study, answers)),
        "macro-F1 is nested: the stacker that scores an item learned from other folds, and each member's model from "
        "other items. In-sample appears to be the paper's way: the stacker is scored on the items that it learned "
        "from, so the score is too good.",
        "The paper's:",
        _table(tables.paper_ensembles()),
        f"## Table 4: does a missing description hurt? ({final.name})",
        _table(tables.descriptions(errors)),
        "The difference, and t, are for items without minus items with a description. The paper prints t with the "
        "opposite sign; it is reversed here. If one side has few items, the test says nothing. `within class` compares "
        "items of the same class, and counts only classes that have both kinds. If `all items` differ and the interval "
        "of `within class` is narrow and includes zero, the classes explain the difference; if that interval is wide, "
        "too few classes have both kinds to tell. No row shows a cause: items without a description may be harder for "
        "other reasons.",
        *figures,
        "## Runs",
        _table(tables.runs(runs)),
    ]
    text = "\n\n".join(parts) + "\n"
    path = folder / "REPORT.md"
    write_text(path, text)
    page = _page(study, text, folder, gallery(worst_mistakes(errors), challenge.names))
    write_text(folder / "REPORT.html", page)
    return path


FIGURES = {
    "figure2": "Figure 2: items",
    "figure3": "Figure 3: text length",
    "figure4": "Figure 4: the most frequent confusions, predicted → actual",
    "figure5": "Figure 5: loss without and with a description",
}


def _draw(path: Path, title: str, draw: Callable[[], Figure]) -> str:
    """Write a figure's file and return the Markdown that shows it.

    A figure that fails does not stop the report, because all the training is done by then.
    """
    try:
        figure = draw()
        write_atomically(path, partial(figure.savefig, format="png", dpi=110))
        plt.close(figure)
        return f"## {title}\n\n![{title}](figures/{path.name})"
    except Exception as error:  # matplotlib raises many kinds
        path.unlink(missing_ok=True)  # from an earlier report
        print(f"{title}: could not be drawn ({type(error).__name__}: {error})", file=sys.stderr)
        return f"## {title}\n\n(could not be drawn: {type(error).__name__})"


def notes(members: list[TrainingRun], answers: Answers) -> list[str]:
    """Return what a reader must know about how the study with these members was made."""
    member, remarks = members[0].config, []
    if resolve(member.data) in (resolve("data/shop"), resolve("data/emoji")):
        remarks.append(
            "This is one of the two small catalogues that the kit ships with: it shows that every step works, not how "
            "well the models do on the challenge's products."
        )
        clean = "`test` played no part in that" if len(answers.codes) else "Answers to its test items would be clean"
        remarks.append(
            "The recipe `demo` and the regularisation of the stackers were chosen on validation splits of the two, "
            f"which flatters the validation scores. {clean}, but for the rule by which `best` chooses a stacker, "
            "which was found with these answers in view."
        )
    if is_frozen(member):
        remarks.append("Both backbones stay frozen; the paper fine-tunes them.")
    if member.linear_start:
        remarks.append(
            "The co-attention head starts as the probe of mean features: even attention, a BiLSTM that passes its "
            "input through, a fitted logistic regression as classifier. So few items cannot train it from random "
            "weights. A part that hardly leaves that start contributes little in the ablations."
        )
    if member.keep == "held_out":
        kept = [epoch for run in members if run.finished for epoch in run.summary.get("kept_epochs", [])]
        remarks.append(
            "How many epochs it trains from there is chosen in each fold by items held out of training, not by scored "
            f"ones: of the {len(kept)} models of table 1, {kept.count(0)} stayed at the probe."
        )
    remarks += _epoch_choice([run for run in members if run.config.keep in ("best", "soup")])
    if not answers.codes.empty:
        remarks.append(
            "`test` is the score on the test items, whose answers were given; this study chose nothing by them. Each "
            "is predicted by the mean of the folds' models, and each validation item by only one."
        )
    return [" ".join(remarks)] if remarks else []


def _epoch_choice(chosen: list[TrainingRun]) -> list[str]:
    """Return how far the best epoch, which these runs use, is above the last on the items that it was chosen on."""
    if not chosen:
        return []
    curves = [fold["macro_f1"] for run in chosen for _, fold in run.metrics.groupby("fold")]
    gaps = [100 * (curve.max() - curve.iloc[-1]) for curve in curves]
    size = "by how much is unknown, because no metrics.csv is left"
    if gaps:
        size = (
            f"for the {len(gaps)} models trained for table 1, the selected epoch is {np.mean(gaps):.1f} points above "
            f"the last one on average, and at most {max(gaps):.1f}; part of that is chance"
        )
    return [
        "With `keep` best, as in the paper, or soup, epochs are selected on the same items that are scored, so these "
        f"scores are too good: {size}. `tfidf`, `logistic` and `neighbours` select no epoch, and test items play no "
        "part."
    ]


def _failures(settings: dict) -> list[str]:
    failed = settings.get("failed", {})
    return [f"**Missing: {name}.** {sentence}" for name, sentence in failed.items() if not open_run(name).finished]


def _table(frame: pd.DataFrame) -> str:
    if frame.empty:
        return "(no finished run)"
    frame = frame.loc[:, (frame.astype(str) != "").any()]
    cells = frame.map(lambda value: "" if value is None else str(value).replace("|", "\\|").replace("\n", " "))
    return cells.to_markdown(index=False, disable_numparse=True)


def _page(study: str, text: str, folder: Path, cards: str) -> str:
    """Return the report as one HTML page with its images inside; all text of products and names is escaped."""
    body = str(mistune.create_markdown(escape=True, plugins=["table"])(text))

    def inline(match: re.Match) -> str:
        image = base64.b64encode((folder / match[1]).read_bytes()).decode()
        return f'src="data:image/png;base64,{image}"'

    body = re.sub(r'src="(figures/\w+\.png)"', inline, body)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(study)}</title>'
        f"<style>{STYLE}</style></head><body>{body}<h2>The worst mistakes</h2>{cards}</body></html>\n"
    )
