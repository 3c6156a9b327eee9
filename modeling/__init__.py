"""Vocabulary size → a causal language model of transformers' own classes.

    from modeling import Llama
    model = Llama(hidden_size=128, layers=4, heads=4, mlp_size=344)
    config = model.config(vocab_size=2048, context_tokens=168, eos_id=2047)   # of transformers

Importing this package imports neither torch nor transformers; building a config or a model does.
"""

from modeling.meta_recipes import MetaGPT2, MetaGPT2Rope, MetaLlama, MetaOLMo2
from modeling.recipes import GPT2, GPT2Rope, Llama, ModelRecipe, OLMo2

__all__ = ["GPT2", "GPT2Rope", "Llama", "MetaGPT2", "MetaGPT2Rope", "MetaLlama", "MetaOLMo2", "ModelRecipe", "OLMo2"]
