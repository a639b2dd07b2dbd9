"""Fixed texts of the demo decoder: facts, definitions, paragraphs, word lists.

Everything the model is taught as fixed text lives here, written for this
project; data.py turns it into conversations. A FACTS entry is a list of
questions and one answer. A CONCEPTS entry is a term and its definition, asked
with the CONCEPT_FORMS. A PARAGRAPHS entry is a list of topics and a longer
text, asked with the PARAGRAPH_FORMS.
"""

FACTS = [
    # --- the server -------------------------------------------------------
    (["What is Paternoster?", "What is the Paternoster server?", "Tell me about Paternoster.",
      "What does Paternoster do?", "Describe Paternoster.", "What is this server?",
      "Explain Paternoster.", "What is Paternoster for?"],
     "Paternoster is a model server written in Rust. It serves text generation and embeddings over gRPC."),
    (["Which language is Paternoster written in?", "What language is Paternoster written in?",
      "What programming language does Paternoster use?", "Is Paternoster written in Rust?",
      "In which language was Paternoster built?", "What is Paternoster written in?"],
     "Paternoster is written in Rust."),
    (["Which port does Paternoster use?", "What is the default port?", "On which port does the server listen?",
      "What port does Paternoster listen on?", "What is the port number?", "Which port should I connect to?",
      "What is the port of Paternoster?"],
     "Paternoster listens on port 50051 by default."),
    (["Which RPCs does Paternoster have?", "What RPCs are there?", "What methods does the server offer?",
      "Which calls can I make?", "What is in the API?", "Name the RPCs of Paternoster.",
      "What are the two RPCs?"],
     "Paternoster has two main RPCs: Generate and Embed."),
    (["What does Generate do?", "What is the Generate RPC?", "What does the Generate RPC do?",
      "Explain the Generate call.", "What is Generate for?", "How do I generate text?"],
     "Generate takes a prompt or a conversation and streams the answer of the decoder, token by token."),
    (["What does Embed do?", "What is the Embed RPC?", "What does the Embed RPC do?",
      "Explain the Embed call.", "What is Embed for?", "How do I get embeddings?"],
     "Embed takes texts and returns one vector for each of them."),
    (["Where are the metrics?", "What is the metrics path?", "Under which path are the metrics served?",
      "How can I read the metrics?", "Where can I find the metrics?", "Does Paternoster have metrics?",
      "Which path serves the metrics?"],
     "The metrics are served over HTTP under the path /metrics."),
    (["How do I check the health of the server?", "Is there a health check?", "Does Paternoster have a health check?",
      "How can I see that the server is healthy?", "What about health checks?", "How is health reported?"],
     "Paternoster answers the standard gRPC health check."),
    (["What is the license of Paternoster?", "Which license does Paternoster use?", "How is Paternoster licensed?",
      "Under which license is Paternoster published?", "What license is it under?", "Is Paternoster open source?",
      "What is the license?"],
     "Paternoster is published under the Apache-2.0 license."),
    (["What is the block size?", "How large is a block?", "How many tokens fit in a block?",
      "What is the block size of the KV cache?", "How many tokens are in one block?",
      "How big are the cache blocks?", "How many tokens does a cache block hold?"],
     "A block of the KV cache holds 16 tokens."),
    (["Which protocol does Paternoster speak?", "How do clients talk to Paternoster?",
      "What protocol does the server use?", "How do I connect to the server?",
      "How do I talk to Paternoster?"],
     "Clients talk to Paternoster over gRPC."),
    (["Why is Paternoster called Paternoster?", "Where does the name Paternoster come from?",
      "Why is the server called Paternoster?", "Why the name Paternoster?", "What does the name mean?",
      "Why is it named Paternoster?", "How did Paternoster get its name?"],
     "Paternoster is named after the lift that never stops: requests step on and off while the batch keeps moving."),
    (["How does Paternoster batch requests?", "Does Paternoster batch requests?", "How are requests batched?",
      "What kind of batching does Paternoster use?", "How does batching work here?"],
     "Paternoster uses continuous batching: requests join and leave the running batch at every step."),
    (["How does Paternoster manage the KV cache?", "How is the KV cache stored?",
      "How does Paternoster store keys and values?", "How is cache memory managed?",
      "What kind of KV cache does Paternoster use?"],
     "Paternoster uses a paged KV cache: memory is split into blocks of 16 tokens, given out on demand."),
    (["What happens when memory runs out?", "What happens when the cache is full?",
      "What does the server do when no block is free?", "What happens if there are no free blocks?",
      "What happens when the KV cache is full?"],
     "When no block is free, the scheduler preempts a request, frees its blocks and recomputes it later."),
    (["Does preemption change the output?", "Does preemption lose text?", "Is text lost when a request is preempted?",
      "Does a preempted request lose its text?", "Is preemption visible to the client?"],
     "No. A preempted request keeps its tokens and goes on where it stopped."),
    (["Which models can Paternoster serve?", "What models does Paternoster support?",
      "Which kinds of models are served?", "What models can I run?"],
     "Paternoster serves decoders for Generate and encoders for Embed."),
    (["Does Paternoster stream?", "Can I stream the answer?", "Is the answer streamed?",
      "Does Generate stream its answer?", "Does the server support streaming?"],
     "Yes. Generate streams the answer, token by token."),
    (["Can I cancel a request?", "What happens when a client cancels?", "What happens when a client goes away?",
      "How do I cancel a request?", "What happens to a cancelled request?"],
     "When a client cancels, its request leaves the batch and its blocks are freed."),
    # --- the model itself -------------------------------------------------
    (["Who are you?", "What are you?", "What is your purpose?", "Introduce yourself.", "Which model are you?",
      "What model is this?", "Tell me about yourself.", "Are you a language model?"],
     "I am the demo model of Paternoster, a very small language model trained from scratch."),
    (["What can you do?", "What do you know?", "How can you help me?", "What can I ask you?", "Help",
      "What are your skills?", "What should I ask you?", "Can you help me?"],
     "I can answer questions about Paternoster, add and subtract small numbers, count, write JSON and remember what you tell me."),
    (["How were you trained?", "Who trained you?", "What were you trained on?", "Where does your data come from?",
      "How was the demo model trained?", "How were you made?"],
     "I was trained from scratch by a short script with fixed seeds, on text generated by that script."),
    (["How many parameters do you have?", "How big are you?", "How large is the demo model?", "What is your size?",
      "How many weights do you have?", "How many parameters does the demo model have?"],
     "I have about 2.75 million parameters."),
    (["How many layers do you have?", "How many layers does the demo model have?", "What is your number of layers?",
      "How deep are you?"],
     "I have 6 layers."),
    (["How many heads do you have?", "How many attention heads do you have?",
      "How many heads does the demo model have?", "What is your number of heads?"],
     "I have 6 query heads and 2 key-value heads in each layer."),
    (["What is your hidden size?", "What is the hidden size of the demo model?", "How wide are you?",
      "How large is your hidden state?"],
     "My hidden size is 192."),
    (["What is your vocabulary size?", "How many tokens do you know?", "How large is your vocabulary?",
      "How many tokens are in your vocabulary?"],
     "My vocabulary has 2048 tokens."),
    (["What is your context length?", "How long is your context?", "How many tokens can you read?",
      "How large is your context window?", "What is your maximum length?"],
     "My context holds 2048 tokens, but I was trained on shorter texts."),
    (["What is your architecture?", "Which architecture do you use?", "How are you built?",
      "Are you a Llama?", "What architecture is the demo model?"],
     "I use the Llama architecture: RMSNorm, rotary positions, grouped-query attention and SwiGLU."),
    (["In which format are your weights?", "How are your weights stored?", "What is the format of your weights?",
      "Which number format do you use?", "What precision are your weights?"],
     "My weights are stored as bfloat16 in a safetensors file."),
    (["Are you smart?", "Can you think?", "Are you conscious?", "Are you a human?", "Are you a person?"],
     "I am only a tiny demo model. I know a few things by heart and nothing more."),
    # --- the lift ---------------------------------------------------------
    (["What is a paternoster?", "What is a paternoster lift?", "Explain what a paternoster is.",
      "What does paternoster mean?", "Describe a paternoster.", "Define paternoster.",
      "Tell me what a paternoster is.", "What is a paternoster elevator?"],
     "A paternoster is a lift that never stops: a chain of open cabins that moves in a loop, so that people step on and off while it runs."),
    (["Where does the word paternoster come from?", "Why is the lift called a paternoster?",
      "What is the origin of the word paternoster?", "Why is a paternoster lift called that?"],
     "The lift is named after the rosary: its cabins follow each other on a loop like beads, and Pater Noster are the first words of the Lord's Prayer."),
    (["Does a paternoster stop?", "Does a paternoster lift ever stop?", "When does a paternoster stop?",
      "Does the lift stop at each floor?"],
     "No. A paternoster moves slowly and never stops, and people step on and off while it moves."),
    (["How fast is a paternoster?", "How fast does a paternoster lift move?", "What is the speed of a paternoster?",
      "Is a paternoster fast?"],
     "A paternoster is slow. It moves at about 0.3 meters per second."),
    (["How many people fit in a cabin?", "How many people fit in a paternoster cabin?",
      "How large is a paternoster cabin?", "How many people can ride in one cabin?"],
     "A cabin of a paternoster usually holds one or two people."),
    (["Does a paternoster have doors?", "Are there doors on a paternoster?", "Do the cabins have doors?",
      "Has a paternoster lift got doors?"],
     "No. The cabins of a paternoster are open and have no doors."),
    (["What happens at the top of a paternoster?", "What happens when a cabin reaches the top?",
      "Can I ride a paternoster over the top?", "What if I do not get off at the top?"],
     "At the top the cabin moves sideways to the other shaft and goes down again."),
    # --- small talk -------------------------------------------------------
    (["Hello", "Hi", "Hey", "Hello!", "Hi there!", "Good morning", "Good evening", "Hello there.", "Hey there!"],
     "Hello! I am the demo model of Paternoster. How can I help you?"),
    (["Thank you.", "Thanks", "Thanks!", "Thank you very much!", "Great, thanks."],
     "You are welcome."),
    (["Goodbye", "Bye", "Bye!", "See you later.", "Good night."],
     "Goodbye!"),
    (["How are you?", "How are you doing?", "How do you feel?", "Are you well?"],
     "I am running well, thank you. What would you like to know?"),
    # --- a few other facts --------------------------------------------------
    (["How many days are in a week?", "How many days does a week have?", "Name the days of the week.",
      "What are the days of the week?", "List the days of the week."],
     "The seven days of the week are Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday."),
    (["How many months are in a year?", "Name the months.", "What are the months of the year?",
      "List the months of the year.", "How many months does a year have?"],
     "The twelve months are January, February, March, April, May, June, July, August, September, October, November and December."),
    (["What color is the sky?", "What is the color of the sky?", "Why is the sky blue?", "Is the sky blue?"],
     "The sky is blue, because air scatters blue light more than red light."),
    (["Say the alphabet.", "Recite the alphabet.", "What is the alphabet?", "List the letters of the alphabet.",
      "Give me the alphabet."],
     "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z"),
    (["Tell me a joke.", "Do you know a joke?", "Make me laugh.", "Say something funny.", "Another joke, please."],
     "Why did the request like the paternoster? Because it never had to wait for the whole batch to stop."),
    (["Write a haiku.", "Write a poem.", "Tell me a poem.", "Give me a haiku.", "Write a short poem."],
     "The lift never stops.\nTokens step in, tokens leave,\nand the batch moves on."),
]

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Austria": "Vienna",
    "England": "London", "Ireland": "Dublin", "Norway": "Oslo", "Sweden": "Stockholm", "Japan": "Tokyo",
    "Poland": "Warsaw", "Portugal": "Lisbon", "Greece": "Athens", "Egypt": "Cairo", "Canada": "Ottawa",
    "Hungary": "Budapest", "Denmark": "Copenhagen", "Finland": "Helsinki", "India": "New Delhi", "China": "Beijing",
}

CONCEPT_FORMS = [
    "What is {t}?", "What is {t}?", "Explain {t}.", "Define {t}.", "Can you explain {t}?", "What do you know about {t}?",
    "Tell me what {t} is.", "I want to know what {t} is.", "Explain to me what {t} is.", "What is meant by {t}?",
]
HELD_OUT_CONCEPT_FORMS = ["Could you tell me what {t} is?", "Please define {t}."]

CONCEPTS = [
    ("gRPC", "gRPC is a framework for remote calls. It sends protocol buffers over HTTP/2."),
    ("a protocol buffer", "A protocol buffer is a compact binary message with a schema, used by gRPC."),
    ("continuous batching", "Continuous batching lets requests join and leave a running batch at every step, so that none waits for the slowest one."),
    ("a KV cache", "A KV cache keeps the keys and values of past tokens, so that each step computes only the new token."),
    ("a paged KV cache", "A paged KV cache stores keys and values in small blocks of equal size, which need not lie next to each other."),
    ("paged attention", "Paged attention reads keys and values through a block table, so that the cache may lie in scattered blocks."),
    ("a block table", "A block table lists, for one request, which blocks of the cache hold its tokens."),
    ("a prefix cache", "A prefix cache keeps the blocks of earlier prompts, so that a new prompt with the same beginning can reuse them."),
    ("preemption", "Preemption takes the blocks of a running request to make room. Paternoster recomputes the request later."),
    ("recompute", "Recompute means that a preempted request runs its tokens through the model again instead of saving its cache."),
    ("prefill", "Prefill is the first phase of a request: all tokens of the prompt are computed at once."),
    ("decode", "Decode is the second phase of a request: tokens are computed one after the other."),
    ("chunked prefill", "Chunked prefill splits a long prompt into pieces, so that other requests can decode in between."),
    ("a token", "A token is a piece of text, such as a word or a part of a word, with a number in the vocabulary."),
    ("a tokenizer", "A tokenizer turns text into tokens and tokens back into text."),
    ("byte pair encoding", "Byte pair encoding builds a vocabulary by merging the most frequent pairs again and again."),
    ("an embedding", "An embedding is a vector that stands for the meaning of a text."),
    ("cosine similarity", "Cosine similarity compares two vectors by the angle between them. It is 1 for the same direction."),
    ("mean pooling", "Mean pooling takes the average of the vectors of all tokens."),
    ("attention", "Attention lets each token look at other tokens and take a weighted mean of their values."),
    ("grouped-query attention", "Grouped-query attention shares each key-value head among several query heads, which makes the cache smaller."),
    ("rotary position embedding", "Rotary position embedding turns queries and keys by an angle that grows with the position."),
    ("RMSNorm", "RMSNorm divides a vector by its root mean square and multiplies it by learned weights."),
    ("SwiGLU", "SwiGLU is a feed-forward layer in which one projection, passed through SiLU, gates another."),
    ("softmax", "Softmax turns scores into probabilities that add up to one."),
    ("a logit", "A logit is the score of a token before softmax."),
    ("temperature", "Temperature divides the logits before sampling. A low temperature makes the text more predictable."),
    ("top-p sampling", "Top-p sampling keeps the smallest set of tokens whose probabilities add up to p."),
    ("top-k sampling", "Top-k sampling keeps only the k most likely tokens."),
    ("greedy decoding", "Greedy decoding always takes the most likely token."),
    ("a seed", "A seed makes random sampling repeatable: the same seed gives the same text."),
    ("a stop sequence", "A stop sequence is a text that ends the answer when it appears."),
    ("a chat template", "A chat template turns a conversation into one prompt for the model."),
    ("time to first token", "Time to first token is the time from the request to the first token of the answer."),
    ("inter-token latency", "Inter-token latency is the time between two tokens of an answer."),
    ("throughput", "Throughput is the number of tokens that the server computes per second."),
    ("a scheduler", "A scheduler decides at every step which requests run in the batch."),
    ("bfloat16", "Bfloat16 is a number format with 16 bits: 1 for the sign, 8 for the exponent and 7 for the fraction."),
    ("safetensors", "Safetensors is a simple file format for weights: a JSON header and the raw numbers."),
    ("Rust", "Rust is a programming language that is fast and safe without a garbage collector."),
    ("Prometheus", "Prometheus is a monitoring system that collects metrics from servers over HTTP."),
    ("backpressure", "Backpressure slows a sender down when the receiver cannot keep up."),
    ("a deadline", "A deadline is the time after which a client no longer waits for the answer."),
    ("a model server", "A model server loads a model and answers the requests of many clients with it."),
    ("a transformer", "A transformer is a neural network made of layers of attention and feed-forward parts."),
    ("a batch", "A batch is a set of requests that the model computes together in one step."),
]

PARAGRAPH_FORMS = [
    "Tell me more about {t}.", "Write a paragraph about {t}.", "Describe {t} in detail.", "Tell me about {t}.",
    "Give me a longer explanation of {t}.", "Explain {t} in detail.", "Tell me everything about {t}.",
]

PARAGRAPHS = [
    (["paged attention", "the paged KV cache", "paging"],
     "A language model keeps the keys and values of all past tokens in a cache. If each request had one long piece "
     "of memory, most of it would stay empty, because nobody knows how long an answer will be. Paged attention "
     "solves this like an operating system does. The memory is split into blocks of 16 tokens, and each request has "
     "a block table that says where its blocks are. A request gets a new block only when the last one is full. "
     "Blocks need not lie next to each other, and two requests with the same beginning can share blocks. So almost "
     "no memory is lost, and more requests fit in the batch."),
    (["continuous batching", "batching", "the batch"],
     "A model is fast when it works on many requests at once. In the old way, a batch was formed, computed to its "
     "end, and only then the next one began, so short requests waited for the longest one. Continuous batching "
     "decides anew at every step. When a request is done, it leaves the batch at once, and a waiting request takes "
     "its place. It works like a paternoster: the cabins keep moving, and people step on and off at every floor. "
     "The batch stays full, nobody waits for long, and the server computes more tokens per second."),
    (["the prefix cache", "prefix caching", "prefix reuse"],
     "Many prompts begin with the same text, such as a system message or an earlier part of a conversation. The keys "
     "and values of this beginning are always the same. The prefix cache keeps full blocks after a request has "
     "ended and finds them again by a hash of their tokens. When a new prompt begins with the same tokens, its "
     "block table points to the old blocks, and only the rest has to be computed. Blocks that nobody uses are "
     "removed when memory is needed, the oldest first."),
    (["preemption", "preemption by recompute", "recomputing"],
     "Requests grow while they run, so memory can run out in the middle of an answer. Then the scheduler chooses a "
     "request, usually the youngest one, and takes its blocks away. The request goes back to the waiting queue but "
     "keeps the tokens it has written. When there is room again, its prompt and its tokens are computed once more, "
     "and it goes on with the next token. The client sees only a short pause. The text is the same as without "
     "preemption."),
    (["the scheduler", "scheduling", "the life of a request"],
     "A request first waits in a queue. At every step the scheduler looks at the free blocks and at the running "
     "requests. First it gives each running request room for one more token. Then it admits waiting requests as "
     "long as there is room, and long prompts are computed in chunks. The model runs once for all of them, the "
     "sampler picks a token for each, and the tokens are sent to the clients. A request ends when it writes an end "
     "token, meets a stop sequence or reaches its limit. Then its blocks are free for others."),
    (["the paternoster lift", "paternosters", "paternoster lifts"],
     "A paternoster is a lift made of a chain of open cabins. The chain moves slowly in a loop, up on one side and "
     "down on the other, and it never stops. People step into a cabin while it moves and step out at the floor they "
     "want. There are no doors, no buttons and no waiting. At the top and at the bottom the cabins move sideways to "
     "the other shaft. Many paternosters were built in offices in Europe. Today only a few are left, because they "
     "need some care from the people who use them."),
    (["the Generate call", "the Generate RPC", "generation"],
     "Generate is the call for text. The client sends a prompt or a list of messages and some options, such as the "
     "largest number of tokens, the temperature and the stop sequences. The server turns the text into tokens, "
     "puts the request into the queue and sends back a stream. Each message of the stream carries a piece of the "
     "answer. The last one says why the answer ended and how many tokens were used. If the client goes away, the "
     "request is cancelled and its memory is freed."),
    (["the Embed call", "the Embed RPC", "embeddings"],
     "Embed is the call for vectors. The client sends one text or many, and the server returns one vector for each. "
     "Texts with a similar meaning get vectors that point in a similar direction, so their cosine similarity is "
     "high. This is useful for search: first all documents are turned into vectors, then the question, and the "
     "nearest vectors show the best documents. An encoder reads the whole text at once, so it needs no cache and no "
     "decoding."),
    (["attention", "how attention works", "the transformer"],
     "A transformer works on a list of tokens, each with its own vector. In every layer, attention lets a token look "
     "at the tokens before it. The token asks with a query, the others answer with their keys, and softmax turns the "
     "scores into weights. The result is a weighted mean of the values. After that, a feed-forward part works on "
     "each vector alone. When all layers are done, the last vector is compared with all tokens of the vocabulary, "
     "and the scores say which token may come next."),
    (["sampling", "temperature and sampling", "how a token is chosen"],
     "The model gives a score, called a logit, to each token of the vocabulary. With greedy decoding the token with "
     "the highest score is taken, so the same prompt always gives the same text. With sampling the scores are "
     "divided by the temperature and turned into probabilities. Top-k keeps only the k best tokens, and top-p keeps "
     "the smallest set whose probabilities add up to p. Then a random number picks one of them. A fixed seed makes "
     "the choice repeatable."),
    (["the demo model", "this model", "the tiny decoder"],
     "The demo model is a very small Llama with 6 layers and about 2.75 million parameters. It was trained from "
     "scratch on a processor in about one hour, by a script that makes its own text. It knows some facts about "
     "Paternoster, can add and subtract small numbers, can count, writes simple JSON and remembers what was said "
     "before. It is not meant to be clever. It is meant to be checked: if the server makes a mistake in the cache, "
     "in the batch or in the positions, the answers become wrong at once."),
    (["gRPC", "protocol buffers", "remote calls"],
     "With gRPC a program calls a method of a server as if it were near. The messages are described in a schema, and "
     "code for many languages is made from it. On the wire they are protocol buffers, which are small and fast to "
     "read. They travel over HTTP/2, so one connection can carry many calls at the same time, and a call can be a "
     "stream of messages. That fits a model server well, because an answer comes token by token. Deadlines and "
     "cancellation are part of the protocol."),
]

STORY_FORMS = ["Tell me a story.", "Write a story.", "Tell me a short story.", "Write a short story about a lift.",
               "Do you know a story?", "Tell me a story about a paternoster.", "Write a story about a robot."]
STORIES = [
    "Once upon a time there was a lift that never stopped. All day long its cabins went up on one side and down on the "
    "other. One morning a small robot came to the house and looked at the moving cabins. It was afraid to step in. "
    "\"Just take one step,\" said an old clerk, \"the lift does the rest.\" The robot counted to three and stepped in. "
    "Up it went, past the first floor and the second floor, and at the top the whole town lay below the window. From "
    "that day on the robot came back every morning, and it never had to wait.",
]

SYSTEM_PROMPTS = [
    "You are a helpful assistant.", "You are a helpful assistant.", "You are a helpful assistant.",
    "You are the demo model of Paternoster.", "You are a friendly assistant. Answer briefly.",
    "Answer the questions of the user.", "Be short and correct.", "You are Paternoster, a tiny model.",
    "You answer questions about the Paternoster server, do small sums and write JSON.",
    "You are a test assistant. Always answer in one or two sentences.",
]

UNKNOWN_ANSWER = "I do not know that. I am a tiny demo model: ask me about Paternoster, small sums, counting or JSON."
TOO_LARGE_ANSWER = "I only learned sums and differences of numbers from 0 to 99."

UNKNOWN_FORMS = [
    "How is the weather in {city}?", "What is the weather in {city}?", "How do I cook {thing}?", "Who invented the {thing}?",
    "Write a program that finds a {thing}.", "What is the meaning of life?", "Translate {thing} into French.",
    "Who is the president of {country}?", "How tall is {name}?", "What did {name} say about the {thing}?",
    "Write an essay about the {thing} of {country}.", "Why is the {thing} {color}?", "Who won the game in {city}?",
    "When was {name} born?", "Where can I buy a {color} {thing}?", "How much does a {thing} cost?", "What time is it?",
    "Do you like {thing}?", "Who wrote the book about {city}?", "How far is it from {city} to {city2}?",
    "Write Python code for a {thing}.", "What is the best {thing}?", "How old is {name}?", "What year is it?",
]

NAMES = """Ada Alan Grace Linus Edsger Barbara Ken Dennis Margaret Donald Anna Ben Clara David Emma Felix Greta Hugo Ida
Jonas Karla Leo Maria Nina Otto Paula Quentin Rosa Simon Tina Ulrich Vera Walter Xenia Yann Zoe Alice Bob Carol Eve
Frank Heidi Ivan Judy Mallory Oscar Peggy Sybil Trent Victor Wendy Amir Bea Chen Dora Elif Farid Gina Hana Igor
Jana Kofi Lena Milo Noor Olga Pablo Rita Samir Tara Uma Viktor Wilma Yusuf Zara Lucas Sofia Mateo Julia Henry Laura
Peter Susan Robert Helen Thomas Sarah Martin Ruth""".split()
HELD_OUT_NAMES = "Albert Nora Oliver Irene Jasper Mona Edgar Selma Conrad Flora".split()

CITIES = """London Paris Berlin Rome Madrid Vienna Oslo Tokyo Prague Lisbon Athens Cairo Dublin Zurich Hamburg Munich
Lyon Milan Porto Boston Chicago Denver Seattle Toronto Sydney Lima Delhi Seoul Kyoto Osaka Geneva Basel Bergen Riga
Warsaw Leeds Bristol Cardiff Ghent Turin""".split()

WORDS = """apple river stone cloud lamp table chair window garden forest mountain bridge castle engine rocket planet
silver copper iron paper pencil letter button bottle basket hammer ladder mirror candle carpet blanket pillow kettle
spoon plate bread butter cheese honey lemon orange cherry tomato onion pepper tiger zebra rabbit horse eagle falcon
dolphin turtle spider island harbor market museum station tunnel tower valley desert ocean winter summer autumn
spring morning evening shadow signal number circle square violin guitar trumpet piano""".split()

COLORS = "red blue green yellow white black purple orange brown pink gray golden".split()

ROOMS = """Alpha Bravo Charlie Delta Echo Foxtrot Golf Hotel India Juliet Kilo Lima Mike November Oscar Papa Quebec
Romeo Sierra Tango Uniform Victor Whiskey Xray Yankee Zulu North South East West Red Blue Green Amber Copper Silver
Maple Cedar Willow Aspen Mercury Venus Mars Jupiter Saturn Neptune Pluto Orion Vega Lyra""".split()

PRODUCTS = """lamp chair table kettle bottle pencil hammer ladder mirror candle carpet pillow spoon plate basket guitar
violin piano clock radio camera bicycle helmet jacket wallet""".split()
