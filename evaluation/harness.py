"""The lm-eval model class: text in, numbers out, safe for tokens that span word boundaries.

lm-eval's own Hugging Face class cuts `E(context + continuation)` at `len(E(context))`. A superword across that
boundary makes the cut drop or double bytes, or leaves nothing to score and stops the run. Here the cut is a *method*:

- `backoff`: score from the longest token prefix that E(context) and the E(context + choice) of all choices of one
  item share. Every choice is then charged for the same bytes: the tail of the context and the choice.
- `naive`: lm-eval's cut, kept to show by how much it is off; where it would stop the run, E(continuation) is scored.

Every row starts with the end-of-text separator, as in training. No answers are cached.
"""

import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from evaluation.documents import score_documents
from evaluation.encoding import TextEncoder
from evaluation.forward import Window, max_positions, score_windows
from isotok.errors import ConfigError, DataError
from isotok.keyed import keyed_rng

Scoring = Literal["backoff", "naive"]

BYTES_PER_GENERATED_TOKEN = 4  # a task's max_gen_toks becomes a byte budget that is equal for all tokenizers


@dataclass(frozen=True)
class Cut:
    """Where to score a pair: `ids` without separator, ids[first:] are scored; they stand for `n_bytes` bytes."""

    ids: tuple[int, ...]
    first: int
    n_bytes: int


@dataclass(frozen=True)
class PairScore:
    """The outcome of one (context, continuation): positive nats over `n_bytes` bytes and `n_tokens` tokens."""

    nats: float
    greedy: bool
    n_bytes: int
    n_tokens: int


def cut_backoff(
    encode: Callable[[str], list[int]], lengths: np.ndarray, context: str, choices: Sequence[str]
) -> list[Cut]:
    """One cut for all choices of one context (see above)."""
    wholes = [encode(context + choice) for choice in choices]
    shared = encode(context)
    for whole in wholes:
        shared = shared[: common_prefix(shared, whole)]
    first = len(shared)
    return [Cut(tuple(whole), first, int(lengths[whole[first:]].sum())) for whole in wholes]


def cut_naive(
    encode: Callable[[str], list[int]], lengths: np.ndarray, context: str, choices: Sequence[str]
) -> list[Cut]:
    """lm-eval's cut of each pair by itself: white space at the context's end moves into the continuation, then
    E(context) is followed by what E(context + continuation) has beyond that many tokens."""
    cuts = []
    for choice in choices:
        stripped = context.rstrip()
        moved = context[len(stripped) :] + choice
        left = encode(stripped)
        right = encode(stripped + moved)[len(left) :] or encode(moved)
        cuts.append(Cut(tuple(left + right), len(left), len(moved.encode())))
    return cuts


CUTS: dict[str, Callable[..., list[Cut]]] = {"backoff": cut_backoff, "naive": cut_naive}


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """The number of leading elements that are equal."""
    for i, (x, y) in enumerate(zip(a, b)):
        if x != y:
            return i
    return min(len(a), len(b))


class IsotokLM(LM):
    """A causal LM and its tokenizer for lm-eval.

    context_bytes: pairs longer than this lose the left of their context, by bytes and not by tokens, so that every
        tokenizer sees the same text; also the window of `loglikelihood_rolling`.
    seed: key of sampling, with the prompt.
    After a run, `pair_scores[task, doc_id, context, continuation]` tells what was scored, and `shortened` how many
    contexts lost bytes.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        context_bytes: int,
        scoring: Scoring = "backoff",
        seed: int = 1234,
        name: str = "",
    ):
        super().__init__()
        if scoring not in CUTS:
            raise ConfigError(f"scoring={scoring!r}: allowed are {', '.join(CUTS)}")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.scoring = scoring
        self.context_bytes = context_bytes
        self.seed = seed
        self.name = name
        self.pair_scores: dict[tuple[Any, ...], PairScore] = {}
        self.shortened = 0
        self._encoder = TextEncoder(tokenizer)
        self._limit = max_positions(model)
        self._device = next(model.parameters()).device

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval stores beside its results."""
        return {
            "model_name": self.name,
            "model_num_parameters": sum(p.numel() for p in self.model.parameters()),
            "model_dtype": str(next(self.model.parameters()).dtype),
            "vocabulary": len(self.tokenizer),
            "scoring": self.scoring,
            "context_bytes": self.context_bytes,
        }

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """(log-probability, is greedy) of each (context, continuation), in order; (0.0, True) of an empty one."""
        groups: dict[tuple[Any, ...], list[int]] = {}
        for i, request in enumerate(requests):
            # The choices of one item share a cut. Same context, another item: another cut.
            groups.setdefault((request.task_name, request.doc_id, request.args[0]), []).append(i)
        cuts: list[Cut] = [Cut((), 0, 0)] * len(requests)
        encode, lengths = self._ids, self._encoder.lengths
        for (_, _, context), members in groups.items():
            choices = [requests[i].args[1] for i in members]
            for i, cut in zip(members, CUTS[self.scoring](encode, lengths, context, choices)):
                cuts[i] = cut
        scores = self._score(cuts)
        for request, score in zip(requests, scores):
            self.pair_scores[request.task_name, request.doc_id, *request.args] = score
        return [(-score.nats, score.greedy) for score in scores]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Log-probability of each text after the separator, in the windows of `documents`."""
        documents = [self._encoder(request.args[0], f"request {i}") for i, request in enumerate(requests)]
        scores = score_documents(self.model, documents, self.context_bytes, self._encoder.eos_id)
        return [-score.nats for score in scores]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Continuations, in order. Known keys: `until`, `max_gen_bytes` (or `max_gen_toks`, at 4 bytes each),
        `do_sample`, `temperature`. Others that would change the text are refused."""
        texts = []
        for request in requests:
            context, options = request.args[0], dict(request.args[1])
            until = options.pop("until", None) or []
            tokens = options.pop("max_gen_toks", 64)
            budget = int(options.pop("max_gen_bytes", BYTES_PER_GENERATED_TOKEN * tokens))
            temperature = float(options.pop("temperature", 0.0) or 0.0)
            sample = bool(options.pop("do_sample", temperature > 0))
            if options:
                raise ConfigError(
                    f"generation option {', '.join(sorted(options))}: not supported by isotok's model class"
                )
            stops = [until] if isinstance(until, str) else list(until)
            texts.append(self.generate(context, budget, stops, temperature or 1.0 if sample else 0.0))
        return texts

    @torch.inference_mode()
    def generate(self, prompt: str, max_bytes: int, stops: Sequence[str] = (), temperature: float = 0.0) -> str:
        """The text that follows the prompt: at most `max_bytes` bytes of whole characters, up to the first stop
        string (left out) or end of text. Greedy at temperature 0, else sampled with a key of (seed, prompt)."""
        rng = keyed_rng(self.seed, "generate", prompt)
        ids = [self._encoder.eos_id, *self._tail(self._ids(prompt), max_bytes)]
        made = b""
        cache = None
        stop_bytes = [s.encode() for s in stops if s]
        feed, used = ids, 0
        while len(made) < max_bytes and not any(s in made for s in stop_bytes):
            used += len(feed)
            if self._limit is not None and used > self._limit:
                break
            tensor = torch.tensor([feed], device=self._device)
            output = self.model(input_ids=tensor, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            token = _draw(output.logits[0, -1].float().cpu().numpy(), temperature, rng)
            piece = self._encoder.bytes[token] if token < len(self._encoder.bytes) else b""
            if not piece:  # end of text, or an id that stands for nothing
                break
            made += piece
            feed = [token]
        made = made[:max_bytes]
        end = min((at for s in stop_bytes if (at := made.find(s)) >= 0), default=len(made))
        return _whole_characters(made[:end])

    def _ids(self, text: str) -> list[int]:
        return self._encoder(text, "prompt").ids.tolist()  # type: ignore[no-any-return]

    def _tail(self, ids: list[int], reserve_bytes: int) -> list[int]:
        """The end of a prompt's ids that leaves `reserve_bytes`, at most half, of the context free."""
        sizes = self._encoder.lengths[ids]
        room = max(self.context_bytes // 2, self.context_bytes - reserve_bytes)
        keep = int(np.searchsorted(np.cumsum(sizes[::-1]), room, side="right"))
        if self._limit is not None:
            keep = min(keep, max(self._limit // 2, self._limit - 1 - reserve_bytes))
        return ids[len(ids) - keep :]

    def _score(self, cuts: Sequence[Cut]) -> list[PairScore]:
        unique = list(dict.fromkeys(cut for cut in cuts if cut.first < len(cut.ids)))
        nats, greedy = score_windows(self.model, [self._window(cut) for cut in unique], greedy=True)
        found = {cut: (float(n.sum()), g) for cut, n, g in zip(unique, nats, greedy)}
        scores = []
        for cut in cuts:
            total, hit = found.get(cut, (0.0, True))
            scores.append(PairScore(total, hit, cut.n_bytes, len(cut.ids) - cut.first))
        return scores

    def _window(self, cut: Cut) -> Window:
        """Separator and ids; the left of a context that does not fit goes, whole tokens of it."""
        ids = np.array(cut.ids, dtype=np.int64)
        sizes = self._encoder.lengths[ids]
        left = 0
        if int(sizes.sum()) > self.context_bytes:
            ends_from_right = np.cumsum(sizes[::-1])
            left = len(ids) - int(np.searchsorted(ends_from_right, self.context_bytes, side="right"))
        if self._limit is not None:
            left = max(left, len(ids) - self._limit)  # the separator and all ids but the last are read
            if left > cut.first:
                raise DataError(
                    f"a continuation of {len(ids) - cut.first} tokens does not fit the model's {self._limit} positions"
                )
        left = min(left, cut.first)
        self.shortened += left > 0
        return Window(np.concatenate([[self._encoder.eos_id], ids[left:]]), cut.first - left + 1)


def _draw(logits: np.ndarray, temperature: float, rng: np.random.Generator) -> int:
    if temperature <= 0:
        return int(logits.argmax())
    scaled = logits.astype(np.float64) / temperature
    cumulative = np.cumsum(np.exp(scaled - scaled.max()))
    return int(min(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"), len(logits) - 1))


def _whole_characters(data: bytes) -> str:
    """Decoded; a character cut off at the end is left out, bytes that never were one become U+FFFD."""
    return codecs.getincrementaldecoder("utf-8")("replace").decode(data, final=False)
