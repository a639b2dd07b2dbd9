"""Asks the exported demo decoder, prints how much is right, and writes checks.json.

Greedy, bfloat16 weights computed in float32, by transformers. checks.json keeps
the items answered exactly right; the server's end-to-end tests must reproduce
them, whatever else runs in the batch.
"""

import argparse
import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

import data

HERE = Path(__file__).parent
SEED = 77


class Model:
    """The exported folder, answering greedily."""

    def __init__(self, folder):
        self.network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    @torch.no_grad()
    def continue_text(self, text, longest=160):
        ids = torch.tensor([self.tokenizer.encode(text, add_special_tokens=False).ids])
        out = self.network.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=longest, do_sample=False,
                                    eos_token_id=[0, 2], pad_token_id=0)
        return self.tokenizer.decode(out[0, ids.shape[1]:].tolist(), skip_special_tokens=True)


# One plain (question, answer) of each task.


def fact(rng):
    questions, answer = rng.choice(data.FACTS)
    return questions[0], answer


def concept(rng):
    term, answer = rng.choice(data.CONCEPTS)
    return data.CONCEPT_FORMS[0].format(t=term), answer


def paragraph(rng):
    topics, text = rng.choice(data.PARAGRAPHS)
    return data.PARAGRAPH_FORMS[0].format(t=topics[0]), text


def arithmetic(rng):
    a, b, op = data.sum_pair(rng)
    return f"What is {a} {op} {b}?", data.sum_answer(a, b, op)


def json_person(rng):
    return data.json_person(rng, data.person_name(rng))


PLAIN = [("facts", fact, 20), ("concepts", concept, 12), ("paragraphs", paragraph, 4), ("JSON", json_person, 16),
         ("sums", arithmetic, 40)]


def items(rng):
    """(task, earlier turns, question, answer, whether it is asked raw): every task alone, then after long talk."""
    for task, ask, count in PLAIN:
        for number in range(count):
            yield task, [], *ask(rng), number % 2 == 1
    for number in range(16):
        _, ask, _ = rng.choice(PLAIN)
        yield "after long talk", data.turns_of(rng, 300 + 25 * number), *ask(rng), False


def as_check(turns, question, answer, raw):
    if raw:
        return {"prompt": question, "expect": answer}
    said = [{"role": role, "content": text} for turn in turns for role, text in zip(("user", "assistant"), turn)]
    return {"messages": said + [{"role": "user", "content": question}], "expect": answer}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=HERE / "model")
    parser.add_argument("--checks", type=Path, default=HERE / "checks.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, checks, score = Model(args.model), [], {}
    for task, turns, question, answer, raw in items(random.Random(SEED)):
        said = "".join(text for text, _ in data.chat_pieces(turns)) + data.message("user", question)
        text = question if raw else said + data.IM_START + "assistant\n"
        right = model.continue_text(text).strip() == answer
        asked, good = score.get(task, (0, 0))
        score[task] = asked + 1, good + right
        check = as_check(turns, question, answer, raw)
        if right and check not in checks:
            checks.append(check)
    for task, (asked, good) in score.items():
        print(f"{task:16} {good:3} of {asked}")
    args.checks.write_text(json.dumps(checks, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
