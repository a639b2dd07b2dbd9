"""Trains the byte-level BPE tokenizer of the demo decoder on generated text.

Digits are split one by one before the BPE, so that numbers are always spelled
digit by digit. While training, the space before a capital letter is split off,
so that no merge joins the two: a name has the same tokens after a space and
after a quote, which makes copying it easy. The ids 0 to 2 are special tokens.
"""

import random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

import data

VOCAB_SIZE = 2048
SAMPLES = 20_000
SEED = 1


def texts():
    rng = random.Random(SEED)
    for i in range(SAMPLES):
        yield "".join(text for text, _ in data.sample(rng, stage=i % 2))


def train():
    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    capitals = pre_tokenizers.Split(Regex(r" (?=\p{Lu})"), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, capitals, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=[data.END, data.IM_START, data.IM_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(texts(), trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    return tokenizer


if __name__ == "__main__":
    print(train().get_vocab_size())
