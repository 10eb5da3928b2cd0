/* Many rows on int8 by AMX: sixteen prepared rows meet 64 outputs.
 *
 * Why:    a tile product does 16,384 multiply-adds in 16 cycles, where dots take 128.  What then counts is
 *         all else: sums leave the tiles through memory only, and each needs a conversion, a product by
 *         2^e and an FMA.  So rows are arranged once per block, with what each group's end needs side by
 *         side, and a group's sums are stored four products after theirs began: earlier a store would
 *         wait.
 * How:    per block of k: weights as bytes less `zero`, scales as f32; then for each sixteen rows the
 *         tile products of the values n, the slots that there are (a list: no branch per row), and the
 *         ends of the groups, 16 outputs at a time with their sums in registers.  17 to 24 rows (of a
 *         head, 6 to 8 in three parts) are a sixteen and a half one, which load weights once.
 * Bits:   those of tile_i8 (docs/numerics.md): sums are exact, (float)(I << e) is (float)I * 2^e.
 */
#include "backend/cpu/lanes_avx512.h"

#include "backend/cpu/matmul_core.h"
#include "backend/cpu/matmul_numbers_lanes.h"
#include "backend/cpu/tiles_amx.h"

enum {
    BLOCK_GROUPS = 4,
    BOTH_GROUPS = 1, /* of a block that sixteen rows and a half meet */
    HALF = MR_SIXTEEN / 2,
    FEW = 32, /* rows that wait for weights, and ask for them as one does */
    GROUP_LINES = 64 * MR_TILE_OUT
};

/* The slot of a row: its high parts, -zero times their sum, and where row and quad begin in a tile of sums
 * and in lines of weights, in bytes. */
typedef struct sixteen_slot {
    int32_t r, start;
    uint16_t sum, quad;
} sixteen_slot;

/* A group of sixteen rows; then 64 bytes for each row.  Of groups of 64 they are the values n, and slots
 * with an r other than 0 are listed.  Of groups of 32 they are 32 values n and 32 m of n + (m << spread),
 * and slots that are too large for that are listed.  Rows that are not there are zeros. */
typedef struct sixteen {
    float a[MR_SIXTEEN], power[MR_SIXTEEN]; /* A, 2^e */
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

/* v = n + 128 * r of a slot as n + (m << spread); false if there is no room. */
static bool split_slot(int32_t r, int spread, uint8_t *n, uint8_t *m)
{
    const __m128i by = _mm_cvtsi32_si128(spread), most = _mm_set1_epi32(127),
                  half = _mm_set1_epi32((1 << spread) / 2);
    int32_t low;
    memcpy(&low, n, 4);
    const __m128i v = _mm_add_epi32(_mm_cvtepi8_epi32(_mm_cvtsi32_si128(low)),
                                    _mm_slli_epi32(_mm_cvtepi8_epi32(_mm_cvtsi32_si128(r)), 7));
    __m128i high = _mm_sra_epi32(_mm_add_epi32(v, half), by);
    high = _mm_max_epi32(_mm_min_epi32(high, most), _mm_sub_epi32(_mm_setzero_si128(), most));
    const __m128i rest = _mm_sub_epi32(v, _mm_sll_epi32(high, by));
    if (_mm_movemask_epi8(_mm_cmpgt_epi32(_mm_abs_epi32(rest), most)))
        return false;
    const __m128i bytes = _mm_packs_epi16(_mm_packs_epi32(rest, high), _mm_setzero_si128());
    const int64_t both = _mm_cvtsi128_si64(bytes);
    memcpy(n, &both, 4);
    memcpy(m, (const uint8_t *)&both + 4, 4);
    return true;
}

/* Without branches that nothing foresees: half of all slots may have an r. */
static void arrange_row(const mr_qform *f, const uint8_t *row, int r, uint8_t *to)
{
    for (int64_t i = 0; i < f->k / f->group; i++, row += f->step, to += GROUP_BYTES) {
        sixteen *s = (sixteen *)(void *)to;
        uint8_t *values = to + sizeof *s + 64 * r;
        bool listed;
        mr_qgroup g;
        memcpy(&g, row, sizeof g);
        s->a[r] = f->less ? 0.0f : g.u.a;
        s->power[r] = (float)(1 << g.e);
        if (f->group == 64) {
            memcpy(values, row + sizeof g, 64);
            listed = g.r != 0;
        } else {
            memcpy(values, row + sizeof g, 32);
            memset(values + 32, 0, 32);
            listed = !split_slot(g.r, f->spread, values + 4 * g.p, values + 32 + 4 * g.p);
        }
        const int sum =
            (int8_t)g.r + (int8_t)(g.r >> 8) + (int8_t)(g.r >> 16) + (int8_t)(g.r >> 24);
        s->slot[s->slots] =
            (sixteen_slot){g.r, f->start_by * sum, (uint16_t)(r * 64), (uint16_t)(g.p * 256)};
        s->slots += listed;
    }
}

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
        arrange_row(f, rows[r], r, to);
}

/* ---- weights ------------------------------------------------------------------------------- */

/* Of a block of k, per group: 16 quads of bytes (256 each) less zero, of groups of 32 the second eight
 * shifted by spread; scales and biases. */
typedef struct block_weights {
    uint8_t w[BLOCK_GROUPS][GROUP_LINES] __attribute__((aligned(64)));
    float s[BLOCK_GROUPS][MR_TILE_OUT], b[BLOCK_GROUPS][MR_TILE_OUT];
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

/* Bytes of 64 codes, twice where groups are of 32. */
LANES_INLINE void put_codes(__m512i codes, const mr_qform *f, uint8_t *to)
{
    const __m512i zero = _mm512_set1_epi8((char)-f->start_by);
    _mm512_store_si512(to, _mm512_sub_epi8(codes, zero));
    if (f->group == 32) {
        const __m512i keep = _mm512_set1_epi8((char)(0xff << f->spread));
        const __m128i by = _mm_cvtsi32_si128(f->spread);
        codes = _mm512_and_si512(_mm512_sll_epi16(_mm512_sub_epi8(codes, zero), by), keep);
        _mm512_store_si512(to + GROUP_LINES / 2, codes);
    }
}

/* Lines of nibbles, or of bytes, in the order of U8. */
static void put_nibbles(const uint8_t *from, size_t bytes, const mr_qform *f, uint8_t *to)
{
    const __m512i low = _mm512_set1_epi8(15);
    for (size_t i = 0; i < bytes; i += 256, to += 512)
        for (size_t v = 0; v < 256; v += 64) {
            const __m512i line = _mm512_loadu_si512(from + i + v);
            put_codes(_mm512_and_si512(line, low), f, to + v);
            put_codes(_mm512_and_si512(_mm512_srli_epi16(line, 4), low), f, to + v + 256);
        }
}

static void put_bytes(const uint8_t *from, size_t bytes, const mr_qform *f, uint8_t *to)
{
    for (size_t i = 0; i < bytes; i += 64)
        put_codes(_mm512_loadu_si512(from + i), f, to + i);
}

/* n units from `unit` on. */
static void take_weights(const mr_column *c, const mr_qform *f, const uint8_t *unit, int n,
                         block_weights *to)
{
    const mr_layout *l = c->layout;
    const int per_unit = l->k_unit / f->group;
    const size_t lines = c->lines / (size_t)per_unit;
    for (int i = 0; i < n * per_unit; i++) {
        const uint8_t *from = unit + (size_t)(i / per_unit) * c->unit;
        widen_scales(l, from + c->lines, to->s[i], to->b[i]);
        from += (size_t)(i % per_unit) * lines;
        (l->kind == MR_PACK_U4 ? put_nibbles : put_bytes)(from, lines, f, to->w[i]);
    }
}

/* ---- tiles --------------------------------------------------------------------------------- */

typedef int32_t tile_sums[MR_SIXTEEN][16]; /* [row][output] */

/* 0..3 sums of 16 rows by 16 outputs; 4 values of rows; 6, 7 quads of weights. */
static void configure(void)
{
    tile_config c = {.palette = 1};
    for (int t = 0; t < 8; t++)
        TILE_SHAPE(c, t, MR_SIXTEEN, 64);
    tile_configure(&c);
}

/* Sums of `groups` groups and 64 outputs.  Weights less zero have a sign. */
#define SUMS(name, kind)                                                                           \
    static void name(const uint8_t *rows, const block_weights *w, int groups, tile_sums(*sums)[4]) \
    {                                                                                              \
        const size_t row = 64, quad = 256;                                                         \
        for (int g = 0; g < groups; g++, rows += GROUP_BYTES) {                                    \
            TILE_LOAD(4, rows + sizeof(sixteen), row);                                             \
            NEXT_SUMS(kind, 0, 6)                                                                  \
            NEXT_SUMS(kind, 1, 7) NEXT_SUMS(kind, 2, 6) NEXT_SUMS(kind, 3, 7)                      \
        }                                                                                          \
        TILE_STORE(0, sums[groups - 1][0], row);                                                   \
        TILE_STORE(1, sums[groups - 1][1], row);                                                   \
        TILE_STORE(2, sums[groups - 1][2], row);                                                   \
        TILE_STORE(3, sums[groups - 1][3], row);                                                   \
    }
#define NEXT_SUMS(kind, v, t)                                                                      \
    if (g > 0)                                                                                     \
        TILE_STORE(v, sums[g - 1][v], row);                                                        \
    TILE_ZERO(v);                                                                                  \
    TILE_LOAD(t, w->w[g] + 64 * (v), quad);                                                        \
    TILE_DOTS(kind, v, 4, t);
SUMS(sums_signed, bssd)
SUMS(sums_unsigned, bsud)

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
    static void name(const uint8_t *rows, const uint8_t *half, const block_weights *w, int groups, \
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
    TILE_LOAD(t, w->w[g] + 64 * (v), quad);                                                        \
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
            __m512i codes = _mm512_add_epi8(_mm512_load_si512(w + s->quad + 64 * v), zero);
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

/* What becomes of the sums of n rows. */
LANES_INLINE void end_rows(const uint8_t *rows, int n, const mr_qform *f, const block_weights *w,
                           int groups, bool bias, tile_sums (*sums)[4], asks *a, float *out)
{
    const __m512i zero = _mm512_set1_epi8((char)-f->start_by);
    for (int g = 0; g < groups; g++)
        add_slots((const sixteen *)(const void *)(rows + g * GROUP_BYTES), w->w[g], zero, sums[g]);
    for (int o = 0; o < MR_TILE_OUT; o += 16) {
        for (size_t i = 0; i < a->lines; i++, a->from += 64)
            _mm_prefetch(a->from, _MM_HINT_T1);
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
    (f->start_by ? sums_signed : sums_unsigned)(rows, w, groups, sums);
    end_rows(rows, MR_SIXTEEN, f, w, groups, bias, sums, a, out);
}

static void block_both(const uint8_t *rows, const mr_qform *f, const block_weights *w, int groups,
                       bool bias, asks *a, float *out)
{
    tile_sums sums[2][BLOCK_GROUPS][4] __attribute__((aligned(64)));
    const uint8_t *half = rows + sixteen_bytes(f);
    (f->start_by ? both_signed : both_unsigned)(rows, half, w, groups, sums[0], sums[1]);
    end_rows(rows, MR_SIXTEEN, f, w, groups, bias, sums[0], a, out);
    end_rows(half, HALF, f, w, groups, bias, sums[1], a, out + MR_SIXTEEN * MR_TILE_OUT);
}

static bool takes(const mr_layout *l, int nv)
{
    return nv == 4 && l->k_unit <= BLOCK_GROUPS * l->act_group &&
           (l->kind == MR_PACK_U4 || l->kind == MR_PACK_U8 || l->kind == MR_PACK_U4_BYTES);
}

static void tile(const mr_column *c, int64_t units, const mr_qform *f, const uint8_t *arranged,
                 int64_t group0, int rows, float *out)
{
    block_weights w;
    const bool both = rows > MR_SIXTEEN && rows <= MR_SIXTEEN + HALF;
    const int per_unit = c->layout->k_unit / f->group;
    const int most = both             ? BOTH_GROUPS
                     : f->group == 64 ? 3
                                      : BLOCK_GROUPS; /* more would not stay in the L1 cache */
    const int block = most > per_unit ? most / per_unit : 1;
    const int sixteens = (rows + MR_SIXTEEN - 1) / MR_SIXTEEN;
    arranged += (size_t)group0 * GROUP_BYTES;
    if (both)
        configure_both();
    else
        configure();
    for (int64_t u = 0; u < units; u += block) {
        const int n = (int)(units - u < block ? units - u : block), groups = n * per_unit;
        const uint8_t *unit = c->data + (size_t)u * c->unit;
        take_weights(c, f, unit, n, &w);
        /* Of the panel that comes next, or of these columns: few rows need a block sooner than it would
         * come.  What lies past the end does not matter. */
        const size_t here =
            c->ask_bytes ? c->ask_bytes * (size_t)n / (size_t)units : (size_t)n * c->unit;
        asks a = {.from = c->ask_bytes  ? c->ask + c->ask_bytes * (size_t)u / (size_t)units
                          : rows <= FEW ? unit + mr_column_far(c, unit)
                                        : unit + here,
                  .lines = here / 64 / (size_t)(4 * sixteens) + 1};
        for (int t = 0; t < (both ? 1 : sixteens); t++)
            (both ? block_both : block_rows)(arranged + (size_t)t * sixteen_bytes(f), f, &w, groups,
                                             c->layout->bias, &a,
                                             out + t * MR_SIXTEEN * MR_TILE_OUT);
        arranged += (size_t)groups * GROUP_BYTES;
    }
    tile_release();
}

const mr_sixteen_kernels mr_sixteen_amx = {sixteen_bytes, arrange, takes, tile, mr_tile_bf16_amx};
