"""The lm-eval model class: text in, numbers out, safe for tokens that span word boundaries.

How a pair is scored is said by a *method* of `evaluation.likelihood`. Every row starts with the end-of-text separator,
as in training. No answers are cached.
"""

import codecs
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from evaluation.documents import score_documents
from evaluation.forward import max_positions
from evaluation.likelihood import Likelihood, PairScore, Scoring
from isotok.errors import ConfigError
from isotok.keyed import keyed_rng

BYTES_PER_GENERATED_TOKEN = 4  # a task's max_gen_toks becomes a byte budget that is equal for all tokenizers


class IsotokLM(LM):
    """A causal LM and its tokenizer for lm-eval.

    context_bytes: pairs longer than this lose the left of their context, by bytes and not by tokens, so that every
        tokenizer sees the same text; also the window of `loglikelihood_rolling`.
    seed: key of sampling, with the prompt.
    After a run, `pair_scores[task, doc_id, context, continuation]` tells what was scored.
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
        self.likelihood = Likelihood(model, tokenizer, context_bytes=context_bytes, method=scoring)
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.scoring = scoring
        self.context_bytes = context_bytes
        self.seed = seed
        self.name = name
        self.pair_scores: dict[tuple[Any, ...], PairScore] = {}
        self._encoder = self.likelihood.encoder
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
        items = [(context, [requests[i].args[1] for i in members]) for (*_, context), members in groups.items()]
        scores = [PairScore(0.0, True, 0, 0)] * len(requests)
        for members, own in zip(groups.values(), self.likelihood.score(items)):
            for i, score in zip(members, own):
                scores[i] = score
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


def _draw(logits: np.ndarray, temperature: float, rng: np.random.Generator) -> int:
    if temperature <= 0:
        return int(logits.argmax())
    scaled = logits.astype(np.float64) / temperature
    cumulative = np.cumsum(np.exp(scaled - scaled.max()))
    return int(min(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"), len(logits) - 1))


def _whole_characters(data: bytes) -> str:
    """Decoded; a character cut off at the end is left out, bytes that never were one become U+FFFD."""
    return codecs.getincrementaldecoder("utf-8")("replace").decode(data, final=False)
