"""Training data of the demo decoder, generated from fixed seeds.

A sample is a list of (text, weight) pieces; weight is the loss weight of the
tokens of that piece. Two forms exist:

* chat:  ChatML messages, as the chat template in export.py writes them;
* raw:   "question\\nanswer<|endoftext|>", so that a bare question works too.

All randomness comes from the random.Random passed in.
"""

import random

from facts import (CITIES, CONCEPT_FORMS, CONCEPTS, FACTS, NAMES, PARAGRAPH_FORMS, PARAGRAPHS, STORIES, STORY_FORMS,
                   SYSTEM_PROMPTS)

END, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

ANSWER_WEIGHT = 1.0  # what the model has to say
RAW_QUESTION_WEIGHT = 0.1  # a little, so that raw prompts continue sensibly
PROMPT_WEIGHT = 0.0  # messages of the user and the template itself

SUM_FORMS = ["What is {e}?", "What is {e}?", "What is {e}?", "{e} =", "{e}", "{e}?", "Compute {e}.", "Calculate {e}.",
             "How much is {e}?", "What's {e}?", "Can you compute {e}?", "Add it up: {e}"]
PERSON_FORMS = ["Give me JSON for a person named {name}, aged {age}, from {city}.",
                "Give me JSON for a person named {name}, aged {age}, from {city}.",
                "Write JSON for a person: name {name}, age {age}, city {city}.",
                "JSON for {name}, {age}, from {city}, please.",
                "{name} is {age} years old and lives in {city}. Write that as JSON.",
                "Make a JSON object for {name}, who is {age} and comes from {city}."]
PREFIXES = ["Hi! ", "Hello. ", "Hey, ", "Please answer: ", "Quick question: ", "One more thing: ", "Next question: ",
            "Tell me: ", "So, ", "Okay. ", "And now: "]
SUFFIXES = [" Thanks!", " Thank you.", " Please answer briefly.", " Please."]

OPERAND_MAX = 20  # sums and differences of numbers from 0 to this one


def sum_pair(rng):
    """Operands and operator of a sum, or of a difference that is not negative."""
    a, b, op = rng.randrange(OPERAND_MAX + 1), rng.randrange(OPERAND_MAX + 1), rng.choice("++-")
    if op == "-" and a < b:
        a, b = b, a
    return a, b, op


def sum_answer(a, b, op):
    return f"{a} {op} {b} = {a + b if op == '+' else a - b}."


def person_name(rng):
    return rng.choice(NAMES[:24])


def city_name(rng):
    return rng.choice(CITIES[:12])


def vary(rng, question):
    """A question as people really type it: other case, no full stop, a greeting, a thank you."""
    r = rng.random()
    if r < 0.60:
        return question
    if r < 0.68:
        return question[0].lower() + question[1:]
    if r < 0.76:
        return question.rstrip(".?!") or question
    if r < 0.80:
        return question.lower().rstrip(".?!")
    if r < 0.95:
        rest = question if rng.random() < 0.5 else question[0].lower() + question[1:]
        return rng.choice(PREFIXES) + rest
    return question + rng.choice(SUFFIXES)


def prefixed(rng, question):
    """Like vary, but keeps the case: the answer copies words of the question."""
    r = rng.random()
    if r < 0.85:
        return question
    return rng.choice(PREFIXES) + question if r < 0.96 else question.rstrip(".?")


# Each task returns one (question, answer).


def fact(rng):
    questions, answer = rng.choice(FACTS)
    return vary(rng, rng.choice(questions)), answer


def concept(rng):
    term, answer = rng.choice(CONCEPTS)
    return vary(rng, rng.choice(CONCEPT_FORMS).format(t=term)), answer


def paragraph(rng):
    if rng.random() < 0.12:
        return vary(rng, rng.choice(STORY_FORMS)), rng.choice(STORIES)
    topics, text = rng.choice(PARAGRAPHS)
    return vary(rng, rng.choice(PARAGRAPH_FORMS).format(t=rng.choice(topics))), text


def arithmetic(rng):
    a, b, op = sum_pair(rng)
    return prefixed(rng, rng.choice(SUM_FORMS).format(e=f"{a} {op} {b}")), sum_answer(a, b, op)


def json_person(rng, name=None):
    values = {"name": name or person_name(rng), "age": rng.randrange(1, 100), "city": city_name(rng)}
    return prefixed(rng, rng.choice(PERSON_FORMS).format(**values)), \
        '{"name": "%(name)s", "age": %(age)d, "city": "%(city)s"}' % values


def json_object(rng):
    return json_person(rng, person_name(rng))


TASKS = [(fact, 24), (concept, 14), (paragraph, 5), (arithmetic, 34), (json_object, 23)]


def turn(rng):
    """One independent (question, answer) of a random task."""
    task, = rng.choices([t for t, _ in TASKS], [w for _, w in TASKS])
    return task(rng)


def message(role, content):
    return f"{IM_START}{role}\n{content}{IM_END}\n"


def chat_pieces(turns, system=None):
    """The pieces of a conversation; the end mark of an answer is part of the answer."""
    pieces = [(message("system", system), PROMPT_WEIGHT)] if system else []
    for question, answer in turns:
        pieces.append((message("user", question) + f"{IM_START}assistant\n", PROMPT_WEIGHT))
        pieces.append((answer + IM_END, ANSWER_WEIGHT))
        pieces.append(("\n", PROMPT_WEIGHT))
    return pieces


def turns_of(rng, length):
    """Independent turns for a conversation of about `length` tokens."""
    turns, size = [], 0
    while size < length:
        question, answer = turn(rng)
        turns.append((question, answer))
        size += 12 + len(question) // 4 + len(answer) // 4
    return turns


def system_prompt(rng):
    return rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.3 else None


def single_chat(rng):
    return chat_pieces([turn(rng)], system_prompt(rng))


def conversation(rng):
    length = int(60 * (600 / 60) ** rng.random())  # log-uniform: 60 to 600 tokens
    return chat_pieces(turns_of(rng, length), system_prompt(rng))


def raw_question(rng):
    question, answer = turn(rng)
    return [(question, RAW_QUESTION_WEIGHT), ("\n" + answer + END, ANSWER_WEIGHT)]


def raw_text(rng):
    """Plain text without a question: a paragraph, a story or a few definitions."""
    r = rng.random()
    if r < 0.5:
        _, text = rng.choice(PARAGRAPHS)
        sentences = text.split(". ")
        text = ". ".join(sentences[rng.choice([0, 0, rng.randrange(len(sentences))]):])
    elif r < 0.6:
        text = rng.choice(STORIES)
    else:
        text = " ".join(rng.choice([rng.choice(FACTS)[1], rng.choice(CONCEPTS)[1]]) for _ in range(rng.randint(1, 3)))
    return [(text + END, ANSWER_WEIGHT)]


# Kinds of samples and their frequency.
KINDS = [(single_chat, 30), (conversation, 20), (raw_question, 45), (raw_text, 5)]


def sample(rng):
    """One training sample, as (text, weight) pieces."""
    kind, = rng.choices([k for k, _ in KINDS], [w for _, w in KINDS])
    return kind(rng)


def encode(tokenizer, pieces):
    """Token ids and loss weights of a sample; a weight belongs to the token that is predicted."""
    ids, weights = [], []
    for (_, weight), piece in zip(pieces, tokenizer.encode_batch([text for text, _ in pieces], add_special_tokens=False)):
        ids += piece.ids
        weights += [weight] * len(piece.ids)
    return ids, weights


BUCKETS = [32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]


def batches(tokenizer, seed, tokens_per_batch):
    """Endless batches of samples of similar length: lists of (ids, weights), and the padded length."""
    rng = random.Random(seed)
    waiting = {length: [] for length in BUCKETS}
    while True:
        ids, weights = encode(tokenizer, sample(rng))
        if len(ids) > BUCKETS[-1]:
            continue
        length = next(b for b in BUCKETS if len(ids) <= b)
        waiting[length].append((ids, weights))
        if len(waiting[length]) * length >= tokens_per_batch:
            yield waiting[length], length
            waiting[length] = []
