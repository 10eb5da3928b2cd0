/* One row per name.  "default", and a file that names none, mean what the file's makers apply then:
 * a cut at punctuation, GPT-2's words, digits in threes.  Of rows that do the same the first is the
 * name that a converted file gets.
 *
 * The tokenizers of Qwen 2 and 3 normalise to NFC; their row says so, so that a model gives the same
 * ids from both of its file formats.  Qwen 3.5's takes marks as letters instead.
 */
#include "text/gguf_pre.h"

#include <stddef.h>
#include <string.h>

#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define SHORT_FORMS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define SPACES "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define WORDS(letters, not_letters, digits)                                                        \
    SHORT_FORMS "|[^\\r\\n\\p{L}\\p{N}]?" letters "+|" digits "| ?[^\\s" not_letters               \
                "\\p{N}]+[\\r\\n]*|" SPACES
#define LLAMA3 WORDS("\\p{L}", "\\p{L}", "\\p{N}{1,3}")
#define QWEN2 WORDS("\\p{L}", "\\p{L}", "\\p{N}")
#define QWEN35 WORDS("[\\p{L}\\p{M}]", "\\p{L}\\p{M}", "\\p{N}")
#define CJK "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+"
#define DEEPSEEK3                                                                                  \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"                                        \
    "|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|" SPACES
#define BAILING                                                                                    \
    "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*"  \
    "|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define CASED(upper, lower)                                                                        \
    "[^\\r\\n\\p{L}\\p{N}]?" upper "*" lower "+" SHORT_FORMS "?|[^\\r\\n\\p{L}\\p{N}]?" upper      \
    "+" lower "*" SHORT_FORMS "?|\\p{N}{1,3}"
#define GPT4O CASED(UPPER, LOWER) "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES
#define TEKKEN                                                                                     \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER            \
    "*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES
#define KIMI                                                                                       \
    "\\p{Han}+|" CASED("[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]",                        \
                       "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]") "| ?[^\\s\\p{L}\\p{N}]+"      \
                                                                     "[\\r\\n]*|" SPACES
#define CJK_WIDE "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+"
/* DeepSeek-V2 lists its letters one range after the other: the cased letters of an early Unicode.
 */
#define DEEPSEEK_LETTERS                                                                           \
    "\\s?[A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}"            \
    "\\x{1c4}-\\x{293}\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}\\x{37f}" \
    "\\x{386}\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}\\x{3f7}-\\x{481}"         \
    "\\x{48a}-\\x{52f}\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}"  \
    "\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}"                 \
    "\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}"                 \
    "\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}\\x{1f59}\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}"         \
    "\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}"        \
    "\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}"                 \
    "\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}"         \
    "\\x{2124}\\x{2126}\\x{2128}\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{"     \
    "213f}"                                                                                        \
    "\\x{2145}-\\x{2149}\\x{214e}\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}"         \
    "\\x{2ceb}-\\x{2cee}\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}"                  \
    "\\x{a722}-\\x{a76f}\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}"                 \
    "\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}"                 \
    "\\x{10400}-\\x{1044f}\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}"         \
    "\\x{10cc0}-\\x{10cf2}\\x{118a0}-\\x{118df}\\x{1e900}-\\x{1e943}]+"
#define DEEPSEEK_PUNCT                                                                             \
    "\\s?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}]+"

static const mr_gguf_pre known[] = {
    {"default", 0, 0, 0, {"[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}},
    {"gpt-2", 0, 0, 0, {GPT2}},
    {"mpt", 0, 0, 0, {GPT2}},
    {"phi-2", 0, 0, 0, {GPT2}},
    {"olmo", 0, 0, 0, {GPT2}},
    {"exaone4", 0, 0, 0, {GPT2}},
    {"falcon", 0, 0, 0, {MR_GGUF_PUNCT, GPT2, MR_GGUF_BYTES, "\\p{N}+", "[0-9][0-9][0-9]"}},
    {"smollm", 0, 0, 0, {"\\p{N}", GPT2}},
    {"starcoder", 0, 0, 0, {"\\p{N}", GPT2}},
    {"codeshell", 0, 0, 0, {"\\p{N}", GPT2}},
    {"minerva-7b", 0, 0, 0, {"\\p{N}", GPT2}},
    {"refact", 0, 0, 0, {"\\p{N}", GPT2}},
    {"command-r", 0, 0, 0, {"\\p{N}", GPT2}},
    {"llama-bpe", 1, 1, 0, {LLAMA3}},
    {"llama-v3", 1, 1, 0, {LLAMA3}},
    {"llama3", 1, 1, 0, {LLAMA3}},
    {"falcon3", 1, 1, 0, {LLAMA3}},
    {"pixtral", 1, 1, 0, {LLAMA3}},
    {"lfm2", 1, 1, 0, {LLAMA3}},
    {"smaug-bpe", 0, 0, 0, {LLAMA3}},
    {"dbrx", 0, 0, 0, {LLAMA3}},
    {"chatglm-bpe", 0, 0, 0, {LLAMA3}},
    {"glm4", 1, 0, 0, {LLAMA3}},
    {"glm5", 1, 0, 0, {LLAMA3}},
    {"qwen2", 0, 0, 1, {QWEN2}},
    {"deepseek-r1-qwen", 0, 0, 1, {QWEN2}},
    {"tekken", 1, 1, 0, {TEKKEN}},
    {"qwen35", 0, 0, 0, {QWEN35}},
    {"deepseek-v3", 0, 0, 0, {"\\p{N}{1,3}", CJK, DEEPSEEK3}},
    {"hunyuan-dense", 0, 0, 0, {"\\p{N}{1,3}", CJK, DEEPSEEK3}},
    {"joyai-llm", 0, 0, 0, {"\\p{N}{1,3}", CJK, DEEPSEEK3}},
    {"deepseek-llm",
     0,
     0,
     0,
     {"[\\r\\n]", DEEPSEEK_LETTERS, DEEPSEEK_PUNCT, "\\s+$", CJK_WIDE, "\\p{N}"}},
    {"deepseek-coder", 0, 0, 0, {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", CJK_WIDE, "\\p{N}"}},
    {"bailingmoe", 0, 0, 0, {BAILING}},
    {"bailingmoe2", 0, 0, 0, {BAILING}},
    {"llada-moe", 0, 0, 0, {BAILING}},
    {"gpt-4o", 1, 0, 0, {GPT4O}},
    {"llama4", 1, 0, 0, {GPT4O}},
    {"kanana2", 1, 0, 0, {GPT4O}},
    {"kimi-k2", 1, 0, 0, {KIMI}},
    {"stablelm2", 0, 0, 0, {QWEN2}},
};

const mr_gguf_pre *mr_gguf_pre_find(const char *name)
{
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i].name, name) == 0)
            return &known[i];
    return NULL;
}

const mr_gguf_pre *mr_gguf_pre_at(int i)
{
    return i >= 0 && (size_t)i < sizeof known / sizeof *known ? &known[i] : NULL;
}

mr_err mr_gguf_pre_steps(const mr_gguf_pre *pre, mr_pretok *out)
{
    bool bytes = false;
    for (int i = 0; i < MR_GGUF_SPLITS && pre->split[i]; i++) {
        const char *split = pre->split[i];
        bool here = strcmp(split, MR_GGUF_BYTES) == 0;
        if (here)
            MR_TRY(mr_pretok_bytes(out));
        else if (strcmp(split, MR_GGUF_PUNCT) == 0)
            MR_TRY(mr_pretok_punct(out));
        else
            MR_TRY(mr_pretok_regex(out, pre->name, split));
        bytes |= here;
    }
    return bytes ? MR_OK : mr_pretok_bytes(out);
}
