"""What the figures of `isotok compare` mean and what each is divided by: (key, name, text)."""

GLOSSARY: tuple[tuple[str, str, str], ...] = (
    (
        "tokens",
        "tokens",
        "N: ids of the documents, each encoded whole. No special token is added; strings that look like one are text.",
    ),
    (
        "bytes_per_token",
        "bytes a token",
        "B/N: UTF-8 bytes of the documents over their tokens. A ratio of sums; the median is that of the documents' "
        "own ratios.",
    ),
    (
        "tokens_per_word",
        "tokens a word (fertility)",
        "N/W, W: pieces between white space (\\s+), punctuation included. Below 1 where tokens span words. None where "
        "words average more than 15 characters: the script puts no spaces between words. Then characters a token "
        "(characters/N) is the figure to read.",
    ),
    (
        "continued_words",
        "continued words",
        "Share of the W words with a cut between two tokens inside them. Denominator: W, each occurrence once.",
    ),
    (
        "one_token_types",
        "one-token words",
        "Share of distinct words that are one token at the start of a text or after a space. Denominator: distinct "
        "words of the text, punctuation included, each once.",
    ),
    (
        "superword_share",
        "superword share",
        "Tokens with white space between two other characters. By count: of N; by bytes: their bytes of B. Words a "
        "superword: words and parts of words in them over their number.",
    ),
    (
        "renyi_efficiency",
        "Rényi efficiency",
        "H_α / log₂ V with H_α = log₂(Σ pᵢ^α) / (1 − α), pᵢ = count of entry i / N; α = 1 is Shannon's entropy. V is "
        "the whole vocabulary without special tokens, not the entries seen. The order of tokenizers can change with α; "
        "it is no proof of quality.",
    ),
    (
        "vocabulary_share_used",
        "vocabulary used",
        "Entries that occur in the text over V. It grows with the text.",
    ),
    (
        "frequency_gini",
        "frequency Gini",
        "Σᵢ Σⱼ |fᵢ − fⱼ| / (2 V² mean f) over the counts of all V entries, unused ones included: 0 if all were equally "
        "frequent.",
    ),
    (
        "unreachable",
        "unreachable entries",
        "Entries t with E(decode(t)) ≠ [t]. Denominator: entries that are valid UTF-8. Only for byte-level "
        "vocabularies: elsewhere an entry has no text that has to yield it alone.",
    ),
    (
        "prefix_stability",
        "prefix stability",
        "Share of cut points i at which E(x[:i]) is a prefix of E(x), x a passage. At word ends: after a word and "
        "before white space; at any character: between any two. Where it is not, a prompt that ends there is cut "
        "differently from the text it begins. Denominator: cut points tried.",
    ),
    (
        "context_stability",
        "context stability",
        "For each occurrence of a word that occurs twice or more: the share of the word's other occurrences that are "
        "split alike, averaged over occurrences. Split alike: the same cuts inside the word, and the same answer to "
        "whether it shares a token with the word before it and with the one after it; “inside”: the cuts inside it "
        "alone. Denominator: occurrences of repeated words.",
    ),
    (
        "robustness",
        "one small change",
        "A passage with one word misspelled (two letters swapped or one replaced), one word in capitals, or one space "
        "doubled. Change: mean of tokens after minus before; distance: mean Levenshtein distance between the rows of "
        "ids. Denominator: passages that could be changed so.",
    ),
    (
        "documents_exact",
        "exact documents",
        "Share of documents that decoding gives back byte for byte. Below 100% the other figures are about a text that "
        "the tokenizer changed. Denominator: documents.",
    ),
    (
        "unknown_share",
        "unknown tokens",
        "Share of N that is the unknown token: text that the vocabulary cannot spell.",
    ),
    (
        "parity",
        "premium",
        "N_l / N_reference on the lines of a parallel file; max/min over the languages' N; fairness Gini Σᵢ Σⱼ "
        "|cᵢ − cⱼ| / (2 n² mean) over c = tokens a line of n languages. Byte premium: the same ratio of UTF-8 bytes.",
    ),
    (
        "speed",
        "encoding speed",
        "MB (10⁶ bytes) a second of processor time, one thread, library, after warming up on as much other text. A "
        "measurement on one machine: it differs from run to run and is kept apart from everything else.",
    ),
    (
        "curve",
        "compression curve",
        "Bytes a token with a tokenizer's first merges only: vocabulary n is the alphabet and the merges up to it. "
        "SuperBPE keeps its stage-2 pretokenizer throughout, as in the paper.",
    ),
)
