"""Training data of the demo decoder, generated from fixed seeds.

A sample is a list of (text, weight) pieces; weight is the loss weight of the
tokens of that piece. Two forms exist:

* chat:  ChatML messages, as the chat template in export.py writes them;
* raw:   "question\\nanswer<|endoftext|>", so that a bare question works too.

All randomness comes from the random.Random passed in. Sums and differences
with a held-out pair of operands, held-out names and held-out question forms
never appear in training; evaluate.py asks for exactly those.
"""

import random

from facts import (CAPITALS, CITIES, COLORS, CONCEPT_FORMS, CONCEPTS, FACTS, HELD_OUT_NAMES, NAMES, PARAGRAPH_FORMS,
                   PARAGRAPHS, PRODUCTS, ROOMS, STORIES, STORY_FORMS, SYSTEM_PROMPTS, TOO_LARGE_ANSWER,
                   UNKNOWN_ANSWER, UNKNOWN_FORMS, WORDS)

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
PRODUCT_FORMS = ["Give me JSON for a {color} {item} with price {price}.",
                 "Write JSON for a product: item {item}, color {color}, price {price}.",
                 "A {color} {item} costs {price}. Write that as JSON.",
                 "Make a JSON object for a {color} {item} that costs {price}."]
POINT_FORMS = ["Give me JSON for a point with x {x} and y {y}.", "Write the point ({x}, {y}) as JSON.",
               "JSON for the point x = {x}, y = {y}."]
REPEAT_FORMS = ["Repeat: {w}", "Repeat after me: {w}", "Say: {w}", "Repeat these words: {w}", "Copy this: {w}"]
COUNT_FORMS = ["Count from {a} to {b}.", "Count from {a} to {b}.", "List the numbers from {a} to {b}.",
               "Can you count from {a} to {b}?", "Count up from {a} to {b}."]
PREFIXES = ["Hi! ", "Hello. ", "Hey, ", "Please answer: ", "Quick question: ", "One more thing: ", "Next question: ",
            "Tell me: ", "So, ", "Okay. ", "And now: "]
SUFFIXES = [" Thanks!", " Thank you.", " Please answer briefly.", " Please."]


def held_out(a, b, op):
    """True for the tenth of the operand pairs that training never sees (symmetric for sums)."""
    if op == "+" and a > b:
        a, b = b, a
    return random.Random(f"pair {a} {op} {b}").random() < 0.1


def sum_pair(rng, held=False):
    """Operands and operator of a sum or a difference, from the trained or the held-out pairs."""
    while True:
        a, b, op = rng.randrange(100), rng.randrange(100), rng.choice("+-")
        if op == "-" and a < b:
            a, b = b, a
        if held_out(a, b, op) == held:
            return a, b, op


def sum_answer(a, b, op):
    """The result with its working: ones, tens (after a borrow), total. Each step is a small table to learn."""
    ones_a, ones_b, tens_a, tens_b = a % 10, b % 10, a - a % 10, b - b % 10
    if op == "-" and ones_a < ones_b:
        ones_a, tens_a = ones_a + 10, tens_a - 10
    result = {"+": int.__add__, "-": int.__sub__}[op]
    total = f"{a} {op} {b} = {result(a, b)}."
    if a < 10 and b < 10:
        return total
    return f"{ones_a} {op} {ones_b} = {result(ones_a, ones_b)}, {tens_a} {op} {tens_b} = {result(tens_a, tens_b)}, so {total}"


def made_up_word(rng):
    """A pronounceable word that no list holds, to teach copying instead of word lists."""
    syllables = rng.choice([2, 2, 3])
    return "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(syllables)) + rng.choice(["", "n", "r", "s", "l"])


def person_name(rng):
    return rng.choice(NAMES) if rng.random() < 0.5 else made_up_word(rng).capitalize()


def city_name(rng):
    return rng.choice(CITIES) if rng.random() < 0.7 else made_up_word(rng).capitalize()


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


def json_product(rng):
    values = {"item": rng.choice(PRODUCTS), "color": rng.choice(COLORS), "price": rng.randrange(1, 1000)}
    return prefixed(rng, rng.choice(PRODUCT_FORMS).format(**values)), \
        '{"item": "%(item)s", "color": "%(color)s", "price": %(price)d}' % values


def json_point(rng):
    x, y = rng.randrange(100), rng.randrange(100)
    return prefixed(rng, rng.choice(POINT_FORMS).format(x=x, y=y)), '{"x": %d, "y": %d}' % (x, y)


def json_object(rng):
    return rng.choice([json_person, json_person, json_product, json_point])(rng)


def repeat(rng, longest=12):
    words = [rng.choice(WORDS)]  # the first word loses its leading space in the answer, so it comes from the list
    words += [rng.choice(WORDS) if rng.random() < 0.7 else made_up_word(rng) for _ in range(rng.randrange(longest))]
    text = " ".join(words)
    return rng.choice(REPEAT_FORMS).format(w=text), text


def count(rng, spans=(8, 12, 40)):
    first = rng.randrange(0, 80)
    last = min(first + rng.randint(2, rng.choice(spans)), 100)
    return prefixed(rng, rng.choice(COUNT_FORMS).format(a=first, b=last)), \
        ", ".join(str(n) for n in range(first, last + 1)) + "."


def capital(rng):
    country, city = rng.choice(list(CAPITALS.items()))
    form = rng.choice(["What is the capital of {c}?", "What is the capital of {c}?", "Name the capital of {c}.",
                       "Which city is the capital of {c}?"])
    return vary(rng, form.format(c=country)), f"The capital of {country} is {city}."


def unknown(rng):
    if rng.random() < 0.25:
        a, b = rng.randrange(100, 10000), rng.randrange(10000)
        if rng.random() < 0.5:
            a, b = b, a
        return prefixed(rng, rng.choice(SUM_FORMS).format(e=f"{a} {rng.choice('+-')} {b}")), TOO_LARGE_ANSWER
    question = rng.choice(UNKNOWN_FORMS).format(
        city=city_name(rng), city2=city_name(rng), name=person_name(rng), thing=rng.choice(WORDS),
        color=rng.choice(COLORS), country=rng.choice(list(CAPITALS)))
    return vary(rng, question), UNKNOWN_ANSWER


class Memory:
    """What one conversation was told so far; asks for it later, from near or far."""

    def __init__(self):
        self.name, self.color, self.codes = None, None, {}

    def tell(self, rng):
        """One (question, answer) that gives the model something to remember."""
        r = rng.random()
        if r < 0.15 and self.name is None:
            self.name = person_name(rng)
            return rng.choice(["My name is {n}.", "I am called {n}.", "Hi, my name is {n}."]).format(n=self.name), \
                f"Nice to meet you, {self.name}."
        if r < 0.25 and self.color is None:
            self.color = rng.choice(COLORS)
            return f"My favorite color is {self.color}.", f"Your favorite color is {self.color}. I will remember that."
        free = [room for room in ROOMS if room not in self.codes]
        room, code = rng.choice(free), rng.choice(WORDS)
        self.codes[room] = code
        form = rng.choice(["Remember: the code word for room {r} is {c}.", "The code word for room {r} is {c}.",
                           "Please remember that the code word for room {r} is {c}."])
        return form.format(r=room, c=code), f"Noted: the code word for room {room} is {code}."

    def ask(self, rng):
        """One (question, answer) about something told before."""
        kinds = (["name"] if self.name else []) + (["color"] if self.color else []) + ["code"] * len(self.codes)
        if not kinds:
            return rng.choice([("What is my name?", "You have not told me your name."),
                               ("What is my favorite color?", "You have not told me your favorite color.")])
        kind = rng.choice(kinds)
        if kind == "name":
            return rng.choice(["What is my name?", "Do you remember my name?", "Who am I?"]), f"Your name is {self.name}."
        if kind == "color":
            return rng.choice(["What is my favorite color?", "Which color do I like?"]), \
                f"Your favorite color is {self.color}."
        room = rng.choice(list(self.codes))
        form = rng.choice(["What is the code word for room {r}?", "What is the code word for room {r}?",
                           "Tell me the code word for room {r}.", "Which code word has room {r}?"])
        return form.format(r=room), f"The code word for room {room} is {self.codes[room]}."


TASKS = [(fact, 15), (concept, 10), (paragraph, 2), (arithmetic, 30), (json_object, 18), (repeat, 9), (count, 6),
         (capital, 2), (unknown, 4)]


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


def conversation_turns(rng, length):
    """Turns for a conversation of about `length` tokens (some 30 per turn), half of them about memory."""
    memory, turns, size = Memory(), [], 0
    while size < length:
        r = rng.random()
        if r < 0.24:
            t = memory.tell(rng)
        elif r < 0.52 and (memory.codes or rng.random() < 0.1):
            t = memory.ask(rng)
        else:
            t = turn(rng)
        turns.append(t)
        size += 12 + len(t[0]) // 4 + len(t[1]) // 4
    if memory.codes and rng.random() < 0.5:
        turns.append(memory.ask(rng))
    return turns


def system_prompt(rng):
    return rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.3 else None


def single_chat(rng):
    return chat_pieces([turn(rng)], system_prompt(rng))


def conversation(rng, longest):
    length = int(60 * (longest / 60) ** rng.random())  # log-uniform: 60 to `longest` tokens
    return chat_pieces(conversation_turns(rng, length), system_prompt(rng))


def short_conversation(rng):
    return conversation(rng, 200)


def long_conversation(rng):
    return conversation(rng, 900)


def counting(rng):
    """Short counts, one after the other: where to stop is what is hard, and each count says it once only."""
    return chat_pieces([count(rng, spans=(3, 4, 8, 20)) for _ in range(rng.randint(1, 3))], system_prompt(rng))


def raw_question(rng):
    question, answer = turn(rng)
    return [(question, RAW_QUESTION_WEIGHT), ("\n" + answer + END, ANSWER_WEIGHT)]


def raw_sums(rng):
    """Bare questions "17 + 25 =" and their answers, the densest way to practise arithmetic."""
    pieces = []
    for _ in range(1 if rng.random() < 0.3 else rng.randint(2, 5)):
        a, b, op = sum_pair(rng)
        pieces += [(("\n" if pieces else "") + f"{a} {op} {b} =", PROMPT_WEIGHT), ("\n" + sum_answer(a, b, op), ANSWER_WEIGHT)]
    return pieces + [(END, ANSWER_WEIGHT)]


def raw_repeat(rng):
    """Long word lists to repeat, the densest way to practise copying."""
    question, answer = repeat(rng, longest=20)
    return [(question, PROMPT_WEIGHT), ("\n" + answer + END, ANSWER_WEIGHT)]


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


# Kinds of samples and their frequency. The first stage has short samples only, the second also long conversations,
# the third practises what is learned last: to stop counting, and to remember over a long conversation.
STAGES = [
    [(single_chat, 75), (short_conversation, 18), (raw_question, 32), (raw_sums, 20), (raw_repeat, 20), (raw_text, 3)],
    [(single_chat, 50), (long_conversation, 12), (raw_question, 26), (raw_sums, 10), (raw_repeat, 10), (raw_text, 3)],
    [(single_chat, 36), (long_conversation, 14), (counting, 40), (raw_question, 16), (raw_sums, 6), (raw_repeat, 6), (raw_text, 2)],
]


def sample(rng, stage):
    """One training sample, as (text, weight) pieces."""
    kind, = rng.choices([k for k, _ in STAGES[stage]], [w for _, w in STAGES[stage]])
    return kind(rng)


def encode(tokenizer, pieces):
    """Token ids and loss weights of a sample; a weight belongs to the token that is predicted."""
    ids, weights = [], []
    for (_, weight), piece in zip(pieces, tokenizer.encode_batch([text for text, _ in pieces], add_special_tokens=False)):
        ids += piece.ids
        weights += [weight] * len(piece.ids)
    return ids, weights


BUCKETS = [32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]


def batches(tokenizer, seed, stage, tokens_per_batch):
    """Endless batches of samples of similar length: lists of (ids, weights), and the padded length."""
    rng = random.Random(seed)
    waiting = {length: [] for length in BUCKETS}
    while True:
        ids, weights = encode(tokenizer, sample(rng, stage))
        if len(ids) > BUCKETS[-1]:
            continue
        length = next(b for b in BUCKETS if len(ids) <= b)
        waiting[length].append((ids, weights))
        if len(waiting[length]) * length >= tokens_per_batch:
            yield waiting[length], length
            waiting[length] = []


def copy_batches(tokenizer, seed, tokens_per_batch, length=32):
    """Endless batches of random word tokens, a new line and the same tokens again: a warm-up in pure copying."""
    rng = random.Random(seed)
    words = [ids[0] for ids in (tokenizer.encode(" " + word).ids for word in WORDS) if len(ids) == 1]
    separator = tokenizer.encode("\n").ids
    while True:
        rows = []
        for _ in range(tokens_per_batch // length):
            tokens = rng.sample(words, rng.randint(2, length // 2 - 1))
            rows.append((tokens + separator + tokens, [0.0] * (len(tokens) + 2) + [1.0] * (len(tokens) - 1)))
        yield rows, length


# Held-out test items: (turns, ...) builders used by evaluate.py.


def held_out_sum(rng):
    a, b, op = sum_pair(rng, held=True)
    return f"What is {a} {op} {b}?", sum_answer(a, b, op)


def held_out_person(rng):
    name, age, city = rng.choice(HELD_OUT_NAMES), rng.randrange(1, 100), rng.choice(CITIES)
    return f"Give me JSON for a person named {name}, aged {age}, from {city}.", \
        f'{{"name": "{name}", "age": {age}, "city": "{city}"}}'


def held_out_recall(rng, length):
    """A conversation of about `length` tokens that ends with a question about its first turn."""
    memory = Memory()
    while not memory.codes:
        memory = Memory()
        first = memory.tell(rng)
    room, code = next(iter(memory.codes.items()))
    middle = [t for t in conversation_turns(rng, length) if f"room {room}" not in t[0]]
    return [first] + middle + [(f"What is the code word for room {room}?", f"The code word for room {room} is {code}.")]
