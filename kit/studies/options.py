"""The options of the commands that make several runs, apart from what they do, which takes seconds to import."""

import argparse

from kit.config import RECIPES, TrainConfig


def add_paper(parser: argparse.ArgumentParser) -> None:
    """Add the options of `kit.studies.pipeline:run_study`."""
    parser.add_argument(
        "--study", default="paper", help="the study's name: its folder is runs/<study> (default: %(default)s)"
    )
    _add_data(parser)
    parser.add_argument(
        "--texts", default="camembert,flaubert,mbert", help="text backbones, comma-separated (default: %(default)s)"
    )
    parser.add_argument(
        "--images", default="resnet152,resnext101_32x8d", help="image backbones, comma-separated (default: %(default)s)"
    )
    parser.add_argument("--recipe", default=TrainConfig.recipe, help=f"{', '.join(RECIPES)} (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds per ablation (default: %(default)s)")
    parser.add_argument(
        "--matched",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="unless the recipe freezes both backbones: also train concat fine-tuned and co-attention frozen, which "
        "separates what co-attention gains from what fine-tuning gains and takes as long as up to two members",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="number of trainings at once; each needs its own memory (default: %(default)s)",
    )
    parser.add_argument(
        "--answers", default="", help="table of the test items' codes, used only for scoring in the report"
    )
    _add_fields(parser, "FIELD", "set a field of every run, or processes, or again")


def add_best(parser: argparse.ArgumentParser) -> None:
    """Add the options of `kit.studies.best:run_ladder`."""
    parser.add_argument(
        "--study",
        default="best",
        help="the study's name, which its stack and the folder in submissions/ get too (default: %(default)s)",
    )
    _add_data(parser)
    parser.add_argument("--recipe", default="laptop", help=f"{', '.join(RECIPES)} (default: %(default)s)")
    parser.add_argument("--texts", default="", help="text backbones, comma-separated (default: the recipe's)")
    parser.add_argument(
        "--images",
        default="",
        help="image backbones, comma-separated: the first joins the first text backbone, and so on; of the shorter "
        "list, they start again from its first (default: the recipe's)",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=2,
        help="trainings of each model; 0: light members alone (default: %(default)s)",
    )
    parser.add_argument(
        "--max-minutes",
        type=float,
        help="end after so many minutes with the best submission so far; the first rung is always made (default: none)",
    )
    text = "a field of every run that differs from the recipe, or again True, which trains finished runs again"
    _add_fields(parser, "FIELD", text)


def add_distil(parser: argparse.ArgumentParser) -> None:
    """Add the options of `kit.studies.distil:distil`."""
    parser.add_argument("teacher", metavar="STACK", help="name of a finished stack, or of another run to learn from")
    _add_fields(parser, "NAME", "a field of the run, or again")


def _add_data(parser: argparse.ArgumentParser) -> None:
    text = "challenge folder of either edition, or a catalogue (default: %(default)s)"
    parser.add_argument("--data", default=TrainConfig.data, help=text)


def _add_fields(parser: argparse.ArgumentParser, name: str, text: str) -> None:
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=(name, "VALUE"), help=text)
