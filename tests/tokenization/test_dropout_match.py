"""Dropout whose growth is StochasTok's: found by bisection, the same every time, refused where there is none."""

import argparse
import decimal
import difflib
import optparse
from pathlib import Path

import numpy as np
import pytest
import yaml

from isotok.errors import ConfigError
from isotok.recipe import build, describe
from tokenization import BPE, BPEDropout, ByteLevel, MatchedDropout, NoTransform, StochasTok, SuperBPE, encode_text
from tokenization.dropout_match import first_units, growth
from tokenization.transform import fit_transform

CONFIGS = Path(__file__).parents[2] / "configs"
TEXTS = [str(module.__doc__) for module in (argparse, decimal, difflib, optparse)] * 5


class Data:
    """A training split of the texts' ids, each with its end-of-text id."""

    def __init__(self, tokenizer, texts=TEXTS) -> None:
        self._ids = [np.array([*encode_text(tokenizer, text), tokenizer.eos_token_id], np.uint16) for text in texts]

    def __len__(self) -> int:
        return len(self._ids)

    def ids(self, unit: int) -> np.ndarray:
        return self._ids[unit]


@pytest.fixture(scope="module", params=[BPE(vocab_size=700), SuperBPE(vocab_size=700, transition=0.7)])
def made(request):
    return request.param.train(TEXTS)


@pytest.mark.parametrize("variant", ["reference", "queue"])
@pytest.mark.parametrize(("p", "rounding"), [(0.1, "floor"), (0.5, "stochastic")])
def test_growth_is_stochastoks(made, variant, p, rounding) -> None:
    data = Data(made)
    matched = MatchedDropout(p=p, rounding=rounding, variant=variant, fresh=False)
    fitted = matched.fit(data, made)
    assert describe(fitted) == describe(BPEDropout(q=fitted.q, variant=variant, fresh=False))
    assert matched.fit(data, made) == fitted and 0 < fitted.q < 1
    # Measured here by counting ids, not by what fitted them.
    apply, split = fitted.bind(made, 0), StochasTok(p=p, rounding=rounding).bind(made, 0)
    before, ours, theirs = (
        sum(len(cut(data.ids(unit), 0, unit)) for unit in range(len(data)))
        for cut in (NoTransform().bind(made, 0), apply, split)
    )
    assert theirs > 1.03 * before
    assert abs(ours - theirs) / before <= 0.002


def test_a_recipe_without_fit_stays(made) -> None:
    for transform in (NoTransform(), StochasTok(), BPEDropout()):
        assert fit_transform(transform, Data(made), made) is transform
    assert isinstance(fit_transform(MatchedDropout(), Data(made), made), BPEDropout)
    with pytest.raises(ConfigError, match="its rate comes from data"):
        MatchedDropout().bind(made, 0)


def test_label_needs_no_data() -> None:
    assert MatchedDropout(p=0.1).label == "dropout-as-stochastok-0.1"
    assert MatchedDropout(p=0.2, variant="queue").label == "dropout-as-stochastok-0.2-queue"


def test_what_cannot_be_matched_is_refused(made, monkeypatch) -> None:
    tokenizer = ByteLevel().train([])
    with pytest.raises(ConfigError, match=r"as-stochastok-0\.1: StochasTok at p=0\.1 splits nothing"):
        MatchedDropout().fit(Data(tokenizer), tokenizer)
    with pytest.raises(ConfigError, match="splits nothing"):
        MatchedDropout().fit(Data(made, ["argument"]), made)  # floor: too short for an attempt

    def jumps(transform, sample, tokenizer) -> float:
        return 0.08 if isinstance(transform, StochasTok) else 0.5 * (transform.q > 0.3)

    monkeypatch.setattr("tokenization.dropout_match.growth", jumps)
    with pytest.raises(ConfigError, match=r"no rate grows by 8.00% within 0.20%; the nearest is q=0\S* with 0.00%"):
        MatchedDropout().fit(Data(made), made)


def test_the_sample_is_the_start_of_the_split(made) -> None:
    data = Data(made)
    assert len(first_units(data)) == len(data)
    sizes = [len(data.ids(unit)) for unit in range(3)]
    assert len(first_units(data, sizes[0] + 1)) == 2
    assert growth(NoTransform(), first_units(data), made) == 0.0


def test_config_lists_every_key_with_its_default() -> None:
    assert build(yaml.safe_load((CONFIGS / "transform/dropout_matched.yaml").read_text()), "t") == MatchedDropout()
