"""Embeddings/s of all-MiniLM-L6-v2 at 128 tokens a text: ours through gRPC, beside
sentence-transformers and ONNX Runtime in this process. Rounds are interleaved, medians printed.

    cargo build --release && tests/e2e/run.sh -k minilm   # the binary, the weights, the stubs
    pip install grpcio protobuf torch sentence-transformers onnxruntime onnx onnxscript
    PYTHONPATH=.cache/e2e/generated python benches/embeddings.py .cache/e2e/minilm --rounds 9

Texts go in and vectors come out on every side, so that tokenizing is part of all figures.
"""

import argparse
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

BATCHES = [1, 32]
TOKENS = 128
TEXTS_PER_RUN = 32


def texts_of(folder, count):
    """Random texts of words that are one token each, TOKENS long with the two special tokens."""
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    words = [word for word in tokenizer.get_vocab() if re.fullmatch("[a-z]{3,}", word)]
    chooser = random.Random(7)
    texts = [" ".join(chooser.choices(sorted(words), k=TOKENS - 2)) for _ in range(count)]
    assert all(len(tokenizer.encode(text).ids) == TOKENS for text in texts)
    return texts


class Paternoster:
    """A server of its own on a free port, and a client on one connection."""

    def __init__(self, binary, folder, dtype):
        import grpc
        from paternoster.v1 import embed_pb2, inference_pb2_grpc
        self.request = embed_pb2.EmbedRequest
        command = [binary, "serve", "--model-id", str(folder), "--dtype", dtype, "--port", "0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if found := re.search(r"on (127\.0\.0\.1:\d+), ready", line):
                break
        self.channel = grpc.insecure_channel(found[1])
        self.stub = inference_pb2_grpc.InferenceStub(self.channel)

    def __call__(self, texts):
        return [list(e.values) for e in self.stub.Embed(self.request(inputs=texts)).embeddings]

    def close(self):
        self.channel.close()
        self.process.terminate()
        self.process.wait()


class SentenceTransformers:
    def __init__(self, folder, dtype):
        import torch
        from sentence_transformers import SentenceTransformer
        torch.set_num_threads(os.cpu_count())
        self.model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        if dtype == "bfloat16":
            self.model = self.model.to(torch.bfloat16)

    def __call__(self, texts):
        vectors = self.model.encode(texts, batch_size=len(texts), show_progress_bar=False, convert_to_tensor=True)
        return vectors.float().tolist()

    def close(self):
        pass


class OnnxRuntime:
    """The network exported by torch; pooling and scaling in numpy."""

    def __init__(self, folder, work):
        import onnxruntime
        from tokenizers import Tokenizer
        path = work / "minilm.onnx"
        if not path.exists():
            export(folder, path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = os.cpu_count()
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.enable_padding()

    def __call__(self, texts):
        import numpy
        encoded = self.tokenizer.encode_batch(texts)
        ids = numpy.array([e.ids for e in encoded])
        mask = numpy.array([e.attention_mask for e in encoded])
        hidden, = self.session.run(None, {"input_ids": ids, "attention_mask": mask})
        vectors = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        return (vectors / numpy.linalg.norm(vectors, axis=1, keepdims=True)).tolist()

    def close(self):
        pass


def export(folder, path):
    import torch
    from transformers import AutoModel

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = AutoModel.from_pretrained(folder, local_files_only=True, attn_implementation="eager").eval()

        def forward(self, input_ids, attention_mask):
            return self.network(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    path.parent.mkdir(parents=True, exist_ok=True)
    ids = torch.ones(2, 16, dtype=torch.long)
    sizes = {0: "batch", 1: "tokens"}
    torch.onnx.export(Network(), (ids, ids), str(path), dynamo=False, opset_version=17,
                      input_names=["input_ids", "attention_mask"], output_names=["hidden"],
                      dynamic_axes={"input_ids": sizes, "attention_mask": sizes, "hidden": sizes})


def rate(peer, texts, batch):
    """Texts/s over TEXTS_PER_RUN texts, one call after the other."""
    start = time.perf_counter()
    for at in range(0, TEXTS_PER_RUN, batch):
        peer(texts[at:at + batch])
    return TEXTS_PER_RUN / (time.perf_counter() - start)


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b))
    return dot / (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--binary", default="target/release/paternoster")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--work", type=Path, default=Path("target/bench-models"))
    parser.add_argument("--json", type=Path, help="where the result is kept")
    args = parser.parse_args()
    texts = texts_of(args.model, TEXTS_PER_RUN)
    peers = {
        "paternoster float32": Paternoster(args.binary, args.model, "float32"),
        "paternoster bfloat16": Paternoster(args.binary, args.model, "bfloat16"),
        "sentence-transformers float32": SentenceTransformers(args.model, "float32"),
        "sentence-transformers bfloat16": SentenceTransformers(args.model, "bfloat16"),
        "ONNX Runtime float32": OnnxRuntime(args.model, args.work),
    }
    oracle = peers["sentence-transformers float32"](texts[:2])
    for name, peer in peers.items():
        worst = min(cosine(a, b) for a, b in zip(peer(texts[:2]), oracle))
        assert worst > 0.999, f"{name} gives other vectors: {worst}"
    rates = {(name, batch): [] for name in peers for batch in BATCHES}
    for number in range(args.rounds + 1):  # the first does not count
        for batch in BATCHES:
            for name, peer in peers.items():
                value = rate(peer, texts, batch)
                if number:
                    rates[name, batch].append(value)
    for peer in peers.values():
        peer.close()
    rows = [{"peer": name, "batch": batch, "texts_per_s": round(statistics.median(values), 1)}
            for (name, batch), values in rates.items()]
    for row in rows:
        print(f"{row['peer']:32} batch {row['batch']:3} {row['texts_per_s']:8.1f} texts/s")
    if args.json:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
        cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if "model name" in line), platform.machine())
        setting = {"bench": "embeddings", "model": "all-MiniLM-L6-v2", "tokens": TOKENS, "rounds": args.rounds,
                   "commit": commit, "cpu": cpu, "cores": os.cpu_count(), "load_average": os.getloadavg()[0]}
        args.json.write_text(json.dumps(setting | {"medians": rows}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
