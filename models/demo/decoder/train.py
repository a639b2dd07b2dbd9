"""Trains the demo decoder from scratch, on one CPU core, in about half an hour.

    pip install torch==2.15.0 transformers==5.23.0 tokenizers==0.23.3 safetensors==0.8.0 numpy==2.4.6
    python train.py               # writes build/weights.pt and build/tokenizer.json
    python export.py              # writes model/
    python evaluate.py            # accuracy table, checks.json

AdamW with a cosine schedule, bfloat16 autocast, float32 weights. The exported
weights are a running mean of the trained ones. Seeds are fixed; the result is
repeatable on the same machine with the same number of threads.
"""

import argparse
import copy
import math
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import data
import tokenizer as bpe

HERE = Path(__file__).parent
SEED = 1234
STEPS = 2600
TOKENS_PER_BATCH = 2048
LEARNING_RATE = 2e-3
WARMUP = 100
WEIGHT_DECAY = 0.1
MEAN_DECAY = 0.995


def config():
    return LlamaConfig(
        vocab_size=bpe.VOCAB_SIZE, hidden_size=192, intermediate_size=512, num_hidden_layers=6, num_attention_heads=6,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=2048, rms_norm_eps=1e-5, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=[0, 2], pad_token_id=0)


@torch.no_grad()
def initialize(model):
    """Weights scaled by their fan-in; layers add nothing to the residual stream at first, except previous-token heads."""
    for name, weight in model.named_parameters():
        if "embed" in name:
            torch.nn.init.normal_(weight, std=0.05)
        elif "o_proj" in name or "down_proj" in name:
            torch.nn.init.zeros_(weight)
        elif weight.ndim > 1:
            torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
        if "q_proj" in name or "k_proj" in name:
            weight[:, 0] = 0  # dimension 0 is a constant, see below
    add_previous_token_heads(model)


@torch.no_grad()
def add_previous_token_heads(model, strength=40.0, pairs=8):
    """Lets the first key-value group of layer 0 look at the previous token.

    Copying needs "which token came before this one?", and finding that alone costs a tiny model thousands of steps.
    Dimension 0 of the embedding becomes a constant, from which the heads make a fixed query and a fixed key; their
    rotary angles differ by one position, so that the score is highest for the token just before.
    """
    head_dim, group = model.config.head_dim, model.config.num_attention_heads // model.config.num_key_value_heads
    embedding, attention = model.model.embed_tokens.weight, model.model.layers[0].self_attn
    constant = embedding.std() * math.sqrt(embedding.shape[1])
    embedding[:, 0] = constant
    size = math.sqrt(strength) / math.sqrt(embedding.shape[1] / 2)  # the norm makes the constant sqrt(width / 2)
    angles = model.config.rope_parameters["rope_theta"] ** (-torch.arange(pairs) / (head_dim // 2))
    attention.k_proj.weight[:pairs, 0] = size
    for head in range(group):
        rows = attention.q_proj.weight[head * head_dim:(head + 1) * head_dim]
        rows[:pairs, 0] = size * torch.cos(angles)
        rows[head_dim // 2:head_dim // 2 + pairs, 0] = -size * torch.sin(angles)
    torch.nn.init.normal_(attention.o_proj.weight[:, :group * head_dim], std=0.05 / math.sqrt(group * head_dim))


def optimizer_for(model):
    """AdamW; no weight decay for the norms."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    norms = [p for p in model.parameters() if p.ndim <= 1]
    return torch.optim.AdamW([{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": norms, "weight_decay": 0.0}],
                             lr=LEARNING_RATE, betas=(0.9, 0.98), fused=True)


def learning_rate(step):
    """A linear warm-up, then a cosine."""
    return min(1.0, (step + 1) / WARMUP) * LEARNING_RATE * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / STEPS)))


def tensors(rows, length):
    """Padded ids and weights. Padding is at the end, where causal attention cannot see it."""
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    weights = torch.zeros(len(rows), length)
    for i, (row_ids, row_weights) in enumerate(rows):
        ids[i, :len(row_ids)] = torch.tensor(row_ids)
        weights[i, :len(row_ids)] = torch.tensor(row_weights)
    return ids, weights


def loss_of(model, ids, weights):
    """Weighted next-token loss; the head runs only where a weight is set."""
    targets, weights = ids[:, 1:].reshape(-1), weights[:, 1:].reshape(-1)
    used = weights.nonzero()[:, 0]
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[:, :-1].reshape(-1, hidden.shape[-1])[used])
    losses = torch.nn.functional.cross_entropy(logits.float(), targets[used], reduction="none")
    return (losses * weights[used]).sum() / weights[used].sum()


@torch.no_grad()
def update_mean(mean, model, step):
    decay = min(MEAN_DECAY, (step + 1) / (step + 10))
    for average, current in zip(mean.parameters(), model.parameters()):
        average.lerp_(current, 1 - decay)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=HERE / "build")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)

    tok = bpe.train()
    tok.save(str(args.work / "tokenizer.json"))
    model = LlamaForCausalLM(config())
    initialize(model)
    mean = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = optimizer_for(model)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {tok.get_vocab_size()} tokens", flush=True)

    start, seen, recent = time.time(), 0, []
    stream = data.batches(tok, SEED, TOKENS_PER_BATCH)
    for step in range(STEPS):
        rows, length = next(stream)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        loss = loss_of(model, *tensors(rows, length))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        update_mean(mean, model, step)
        seen += len(rows) * length
        recent = recent[-49:] + [loss.item()]
        if (step + 1) % 50 == 0:
            elapsed = time.time() - start
            print(f"step {step + 1:5} loss {sum(recent) / 50:.4f} lr {learning_rate(step):.2e} {elapsed / 60:6.1f} min "
                  f"{seen / elapsed:6.0f} tokens/s", flush=True)
        if (step + 1) % 200 == 0 or step + 1 == STEPS:
            torch.save(mean.state_dict(), args.work / "weights.pt")


if __name__ == "__main__":
    main()
