"""A model, token data and a budget → a checkpoint.

    from training import Budget, Engine, Training, pretrain

Importing this package imports neither torch nor transformers; `pretrain` does.
"""

from training.api import pretrain
from training.budget import Budget, Plan, plan_run
from training.recipes import Engine, Training

__all__ = ["Budget", "Engine", "Plan", "Training", "plan_run", "pretrain"]
