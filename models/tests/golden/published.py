"""Make the golden embedders whose files are published in another form than transformers writes.

    python published.py            # all cases
    python published.py gte        # cases whose name starts so

The same versions, inputs and weights as make.py. Names and keys of the files are those of the
published checkpoints; but for Jina, whose network is not part of transformers, they are read back by
transformers (which knows the published names of tensors) before anything is computed. Jina's network
is written down here in plain torch, from its published description: BERT after norms, without a table
of positions, with -slope * distance added to the scores, and a gated MLP.
"""

import json
import math
import sys

import torch
from safetensors.torch import save_file
from transformers import (BertConfig, BertModel, GteConfig, GteForSequenceClassification, GteModel,
                          MistralConfig, MistralModel, NomicBertConfig, NomicBertModel, Qwen2Config,
                          Qwen2Model, Qwen3Config, Qwen3Model)
from transformers.utils import logging

from make import HERE, MOODS, encoder_inputs, randomize, theta, write_json

SIZES = dict(vocab_size=128, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
             num_attention_heads=2, max_position_embeddings=64)
NOMIC = {
    "activation_function": "swiglu", "architectures": ["NomicBertModel"], "causal": False,
    "layer_norm_epsilon": 0.05, "mlp_fc1_bias": False, "mlp_fc2_bias": False,
    "model_type": "nomic_bert", "n_embd": 32, "n_head": 2, "n_inner": 48, "n_layer": 2,
    "n_positions": 64, "parallel_block": False, "prenorm": False, "qkv_proj_bias": False,
    "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None, "rotary_scaling_factor": None, "torch_dtype": "float32",
    "type_vocab_size": 2, "use_rms_norm": False, "vocab_size": 128}
NEW = {
    "hidden_act": "gelu", "layer_norm_eps": 1e-12, "layer_norm_type": "layer_norm",
    "logn_attention_scale": False, "model_type": "new", "pack_qkv": True, "pad_token_id": 0,
    "position_embedding_type": "rope", "rope_theta": 500000, "torch_dtype": "float32", **SIZES}
JINA = {
    "architectures": ["JinaBertForMaskedLM"], "emb_pooler": "mean", "feed_forward_type": "geglu",
    "hidden_act": "gelu", "layer_norm_eps": 1e-12, "model_type": "bert", "pad_token_id": 0,
    "position_embedding_type": "alibi", "torch_dtype": "float32", "type_vocab_size": 2, **SIZES,
    "num_attention_heads": 4}
LABELS = {"id2label": {str(k): v for k, v in MOODS["id2label"].items()},
          "label2id": MOODS["label2id"]}
DECODER = dict(SIZES, num_key_value_heads=1, rms_norm_eps=0.05, rope_parameters=theta(10000.0))


def nomic_names(tensors):
    """transformers' names and layout to those of the published file."""
    out = {}
    for name, tensor in tensors.items():
        for old, new in [("layers.", "encoder.layers."), ("embeddings.LayerNorm", "emb_ln"),
                         ("self_attn.o_proj", "attn.out_proj"), ("up_proj", "fc11"),
                         ("gate_proj", "fc12"), ("down_proj", "fc2"),
                         ("post_attention_layernorm", "norm1"), ("post_mlp_layernorm", "norm2")]:
            name = name.replace(old, new)
        out[name] = tensor
    return packed(out, "self_attn.{}_proj", "qkv", "attn.Wqkv")


def gte_names(tensors):
    """The same of GTE's."""
    out = {}
    for name, tensor in tensors.items():
        for old, new in [("gte.", "new."), ("layers.", "encoder.layer."),
                         ("self_attn.o_proj", "attention.o_proj"),
                         ("post_attention_layernorm", "attn_ln"), ("post_mlp_layernorm", "mlp_ln")]:
            name = name.replace(old, new)
        out[name] = tensor
    out = packed(out, "self_attn.{}_proj", "qkv", "attention.qkv_proj")
    return packed(out, "mlp.{}_proj", ("up", "gate"), "mlp.up_gate_proj")


def packed(tensors, pattern, parts, whole):
    """Put tensors one below the other."""
    out = dict(tensors)
    first = pattern.format(parts[0])
    for name in tensors:
        if first in name:
            names = [name.replace(first, pattern.format(part)) for part in parts]
            out[name.replace(first, whole)] = torch.cat([out.pop(one) for one in names])
    return out


def modules(folder, mode):
    """Files of sentence-transformers: pool, then scale to length one."""
    kinds = ["Transformer", "Pooling", "Normalize"]
    write_json(folder / "modules.json", [
        {"idx": i, "name": str(i), "path": "" if i == 0 else f"{i}_{kind}",
         "type": f"sentence_transformers.models.{kind}"} for i, kind in enumerate(kinds)])
    (folder / "1_Pooling").mkdir(exist_ok=True)
    write_json(folder / "1_Pooling/config.json", {
        "word_embedding_dimension": 32, f"pooling_mode_{mode}": True})


def write(case, config, tensors):
    folder = HERE / case
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def read_back(model_class, folder, config):
    """By the published names of its tensors."""
    model = model_class.from_pretrained(
        folder, config=config, dtype=torch.float32, attn_implementation="eager",
        output_loading_info=True)
    model, told = model
    if told["missing_keys"] or told["unexpected_keys"]:
        raise SystemExit(f"{folder}: {told}")
    return model.eval()


def random_model(model_class, config, seed):
    config._attn_implementation = "eager"
    model = model_class(config).eval()
    randomize(model, seed, 0.5)
    return model


def finish(case, seed, inputs, hidden, scores=None):
    """Write the token vectors of each input, and a classifier's scores."""
    tensors = {}
    for i, ids in enumerate(inputs):
        tensors[f"hidden.{i}"] = hidden(ids).contiguous()
        if scores:
            tensors[f"scores.{i}"] = scores(ids)
    save_file(tensors, HERE / case / "golden.safetensors")
    write_json(HERE / case / "golden.json", {
        "case": case, "seed": seed, "inputs": [ids.tolist() for ids in inputs]})
    deviations = {name: round(tensor.std().item(), 2) for name, tensor in tensors.items()}
    print(case, deviations)


def nomic(case, seed):
    config = NomicBertConfig(**SIZES, rope_parameters=theta(1000.0), layer_norm_eps=0.05)
    made = random_model(NomicBertModel, config, seed)
    tensors = {name: tensor for name, tensor in made.state_dict().items() if "pooler" not in name}
    folder = write(case, NOMIC, nomic_names(tensors))
    model = read_back(NomicBertModel, folder, config)
    finish(case, seed, encoder_inputs(config),
           lambda ids: model(input_ids=ids[None]).last_hidden_state[0])


def gte(case, seed):
    """Frequencies stretched by a factor of 2, of which transformers knows nothing; no segments."""
    config = GteConfig(**SIZES, rope_parameters=theta(500000.0), type_vocab_size=0, pad_token_id=0)
    made = random_model(GteModel, config, seed)
    published = {**NEW, "architectures": ["NewModel"], "type_vocab_size": 0,
                 "rope_scaling": {"type": "ntk", "factor": 2.0}}
    folder = write(case, published, gte_names(made.state_dict()))
    model = read_back(GteModel, folder, config)
    width, factor = 16, 2.0
    base = 500000.0 * factor
    steps = torch.arange(0, width, 2, dtype=torch.float) / width
    model.rotary_emb.inv_freq.copy_(1.0 / base ** steps / factor ** (2 / width))
    finish(case, seed, encoder_inputs(config),
           lambda ids: model(input_ids=ids[None]).last_hidden_state[0])


def gte_classifier(case, seed):
    config = GteConfig(**SIZES, rope_parameters=theta(500000.0), type_vocab_size=1, pad_token_id=0,
                       **MOODS)
    made = random_model(GteForSequenceClassification, config, seed)
    published = {**NEW, **LABELS, "architectures": ["NewForSequenceClassification"],
                 "type_vocab_size": 1}
    folder = write(case, published, gte_names(made.state_dict()))
    model = read_back(GteForSequenceClassification, folder, config)
    finish(case, seed, encoder_inputs(config),
           lambda ids: model.gte(input_ids=ids[None]).last_hidden_state[0],
           lambda ids: model(input_ids=ids[None]).logits[0])


def slopes(heads):
    """ALiBi's, for a power of two."""
    return torch.tensor([2.0 ** (-8 * (i + 1) / heads) for i in range(heads)])


def jina_layer(w, at, x, heads):
    """One layer after the published description."""
    linear = lambda name, x: torch.nn.functional.linear(
        x, w[f"{at}{name}.weight"], w.get(f"{at}{name}.bias"))
    norm = lambda name, x: torch.nn.functional.layer_norm(
        x, (x.shape[-1],), w[f"{at}{name}.weight"], w[f"{at}{name}.bias"], 1e-12)
    split = lambda x: x.view(len(x), heads, -1).transpose(0, 1)
    q, k, v = (split(linear(f"attention.self.{name}", x)) for name in ("query", "key", "value"))
    place = torch.arange(len(x))
    distance = (place[:, None] - place[None]).abs()
    scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]) - slopes(heads)[:, None, None] * distance
    attended = (scores.softmax(-1) @ v).transpose(0, 1).reshape(x.shape)
    x = norm("attention.output.LayerNorm", x + linear("attention.output.dense", attended))
    gate, up = linear("mlp.gated_layers", x).chunk(2, dim=-1)
    return norm("mlp.layernorm", x + linear("mlp.wo", torch.nn.functional.gelu(gate) * up))


def jina(case, seed):
    """BERT's random tensors under Jina's names; those of the MLP are its own."""
    config = BertConfig(**{**SIZES, "num_attention_heads": 4})
    bert = random_model(BertModel, config, seed)
    w = {name: tensor for name, tensor in bert.state_dict().items()
         if "position" not in name and "pooler" not in name}
    gen = torch.Generator().manual_seed(seed + 1)
    for layer in range(2):
        at = f"encoder.layer.{layer}."
        w[f"{at}mlp.gated_layers.weight"] = 0.2 * torch.randn(96, 32, generator=gen)
        del w[f"{at}intermediate.dense.weight"], w[f"{at}intermediate.dense.bias"]
        for old, new in (("output.dense", "mlp.wo"), ("output.LayerNorm", "mlp.layernorm")):
            for kind in ("weight", "bias"):
                w[f"{at}{new}.{kind}"] = w.pop(f"{at}{old}.{kind}")
    folder = write(case, JINA, w)
    modules(folder, "mean_tokens")

    def hidden(ids):
        x = w["embeddings.word_embeddings.weight"][ids]
        x = x + w["embeddings.token_type_embeddings.weight"][0]
        x = torch.nn.functional.layer_norm(
            x, (32,), w["embeddings.LayerNorm.weight"], w["embeddings.LayerNorm.bias"], 1e-12)
        for layer in range(2):
            x = jina_layer(w, f"encoder.layer.{layer}.", x, 4)
        return x

    finish(case, seed, encoder_inputs(config), hidden)


def embedder(model_class, config, architecture, sees_both_sides=False):
    """A decoder without its head, whose last token's vector is taken."""
    def make(case, seed):
        made = random_model(model_class, config, seed)
        folder = HERE / case
        prefix = "model." if architecture.endswith("ForCausalLM") else ""
        tensors = {prefix + name: tensor for name, tensor in made.state_dict().items()}
        if prefix:
            tensors["lm_head.weight"] = torch.zeros(config.vocab_size, config.hidden_size)
        published = {**config.to_dict(), "architectures": [architecture]}
        if sees_both_sides:
            published["is_causal"] = False
        write(case, published, tensors)
        modules(folder, "lasttoken")

        def hidden(ids):
            mask = torch.zeros(1, 1, len(ids), len(ids)) if sees_both_sides else None
            return made(input_ids=ids[None], attention_mask=mask, use_cache=False
                        ).last_hidden_state[0]
        finish(case, seed, encoder_inputs(config), hidden)
    return make


CASES = {
    "nomic": (nomic, 41),
    "gte": (gte, 42),
    "gte_classifier": (gte_classifier, 43),
    "jina": (jina, 44),
    "qwen3_embedder": (embedder(Qwen3Model, Qwen3Config(**DECODER, head_dim=24), "Qwen3Model"), 45),
    "qwen2_embedder": (embedder(Qwen2Model, Qwen2Config(**DECODER), "Qwen2ForCausalLM", True), 46),
    "mistral_embedder": (embedder(
        MistralModel, MistralConfig(**DECODER, sliding_window=8), "MistralModel"), 47),
}


@torch.no_grad()
def main():
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    wanted = tuple(sys.argv[1:]) or ("",)
    for case, (make, seed) in CASES.items():
        if case.startswith(wanted):
            make(case, seed)


if __name__ == "__main__":
    main()
