"""lm-eval's own command line with isotok's model class registered: lm-eval 0.4 finds outside classes by import only."""

import sys
from collections.abc import Sequence


def run_lm_eval(arguments: Sequence[str]) -> None:
    """Run `lm_eval ARGUMENTS` in this process; `--model isotok` is `evaluation.harness.IsotokLM`."""
    from lm_eval.__main__ import cli_evaluate

    import evaluation.harness  # noqa: F401  # registers the class
    from evaluation.ranks import leave_ranks

    before = sys.argv
    sys.argv = ["lm_eval", *arguments]  # lm-eval reads and changes sys.argv
    try:
        cli_evaluate()
    finally:
        sys.argv = before
        leave_ranks()
