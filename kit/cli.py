"""The command `kit`: one sub-command for each thing that is started from a shell. No logic of its own.

What a sub-command does is imported when it is started: torch and the notebooks' libraries take seconds.
"""

import argparse
import os
import shlex
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

from kit.core.console import accept_any_character, open_closed_streams, plain_warnings
from kit.core.exceptions import KitError
from kit.studies.options import add_best, add_distil, add_paper


def parser() -> argparse.ArgumentParser:
    """Return the parser of all sub-commands; `action` of what it parses is the function to call."""
    main = argparse.ArgumentParser(prog="kit", description="The Rakuten notebook kit.")
    commands = main.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="execute a notebook into the folder of its run")
    run.add_argument("notebook", help="its name, such as 03_train")
    run.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter")
    run.set_defaults(action=_run)

    own = commands.add_parser("catalogue", help="describe a table of your own, which is then read in place")
    own.add_argument("items", type=Path, help="CSV, TSV or Parquet file with one labelled item per row")
    own.add_argument("--label", required=True, help="column of the classes to learn")
    own.add_argument("--title", default="", help="column of the items' names")
    own.add_argument("--text", default="", help="further columns of text, comma-separated")
    own.add_argument("--image", default="", help="columns of image paths, comma-separated")
    own.add_argument("--id", default="", help="column of your own ids (default: the number of the row)")
    own.add_argument("--test", type=Path, help="table of the items to predict, with the same columns but the label")
    own.add_argument("--images", type=Path, help="folder in which the image paths start (default: of the table)")
    own.add_argument("--out", type=Path, help="folder for the description (default: data/NAME of the table)")
    own.set_defaults(action=_catalogue)

    paper = commands.add_parser("paper", help="run a whole study: every notebook in turn, then the report")
    add_paper(paper)
    paper.set_defaults(action=_paper)

    ladder = commands.add_parser("best", help="the best submission that the time allows, one member after the other")
    add_best(ladder)
    ladder.set_defaults(action=_best)

    student = commands.add_parser("distil", help="train one model on what a stack predicts out of fold")
    add_distil(student)
    student.set_defaults(action=_distil)

    report = commands.add_parser("report", help="write a study's report again, with its notebooks as a static site")
    report.add_argument("study", help="name of the study")
    report.set_defaults(action=_report)

    runs = commands.add_parser("runs", help="list all runs with their scores and states; show one; compare two")
    runs.add_argument("--study", default="", help="list only the runs of this study")
    runs.set_defaults(action=_runs)
    about = runs.add_subparsers(metavar="COMMAND")
    one = about.add_parser("show", help="show one run: differences from its recipe, scores, worst classes, files")
    one.add_argument("name", help="name of the run")
    one.set_defaults(action=_show)
    two = about.add_parser("compare", help="compare two runs on the same items: difference, and the items that flip")
    two.add_argument("first", metavar="A", help="name of a finished run")
    two.add_argument("second", metavar="B", help="name of another")
    two.add_argument("--all", action="store_true", help="list all items that flip")
    two.set_defaults(action=_compare)

    predict = commands.add_parser("predict", help="predict new items with a finished run")
    predict.add_argument("run", help="name or folder of the run, or a folder of kit export")
    predict.add_argument("items", type=Path, help="CSV, TSV or Parquet file with one item per row")
    predict.add_argument("--images", type=Path, help="folder in which the image paths start (default: of the table)")
    predict.add_argument(
        "-o", "--out", type=Path, help="CSV, TSV or Parquet file to write (default: ITEMS-predicted.csv here)"
    )
    predict.set_defaults(action=_predict)

    export = commands.add_parser("export", help="gather what a finished run needs to predict elsewhere")
    export.add_argument("run", help="name or folder of the run")
    export.add_argument("folder", type=Path, help="folder to make")
    export.set_defaults(action=_export)

    check = commands.add_parser("check", help="say whether a submission file is valid")
    check.add_argument("file", type=Path, help="the file to check")
    check.add_argument("--data", type=Path, help="the challenge folder (default: of the run in submissions/<run>/)")
    check.set_defaults(action=_check)

    kaggle = commands.add_parser("kaggle", help="make a folder to upload to Kaggle, with all that is needed there")
    kaggle.add_argument("--out", type=Path, default=Path("kaggle"), help="the folder to make (default: kaggle)")
    kaggle.add_argument("--text", default="e5_small", help="text backbone: a name, or a directory of weights")
    kaggle.add_argument("--image", default="efficientnet_lite0", help="image backbone, likewise")
    kaggle.set_defaults(action=_kaggle)

    text = "open working copies of the notebooks in JupyterLab"
    notebooks = commands.add_parser("notebooks", help=text, prefix_chars="+", add_help=False)  # "-" is Jupyter's
    notebooks.add_argument("options", nargs="*", help="options of jupyter lab")
    notebooks.set_defaults(action=_notebooks)
    return main


def _run(options: argparse.Namespace) -> None:
    from kit.studies.pipeline import run_notebook

    print(f"Executed notebook: {run_notebook(options.notebook, options.p)}")


def _catalogue(options: argparse.Namespace) -> None:  # in a shell, a relative path starts at the working directory
    from kit.data.catalogue import describe
    from kit.data.challenge import summarise

    values: dict[str, Any] = {
        k: v.absolute() if isinstance(v, Path) else v for k, v in vars(options).items() if k != "action"
    }
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        folder = describe(values.pop("items"), **values)
    print("\n".join([summarise(folder), *(str(warning.message) for warning in told)]))
    print(f"Next: kit run 01_eda -p data {shlex.quote(str(folder))}")


def _predict(options: argparse.Namespace) -> None:
    from kit.predict import predict_table

    paths = (value and value.absolute() for value in (options.items, options.images, options.out))
    print(predict_table(options.run, *paths))


def _export(options: argparse.Namespace) -> None:
    from kit.export import export

    print(export(options.run, options.folder.absolute()))


def _paper(options: argparse.Namespace) -> int:
    from kit.studies.pipeline import run_study

    return run_study(options)


def _best(options: argparse.Namespace) -> int:
    from kit.studies.best import run_ladder

    return run_ladder(options)


def _distil(options: argparse.Namespace) -> None:
    from kit.studies.distil import distil

    distil(options)


def _report(options: argparse.Namespace) -> None:
    from kit.studies.report import write_report

    print(write_report(options.study))


def _runs(options: argparse.Namespace) -> None:
    from kit.analysis.board import board, tell_board

    print(tell_board(board(options.study), study=options.study))


def _show(options: argparse.Namespace) -> None:
    from kit.analysis.board import show

    print(show(options.name))


def _compare(options: argparse.Namespace) -> None:
    from kit.analysis.board import tell_comparison

    print(tell_comparison(options.first, options.second, options.all))


def _notebooks(options: argparse.Namespace) -> None:
    from kit.working_copies import open_notebooks

    open_notebooks(options.options)


def _check(options: argparse.Namespace) -> None:  # in a shell, a relative path starts at the working directory
    from kit.submission import check_file

    print(check_file(options.file.absolute(), options.data and options.data.absolute()))


def _kaggle(options: argparse.Namespace) -> None:  # in a shell, a relative path starts at the working directory
    from kit.kaggle import build

    sides = (str(Path(name).absolute()) if Path(name).is_dir() else name for name in (options.text, options.image))
    print(build(options.out.absolute(), *sides))


def main(arguments: list[str] | None = None) -> int:
    """Run one sub-command; return its exit status: 1 after a sentence about what is wrong, 130 if interrupted."""
    open_closed_streams()
    accept_any_character()
    plain_warnings()
    options = parser().parse_args(arguments)
    usual = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was started saves and ends too
    try:
        status = options.action(options) or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KitError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, usual)
