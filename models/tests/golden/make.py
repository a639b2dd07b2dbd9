"""Make the tiny golden checkpoints and their reference results.

Every case is a random-weight model small enough to commit. It is saved as a
Hugging Face folder, loaded again by transformers (eager attention, CPU), and
what transformers computes is written beside it. Prompts are token ids, so no
tokenizer takes part. See README.md for the files and their format.

Pinned: Python 3.11, torch 2.15.0 (CPU), transformers 5.23.0, safetensors 0.8.0

    python make.py            # all cases
    python make.py llama3     # cases whose name starts so
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (AutoModelForCausalLM, BertConfig, BertForMaskedLM,
                          BertForSequenceClassification, BertModel, CamembertConfig,
                          CamembertForMaskedLM, DistilBertConfig, DistilBertForMaskedLM,
                          DistilBertForSequenceClassification, DistilBertModel,
                          LlamaConfig, MistralConfig, ModernBertConfig,
                          ModernBertForMaskedLM, ModernBertForSequenceClassification,
                          ModernBertModel, MPNetConfig, MPNetForMaskedLM,
                          MPNetForSequenceClassification, MPNetModel, Qwen2Config, Qwen3Config, RobertaConfig,
                          RobertaForSequenceClassification, XLMRobertaConfig,
                          XLMRobertaForSequenceClassification, XLMRobertaModel)
from transformers.utils import logging

HERE = Path(__file__).resolve().parent
PROMPT_LENGTHS = (5, 40, 70)
TAIL = 8            # of the longest prompt only this many last rows are stored
NEW_TOKENS = 24
EOS = 2
MIN_MARGIN = 0.02   # top1 - top2 of every greedy step
MIN_DISTINCT = 14   # distinct tokens among the 24 of a continuation


def llama3_rope():
    return {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64}


def theta(value):
    return {"rope_type": "default", "rope_theta": value}


# name -> (config class, config, embedding std). Inner sizes are multiples of 16.
MODELS = {
    "llama2": (LlamaConfig, dict(
        vocab_size=256, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, rms_norm_eps=1e-5,
        rope_parameters=theta(10000.0), max_position_embeddings=256), 1.0),
    "llama3": (LlamaConfig, dict(
        vocab_size=256, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-5,
        rope_parameters=llama3_rope(), max_position_embeddings=512,
        tie_word_embeddings=True), 0.2),
    "mistral": (MistralConfig, dict(
        vocab_size=256, hidden_size=48, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, rms_norm_eps=1e-5,
        rope_parameters=theta(1000000.0), sliding_window=24,
        max_position_embeddings=256), 1.0),
    "qwen2": (Qwen2Config, dict(
        vocab_size=263, hidden_size=32, intermediate_size=144, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, rms_norm_eps=1e-6,
        rope_parameters=theta(1000000.0), max_position_embeddings=256,
        tie_word_embeddings=True), 0.2),
    "qwen3": (Qwen3Config, dict(
        vocab_size=256, hidden_size=32, intermediate_size=80, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=32, rms_norm_eps=1e-6,
        rope_parameters=theta(1000000.0), max_position_embeddings=256), 1.0),
    "llama_sharded": (LlamaConfig, dict(
        vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, rms_norm_eps=1e-6,
        rope_parameters=theta(10000.0), max_position_embeddings=256), 1.0),
}

# folder -> (model, seed to start from, stored dtype, classic config form)
CASES = {
    "llama2": ("llama2", 7, torch.float32, False),
    "llama3": ("llama3", 0, torch.float32, True),
    "mistral": ("mistral", 10, torch.float32, False),
    "qwen2": ("qwen2", 2852, torch.float32, True),
    "qwen3": ("qwen3", 293, torch.float32, False),
    "llama_sharded": ("llama_sharded", 99, torch.float32, True),
    "llama3_bf16": ("llama3", 2, torch.bfloat16, False),
    "qwen2_bf16": ("qwen2", 2600, torch.bfloat16, False),
    "mistral_f16": ("mistral", 10, torch.float16, True),
}

BERT = dict(vocab_size=128, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=64, hidden_act="gelu")
ROBERTA = dict(BERT, type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2)
DISTILBERT = dict(vocab_size=128, dim=32, hidden_dim=48, n_layers=2, n_heads=2,
                  max_position_embeddings=64)
MODERNBERT = dict(vocab_size=128, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                  num_attention_heads=2, max_position_embeddings=64, local_attention=8,
                  global_attn_every_n_layers=2, pad_token_id=0, bos_token_id=1,
                  eos_token_id=2, cls_token_id=1, sep_token_id=2)
MPNET = dict(BERT, max_position_embeddings=84)
RERANKER = dict(id2label={0: "LABEL_0"}, label2id={"LABEL_0": 0})
MOODS = dict(id2label={0: "sad", 1: "calm", 2: "merry"},
             label2id={"sad": 0, "calm": 1, "merry": 2})

# folder -> (model class, config, seed, stored dtype, classic config form)
ENCODERS = {
    "bert_classifier": (BertForSequenceClassification, BertConfig(**BERT, **MOODS),
                        21, torch.float32, True),
    "bert_splade": (BertForMaskedLM, BertConfig(**BERT), 22, torch.float32, False),
    "bert_dense": (BertModel, BertConfig(**BERT), 23, torch.float32, True),
    # A number that shows beside the variance.
    "xlm_roberta": (XLMRobertaModel, XLMRobertaConfig(**ROBERTA, layer_norm_eps=0.05), 24,
                    torch.float32, False),
    "xlm_roberta_reranker": (XLMRobertaForSequenceClassification,
                             XLMRobertaConfig(**ROBERTA, **RERANKER), 25, torch.float32, True),
    "roberta_classifier_bf16": (RobertaForSequenceClassification,
                                RobertaConfig(**ROBERTA, **MOODS,
                                              problem_type="multi_label_classification"),
                                26, torch.bfloat16, False),
    "camembert_splade": (CamembertForMaskedLM, CamembertConfig(**ROBERTA), 27,
                         torch.float32, True),
    "distilbert": (DistilBertModel, DistilBertConfig(**DISTILBERT), 28, torch.float32, True),
    "distilbert_classifier": (DistilBertForSequenceClassification,
                              DistilBertConfig(**DISTILBERT, **MOODS), 29, torch.float32, False),
    "distilbert_splade": (DistilBertForMaskedLM, DistilBertConfig(**DISTILBERT), 30,
                          torch.float32, False),
    "modernbert": (ModernBertModel, ModernBertConfig(**MODERNBERT, norm_eps=0.05), 31,
                   torch.float32, False),
    "modernbert_classifier": (ModernBertForSequenceClassification,
                              ModernBertConfig(**MODERNBERT, **MOODS, classifier_pooling="mean",
                                               classifier_bias=True), 32, torch.float32, True),
    "modernbert_splade": (ModernBertForMaskedLM, ModernBertConfig(**MODERNBERT), 33,
                          torch.float32, False),
    "mpnet": (MPNetModel, MPNetConfig(**MPNET), 34, torch.float32, True),
    "mpnet_classifier": (MPNetForSequenceClassification, MPNetConfig(**MPNET, **MOODS), 35,
                         torch.float32, False),
    "mpnet_splade": (MPNetForMaskedLM, MPNetConfig(**MPNET), 36, torch.float32, False),
}


def prompts(vocab):
    """Three fixed prompts of random ids, without the special ids 0..2."""
    gen = torch.Generator().manual_seed(7)
    return [torch.randint(3, vocab, (n,), generator=gen) for n in PROMPT_LENGTHS]


def randomize(model, seed, embedding_std):
    """Weights ~ N(0, 0.2), norms ~ N(1, 0.2), biases ~ N(0, 0.5)."""
    gen = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=gen)
            if "norm" in name.lower() and name.endswith("weight"):
                p.copy_(1 + 0.2 * noise)
            elif name.endswith("bias"):
                p.copy_(0.5 * noise)
            elif "embed" in name:
                p.copy_(embedding_std * noise)
            else:
                p.copy_(0.2 * noise)


def build(model_name, seed):
    """The random causal language model of one case, in f32."""
    config_class, fields, embedding_std = MODELS[model_name]
    config = config_class(bos_token_id=1, eos_token_id=EOS, **fields)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    randomize(model, seed, embedding_std)
    return model.eval()


@torch.no_grad()
def logits_of(model, ids):
    return model(input_ids=ids[None], use_cache=False).logits[0]


def margin(row):
    top = row.float().topk(2).values
    return (top[0] - top[1]).item()


def greedy(model, ids):
    """24 greedy tokens by full recomputation, and the least top1-top2 margin."""
    tokens, least = [], float("inf")
    for _ in range(NEW_TOKENS):
        row = logits_of(model, ids)[-1]
        least = min(least, margin(row))
        tokens.append(row.argmax().item())
        ids = torch.cat([ids, torch.tensor(tokens[-1:])])
    return tokens, least


def acceptable(model):
    """No near ties, no EOS, no trivial loop in any greedy continuation."""
    for ids in prompts(model.config.vocab_size):
        tokens, least = greedy(model, ids)
        if least < MIN_MARGIN or EOS in tokens or len(set(tokens)) < MIN_DISTINCT:
            return False
    return True


@torch.no_grad()
def rounded(model, dtype):
    """Round the weights to `dtype`, in place; buffers (RoPE) stay exact."""
    for p in model.parameters():
        p.copy_(p.to(dtype))
    return model


def find_seed(model_name, seed, dtype):
    """The first acceptable seed, judged on the weights rounded to `dtype`."""
    while not acceptable(rounded(build(model_name, seed), dtype)):
        seed += 1
    return seed


def classic_form(path):
    """Rewrite config.json as transformers 4 wrote it (both exist in the wild)."""
    config = json.loads(path.read_text())
    config["torch_dtype"] = config.pop("dtype")
    rope = config.pop("rope_parameters", None)
    if rope and "full_attention" in rope:
        config["global_rope_theta"] = rope["full_attention"]["rope_theta"]
        config["local_rope_theta"] = rope["sliding_attention"]["rope_theta"]
        config["global_attn_every_n_layers"] = config.pop("layer_types").count("full_attention") + 1
    elif rope:
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = rope if rope["rope_type"] != "default" else None
    config["transformers_version"] = "4.51.0"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def save(model, folder, classic, shard="1GB"):
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, max_shard_size=shard)
    if classic:
        classic_form(folder / "config.json")


def load(folder, compute):
    """Load the folder as a user would, computing in `compute`."""
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=compute, attn_implementation="eager").eval()


def kept_positions(n):
    return list(range(n)) if n < PROMPT_LENGTHS[-1] else list(range(n - TAIL, n))


def reference(model, suffix, tensors, entries):
    """Add this model's logits and continuations to the case's results."""
    for i, ids in enumerate(prompts(model.config.vocab_size)):
        logits = logits_of(model, ids)
        tokens, least = greedy(model, ids)
        cached = model.generate(ids[None], attention_mask=torch.ones_like(ids[None]),
                                max_new_tokens=NEW_TOKENS, do_sample=False,
                                pad_token_id=0)[0, len(ids):].tolist()
        if suffix == "" and cached != tokens:
            raise SystemExit(f"prompt {i}: cache and recomputation disagree")
        rows = kept_positions(len(ids))
        tensors[f"logits{suffix}.{i}"] = logits[rows].contiguous()
        entries[i].update({
            "tokens": ids.tolist(), "logits_positions": rows,
            f"argmax{suffix}": logits.argmax(-1).tolist(),
            f"greedy{suffix}": tokens, f"greedy_margin_min{suffix}": round(least, 5)})


def make_decoder(case):
    model_name, start, dtype, classic = CASES[case]
    seed = find_seed(model_name, start, dtype)
    folder = HERE / case
    save(build(model_name, seed).to(dtype), folder, classic,
         shard="60KB" if case == "llama_sharded" else "1GB")
    tensors, entries = {}, [{} for _ in PROMPT_LENGTHS]
    reference(load(folder, torch.float32), "", tensors, entries)
    if dtype == torch.bfloat16:
        reference(load(folder, dtype), "_bf16", tensors, entries)
    save_file(tensors, folder / "golden.safetensors")
    write_json(folder / "golden.json", {"case": case, "seed": seed, "prompts": entries})
    print(case, "seed", seed, "margin",
          min(e["greedy_margin_min"] for e in entries),
          "scale", round(tensors["logits.1"].float().std().item(), 2))


def write_json(path, value):
    """JSON with one line per list of numbers."""
    text = json.dumps(value, indent=1)
    lines, out, depth = text.split("\n"), [], 0
    for line in lines:
        inner = line.strip().rstrip(",").lstrip("-").replace(".", "").isdigit()
        closes = line.strip() in ("]", "],") and out and out[-1][-1:].isdigit()
        if inner or closes:
            out[-1] += ("" if closes or out[-1].endswith("[") else " ") + line.strip()
        else:
            out.append(line)
    path.write_text("\n".join(out) + "\n")


def unit(x):
    return torch.nn.functional.normalize(x, dim=-1)


def encoder_inputs(config):
    """Three fixed inputs of random ids, without the special ids 0..2."""
    gen = torch.Generator().manual_seed(8)
    lengths = (6, 21, config.max_position_embeddings - 14)
    return [torch.randint(3, config.vocab_size, (n,), generator=gen) for n in lengths]


def build_encoder(case):
    """The random encoder of one case, its words' biases far enough below zero to be sparse."""
    model_class, config, seed, dtype, _ = ENCODERS[case]
    config._attn_implementation = "eager"
    model = model_class(config).eval()
    randomize(model, seed, 0.5)
    if "MaskedLM" in model_class.__name__:
        with torch.no_grad():
            model.get_output_embeddings().bias.sub_(3.0)
    return model.to(dtype)


@torch.no_grad()
def dense_module(folder, hidden, seed):
    """Files of sentence-transformers that make 24 values of a mean of `hidden`, and scale them."""
    gen = torch.Generator().manual_seed(seed)
    weight = 0.3 * torch.randn(24, hidden, generator=gen)
    bias = 0.3 * torch.randn(24, generator=gen)
    modules = ["Transformer", "Pooling", "Dense", "Normalize"]
    write_json(folder / "modules.json", [
        {"idx": i, "name": str(i), "path": "" if i == 0 else f"{i}_{name}",
         "type": f"sentence_transformers.models.{name}"} for i, name in enumerate(modules)])
    for name in ("1_Pooling", "2_Dense"):
        (folder / name).mkdir()
    write_json(folder / "1_Pooling/config.json", {
        "word_embedding_dimension": hidden, "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True})
    write_json(folder / "2_Dense/config.json", {
        "in_features": hidden, "out_features": 24, "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh"})
    save_file({"linear.weight": weight, "linear.bias": bias},
              folder / "2_Dense/model.safetensors")
    return lambda mean: torch.tanh(torch.nn.functional.linear(mean, weight, bias))


@torch.no_grad()
def make_encoder(case):
    """Token vectors, and what the head or the Dense module makes of them."""
    model_class, config, seed, _, classic = ENCODERS[case]
    folder = HERE / case
    save(build_encoder(case), folder, classic)
    dense = dense_module(folder, 32, seed) if case == "bert_dense" else None
    model = model_class.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager").eval()
    inputs = encoder_inputs(config)
    ids = torch.nn.utils.rnn.pad_sequence(inputs, batch_first=True,
                                          padding_value=config.pad_token_id)
    mask = torch.nn.utils.rnn.pad_sequence(
        [torch.ones_like(x) for x in inputs], batch_first=True)
    padded = model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
    tensors, worst = {}, 0.0
    for i, x in enumerate(inputs):
        hidden = model.base_model(input_ids=x[None]).last_hidden_state[0]
        worst = max(worst, (padded[i, :len(x)] - hidden).abs().max().item())
        tensors[f"hidden.{i}"] = hidden.contiguous()
        if dense:
            tensors[f"dense.{i}"] = dense(hidden.mean(0))
        if "Classification" in model_class.__name__:
            tensors[f"scores.{i}"] = model(input_ids=x[None]).logits[0]
            if case.startswith("bert"):
                types = (torch.arange(len(x)) >= len(x) // 2).long()
                typed = model(input_ids=x[None], token_type_ids=types[None]).logits[0]
                tensors[f"typed.{i}"] = typed
        if "MaskedLM" in model_class.__name__:
            logits = model(input_ids=x[None]).logits[0]
            tensors[f"weights.{i}"] = torch.log1p(torch.relu(logits)).max(0).values
    if worst > 1e-5:
        raise SystemExit(f"padded and single runs disagree by {worst}")
    save_file(tensors, folder / "golden.safetensors")
    write_json(folder / "golden.json", {
        "case": case, "seed": seed, "inputs": [x.tolist() for x in inputs]})
    last = [name for name in tensors if name.endswith(".1") and name != "hidden.1"]
    print(case, "padded vs alone", worst, *(
        f"{name}: {(tensors[name] != 0).sum().item()} of {len(tensors[name])}, "
        f"deviation {tensors[name].std().item() if len(tensors[name]) > 1 else 0:.2f}"
        for name in last))


@torch.no_grad()
def make_bert(case="bert", lengths=(6, 21, 50), seed=11):
    """A BERT encoder: hidden states, mean-pooled and CLS-pooled embeddings."""
    config = BertConfig(
        vocab_size=256, hidden_size=48, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=3, max_position_embeddings=80, hidden_act="gelu",
        attn_implementation="eager")
    model = BertModel(config).eval()
    randomize(model, seed, 0.5)
    folder = HERE / case
    save(model, folder, classic=True)
    model = BertModel.from_pretrained(folder, attn_implementation="eager").eval()

    gen = torch.Generator().manual_seed(8)
    inputs = [torch.randint(3, 256, (n,), generator=gen) for n in lengths]
    ids = torch.nn.utils.rnn.pad_sequence(inputs, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence(
        [torch.ones_like(x) for x in inputs], batch_first=True)
    padded = model(input_ids=ids, attention_mask=mask).last_hidden_state
    tensors, worst = {}, 0.0
    for i, x in enumerate(inputs):
        hidden = model(input_ids=x[None]).last_hidden_state[0]
        worst = max(worst, (padded[i, :len(x)] - hidden).abs().max().item())
        tensors[f"hidden.{i}"] = hidden.contiguous()
        tensors[f"mean.{i}"] = unit(hidden.mean(0))
        tensors[f"cls.{i}"] = unit(hidden[0])
        types = (torch.arange(len(x)) >= len(x) // 2).long()
        typed = model(input_ids=x[None], token_type_ids=types[None]).last_hidden_state[0]
        tensors[f"typed.{i}"] = unit(typed.mean(0))
    if worst > 1e-5:
        raise SystemExit(f"padded and single runs disagree by {worst}")
    save_file(tensors, folder / "golden.safetensors")
    write_json(folder / "golden.json", {
        "case": case, "seed": seed, "inputs": [x.tolist() for x in inputs]})
    print(case, "padded vs alone", worst)


def main():
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    wanted = tuple(sys.argv[1:]) or ("",)
    for case in [*CASES, "bert", *ENCODERS]:
        if not case.startswith(wanted):
            continue
        if case == "bert":
            make_bert()
        elif case in ENCODERS:
            make_encoder(case)
        else:
            make_decoder(case)


if __name__ == "__main__":
    main()
