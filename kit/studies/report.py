"""A study's report: the paper's tables and figures beside ours, as Markdown and as the first page of a site.

It is made from the study's run folders and the items of its challenge folder; nothing is trained.
"""

import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kit.analysis import plots
from kit.analysis.attention import EXPLAIN_ATTENTION, attention_table, describe_attention
from kit.analysis.errors import Errors, confusions, read_errors, worst_mistakes
from kit.analysis.estimates import READING, Answers, accuracy_of, from_summary, weighted_f1_of
from kit.analysis.gallery import gallery
from kit.analysis.leakage import known_items
from kit.core.console import in_words
from kit.core.exceptions import KitError
from kit.core.files import read_json, write_atomically, write_text
from kit.core.paths import project, resolve, runs_folder, submissions_folder
from kit.data.challenge import EDITIONS, Challenge
from kit.data.items import challenge_of
from kit.data.table import read_table
from kit.runs import EnsembleRun, Run, TrainingRun, open_run, open_training
from kit.studies import claims, tables
from kit.studies.choice import choice_of, expectation
from kit.studies.paper_numbers import PAPER_BASELINE
from kit.studies.site import report_body, write_site
from kit.studies.study_runs import baseline, is_frozen, member_runs, study_runs

BESIDE_PAPER = (
    "The paper's, on the challenge's 20 % validation split (on another catalogue, compare rankings, not levels):"
)


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
    """Write a study's report from its run folders, as REPORT.md and, with the executed notebooks, as a site; return the
    site's index.

    Raise KitError if the study has neither a member nor an ensemble, or if its data is damaged.
    """
    folder = runs_folder() / study
    path = folder / "study.json"
    settings = read_json(path, "remove it, or run the study again") if path.is_file() else {}
    choice = choice_of(study)
    final = choice.run
    challenge = challenge_of(final)
    answers = read_answers(settings.get("answers", ""), challenge)
    errors = read_errors(final, challenge)
    members = [open_training(name) for name in member_runs(study)]
    trained = members or [open_training(name) for name in getattr(final.config, "members", [final.name])]
    compared, ablated = tables.baselines(study, answers), tables.ablations(study)
    held_up, measured = claims.claims(compared, ablated, final, errors), attention_table(members)
    parts = [
        f"# {study}: {challenge.folder.name}, the paper beside this study",
        _headline(study, final, answers, _copy_submission(final, folder / "site")),
        *_failures(settings),
        why_test_differs(final, trained[0], errors, answers, challenge),
        f"Analysed and submitted: {choice.why} {expectation(final)}".rstrip(),
        *_section("What held up", claims.mark(held_up), claims.LEGEND),
        *_section("Table 1: models", tables.models(study, answers), BESIDE_PAPER, as_markdown(tables.paper_models())),
        *_section(
            "Baselines",
            compared,
            f"The paper reports only its best fusion: {PAPER_BASELINE:.2f}.",
            tables.explain_own_gain(compared) if members else "",
            as_markdown(tables.own_gain(compared)),
        ),
        *_section(
            "Table 2: ablations",
            ablated,
            "`no-co-attention`, which is not in the paper, weighs all tokens and all regions equally: its difference "
            "says what the attention gains over means.",
        ),
        *_section("Attention", measured, *(f"{run.name}: {describe_attention(run)}" for run in members[:1])),
        *_section(
            "Table 3: ensembles",
            tables.ensembles(study, answers).drop(columns="run", errors="ignore"),
            "The paper's:",
            as_markdown(tables.paper_ensembles()),
        ),
        *_section(
            f"Table 4: does a missing description hurt? ({final.name})",
            tables.descriptions(errors),
            tables.tell_descriptions(errors),
        ),
        *_figures(folder / "figures", challenge, errors),
        *_section("Runs", tables.runs(study_runs(study))),
    ]
    reading = _how_to_read(trained, answers, challenge, held_up, not measured.empty)
    write_text(folder / "REPORT.md", "\n\n".join(filter(None, [*parts, *reading])) + "\n")
    cards = f"<h2>The worst mistakes</h2>{gallery(worst_mistakes(errors), challenge.names)}"
    bodies = [report_body("\n\n".join(filter(None, texts)), folder) for texts in (parts, reading)]
    return write_site(folder / "site", study, cards.join(bodies), _notebooks(study, final))


def _headline(study: str, final: Run, answers: Answers, submission: list[str]) -> str:
    """Return what a reader wants first: scores, gain, submission, and time."""
    summary, finished = final.summary, study_runs(study)
    lines = [
        f"**{from_summary(final, 'macro_f1')}** macro-F1 in per cent on {summary['items']['oof']:,} validation items "
        f"(weighted F1, which challengedata's leaderboard scores: {weighted_f1_of(final):.1f})"
    ]
    if score := answers.score(final):
        lines.append(f"**{score}** on {summary['items']['test']:,} test items")
    if isinstance(final, EnsembleRun):
        gained, best = from_summary(final, "gain", signed=True), summary["best_member"]
        tested = answers.score(final, open_run(best))
        lines.append(
            f"**{gained}** points over the best single run, {best}{f'; {tested} on test items' * bool(tested)}"
        )
    missing = (
        "not written yet (07_submission writes it)" if summary["items"]["test"] else "none, without items to predict"
    )
    files = ", ".join(f"[{name}](site/{name})" for name in submission)
    lines.append(f"Submission: {files or missing}, from the run {final.name}")
    seconds = sum(run.summary.get("seconds", 0) for run in finished)
    lines.append(f"{len(finished)} runs took {in_words(seconds)} of training and stacking")
    return "\n".join(f"- {line}" for line in lines)


def why_test_differs(final: Run, first: TrainingRun, errors: Errors, answers: Answers, challenge: Challenge) -> str:
    """Return the accuracy on test items with and without duplicates in training, beside that out of fold; "" if the
    answers are unknown, or if the folds of the run `first` do not keep all training items from their duplicates."""
    codes = answers.predicted(final)
    if codes is None or first.config.split != "grouped" or first.config.limit:
        return ""
    test = challenge.test["test"]
    known = pd.Series(known_items(challenge.train, test), test["id"]).loc[codes.index].to_numpy()
    if not known.any() or known.all():
        return ""
    right = (codes["true"] == codes["predicted"]).to_numpy()
    old, new, held_out = (
        accuracy_of(hits) for hits in (right[known], right[~known], ~errors.items["wrong"].to_numpy())
    )
    return (
        f"Validation and test differ: {known.sum():,} of the {len(known):,} test items share a title or an image with "
        f"a training item, which grouped folds never allow. {final.name} is right on {old} % of these, on {new} % of "
        f"the other test items, and on {held_out} % out of fold. So the score out of fold says how well new "
        f"products are classified{', and is a low estimate of this test' * (old.low > held_out.high)}."
    )


def _copy_submission(final: Run, site: Path) -> list[str]:
    """Copy the files of the run's submission into the site, and return their names."""
    files = sorted(path for path in (submissions_folder() / final.name).glob("*") if path.is_file())
    for path in files:
        write_atomically(site / path.name, partial(Path.write_bytes, data=path.read_bytes()))
    return [path.name for path in files]


def _notebooks(study: str, final: Run) -> dict[str, tuple[Path, str]]:
    """Return page name → executed notebook and label: the study's own, its members', and its final run's."""
    pages: dict[str, tuple[Path, str]] = {}
    for name in dict.fromkeys((study, *member_runs(study), final.name)):
        for path in (runs_folder() / name).glob("[0-9]*.ipynb"):
            if not path.name.endswith(".partial.ipynb"):
                stem = path.stem if name == study else f"{path.stem}-{name}"
                label = path.stem if name == study else f"{path.stem} {name.removeprefix(f'{study}-')}"
                pages[f"{stem}.html"] = path, label
    return dict(sorted(pages.items()))


def _how_to_read(
    trained: list[TrainingRun], answers: Answers, challenge: Challenge, held_up: pd.DataFrame, measured: bool
) -> list[str]:
    """Return the report's last section: how the study was made, and how its numbers are meant.

    `trained`: as in `notes`.
    """
    first, described = trained[0].config, 100 * challenge.train["description"].notna().mean()
    protocol = f"{first.folds}-fold" if first.folds > 1 else f"one split, {100 * first.val_share:.0f} % for validation"
    return [
        "## How to read this report",
        f"{challenge.folder.name} ({challenge.kind}): {len(challenge.train):,} training items of "
        f"{len(challenge.classes)} classes, {described:.0f} % with a description. Recipe {first.recipe}, {protocol}, "
        f"{first.split} split. {READING}",
        *notes(trained, answers),
        claims.explain_verdicts(held_up),
        EXPLAIN_ATTENTION if measured else "",
        "Table 3: macro-F1 is nested: the stacker that scores an item learned from other folds, and each member's "
        "model from other items. In-sample appears to be the paper's way: the stacker is scored on the items that it "
        "learned from, so the score is too good.",
        "Table 4: the difference, and t, are for items without minus items with a description. The paper prints t with "
        "the opposite sign; it is reversed here. If one side has few items, the test says nothing. `within class` "
        "compares items of the same class, and counts only classes that have both kinds. If `all items` differ and the "
        "interval of `within class` is narrow and includes zero, the classes explain the difference; if that interval "
        "is wide, too few classes have both kinds to tell. No row shows a cause: items without a description may be "
        "harder for other reasons.",
        "Tables and figures have the paper's numbers; those without a number are not in the paper. A dash means not "
        "measured.",
    ]


def _section(title: str, table: pd.DataFrame, *rest: str) -> list[str]:
    """Return a section whose table has rows; nothing if it has none."""
    return [] if table.empty else [f"## {title}", as_markdown(table), *rest]


def _figures(folder: Path, challenge: Challenge, errors: Errors) -> list[str]:
    """Write the figures' files, and return the Markdown that shows them."""
    plotters = {
        "figure2": lambda: plots.sample_rows(challenge.train, challenge.names),
        "figure3": lambda: plots.text_length(challenge.train),
        "figure4": lambda: plots.confusion_bars(confusions(errors)),
        "figure5": lambda: plots.loss_boxes(errors.items),
    }
    shown = [_draw(folder / f"{name}.png", FIGURES[name], draw) for name, draw in plotters.items()]
    if (model := project() / "docs" / "architecture.svg").is_file():
        write_atomically(folder / "figure1.svg", partial(Path.write_bytes, data=model.read_bytes()))
        shown.insert(0, "## Figure 1: the model\n\n![Figure 1: the model](figures/figure1.svg)")
    return shown


MARKDOWN = re.compile(r"[\\|*`\[]")  # what would format or end a cell; classes may have such names
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


def notes(trained: list[TrainingRun], answers: Answers) -> list[str]:
    """Return what a reader must know about how a study was made.

    `trained`: its members, or if it has none, the runs that its ensemble stacks.
    """
    members, remarks = [run for run in trained if not baseline(run.config)], []
    if resolve(trained[0].config.data) in (resolve("data/shop"), resolve("data/emoji")):
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
    member = members[0].config if members else None
    if member and is_frozen(member):
        remarks.append("Both backbones stay frozen; the paper fine-tunes them.")
    if member and member.linear_start:
        remarks.append(
            "The co-attention head starts as the probe of mean features: even attention, a BiLSTM that passes its "
            "input through, a fitted logistic regression as classifier. So few items cannot train it from random "
            "weights. A part that hardly leaves that start contributes little in the ablations."
        )
    if member and member.keep == "held_out":
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
        f"scores are too good: {size}. `tfidf`, `logistic…` and `neighbours` select no epoch, and test items play no "
        "part."
    ]


def _failures(settings: dict) -> list[str]:
    failed = settings.get("failed", {})
    missing = {name: text for name, text in failed.items() if not (runs_folder() / name / "summary.json").is_file()}
    return [f"**Missing: {name}.** {sentence}" for name, sentence in missing.items()]


def as_markdown(frame: pd.DataFrame) -> str:
    """Return a frame as a table of Markdown that shows each value as it is, without the columns that are empty."""
    if frame.empty:
        return ""
    frame = frame.loc[:, (frame.astype(str) != "").any()]
    cells = frame.map(lambda value: "" if value is None else MARKDOWN.sub(r"\\\g<0>", " ".join(str(value).split())))
    return cells.to_markdown(index=False, disable_numparse=True)
