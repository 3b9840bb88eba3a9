"""AutoGluon's side of `autogluon.py`: trains its MultiModalPredictor as a job file says, and predicts the test items.

`python -P benchmarks/autogluon_side.py JOB.json` runs in AutoGluon's own environment, and so imports nothing of the
kit. `-P`: without it this folder would be searched first, and `autogluon.py` in it found in place of AutoGluon.

The job: `model` (fusion_mlp or fusion_transformer), `text` and `image` (directories of the backbones), `train`,
`validation` and `test` (parquet files of `text`, `image` and, but for the test items, `label`), `epochs`, `batch`,
`tokens`, `pixels`, `seed`, `folder` (for its checkpoints) and `output` (the JSON file to write).
"""

import importlib.util
import json
import resource
import sys
from pathlib import Path

import pandas as pd
import torch


def declare_operators() -> torch.library.Library | None:
    """Make a torchvision importable that was built for another build of torch; keep a reference to the result.

    The package registry's torchvision is built for torch with CUDA. Beside a torch without, its compiled operators
    cannot be loaded, and its import fails when it describes one of them. No model here calls such an operator.
    """
    spec = importlib.util.find_spec("torchvision")
    for file in Path(spec.submodule_search_locations[0]).glob("_C*"):
        try:
            torch.ops.load_library(str(file))
        except OSError:
            library = torch.library.Library("torchvision", "DEF")
            library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            return library
    return None


def hyperparameters(job: dict) -> dict:
    """Return the settings of the comparison; all others are AutoGluon's defaults."""
    return {
        "model.names": ["hf_text", "timm_image", job["model"]],
        "model.hf_text.checkpoint_name": job["text"],
        "model.hf_text.max_text_len": job["tokens"],
        # its changes to training texts are for English, from a thesaurus that is downloaded when training starts
        "model.hf_text.text_trivial_aug_maxscale": 0,
        "model.timm_image.checkpoint_name": job["image"],
        "model.timm_image.image_size": job["pixels"],
        "optim.max_epochs": job["epochs"],
        "optim.patience": 1000,  # it would stop early: both sides train all epochs
        "env.batch_size": job["batch"],
        "env.per_gpu_batch_size": job["batch"],
        "env.accelerator": "cpu",
    }


def seconds() -> float:
    """Return the user CPU seconds of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def main(path: str) -> None:
    job = json.loads(Path(path).read_text(encoding="utf-8"))
    library = declare_operators()
    from autogluon.multimodal import MultiModalPredictor, __version__

    imported = seconds()
    parts = {part: pd.read_parquet(job[part]) for part in ("train", "validation", "test")}
    predictor = MultiModalPredictor(
        label="label", problem_type="multiclass", path=job["folder"], enable_progress_bar=False
    )
    predictor.fit(
        parts["train"],
        tuning_data=parts["validation"],
        column_types={"text": "text", "image": "image_path"},
        hyperparameters=hyperparameters(job),
        seed=job["seed"],
    )
    predicted = predictor.predict(parts["test"])
    found = {"predicted": [int(code) for code in predicted], "import_seconds": imported}
    found |= {"parameters": predictor.total_parameters, "autogluon": __version__, "torch": torch.__version__}
    found |= {"torchvision": "declared" if library else "loaded"}
    Path(job["output"]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
