"""The training loop: one fold's model, from its first step to its predictions.

N items · K classes
"""

import functools
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator, DistributedType
from accelerate.data_loader import DataLoaderShard
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import ChainedScheduler, CosineAnnealingLR, LinearLR, LRScheduler, MultiStepLR

from kit.config import TrainConfig
from kit.core.console import Bar
from kit.core.exceptions import KitError
from kit.core.files import write_atomically
from kit.data.augment import augment
from kit.data.dataset import ProductDataset
from kit.data.sampler import LengthBatches, make_loader
from kit.metrics import scores, softmax, temperature
from kit.models.classifier import Classifier
from kit.runs import Run
from kit.training.attention import measure_attention
from kit.training.checkpoint import Checkpoints, Progress
from kit.training.features import not_finite
from kit.training.interrupt import Interrupted, Watch
from kit.training.saved_weights import load_weights, mix_weights, read_weights, save_weights, set_weights
from kit.training.status import report

PREDICTION_FACTOR = 4 if torch.cuda.is_available() else 1  # times a training batch: without a gradient there is room
SOUP = 3  # the best epochs, of which a soup may be made
PACE_STEPS = 10  # the steps after which a run says how long it will take


class NotFinite(KitError):
    """The loss became NaN or infinite; `rows` are the batch's indices into the run's training items."""

    def __init__(self, sentence: str, rows: list[int]):
        super().__init__(sentence)
        self.rows = rows


@dataclass
class Session:
    """One process at work on a run: what all parts of a training share."""

    run: Run
    config: TrainConfig
    accelerator: Accelerator
    watch: Watch
    checkpoints: Checkpoints
    progress: Progress
    steps: int  # of the whole run, at most


class FoldTrainer:
    """Train one fold's model for `epochs`, keep the epoch that the configuration says, and predict with it.

    `parts` are the fold's items: "train", "oof" (which validate) and "test". `before`: the run's steps before this
    training. Training resumes at the session's progress, whose history gets a row per epoch and becomes metrics.csv.
    """

    session: Session
    parts: dict[str, ProductDataset]
    items: int  # that the model trains on
    steps: int  # optimizer steps per epoch
    model: nn.Module  # as Accelerate prepared it
    optimizer: torch.optim.Optimizer
    schedule: LRScheduler
    class_weights: Tensor | None  # [K], of the classes in the loss
    batches: DataLoaderShard  # this process's shares of the training batches
    sampler: LengthBatches
    seeds: np.ndarray  # [N], of the epoch's chances per item: the same wherever it resumes, and in whichever process
    first_step: int  # of the epoch, at which training resumed
    seen: int  # items of the epoch that all processes together have trained on
    spoiled: bool  # whether a batch of the current step had a loss that was not finite

    def __init__(
        self, session: Session, model: Classifier, parts: dict[str, ProductDataset], epochs: int, before: int = 0
    ):
        self.session, self.parts, self.epochs, self.before = session, parts, epochs, before
        config, accelerator = session.config, session.accelerator
        if accelerator.distributed_type == DistributedType.FSDP:  # it shards no weights in channels_last
            model.to(memory_format=torch.contiguous_format)
        self.items = len(parts["train"])
        self.steps = -(-self.items // config.batch_size)
        loader = make_loader(parts["train"], config.micro_batch, True, config.seed, config.workers, config.accumulate)
        self.sampler = loader.batch_sampler  # type: ignore[assignment]  # torch's stubs do not know its class
        self.sampler.full = accelerator.num_processes > 1
        optimizer = torch.optim.AdamW(parameter_groups(model, config), fused=True)
        self.schedule = learning_rates(optimizer, config, self.steps)
        self.class_weights = None
        if config.class_weights and (labels := parts["train"].labels) is not None:
            self.class_weights = class_weights(labels, model.classes, config.class_weights).to(accelerator.device)
        self.model, self.optimizer, self.batches = accelerator.prepare(model, optimizer, loader)

    def fit(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the kept epoch's logits `[N, K]` of the items that validate, and of the test items."""
        config, accelerator, progress = self.session.config, self.session.accelerator, self.session.progress
        checkpoints, weights = self.session.checkpoints, self.session.run.folder / f"model-{progress.fold}.safetensors"
        validation = self._prediction_batches("oof")
        first = progress.epoch + 1
        if checkpoints.training:
            checkpoints.restore(self.model, self.optimizer, self.schedule)
        elif config.keep == "held_out":
            first = 0  # the start is a candidate
        for epoch in range(first, self.epochs + 1):
            if epoch:
                self._train_epoch(epoch)
            row, logits = self._score(epoch, validation)
            kept = row["macro_f1"] > progress.best if config.keep in ("best", "soup") else epoch == self.epochs
            self._record(row | {"kept": kept})
            if kept:
                progress.best, progress.kept = row["macro_f1"], torch.from_numpy(logits)
                save_weights(self.model, weights, accelerator)
            if config.keep == "soup":
                self._keep_ingredient()
            if epoch:
                progress.next_epoch()
        accelerator.wait_for_everyone()
        if config.keep == "soup":
            self._cook(validation)
            save_weights(self.model, weights, accelerator)
            accelerator.wait_for_everyone()
        load_weights(self.model, weights, accelerator.unwrap_model(self.model).frozen_prefixes)
        assert progress.kept is not None  # by the last epoch at the latest
        if config.system == "coattention" and config.coattention:
            progress.attention.append(self._measure_attention(validation))
        return progress.kept.numpy(), self._predict("test", self._prediction_batches("test"))

    def choose(self) -> int:
        """Return after how many epochs, from 0 to all, the items held out as "oof" are told best.

        That is by their loss at the best temperature: it is less noisy than a macro-F1 of few items, and does not
        count it against longer training that its probabilities are bolder.
        """
        progress, held_out = self.session.progress, self._prediction_batches("oof")
        if self.session.checkpoints.training:
            self.session.checkpoints.restore(self.model, self.optimizer, self.schedule)
        for epoch in range(len(progress.held_out), self.epochs + 1):
            if epoch:
                self._train_epoch(epoch)
            labels = self.parts["oof"].labels
            assert labels is not None
            progress.held_out.append(temperature(self._predict("oof", held_out), labels)[1])
            if epoch:
                progress.next_epoch()
        return int(np.argmin(progress.held_out))

    def _train_epoch(self, epoch: int) -> None:
        """Train epoch 1, 2, … or the rest of it."""
        if self.session.progress.step < self.steps:
            self.train_epoch(self._epoch_batches(epoch - 1))
            with self.session.watch:
                self._save()  # an interruption from here on costs a validation
        self.session.checkpoints.restore_random()

    def train_epoch(self, batches: Iterable[dict[str, Tensor]]) -> None:
        """Train on `batches`, this process's shares of the rest of the epoch.

        Raise NotFinite, and Interrupted once the state is saved.
        """
        accelerator, progress, watch = self.session.accelerator, self.session.progress, self.session.watch
        self.first_step, self.seen = progress.step, progress.step * self.session.config.batch_size
        self.spoiled, clock = False, time.perf_counter()
        random = np.random.default_rng((self.session.config.seed, progress.fold, progress.epoch))
        self.seeds = random.integers(2**32, size=self.items)
        self.model.train()
        with watch:
            for batch in watch.each(batches):
                with accelerator.accumulate(self.model):
                    loss, labeled = self.step(batch)
                    stop, bad = watch.agree(not math.isfinite(loss))
                    self._account(batch, loss, labeled, bad)
                    if accelerator.sync_gradients:
                        self.update()
                if accelerator.sync_gradients:
                    progress.epoch_seconds += time.perf_counter() - clock
                    clock = time.perf_counter()
                    self._end_step(stop)

    def step(self, batch: dict[str, Tensor]) -> tuple[float, int]:
        """Return the summed loss of this process's own items of a batch, and how many they are.

        The gradient is that of the mean loss over the step's items, however many processes and batches share them.
        Class weights average to 1 over the training items, so the mean still divides by the number of items.
        """
        config, accelerator = self.session.config, self.session.accelerator
        in_step = min(config.batch_size, self.items - self.session.progress.step * config.batch_size)
        labels = batch["label"][: self._share(len(batch["label"]))]  # the rest is padding that evens out the shares
        logits = self.model(self._vary(batch))[: len(labels)]
        smoothing = config.label_smoothing
        loss = cross_entropy(logits, labels, self.class_weights, label_smoothing=smoothing, reduction="sum")
        accelerator.backward(loss * (accelerator.num_processes * config.accumulate / in_step))
        return loss.item(), len(labels)  # .item() waits; the step's kernels are queued, so a GPU stays busy

    def update(self) -> None:
        """Apply the step's gradient, unless one of its batches was not finite."""
        if not self.spoiled:
            if clip_norm := self.session.config.clip_norm:
                self.session.accelerator.clip_grad_norm_(self.model.parameters(), clip_norm)
            self.optimizer.step()
        self.optimizer.zero_grad()

    def _vary(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the batch with its images augmented and a side of some items left out, as their seeds decide."""
        config, changes = self.session.config, {}
        if config.augment and "pixels" in batch:
            changes["pixels"] = augment(batch["pixels"], self.seeds[batch["row"].cpu().numpy()].tolist())
        if (missing := batch.get("missing")) is not None:
            seeds = torch.from_numpy(self.seeds).to(missing.device)[batch["row"]][:, None]  # [B, 1]
            side = seeds % 2 == torch.arange(2, device=missing.device)  # [B, 2]
            chosen = side & (seeds < config.modality_dropout * 2**32)
            changes["missing"] = missing | (chosen & ~missing.flip(1))  # an item that lacks one side keeps the other
        return batch | changes

    # --- what stands around a step

    def _in_batch(self) -> int:
        """Return how many items the batch at hand has, over all processes."""
        return min(self.session.config.micro_batch, self.items - self.seen)

    def _share(self, size: int) -> int:
        """Return how many of the `size` items that this process holds of the batch are its own."""
        return min(max(self._in_batch() - self.session.accelerator.process_index * size, 0), size)

    def _account(self, batch: dict[str, Tensor], loss: float, labeled: int, bad: bool) -> None:
        """Add a batch to the epoch's sums. Raise NotFinite if its loss is `bad` in any process, and may not be."""
        config, progress = self.session.config, self.session.progress
        if bad and config.nonfinite == "error":
            rows = [] if math.isfinite(loss) else self.parts["train"].places[batch["row"][:labeled].cpu()].tolist()
            self._blame(batch, rows)
        self.seen += self._in_batch()
        self.spoiled |= bad
        if not bad:
            progress.loss, progress.items = progress.loss + loss, progress.items + labeled

    def _blame(self, batch: dict[str, Tensor], rows: list[int]) -> None:
        """Raise KitError if a backbone that was not trained yet gives no finite numbers, else NotFinite."""
        config, accelerator, progress = self.session.config, self.session.accelerator, self.session.progress
        rows = gather_object(rows)
        untrained = accelerator.unwrap_model(self.model).frozen if progress.epoch + progress.step else config.sides
        if sides := gather_object(_sides_not_finite(self.model, batch, accelerator, untrained)):
            raise KitError(not_finite(config, sides[0], accelerator.mixed_precision))
        place = f"epoch {progress.epoch + 1}, step {progress.step + 1}"
        raise NotFinite(f"The loss became NaN or infinite in {place}.", rows)

    def _end_step(self, stop: bool) -> None:
        """Count the step, move the learning rates, say the pace once, and save the state when it is time.

        Raise Interrupted on `stop`.
        """
        config, progress = self.session.config, self.session.progress
        self.schedule.step()
        progress.step, progress.skipped, self.spoiled = progress.step + 1, progress.skipped + self.spoiled, False
        self._report()
        if stop or (config.save_steps and progress.step % config.save_steps == 0 and self.seen < self.items):
            self._save()
        if stop:
            raise Interrupted(self.session.watch.heard)

    def _report(self) -> None:
        """Report how far the run is; once enough steps are measured also their pace, which is printed once."""
        progress = self.session.progress
        measured, total = min(self.first_step + PACE_STEPS, self.steps), self.session.steps
        seconds = progress.epoch_seconds / progress.step
        done = self.before + progress.epoch * self.steps + progress.step
        place = {"fold": progress.fold + 1, "epoch": progress.epoch + 1, "step": progress.step}
        report(**place, done=done, total=total, **({"seconds_per_step": seconds} if progress.step >= measured else {}))
        if progress.step == measured and not progress.history and self.session.accelerator.is_main_process:
            print(describe_pace(seconds, measured, total), flush=True)

    def _save(self) -> None:
        """Save the state. Raise NotFinite if a weight is NaN or infinite: there would be nothing to resume from."""
        values = [*(value for value in self.model.parameters() if value.requires_grad), *self.model.buffers()]
        if self.session.watch.agree(not all(value.isfinite().all() for value in values))[1]:
            raise NotFinite(f"The weights became NaN or infinite in epoch {self.session.progress.epoch + 1}.", [])
        self.session.checkpoints.write(self.session.progress, self.model, self.optimizer, self.schedule)

    # --- epochs

    @property
    def _title(self) -> str:
        folds = self.session.config.folds
        return f"fold {self.session.progress.fold + 1}/{folds} " if folds > 1 else ""

    def _epoch_batches(self, epoch: int) -> Iterable[dict[str, Tensor]]:
        """Return the batches of the rest of an epoch, with a bar."""
        self.batches.set_epoch(epoch)
        self.sampler.epoch, self.sampler.start = epoch, self.session.progress.step
        title = f"{self._title}epoch {epoch + 1}/{self.epochs}"
        bar = Bar(self.session.checkpoints.batches(self.batches), title, len(self.batches), False)
        bar.disable |= not self.session.accelerator.is_main_process
        return bar

    def _score(self, epoch: int, validation: Iterable[dict[str, Tensor]]) -> tuple[dict, np.ndarray | None]:
        """Return the epoch's row of metrics.csv, and the logits of the items that validate, if they were predicted."""
        config, accelerator, progress = self.session.config, self.session.accelerator, self.session.progress
        sums = torch.tensor([progress.loss, progress.items], device=accelerator.device)
        loss, seen = accelerator.reduce(sums).tolist()
        row: dict[str, float] = {"fold": progress.fold, "epoch": epoch}
        logits = None
        if epoch:
            row["train_loss"] = loss / seen if seen else math.nan
        if config.curve or config.keep in ("best", "soup") or epoch == self.epochs:
            validated, logits = self._validate(validation)
            row |= validated
        if not np.isfinite(list(row.values())).all():
            raise KitError(
                f"The loss became NaN or infinite in epoch {epoch}: start over with a lower lr or a clip_norm."
            )
        if not epoch:
            return row, logits
        seconds = progress.epoch_seconds
        pace = {"samples_per_second": self.items / seconds, "step_seconds": seconds / self.steps}
        return row | {"seconds": seconds} | pace, logits

    def _validate(self, validation: Iterable[dict[str, Tensor]]) -> tuple[dict, np.ndarray]:
        """Return scores and logits `[N, K]` of the items that validate."""
        logits, labels = self._predict("oof", validation), self.parts["oof"].labels
        assert labels is not None
        return scores(softmax(logits), labels), logits

    def _record(self, row: dict) -> None:
        """Add a row to the history and to metrics.csv; of a fold's rows, the last that was kept is marked."""
        progress = self.session.progress
        for past in progress.history:
            past["kept"] = past["kept"] and not (row["kept"] and past["fold"] == row["fold"])
        progress.history.append(row)
        if self.session.accelerator.is_main_process:
            print(self._title + describe_epoch(row, self.epochs) + ("  *" if row["kept"] else ""), flush=True)
        self._write_metrics()

    def _write_metrics(self) -> None:
        if self.session.accelerator.is_main_process:
            table = pd.DataFrame(self.session.progress.history)
            path = self.session.run.folder / "metrics.csv"
            write_atomically(path, functools.partial(table.to_csv, index=False))

    # --- a soup of epochs

    def _best_epochs(self) -> list[dict]:
        """Return the rows of the fold's best epochs so far, best first."""
        rows = [row for row in self.session.progress.history if row["fold"] == self.session.progress.fold]
        return sorted(rows, key=lambda row: -row["macro_f1"])[:SOUP]

    def _weights_of(self, row: dict) -> Path:
        return self.session.run.folder / f"epoch-{row['fold']}-{row['epoch']}.safetensors"

    def _keep_ingredient(self) -> None:
        """Save the latest epoch's weights if it is among the best, and remove those of the epoch that it displaces."""
        best, latest = [self._weights_of(row) for row in self._best_epochs()], self.session.progress.history[-1]
        if self._weights_of(latest) in best:
            save_weights(self.model, self._weights_of(latest), self.session.accelerator)
        if self.session.accelerator.is_main_process:
            for path in {*self.session.run.folder.glob(f"epoch-{latest['fold']}-*.safetensors")} - {*best}:
                path.unlink()

    def _cook(self, validation: Iterable[dict[str, Tensor]]) -> None:
        """Set the model's weights to a greedy soup of the best epochs' (Wortsman et al. 2022).

        From the best down, each epoch's weights are averaged in unless macro-F1 on the items that validate falls.
        """
        progress, (best, *others) = self.session.progress, self._best_epochs()
        soup, epochs = read_weights(self._weights_of(best)), [best["epoch"]]
        for row in others:
            mixed = mix_weights(soup, read_weights(self._weights_of(row)), 1 / (len(epochs) + 1))
            set_weights(self.model, mixed)
            validated, logits = self._validate(validation)
            if validated["macro_f1"] >= progress.best:
                soup, progress.best, progress.kept = mixed, validated["macro_f1"], torch.from_numpy(logits)
                epochs.append(row["epoch"])
        set_weights(self.model, soup)
        for row in progress.history:
            if row["fold"] == progress.fold:
                row["kept"] = row["epoch"] in epochs
        self._write_metrics()
        if self.session.accelerator.is_main_process:
            names = ", ".join(map(str, sorted(epochs)))
            print(f"{self._title}soup of the epochs {names}: macro-F1 {100 * progress.best:5.2f}", flush=True)

    def _prediction_batches(self, part: str) -> Iterable[dict[str, Tensor]]:
        """Return the batches of a part for prediction."""
        config = self.session.config
        if not len(self.parts[part]):
            return []
        loader = make_loader(self.parts[part], PREDICTION_FACTOR * config.micro_batch, workers=config.workers)
        return self.session.accelerator.prepare(loader)

    def _measure_attention(self, validation: Iterable[dict[str, Tensor]]) -> dict:
        """Return what attention does on the items that validate."""
        session, labels = self.session, self.parts["oof"].labels
        assert labels is not None
        inspect = functools.partial(self.model, inspect=True)
        outputs = run_batches(inspect, validation, len(labels), self.model, session.accelerator, session.watch)
        logits, spreads = outputs
        return measure_attention(session.config, logits, spreads, labels)

    def _predict(self, part: str, batches: Iterable[dict[str, Tensor]]) -> np.ndarray:
        return predict(self.model, batches, len(self.parts[part]), self.session.accelerator, self.session.watch)


def predict(
    model: nn.Module,
    batches: Iterable[dict[str, Tensor]],
    items: int,
    accelerator: Accelerator,
    watch: Watch | None = None,
) -> np.ndarray:
    """Return the logits `[N, K]` of all `items`, in order, on every process. Raise Interrupted if `watch` says so."""
    if not items:
        return np.zeros((0, accelerator.unwrap_model(model).classes), np.float32)
    (logits,) = run_batches(lambda batch: (model(batch),), batches, items, model, accelerator, watch)
    return logits


def run_batches(
    forward: Callable[[dict[str, Tensor]], tuple[Tensor, ...]],
    batches: Iterable[dict[str, Tensor]],
    items: int,
    model: nn.Module,
    accelerator: Accelerator,
    watch: Watch | None = None,
) -> list[np.ndarray]:
    """Return what `forward`, a use of `model`, returns for all `items`, in order, on every process; NaN for items that
    are in no batch. Raise Interrupted if `watch` says so.
    """
    model.eval()
    outputs = []
    sharded = accelerator.distributed_type == DistributedType.FSDP
    for buffer in model.buffers() if sharded else ():  # BatchNorm's statistics; otherwise torch sees to that
        torch.distributed.broadcast(buffer, 0)
    with torch.no_grad() if sharded else torch.inference_mode():  # training continues with the weights gathered here
        for batch in Bar(batches, desc="predict", leave=False, disable=not accelerator.is_main_process):
            one = tuple(value.float() for value in forward(batch))
            outputs.append(accelerator.gather_for_metrics((*one, batch["row"])))
            if watch and watch.agree()[0]:
                raise Interrupted(watch.heard)
    *values, rows = (torch.cat([part.cpu() for part in parts]).numpy() for parts in zip(*outputs, strict=True))
    ordered = [np.full((items, *value.shape[1:]), np.nan, np.float32) for value in values]
    for whole, value in zip(ordered, values, strict=True):
        whole[rows] = value
    return ordered


def parameter_groups(model: Classifier, config: TrainConfig) -> list[dict]:
    """Return AdamW's groups: pretrained layers at `lr * backbone_lr_scale`, new ones at `lr` (paper section 4.3).

    In the head, what its `new` names counts as new.
    """
    new: list[nn.Parameter] = []
    pretrained: list[nn.Parameter] = []
    prefix = ("missing.", *(f"head.{name}" for name in model.head.new))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (new if name.startswith(prefix) else pretrained).append(parameter)
    groups = [{"params": pretrained, "lr": config.lr * config.backbone_lr_scale}, {"params": new, "lr": config.lr}]
    return [group | {"weight_decay": config.weight_decay} for group in groups if group["params"]]


def class_weights(labels: np.ndarray, classes: int, power: float) -> Tensor:
    """Return weights `[K]` proportional to the inverse class frequencies to the `power`, of mean 1 over the items."""
    counts = np.bincount(labels, minlength=classes)
    weights = np.maximum(counts, 1) ** -power  # a class without an item is in no loss
    return torch.from_numpy(weights * counts.sum() / (weights * counts).sum()).float()


def learning_rates(optimizer: torch.optim.Optimizer, config: TrainConfig, steps: int) -> LRScheduler:
    """Return the schedule of the learning rates, moved after every step, for epochs of `steps` steps.

    The warm-up multiplies whichever decay is chosen.
    """
    total = config.epochs * steps
    decay = (
        CosineAnnealingLR(optimizer, total)
        if config.schedule == "cosine"
        else MultiStepLR(optimizer, [*range(steps, total, steps)], config.lr_decay)
    )
    rising = round(config.warmup * total)
    warmup = [LinearLR(optimizer, 1 / (rising + 1), total_iters=rising)] if rising else []
    return ChainedScheduler([decay, *warmup], optimizer)


def describe_pace(seconds: float, steps: int, total: int) -> str:
    """Return what the first `steps`, at so many seconds each, say of a run of `total` steps."""
    return f"{seconds:.3g} s a step over the first {steps}: about {seconds * total / 60:.1f} min for {total} steps"


def describe_epoch(row: dict, epochs: int) -> str:
    """Return a row of metrics.csv as a line to read."""
    validated = ""
    if "loss" in row:
        validated = f"validation loss {row['loss']:.4f}  macro-F1 {100 * row['macro_f1']:5.2f}  "
        validated += f"accuracy {100 * row['accuracy']:5.2f}  "
    if not row["epoch"]:
        return f"start      {validated}".rstrip()
    pace = row["samples_per_second"]
    return (
        f"epoch {row['epoch']:>2}/{epochs}  training loss {row['train_loss']:.4f}  {validated}"
        f"{row['seconds']:.0f} s, {pace:.{0 if pace >= 10 else 1}f} items/s"
    )


def _sides_not_finite(
    model: nn.Module, batch: dict[str, Tensor], accelerator: Accelerator, sides: tuple[str, ...]
) -> list[str]:
    """Return those of `sides` whose backbone itself returns NaN or infinite numbers for the batch."""
    if accelerator.distributed_type == DistributedType.FSDP:  # a part of it can't be run alone
        return []
    classifier: Any = accelerator.unwrap_model(model)
    with torch.no_grad(), accelerator.autocast():
        layers, regions = classifier.features(batch)
        values = dict(zip(("text", "image"), classifier.head.inputs(layers, batch["mask"], regions), strict=True))
    return [side for side in sides if not values[side].isfinite().all()]
