"""The training loop: one fold's model, from its first step to its predictions.

N items · K classes
"""

import functools
import math
import time
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from accelerate import DistributedType
from accelerate.data_loader import DataLoaderShard
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LRScheduler

from kit.core.console import Bar
from kit.core.exceptions import KitError
from kit.data.augment import vary
from kit.data.dataset import ProductDataset
from kit.data.sampler import LengthBatches, make_loader
from kit.metrics import scores, softmax, temperature
from kit.models.classifier import Classifier
from kit.training.attention import inspect_attention
from kit.training.history import record_epoch, report_step
from kit.training.interrupt import Interrupted
from kit.training.nonfinite import NotFinite, blame
from kit.training.optimization import class_weights, learning_rates, parameter_groups
from kit.training.predict import predict, prediction_batches
from kit.training.saved_weights import load_weights, save_weights
from kit.training.session import Session
from kit.training.soup import cook, keep_ingredient


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
    slow: float  # seconds of the epoch until the first step since then was done
    spoiled: bool  # whether the loss of a batch of the current step, or its gradient, was not finite
    norm: Tensor  # of the last step's gradient

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
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.batches = accelerator.prepare_data_loader(loader, device_placement=False)  # `vary` moves the batches

    def fit(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the kept epoch's logits `[N, K]` of the items that validate, and of the test items."""
        config, accelerator, progress = self.session.config, self.session.accelerator, self.session.progress
        weights = self.session.run.folder / f"model-{progress.fold}.safetensors"
        validation = prediction_batches(self.parts["oof"], config, accelerator)
        # with held_out the start is a candidate too
        anew = config.keep == "held_out" and not self.session.checkpoints.pending
        for epoch in self._each_epoch(0 if anew else progress.epoch + 1):
            row, logits = self._score(epoch, validation)
            kept = row["macro_f1"] > progress.best if config.keep in ("best", "soup") else epoch == self.epochs
            record_epoch(self.session, row | {"kept": kept}, self.epochs)
            if kept:
                progress.best, progress.kept = row["macro_f1"], torch.from_numpy(logits)
                save_weights(self.model, weights, accelerator)
            if config.keep == "soup":
                keep_ingredient(self.session, self.model)
        accelerator.wait_for_everyone()
        if config.keep == "soup":
            cook(self.session, self.model, functools.partial(self._validate, validation))
            save_weights(self.model, weights, accelerator)
            accelerator.wait_for_everyone()
        load_weights(self.model, weights, accelerator.unwrap_model(self.model).frozen_prefixes)
        assert progress.kept is not None  # by the last epoch at the latest
        if config.attends:
            progress.attention.append(inspect_attention(self.session, self.model, validation, self.parts["oof"]))
        test = prediction_batches(self.parts["test"], config, accelerator)
        return progress.kept.numpy(), self._predict("test", test)

    def choose(self) -> int:
        """Return after how many epochs, from 0 to all, the items held out as "oof" are told best.

        That is by their loss at the best temperature: it is less noisy than a macro-F1 of few items, and does not
        count it against longer training that its probabilities are bolder.
        """
        progress = self.session.progress
        held_out = prediction_batches(self.parts["oof"], self.session.config, self.session.accelerator)
        labels = self.parts["oof"].labels
        assert labels is not None
        for epoch in self._each_epoch(len(progress.held_out)):
            loss = temperature(self._predict("oof", held_out), labels)[1]
            self._require_finite([loss], epoch)
            progress.held_out.append(loss)
        return int(np.argmin(progress.held_out))

    def _each_epoch(self, first: int) -> Iterator[int]:
        """Yield the epochs from `first`, each once the rest of it is trained; 0: before any training."""
        if self.session.checkpoints.pending:
            self.session.checkpoints.restore(self.model, self.optimizer, self.schedule)
        if not first:
            yield 0
        for epoch in range(max(first, 1), self.epochs + 1):
            if self.session.progress.step < self.steps:
                self.train_epoch(self._epoch_batches(epoch - 1))
                with self.session.watch:
                    self._save()  # an interruption from here on costs a validation
            self.session.checkpoints.restore_random()
            yield epoch
            self.session.progress.next_epoch()

    def train_epoch(self, batches: Iterable[dict[str, Tensor]]) -> None:
        """Train on `batches`, this process's shares of the rest of the epoch.

        Raise NotFinite, and Interrupted once the state is saved.
        """
        accelerator, progress, watch = self.session.accelerator, self.session.progress, self.session.watch
        self.first_step, self.seen = progress.step, progress.step * self.session.config.batch_size
        self.spoiled, self.slow, clock = False, 0.0, time.perf_counter()
        self.norm = torch.zeros(())
        random = np.random.default_rng((self.session.config.seed, progress.fold, progress.epoch))
        self.seeds = random.integers(2**32, size=self.items)
        self.model.train()
        with watch:
            for batch in watch.each(batches):
                with accelerator.accumulate(self.model):
                    stop = self.step(batch)
                    if accelerator.sync_gradients:
                        self.update()
                if accelerator.sync_gradients:
                    progress.epoch_seconds += time.perf_counter() - clock
                    clock = time.perf_counter()
                    self._end_step(stop)

    def step(self, batch: dict[str, Tensor]) -> bool:
        """Add a batch to the gradient, and return whether training has to stop after this step.

        The gradient is that of the mean loss over the step's items, however many processes and batches share them.
        Class weights average to 1 over the training items, so the mean still divides by the number of items. With a
        teacher, the target is a distribution over the classes (`kit.training.teacher`). Raise NotFinite.
        """
        config, accelerator = self.session.config, self.session.accelerator
        batch = vary(batch, self.seeds, config, accelerator.device)
        in_step = min(config.batch_size, self.items - self.session.progress.step * config.batch_size)
        own = self._share(len(batch["label"]))  # the rest is padding that evens out the shares
        logits, targets = self.model(batch)[:own], batch.get("target", batch["label"])[:own]
        smoothing = config.label_smoothing
        loss = cross_entropy(logits, targets, self.class_weights, label_smoothing=smoothing, reduction="sum")
        value = loss.item()  # waits for a GPU here, so that it is busy with the gradient while the next step is queued
        stop, bad = self.session.watch.agree(not math.isfinite(value))
        self._account(batch, value, own, bad)
        accelerator.backward(loss * (accelerator.num_processes * config.accumulate / in_step))
        return stop

    def update(self) -> None:
        """Apply the step's gradient, unless one of its batches was not finite.

        A gradient can overflow although the loss is finite: with `nonfinite` it is looked at here, which waits for a
        GPU, and else when the next loss is NaN. The scaler of fp16 looks itself.
        """
        config, accelerator = self.session.config, self.session.accelerator
        if not self.spoiled:
            self.norm = accelerator.clip_grad_norm_(self.model.parameters(), config.clip_norm or math.inf)
            if config.nonfinite == "skip":
                self.spoiled = self.session.watch.agree(self._has_overflowed())[1]
        if not self.spoiled:
            self.optimizer.step()
        self.optimizer.zero_grad()

    def _has_overflowed(self) -> bool:
        """Return whether the last gradient was not finite."""
        return not (self.session.accelerator.scaler or self.norm.isfinite().item())

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
            if self._has_overflowed():  # and made the weights NaN
                place = f"epoch {progress.epoch + 1}, step {progress.step}"
                raise NotFinite(f"The gradient became NaN or infinite in {place}.", [])
            rows = [] if math.isfinite(loss) else self.parts["train"].places[batch["row"][:labeled].cpu()].tolist()
            blame(self.session, self.model, batch, rows)
        self.seen += self._in_batch()
        self.spoiled |= bad
        if not bad:
            progress.loss, progress.items = progress.loss + loss, progress.items + labeled

    def _end_step(self, stop: bool) -> None:
        """Count the step, move the learning rates, say the pace once, and save the state when it is time.

        Raise Interrupted on `stop`.
        """
        config, progress = self.session.config, self.session.progress
        self.schedule.step()
        progress.step, progress.skipped, self.spoiled = progress.step + 1, progress.skipped + self.spoiled, False
        self.slow = self.slow or progress.epoch_seconds
        report_step(self.session, self.before, self.steps, self.first_step + 1, self.slow)
        due = config.save_steps and progress.step % config.save_steps == 0
        if stop or (due and self.steps - progress.step >= config.save_steps / 4):  # the epoch's end saves it too
            self._save()
        if stop:
            raise Interrupted(self.session.watch.heard)

    def _save(self) -> None:
        """Save the state. Raise NotFinite if a weight is NaN or infinite: there would be nothing to resume from."""
        values = [*(value for value in self.model.parameters() if value.requires_grad), *self.model.buffers()]
        if self.session.watch.agree(not all(value.isfinite().all() for value in values))[1]:
            raise NotFinite(f"The weights became NaN or infinite in epoch {self.session.progress.epoch + 1}.", [])
        self.session.checkpoints.write(self.session.progress, self.model, self.optimizer, self.schedule)

    # --- epochs

    def _epoch_batches(self, epoch: int) -> Iterable[dict[str, Tensor]]:
        """Return the batches of the rest of an epoch, with a bar."""
        self.batches.set_epoch(epoch)
        self.sampler.epoch, self.sampler.start = epoch, self.session.progress.step
        title = f"{self.session.title}epoch {epoch + 1}/{self.epochs}"
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
        self._require_finite(list(row.values()), epoch)
        if not epoch:
            return row, logits
        seconds = progress.epoch_seconds
        pace = {"samples_per_second": self.items / seconds, "step_seconds": seconds / self.steps}
        return row | {"seconds": seconds} | pace, logits

    @staticmethod
    def _require_finite(values: list[float], epoch: int) -> None:
        if not np.isfinite(values).all():
            raise KitError(
                f"The loss became NaN or infinite in epoch {epoch}: start over with a lower lr or a clip_norm."
            )

    def _validate(self, validation: Iterable[dict[str, Tensor]]) -> tuple[dict, np.ndarray]:
        """Return scores and logits `[N, K]` of the items that validate."""
        logits, labels = self._predict("oof", validation), self.parts["oof"].labels
        assert labels is not None
        return scores(softmax(logits), labels), logits

    def _predict(self, part: str, batches: Iterable[dict[str, Tensor]]) -> np.ndarray:
        return predict(self.model, batches, len(self.parts[part]), self.session.accelerator, self.session.watch)
