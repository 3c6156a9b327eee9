"""The lm-eval model class: text in, numbers out, safe for tokens that span word boundaries.

How a pair is scored is said by a *method* of `evaluation.likelihood`. Every row starts with the end-of-text separator,
as in training. No answers are cached. Once this module is imported, lm-eval knows the class as `model="isotok"`;
`isotok lm-eval` is lm-eval's own command line with that import done.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lm_eval.models  # noqa: F401  # lm-eval fills its registry only while it is empty: before we add to it
import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.utils import simple_parse_args_string

from evaluation.checkpoint import check_vocabulary, load_checkpoint
from evaluation.documents import score_documents
from evaluation.forward import max_positions
from evaluation.generation import Options, follow, pick_beginning, read_options
from evaluation.likelihood import Likelihood, PairScore, Scoring
from evaluation.ranks import Ranks, join_ranks, own_device
from isotok.errors import ConfigError, DataError
from isotok.keyed import keyed_rng
from isotok.progress import progress, say, set_label

# Text that is planned and scored together: many batches, so that few rows are padded, and a bound on memory.
_CHUNK_BYTES = 2**20
_ARGUMENTS = ("pretrained", "tokenizer", "context_bytes", "scoring", "device", "dtype", "seed")


@register_model("isotok")
class IsotokLM(LM):
    """A causal LM and its tokenizer for lm-eval.

    context_bytes: pairs longer than this lose the left of their context, by bytes and not by tokens, so that every
        tokenizer sees the same text (`likelihood.shortened` counts them); also the window of `loglikelihood_rolling`.
    seed: key of sampling, with the prompt.
    ranks: this process among those that share the work; lm-eval deals out documents, and rank 0 has the results.
    After a run, `pair_scores[task, doc_id, context, continuation]` tells what was scored (by this rank).
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        context_bytes: int,
        scoring: Scoring = "bytes",
        seed: int = 1234,
        name: str = "",
        ranks: Ranks = Ranks(),  # noqa: B008  # frozen
    ):
        super().__init__()
        check_vocabulary(model, tokenizer, name or "tokenizer")
        self.likelihood = Likelihood(model, tokenizer, context_bytes=context_bytes, method=scoring)
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.scoring = scoring
        self.context_bytes = context_bytes
        self.seed = seed
        self.name = name
        self.ranks = ranks
        self.pair_scores: dict[tuple[Any, ...], PairScore] = {}
        self._rank, self._world_size = ranks.rank, ranks.size
        self._device = next(model.parameters()).device
        self._encoder = self.likelihood.encoder
        self._limit = max_positions(model)

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> "IsotokLM":
        """lm-eval's way in: `pretrained=RUN/model,context_bytes=512,...`, see `create_from_arg_obj`."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> "IsotokLM":
        """A checkpoint by name. Joins the other processes if a launcher started several.

        pretrained: folder of a checkpoint (local; code in it is not run). tokenizer: folder, default the same.
        context_bytes: default is what the checkpoint was trained with, from the run.json beside it. scoring, seed: as
        for the class. device: `auto`, `cpu`, `cuda`. dtype: float32 (default), bfloat16, float16, auto.
        Batch sizes of lm-eval's are left aside: batches are cut by tokens. Other arguments are refused.
        """
        outside = {key: value for key, value in (additional_config or {}).items() if value is not None}
        if outside.get("device") == "cuda:0":  # the default of lm-eval's command line, on machines without CUDA too
            outside["device"] = "auto"
        given = {**outside, **arg_dict}
        if given.pop("batch_size", 1) not in (1, "1", "auto") or given.pop("max_batch_size", None) is not None:
            say("isotok's model class cuts batches by tokens; batch_size and max_batch_size are left aside")
        if given.pop("trust_remote_code", False):
            raise ConfigError("trust_remote_code: isotok's model class runs no code of a checkpoint's folder")
        for key in given:
            if key not in _ARGUMENTS:
                raise ConfigError(f"model argument {key}: unknown (there are {', '.join(_ARGUMENTS)})")
        if "pretrained" not in given:
            raise ConfigError("model argument pretrained=FOLDER is missing: the folder of a checkpoint")
        ranks = join_ranks()
        if ranks.size > 1:
            set_label(f"rank {ranks.rank}")
        folder = Path(str(given["pretrained"]))
        loaded = load_checkpoint(
            folder,
            Path(str(given["tokenizer"])) if "tokenizer" in given else None,
            _positive(given["context_bytes"], "context_bytes") if "context_bytes" in given else None,
            own_device(str(given.get("device", "auto"))),
            given.get("dtype", "float32"),
        )
        rest = {key: given[key] for key in ("scoring", "seed") if key in given}
        return cls(
            loaded.model,
            loaded.tokenizer,
            context_bytes=loaded.context_bytes,
            name=str(folder),
            ranks=ranks,
            **rest,
        )

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

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Refused: lm-eval's cache of answers knows the question and not the model."""
        raise ConfigError(
            "use_cache: refused, because lm-eval keys cached answers by the question alone: another checkpoint or "
            "tokenizer would be given this one's answers. Leave it out"
        )

    def all_gather(self, tensor: Any) -> Any:
        return self.ranks.all_gather(tensor)

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
        return self.ranks.gather_object(obj, dst)

    def barrier(self) -> None:
        self.ranks.barrier()

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """(log-probability, is greedy) of each (context, continuation), in order.

        An empty continuation has (0.0, True). Requests of one document with the same context are the choices of one
        item, which share what is cut off a long context and, with `backoff`, where scoring starts; so are requests of
        no document (a direct call) with the same context. Raises DataError naming task and document where a text
        cannot be scored or the checkpoint gives NaN.
        """
        groups: dict[tuple[Any, ...], list[int]] = {}
        for i, request in enumerate(requests):
            # The choices of one item share a cut. Same context, another item: another cut.
            groups.setdefault((request.task_name, request.doc_id, request.args[0]), []).append(i)
        scores: dict[int, PairScore] = {}
        with progress("log-likelihoods", len(groups), "items") as advance:
            for chunk in _chunks(groups, requests):
                items = [(key[-1], [requests[i].args[1] for i in members]) for key, members in chunk]
                names = [_name(requests[members[0]], members[0]) for _, members in chunk]
                for name, (_, members), own in zip(names, chunk, self._score(items, names, advance)):
                    for i, score in zip(members, own):
                        _refuse_nan(score.nats, name)
                        scores[i] = score
        for i, request in enumerate(requests):
            self.pair_scores[request.task_name, request.doc_id, *request.args[:2]] = scores[i]
        return [(-scores[i].nats, scores[i].greedy) for i in range(len(requests))]

    def _score(
        self, items: Sequence[tuple[str, list[str]]], names: Sequence[str], advance: Callable[[float], None]
    ) -> list[list[PairScore]]:
        try:
            return self.likelihood.score(items, advance=advance)
        except DataError as error:
            for item, name in zip(items, names):  # which one was it?
                with _named(name):
                    self.likelihood.score([item])
            raise error

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Log-probability of each text after the separator, in the windows of `documents`; 0.0 of an empty one."""
        names = [_name(request, i) for i, request in enumerate(requests)]
        documents = [self._encoder(request.args[0], name) for request, name in zip(requests, names)]
        with progress("rolling log-likelihoods", sum(d.n_bytes for d in documents), "B") as advance:
            scores = score_documents(self.model, documents, self.context_bytes, self._encoder.eos_id, advance)
        for score, name in zip(scores, names):
            _refuse_nan(score.nats, name)
        return [-score.nats for score in scores]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Continuations, in order; see `generation.read_options` for the options. All are read before the first text
        is made."""
        options = [read_options(request.args[1]) for request in requests]
        texts = []
        with progress("generation", len(requests), "texts") as advance:
            for i, (request, own) in enumerate(zip(requests, options)):
                with _named(_name(request, i)):
                    texts.append(self._generate(request.args[0], own))
                advance(1)
        return texts

    def generate(self, prompt: str, max_bytes: int, stops: Sequence[str] = (), temperature: float = 0.0) -> str:
        """The text that follows the prompt: at most `max_bytes` bytes of whole characters, up to the first stop
        string (left out) or end of text. Greedy at temperature 0, else sampled with a key of (seed, prompt)."""
        return self._generate(prompt, Options(max_bytes, tuple(stop for stop in stops if stop), temperature))

    def _generate(self, prompt: str, options: Options) -> str:
        rng = keyed_rng(self.seed, "generate", prompt)
        ids, dropped = self._prompt_ids(prompt, options.max_bytes)
        over = b""
        if self.scoring == "bytes" and ids:
            # A prompt may end inside a token: the next one begins with what there is of it.
            begun = pick_beginning(self.likelihood.beginnings(prompt, dropped), options.temperature, rng)
            ids, over = list(begun.ids), begun.over
        return follow(self.model, self._encoder, [self._encoder.eos_id, *ids], options, rng, self._limit, over)

    def _prompt_ids(self, prompt: str, max_bytes: int) -> tuple[list[int], int]:
        """The end of E(prompt) that leaves `max_bytes`, at most half, of the context free, and how many ids that
        leaves out."""
        ids: list[int] = self._encoder(prompt, "prompt").ids.tolist()
        sizes = self._encoder.lengths[ids]
        room = max(self.context_bytes // 2, self.context_bytes - max_bytes)
        keep = int(np.searchsorted(np.cumsum(sizes[::-1]), room, side="right"))
        if self._limit is not None:
            keep = min(keep, max(self._limit // 2, self._limit - 1 - max_bytes))
        keep = min(keep, len(ids))
        return ids[len(ids) - keep :], len(ids) - keep


def _chunks(
    groups: Mapping[tuple[Any, ...], list[int]], requests: Sequence[Instance]
) -> Iterator[list[tuple[tuple[Any, ...], list[int]]]]:
    """Items in chunks of some `_CHUNK_BYTES`, longest first: rows of one chunk have similar lengths, and what does not
    fit shows at once. The order depends on the texts and not on the order of requests."""

    def size(entry: tuple[tuple[Any, ...], list[int]]) -> int:
        key, members = entry
        return sum(len(key[-1]) + len(requests[i].args[1]) for i in members)

    def order(entry: tuple[tuple[Any, ...], list[int]]) -> tuple[Any, ...]:
        key, members = entry
        longest = max(len(requests[i].args[1]) for i in members)
        return -len(key[-1]) - longest, key[-1], str(key[:2])

    chunk: list[tuple[tuple[Any, ...], list[int]]] = []
    filled = 0
    for entry in sorted(groups.items(), key=order):
        chunk.append(entry)
        filled += size(entry)
        if filled >= _CHUNK_BYTES:
            yield chunk
            chunk, filled = [], 0
    if chunk:
        yield chunk


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Puts a name in front of the DataErrors inside."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{name}: {error}") from error


def _name(request: Instance, at: int) -> str:
    if request.task_name is None and request.doc_id is None:
        return f"request {at}"
    return f"task {request.task_name}, document {request.doc_id}"


def _refuse_nan(nats: float, name: str) -> None:
    if math.isnan(nats):
        raise DataError(f"{name}: the checkpoint gives NaN; its weights or its precision (dtype=) are broken")


def _positive(value: Any, key: str) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 2 or (number != value and str(number) != str(value)):
        raise ConfigError(f"{key}={value}: must be a whole number of bytes, at least 2")
    return number
