"""Where a context ends and its choices begin."""

from collections.abc import Sequence


def move_space(context: str, choices: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Spaces at the end of the context go to the choices: tokenizers hold a word with the space before it."""
    bare = context.rstrip(" ")
    return bare, tuple(context[len(bare) :] + choice for choice in choices)


def common_start(pairs: Sequence[tuple[str, str]]) -> tuple[str, list[str]]:
    """(one context, choices) of pairs (context, continuation) whose contexts may differ.

    Different contexts are cut behind the last word that all have; what is left of each goes to its continuation.
    """
    contexts = [context for context, _ in pairs]
    if len(set(contexts)) == 1:
        return contexts[0], [text for _, text in pairs]
    low, high = min(contexts), max(contexts)
    n = next((i for i, (a, b) in enumerate(zip(low, high)) if a != b), min(len(low), len(high)))
    n = low.rfind(" ", 0, n) + 1
    return low[:n], [context[n:] + text for context, text in pairs]
