"""Writes the trained demo decoder as a Hugging Face model folder (default: model/).

bfloat16 safetensors, the configuration with the classic keys that other
loaders expect, the tokenizer and a ChatML chat template.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

import data

HERE = Path(__file__).parent

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 2048,
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": [0, 2],
    "pad_token_id": 0,
    "torch_dtype": "bfloat16",
}

GENERATION_CONFIG = {"do_sample": False, "bos_token_id": None, "eos_token_id": [0, 2], "pad_token_id": 0}

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "added_tokens_decoder": {
        str(i): {"content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                 "special": True}
        for i, token in enumerate([data.END, data.IM_START, data.IM_END])
    },
    "bos_token": None,
    "eos_token": data.IM_END,
    "pad_token": data.END,
    "add_bos_token": False,
    "add_prefix_space": False,
    "clean_up_tokenization_spaces": False,
    "model_max_length": 2048,
    "chat_template": CHAT_TEMPLATE,
}


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_weights(weights_path, out_path):
    """Stores all weights as bfloat16; the output head is tied to the embedding and not stored."""
    weights = torch.load(weights_path, map_location="cpu", weights_only=True)
    weights = {name: w.to(torch.bfloat16).contiguous() for name, w in weights.items() if name != "lm_head.weight"}
    save_file(weights, str(out_path), metadata={"format": "pt"})


def check_template(folder):
    """The chat template has to give exactly the text that training used."""
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "What is 17 + 25?"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    expected = "".join(data.message(m["role"], m["content"]) for m in messages) + data.IM_START + "assistant\n"
    assert text == expected, text
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=HERE / "build", help="where train.py wrote its result")
    parser.add_argument("--out", type=Path, default=HERE / "model")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    write_weights(args.work / "weights.pt", args.out / "model.safetensors")
    write_json(args.out / "config.json", CONFIG)
    write_json(args.out / "generation_config.json", GENERATION_CONFIG)
    write_json(args.out / "tokenizer_config.json", TOKENIZER_CONFIG)
    shutil.copy(args.work / "tokenizer.json", args.out / "tokenizer.json")
    check_template(args.out)
    for path in sorted(args.out.iterdir()):
        print(f"{path.stat().st_size:>10,} {path.name}")


if __name__ == "__main__":
    main()
