"""Embeddings of the demo encoder and of the real all-MiniLM-L6-v2, beside a decoder."""

import json
import math
import struct

import pytest
from conftest import ROOT, Server
from paternoster.v1 import embed_pb2, generate_pb2

GOLDEN = ROOT / "models/tests/golden"


def read_f32(path) -> list[list[float]]:
    """The one tensor of a small safetensors file, rows of f32."""
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    ((_, tensor),) = ((k, v) for k, v in json.loads(raw[8 : 8 + size]).items() if k != "__metadata__")
    assert tensor["dtype"] == "F32"
    start, end = (8 + size + offset for offset in tensor["data_offsets"])
    values = struct.unpack(f"<{(end - start) // 4}f", raw[start:end])
    rows, width = tensor["shape"]
    return [list(values[row * width : (row + 1) * width]) for row in range(rows)]


def cosine(a, b) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def embed(server: Server, inputs: list[str], **fields) -> list[list[float]]:
    answer = server.inference.Embed(embed_pb2.EmbedRequest(inputs=inputs, **fields), timeout=120)
    return [list(embedding.values) for embedding in answer.embeddings]


@pytest.fixture(scope="module")
def both(minilm_folder):
    """A Llama-family folder and a BERT-family folder in one process, on one port."""
    server = Server(
        "--model-id", f"demo={ROOT / 'models/demo/decoder/model'}",
        "--model-id", f"minilm={minilm_folder}",
    )  # fmt: skip
    yield server
    assert server.stop() == 0, server.log.read_text()


def test_minilm_equals_sentence_transformers(both):
    sentences = (GOLDEN / "sentences.txt").read_text().splitlines()
    expected = read_f32(GOLDEN / "minilm_embeddings.safetensors")
    got = embed(both, sentences, model="minilm")
    worst = min(cosine(a, b) for a, b in zip(got, expected, strict=True))
    assert len(got) == 100
    assert worst >= 0.9999, worst


def test_a_decoder_and_an_encoder_share_the_port(both):
    request = generate_pb2.GenerateRequest(model="demo", prompt="What is 7 + 5?")
    request.stopping.max_tokens = 16
    events = list(both.inference.Generate(request, timeout=60))
    assert "12" in "".join(event.delta.text for event in events)


def test_dimensions_truncate_and_renormalise(both):
    (vector,) = embed(both, ["A lift that never stops."], model="minilm", dimensions=64)
    assert len(vector) == 64
    assert abs(sum(x * x for x in vector) - 1) < 1e-4


def test_the_demo_encoder_ranks_paraphrases_first(demo):
    triplets = json.loads((ROOT / "models/demo/encoder/paraphrases.json").read_text())
    right = 0
    for triplet in triplets:
        anchor, paraphrase, *unrelated = embed(
            demo, [triplet["anchor"], triplet["paraphrase"], *triplet["unrelated"]]
        )
        right += all(cosine(anchor, paraphrase) > cosine(anchor, other) for other in unrelated)
    assert right / len(triplets) >= 0.85, f"{right} of {len(triplets)}"
