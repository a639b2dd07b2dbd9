"""Trains the demo decoder from scratch, on one CPU core, in about an hour.

    pip install torch==2.15.0 transformers==5.23.0 tokenizers==0.23.3 safetensors==0.8.0 numpy==2.4.6
    python train.py               # writes build/weights.pt and build/tokenizer.json
    python export.py              # writes model/
    python evaluate.py --checks   # accuracy table, checks.json

AdamW with a cosine schedule, bfloat16 autocast, float32 weights. What is kept is
a running mean of the trained weights; a last, short stage starts from it with a
fresh optimizer (`--polish` does only that). Seeds are fixed; the result is
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
import evaluate
import tokenizer as bpe

HERE = Path(__file__).parent
SEED = 1234
STEPS = 4200
SECOND_STAGE = 2500  # from this step on, conversations are long
COPY_STEPS, COPY_LOSS = 500, 0.3  # the warm-up in copying ends at this step or at this loss
POLISH_STEPS, POLISH_RATE = 900, 8e-4
TOKENS_PER_BATCH = 2048
LEARNING_RATE = 2.5e-3
WARMUP = 100
WEIGHT_DECAY = 0.1
MEAN_DECAY = 0.995
LOOK_EVERY = 400


def config():
    return LlamaConfig(
        vocab_size=bpe.VOCAB_SIZE, hidden_size=192, intermediate_size=512, num_hidden_layers=6, num_attention_heads=6,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=2048, rms_norm_eps=1e-5, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=[0, 2], pad_token_id=0)


@torch.no_grad()
def initialize(model):
    """Weights scaled by their fan-in: at this width the default of 0.02 makes attention nearly uniform, a slow start."""
    for name, weight in model.named_parameters():
        if "embed" in name:
            torch.nn.init.normal_(weight, std=0.05)
        elif weight.ndim > 1:
            scale = (2 * model.config.num_hidden_layers) ** -0.5 if "o_proj" in name or "down_proj" in name else 1.0
            torch.nn.init.normal_(weight, std=scale * weight.shape[1] ** -0.5)
        if "q_proj" in name or "k_proj" in name:
            weight[:, 0] = 0  # dimension 0 is a constant, see below
    add_previous_token_head(model)


def add_previous_token_head(model, strength=40.0, pairs=8):
    """Lets the first head of layer 0 look at the previous token.

    Copying needs "which token came before this one?", and finding that alone costs a tiny model thousands of steps.
    Dimension 0 of the embedding becomes a constant, from which the head makes a fixed query and a fixed key; their
    rotary angles differ by one position, so that the score is highest for the token just before.
    """
    embedding, attention = model.model.embed_tokens.weight, model.model.layers[0].self_attn
    half, width = model.config.head_dim // 2, embedding.shape[1]
    embedding[:, 0] = embedding.std() * math.sqrt(width)
    size = math.sqrt(strength) / math.sqrt(width / 2)  # the norm turns the constant into about sqrt(width / 2)
    angles = model.config.rope_parameters["rope_theta"] ** (-torch.arange(pairs) / half)
    attention.k_proj.weight[:pairs, 0] = size
    attention.q_proj.weight[:pairs, 0] = size * torch.cos(angles)
    attention.q_proj.weight[half:half + pairs, 0] = -size * torch.sin(angles)


def optimizer_for(model):
    """AdamW; no weight decay for the norms."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    norms = [p for p in model.parameters() if p.ndim <= 1]
    return torch.optim.AdamW([{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": norms, "weight_decay": 0.0}],
                             lr=LEARNING_RATE, betas=(0.9, 0.98), fused=True)


def cosine(highest, share):
    """The learning rate when this share of the steps is done."""
    return highest * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))


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


def look(mean, tok, work, scale):
    """Saves the weights and prints the accuracy on a thinned-out test set."""
    torch.save(mean.state_dict(), work / "weights.tmp")
    (work / "weights.tmp").replace(work / "weights.pt")
    for task, (n, share) in evaluate.accuracy(mean, tok, scale).items():
        print(f"    {task:32} {share:7.1%} of {n}", flush=True)


class Training:
    """A model in training, and the running mean of its weights."""

    def __init__(self, model, tok, work):
        self.model, self.tok, self.work = model, tok, work
        self.mean = copy.deepcopy(model).eval().requires_grad_(False)
        self.optimizer = optimizer_for(model)
        self.start, self.seen, self.recent = time.time(), 0, []

    def step(self, rows, length, rate, name):
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of(self.model, *tensors(rows, length))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.seen += len(rows) * length
        self.recent.append(loss.item())
        if len(self.recent) % 50 == 0:
            elapsed = time.time() - self.start
            print(f"{name} loss {sum(self.recent[-50:]) / 50:.4f} lr {rate:.2e} {elapsed / 60:6.1f} min "
                  f"{self.seen / elapsed:6.0f} tokens/s", flush=True)

    def copy(self):
        """Until it copies."""
        copies = data.copy_batches(self.tok, SEED, TOKENS_PER_BATCH)
        for step in range(COPY_STEPS):
            self.step(*next(copies), LEARNING_RATE * min(1, (step + 1) / WARMUP), f"copy {step + 1:5}")
            if sum(self.recent[-10:]) < 10 * COPY_LOSS:
                break

    def run(self, steps, rate, stage_of, name):
        streams = [data.batches(self.tok, SEED + stage, stage, TOKENS_PER_BATCH) for stage in range(len(data.STAGES))]
        for step in range(steps):
            self.step(*next(streams[stage_of(step)]), cosine(rate, step / steps), f"{name} {step + 1:5}")
            update_mean(self.mean, self.model, step)
            if (step + 1) % LOOK_EVERY == 0 or step + 1 == steps:
                look(self.mean, self.tok, self.work, scale=0.08)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=HERE / "build")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--polish", action="store_true", help="start from the weights in WORK")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)

    tok = bpe.train()
    tok.save(str(args.work / "tokenizer.json"))
    model = LlamaForCausalLM(config())
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {tok.get_vocab_size()} tokens", flush=True)
    if not args.polish:
        initialize(model)
        training = Training(model, tok, args.work)
        training.copy()
        training.run(STEPS, LEARNING_RATE, lambda step: int(step >= SECOND_STAGE), "step")
    model.load_state_dict(torch.load(args.work / "weights.pt", weights_only=True))
    Training(model, tok, args.work).run(POLISH_STEPS, POLISH_RATE, lambda step: 2, "polish")


if __name__ == "__main__":
    main()
