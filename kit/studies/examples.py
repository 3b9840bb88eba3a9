"""What a run's attention looks like on a few items, and whether it matters, as a notebook shows it."""

import html

from kit.analysis.attention import attending_run, describe_blanking
from kit.analysis.errors import Errors, read_errors
from kit.analysis.gallery import attention_gallery
from kit.data.items import challenge_of
from kit.runs import Run, TrainingRun
from kit.studies.study_runs import study_runs
from kit.training.explain import blanking, explain
from kit.training.trained import open_trained

NONE = "There is no attention to look at: {} has no co-attention, or its weights are gone."


def attention_examples(run: Run, right: int, wrong: int, data: str = "") -> str:
    """Return cards, as HTML, of `right` items that a run gets right and `wrong` ones that it gets wrong, with what it
    attended to; of an ensemble, those of its best member with co-attention.

    `data`: the run's challenge folder, if it has moved.
    """
    if not (attending := attending_run(run)):
        return f"<p>{html.escape(NONE.format(run.name))}</p>"
    errors = read_errors(attending, challenge_of(attending, data))
    chosen, why = telling_items(attending, errors, right, wrong)
    explained = explain(open_trained(attending, data=data), chosen)
    return f"<p>{html.escape(why)}</p>\n{attention_gallery(explained, errors.names)}"


def attention_matters(run: Run, data: str = "") -> str:
    """Return in words whether what a run, or an ensemble's best member with co-attention, attends to matters."""
    if not (attending := attending_run(run)):
        return NONE.format(run.name)
    return f"{attending.name}: {describe_blanking(blanking(open_trained(attending, data=data)))}"


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
