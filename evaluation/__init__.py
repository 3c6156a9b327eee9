"""A checkpoint -> numbers that compare across tokenizers, with the items they are made of.

`from evaluation import Evaluation, evaluate`: light to import, torch comes with the first call.
"""

from evaluation.evaluate import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
