"""Lets papermill write a notebook into a run folder that is not there yet (registered in pyproject.toml)."""

from pathlib import Path

from papermill.iorw import LocalHandler


class RunFolder(LocalHandler):
    """papermill's own handler of local files, which refuses an output folder that is not there."""

    def write(self, buf: str, path: str) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        super().write(buf, path)


run_folder = RunFolder()
