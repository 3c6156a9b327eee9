"""How fast a tokenizer encodes: a measurement, kept apart from the figures that repeat."""

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tokenization.documents import cut_text

if TYPE_CHECKING:
    from evaluation.tokenized import Reader


def encode_speed(reader: "Reader", texts: Sequence[str], n_bytes: int) -> dict[str, Any]:
    """MB a second of processor time of encoding on one thread, on text that was not seen while warming up.

    Pieces of 20 kB, every second one for warming up; `bytes` may fall short of `n_bytes` on a small text.
    Processor time, as other work on the machine would otherwise be in the figure; `seconds` is what passed.
    """
    warm: list[str] = []
    timed: list[str] = []
    left = 2 * n_bytes
    for text in texts:
        for piece in cut_text(text, 20_000):
            if left <= 0:
                break
            (warm if len(warm) <= len(timed) else timed).append(piece)
            left -= len(piece.encode())
    allowed = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # read by the library at each call
    try:
        for piece in warm:
            reader.ids([piece])
        start, start_cpu = time.perf_counter(), time.process_time()
        for piece in timed:
            reader.ids([piece])
        cpu_seconds, seconds = time.process_time() - start_cpu, time.perf_counter() - start
    finally:
        if allowed is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = allowed
    total = sum(len(piece.encode()) for piece in timed)
    speed = total / 1e6 / cpu_seconds if total and cpu_seconds else None
    return {"bytes": total, "cpu_seconds": cpu_seconds, "seconds": seconds, "mb_per_s": speed}
