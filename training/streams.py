"""Row streams: which ids a step sees, as a function of the step alone.

Row b of a batch of B rows reads the units b, b + B, b + 2B … of an endless order: index i is epoch i // N and position
i % N over N units; epoch 0 is the order of the corpus, later epochs are keyed permutations of it. A unit passes the
transform and its ids follow those of the unit before, its end-of-text id last. A step takes L new ids a row after one
id kept from the row's past (the end-of-text id for a fresh row): inputs are the first L, targets the last L of these
L + 1, so every id is a target exactly once, the first of a stream included.

The state is (units finished, offset in the transformed unit) a row. It depends on nothing else: neither ranks nor
workers nor restarts change the data.
"""

import queue
import threading
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, replace
from types import TracebackType
from typing import ClassVar, Protocol

import numpy as np

from isotok.errors import ConfigError, DataError
from isotok.keyed import permuted, permuted_all
from modeling.meta_injection import IGNORED as IGNORED
from modeling.meta_injection import inject, slots_of
from tokenization.transform import Spent

_JOIN_S = 1.0


class UnitData(Protocol):
    """What row streams need of token data; see `tokenization.encode.TokenData`."""

    n_bytes: np.ndarray
    n_tokens: int
    id_bytes: np.ndarray | None
    vocab_size: int
    eos_id: int

    def __len__(self) -> int: ...

    def ids(self, unit: int) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's data. inputs, targets: int64 of (rows, L), -100 for no target. n_bytes: source bytes of the targets.

    n_tokens: what the nats of this rank's targets are divided by, all targets of the step over the number of ranks.
    state: before this batch; state_after: what a checkpoint after this batch keeps; both int64 of (rows, 2).
    step_tokens: what the step adds to the tokens of the run. metas: int64 of (rows, M), the places of meta tokens among
    the inputs, where rows have some. segments: int64 of (rows, L), where rows hold texts that
    must not see each other: an id sees those before it that have its number.
    """

    inputs: np.ndarray
    targets: np.ndarray
    n_bytes: int
    n_tokens: float
    state: np.ndarray
    state_after: np.ndarray
    step_tokens: int
    segments: np.ndarray | None = None
    metas: np.ndarray | None = None


class Streams(Protocol):
    """What the loop reads: `RowStreams`, or `training.examples.ExampleStreams`.

    units: what a unit of `data` is called in messages.
    """

    units: ClassVar[str]

    @property
    def data(self) -> Sized: ...

    @property
    def state(self) -> np.ndarray: ...

    def next(self) -> Batch: ...


@dataclass(frozen=True)
class Injection:
    """Meta tokens that rows get: `count` each (`modeling.meta_injection`), keyed by (seed, step, row)."""

    count: int
    meta_id: int
    placement: str
    loss: str
    seed: int

    def __call__(self, batch: Batch, step: int, rows: np.ndarray) -> Batch:
        """The batch of a step with its meta tokens: n_tokens, bytes and state are of its text, as before."""
        length = batch.inputs.shape[1] + self.count
        slots = np.stack([slots_of(self.placement, self.count, length, self.seed, step, int(row)) for row in rows])
        text = np.concatenate([batch.inputs[:, :1], batch.targets], axis=1)
        inputs, targets = inject(text, slots, self.meta_id, self.loss)
        return replace(batch, inputs=inputs, targets=targets, metas=slots)


class RowStreams:
    """Batches of `rows` rows of `new_tokens` new ids; `.next()` never ends.

    transform: (ids, epoch, unit, spent) -> ids. state: of all rows, from a checkpoint. subset: rows this rank reads.
    schedule_bytes: source bytes that all rows read over the whole schedule, of which a row's share tells the transform
    what is spent where a unit begins and ends; without it nothing ever is. metas: put into rows, from step `step` on.
    """

    units: ClassVar[str] = "documents"

    def __init__(
        self,
        data: UnitData,
        rows: int,
        new_tokens: int,
        transform: Callable[[np.ndarray, int, int, Spent], np.ndarray],
        seed: int,
        state: np.ndarray | None = None,
        subset: Sequence[int] | None = None,
        schedule_bytes: float | None = None,
        metas: Injection | None = None,
        step: int = 0,
    ) -> None:
        if len(data) == 0:
            raise DataError("the training split has no documents")
        full = np.zeros((rows, 2), dtype=np.int64) if state is None else np.asarray(state, dtype=np.int64)
        if full.shape != (rows, 2):
            raise ConfigError(
                f"budget.rows={rows}: the checkpoint was made with {len(full)} rows, and rows set the order of data; "
                "keep budget.rows or start a new run"
            )
        self.data, self.rows, self.new_tokens = data, rows, new_tokens
        self._transform, self._seed = transform, seed
        self._metas, self._step = metas, step
        self._subset = np.arange(rows) if subset is None else np.asarray(subset, dtype=np.int64)
        self._state = full[self._subset].copy()
        self._current: list[np.ndarray | None] = [None] * len(self._subset)
        self._row_bytes = None if schedule_bytes is None else schedule_bytes / rows
        self._passed: dict[int, tuple[int, int, int]] = {}

    @property
    def state(self) -> np.ndarray:
        """(rows read here, 2): units finished and offset in the transformed unit, after the last batch."""
        return self._state.copy()

    def next(self) -> Batch:
        length = self.new_tokens
        before = self._state.copy()
        window = np.empty((len(self._subset), length + 1), dtype=np.int64)
        credited = 0
        for i in range(len(self._subset)):
            credited += self._fill(i, window[i])
        targets = window[:, 1:]
        id_bytes = self.data.id_bytes
        n_bytes = credited if id_bytes is None else int(id_bytes[targets].sum(dtype=np.int64))
        batch = Batch(window[:, :-1], targets, n_bytes, targets.size, before, self._state.copy(), self.rows * length)
        self._step += 1
        return batch if self._metas is None else self._metas(batch, self._step - 1, self._subset)

    def _fill(self, i: int, out: np.ndarray) -> int:
        """Write the kept id and the new ids of one row, advance its state; bytes of the units that ended."""
        count, offset = (int(x) for x in self._state[i])
        ids = self._load(i, count, offset)
        # A unit ends in the end-of-text id, so that is the id before offset 0, for a fresh row by definition.
        out[0] = ids[offset - 1] if offset else self.data.eos_id
        at, ended_bytes = 1, 0
        while True:
            take = min(len(ids) - offset, len(out) - at)
            out[at : at + take] = ids[offset : offset + take]
            at, offset = at + take, offset + take
            if offset == len(ids):
                ended_bytes += int(self.data.n_bytes[self._unit(i, count)[1]])
                count, offset = count + 1, 0
            if at == len(out):
                self._current[i] = ids if offset else None
                self._state[i] = (count, offset)
                return ended_bytes
            ids = self._load(i, count, 0)

    def _unit(self, i: int, count: int) -> tuple[int, int]:
        return unit_at(int(self._subset[i]) + count * self.rows, len(self.data), self._seed)

    def _load(self, i: int, count: int, offset: int) -> np.ndarray:
        """The transformed ids of a row's unit; those of a half-read unit are kept from the last batch."""
        kept = self._current[i]
        if offset and kept is not None:
            return kept
        unit = self._unit(i, count)[1]
        ids = self.transformed(int(self._subset[i]), count)
        if len(ids) == 0 or int(ids[-1]) != self.data.eos_id:
            raise DataError(f"train document {unit}: its ids do not end in the end-of-text id {self.data.eos_id}")
        if int(ids.max()) >= self.data.vocab_size:
            raise DataError(
                f"train document {unit}: id {int(ids.max())} outside a vocabulary of {self.data.vocab_size}"
            )
        if offset >= len(ids):
            raise DataError(f"train document {unit}: the checkpoint is at id {offset} of {len(ids)}; the data changed")
        return ids

    def transformed(self, row: int, count: int) -> np.ndarray:
        """The ids of the unit that comes after `count` others in a row, any row, as they are read."""
        epoch, unit = unit_at(row + count * self.rows, len(self.data), self._seed)
        return self._transform(self.data.ids(unit), epoch, unit, self._spent(row, count, unit))

    def _spent(self, row: int, count: int, unit: int) -> Spent:
        """From source bytes alone, so that neither ranks nor restarts change it."""
        if self._row_bytes is None:
            return 0.0, 0.0
        last, begin, end = self._passed.get(row, (-1, 0, 0))
        if count == last + 1:
            begin = end
        elif count != last:
            begin = bytes_before(self.data.n_bytes, self.rows, row, count, self._seed)
        end = begin + int(self.data.n_bytes[unit])
        self._passed[row] = (count, begin, end)
        return begin / self._row_bytes, end / self._row_bytes


def bytes_before(n_bytes: np.ndarray, rows: int, row: int, count: int, seed: int) -> int:
    """Source bytes of the first `count` units of a row."""
    epochs, positions = np.divmod(row + rows * np.arange(count), len(n_bytes))
    total = int(n_bytes[positions[epochs == 0]].sum())
    for epoch in range(1, int(epochs[-1]) + 1 if count else 0):
        units = permuted_all(positions[epochs == epoch], len(n_bytes), "data order", seed, epoch)
        total += int(n_bytes[units].sum())
    return total


def unit_at(index: int, units: int, seed: int) -> tuple[int, int]:
    """(epoch, unit) at an index of the endless order."""
    epoch, position = divmod(index, units)
    return epoch, position if epoch == 0 else permuted(position, units, "data order", seed, epoch)


def units_between(before: np.ndarray, after: np.ndarray, units: int, seed: int) -> list[int]:
    """The units that the batch between two states of all rows reads, at least in part."""
    rows = len(before)
    return sorted(
        {
            unit_at(row + count * rows, units, seed)[1]
            for row in range(rows)
            for count in range(int(before[row, 0]), int(after[row, 0]) + (1 if after[row, 1] else 0))
        }
    )


def unique_bytes(data: UnitData, state: np.ndarray, streams: RowStreams) -> int:
    """Source bytes that rows in this state have seen at least once; of half-read units the larger part."""
    rows, units = len(state), len(data)
    if int((state[:, 0] * rows + np.arange(rows)).min()) >= units:
        return int(data.n_bytes.sum())
    seen = np.zeros(units, dtype=bool)
    partly: dict[int, int] = {}
    for row in range(rows):
        count, offset = (int(x) for x in state[row])
        in_first = min(count, max(0, -(-(units - row) // rows)))
        seen[row : row + in_first * rows : rows] = True
        for later in range(in_first, count):
            seen[unit_at(row + later * rows, units, streams._seed)[1]] = True
        if offset and data.id_bytes is not None:
            unit = unit_at(row + count * rows, units, streams._seed)[1]
            ids = streams.transformed(row, count)[:offset]
            partly[unit] = max(partly.get(unit, 0), int(data.id_bytes[ids].sum(dtype=np.int64)))
    return int(data.n_bytes[seen].sum()) + sum(n for unit, n in partly.items() if not seen[unit])


class Prefetch:
    """Reads batches ahead in a thread. Each carries its own state, so what is fetched and not used is never counted."""

    def __init__(self, streams: Streams, depth: int = 4) -> None:
        self._streams = streams
        self._queue: queue.Queue[Batch | BaseException] = queue.Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="prefetch", daemon=True)

    def __enter__(self) -> "Prefetch":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        # The thread may hang in a transform: that must not keep an error, or a second stop signal, from ending the run.
        self._thread.join(None if kind is None else _JOIN_S)

    def next(self) -> Batch:
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def _read(self) -> None:
        item: Batch | BaseException
        while not self._stop.is_set():
            try:
                item = self._streams.next()
            except Exception as error:
                item = error
            while not self._stop.is_set():
                try:
                    self._queue.put(item, timeout=0.2)
                    break
                except queue.Full:
                    continue
            if isinstance(item, BaseException):
                return
