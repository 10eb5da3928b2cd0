/* Weights of AMX tiles: codes less zero in bf16, and what their groups' ends need beside them.
 *
 * Part of matmul_amx.c.
 * How:    nibbles and codes of five bits by one vpermw, others by way of floats; with two runs per 32 k
 *         the products of codes and integer sub-scales are bf16 as well, or sums of two.
 */

/* What a group's sums are of: codes less zero, or times integer sub-scales if there are (Q3_K, Q2_K); these as
 * sums of two bf16 (Q6_K: within +-4096); codes of 64 k, in two tiles; codes in a sum for each run of 16, where
 * their scales are no integers (nvfp4). */
typedef enum tile_way { WAY_ONE, WAY_TWO, WAY_LONG, WAY_RUNS } tile_way;

static tile_way way_of(const mr_layout *l, int group)
{
    if (group == 64)
        return WAY_LONG;
    if (l->kind != MR_PACK_SUBS)
        return WAY_ONE;
    return l->form.scale == MR_F8_E4M3 ? WAY_RUNS : l->form.bits == 6 ? WAY_TWO : WAY_ONE;
}

enum {
    MOST_GROUPS = 3, /* of a block of k, */
    MOST_LINES = 4,  /* which has so many times 16 lines of pairs */
    PAIRS_LINES = 64 * MR_TILE_OUT
};

/* A group's scales and biases, of SUBS its runs' sub-scales and mins. */
typedef struct group_numbers {
    float s[MR_TILE_OUT], b[MR_TILE_OUT], sub[2][MR_TILE_OUT], min[2][MR_TILE_OUT];
} group_numbers;

/* Of a block of k: a tile's pairs of bf16 (16 lines of 256 bytes), two after each other if a group has two;
 * numbers and codes of its groups. */
typedef struct block_weights {
    uint8_t pairs[MOST_LINES][PAIRS_LINES] __attribute__((aligned(64)));
    group_numbers of[MOST_GROUPS];
    const uint8_t *codes[MOST_GROUPS];
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

/* Bytes 0 and 1, then 2 and 3 of 16 words as floats, less zero: as low bits of 2^23 + c and 2^15 + c. */
LANES_INLINE void byte_floats(__m512i words, float zero, __m512 x[4])
{
    enum { PICK = 0xea }; /* (a & b) | c */
    LANES_UNROLL
    for (int i = 0; i < 4; i++) {
        const __m512i from = i < 2 ? words : _mm512_srli_epi32(words, 16);
        const __m512i one = _mm512_ternarylogic_epi32(
            from, _mm512_set1_epi32(i % 2 ? 0xff00 : 0xff),
            _mm512_castps_si512(_mm512_set1_ps(i % 2 ? 0x1p15f : 0x1p23f)), PICK);
        x[i] = _mm512_sub_ps(_mm512_castsi512_ps(one),
                             _mm512_set1_ps((i % 2 ? 0x1p15f : 0x1p23f) + zero));
    }
}

/* A line of codes less zero, times `by` if there are sub-scales: two lines of pairs in the order 0 2 1 3, and
 * two of what those leave. */
LANES_INLINE void put_terms(const uint8_t *line, float zero, bool sub, bool two, __m512 by,
                            uint8_t *to, uint8_t *rest)
{
    const __m512i high = _mm512_set1_epi32((int)0xffff0000);
    __m512 x[4];
    byte_floats(_mm512_loadu_si512(line), zero, x);
    LANES_UNROLL
    for (int j = 0; j < 4 && sub; j++)
        x[j] = _mm512_mul_ps(x[j], by);
    LANES_UNROLL
    for (int part = 0; part <= two; part++, to = rest)
        for (int j = 0; j < 2; j++) {
            const __m512i a = _mm512_castps_si512(x[j]), b = _mm512_castps_si512(x[j + 2]);
            _mm512_store_si512(to + 256 * j,
                               _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(a, 16), b));
            x[j] = _mm512_sub_ps(x[j], _mm512_castsi512_ps(_mm512_and_si512(a, high)));
            x[j + 2] = _mm512_sub_ps(x[j + 2], _mm512_castsi512_ps(_mm512_and_si512(b, high)));
        }
}

/* 32 k of group g: of its first tile, or second. */
LANES_INLINE void put_lines(const mr_layout *l, tile_way way, bool sub, const uint8_t *from, int g,
                            uint8_t *to, uint8_t *second, const block_weights *w)
{
    const float zero = l->bias ? 0.0f : (float)l->zero;
    for (int v = 0; v < 4; v++)
        for (int i = 0; i < 8; i++) {
            const size_t at = (size_t)(512 * i + 64 * v);
            put_terms(from + 256 * i + 64 * v, zero, sub, way == WAY_TWO,
                      _mm512_loadu_ps(w->of[g].sub[i / 4] + 16 * v),
                      (way == WAY_RUNS && i >= 4 ? second : to) + at, second + at);
        }
}

/* What nibbles stand for, less zero. */
static __m128i nibble_values(const mr_layout *l)
{
    if (l->kind == MR_PACK_CODES && l->form.table)
        return _mm_loadu_si128((const __m128i *)mr_code_tables[l->form.table]);
    const __m128i count = _mm_set_epi8(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    return _mm_sub_epi8(count, _mm_set1_epi8((char)(l->bias ? 0 : l->zero)));
}

/* Codes of up to five bits less zero, in bf16.  Nibbles have them twice, as an index takes five bits of a
 * word, whose fifth is another code's. */
static __m512i code_table(const mr_layout *l)
{
    const __m128i low = nibble_values(l),
                  next = mr_layout_nibbles(l) ? low : _mm_add_epi8(low, _mm_set1_epi8(16));
    const __m512i a = _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(low))),
                  b = _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(next)));
    return _mm512_inserti64x4(
        _mm512_castsi256_si512(_mm512_cvtepi32_epi16(_mm512_srli_epi32(a, 16))),
        _mm512_cvtepi32_epi16(_mm512_srli_epi32(b, 16)), 1);
}

/* Lines of nibbles, or of bytes: the latter have the second eight bits of each word to come, and no more. */
static void put_by_table(const uint8_t *from, __m512i table, bool nibbles, uint8_t *to)
{
    for (int i = 0; i < (nibbles ? 4 : 8); i++, from += 256, to += nibbles ? 1024 : 512)
        for (int v = 0; v < 256; v += 64) {
            const __m512i line = _mm512_loadu_si512(from + v);
            _mm512_store_si512(to + v, _mm512_permutexvar_epi16(line, table));
            _mm512_store_si512(to + v + 256,
                               _mm512_permutexvar_epi16(_mm512_srli_epi16(line, 8), table));
            if (!nibbles)
                continue;
            _mm512_store_si512(to + v + 512,
                               _mm512_permutexvar_epi16(_mm512_srli_epi16(line, 4), table));
            _mm512_store_si512(to + v + 768,
                               _mm512_permutexvar_epi16(_mm512_srli_epi16(line, 12), table));
        }
}

/* Of what are bytes: a panel of E2M1 goes up to 24. */
static bool five_bits(const mr_layout *l)
{
    return l->kind == MR_PACK_U4_BYTES && (l->form.bits <= 5 || l->form.table == MR_TABLE_E2M1);
}

/* SUBS: scales of group `in` of a unit, which are at `sides`. */
static void widen_subs(const mr_layout *l, const uint8_t *sides, int in, int g, block_weights *to)
{
    const int runs = l->k_unit / 16, at = 2 * in * MR_TILE_OUT;
    if (l->form.scale == MR_F8_E4M3) {
        memcpy(to->of[g].sub, (const float *)(const void *)sides + at, sizeof to->of[g].sub);
        return;
    }
    const int8_t *subs = (const int8_t *)sides, *mins = subs + runs * MR_TILE_OUT;
    const float *d = (const float *)(const void *)(mins + (l->bias ? runs * MR_TILE_OUT : 0));
    memcpy(to->of[g].s, d, sizeof to->of[g].s);
    if (l->bias)
        memcpy(to->of[g].b, d + MR_TILE_OUT, sizeof to->of[g].b);
    for (int o = 0; o < 2 * MR_TILE_OUT; o += 16) {
        v16f_store(to->of[g].sub[0] + o, v16f_from_i(v16i_load_i8(subs + at + o)));
        if (l->bias)
            v16f_store(to->of[g].min[0] + o, v16f_from_i(v16i_load_i8(mins + at + o)));
    }
}

/* CODES: of run `in`. */
static void widen_runs(const mr_layout *l, const uint8_t *unit, int in, int g, block_weights *to)
{
    for (int v = 0; v < 4; v++) {
        v16f s, b;
        code_run_scales(l, 4, unit, in, v, &s, &b);
        v16f_store(to->of[g].s + 16 * v, s);
        v16f_store(to->of[g].b + 16 * v, b);
    }
}

/* 32 k of group g, codes at `from`: one tile's pairs, with WAY_TWO and WAY_RUNS two.  Of RUNS the pairs of the
 * run that a sum is not of stay zeros. */
static void put_pairs(const mr_layout *l, tile_way way, __m512i table, const uint8_t *from, int g,
                      uint8_t *to, uint8_t *second, const block_weights *w)
{
    const bool nibbles = mr_layout_nibbles(l);
    if (way == WAY_TWO)
        put_lines(l, WAY_TWO, true, from, g, to, second, w);
    else if (way == WAY_RUNS)
        put_lines(l, WAY_RUNS, false, from, g, to, second, w);
    else if (l->kind == MR_PACK_SUBS)
        put_lines(l, WAY_ONE, true, from, g, to, to, w);
    else if (nibbles || five_bits(l))
        put_by_table(from, table, nibbles, to);
    else
        put_lines(l, WAY_ONE, false, from, g, to, to, w);
}

/* n groups from the column's `group` on. */
static void take_weights(const mr_column *c, int size, int64_t group, int n, block_weights *to)
{
    const mr_layout *l = c->layout;
    const tile_way way = way_of(l, size);
    const int per_unit = l->k_unit / size, tiles = way == WAY_ONE ? 1 : 2;
    const size_t half = 32 * MR_TILE_OUT / (mr_layout_nibbles(l) ? 2 : 1);
    const __m512i table = code_table(l);
    to->nibbles = _mm512_broadcast_i32x4(
        _mm_add_epi8(nibble_values(l), _mm_set1_epi8((char)(l->bias ? 0 : l->zero))));
    for (int g = 0; g < n; g++, group++) {
        const uint8_t *unit = c->data + (size_t)(group / per_unit) * c->unit;
        const int in = (int)(group % per_unit);
        const uint8_t *from = unit + (size_t)(in * (size / 32)) * half;
        if (l->kind == MR_PACK_CODES)
            from += c->unit - c->lines;
        to->codes[g] = from;
        if (l->kind == MR_PACK_CODES)
            widen_runs(l, unit, in, g, to);
        else if (l->kind == MR_PACK_SUBS)
            widen_subs(l, unit + c->lines, in, g, to);
        else
            widen_scales(l, unit + c->lines, to->of[g].s, to->of[g].b);
        uint8_t *first = to->pairs[tiles * g], *second = to->pairs[tiles * g + tiles - 1];
        put_pairs(l, way, table, from, g, first, second, to);
        if (way == WAY_LONG)
            put_pairs(l, way, table, from + half, g, second, second, to);
    }
}
