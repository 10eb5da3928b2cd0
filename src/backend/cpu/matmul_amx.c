/* Many rows of integers by AMX: sixteen prepared rows meet 64 outputs.
 *
 * Why:    a tile product does 8192 multiply-adds in 16 cycles, where dots take 64.  What then counts is all
 *         else: sums leave the tiles through memory only, and each group of them ends with two FMAs per
 *         output.  In bf16 the small integers of codes and values are exact, and so is a tile's sum of
 *         their products; times 2^e it is what the end's FMA takes, where sums of bytes would need a
 *         conversion and a product first (slots too: bytes hold only half of their values).  And of
 *         vectors a core does one operation per cycle while its tiles work, so that few operations count
 *         for more than tile products do.
 * How:    rows are arranged once per block, with what each group's end needs side by side.  Per block of k
 *         weights become bf16 (matmul_weights_amx.h); then for each sixteen rows and 16 outputs the tile
 *         products of the block's groups, beside the ends of those before: their sums are stored as the
 *         next ones begin.  Slots that are no bf16 are listed: no branch per row.
 * Bits:   those of tile_i8 (docs/numerics.md).  All terms are integers times 2^e, and their sums within 2^24
 *         of it, so that no tile product rounds; 128 times a slot's high parts are added by one FMA,
 *         which rounds as the conversion of the whole sum would.
 */
#include "backend/cpu/lanes_avx512.h"

#include "backend/cpu/matmul_core.h"
#include "backend/cpu/matmul_numbers_lanes.h"
#include "backend/cpu/tiles_amx.h"

#include "backend/cpu/matmul_weights_amx.h"

/* ---- rows ---------------------------------------------------------------------------------- */

/* The slot of a row: its high parts, -zero times their sum, where the row begins in a tile of sums, in
 * bytes, the quad, and e. */
typedef struct sixteen_slot {
    int32_t r, start;
    uint16_t sum;
    uint8_t quad, e;
} sixteen_slot;

/* A group of sixteen rows; then, tile by tile, 64 bytes for each row: the values v * 2^e in bf16, of slots that
 * are none and therefore listed n * 2^e.  Rows that are not there are zeros. */
typedef struct sixteen {
    float a[MR_SIXTEEN], second[MR_SIXTEEN]; /* A; of mins the sums of both runs, times 2^e */
    int32_t slots;
    sixteen_slot slot[MR_SIXTEEN + 1]; /* the last is never listed */
    uint8_t pad[48];
} sixteen;
_Static_assert(sizeof(sixteen) % 64 == 0, "values lie in whole cache lines");

enum { ROWS_BYTES = MR_SIXTEEN * 64 }; /* of 32 k */

static size_t group_bytes(int group)
{
    return sizeof(sixteen) + (size_t)(group / 32) * ROWS_BYTES;
}

static size_t sixteen_bytes(const mr_qform *f)
{
    return (size_t)(f->k / f->group) * group_bytes(f->group);
}

static int slot_sum(int32_t r)
{
    return (int8_t)r + (int8_t)(r >> 8) + (int8_t)(r >> 16) + (int8_t)(r >> 24);
}

/* Integers in bf16: 16 of 8 bits in quads of the order 0 2 1 3, times `by`. */
static __m256i sixteen_bf16(const uint8_t *n, __m512 by)
{
    __m512 x = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)n)));
    x = _mm512_permute_ps(_mm512_mul_ps(x, by), _MM_SHUFFLE(3, 1, 2, 0));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(x), 16));
}

/* The slot's quad alike: its values if they are bf16 themselves, as 254 is, and small enough, or only n.
 * False: these do. */
static bool put_slot(const mr_qform *f, const mr_qgroup *g, const uint8_t *n, float by, uint8_t *to)
{
    /* So that sums of all |v|, all others of which are within 127, times integers keep below 2^24. */
    const int most = (1 << 24) / (f->halves ? 4096 : 255) - (f->group - 4) * 127;
    int32_t quad;
    memcpy(&quad, n, sizeof quad);
    const __m128i r = _mm_cvtepi8_epi32(_mm_cvtsi32_si128(g->r)),
                  low = _mm_cvtepi8_epi32(_mm_cvtsi32_si128(quad)),
                  v = _mm_add_epi32(_mm_slli_epi32(r, 7), low);
    __m128i sum = _mm_abs_epi32(v);
    sum = _mm_hadd_epi32(sum, sum);
    sum = _mm_hadd_epi32(sum, sum);
    __m128 x = _mm_cvtepi32_ps(v);
    const bool fits = _mm_cvtsi128_si32(sum) <= most &&
                      _mm_testz_si128(_mm_castps_si128(x), _mm_set1_epi32(0xffff));
    x = _mm_mul_ps(fits ? x : _mm_cvtepi32_ps(low), _mm_set1_ps(by));
    x = _mm_permute_ps(x, _MM_SHUFFLE(3, 1, 2, 0));
    const __m128i high = _mm_srli_epi32(_mm_castps_si128(x), 16);
    _mm_storel_epi64((__m128i *)(void *)to, _mm_packus_epi32(high, high));
    return fits;
}

/* Without branches that nothing foresees. */
static void arrange_row(const mr_qform *f, const uint8_t *row, int r, uint8_t *to)
{
    for (int64_t i = 0; i < f->k / f->group; i++, row += f->step, to += group_bytes(f->group)) {
        sixteen *s = (sixteen *)(void *)to;
        uint8_t *values = to + sizeof *s + 64 * r;
        const uint8_t *n = row + sizeof(mr_qgroup);
        int32_t start = 0;
        mr_qgroup g;
        memcpy(&g, row, sizeof g);
        if (f->halves)
            memcpy(&start, n + 32, sizeof start);
        const float power = (float)(1 << g.e);
        const __m512 by = _mm512_set1_ps(power);
        for (int v = 0; v < f->group; v += 16)
            _mm256_store_si256((__m256i *)(void *)(values + v / 32 * ROWS_BYTES + v % 32 * 2),
                               sixteen_bf16(n + v, by));
        const bool fits =
            put_slot(f, &g, n + 4 * g.p, power, values + g.p / 8 * ROWS_BYTES + g.p % 8 * 8);
        s->a[r] = f->halves ? (float)g.start * power : f->less ? 0.0f : g.u.a;
        s->second[r] = f->halves ? (float)g.u.start_hi * power : 0.0f;
        s->slot[s->slots] = (sixteen_slot){g.r, f->halves ? start : f->start_by * slot_sum(g.r),
                                           (uint16_t)(r * 64), (uint8_t)g.p, (uint8_t)g.e};
        s->slots += !fits;
    }
}

static void arrange(const mr_qform *f, const uint8_t *const *rows, int n, uint8_t *to)
{
    uint8_t *at = to;
    for (int64_t i = 0; i < f->k / f->group; i++, at += group_bytes(f->group)) {
        sixteen *s = (sixteen *)(void *)at;
        s->slots = 0;
        for (int r = n; r < MR_SIXTEEN; r++) {
            s->a[r] = s->second[r] = 0.0f;
            for (int v = 0; v < f->group / 32; v++)
                memset((uint8_t *)(s + 1) + v * ROWS_BYTES + 64 * r, 0, 64);
        }
    }
    for (int r = 0; r < n; r++)
        arrange_row(f, rows[r], r, to);
}

static bool takes(const mr_layout *l, int nv)
{
    return nv == 4 && (mr_layout_nibbles(l) || l->kind == MR_PACK_U8 ||
                       l->kind == MR_PACK_U4_BYTES || l->kind == MR_PACK_SUBS);
}

/* ---- tiles --------------------------------------------------------------------------------- */

enum { MOST_SUMS = 4 };

typedef float tile_sums[MR_SIXTEEN][16]; /* [row][output] */

static void configure(void)
{
    tile_config c = {.palette = 1};
    for (int t = 0; t < 8; t++)
        TILE_SHAPE(c, t, MR_SIXTEEN, 64);
    tile_configure(&c);
}

/* Groups of a block: their sums are in tiles 0 to 3, two by two with RUNS, their rows in those up to 7, two by
 * two with LONG; weights in two between. */
static int groups_of(tile_way way)
{
    return way == WAY_ONE ? 3 : 2;
}

#define LOAD_ROWS(t, g, half)                                                                      \
    if ((g) < groups)                                                                              \
        TILE_LOAD(t, rows + (size_t)(g)*step + sizeof(sixteen) + (half)*ROWS_BYTES, row);
LANES_INLINE void load_rows(tile_way way, const uint8_t *rows, int groups)
{
    const size_t row = 64, step = group_bytes(way == WAY_LONG ? 64 : 32);
    switch (way) {
    case WAY_ONE:
        LOAD_ROWS(5, 0, 0) LOAD_ROWS(6, 1, 0) LOAD_ROWS(7, 2, 0) break;
    case WAY_LONG:
        LOAD_ROWS(4, 0, 0) LOAD_ROWS(5, 0, 1) LOAD_ROWS(6, 1, 0) LOAD_ROWS(7, 1, 1) break;
    case WAY_TWO:
    case WAY_RUNS:
        LOAD_ROWS(6, 0, 0) LOAD_ROWS(7, 1, 0) break;
    }
}

/* Sum i of 16 outputs begins, once the one before has left its tile. */
#define NEXT_SUM(i, products)                                                                      \
    if ((i) < sums) {                                                                              \
        TILE_STORE(i, before[i], row);                                                             \
        TILE_ZERO(i);                                                                              \
        products                                                                                   \
    }
#define PRODUCT(sum, t, x, lines)                                                                  \
    TILE_LOAD(t, w[lines], quad);                                                                  \
    TILE_DOTS(bf16ps, sum, x, t);
LANES_INLINE void next_sums(tile_way way, const uint8_t (*w)[PAIRS_LINES], int groups,
                            tile_sums *before)
{
    const size_t row = 64, quad = 256;
    const int sums = way == WAY_RUNS ? 2 * groups : groups;
    switch (way) {
    case WAY_ONE:
        NEXT_SUM(0, PRODUCT(0, 3, 5, 0))
        NEXT_SUM(1, PRODUCT(1, 4, 6, 1))
        NEXT_SUM(2, PRODUCT(2, 3, 7, 2))
        break;
    case WAY_LONG:
        NEXT_SUM(0, PRODUCT(0, 2, 4, 0) PRODUCT(0, 3, 5, 1))
        NEXT_SUM(1, PRODUCT(1, 2, 6, 2) PRODUCT(1, 3, 7, 3))
        break;
    case WAY_TWO:
        NEXT_SUM(0, PRODUCT(0, 4, 6, 0) PRODUCT(0, 5, 6, 1))
        NEXT_SUM(1, PRODUCT(1, 4, 7, 2) PRODUCT(1, 5, 7, 3))
        break;
    case WAY_RUNS:
        NEXT_SUM(0, PRODUCT(0, 4, 6, 0))
        NEXT_SUM(1, PRODUCT(1, 5, 6, 1))
        NEXT_SUM(2, PRODUCT(2, 4, 7, 2))
        NEXT_SUM(3, PRODUCT(3, 5, 7, 3))
        break;
    }
}

static void last_sums(tile_sums *to)
{
    const size_t row = 64;
    TILE_STORE(0, to[0], row);
    TILE_STORE(1, to[1], row);
    TILE_STORE(2, to[2], row);
    TILE_STORE(3, to[3], row);
}

/* ---- ends ---------------------------------------------------------------------------------- */

/* Lines that will be unpacked later: so many are asked for with each 16 outputs' ends. */
typedef struct asks {
    const uint8_t *from;
    size_t lines;
} asks;

LANES_INLINE void ask_next(asks *a)
{
    for (size_t i = 0; i < a->lines; i++, a->from += 64)
        _mm_prefetch(a->from, _MM_HINT_T1);
}

/* What the listed slots' high parts add: 128 times their sums. */
static __attribute__((noinline)) void add_slots(const mr_layout *l, tile_way way,
                                                const block_weights *w, int groups, int o,
                                                const uint8_t *rows, tile_sums *sums)
{
    const size_t step = group_bytes(way == WAY_LONG ? 64 : 32);
    const bool nibbles = mr_layout_nibbles(l), runs = way == WAY_RUNS;
    for (int g = 0; g < groups; g++, rows += step, sums += runs ? 2 : 1) {
        const sixteen *x = (const sixteen *)(const void *)rows;
        for (int i = 0; i < x->slots; i++) {
            const sixteen_slot *s = &x->slot[i];
            const __m512i r = _mm512_set1_epi32(s->r), start = _mm512_set1_epi32(s->start);
            __m512 by = _mm512_set1_ps((float)(128 << s->e));
            float *sum = sums[runs ? s->quad / 4 : 0][0] + s->sum / 4;
            __m512i q =
                _mm512_loadu_si512(w->codes[g] + 256 * (nibbles ? s->quad / 2 : s->quad) + 4 * o);
            if (nibbles) {
                const __m128i up = _mm_cvtsi32_si128(s->quad % 2 * 4);
                q = _mm512_and_si512(_mm512_srl_epi16(q, up), _mm512_set1_epi8(15));
                q = _mm512_shuffle_epi8(w->nibbles, q);
            }
            if (l->kind == MR_PACK_SUBS && !runs)
                by = _mm512_mul_ps(by, _mm512_loadu_ps(w->of[g].sub[s->quad / 4] + o));
            const __m512 dots = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(start, q, r));
            _mm512_store_ps(sum, _mm512_fmadd_ps(dots, by, _mm512_load_ps(sum)));
        }
    }
}

static bool any_slots(const uint8_t *rows, int groups, size_t step)
{
    int32_t slots = 0;
    for (int i = 0; i < groups; i++, rows += step)
        slots |= ((const sixteen *)(const void *)rows)->slots;
    return slots != 0;
}

/* Ends of 16 rows, or 8, group after group: y in zmm 0 to 15, numbers of a group (s at 0, b 256, sub 512, min
 * 1024) in 16 to 19.  In assembly, as compilers move about what loops of products keep in registers. */
_Static_assert(offsetof(group_numbers, b) == 256 && offsetof(group_numbers, sub) == 512 &&
                   offsetof(group_numbers, min) == 1024 && offsetof(sixteen, second) == 64,
               "as the ends read them");
/* clang-format off */
#define END_8 "0,1,2,3,4,5,6,7"
#define END_16 END_8 ",8,9,10,11,12,13,14,15"
#define END_EACH(rows, body) ".irp r," rows "\n\t" body ".endr\n\t"
#define END_OF(at, v) "vmovups " #at "(%[w]), %%zmm" #v "\n\t"
#define END_SUM(at, v) "vfmadd231ps " #at "+64*\\r(%[sums]), %%zmm" #v ", %%zmm\\r\n\t"
#define END_BIAS "vfmadd231ps 4*\\r(%[rows])%{1to16%}, %%zmm17, %%zmm\\r\n\t"
#define END_MINS                                                                                   \
    "vmulps 4*\\r(%[rows])%{1to16%}, %%zmm18, %%zmm20\n\t"                                          \
    "vfmadd231ps 64+4*\\r(%[rows])%{1to16%}, %%zmm19, %%zmm20\n\t"                                  \
    "vfmadd231ps %%zmm20, %%zmm17, %%zmm\\r\n\t"
#define END(name, n_rows, n_sums, numbers, end)                                                    \
    static void name(const uint8_t *rows, const tile_sums *sums, const float *w, float *y,         \
                     int64_t groups, size_t step)                                                  \
    {                                                                                              \
        __asm__ volatile(END_EACH(n_rows, "vmovups 256*\\r(%[y]), %%zmm\\r\n\t")                   \
                         "1:\n\t" numbers END_EACH(n_rows, end)                                    \
                         "add %[step], %[rows]\n\tadd $1024*" #n_sums ", %[sums]\n\t"              \
                         "add %[of], %[w]\n\tdec %[n]\n\tjnz 1b\n\t"                              \
                         END_EACH(n_rows, "vmovups %%zmm\\r, 256*\\r(%[y])\n\t")                  \
                         : [rows] "+r"(rows), [sums] "+r"(sums), [w] "+r"(w), [n] "+r"(groups)     \
                         : [y] "r"(y), [step] "r"(step), [of] "i"(sizeof(group_numbers))           \
                         : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", \
                           "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14",    \
                           "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20");                  \
    }
#define ENDS(name, n_sums, numbers, end)                                                           \
    END(name##_8, END_8, n_sums, numbers, end) END(name##_16, END_16, n_sums, numbers, end)
ENDS(end_plain, 1, END_OF(0, 16), END_SUM(0, 16))
ENDS(end_bias, 1, END_OF(0, 16) END_OF(256, 17), END_BIAS END_SUM(0, 16))
ENDS(end_mins, 1, END_OF(0, 16) END_OF(256, 17) END_OF(1024, 18) END_OF(1280, 19),
     END_MINS END_SUM(0, 16))
ENDS(end_runs, 2, END_OF(512, 16) END_OF(768, 17), END_SUM(0, 16) END_SUM(1024, 17))
/* clang-format on */

/* ---- columns ------------------------------------------------------------------------------- */

/* Of 16 outputs; w are their numbers of the first group. */
typedef void end_fn(const uint8_t *rows, const tile_sums *sums, const float *w, float *y,
                    int64_t groups, size_t step);

/* How groups end: y = fma(s, sum, y), before it fma(b, A, y), or that of the runs' mins; or for each run. */
static end_fn *end_of(const mr_layout *l, tile_way way, int rows)
{
    static end_fn *const ends[4][2] = {{end_plain_8, end_plain_16},
                                       {end_bias_8, end_bias_16},
                                       {end_mins_8, end_mins_16},
                                       {end_runs_8, end_runs_16}};
    const int end = way == WAY_RUNS ? 3 : !l->bias ? 0 : l->kind == MR_PACK_SUBS ? 2 : 1;
    return ends[end][rows > MR_SIXTEEN / 2];
}

/* A block of k, and the rows that meet it. */
typedef struct block {
    const mr_layout *l;
    const block_weights *w;
    const uint8_t *arranged; /* `bytes` for each sixteen */
    size_t bytes;
    int rows, groups;
    asks asks;
    float *out;
} block;

/* Sixteen rows, from r on, and 16 outputs, from o on, whose groups' sums are to end. */
typedef struct begun {
    const uint8_t *rows;
    tile_sums *sums;
    int r, o;
    bool slots;
} begun;

LANES_INLINE void end_sums(tile_way way, const block *b, begun t, end_fn *end)
{
    if (t.slots)
        add_slots(b->l, way, b->w, b->groups, t.o, t.rows, t.sums);
    end(t.rows, t.sums, b->w->of->s + t.o, b->out + t.r * MR_TILE_OUT + t.o, b->groups,
        group_bytes(way == WAY_LONG ? 64 : 32));
}

/* The products of 16 outputs, then the ends of those before. */
LANES_INLINE void meet_groups(tile_way way, const block *b, int groups)
{
    tile_sums sums[2][MOST_SUMS] __attribute__((aligned(64)));
    end_fn *const end = end_of(b->l, way, MR_SIXTEEN);
    begun last = {.rows = NULL};
    asks a = b->asks;
    const uint8_t *rows = b->arranged;
    for (int r = 0; r < b->rows; r += MR_SIXTEEN, rows += b->bytes) {
        const bool slots = any_slots(rows, groups, group_bytes(way == WAY_LONG ? 64 : 32));
        load_rows(way, rows, groups);
        for (int o = 0; o < MR_TILE_OUT; o += 16) {
            next_sums(way, (const void *)(b->w->pairs[0] + 4 * o), groups, sums[(o / 16 + 1) % 2]);
            if (last.rows)
                end_sums(way, b, last, end);
            ask_next(&a);
            last = (begun){rows, sums[o / 16 % 2], r, o, slots};
        }
    }
    last_sums(last.sums);
    end_sums(way, b, last, end_of(b->l, way, b->rows - last.r));
}

LANES_INLINE void meet(tile_way way, const block *b)
{
    const int most = groups_of(way);
    if (b->groups == most)
        meet_groups(way, b, most);
    else
        meet_groups(way, b, b->groups);
}

static void meet_block(tile_way way, const block *b)
{
    switch (way) {
    case WAY_ONE:
        meet(WAY_ONE, b);
        break;
    case WAY_LONG:
        meet(WAY_LONG, b);
        break;
    case WAY_TWO:
        meet(WAY_TWO, b);
        break;
    case WAY_RUNS:
        meet(WAY_RUNS, b);
        break;
    }
}

static void tile(const mr_column *c, int64_t units, const mr_qform *f, const uint8_t *arranged,
                 int64_t group, int rows, float *out)
{
    block_weights w;
    const mr_layout *l = c->layout;
    const tile_way way = way_of(l, f->group);
    const int per_unit = l->k_unit / f->group, most = groups_of(way),
              sixteens = (rows + MR_SIXTEEN - 1) / MR_SIXTEEN;
    const int64_t groups = units * per_unit;
    const size_t step = group_bytes(f->group);
    if (way == WAY_RUNS)
        memset(w.pairs, 0, sizeof w.pairs);
    configure();
    for (int64_t g = 0; g < groups; g += most) {
        const int n = (int)(groups - g < most ? groups - g : most);
        take_weights(c, f->group, g, n, &w);
        /* Of the panel that comes next, or of this column, the next block.  What lies past the end does
         * not matter. */
        const size_t here = c->ask_bytes ? c->ask_bytes * (size_t)n / (size_t)groups
                                         : (size_t)n * c->unit / (size_t)per_unit;
        const block b = {.l = l,
                         .w = &w,
                         .arranged = arranged + (size_t)(group + g) * step,
                         .bytes = sixteen_bytes(f),
                         .rows = rows,
                         .groups = n,
                         .asks = {.from = c->ask_bytes
                                              ? c->ask + c->ask_bytes * (size_t)g / (size_t)groups
                                              : c->data + (size_t)(g / per_unit) * c->unit + here,
                                  .lines = here / 64 / (size_t)(4 * sixteens) + 1},
                         .out = out};
        meet_block(way, &b);
    }
    tile_release();
}

const mr_sixteen_kernels mr_sixteen_amx = {sixteen_bytes, arrange, takes, tile, mr_tile_bf16_amx};
