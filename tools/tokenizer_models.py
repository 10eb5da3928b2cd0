"""Small tokenizer.model and tiktoken.model files with the ids their own packages give.

    tokenizer_models.py TEXT.txt OUTDIR    (tests/text/data/models)

TEXT.txt trains the SentencePiece vocabularies.  OUTDIR gets spm-*.model, tiktoken/ and pairs.json:
for every file the ids of the lines of tests/text/data/lines.json, which is read from the current
directory's repository.
"""
import base64
import json
import os
import sys

import sentencepiece
import tiktoken

KIMI = "|".join([
    r"[\p{Han}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])

MODELS = {
    "spm-llama": dict(byte_fallback=True, add_dummy_prefix=True, vocab_size=700),
    "spm-gemma": dict(byte_fallback=True, add_dummy_prefix=False, vocab_size=700,
                      user_defined_symbols=["▁▁", "▁▁▁", "▁▁▁▁", "\n", "\n\n", "<tag>", "\t"]),
    "spm-plain": dict(byte_fallback=False, add_dummy_prefix=True, vocab_size=500,
                      user_defined_symbols=["<tag>"]),
}
RULES = "rules.tsv"  # a small character map: the library's own has 200 KB
MAPPED = dict(normalization_rule_tsv=RULES, normalization_rule_name="user_defined",
              remove_extra_whitespaces=True, user_defined_symbols=["<tag>", "½", "Zw"])
MODELS["spm-unigram"] = dict(model_type="unigram", vocab_size=300, **MAPPED)
MODELS["spm-map"] = dict(vocab_size=700, byte_fallback=True, treat_whitespace_as_suffix=True, **MAPPED)
REFUSED = {"spm-word": dict(model_type="word", vocab_size=60, hard_vocab_limit=False)}


def train(text, prefix, **options):
    base = dict(model_type="bpe", normalization_rule_name="identity", remove_extra_whitespaces=False,
                character_coverage=0.999, num_threads=1, minloglevel=2)
    sentencepiece.SentencePieceTrainer.train(input=text, model_prefix=prefix, **{**base, **options})
    os.remove(prefix + ".vocab")


def write_rules():
    rules = {"½": "1/2", "é": "e", "e\u0301": "e", "Z": "z", "Zw": "zwo", "\t": " ", "\n": " ", "\u200b": "",
             "\u3000": " ", "ﬁ": "fi", "…": "...", "中文": "zh "}
    with open(RULES, "w", encoding="utf-8") as f:
        for a, b in rules.items():
            f.write(" ".join(f"{ord(c):X}" for c in a) + "\t" + " ".join(f"{ord(c):X}" for c in b) + "\n")


def byte_ranks(text, n):
    """Plain byte-pair training: n merges over the bytes of some words."""
    words = [list(bytes([b]) for b in w.encode()) for w in text.split(" ")[:20000]]
    ranks = {bytes([b]): b for b in range(256)}
    for _ in range(n):
        counts = {}
        for w in words:
            for a, b in zip(w, w[1:]):
                counts[a + b] = counts.get(a + b, 0) + 1
        best = max(sorted(counts), key=lambda k: counts[k])
        ranks[best] = len(ranks)
        for w in words:
            i = 0
            while i + 1 < len(w):
                if w[i] + w[i + 1] == best:
                    w[i:i + 2] = [best]
                i += 1
    return ranks


def main():
    text, out = sys.argv[1:]
    os.makedirs(out + "/tiktoken", exist_ok=True)
    lines = json.load(open("tests/text/data/lines.json", encoding="utf-8"))
    lines = [s for s in lines if not any(t in s for t in ("<s>", "</s>", "<unk>"))]
    lines += ["", " ", "     five", "a\n\n\nb", "<tag>x<tag>", "中文 mixed 汉字's", "x\t\ty"]
    pairs = {"lines": lines, "ids": {}, "texts": {}}
    write_rules()
    for name, options in MODELS.items():
        train(text, f"{out}/{name}", **options)
        sp = sentencepiece.SentencePieceProcessor(model_file=f"{out}/{name}.model")
        pairs["ids"][name] = [sp.encode(s) for s in lines]
        pairs["texts"][name] = [sp.decode(ids) for ids in pairs["ids"][name]]
    os.remove(RULES)
    for name, options in REFUSED.items():
        train(text, f"{out}/{name}", **options)
    ranks = byte_ranks(open(text, encoding="utf-8").read(), 300)
    with open(out + "/tiktoken/tiktoken.model", "w") as f:
        for token, rank in ranks.items():
            f.write(base64.b64encode(token).decode() + f" {rank}\n")
    n = len(ranks)
    names = {n: "[BOS]", n + 1: "[EOS]", n + 2: "<|im_end|>"}
    config = {"added_tokens_decoder": {str(i): {"content": s, "special": True} for i, s in names.items()},
              "bos_token": "[BOS]", "eos_token": "[EOS]"}
    json.dump(config, open(out + "/tiktoken/tokenizer_config.json", "w"), indent=1)
    special = {names.get(i, f"<|reserved_token_{i}|>"): i for i in range(n, n + 256)}
    enc = tiktoken.Encoding("kimi", pat_str=KIMI, mergeable_ranks=ranks, special_tokens=special)
    pairs["ids"]["tiktoken"] = [enc.encode(s, allowed_special="all") for s in lines]
    json.dump(pairs, open(out + "/pairs.json", "w"), ensure_ascii=False, separators=(",", ":"))


if __name__ == "__main__":
    main()
