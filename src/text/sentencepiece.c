/* tokenizer.model: SentencePiece's protocol buffer, read by hand.
 *
 * Of ModelProto the pieces (1), trainer_spec (2) and normalizer_spec (3) count.  BPE and Unigram
 * models are known; others are refused by name.  Where the normaliser does more than mark spaces (as
 * those of Gemma and Llama do) it becomes a character map.  The pieces then become a plain vocabulary
 * (vocab.c).  User-defined pieces are looked for in the text whose spaces are marked, as the library
 * does; control pieces in the raw text.
 */
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "text/pieces.h"
#include "text/read.h"
#include "text/tokenizer_parts.h"

enum { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER, TYPE_UNUSED, TYPE_BYTE };
enum { MODEL_UNIGRAM = 1, MODEL_BPE, MODEL_WORD, MODEL_CHAR };

/* ---- the wire format --------------------------------------------------------------------- */

typedef struct message {
    const char *file;
    const uint8_t *base, *p, *end;
} message;

typedef struct field {
    uint64_t number, value; /* value: of a varint or a fixed number */
    const uint8_t *data;    /* of a string or message */
    size_t len;
    int type; /* 0 varint, 1 fixed 64, 2 bytes, 5 fixed 32 */
} field;

static mr_err wire_fail(const message *m, const char *why)
{
    return mr_fail(MR_EFORMAT, "%s: byte %td: %s", m->file, m->p - m->base, why);
}

static mr_err read_varint(message *m, uint64_t *out)
{
    *out = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        if (m->p == m->end)
            return wire_fail(m, "the file ends within a number");
        uint8_t b = *m->p++;
        *out |= (uint64_t)(b & 0x7f) << shift;
        if (!(b & 0x80))
            return MR_OK;
    }
    return wire_fail(m, "a number has more than 64 bits");
}

static mr_err read_fixed(message *m, int bytes, uint64_t *out)
{
    *out = 0;
    if (m->end - m->p < bytes)
        return wire_fail(m, "the file ends within a number");
    for (int i = 0; i < bytes; i++)
        *out |= (uint64_t)m->p[i] << (8 * i);
    m->p += bytes;
    return MR_OK;
}

static mr_err read_field(message *m, field *f)
{
    uint64_t tag, len;
    MR_TRY(read_varint(m, &tag));
    *f = (field){.number = tag >> 3, .type = (int)(tag & 7)};
    switch (f->type) {
    case 0:
        return read_varint(m, &f->value);
    case 1:
        return read_fixed(m, 8, &f->value);
    case 5:
        return read_fixed(m, 4, &f->value);
    case 2:
        MR_TRY(read_varint(m, &len));
        if (len > (uint64_t)(m->end - m->p))
            return wire_fail(m, "a field passes the end");
        f->data = m->p;
        f->len = (size_t)len;
        m->p += len;
        return MR_OK;
    default:
        return wire_fail(m, "is no SentencePiece model");
    }
}

static message inside(const message *m, const field *f)
{
    return (message){m->file, m->base, f->data, f->data + f->len};
}

/* ---- the model --------------------------------------------------------------------------- */

typedef struct reader {
    const mr_tokenizer_source *source;
    mr_str *tokens;
    float *scores;
    int32_t *types;
    size_t n, cap[3];
    uint64_t model_type;
    int32_t unk, bos, eos;
    bool prefix, extra_spaces, escape, suffix;
    mr_charsmap map;
} reader;

static mr_err add_piece(reader *r, message m)
{
    mr_str text = {"", 0};
    float score = 0;
    uint64_t type = TYPE_NORMAL;
    while (m.p < m.end) {
        field f;
        MR_TRY(read_field(&m, &f));
        if (f.number == 1 && f.type == 2)
            text = (mr_str){(const char *)f.data, f.len};
        if (f.number == 2 && f.type == 5) {
            uint32_t bits = (uint32_t)f.value;
            memcpy(&score, &bits, sizeof score);
        }
        if (f.number == 3 && f.type == 0)
            type = f.value;
    }
    if (type < TYPE_NORMAL || type > TYPE_BYTE)
        return mr_fail(MR_EFORMAT, "%s: piece %zu has an unknown type", m.file, r->n);
    if (r->n >= MR_TOKEN_ID_MAX)
        return mr_fail(MR_ELIMIT, "%s: too many pieces", m.file);
    MR_TRY(mr_grow((void **)&r->tokens, &r->cap[0], r->n + 1, sizeof *r->tokens));
    MR_TRY(mr_grow((void **)&r->scores, &r->cap[1], r->n + 1, sizeof *r->scores));
    MR_TRY(mr_grow((void **)&r->types, &r->cap[2], r->n + 1, sizeof *r->types));
    r->tokens[r->n] = text;
    r->scores[r->n] = score;
    r->types[r->n++] = (int32_t)type;
    return MR_OK;
}

static mr_err read_trainer(reader *r, message m)
{
    while (m.p < m.end) {
        field f;
        MR_TRY(read_field(&m, &f));
        if (f.type != 0)
            continue;
        if (f.number == 3)
            r->model_type = f.value;
        if (f.number == 24)
            r->suffix = f.value != 0;
        if (f.number == 40)
            r->unk = (int32_t)f.value;
        if (f.number == 41)
            r->bos = (int32_t)f.value;
        if (f.number == 42)
            r->eos = (int32_t)f.value;
    }
    return MR_OK;
}

static mr_err read_normalizer(reader *r, message m)
{
    while (m.p < m.end) {
        field f;
        MR_TRY(read_field(&m, &f));
        if (f.number == 2 && f.type == 2 && f.len) {
            mr_charsmap_free(&r->map);
            MR_TRY(mr_charsmap_read(&r->map, m.file, (const char *)f.data, f.len));
        }
        if (f.number == 3 && f.type == 0)
            r->prefix = f.value != 0;
        if (f.number == 4 && f.type == 0)
            r->extra_spaces = f.value != 0;
        if (f.number == 5 && f.type == 0)
            r->escape = f.value != 0;
    }
    return MR_OK;
}

static mr_err read_proto(reader *r)
{
    const uint8_t *p = (const uint8_t *)r->source->text;
    message m = {r->source->file, p, p, p + r->source->len};
    while (m.p < m.end) {
        field f;
        MR_TRY(read_field(&m, &f));
        if (f.type != 2)
            continue;
        if (f.number == 1)
            MR_TRY(add_piece(r, inside(&m, &f)));
        if (f.number == 2)
            MR_TRY(read_trainer(r, inside(&m, &f)));
        if (f.number == 3)
            MR_TRY(read_normalizer(r, inside(&m, &f)));
    }
    return r->n ? MR_OK : mr_fail(MR_EFORMAT, "%s: holds no pieces", m.file);
}

static mr_err refuse_unknown(const reader *r)
{
    static const char *kinds[] = {"", "unigram", "bpe", "word", "char"};
    const char *file = r->source->file;
    if (r->model_type != MODEL_BPE && r->model_type != MODEL_UNIGRAM)
        return mr_fail(MR_EUNSUPPORTED, "%s: a SentencePiece model of type %s is not supported",
                       file, r->model_type <= MODEL_CHAR ? kinds[r->model_type] : "unknown");
    return MR_OK;
}

/* A control piece's id; published models that have no such piece say -1. */
static int32_t control_id(const reader *r, int32_t id)
{
    return id >= 0 && (size_t)id < r->n ? id : -1;
}

static mr_err make(reader *r, mr_tokenizer **out)
{
    mr_vocab v = {.file = r->source->file,
                  .model = r->model_type == MODEL_BPE ? "llama" : "unigram",
                  .n_tokens = (int32_t)r->n,
                  .tokens = r->tokens,
                  .scores = r->scores,
                  .types = r->types,
                  .n_merges = -1,
                  .bos = control_id(r, r->bos),
                  .eos = control_id(r, r->eos),
                  .unk = control_id(r, r->unk),
                  .add_eos = -1,
                  .add_space_prefix = r->prefix,
                  .sentencepiece = true};
    if (r->map.unit || r->extra_spaces || !r->escape || r->suffix) {
        r->map.prefix = r->prefix;
        r->map.suffix = r->suffix;
        r->map.trim = r->extra_spaces;
        r->map.mark = r->escape;
        v.map = &r->map;
    }
    MR_TRY(mr_tokenizer_config_flag(r->source, "add_bos_token", &v.add_bos));
    MR_TRY(mr_tokenizer_from_vocab(out, &v));
    mr_err err = mr_tokenizer_config(*out, r->source);
    if (err) {
        mr_tokenizer_close(*out);
        *out = NULL;
    }
    return err;
}

mr_err mr_sentencepiece_parse(mr_tokenizer **out, const mr_tokenizer_source *s)
{
    /* The defaults of sentencepiece_model.proto. */
    reader r = {.source = s,
                .model_type = MODEL_UNIGRAM,
                .bos = 1,
                .eos = 2,
                .prefix = true,
                .extra_spaces = true,
                .escape = true};
    *out = NULL;
    mr_err err = read_proto(&r);
    if (!err)
        err = refuse_unknown(&r);
    if (!err)
        err = make(&r, out);
    mr_charsmap_free(&r.map);
    mr_free(r.tokens);
    mr_free(r.scores);
    mr_free(r.types);
    return err;
}
