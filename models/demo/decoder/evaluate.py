"""Greedy accuracy of the demo decoder per task, and the checks of the server's end-to-end tests.

    python evaluate.py            # table for the exported model
    python evaluate.py --checks   # also writes checks.json

An answer counts only if every token of it, the end mark included, is the most
likely one; that is the same as greedy decoding giving exactly this answer.
"""

import argparse
import json
import random
from collections import Counter
from pathlib import Path

import torch

import data
import facts

HERE = Path(__file__).parent
SEED = 99


def chat_item(turns, system=None):
    """A test item: all pieces, the last answer being the expected one, and the messages for the checks."""
    messages = [{"role": "system", "content": system}] if system else []
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    pieces = data.chat_pieces(turns, system)
    return {"prompt": "".join(text for text, _ in pieces[:-2]), "answer": pieces[-2][0],
            "check": {"messages": messages[:-1], "expect": turns[-1][1]}}


def raw_item(question, answer):
    return {"prompt": question, "answer": answer + data.END, "check": {"prompt": question, "expect": answer}}


def questions_of(entries):
    return [(question, answer) for questions, answer in entries for question in questions]


def concept_questions(forms):
    return [(form.format(t=term), answer) for form in dict.fromkeys(forms) for term, answer in facts.CONCEPTS]


def paragraph_questions():
    return [(facts.PARAGRAPH_FORMS[i % len(facts.PARAGRAPH_FORMS)].format(t=topic), text)
            for topics, text in facts.PARAGRAPHS for i, topic in enumerate(topics)]


def task_items(scale=1.0):
    """Test items per task. `scale` below 1 thins the tasks out, for quick looks during training."""
    rng = random.Random(SEED)

    def repeated(n, build):
        return [build() for _ in range(max(1, int(n * scale)))]

    def thinned(items):
        return items if scale >= 1 else rng.sample(items, max(1, int(len(items) * scale)))

    def recall(length):
        return chat_item(data.held_out_recall(rng, length))

    items = {
        "facts, chat": [chat_item([qa]) for qa in thinned(questions_of(facts.FACTS))],
        "definitions, chat": [chat_item([qa]) for qa in thinned(concept_questions(facts.CONCEPT_FORMS))],
        "definitions, unseen wording": [chat_item([qa]) for qa in thinned(concept_questions(facts.HELD_OUT_CONCEPT_FORMS))],
        "paragraphs, chat": [chat_item([qa]) for qa in thinned(paragraph_questions())],
        "facts, raw prompt": [raw_item(q, "\n" + a) for q, a in thinned(questions_of(facts.FACTS))],
        "definitions, raw prompt": [raw_item(q, "\n" + a) for q, a in thinned(concept_questions(facts.CONCEPT_FORMS[:3]))],
        "sums, held-out pairs": [],
        "differences, held-out pairs": [],
        "sums, raw, held-out pairs": [],
        "JSON, held-out names": repeated(200, lambda: chat_item([data.held_out_person(rng)])),
        "JSON, all kinds": repeated(200, lambda: chat_item([data.json_object(rng)])),
        "repeat words": repeated(200, lambda: chat_item([data.repeat(rng)])),
        "count": repeated(200, lambda: chat_item([data.count(rng)])),
        "recall, 100 tokens": repeated(100, lambda: recall(80)),
        "recall, 400 tokens": repeated(100, lambda: recall(360)),
        "recall, 900 tokens": repeated(60, lambda: recall(800)),
        "sum after 500 tokens": repeated(60, lambda: chat_item(data.conversation_turns(rng, 480) + [data.held_out_sum(rng)])),
    }
    pairs = [(a, b, op) for op in "+-" for a in range(100) for b in range(100)
             if (op == "+" or a >= b) and data.held_out(a, b, op)]
    for a, b, op in thinned(pairs):
        answer = data.sum_answer(a, b, op)
        items["sums, held-out pairs" if op == "+" else "differences, held-out pairs"].append(
            chat_item([(f"What is {a} {op} {b}?", answer)]))
        if op == "+":
            items["sums, raw, held-out pairs"].append(raw_item(f"What is {a} + {b}?", "\n" + answer))
    return items


@torch.no_grad()
def score(model, tokenizer, items, tokens_per_batch=4096):
    """For each item, the smallest lead (in logits) of an expected token over all others; negative means wrong."""
    encoded = []
    for index, item in enumerate(items):
        prompt = tokenizer.encode(item["prompt"], add_special_tokens=False).ids
        answer = tokenizer.encode(item["answer"], add_special_tokens=False).ids
        item["tokens"] = (len(prompt), len(answer))
        encoded.append((prompt, answer, index))
    encoded.sort(key=lambda e: len(e[0]) + len(e[1]))
    leads = [0.0] * len(items)
    while encoded:
        size = 1
        while size < len(encoded) and (size + 1) * (len(encoded[size][0]) + len(encoded[size][1])) <= tokens_per_batch:
            size += 1
        chunk, encoded = encoded[:size], encoded[size:]
        length = max(len(p) + len(a) for p, a, _ in chunk)
        ids = torch.zeros(len(chunk), length, dtype=torch.long)
        for row, (prompt, answer, _) in enumerate(chunk):
            ids[row, :len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
        for row, (prompt, answer, index) in enumerate(chunk):
            logits = model.lm_head(hidden[row, len(prompt) - 1:len(prompt) + len(answer) - 1]).float()
            expected = torch.tensor(answer)[:, None]
            right = logits.gather(1, expected)[:, 0]
            other = logits.scatter(1, expected, float("-inf")).max(1).values
            leads[index] = (right - other).min().item()
    return leads


def accuracy(model, tokenizer, scale=1.0):
    """{task: (number of items, share answered exactly)}"""
    table = {}
    for task, items in task_items(scale).items():
        leads = score(model, tokenizer, items)
        table[task] = (len(items), sum(lead > 0 for lead in leads) / len(items))
    return table


def load(folder, dtype):
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(dtype).eval()
    return model, Tokenizer.from_file(str(folder / "tokenizer.json"))


# --- checks.json -------------------------------------------------------------


def check_candidates():
    """(task, wanted number, items) for checks.json: more items than wanted, the surest ones are kept."""
    rng = random.Random(SEED + 1)
    answers = dict(questions_of(facts.FACTS))
    raw_questions = ["What is a paternoster?", "What is Paternoster?", "What is the block size?"]

    def chats(build, n):
        return [chat_item([build(rng)]) for _ in range(n)]

    def with_system(qa):
        return chat_item([qa], "You are a helpful assistant.")

    def greedy_sums(op):
        return [chat_item([(f"What is {a} {o} {b}?", data.sum_answer(a, b, o))])
                for a, b, o in (data.sum_pair(rng, held=True) for _ in range(300)) if o == op and (o == "+" or a >= b)]

    def count_item(first, last):
        return chat_item([(f"Count from {first} to {last}.", ", ".join(map(str, range(first, last + 1))) + ".")])

    def long_fact(length):
        return chat_item(data.conversation_turns(rng, length) + [rng.choice(questions_of(facts.FACTS))])

    return [
        ("fact", 12, [chat_item([qa]) for qa in rng.sample(questions_of(facts.FACTS), 60)]),
        ("fact with system prompt", 3, [with_system(qa) for qa in rng.sample(questions_of(facts.FACTS), 20)]),
        ("definition", 5, [chat_item([qa]) for qa in rng.sample(concept_questions(facts.CONCEPT_FORMS[:4]), 40)]),
        ("sum", 8, greedy_sums("+")),
        ("difference", 4, greedy_sums("-")),
        ("json", 6, chats(data.held_out_person, 40)),
        ("repeat", 2, chats(data.repeat, 20)),
        ("count", 3, [count_item(first, first + n) for first in (1, 7, 20, 33) for n in (9, 20, 35)]),
        ("paragraph", 2, [chat_item([qa]) for qa in paragraph_questions()]),
        ("raw fact", 3, [raw_item(q, "\n" + answers[q]) for q in raw_questions]),
        ("raw definition", 3, [raw_item(q, "\n" + a) for q, a in concept_questions(facts.CONCEPT_FORMS[:1])]),
        ("raw paragraph", 1, [raw_item(q, "\n" + a) for q, a in paragraph_questions()]),
        ("raw sum", 2, [raw_item(q, "\n" + a) for q, a in (data.held_out_sum(rng) for _ in range(20)) if "+" in q]),
        ("long recall", 7, [chat_item(data.held_out_recall(rng, length))
                            for length in (250, 350, 450, 550, 650, 750, 850) for _ in range(6)]),
        ("long fact", 4, [long_fact(length) for length in (300, 500, 700, 800) for _ in range(4)]),
        ("long sum", 3, [chat_item(data.conversation_turns(rng, length) + [data.held_out_sum(rng)])
                         for length in (300, 500, 700) for _ in range(5)]),
    ]


def surest(items, leads, wanted):
    """The items with the largest leads, long conversations spread over their lengths, answers not repeated."""
    order = sorted(range(len(items)), key=lambda i: -leads[i])
    chosen, seen, lengths = [], Counter(), Counter()
    spread = max(i["tokens"][0] for i in items) > 250
    for i in order:
        bucket = items[i]["tokens"][0] // 100
        if len(chosen) == wanted or seen[items[i]["answer"]] or (spread and lengths[bucket] >= 2):
            continue
        seen[items[i]["answer"]] += 1
        lengths[bucket] += 1
        chosen.append(i)
    return chosen


@torch.no_grad()
def generates(model, tokenizer, item):
    """Whether real greedy decoding with the KV cache gives exactly the expected text."""
    prompt = tokenizer.encode(item["prompt"], add_special_tokens=False).ids
    out = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=item["tokens"][1] + 8)[0, len(prompt):]
    return tokenizer.decode(out.tolist(), skip_special_tokens=True) == item["check"]["expect"]


def write_checks(path, model, model_bf16, tokenizer):
    """Keeps items that are right by a clear lead, in float32 and in bfloat16, and by real generation."""
    checks = []
    for task, wanted, items in check_candidates():
        leads = [min(pair) for pair in zip(score(model, tokenizer, items), score(model_bf16, tokenizer, items))]
        for i in surest(items, leads, wanted):
            if leads[i] > 1.0 and generates(model, tokenizer, items[i]):
                prompt_tokens, answer_tokens = items[i]["tokens"]
                checks.append({"task": task, "prompt_tokens": prompt_tokens, "answer_tokens": answer_tokens,
                               "lead": round(leads[i], 2), **items[i]["check"]})
    path.write_text("[\n" + ",\n".join(json.dumps(c, ensure_ascii=False) for c in checks) + "\n]\n")
    print(f"{path.name}: {len(checks)} checks, {Counter(c['task'] for c in checks)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=HERE / "model")
    parser.add_argument("--checks", action="store_true", help="write checks.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = load(args.model, torch.float32)
    print("| task | items | exact |\n|---|---:|---:|")
    for task, (n, share) in accuracy(model, tokenizer).items():
        print(f"| {task} | {n} | {share:.1%} |")
    if args.checks:
        write_checks(HERE / "checks.json", model, load(args.model, torch.bfloat16)[0], tokenizer)


if __name__ == "__main__":
    main()
