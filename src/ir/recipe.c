/* Recipes: parsing, binding, and delivering rows.
 *
 * A row of the result is traced back to a stored row: which tensor, then the modifiers from the
 * last to the first.  :rows, :unrope and :untile only renumber; :t turns (run, column) into (row, element),
 * so a transposed piece of floats is served from one run, and a quantised one is given as its runs are
 * stored; :plus1 commutes with all of them and is applied at the end.  Stored rows are read in spans: a
 * span grows while at least half of it is wanted, so a run without a map is one read and a permuted
 * head is one too. */
#include "ir/recipe.h"
#include "base/real.h"
#include "ir/graph_internal.h"

#include <assert.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum { MAX_TEXT = 1 << 20, MAX_NAME = 512, MAX_TENSORS = 1 << 16, MAX_MODS = 4 };

typedef enum mod_kind {
    MOD_ROWS,
    MOD_UNROPE_K, /* each before its prefix, which the parser looks for in this order */
    MOD_UNROPE,
    MOD_UNTILE_K,
    MOD_UNTILE,
    MOD_T,
    MOD_PLUS1,
    MOD_NEGEXP,
    MOD_COUNT
} mod_kind;

static const struct {
    const char *name;
    int n_arg;
} mods[MOD_COUNT] = {{"rows", 3},   {"unrope_k", 1}, {"unrope", 1}, {"untile_k", 2},
                     {"untile", 2}, {"t", 1},        {"plus1", 0},  {"negexp", 0}};

typedef struct mod {
    mod_kind kind;
    int64_t arg[3];
    int64_t rows; /* after bind: rows that come out of it */
} mod;

typedef struct piece {
    const char *before, *after; /* of the number of a range; after is NULL without one */
    int low, high;
    mod mod[MAX_MODS];
    int n_mod;
    struct piece *next;
} piece;

typedef struct source {
    piece *piece;
    mr_stored t;
    mod mod[MAX_MODS];
    mr_fmt fmt;             /* of the result rows, unless they are widened */
    int64_t rows, k, first; /* result rows, their length, number of the first */
} source;

struct mr_recipe {
    const char *text;
    mr_arena *arena;
    piece *pieces;
    source *source;
    int n_sources;
    int64_t rows, k;
    mr_fmt fmt;
    bool widen;  /* rows come as f32 */
    bool joined; /* one row, the tensors' rows end to end */
    uint64_t id; /* of the binding; 0 before */
};

static mr_err __attribute__((format(printf, 2, 3))) fail(const char *text, const char *fmt, ...)
{
    char what[MR_ERR_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    return mr_fail(MR_EFORMAT, "recipe \"%.160s\": %s", text, what);
}

/* ---- parsing ---- */

static bool digits(const char **p, int64_t *out)
{
    int64_t n = 0;
    int count = 0;
    for (; **p >= '0' && **p <= '9'; (*p)++) {
        if (++count > 9)
            return false;
        n = 10 * n + (**p - '0');
    }
    *out = n;
    return count > 0;
}

static bool literal(const char **p, const char *s)
{
    size_t n = strlen(s);
    if (strncmp(*p, s, n))
        return false;
    *p += n;
    return true;
}

static mr_err parse_name(mr_recipe *r, piece *x, const char *word, size_t len)
{
    char *s = mr_arena_strndup(r->arena, word, len);
    if (!s)
        return MR_ENOMEM;
    if (len > MAX_NAME)
        return fail(r->text, "a name of over %d bytes", MAX_NAME);
    x->before = s;
    char *open = strpbrk(s, "{}");
    if (!open)
        return MR_OK;
    const char *p = open;
    int64_t low, high;
    if (!literal(&p, "{") || !digits(&p, &low) || !literal(&p, "..") || !digits(&p, &high) ||
        !literal(&p, "}") || strpbrk(p, "{}"))
        return fail(r->text, "%s holds no range {a..b}, or more than one", s);
    if (low > high || high - low >= MAX_TENSORS)
        return fail(r->text, "%s: bad range", s);
    *open = 0;
    x->after = p;
    x->low = (int)low;
    x->high = (int)high;
    return MR_OK;
}

static mr_err parse_mod(mr_recipe *r, piece *x, const char *word, size_t len)
{
    char buf[64];
    snprintf(buf, sizeof buf, "%.*s", (int)(len < 63 ? len : 63), word);
    for (int kind = 0; kind < MOD_COUNT; kind++) {
        const char *p = buf + 1;
        mod m = {.kind = (mod_kind)kind};
        if (!literal(&p, mods[kind].name))
            continue;
        bool ok = mods[kind].n_arg == 0 || literal(&p, "(");
        for (int i = 0; ok && i < mods[kind].n_arg; i++)
            ok = digits(&p, &m.arg[i]) && literal(&p, i + 1 < mods[kind].n_arg ? "," : ")");
        if (!ok || *p)
            continue;
        for (int i = 0; i < x->n_mod; i++)
            if (x->mod[i].kind == m.kind)
                return fail(r->text, "modifier :%s is given twice", mods[kind].name);
        if (m.kind == MOD_ROWS && (m.arg[2] < 1 || m.arg[1] + m.arg[2] > m.arg[0]))
            return fail(r->text, "%s keeps no rows within a period", buf);
        bool sized = m.kind != MOD_ROWS && mods[kind].n_arg > 0;
        if (sized && (m.arg[0] < 1 || (mods[kind].n_arg == 2 && m.arg[1] < 1)))
            return fail(r->text, "%s of 0", buf);
        x->mod[x->n_mod++] = m;
        return MR_OK;
    }
    return fail(r->text, "unknown modifier %s", buf);
}

/* Words are separated by blanks; "+" stands alone. */
static mr_err parse_pieces(mr_recipe *r)
{
    piece **tail = &r->pieces, *x = NULL;
    for (const char *p = r->text;;) {
        p += strspn(p, " ");
        size_t len = strcspn(p, " ");
        bool plus = len == 1 && *p == '+';
        if (!x) {
            if (!len || plus || *p == ':')
                return fail(r->text, "tensor name expected");
            x = mr_arena_alloc(r->arena, sizeof *x);
            if (!x)
                return MR_ENOMEM;
            MR_TRY(parse_name(r, x, p, len));
            *tail = x;
            tail = &x->next;
            r->n_sources += x->high - x->low + 1;
            if (r->n_sources > MAX_TENSORS)
                return fail(r->text, "over %d tensors", MAX_TENSORS);
        } else if (!len) {
            return MR_OK;
        } else if (plus) {
            x = NULL;
        } else if (*p == ':') {
            MR_TRY(parse_mod(r, x, p, len));
        } else {
            return fail(r->text, "'+' or a modifier expected before %.*s",
                        (int)(len < 60 ? len : 60), p);
        }
        p += len;
    }
}

mr_err mr_recipe_parse(mr_recipe **out, const char *text, mr_arena *arena)
{
    if (strlen(text) > MAX_TEXT)
        return fail(text, "over %d bytes", MAX_TEXT);
    mr_recipe *r = mr_arena_alloc(arena, sizeof *r);
    if (!r || !(r->text = mr_arena_strdup(arena, text)))
        return MR_ENOMEM;
    r->arena = arena;
    MR_TRY(parse_pieces(r));
    r->source = mr_arena_alloc(arena, (size_t)r->n_sources * sizeof *r->source);
    if (!r->source)
        return MR_ENOMEM;
    int n = 0;
    for (piece *x = r->pieces; x; x = x->next)
        for (int i = x->low; i <= x->high; i++)
            r->source[n++].piece = x;
    *out = r;
    return MR_OK;
}

mr_err mr_recipe_names(const mr_recipe *r, mr_err (*fn)(void *ctx, const char *name), void *ctx)
{
    char name[MAX_NAME + 16];
    for (const piece *x = r->pieces; x; x = x->next)
        for (int i = x->low; i <= x->high; i++) {
            if (x->after)
                snprintf(name, sizeof name, "%s%d%s", x->before, i, x->after);
            else
                snprintf(name, sizeof name, "%s", x->before);
            MR_TRY(fn(ctx, name));
        }
    return MR_OK;
}

/* ---- binding ---- */

typedef struct binding {
    mr_recipe *r;
    mr_lookup_fn lookup;
    void *ctx;
    int next;
} binding;

/* What modifier m makes of rows x k. */
static mr_err apply(const mr_recipe *r, const char *name, const mod *m, int64_t *rows, int64_t *k)
{
    int64_t period = m->kind == MOD_UNROPE   ? 2 * m->arg[0]
                     : m->kind == MOD_UNTILE ? m->arg[0] * m->arg[1]
                                             : m->arg[0];
    if (m->kind == MOD_PLUS1 || m->kind == MOD_NEGEXP)
        return MR_OK;
    if (m->kind == MOD_UNTILE_K || m->kind == MOD_UNROPE_K) {
        int64_t unit = m->arg[0] * (m->kind == MOD_UNTILE_K ? m->arg[1] : 2);
        if (*k % unit)
            return fail(r->text, "%s: rows of %lld are no multiple of %lld, as :%s needs", name,
                        (long long)*k, (long long)unit, mods[m->kind].name);
        return MR_OK;
    }
    if (*rows % period)
        return fail(r->text, "%s: %lld rows are not a multiple of %lld, as :%s needs", name,
                    (long long)*rows, (long long)period, mods[m->kind].name);
    if (m->kind == MOD_ROWS)
        *rows = *rows / period * m->arg[2];
    if (m->kind == MOD_T) { /* as many elements as before */
        *rows = *rows / period * *k;
        *k = period;
    }
    return MR_OK;
}

static bool has_mod(const source *s, mod_kind kind, int *at)
{
    for (*at = 0; *at < s->piece->n_mod; (*at)++)
        if (s->mod[*at].kind == kind)
            return true;
    return false;
}

/* What moves elements within rows. */
static bool has_move(const source *s, int *at)
{
    return has_mod(s, MOD_UNTILE_K, at) || has_mod(s, MOD_UNROPE_K, at);
}

static mr_err bind_one(void *ctx, const char *name)
{
    binding *b = ctx;
    mr_recipe *r = b->r;
    source *s = &r->source[b->next++];
    char fmt[32];
    MR_TRY(b->lookup(b->ctx, name, &s->t));
    mr_fmt f = s->t.fmt;
    if (!mr_dtype_is_weight(f.dtype, f.bits))
        return fail(r->text, "%s: format %s is not one of weights", name, mr_fmt_name(f, fmt));
    if (s->t.rows < 1 || s->t.k < 1 || s->t.rows > MR_MAX_DIM || s->t.k > MR_MAX_DIM ||
        s->t.rows > MR_MAX_ELEMENTS / s->t.k)
        return fail(r->text, "%s has %lld rows of %lld", name, (long long)s->t.rows,
                    (long long)s->t.k);
    bool known =
        !mr_dtype_is_grouped(f.dtype) || mr_group_known(f.dtype, f.bits, f.group, f.scale_dtype);
    if (!known || s->t.k % mr_row_unit(f.dtype, f.bits, f.group))
        return fail(r->text, "%s: rows of %lld are not whole blocks of %s", name, (long long)s->t.k,
                    mr_fmt_name(f, fmt));
    s->rows = s->t.rows;
    s->k = s->t.k;
    s->fmt = f;
    for (int i = 0; i < s->piece->n_mod; i++) {
        s->mod[i] = s->piece->mod[i];
        MR_TRY(apply(r, name, &s->mod[i], &s->rows, &s->k));
        s->mod[i].rows = s->rows;
        mod_kind kind = s->mod[i].kind;
        int64_t unit = mr_row_unit(f.dtype, f.bits, f.group);
        bool torn =
            (kind == MOD_UNTILE_K && s->mod[i].arg[1] % unit) || (kind == MOD_UNROPE_K && unit > 1);
        if (kind == MOD_T)
            s->fmt = mr_fmt_transposed(f, s->t.k);
        bool turned = kind == MOD_T && i == s->piece->n_mod - 1 && s->fmt.dtype == f.dtype;
        r->widen |= (kind == MOD_T && !turned) || kind == MOD_PLUS1 || kind == MOD_NEGEXP || torn;
    }
    int t, at, tile;
    if (has_mod(s, MOD_T, &t) && has_move(s, &at))
        return fail(r->text, "%s: :t and :%s do not go together", name, mods[s->mod[at].kind].name);
    if (has_mod(s, MOD_UNTILE_K, &tile) && has_mod(s, MOD_UNROPE_K, &at))
        return fail(r->text, "%s: :untile_k and :unrope_k do not go together", name);
    return MR_OK;
}

/* One row each, of plain floats, and several: biases to be joined. */
static bool all_vectors(const mr_recipe *r)
{
    for (int i = 0; i < r->n_sources; i++)
        if (r->source[i].t.matrix || r->source[i].t.rows != 1 || r->source[i].rows != 1 ||
            mr_dtype_is_quantised(r->source[i].t.fmt.dtype))
            return false;
    return r->n_sources > 1;
}

/* Rows of both can come together as they are. */
static bool alike(const source *a, const source *b)
{
    return mr_fmt_equal(a->fmt, b->fmt) && (!a->fmt.across || a->t.k == b->t.k);
}

static mr_err join(mr_recipe *r)
{
    const source *first = &r->source[0];
    char a[32], b[32];
    bool turned = false, unlike = false;
    int t;
    for (int i = 0; i < r->n_sources; i++) {
        turned |= has_mod(&r->source[i], MOD_T, &t);
        unlike |= !alike(&r->source[i], first);
    }
    r->widen |= turned && unlike;
    r->fmt = r->widen ? (mr_fmt){.dtype = MR_F32} : first->fmt;
    r->joined = all_vectors(r);
    r->rows = r->joined ? 1 : 0;
    r->k = r->joined ? 0 : first->k;
    for (int i = 0; i < r->n_sources; i++) {
        source *s = &r->source[i];
        if (!r->widen && !alike(s, first))
            return fail(r->text, "formats differ: %s and %s", mr_fmt_name(r->fmt, a),
                        mr_fmt_name(s->fmt, b));
        if (!r->joined && s->k != r->k)
            return fail(r->text, "rows differ in length: %lld and %lld", (long long)r->k,
                        (long long)s->k);
        s->first = r->joined ? r->k : r->rows;
        *(r->joined ? &r->k : &r->rows) += r->joined ? s->k : s->rows;
        if (r->k > MR_MAX_DIM || r->rows > MR_MAX_ELEMENTS / r->k)
            return fail(r->text, "the result is too large");
    }
    return MR_OK;
}

mr_err mr_recipe_bind(mr_recipe *r, mr_lookup_fn lookup, void *ctx)
{
    static atomic_uint_fast64_t last_id;
    binding b = {r, lookup, ctx, 0};
    r->widen = false;
    MR_TRY(mr_recipe_names(r, bind_one, &b));
    MR_TRY(join(r));
    r->id = atomic_fetch_add(&last_id, 1) + 1;
    return MR_OK;
}

int64_t mr_recipe_total(const mr_recipe *r)
{
    assert(r->id);
    return r->rows;
}

int64_t mr_recipe_k(const mr_recipe *r)
{
    assert(r->id);
    return r->k;
}

mr_fmt mr_recipe_fmt(const mr_recipe *r)
{
    assert(r->id);
    return r->fmt;
}

mr_err mr_recipe_fits(const mr_recipe *r, const mr_graph *g, int value)
{
    const mr_value *v = mr_graph_value(g, value);
    char type[MR_TYPE_TEXT], fmt[32];
    int64_t rows = 1;
    assert(r->id && v->type == MR_V_WEIGHT);
    for (int i = 0; i < v->rank - 1; i++)
        rows *= v->dim[i].n;
    if (rows != r->rows || v->dim[v->rank - 1].n != r->k || !mr_fmt_equal(v->fmt, r->fmt))
        return fail(r->text, "gives %lld rows of %lld in %s, the graph has %s", (long long)r->rows,
                    (long long)r->k, mr_fmt_name(r->fmt, fmt), mr_type_text(g, v, type));
    return MR_OK;
}

/* ---- rows ---- */

typedef struct delivery {
    const mr_recipe *r;
    mr_reader_fn read;
    void *ctx;
    mr_recipe_scratch *scratch;
} delivery;

static size_t scale_bytes(const mr_fmt *f, int64_t k)
{
    return mr_row_scale_bytes(f->dtype, f->group, f->scale_dtype, k);
}

static size_t row_bytes(const mr_fmt *f, int64_t k)
{
    return mr_row_bytes(f->dtype, f->bits, k);
}

size_t mr_stored_bytes(const mr_stored *t, int64_t n)
{
    const mr_fmt *f = &t->fmt;
    return (size_t)n *
           (row_bytes(f, t->k) + mr_row_side_bytes(f->dtype, f->group, f->scale_dtype, t->k));
}

static mr_err grow(mr_recipe_scratch *s, int i, size_t bytes)
{
    if (bytes <= s->cap[i])
        return MR_OK;
    void *p = mr_alloc(MR_MEM_WEIGHTS, bytes);
    if (!p)
        return MR_ENOMEM;
    mr_free(s->buf[i]);
    s->buf[i] = p;
    s->cap[i] = bytes;
    return MR_OK;
}

void mr_recipe_scratch_free(mr_recipe_scratch *s)
{
    for (int i = 0; i < 3; i++)
        mr_free(s->buf[i]);
    *s = (mr_recipe_scratch){0};
}

/* The row before modifiers [from, to) that becomes `row` after them; none of them is :t. */
static int64_t trace(const source *s, int from, int to, int64_t row)
{
    for (int i = to - 1; i >= from; i--) {
        const mod *m = &s->mod[i];
        if (m->kind == MOD_ROWS)
            row = row / m->arg[2] * m->arg[0] + m->arg[1] + row % m->arg[2];
        if (m->kind == MOD_UNROPE) {
            int64_t d = m->rows / m->arg[0], in = row % d;
            row = row - in + 2 * (in % (d / 2)) + in / (d / 2);
        }
        if (m->kind == MOD_UNTILE) {
            int64_t heads = m->arg[0], d = m->arg[1], tiles = m->rows / (heads * d), head = row / d;
            row = (head % tiles * heads + head / tiles) * d + row % d;
        }
    }
    return row;
}

/* Stored rows of a source, read as a span into buf[1]. */
typedef struct span {
    int64_t low, high; /* stored rows [low, high) */
    int64_t count;     /* rows wanted of it, in the order asked for */
} span;

/* The longest span for rows [row, end) of which at least half is wanted. */
static span next_span(const source *s, int to, int64_t row, int64_t end)
{
    int64_t at = trace(s, 0, to, row);
    span x = {at, at + 1, 1};
    for (row++; row < end; row++) {
        at = trace(s, 0, to, row);
        int64_t low = at < x.low ? at : x.low, high = at >= x.high ? at + 1 : x.high;
        if (high - low > 2 * (x.count + 1))
            break;
        x = (span){low, high, x.count + 1};
    }
    return x;
}

static mr_err read_span(const delivery *d, const source *s, span x, mr_rows *in)
{
    MR_TRY(grow(d->scratch, 1, mr_stored_bytes(&s->t, x.high - x.low)));
    return d->read(d->ctx, &s->t, x.low, x.high - x.low, d->scratch->buf[1], in);
}

/* Moves parts of a row of `bytes` to their places: of data, scales or biases alike. */
static void move_row(const mod *m, int64_t k, void *dst, const void *src, size_t bytes)
{
    bool rope = m->kind == MOD_UNROPE_K;
    int64_t heads = m->arg[0], n = rope ? k : k / m->arg[1], each = n / heads;
    size_t part = bytes / (size_t)n;
    for (int64_t i = 0; i < n; i++) {
        int64_t in = i % each; /* of a head of rope; or the tile */
        int64_t from =
            rope ? i - in + 2 * (in % (each / 2)) + in / (each / 2) : in * heads + i / each;
        memcpy((char *)dst + (size_t)i * part, (const char *)src + (size_t)from * part, part);
    }
}

static void add_one(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] += 1.0f;
}

/* Rows [row, row+n) of a source without :t as f32. */
static mr_err rows_f32(const delivery *d, const source *s, int to, int64_t row, int64_t n,
                       float *dst)
{
    int at;
    bool moved = has_move(s, &at);
    if (moved) { /* which has no :t, so its run's place is free */
        d->scratch->run_of = 0;
        MR_TRY(grow(d->scratch, 2, (size_t)s->t.k * sizeof *dst));
    }
    for (int64_t end = row + n; row < end;) {
        mr_rows in;
        span x = next_span(s, to, row, end);
        MR_TRY(read_span(d, s, x, &in));
        for (int64_t i = 0; i < x.count; i++, dst += s->t.k) {
            mr_dequant_row(&in, trace(s, 0, to, row + i) - x.low, moved ? d->scratch->buf[2] : dst);
            if (moved)
                move_row(&s->mod[at], s->t.k, dst, d->scratch->buf[2],
                         (size_t)s->t.k * sizeof *dst);
        }
        row += x.count;
    }
    return MR_OK;
}

static void copy_row(const source *s, void *dst, const void *src, size_t bytes)
{
    int at;
    if (has_move(s, &at))
        move_row(&s->mod[at], s->k, dst, src, bytes);
    else
        memcpy(dst, src, bytes);
}

/* Rows [row, row+n) before modifier `to` as stored, to rows [at, ..) of the result. */
static mr_err rows_stored(const delivery *d, const source *s, int to, int64_t row, int64_t n,
                          const mr_rows *out, int64_t at)
{
    size_t data = row_bytes(&s->t.fmt, s->t.k), scale = scale_bytes(&s->t.fmt, s->t.k);
    for (int64_t end = row + n; row < end;) {
        mr_rows in;
        span x = next_span(s, to, row, end);
        MR_TRY(read_span(d, s, x, &in));
        for (int64_t i = 0; i < x.count; i++, at++) {
            size_t from = (size_t)(trace(s, 0, to, row + i) - x.low), dst = (size_t)at;
            copy_row(s, (char *)out->data + dst * data, (const char *)in.data + from * data, data);
            if (scale)
                copy_row(s, (char *)out->scales + dst * scale,
                         (const char *)in.scales + from * scale, scale);
            if (out->biases)
                copy_row(s, (char *)out->biases + dst * scale,
                         (const char *)in.biases + from * scale, scale);
        }
        row += x.count;
    }
    return MR_OK;
}

/* The run of L rows before :t, as f32 or as stored, in buf[2]. */
static mr_err fetch_run(const delivery *d, const source *s, int t, int64_t run, const char **out)
{
    mr_recipe_scratch *c = d->scratch;
    int64_t length = s->mod[t].arg[0], index = s - d->r->source;
    if (c->run_of != d->r->id || c->run_source != index || c->run != run) {
        c->run_of = 0;
        MR_TRY(grow(c, 2, (size_t)length * row_bytes(&d->r->fmt, s->t.k)));
        mr_rows rows = {.data = c->buf[2]};
        if (d->r->widen)
            MR_TRY(rows_f32(d, s, t, run * length, length, c->buf[2]));
        else
            MR_TRY(rows_stored(d, s, t, run * length, length, &rows, 0));
        c->run_of = d->r->id;
        c->run_source = index;
        c->run = run;
    }
    *out = c->buf[2];
    return MR_OK;
}

/* Floats of the result's format. */
static mr_err rows_transposed(const delivery *d, const source *s, int t, int64_t row, int64_t n,
                              char *dst)
{
    int64_t length = s->mod[t].arg[0], k = s->t.k;
    size_t size = (size_t)mr_dtype_block_bytes(d->r->fmt.dtype);
    for (int64_t i = 0; i < n; i++) {
        const char *run;
        int64_t at = trace(s, t + 1, s->piece->n_mod, row + i);
        MR_TRY(fetch_run(d, s, t, at / k, &run));
        for (int64_t l = 0; l < length; l++, dst += size)
            memcpy(dst, run + (size_t)(l * k + at % k) * size, size);
    }
    return MR_OK;
}

/* Rows [row, row+n) of a source as f32, all modifiers applied. */
static mr_err source_f32(const delivery *d, const source *s, int64_t row, int64_t n, float *dst)
{
    int t, at;
    if (has_mod(s, MOD_T, &t))
        MR_TRY(rows_transposed(d, s, t, row, n, (char *)dst));
    else
        MR_TRY(rows_f32(d, s, s->piece->n_mod, row, n, dst));
    if (has_mod(s, MOD_PLUS1, &at))
        add_one(dst, n * s->k);
    for (int64_t i = 0; has_mod(s, MOD_NEGEXP, &at) && i < n * s->k; i++)
        dst[i] = (float)-mr_exp(dst[i]);
    return MR_OK;
}

/* Rows [row, row+n) of a source in its format, to rows [at, ..) of the result. */
static mr_err source_rows(const delivery *d, const source *s, int64_t row, int64_t n,
                          const mr_rows *out, int64_t at)
{
    int t;
    if (has_mod(s, MOD_T, &t))
        return rows_transposed(d, s, t, row, n,
                               (char *)out->data + (size_t)at * row_bytes(&s->fmt, s->k));
    return rows_stored(d, s, s->piece->n_mod, row, n, out, at);
}

static mr_err deliver_joined(const delivery *d, const mr_rows *out)
{
    const mr_recipe *r = d->r;
    size_t size = (size_t)mr_dtype_block_bytes(r->fmt.dtype);
    for (int i = 0; i < r->n_sources; i++) {
        const source *s = &r->source[i];
        mr_rows part = *out;
        part.data = (const char *)out->data + (size_t)s->first * size;
        if (r->widen)
            MR_TRY(source_f32(d, s, 0, 1, (float *)part.data));
        else
            MR_TRY(source_rows(d, s, 0, 1, &part, 0));
    }
    return MR_OK;
}

/* The source that holds a row: sources lie in order of `first`. */
static int find_source(const mr_recipe *r, int64_t row)
{
    int low = 0, high = r->n_sources - 1;
    while (low < high) {
        int mid = (low + high + 1) / 2;
        if (r->source[mid].first <= row)
            low = mid;
        else
            high = mid - 1;
    }
    return low;
}

static mr_err deliver(const delivery *d, int64_t row0, int64_t n, const mr_rows *out)
{
    const mr_recipe *r = d->r;
    for (int64_t at = 0; at < n;) {
        const source *s = &r->source[find_source(r, row0 + at)];
        int64_t row = row0 + at - s->first, count = s->rows - row;
        if (count > n - at)
            count = n - at;
        if (r->widen)
            MR_TRY(source_f32(d, s, row, count, (float *)out->data + at * r->k));
        else
            MR_TRY(source_rows(d, s, row, count, out, at));
        at += count;
    }
    return MR_OK;
}

/* The runs [run0, run0+runs) of rows that are across. */
static mr_err deliver_runs(const delivery *d, int64_t run0, int64_t runs, const mr_rows *out)
{
    for (int64_t i = 0; i < runs; i++) {
        const source *s = &d->r->source[find_source(d->r, (run0 + i) * out->across)];
        int64_t row = (run0 + i - s->first / out->across) * out->k;
        MR_TRY(rows_stored(d, s, s->piece->n_mod - 1, row, out->k, out, i * out->k));
    }
    return MR_OK;
}

mr_err mr_recipe_rows(const mr_recipe *r, int64_t row0, int64_t n, mr_reader_fn read, void *ctx,
                      mr_recipe_scratch *scratch, mr_rows *out)
{
    assert(r->id && row0 >= 0 && n >= 0 && n <= r->rows - row0);
    delivery d = {r, read, ctx, scratch};
    /* what is stored: the rows, or the runs that they are columns of */
    int64_t across = r->fmt.across ? r->source[0].t.k : 0, first = across ? row0 % across : 0,
            runs = across ? (first + n + across - 1) / across : 0;
    int64_t rows = across ? runs * r->k : n, k = across ? across : r->k;
    size_t data = (size_t)rows * row_bytes(&r->fmt, k),
           scale = (size_t)rows * scale_bytes(&r->fmt, k);
    MR_TRY(grow(scratch, 0, data + 2 * scale));
    const source *s = &r->source[find_source(r, row0)];
    /* stored rows as they are, of one tensor: the reader's own answer will do */
    if (n && !r->widen && !r->joined && s->piece->n_mod == 0 && row0 + n <= s->first + s->rows)
        return read(ctx, &s->t, row0 - s->first, n, scratch->buf[0], out);

    const char *base = scratch->buf[0];
    *out = (mr_rows){.dtype = r->fmt.dtype,
                     .bits = r->fmt.bits,
                     .group = r->fmt.group,
                     .scale_dtype = r->fmt.scale_dtype,
                     .n = n,
                     .k = r->k,
                     .data = base,
                     .across = across,
                     .first = first};
    if (scale)
        out->scales = base + data;
    if (r->fmt.dtype == MR_AFFINE)
        out->biases = base + data + scale;
    if (r->joined)
        return n ? deliver_joined(&d, out) : MR_OK;
    if (across)
        return deliver_runs(&d, row0 / across, n ? runs : 0, out);
    return deliver(&d, row0, n, out);
}
