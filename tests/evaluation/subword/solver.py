"""Answers LangGame's questions from what their prompts say in English, and from nothing else."""

import re


def parse(prompt: str) -> tuple[str, str, list[str]]:
    """(what is asked, the letter or string, the words of the list) of a prompt in any wording."""
    quoted = re.findall(r"'([a-z]+)'", prompt)
    assert len(quoted) <= 1, prompt
    text = re.sub(r"'[a-z]+'s?", "QUOTED", prompt)
    (asked,) = [
        words
        for words in ("most", "contains", "starts with", "ends with", "longest", "shortest")
        if re.search(rf"\b{words}\b", _question(text))
    ]
    return asked, quoted[0] if quoted else "", _listed(text)


def right_words(prompt: str) -> list[str]:
    """Every word of the list that answers the question."""
    asked, string, words = parse(prompt)
    if asked == "most":
        times = {word: sum(letter == string for letter in word) for word in words}
        return [word for word in words if times[word] == max(times.values()) > 0]
    if asked == "contains":
        return [w for w in words if any(w[i : i + len(string)] == string for i in range(len(w)))]
    if asked == "starts with":
        return [word for word in words if word[: len(string)] == string]
    if asked == "ends with":
        return [word for word in words if word[len(word) - len(string) :] == string and len(word) >= len(string)]
    sizes = sorted(len(word) for word in words)
    wanted = sizes[-1] if asked == "longest" else sizes[0]
    return [word for word in words if len(word) == wanted]


def _span(text: str) -> re.Match[str]:
    """The list: four words with commas between, the first after a space."""
    found = list(re.finditer(r"(?<= )[a-z]+, [a-z]+, [a-z]+, [a-z]+", text))
    assert len(found) == 1, text
    return found[0]


def _listed(text: str) -> list[str]:
    return _span(text).group().split(", ")


def _question(text: str) -> str:
    """The prompt without its list, which might hold a word like "most"."""
    span = _span(text)
    return text[: span.start()] + "LIST" + text[span.end() :]
