"""What a run's attention looks like on a few items, and whether it matters, as a notebook shows it."""

import html

from kit.analysis.attention import attending_run, describe_blanking
from kit.analysis.errors import Errors, read_errors
from kit.analysis.gallery import attention_gallery
from kit.data.items import challenge_of
from kit.runs import Run, TrainingRun
from kit.studies.study_runs import study_runs
from kit.training.explain import blanking, explain
from kit.training.trained import Trained, open_trained

NONE = "There is no attention to look at: the run has no co-attention, or its weights are gone."


def open_attending(run: Run, data: str = "") -> Trained | None:
    """Return the run opened, or of an ensemble its best member with co-attention; None if there is no attention.

    `data`: the run's challenge folder, if it has moved.
    """
    attending = attending_run(run)
    return open_trained(attending, data=data) if attending else None


def attention_examples(trained: Trained | None, right: int, wrong: int) -> str:
    """Return cards, as HTML, of `right` items that a run gets right and `wrong` ones that it gets wrong, with what it
    attended to; a sentence if there is no attention."""
    if trained is None:
        return f"<p>{NONE}</p>"
    errors = read_errors(trained.run, challenge_of(trained.run, trained.config.data))
    chosen, why = telling_items(trained.run, errors, right, wrong)
    explained = explain(trained, chosen)
    return f"<p>{html.escape(why)}</p>\n{attention_gallery(explained, errors.names)}"


def attention_matters(trained: Trained | None) -> str:
    """Return in words whether what a run attends to matters; "" if there is no attention."""
    return f"{trained.run.name}: {describe_blanking(blanking(trained))}" if trained else ""


def telling_items(run: TrainingRun, errors: Errors, right: int, wrong: int) -> tuple[list, str]:
    """Return the ids of that many items that a run gets right and wrong, and a sentence that says which these are.

    If the run's study has text alone and image alone on the same items, they are items on which the two disagree;
    the most certain predictions come first.
    """
    items, among = errors.items, "all items"
    alone = [other for system in ("text", "image") if (other := _alone(run, system))]
    if len(alone) == 2:
        sides = [other.read_oof()[1].idxmax(axis=1).reindex(items["id"]) for other in alone]
        differ = items[(sides[0] != sides[1]).to_numpy() & sides[0].notna().to_numpy() & sides[1].notna().to_numpy()]
        if len(differ):
            items, among = differ, f"the {len(differ):,} items on which text alone and image alone disagree"
    sure = items.sort_values("probability", ascending=False, kind="stable")
    ids = [*sure.loc[~sure["wrong"], "id"].head(right), *sure.loc[sure["wrong"], "id"].head(wrong)]
    return (
        ids,
        f"{run.name}: of {among}, those that it gets right, and those that it gets wrong, with the most certainty.",
    )


def _alone(run: TrainingRun, system: str) -> TrainingRun | None:
    """Return the newest finished run of one side alone in the run's study, on the same items."""
    for other in reversed(study_runs(run.config.study) if run.config.study else []):
        if isinstance(other, TrainingRun) and other.config.system == system:
            return other if other.summary.get("data") == run.summary.get("data") else None
    return None
