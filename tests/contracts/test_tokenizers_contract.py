"""The contract of tokenizers, kept by the fake, the tiny model's and those in Hugging Face form."""

import functools
import json

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from tinsmith import bootstrap
from tinsmith.adapters.huggingface.tokenizer import HuggingFaceTokenizer, load_tokenizer
from tinsmith.domain.errors import ModelNotFoundError
from tinsmith.testing import FakeTokenizer
from tinsmith.testing.contracts import TokenizerContract

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>"]
TEXT = ["the quick brown fox jumps over the lazy dog 12345 67 é 日本 \n\n", "<|im_start|> im_start endoftext think"] * 3


class TestFakeTokenizer(TokenizerContract):
    def make(self):
        return FakeTokenizer()


@functools.cache
def byte_level_bpe(add_prefix_space):
    """A small BPE of the kind that GPT-2, Llama 3 and Qwen use, trained here; it puts a token before each text."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(vocab_size=400, special_tokens=CONTROL, initial_alphabet=alphabet, show_progress=False),
    )
    made.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", made.token_to_id("<|endoftext|>"))]
    )
    return HuggingFaceTokenizer(json.loads(made.to_str()), {"eos_token": "<|im_end|>"}, name="bpe")


class TestByteLevelBpe(TokenizerContract):
    def make(self):
        return byte_level_bpe(False)


@functools.cache
def smollm2():
    try:
        return load_tokenizer(bootstrap.model_path(bootstrap.SMOLLM2))[0]
    except ModelNotFoundError as error:
        return pytest.skip(str(error))


class TestSmolLm2(TokenizerContract):
    def make(self):
        return smollm2()

    def texts(self):
        """Its vocabulary lacks 21 bytes (some control characters, and the first bytes of rare planes of Unicode): such
        characters fall out of a text, with the model's own tokenizer as here."""
        spelled = {piece[0] for piece in self.make().token_bytes() if len(piece) == 1}
        assert len(spelled) == 235
        return super().texts().filter(lambda text: spelled.issuperset(text.encode()))
