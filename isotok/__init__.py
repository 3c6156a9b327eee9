"""isotok: at the same compute, which tokenizer makes the better language model?

This package is the ground floor that every other room shares: errors, the recipe base, atomic files,
locks and hashes, keyed random streams, progress. The stages themselves stand beside it as
`tokenization`, `modeling`, `training`, `evaluation` and `scripts`.
"""

__version__ = "0.1.0"
