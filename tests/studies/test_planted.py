"""Planted tasks: the full model solves each, and without the part that a task is made for it stays at chance."""

from functools import partial

import pytest

from kit.studies import planted
from kit.studies.study_runs import ABLATIONS


@pytest.fixture(scope="module")
def ablated():
    return planted.ablations()


def test_each_part_solves_what_nothing_else_can(ablated):
    assert set(ablated["ablation"]) == set(ABLATIONS) - {"full"}
    assert set(ablated["what tells the class"]) == set(planted.TASKS)
    for _, row in ablated.iterrows():
        assert row["with"] >= 0.95 and row["without"] < row["chance"] + 0.1, row.to_dict()


def test_every_fusion_reads_either_side_and_their_agreement():
    table = planted.fusions().set_index("what tells the class")
    assert (table[["concat", "bilinear", "dot"]] >= 0.95).all(axis=None)
    assert table["text"]["text alone"] >= 0.95 and table["image"]["image alone"] >= 0.95
    blind = [table["text"]["image alone"], table["image"]["text alone"]]
    assert max(*blind, *table.loc["agreement of text and image", ["text", "image"]]) < 0.6


@pytest.mark.parametrize("settings", [{"linear_start": True}, {"attention_scale": True}])
def test_attention_also_learns_from_another_start_or_scale(settings, one_thread):
    task = planted.TASKS["region that a word names"]
    assert planted.accuracy(partial(planted.coattention_head, task, **settings), task) >= 0.95


def test_the_same_seed_draws_and_learns_the_same():
    task = planted.TASKS["text alone"]
    once, again = (planted.accuracy(partial(planted.fusion_head, task, "concat"), task, 3, steps=5) for _ in range(2))
    assert once == again
