"""Compact meta-attention (Shah et al., 2025): meta tokens attend to meta tokens, every other row passes unchanged.

A dense form adds a mask to T × T scores that is open where query and key are both meta tokens. Here the M meta rows are
gathered, attend causally among themselves with the family's own attention, and are added back: the same values and
gradients for M × M scores. Rows without as many meta tokens as the longest are filled up at the end with rows that
causality hides from the real ones and whose output is dropped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

Attend = Callable[..., torch.Tensor]
"""(rows (B, M, d), mask, (cos, sin) of them) -> (B, M, d)"""


@dataclass
class Metas:
    """Where the meta tokens of one forward pass are.

    rows (B, M) int64: their places in the ids of this pass, in order, then places of other ids where `valid` (B, M) is
    False; None: all are meta tokens. cached (B, C) int64: slots of those in the cache, counted over all passes, -1 for
    none; None: there is no cache or none in it. before: ids in the cache.
    """

    rows: torch.Tensor
    valid: torch.Tensor | None = None
    cached: torch.Tensor | None = None
    before: int = 0
    _mask: Any = None

    @property
    def slots(self) -> torch.Tensor:
        """(B, M): counted over all passes, -1 where there is no meta token."""
        slots = self.rows + self.before
        return slots if self.valid is None else slots.masked_fill(~self.valid, -1)

    def take(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, T, d) -> (B, M, d)"""
        return hidden.flatten(0, 1).index_select(0, self._flat(hidden.shape[1])).view(*self.rows.shape, -1)

    def add(self, hidden: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Add (B, M, d) to their rows of (B, T, d), in place: `hidden` must be a result that no other step keeps."""
        if self.valid is not None:
            out = out.masked_fill(~self.valid[..., None], 0.0)
        rows = self._flat(hidden.shape[1])
        hidden.view(-1, hidden.shape[-1]).index_add_(0, rows, out.flatten(0, 1).to(hidden.dtype))
        return hidden

    def rope(self, cos_sin: tuple[torch.Tensor, torch.Tensor] | None) -> tuple[torch.Tensor, torch.Tensor] | None:
        """(1 or B, T, dh) each -> (B, M, dh)"""
        if cos_sin is None:
            return None
        index = self.rows[..., None].expand(-1, -1, cos_sin[0].shape[-1])
        cos, sin = (part.expand(len(self.rows), -1, -1).gather(1, index) for part in cos_sin)
        return cos, sin

    def mask(self, causal: torch.Tensor | None) -> torch.Tensor | None:
        """The attention mask among meta tokens, from that of all ids (B or 1, 1, T, all slots): bool or added.

        None, plain causal attention, where all ids have it so and nothing is cached.
        """
        if causal is None and self.cached is None:
            return None
        if self._mask is None:
            self._mask = self._made(causal)
        mask: torch.Tensor = self._mask
        return mask

    def _made(self, causal: torch.Tensor | None) -> torch.Tensor:
        if causal is not None and causal.dim() != 4:
            raise ValueError(f"meta-attention over a cache needs a mask of four dimensions, not {causal.dim()}")
        own = self.rows + self.before
        slots = self.slots if self.cached is None else torch.cat([self.cached, self.slots], dim=1)
        seen = (slots[:, None, :] >= 0) & (slots[:, None, :] <= own[:, :, None])
        # A row that is filled up sees itself, so that no softmax is over nothing.
        filled = slots.shape[1] - own.shape[1]
        seen[:, :, filled:] |= torch.eye(own.shape[1], dtype=torch.bool, device=seen.device)
        if causal is None:
            return seen[:, None]
        keys = own if self.cached is None else torch.cat([self.cached.clamp(min=0), own], dim=1)
        rows = causal[:, 0].expand(len(own), -1, -1)
        rows = rows.gather(1, self.rows[..., None].expand(-1, -1, rows.shape[-1]))
        rows = rows.gather(2, keys[:, None, :].expand(-1, own.shape[1], -1))
        if rows.dtype == torch.bool:
            return (rows & seen)[:, None]
        return rows.masked_fill(~seen, torch.finfo(rows.dtype).min)[:, None]

    def _flat(self, length: int) -> torch.Tensor:
        starts = torch.arange(len(self.rows), device=self.rows.device)[:, None] * length
        return (self.rows + starts).flatten()


def find(flags: torch.Tensor, keep: bool) -> Metas | None:
    """The meta tokens among flags (B, T); None where there are none.

    keep: one row is then filled up all the same, for parameters to stay in the graph of the gradient: without, ranks
    that have no meta token in a batch would leave the others waiting.
    """
    counts = flags.sum(1)
    most = int(counts.max()) if len(counts) else 0
    if most == 0 and not keep:
        return None
    rows = torch.argsort(~flags, dim=1, stable=True)[:, : max(most, 1)]
    valid = torch.arange(max(most, 1), device=flags.device) < counts[:, None]
    return Metas(rows, None if bool(valid.all()) else valid)


def meta_update(
    hidden: torch.Tensor,
    metas: Metas | None,
    attend: Attend,
    causal: torch.Tensor | None,
    cos_sin: tuple[torch.Tensor, torch.Tensor] | None,
) -> torch.Tensor:
    """The residual stream (B, T, d) after a compact meta sub-layer, changed in place at meta rows only."""
    if metas is None:
        return hidden
    return metas.add(hidden, attend(metas.take(hidden), metas.mask(causal), metas.rope(cos_sin)))


class MetaCacheLayer(DynamicLayer):
    """Keys and values of meta tokens alone: (B, heads, C, dh) where some of the C columns of a row are filled up.

    slots (B, C) int64: where each stands among all ids, -1 for none. length: ids that all layers have seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.slots: torch.Tensor | None = None
        self.length = 0

    def extend(self, slots: torch.Tensor) -> None:
        """Say where the meta tokens stand whose keys and values come next."""
        self.slots = slots if self.slots is None else torch.cat([self.slots, slots], dim=1)

    def reset(self) -> None:
        super().reset()
        self.slots, self.length = None, 0

    def crop(self, tokens_to_remove: int) -> None:
        self.length -= abs(tokens_to_remove)
        if self.slots is None or self.keys is None or self.values is None:
            return
        self.slots = self.slots.masked_fill(self.slots >= self.length, -1)
        kept = int((self.slots >= 0).any(0).nonzero().max()) + 1 if bool((self.slots >= 0).any()) else 0
        self.slots = self.slots[:, :kept]
        self.keys, self.values = self.keys[..., :kept, :], self.values[..., :kept, :]

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        super().reorder_cache(beam_idx)
        self._rows(lambda slots: slots.index_select(0, beam_idx.to(slots.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._rows(lambda slots: slots.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        super().batch_select_indices(indices)
        self._rows(lambda slots: slots[indices])

    def _rows(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        if self.slots is not None:
            self.slots = change(self.slots)


def with_meta_layers(cache: Cache, layers: int, meta_layers: Sequence[int]) -> list[MetaCacheLayer]:
    """The layers of a cache that hold meta tokens, after those of the model; added to a new cache.

    Raises ValueError for a cache of fixed size: there is no telling how many meta tokens come.
    """
    if not isinstance(cache, DynamicCache):
        raise ValueError(f"meta-attention needs a growing cache, not {type(cache).__name__}")
    while len(cache.layers) < layers:
        cache.layers.append(DynamicLayer())
    while len(cache.layers) < layers + len(meta_layers):
        cache.layers.append(MetaCacheLayer())
    return [layer for layer in cache.layers[layers:] if isinstance(layer, MetaCacheLayer)]
