/* Tokenizers from plain vocabularies: GGUF metadata, SentencePiece models, tiktoken files.
 *
 * "gpt2": byte-level BPE with listed merges, cut as tokenizer.ggml.pre says.
 * "gemma4": BPE with listed merges over characters, spaces as U+2581, bytes as a fallback.
 * "llama": SentencePiece's BPE.  Which two pieces merge is not listed: any two whose joined text is
 * a piece may, the highest score first.  So every way to cut a piece in two pieces becomes a merge
 * whose rank is the rank of the result's score, and the same merging does both.
 * "unigram": SentencePiece's other model, over the same pieces.
 * "tiktoken": byte-level BPE, merged in the same way, the lowest id first.
 */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "text/gguf_pre.h"
#include "text/pieces.h"
#include "text/tokenizer_parts.h"

enum { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER, TYPE_UNUSED, TYPE_BYTE };
/* Cutting a piece at every place costs the square of its length. */
enum { PIECE_MAX = 512 };

static const char space_mark[] = "\xE2\x96\x81"; /* U+2581 */

static int32_t type_of(const mr_vocab *v, int32_t id)
{
    return v->types ? v->types[id] : TYPE_NORMAL;
}

static bool is_model(const mr_vocab *v, const char *model)
{
    return strcmp(v->model, model) == 0;
}

/* Pieces of characters, spaces marked, bytes as a fallback. */
static bool has_pieces(const mr_vocab *v)
{
    return is_model(v, "llama") || is_model(v, "gemma4") || is_model(v, "unigram");
}

/* Tokens the model itself may make. */
static bool is_model_token(const mr_vocab *v, int32_t id)
{
    int32_t type = type_of(v, id);
    if (is_model(v, "tiktoken"))
        return type == TYPE_NORMAL;
    if (has_pieces(v))
        return type == TYPE_NORMAL || type == TYPE_USER;
    return type != TYPE_UNUSED;
}

static mr_err check_special(const mr_vocab *v, const char *what, int32_t id)
{
    if (id >= -1 && id < v->n_tokens)
        return MR_OK;
    return mr_fail(MR_EFORMAT, "%s: tokenizer.ggml.%s_token_id %d is outside the vocabulary of %d",
                   v->file, what, id, v->n_tokens);
}

static mr_err read_tokens(mr_tokenizer *t, const mr_vocab *v)
{
    size_t bytes = 0;
    if (v->n_tokens <= 0 || v->n_tokens > MR_TOKEN_ID_MAX)
        return mr_fail(MR_EFORMAT, "%s: tokenizer.ggml.tokens has %d entries", v->file,
                       v->n_tokens);
    for (int32_t i = 0; i < v->n_tokens; i++) {
        mr_str s = v->tokens[i];
        if (mr_utf8_check(s.data, s.len) != s.len)
            return mr_fail(MR_EFORMAT, "%s: tokenizer.ggml.tokens[%d] is not UTF-8", v->file, i);
        if (!mr_add_size(bytes, s.len, &bytes))
            return mr_fail(MR_ELIMIT, "%s: tokenizer.ggml.tokens is too large", v->file);
    }
    MR_TRY(mr_table_init(&t->model.table, (size_t)v->n_tokens, (size_t)v->n_tokens, bytes));
    for (int32_t i = 0; i < v->n_tokens; i++) {
        mr_table_put(&t->model.table, i, v->tokens[i].data, v->tokens[i].len);
        mr_table_index(&t->model.table, i,
                       is_model_token(v, i)); /* of equal texts the last counts */
        if (!is_model_token(v, i))
            mr_table_hide(&t->model.table, i);
    }
    return mr_tokenizer_flags(t);
}

/* Phi-3's special tokens do, but for these. */
static bool strips_after(const mr_vocab *v, mr_str s)
{
    static const char *const keep[] = {"<unk>", "<s>", "<|endoftext|>"};
    for (size_t i = 0; i < 3; i++)
        if (s.len == strlen(keep[i]) && memcmp(s.data, keep[i], s.len) == 0)
            return false;
    return v->strip_after;
}

static mr_err read_whole_tokens(mr_tokenizer *t, const mr_vocab *v)
{
    for (int32_t i = 0; i < v->n_tokens; i++) {
        int32_t type = type_of(v, i);
        mr_str s = v->tokens[i];
        bool whole = type == TYPE_CONTROL || type == TYPE_USER || type == TYPE_UNKNOWN;
        whole &= type != TYPE_USER || !is_model(v, "unigram"); /* a piece that always wins */
        if (!whole || s.len == 0 || mr_table_find_any(&t->model.table, s.data, s.len) != i)
            continue;
        mr_added_token token = {.id = i, .special = type != TYPE_USER, .when = MR_ADDED_RAW};
        token.rstrip = strips_after(v, s);
        if (v->sentencepiece && type == TYPE_USER)
            token.when = MR_ADDED_NORMALIZED;
        MR_TRY(mr_tokenizer_add(t, token, v->file));
    }
    return MR_OK;
}

/* ---- gpt2 -------------------------------------------------------------------------------- */

static mr_err read_merge(mr_tokenizer *t, const mr_vocab *v, int32_t i, mr_buf *joined)
{
    mr_table *table = &t->model.table;
    mr_str s = v->merges[i];
    /* the parts hold no space (it is another character in this alphabet), so the first one parts
     * them */
    const char *space = s.len > 1 ? memchr(s.data + 1, ' ', s.len - 1) : NULL;
    if (!space)
        return mr_fail(MR_EFORMAT, "%s: tokenizer.ggml.merges[%d] is not two parts", v->file, i);
    size_t left = (size_t)(space - s.data), right = s.len - left - 1;
    int32_t l = mr_table_find(table, s.data, left), r = mr_table_find(table, space + 1, right);
    mr_buf_clear(joined);
    mr_buf_add(joined, s.data, left);
    mr_buf_add(joined, space + 1, right);
    MR_TRY(mr_buf_check(joined));
    int32_t id = mr_table_find(table, joined->data, joined->len);
    if (l < 0 || r < 0 || id < 0)
        return mr_fail(
            MR_EFORMAT,
            "%s: tokenizer.ggml.merges[%d]: a part or the result is not in the vocabulary", v->file,
            i);
    mr_bpe_merge(&t->model, l, r, id, (uint32_t)i);
    return MR_OK;
}

static mr_err read_merges(mr_tokenizer *t, const mr_vocab *v)
{
    if (v->n_merges < 0)
        return mr_fail(MR_EFORMAT, "%s: tokenizer.ggml.merges is missing", v->file);
    mr_buf joined = {0};
    mr_err err = mr_bpe_reserve(&t->model, (size_t)v->n_merges);
    for (int32_t i = 0; err == MR_OK && i < v->n_merges; i++)
        err = read_merge(t, v, i, &joined);
    mr_buf_free(&joined);
    return err;
}

/* The cuts of `pre`, then bytes as characters. */
static mr_err byte_level_steps(mr_tokenizer *t, const mr_gguf_pre *pre)
{
    if (pre->nfc) {
        MR_TRY(mr_grow((void **)&t->norm.v, &t->norm.cap, 1, sizeof *t->norm.v));
        memset(t->norm.v, 0, sizeof *t->norm.v);
        t->norm.v[0] = (mr_norm_step){.kind = MR_NORM_FORM, .form = MR_NFC};
        t->norm.n = 1;
    }
    MR_TRY(mr_gguf_pre_steps(pre, &t->pre));
    mr_dec_step *step;
    MR_TRY(mr_decoder_step(&t->decoder, MR_DEC_BYTE_LEVEL, &step));
    t->model.ignore_merges = pre->ignore_merges;
    t->kind = "byte-level BPE";
    return MR_OK;
}

static mr_err read_gpt2(mr_tokenizer *t, const mr_vocab *v, bool *add_bos)
{
    const mr_gguf_pre *pre = mr_gguf_pre_find(v->pre ? v->pre : "default");
    if (!pre)
        return mr_fail(MR_EUNSUPPORTED, "%s: tokenizer.ggml.pre \"%.60s\" is not supported",
                       v->file, v->pre);
    *add_bos = pre->add_bos;
    MR_TRY(read_merges(t, v));
    return byte_level_steps(t, pre);
}

/* ---- llama ------------------------------------------------------------------------------- */

typedef struct scored {
    float score;
    int32_t id;
} scored;

static int by_score(const void *a, const void *b)
{
    const scored *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

/* rank[id]: 0 for the highest score; equal scores have equal ranks. */
static mr_err rank_scores(const mr_vocab *v, uint32_t *rank)
{
    size_t n = (size_t)v->n_tokens;
    scored *list = mr_alloc(MR_MEM_OTHER, n * sizeof *list);
    if (!list)
        return MR_ENOMEM;
    mr_err err = MR_OK;
    for (size_t i = 0; i < n; i++) {
        list[i] = (scored){v->scores[i], (int32_t)i};
        if (isnan(v->scores[i]))
            err = mr_fail(MR_EFORMAT, "%s: tokenizer.ggml.scores[%zu] is not a number", v->file, i);
    }
    if (err == MR_OK)
        qsort(list, n, sizeof *list, by_score);
    uint32_t now = 0;
    for (size_t i = 0; err == MR_OK && i < n; i++) {
        if (i > 0 && list[i].score != list[i - 1].score)
            now++;
        rank[list[i].id] = now;
    }
    mr_free(list);
    return err;
}

/* A merge for every cut of a piece into two pieces; m NULL: counts them. */
static size_t cut_piece(const mr_table *table, int32_t id, uint32_t rank, mr_bpe *m)
{
    mr_str s = mr_table_text(table, id);
    size_t found = 0;
    for (size_t k = 1; k < s.len; k++) {
        if (((unsigned char)s.data[k] & 0xC0) == 0x80)
            continue;
        int32_t left = mr_table_find(table, s.data, k);
        if (left < 0)
            continue;
        int32_t right = mr_table_find(table, s.data + k, s.len - k);
        if (right < 0)
            continue;
        found++;
        if (m)
            mr_bpe_merge(m, left, right, id, rank);
    }
    return found;
}

/* rank NULL: the id is the rank. */
static mr_err make_merges(mr_tokenizer *t, const mr_vocab *v, const uint32_t *rank)
{
    const mr_table *table = &t->model.table;
    size_t total = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (int32_t id = 0; id < v->n_tokens; id++) {
            mr_str s = mr_table_text(table, id);
            if (!is_model_token(v, id) || mr_table_find(table, s.data, s.len) != id)
                continue;
            if (s.len > PIECE_MAX)
                return mr_fail(MR_EUNSUPPORTED, "%s: token %d has %zu bytes (at most %d)", v->file,
                               id, s.len, PIECE_MAX);
            total += cut_piece(table, id, rank ? rank[id] : (uint32_t)id, pass ? &t->model : NULL);
        }
        if (pass == 0)
            MR_TRY(mr_bpe_reserve(&t->model, total));
    }
    return MR_OK;
}

/* As SentencePiece's own library decodes. */
static mr_err library_steps(mr_tokenizer *t, const mr_vocab *v)
{
    mr_dec_step *s = NULL;
    bool trim = v->map && v->map->trim;
    MR_TRY(mr_decoder_step(&t->decoder, MR_DEC_PIECES, &s));
    MR_TRY(mr_decoder_literal(s, space_mark, " "));
    s->drop_first = v->add_space_prefix != 0 || trim;
    s->drop_all = trim;
    MR_TRY(mr_decoder_step(&t->decoder, MR_DEC_BYTE_FALLBACK, &s));
    s->each = true;
    t->show_unk = true;
    return MR_OK;
}

static mr_err piece_steps(mr_tokenizer *t, const mr_vocab *v, bool space)
{
    mr_dec_step *s = NULL;
    MR_TRY(mr_norm_replace(&t->norm, " ", space_mark));
    if (v->sentencepiece)
        return library_steps(t, v);
    MR_TRY(mr_decoder_step(&t->decoder, MR_DEC_REPLACE, &s));
    MR_TRY(mr_decoder_literal(s, space_mark, " "));
    MR_TRY(mr_decoder_step(&t->decoder, MR_DEC_BYTE_FALLBACK, &s));
    MR_TRY(mr_decoder_step(&t->decoder, MR_DEC_FUSE, &s));
    if (!space)
        return MR_OK;
    MR_TRY(mr_decoder_step(&t->decoder, MR_DEC_STRIP, &s));
    MR_TRY(mr_decoder_literal(s, " ", ""));
    s->start = 1;
    return MR_OK;
}

static mr_err read_llama(mr_tokenizer *t, const mr_vocab *v)
{
    if (!v->scores)
        return mr_fail(MR_EFORMAT, "%s: tokenizer.ggml.scores is missing", v->file);
    uint32_t *rank = mr_alloc(MR_MEM_OTHER, (size_t)v->n_tokens * sizeof *rank);
    if (!rank)
        return MR_ENOMEM;
    mr_err err = rank_scores(v, rank);
    if (err == MR_OK)
        err = make_merges(t, v, rank);
    mr_free(rank);
    MR_TRY(err);
    t->kind = "SentencePiece BPE";
    return piece_steps(t, v, v->add_space_prefix != 0);
}

/* The scores of SentencePiece: user-defined pieces beat all others, unknown characters lose. */
static mr_err read_unigram(mr_tokenizer *t, const mr_vocab *v)
{
    const float unk_penalty = 10;
    float low = FLT_MAX, high = FLT_MIN;
    mr_unigram *u = &t->unigram;
    size_t bytes = 0;
    if (!v->scores)
        return mr_fail(MR_EFORMAT, "%s: tokenizer.ggml.scores is missing", v->file);
    for (int32_t i = 0; i < v->n_tokens; i++) {
        bytes += v->tokens[i].len;
        if (type_of(v, i) != TYPE_NORMAL)
            continue;
        if (!isfinite(v->scores[i]))
            return mr_fail(MR_EFORMAT, "%s: score %d is not a number", v->file, i);
        low = v->scores[i] < low ? v->scores[i] : low;
        high = v->scores[i] > high ? v->scores[i] : high;
    }
    MR_TRY(mr_unigram_init(u, bytes));
    for (int32_t i = 0; i < v->n_tokens; i++) {
        mr_str s = v->tokens[i];
        if (!is_model_token(v, i) || mr_table_find(&t->model.table, s.data, s.len) != i)
            continue;
        double score =
            type_of(v, i) == TYPE_USER ? (double)((float)s.len * high) - 0.1 : (double)v->scores[i];
        MR_TRY(mr_unigram_put(u, s.data, s.len, i, score));
    }
    u->unk = (double)(low - unk_penalty);
    t->kind = "SentencePiece Unigram";
    return piece_steps(t, v, v->add_space_prefix != 0);
}

static mr_err read_gemma4(mr_tokenizer *t, const mr_vocab *v)
{
    MR_TRY(read_merges(t, v));
    MR_TRY(mr_pretok_regex(&t->pre, "gemma4", "\\n+"));
    t->kind = "BPE with byte fallback";
    return piece_steps(t, v, v->add_space_prefix > 0);
}

static mr_err read_tiktoken(mr_tokenizer *t, const mr_vocab *v, bool *add_bos)
{
    const mr_gguf_pre *pre = mr_gguf_pre_find(v->pre);
    *add_bos = false;
    MR_TRY(make_merges(t, v, NULL));
    return byte_level_steps(t, pre);
}

static void set_unknown(mr_tokenizer *t, const mr_vocab *v)
{
    t->model.byte_fallback = true;
    t->model.fuse_unk = true;
    t->model.unk = v->unk >= 0 ? v->unk : MR_UNK_NONE;
    for (int32_t i = 0; v->unk < 0 && i < v->n_tokens; i++)
        if (type_of(v, i) == TYPE_UNKNOWN)
            t->model.unk = i;
}

/* Byte tokens are no pieces, so the model's own search does not find them. */
static void set_byte_tokens(mr_tokenizer *t, const mr_vocab *v)
{
    for (int b = 0; b < 256; b++) {
        static const char hex[] = "0123456789ABCDEF";
        char name[] = {'<', '0', 'x', hex[b >> 4], hex[b & 15], '>'};
        int32_t id = mr_table_find_any(&t->model.table, name, sizeof name);
        bool byte = id >= 0 && (type_of(v, id) == TYPE_BYTE || !v->types);
        t->model.byte_id[b] = byte ? id : -1;
    }
}

/* ---- both -------------------------------------------------------------------------------- */

static mr_err add_ends(mr_tokenizer *t, const mr_vocab *v, bool bos, bool eos)
{
    if (v->add_bos >= 0)
        bos = v->add_bos;
    if (v->add_eos >= 0)
        eos = v->add_eos;
    if (bos && v->bos < 0 && v->add_bos > 0)
        return mr_fail(MR_EFORMAT, "%s: tokenizer.ggml.add_bos_token without a bos_token_id",
                       v->file);
    if (eos && v->eos < 0 && v->add_eos > 0)
        return mr_fail(MR_EFORMAT, "%s: tokenizer.ggml.add_eos_token without an eos_token_id",
                       v->file);
    if (bos && v->bos >= 0)
        MR_TRY(mr_ids_push(&t->prefix, v->bos));
    if (eos && v->eos >= 0)
        MR_TRY(mr_ids_push(&t->suffix, v->eos));
    t->bos = v->bos;
    t->eos = v->eos;
    return MR_OK;
}

static mr_err read_model(mr_tokenizer *t, const mr_vocab *v, bool *add_bos)
{
    if (has_pieces(v))
        set_unknown(t, v);
    if (is_model(v, "llama"))
        return read_llama(t, v);
    if (is_model(v, "gemma4"))
        return read_gemma4(t, v);
    if (is_model(v, "unigram"))
        return read_unigram(t, v);
    if (is_model(v, "tiktoken"))
        return read_tiktoken(t, v, add_bos);
    if (is_model(v, "gpt2"))
        return read_gpt2(t, v, add_bos);
    return mr_fail(MR_EUNSUPPORTED, "%s: tokenizer.ggml.model \"%.60s\" is not supported", v->file,
                   v->model);
}

/* User-defined tokens stand for themselves. */
static mr_err take_map(mr_tokenizer *t, const mr_vocab *v)
{
    mr_charsmap *map = mr_zalloc(MR_MEM_TOKENIZER, sizeof *map);
    mr_err err = MR_OK;
    if (!map)
        return MR_ENOMEM;
    *map = *v->map;
    memset(v->map, 0, sizeof *v->map);
    for (int32_t i = 0; !err && i < v->n_tokens; i++) {
        mr_str s = v->tokens[i];
        if (type_of(v, i) == TYPE_USER && s.len &&
            mr_table_find_any(&t->model.table, s.data, s.len) == i)
            err = mr_added_add(&map->kept, (mr_added_token){.id = i}, s.data, s.len);
    }
    if (!err)
        err = mr_added_seal(&map->kept, v->file);
    if (!err)
        return mr_norm_map(&t->norm, map);
    mr_charsmap_free(map);
    mr_free(map);
    return err;
}

static mr_err fill(mr_tokenizer *t, const mr_vocab *v)
{
    bool add_bos = true;
    MR_TRY(read_tokens(t, v));
    MR_TRY(check_special(v, "bos", v->bos));
    MR_TRY(check_special(v, "eos", v->eos));
    MR_TRY(check_special(v, "unknown", v->unk));
    MR_TRY(read_model(t, v, &add_bos));
    MR_TRY(read_whole_tokens(t, v));
    /* Last, so that whole tokens are looked for as they are. */
    if (v->map) {
        mr_norm_free(&t->norm);
        MR_TRY(take_map(t, v));
    } else if ((is_model(v, "llama") || is_model(v, "unigram")) && v->add_space_prefix != 0) {
        MR_TRY(mr_norm_prepend(&t->norm, space_mark));
    }
    MR_TRY(mr_tokenizer_seal(t, v->file));
    if (has_pieces(v))
        set_byte_tokens(t, v);
    MR_TRY(add_ends(t, v, add_bos, false));
    if (!v->chat_template)
        return MR_OK;
    return mr_tokenizer_set_template(t, v->chat_template, strlen(v->chat_template));
}

mr_err mr_tokenizer_from_vocab(mr_tokenizer **out, const mr_vocab *v)
{
    mr_tokenizer *t = NULL;
    *out = NULL;
#ifdef MR_NO_TEXT
    return mr_fail(MR_EUNSUPPORTED, "%s: this program was built without PCRE2 and utf8proc",
                   v->file);
#endif
    mr_err err = mr_tokenizer_alloc(&t);
    if (err == MR_OK)
        err = fill(t, v);
    if (err) {
        mr_tokenizer_close(t);
        return err;
    }
    *out = t;
    return MR_OK;
}
