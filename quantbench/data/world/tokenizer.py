"""The word-level tokenizer of the world: one id per word, number, punctuation mark or document separator."""

from pathlib import Path
from typing import Any

from quantbench.data.world.lexicon import Lexicon
from quantbench.data.world.writer import END

UNKNOWN = "<unk>"


def vocabulary(lexicon: Lexicon) -> dict[str, int]:
    """Word -> id: the unknown word, the separator of documents, then every word of the world."""
    return {word: index for index, word in enumerate([UNKNOWN, END, *lexicon.words()])}


def make_tokenizer(lexicon: Lexicon) -> Any:
    """A transformers PreTrainedTokenizerFast; a blank line is the separator and serves as BOS and EOS, never added."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(vocabulary(lexicon), unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n\n|\w+|[^\w\s]"), behavior="removed", invert=True)
    joined = [decoders.WordPiece(prefix="##", cleanup=False), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*joined, decoders.Replace(f" {END}", END), decoders.Replace(f"{END} ", END)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=UNKNOWN, bos_token=END, eos_token=END, pad_token=END,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def save_tokenizer(lexicon: Lexicon, folder: Path) -> None:
    """Write the tokenizer's files into ``folder``."""
    make_tokenizer(lexicon).save_pretrained(folder)
