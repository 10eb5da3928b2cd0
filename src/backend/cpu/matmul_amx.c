/* Many rows on int8 by AMX: sixteen prepared rows meet 64 outputs.
 *
 * Why:    a tile product does 16,384 multiply-adds in 16 cycles, where dots take 128.  What then counts is
 *         all else: sums leave the tiles through memory only, and each needs a conversion, a product by
 *         2^e and an FMA.  So rows are arranged once per block, with what each group's end needs side by
 *         side, and a group's sums are stored four products after theirs began: earlier a store would
 *         wait.
 * How:    per block of k: weights as bytes less `zero`, or, of groups of 32, as bf16 (see
 *         matmul_floats_amx.h), scales as f32; then for each sixteen rows the tile products, what slots
 *         add (a list: no branch per row), and the ends of the groups, 16 outputs at a time with their
 *         sums in registers.  17 to 24 rows (of a head, 6 to 8 in three parts) are a sixteen and a half
 *         one, which load weights once.
 * Bits:   those of tile_i8 (docs/numerics.md): sums are exact, (float)(I << e) is (float)I * 2^e.
 */
#include "backend/cpu/lanes_avx512.h"

#include "backend/cpu/matmul_core.h"
#include "backend/cpu/matmul_numbers_lanes.h"
#include "backend/cpu/tiles_amx.h"

enum {
    BLOCK_GROUPS = 4,              /* more would not stay in the L1 cache */
    BYTE_GROUPS = 3,               /* of 64 */
    BOTH_GROUPS = 1,               /* of a block that sixteen rows and a half meet */
    TWO_GROUPS = BLOCK_GROUPS / 2, /* of one whose weights are in two tiles */
    HALF = MR_SIXTEEN / 2,
    FEW = 32, /* rows that wait for weights, and ask for them as one does */
    GROUP_LINES = 64 * MR_TILE_OUT
};

/* The slot of a row: its high parts, -zero times their sum, where the row begins in a tile of sums, in
 * bytes, the quad, and e. */
typedef struct sixteen_slot {
    int32_t r, start;
    uint16_t sum;
    uint8_t quad, e;
} sixteen_slot;

/* A group of sixteen rows; then 64 bytes for each row: of groups of 64 the values n, and slots with an r
 * other than 0 are listed; of groups of 32 the values v * 2^e in bf16, and slots that are none are listed
 * and have n.  Rows that are not there are zeros. */
typedef struct sixteen {
    float a[MR_SIXTEEN], power[MR_SIXTEEN]; /* A, 2^e; of two runs their sums, times 2^e */
    int32_t slots;
    sixteen_slot slot[MR_SIXTEEN + 1]; /* the last is never listed */
    uint8_t pad[48];
} sixteen;
_Static_assert(sizeof(sixteen) % 64 == 0, "values lie in whole cache lines");

enum { GROUP_BYTES = sizeof(sixteen) + MR_SIXTEEN * 64 };

static size_t sixteen_bytes(const mr_qform *f)
{
    return (size_t)(f->k / f->group) * GROUP_BYTES;
}

static int slot_sum(int32_t r)
{
    return (int8_t)r + (int8_t)(r >> 8) + (int8_t)(r >> 16) + (int8_t)(r >> 24);
}

/* Without branches that nothing foresees: half of all slots may have an r. */
static void arrange_row(const mr_qform *f, const uint8_t *row, int r, uint8_t *to)
{
    for (int64_t i = 0; i < f->k / f->group; i++, row += f->step, to += GROUP_BYTES) {
        sixteen *s = (sixteen *)(void *)to;
        mr_qgroup g;
        memcpy(&g, row, sizeof g);
        s->a[r] = f->less ? 0.0f : g.u.a;
        s->power[r] = (float)(1 << g.e);
        memcpy(to + sizeof *s + 64 * r, row + sizeof g, 64);
        s->slot[s->slots] = (sixteen_slot){g.r, f->start_by * slot_sum(g.r), (uint16_t)(r * 64),
                                           (uint8_t)g.p, (uint8_t)g.e};
        s->slots += g.r != 0;
    }
}

/* ---- weights ------------------------------------------------------------------------------- */

typedef uint8_t group_lines[GROUP_LINES];

/* Of a block of k, per group: 16 lines of quads of bytes less zero, or of pairs of bf16 (256 bytes each);
 * scales and biases.  The rest is of groups of 32: see matmul_floats_amx.h. */
typedef struct block_weights {
    group_lines w[BLOCK_GROUPS] __attribute__((aligned(64)));
    float s[BLOCK_GROUPS][MR_TILE_OUT], b[BLOCK_GROUPS][MR_TILE_OUT];
    float sub[BLOCK_GROUPS][2][MR_TILE_OUT], min[BLOCK_GROUPS][2][MR_TILE_OUT];
    const uint8_t *codes[BLOCK_GROUPS];
    __m512i nibbles; /* bytes that they stand for */
} block_weights;

static void widen_scales(const mr_layout *l, const uint8_t *after, float *s, float *b)
{
    const size_t size = l->scale_dtype == MR_F32 ? 4 : 2;
    for (int v = 0; v < 4; v++) {
        v16f_store(s + 16 * v, load_numbers(after + 16 * size * (size_t)v, l->scale_dtype));
        if (l->bias)
            v16f_store(b + 16 * v,
                       load_numbers(after + 16 * size * (size_t)(v + 4), l->scale_dtype));
    }
}

/* Lines of nibbles, or of bytes, in the order of U8. */
static void put_nibbles(const uint8_t *from, size_t bytes, __m512i zero, uint8_t *to)
{
    const __m512i low = _mm512_set1_epi8(15);
    for (size_t i = 0; i < bytes; i += 256, to += 512)
        for (size_t v = 0; v < 256; v += 64) {
            const __m512i line = _mm512_loadu_si512(from + i + v);
            const __m512i a = _mm512_and_si512(line, low),
                          b = _mm512_and_si512(_mm512_srli_epi16(line, 4), low);
            _mm512_store_si512(to + v, _mm512_sub_epi8(a, zero));
            _mm512_store_si512(to + v + 256, _mm512_sub_epi8(b, zero));
        }
}

static void put_bytes(const uint8_t *from, size_t bytes, __m512i zero, uint8_t *to)
{
    for (size_t i = 0; i < bytes; i += 64)
        _mm512_store_si512(to + i, _mm512_sub_epi8(_mm512_loadu_si512(from + i), zero));
}

/* n groups from the column's `group` on. */
static void take_weights(const mr_column *c, const mr_qform *f, int64_t group, int n,
                         block_weights *to)
{
    const mr_layout *l = c->layout;
    const int per_unit = l->k_unit / f->group;
    const size_t lines = c->lines / (size_t)per_unit;
    const __m512i zero = _mm512_set1_epi8((char)-f->start_by);
    for (int i = 0; i < n; i++, group++) {
        const uint8_t *unit = c->data + (size_t)(group / per_unit) * c->unit;
        const uint8_t *from = unit + (size_t)(group % per_unit) * lines;
        widen_scales(l, unit + c->lines, to->s[i], to->b[i]);
        (l->kind == MR_PACK_U4 ? put_nibbles : put_bytes)(from, lines, zero, to->w[i]);
    }
}

/* ---- tiles --------------------------------------------------------------------------------- */

typedef int32_t tile_sums[MR_SIXTEEN][16]; /* [row][output]; of groups of 32 floats */

/* 0..3 sums of 16 rows by 16 outputs; 4 values of rows; 6, 7 quads of weights. */
static void configure(void)
{
    tile_config c = {.palette = 1};
    for (int t = 0; t < 8; t++)
        TILE_SHAPE(c, t, MR_SIXTEEN, 64);
    tile_configure(&c);
}

/* Sums of `groups` groups and 64 outputs: kind is that of the dots, to which `more` can add some.  Weights
 * less zero have a sign. */
#define SUMS(name, kind, more)                                                                     \
    static void name(const uint8_t *rows, const group_lines *w, int groups, tile_sums(*sums)[4])   \
    {                                                                                              \
        const size_t row = 64, quad = 256;                                                         \
        for (int g = 0; g < groups; g++, rows += GROUP_BYTES) {                                    \
            TILE_LOAD(4, rows + sizeof(sixteen), row);                                             \
            NEXT_SUMS(kind, more, 0, 6)                                                            \
            NEXT_SUMS(kind, more, 1, 7)                                                            \
            NEXT_SUMS(kind, more, 2, 6)                                                            \
            NEXT_SUMS(kind, more, 3, 7)                                                            \
        }                                                                                          \
        TILE_STORE(0, sums[groups - 1][0], row);                                                   \
        TILE_STORE(1, sums[groups - 1][1], row);                                                   \
        TILE_STORE(2, sums[groups - 1][2], row);                                                   \
        TILE_STORE(3, sums[groups - 1][3], row);                                                   \
    }
#define NEXT_SUMS(kind, more, v, t)                                                                \
    if (g > 0)                                                                                     \
        TILE_STORE(v, sums[g - 1][v], row);                                                        \
    TILE_ZERO(v);                                                                                  \
    TILE_LOAD(t, w[g] + 64 * (v), quad);                                                           \
    TILE_DOTS(kind, v, 4, t);                                                                      \
    more(v)
#define NO_MORE(v)
SUMS(sums_signed, bssd, NO_MORE)
SUMS(sums_unsigned, bsud, NO_MORE)

/* The same of sixteen rows and a half, for which weights are loaded once: 0, 1 and 4 are of the sixteen,
 * 2, 3 and 5 of the half. */
static void configure_both(void)
{
    tile_config c = {.palette = 1};
    for (int t = 0; t < 8; t++)
        TILE_SHAPE(c, t, t == 2 || t == 3 || t == 5 ? HALF : MR_SIXTEEN, 64);
    tile_configure(&c);
}

#define BOTH_SUMS(name, kind)                                                                      \
    static void name(const uint8_t *rows, const uint8_t *half, const group_lines *w, int groups,   \
                     tile_sums(*sums)[4], tile_sums(*halves)[4])                                   \
    {                                                                                              \
        const size_t row = 64, quad = 256;                                                         \
        for (int g = 0; g < groups; g++, rows += GROUP_BYTES, half += GROUP_BYTES) {               \
            TILE_LOAD(4, rows + sizeof(sixteen), row);                                             \
            TILE_LOAD(5, half + sizeof(sixteen), row);                                             \
            NEXT_BOTH(kind, 0, 0, 2, 6, g - 1, 2)                                                  \
            NEXT_BOTH(kind, 1, 1, 3, 7, g - 1, 3)                                                  \
            NEXT_BOTH(kind, 2, 0, 2, 6, g, 0) NEXT_BOTH(kind, 3, 1, 3, 7, g, 1)                    \
        }                                                                                          \
        TILE_STORE(0, sums[groups - 1][2], row);                                                   \
        TILE_STORE(2, halves[groups - 1][2], row);                                                 \
        TILE_STORE(1, sums[groups - 1][3], row);                                                   \
        TILE_STORE(3, halves[groups - 1][3], row);                                                 \
    }
#define NEXT_BOTH(kind, v, s, h, t, before, o)                                                     \
    if ((before) >= 0) {                                                                           \
        TILE_STORE(s, sums[before][o], row);                                                       \
        TILE_STORE(h, halves[before][o], row);                                                     \
    }                                                                                              \
    TILE_ZERO(s);                                                                                  \
    TILE_ZERO(h);                                                                                  \
    TILE_LOAD(t, w[g] + 64 * (v), quad);                                                           \
    TILE_DOTS(kind, s, 4, t);                                                                      \
    TILE_DOTS(kind, h, 5, t);
BOTH_SUMS(both_signed, bssd)
BOTH_SUMS(both_unsigned, bsud)

/* What the listed slots' high parts add: 128 times their sums. */
static void add_slots(const sixteen *g, const uint8_t *w, __m512i zero, tile_sums *sums)
{
    for (int i = 0; i < g->slots; i++) {
        const sixteen_slot *s = &g->slot[i];
        const __m512i r = _mm512_set1_epi32(s->r), start = _mm512_set1_epi32(s->start);
        LANES_UNROLL
        for (int v = 0; v < 4; v++) {
            int32_t *sum = sums[v][0] + s->sum / 4;
            __m512i codes = _mm512_add_epi8(_mm512_load_si512(w + 256 * s->quad + 64 * v), zero);
            __m512i high = _mm512_slli_epi32(_mm512_dpbusd_epi32(start, codes, r), 7);
            _mm512_store_si512(sum, _mm512_add_epi32(_mm512_load_si512(sum), high));
        }
    }
}

/* Of n rows and 16 outputs from o on: y = fma(b, A, y), then y = fma(s, I * 2^e, y), group after group. */
LANES_INLINE void end_groups(const uint8_t *rows, int n, const block_weights *w, int groups,
                             bool bias, int o, tile_sums (*sums)[4], float *out)
{
    __m512 y[MR_SIXTEEN];
    out += o;
    LANES_UNROLL
    for (int r = 0; r < n; r++)
        y[r] = _mm512_loadu_ps(out + r * MR_TILE_OUT);
    for (int i = 0; i < groups; i++, rows += GROUP_BYTES) {
        const sixteen *g = (const sixteen *)(const void *)rows;
        const __m512 s = _mm512_loadu_ps(w->s[i] + o), b = _mm512_loadu_ps(w->b[i] + o);
        LANES_UNROLL
        for (int r = 0; r < n; r++) {
            __m512 sum = _mm512_cvtepi32_ps(_mm512_load_si512(sums[i][o / 16][r]));
            if (bias)
                y[r] = _mm512_fmadd_ps(b, _mm512_set1_ps(g->a[r]), y[r]);
            y[r] = _mm512_fmadd_ps(s, _mm512_mul_ps(sum, _mm512_set1_ps(g->power[r])), y[r]);
        }
    }
    LANES_UNROLL
    for (int r = 0; r < n; r++)
        _mm512_storeu_ps(out + r * MR_TILE_OUT, y[r]);
}

/* Lines that will be unpacked later: so many are asked for with each end. */
typedef struct asks {
    const uint8_t *from;
    size_t lines;
} asks;

LANES_INLINE void ask_next(asks *a)
{
    for (size_t i = 0; i < a->lines; i++, a->from += 64)
        _mm_prefetch(a->from, _MM_HINT_T1);
}

/* What becomes of the sums of n rows. */
LANES_INLINE void end_rows(const uint8_t *rows, int n, const mr_qform *f, const block_weights *w,
                           int groups, bool bias, tile_sums (*sums)[4], asks *a, float *out)
{
    const __m512i zero = _mm512_set1_epi8((char)-f->start_by);
    for (int g = 0; g < groups; g++)
        add_slots((const sixteen *)(const void *)(rows + g * GROUP_BYTES), w->w[g], zero, sums[g]);
    for (int o = 0; o < MR_TILE_OUT; o += 16) {
        ask_next(a);
        if (bias)
            end_groups(rows, n, w, groups, true, o, sums, out);
        else
            end_groups(rows, n, w, groups, false, o, sums, out);
    }
}

/* A block of k of sixteen rows, and of sixteen and a half. */
static void block_rows(const uint8_t *rows, const mr_qform *f, const block_weights *w, int groups,
                       bool bias, asks *a, float *out)
{
    tile_sums sums[BLOCK_GROUPS][4] __attribute__((aligned(64)));
    (f->start_by ? sums_signed : sums_unsigned)(rows, w->w, groups, sums);
    end_rows(rows, MR_SIXTEEN, f, w, groups, bias, sums, a, out);
}

static void block_both(const uint8_t *rows, const mr_qform *f, const block_weights *w, int groups,
                       bool bias, asks *a, float *out)
{
    tile_sums sums[2][BLOCK_GROUPS][4] __attribute__((aligned(64)));
    const uint8_t *half = rows + sixteen_bytes(f);
    (f->start_by ? both_signed : both_unsigned)(rows, half, w->w, groups, sums[0], sums[1]);
    end_rows(rows, MR_SIXTEEN, f, w, groups, bias, sums[0], a, out);
    end_rows(half, HALF, f, w, groups, bias, sums[1], a, out + MR_SIXTEEN * MR_TILE_OUT);
}

#include "backend/cpu/matmul_floats_amx.h"

/* ---- columns ------------------------------------------------------------------------------- */

static void arrange(const mr_qform *f, const uint8_t *const *rows, int n, uint8_t *to)
{
    for (int64_t i = 0; i < f->k / f->group; i++) {
        sixteen *s = (sixteen *)(void *)(to + (size_t)i * GROUP_BYTES);
        s->slots = 0;
        for (int r = n; r < MR_SIXTEEN; r++) {
            s->a[r] = s->power[r] = 0.0f;
            memset((uint8_t *)(s + 1) + 64 * r, 0, 64);
        }
    }
    for (int r = 0; r < n; r++)
        (f->group == 32 ? arrange_floats : arrange_row)(f, rows[r], r, to);
}

static bool takes(const mr_layout *l, int nv)
{
    return nv == 4 && (mr_layout_nibbles(l) || l->kind == MR_PACK_U8 ||
                       l->kind == MR_PACK_U4_BYTES || l->kind == MR_PACK_SUBS);
}

/* A column, which is of groups of 32 or not, and rows: of 17 to 24, both a sixteen and a half at once. */
LANES_INLINE void column(const mr_column *c, int64_t units, const mr_qform *f,
                         const uint8_t *arranged, bool floats, bool both, int rows, float *out)
{
    block_weights w;
    const mr_layout *l = c->layout;
    const int per_unit = l->k_unit / f->group;
    const int most = both ? BOTH_GROUPS : floats ? float_groups(l) : BYTE_GROUPS;
    const int sixteens = both ? 1 : (rows + MR_SIXTEEN - 1) / MR_SIXTEEN;
    const int64_t groups = units * per_unit;
    const size_t bytes = sixteen_bytes(f);
    if (floats && float_way_of(l) == FLOATS_RUNS)
        memset(w.w, 0, sizeof w.w);
    if (both)
        configure_both();
    else
        configure();
    for (int64_t g = 0; g < groups; g += most, arranged += (size_t)most * GROUP_BYTES) {
        const int n = (int)(groups - g < most ? groups - g : most);
        const uint8_t *unit = c->data + (size_t)(g / per_unit) * c->unit;
        if (floats)
            take_floats(c, g, n, &w);
        else
            take_weights(c, f, g, n, &w);
        /* Of the panel that comes next, or of these columns: few rows need a block sooner than it would
         * come.  What lies past the end does not matter. */
        const size_t here = c->ask_bytes ? c->ask_bytes * (size_t)n / (size_t)groups
                                         : (size_t)n * c->unit / (size_t)per_unit;
        asks a = {.from = c->ask_bytes  ? c->ask + c->ask_bytes * (size_t)g / (size_t)groups
                          : rows <= FEW ? unit + mr_column_far(c, unit)
                                        : unit + here,
                  .lines = here / 64 / (size_t)(4 * sixteens) + 1};
        const uint8_t *at = arranged;
        for (int t = 0; t < sixteens; t++, at += bytes) {
            float *to = out + t * MR_SIXTEEN * MR_TILE_OUT;
            if (both && floats)
                block_both_floats(at, at + bytes, l, &w, n, &a, to);
            else if (floats)
                block_floats(at, l, &w, n, &a, to);
            else
                (both ? block_both : block_rows)(at, f, &w, n, l->bias, &a, to);
        }
    }
    tile_release();
}

static void tile(const mr_column *c, int64_t units, const mr_qform *f, const uint8_t *arranged,
                 int64_t group, int rows, float *out)
{
    const bool both =
        rows > MR_SIXTEEN && rows <= MR_SIXTEEN + HALF && c->layout->kind != MR_PACK_SUBS;
    arranged += (size_t)group * GROUP_BYTES;
    if (f->group == 32)
        column(c, units, f, arranged, true, both, rows, out);
    else
        column(c, units, f, arranged, false, both, rows, out);
}

const mr_sixteen_kernels mr_sixteen_amx = {sixteen_bytes, arrange, takes, tile, mr_tile_bf16_amx};
