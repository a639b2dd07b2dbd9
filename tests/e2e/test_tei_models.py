"""`tei.v1` over real models, one of each kind in one process, beside what transformers computed."""

import json
import shutil
import struct

import pytest
from conftest import ROOT, Server
from test_tei import Tei

GOLDEN = ROOT / "models/tests/golden"


def read_tensors(path) -> dict[str, list[float]]:
    """The tensors of a small safetensors file, flat."""
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    tensors = json.loads(raw[8 : 8 + size])
    read = {}
    for name, tensor in tensors.items():
        if name != "__metadata__":
            start, end = (8 + size + offset for offset in tensor["data_offsets"])
            read[name] = list(struct.unpack(f"<{(end - start) // 4}f", raw[start:end]))
    return read


def words(folder, case: str) -> str:
    """A golden model with a tokenizer whose words `t0`, `t1`, ... are its tokens."""
    made = folder / case
    shutil.copytree(GOLDEN / case, made)
    part = {name: {"Sequence": {"id": name, "type_id": kind}} for name, kind in [("A", 0), ("B", 1)]}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {
            "type": "TemplateProcessing", "single": [part["A"]], "pair": [part["A"], part["B"]], "special_tokens": {},
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {f"t{id}": id for id in range(128)}, "unk_token": "t0"},
    }  # fmt: skip
    (made / "tokenizer.json").write_text(json.dumps(tokenizer))
    return str(made)


def as_text(ids: list[int]) -> str:
    return " ".join(f"t{id}" for id in ids)


def golden(case: str):
    """The inputs of a golden model, and its results."""
    return json.loads((GOLDEN / case / "golden.json").read_text())["inputs"], read_tensors(
        GOLDEN / case / "golden.safetensors"
    )


@pytest.fixture(scope="module")
def ranking(tmp_path_factory):
    """A model of each kind in one process."""
    folder = tmp_path_factory.mktemp("golden")
    cases = ["bert_classifier", "xlm_roberta_reranker", "bert_splade"]
    flags = [flag for case in cases for flag in ("--model-id", f"{case}={words(folder, case)}")]
    server = Server(*flags)
    yield server
    assert server.stop() == 0, server.log.read_text()


def test_predictions_equal_transformers(ranking):
    tei = Tei(ranking.channel, model="bert_classifier")
    inputs, results = golden("bert_classifier")
    labels = ["sad", "calm", "merry"]
    for row, ids in enumerate(inputs):
        answer = tei.call("Predict", inputs=as_text(ids), raw_scores=True)
        expected = sorted(zip(results[f"scores.{row}"], labels, strict=True), reverse=True)
        assert [prediction.label for prediction in answer.predictions] == [label for _, label in expected]
        for prediction, (score, _) in zip(answer.predictions, expected, strict=True):
            assert abs(prediction.score - score) < 1e-3
        half = len(ids) // 2
        pair = [as_text(ids[:half]), as_text(ids[half:])]
        answer = tei.call("PredictPair", inputs=pair, raw_scores=True)
        typed = sorted(results[f"typed.{row}"], reverse=True)
        for prediction, score in zip(answer.predictions, typed, strict=True):
            assert abs(prediction.score - score) < 1e-3
        probabilities = tei.call("Predict", inputs=as_text(ids)).predictions
        assert abs(sum(prediction.score for prediction in probabilities) - 1) < 1e-5


def test_ranks_equal_transformers(ranking):
    tei = Tei(ranking.channel)
    inputs, results = golden("xlm_roberta_reranker")
    expected = []
    for row, ids in enumerate(inputs):
        (score,) = results[f"scores.{row}"]
        answer = tei.call("Rerank", query=as_text(ids[:2]), texts=[as_text(ids[2:])], raw_scores=True)
        assert abs(answer.ranks[0].score - score) < 1e-3
        expected.append((score, as_text(ids[2:])))
    messages = [
        {"query": as_text(ids[:2]), "text": as_text(ids[2:]), "return_text": True, "raw_scores": True} for ids in inputs
    ]
    ranks = tei.stream("RerankStream", messages).ranks
    assert [rank.text for rank in ranks] == [text for _, text in sorted(expected, reverse=True)]


def test_sparse_embeddings_equal_transformers(ranking):
    tei = Tei(ranking.channel)
    inputs, results = golden("bert_splade")
    for row, ids in enumerate(inputs):
        answer = tei.call("EmbedSparse", inputs=as_text(ids))
        expected = {index: value for index, value in enumerate(results[f"weights.{row}"]) if value > 1e-4}
        found = {entry.index: entry.value for entry in answer.sparse_embeddings}
        assert list(found) == sorted(found)
        for index in expected.keys() | found.keys():
            assert abs(found.get(index, 0) - expected.get(index, 0)) < 1e-3
