"""Text → vocabulary → ids.

    from tokenization import SuperBPE
    tokenizer = SuperBPE(vocab_size=4096).train(texts)     # a transformers PreTrainedTokenizerFast

Recipes: `BPE`, `SuperBPE`, `Unigram`, `WordPiece`, `ByteLevel`, `ExistingTokenizer`; transforms of ids: `NoTransform`,
`StochasTok`, `BPEDropout`, `MatchedDropout`.
Importing this package imports neither torch nor transformers; training and loading do.
"""

from tokenization.bpe import BPE
from tokenization.byte_level import ByteLevel
from tokenization.chunks import Chunks, chunks_of, count_chunks, count_corpus
from tokenization.corpus import Document, build_corpus, read_documents
from tokenization.dropout import BPEDropout
from tokenization.dropout_match import MatchedDropout
from tokenization.encode import TokenData, encode_corpus
from tokenization.existing import ExistingTokenizer
from tokenization.merges import Vetoes, learn_merges
from tokenization.pretokenize import Chunking
from tokenization.stochastok import StochasTok
from tokenization.superbpe import SuperBPE
from tokenization.tokenizer import TokenizerRecipe, encode_text, load_tokenizer, token_bytes, train_tokenizer
from tokenization.transform import NoTransform
from tokenization.unigram import Unigram
from tokenization.wordpiece import WordPiece

__all__ = [
    "BPE",
    "BPEDropout",
    "ByteLevel",
    "Chunking",
    "Chunks",
    "Document",
    "ExistingTokenizer",
    "MatchedDropout",
    "NoTransform",
    "StochasTok",
    "SuperBPE",
    "TokenData",
    "TokenizerRecipe",
    "Unigram",
    "Vetoes",
    "WordPiece",
    "build_corpus",
    "chunks_of",
    "count_chunks",
    "count_corpus",
    "encode_corpus",
    "encode_text",
    "learn_merges",
    "load_tokenizer",
    "read_documents",
    "token_bytes",
    "train_tokenizer",
]
