"""How long a training may take before its own pace is known."""

from kit.config import TrainConfig
from kit.core.console import setting
from kit.core.machine import available_gpus

# seconds per 16 items, from and to, of CamemBERT with ResNet152 at 500 pixels, both fine-tuned, on two cores
# (benchmarks/results/rehearsal.txt)
CPU_PACE, CPU_ITEMS = (42, 72), 16


def expected_time(config: TrainConfig, items: int) -> str:
    """Return a line on how long a training without a GPU may take, of a catalogue of `items` training items; "" with a
    GPU, or if no backbone is fine-tuned, which takes minutes."""
    if config.frozen == config.sides or available_gpus():
        return ""
    share = 1 - 1 / config.folds if config.folds > 1 else 1 - config.val_share
    learned = config.steps(round(share * (min(items, config.limit) if config.limit else items))) * config.batch_size
    seconds = [pace / CPU_ITEMS * learned for pace in CPU_PACE]
    return (
        f"There is no GPU here: this may take {_duration(*seconds)} (estimate: {learned:,} images and texts at the "
        f"pace of CamemBERT with ResNet152 on two cores). What takes minutes: "
        f"{setting(text='e5_small', image='efficientnet_lite0', recipe='demo')}."
    )


def _duration(low: float, high: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600)):
        if low >= 2 * length:
            return f"{low / length:.0f} to {high / length:.0f} {unit}"
    return f"{max(low / 60, 1):.0f} to {max(high / 60, 2):.0f} minutes"
