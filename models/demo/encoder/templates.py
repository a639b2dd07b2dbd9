"""Everyday English sentences from a small grammar, to fill what books lack.

Each scene lists interchangeable verbs (base form, -s form, past, -ing form)
and objects; sentences vary subject, tense, place, time and wording.
"""

import random

PEOPLE = """a man|a woman|the boy|a little girl|two children|my neighbour|the teacher
a student|our manager|her brother|his mother|the doctor|a tourist|the driver|an old lady
a group of friends|the whole family|Anna|Peter|Maria|my colleague|the customer|a scientist
a young couple|the engineer|my grandfather|somebody|the girl in the red dress|I|we|they|she|he
the kids|my aunt|the police officer|a soldier|the actor|a nurse|the farmer|the crowd"""
PLURAL = {"two children", "a group of friends", "i", "we", "they", "a young couple", "the kids"}

# verbs: base,s,past,ing separated by "/"; alternatives by ","
SCENES = [
    ("play/plays/played/playing, practise/practises/practised/practising, tune/tunes/tuned/tuning",
     "the guitar|a violin|the piano|the drums|a trumpet|the flute|a sad song on the cello|a new tune",
     "on stage|at home|in the living room|at the concert|in the street"),
    ("cook/cooks/cooked/cooking, prepare/prepares/prepared/preparing, make/makes/made/making, eat/eats/ate/eating, order/orders/ordered/ordering",
     "dinner|a bowl of soup|pasta with tomatoes|a vegetable curry|scrambled eggs|a pizza|breakfast|some rice|a salad|a sandwich|fried fish|roast chicken|a hamburger|a plate of noodles",
     "in the kitchen|at the restaurant|for the guests|on the terrace|at a small café"),
    ("bake/bakes/baked/baking, buy/buys/bought/buying, slice/slices/sliced/slicing, share/shares/shared/sharing",
     "a chocolate cake|fresh bread|an apple pie|some biscuits|a birthday cake|a loaf of bread|croissants",
     "at the bakery|for the party|in the oven|on Sunday mornings"),
    ("drink/drinks/drank/drinking, pour/pours/poured/pouring, sip/sips/sipped/sipping, order/orders/ordered/ordering",
     "a cup of coffee|green tea|a glass of water|red wine|cold beer|orange juice|hot chocolate|a glass of milk",
     "at the bar|in the garden|by the window|after lunch"),
    ("drive/drives/drove/driving, park/parks/parked/parking, repair/repairs/repaired/repairing, wash/washes/washed/washing, sell/sells/sold/selling",
     "a car|the old truck|a motorcycle|the school bus|an electric car|the van|a taxi|the tractor",
     "in the city|on the motorway|in front of the house|at the garage"),
    ("ride/rides/rode/riding, fix/fixes/fixed/fixing, borrow/borrows/borrowed/borrowing, steal/steals/stole/stealing",
     "a bicycle|a bike|a mountain bike|a scooter|a skateboard",
     "along the river|in the park|to work|to school|down the hill"),
    ("read/reads/read/reading, write/writes/wrote/writing, publish/publishes/published/publishing, translate/translates/translated/translating, finish/finishes/finished/finishing",
     "a book|a novel|the newspaper|a poem|a long letter|a magazine article|the report|an essay about history|a fairy tale|a biography",
     "in the library|on the train|in bed|at the desk|under a tree"),
    ("kick/kicks/kicked/kicking, throw/throws/threw/throwing, catch/catches/caught/catching, chase/chases/chased/chasing",
     "the ball|a football|a basketball|a frisbee|a baseball",
     "in the park|on the field|on the beach|in the yard|during the game"),
    ("win/wins/won/winning, lose/loses/lost/losing, watch/watches/watched/watching, miss/misses/missed/missing",
     "the match|the tennis final|a football game|the race|the chess tournament|the championship|the marathon",
     "on television|at the stadium|last night|in the last minute"),
    ("walk/walks/walked/walking, feed/feeds/fed/feeding, stroke/strokes/stroked/stroking, train/trains/trained/training, adopt/adopts/adopted/adopting",
     "the dog|a cat|a horse|the puppy|the rabbits|a kitten|the parrot|a big black dog",
     "in the park|in the garden|on a farm|at the shelter"),
    ("plant/plants/planted/planting, water/waters/watered/watering, grow/grows/grew/growing, pick/picks/picked/picking",
     "tomatoes|the flowers|some roses|apple trees|vegetables|tulips|strawberries|herbs",
     "in the garden|on the balcony|in the greenhouse|behind the house"),
    ("buy/buys/bought/buying, sell/sells/sold/selling, try on/tries on/tried on/trying on, return/returns/returned/returning",
     "a pair of shoes|a winter coat|a blue shirt|a dress|a new phone|a laptop|a watch|a sofa|some groceries",
     "at the shop|online|at the market|in the department store|on sale"),
    ("install/installs/installed/installing, restart/restarts/restarted/restarting, update/updates/updated/updating, configure/configures/configured/configuring",
     "the software|the operating system|the server|a database|the application|the printer driver|the web browser|a plug-in",
     "on the laptop|at the office|over the network|without any problem"),
    ("write/writes/wrote/writing, test/tests/tested/testing, debug/debugs/debugged/debugging, review/reviews/reviewed/reviewing",
     "a program|the source code|a Python script|an algorithm|a function|the new feature|a mobile app",
     "for a client|on the computer|during the night|with the team"),
    ("book/books/booked/booking, cancel/cancels/cancelled/cancelling, miss/misses/missed/missing, pay for/pays for/paid for/paying for",
     "a flight to Paris|a hotel room|the train to Berlin|a holiday in Spain|a trip to Japan|two tickets|the ferry",
     "on the internet|at the last moment|for next week|by phone"),
    ("paint/paints/painted/painting, draw/draws/drew/drawing, photograph/photographs/photographed/photographing, sell/sells/sold/selling",
     "a portrait|the landscape|a picture of a horse|the old bridge|a sunset|the mountains",
     "in the studio|with a pencil|for an exhibition|by the lake"),
    ("clean/cleans/cleaned/cleaning, tidy/tidies/tidied/tidying, renovate/renovates/renovated/renovating, leave/leaves/left/leaving",
     "the kitchen|the bedroom|the bathroom|the flat|the office|the house|the garage",
     "before the visit|every weekend|in a hurry|all day"),
    ("visit/visits/visited/visiting, leave/leaves/left/leaving, call/calls/called/calling, wait for/waits for/waited for/waiting for",
     "the dentist|the hospital|an old friend|the museum|the bank|the parents|the lawyer|the cathedral",
     "in the afternoon|in London|after work|on holiday"),
    ("treat/treats/treated/treating, cure/cures/cured/curing, study/studies/studied/studying, prevent/prevents/prevented/preventing",
     "a cold|the flu|an infection|headaches|diabetes|a broken leg|heart disease|cancer|a fever",
     "at the clinic|with medicine|in a new way|in the laboratory"),
    ("discuss/discusses/discussed/discussing, reject/rejects/rejected/rejecting, support/supports/supported/supporting, explain/explains/explained/explaining",
     "the new law|the budget|climate change|the election|the tax reform|the peace treaty|the school policy|the plan",
     "in parliament|at the meeting|on the radio|in the newspaper"),
    ("earn/earns/earned/earning, save/saves/saved/saving, borrow/borrows/borrowed/borrowing, lose/loses/lost/losing, spend/spends/spent/spending",
     "a lot of money|a thousand dollars|some cash|the family's savings|a fortune",
     "on the stock market|at the bank|every month|in the casino"),
    ("cross/crosses/crossed/crossing, climb/climbs/climbed/climbing, explore/explores/explored/exploring, reach/reaches/reached/reaching",
     "the mountain|a steep hill|the river|the desert|the forest|the old ruins|a narrow bridge|the island",
     "in the rain|at dawn|with a guide|in winter|on foot"),
    ("learn/learns/learned/learning, teach/teaches/taught/teaching, study/studies/studied/studying, forget/forgets/forgot/forgetting",
     "French|mathematics|the alphabet|physics|how to swim|history|the piano|a foreign language|chemistry",
     "at school|at university|in the evening|from a book|with a friend"),
    ("watch/watches/watched/watching, record/records/recorded/recording, enjoy/enjoys/enjoyed/enjoying, talk about/talks about/talked about/talking about",
     "a film|a horror movie|the news|a documentary about whales|a cartoon|the concert|a comedy|a television series",
     "at the cinema|on the sofa|with friends|on television"),
    ("break/breaks/broke/breaking, lose/loses/lost/losing, find/finds/found/finding, hide/hides/hid/hiding",
     "the window|a cup|the keys|a wallet|the glasses|the phone|an umbrella|a gold ring",
     "in the car|at home|on the beach|by accident|yesterday"),
    ("send/sends/sent/sending, receive/receives/received/receiving, open/opens/opened/opening, forget/forgets/forgot/forgetting",
     "an e-mail|a parcel|the invoice|a postcard|a text message|the invitation|the contract",
     "this morning|by post|from the office|without a reply"),
]

TIMES = """today|yesterday|every day|in the morning|last week|at night|right now|again|on Monday
in the summer|before breakfast|for hours|once a year|since last year|after midnight"""

TASKS = """reset my password|lose weight|learn English|open a bank account|cook rice|fix a flat tyre
remove a coffee stain|apply for a visa|train a puppy|grow tomatoes|install Linux|sort a list in Python
write a CV|get rid of ants|sleep better|save money|find a cheap flight|boil an egg|change a light bulb
delete my account|cancel my subscription|track my order|return a product|back up my files|connect to the Wi-Fi
print a document|update my phone|recover deleted photos|learn to play the guitar|stop smoking|invest in stocks
pay my bills online|rent a car|book a hotel|make friends|ask for a raise|prepare for an interview|lower blood pressure
treat a sunburn|clean an oven|paint a wall|plant a tree|build a website|create a database|parse a JSON file
merge two branches in git|speed up my computer|contact customer support|change my address|get a refund
take good photographs|bake bread|make coffee|tie a tie|iron a shirt|swim faster|run a marathon|calm a crying baby
renew my passport|vote by mail|start a business|register a company|pay taxes|sell my car|insure my house"""
ASK = """how do I {}|how can I {}?|what is the best way to {}?|I want to {}|please help me {}
is there an easy way to {}?|can you tell me how to {}?|I need to {} as soon as possible|a guide explaining how to {}
what do I need to {}?|I do not know how to {}|tips for people who want to {}|step by step instructions to {}
why is it so hard to {}?|it is not possible to {}|nobody taught me to {}|I would like to {}"""

THINGS = """the weather|the hotel|this film|the food|the service|our teacher|the new phone|the battery|the exam
the traffic|the train|her dress|the apartment|the city|the beach|the meeting|the price|the software|the patient
the economy|the dog|the music|the water|the soup|the garden|the match|the winter|the road|the book|the company"""
JUDGE = """{} is excellent|{} is terrible|{} was better than expected|{} is too expensive|{} is not worth the money
I really like {}|I hate {}|{} was disappointing|everyone complains about {}|{} is very old|{} is beautiful
there is a problem with {}|{} has changed a lot|nobody talks about {}|{} made me happy|{} makes me sad
what do you think about {}?|{} is cold|{} is hot|{} is dangerous|{} is boring|{} is quiet and peaceful|{} is very loud
I was impressed by {}|{} is nothing special|{} could be improved|have you seen {}?|tell me more about {}"""


def split(text):
    return [x.strip() for line in text.splitlines() for x in line.split("|") if x.strip()]


def capital(sentence):
    return sentence[0].upper() + sentence[1:]


def conjugated(rng, who, forms):
    """One of the tenses of the verb, agreeing with the subject."""
    base, third, past, ing = (f.strip() for f in forms.split("/"))
    plural = who.lower() in PLURAL
    be = "am" if who == "I" else "are" if plural else "is"
    was = "was" if who == "I" or not plural else "were"
    do = "do" if plural else "does"
    return rng.choice([f"{be} {ing}", base if plural else third, past, past, f"will {base}",
                       f"{was} {ing}", f"{do} not {base}", f"wants to {base}" if not plural
                       else f"want to {base}", f"{'have' if plural else 'has'} never been {ing}"])


def scene(rng, people, times):
    verbs, objects, places = rng.choice(SCENES)
    who = rng.choice(people)
    text = f"{who} {conjugated(rng, who, rng.choice(verbs.split(',')))} {rng.choice(split(objects))}"
    if rng.random() < 0.6:
        text += " " + rng.choice(split(places))
    if rng.random() < 0.35:
        when = rng.choice(times)
        text = f"{when}, {text}" if rng.random() < 0.3 else f"{text} {when}"
    return text


def sentences(count, seed=1):
    """`count` distinct sentences, the same ones for the same seed."""
    rng = random.Random(seed)
    people, times = split(PEOPLE), split(TIMES)
    tasks, asks, things, judges = split(TASKS), split(ASK), split(THINGS), split(JUDGE)
    found = {}
    while len(found) < count:
        kind = rng.random()
        if kind < 0.9:
            text = scene(rng, people, times)
        elif kind < 0.96:
            text = rng.choice(asks).format(rng.choice(tasks))
        else:
            text = rng.choice(judges).format(rng.choice(things))
        if rng.random() < 0.5:
            text = capital(text) + ("" if text.endswith("?") else ".")
        found[text] = None
    return list(found)
