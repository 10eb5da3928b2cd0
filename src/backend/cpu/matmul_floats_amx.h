/* Groups of 32 by AMX: integer products, summed exactly in floats.
 *
 * Part of matmul_amx.c.
 * Why:    what counts is not the tile products but the ends of groups.  In bf16 the small integers of codes
 *         and values are exact, and so is a tile's sum of their products; times 2^e it is what the end's
 *         FMA takes, where bytes need a conversion and a product first.  Besides, of two runs per 32 k the
 *         products of codes and sub-scales are bf16 as well, or sums of two, so that they take one sum.
 * Bits:   those of tile_i8.  All terms are integers times 2^e, and their sums within 2^24 of it, so that no
 *         tile product rounds; 128 times a slot's high parts are added by one FMA, which rounds as the
 *         conversion of the whole sum would.
 */

/* What a group's sums are of, and how it ends: codes less zero, or times integer sub-scales if there are (Q3_K,
 * Q2_K with MINS); these as sums of two bf16 (Q6_K: within +-4096); codes in a sum for each run, where their
 * scales are no integers (nvfp4). */
typedef enum float_way { FLOATS_ONE, FLOATS_BIAS, FLOATS_MINS, FLOATS_TWO, FLOATS_RUNS } float_way;

static float_way float_way_of(const mr_layout *l)
{
    if (l->kind != MR_PACK_SUBS)
        return l->bias ? FLOATS_BIAS : FLOATS_ONE;
    if (l->form.scale == MR_F8_E4M3)
        return FLOATS_RUNS;
    return l->bias ? FLOATS_MINS : l->form.bits == 6 ? FLOATS_TWO : FLOATS_ONE;
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
    /* So that sums of all |v|, 28 of which are within 127, times integers keep below 2^24. */
    const int most = (1 << 24) / (f->halves ? 4096 : 255) - 28 * 127;
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

static void arrange_floats(const mr_qform *f, const uint8_t *row, int r, uint8_t *to)
{
    for (int64_t i = 0; i < f->k / f->group; i++, row += f->step, to += GROUP_BYTES) {
        sixteen *s = (sixteen *)(void *)to;
        uint8_t *values = to + sizeof *s + 64 * r;
        const uint8_t *n = row + sizeof(mr_qgroup);
        int32_t start;
        mr_qgroup g;
        memcpy(&g, row, sizeof g);
        memcpy(&start, n + 32, sizeof start);
        const float power = (float)(1 << g.e);
        const __m512 by = _mm512_set1_ps(power);
        _mm256_store_si256((__m256i *)(void *)values, sixteen_bf16(n, by));
        _mm256_store_si256((__m256i *)(void *)(values + 32), sixteen_bf16(n + 16, by));
        const bool fits = put_slot(f, &g, n + 4 * g.p, power, values + 8 * g.p);
        s->a[r] = f->halves ? (float)g.start * power : f->less ? 0.0f : g.u.a;
        s->power[r] = f->halves ? (float)g.u.start_hi * power : power;
        s->slot[s->slots] = (sixteen_slot){g.r, f->halves ? start : f->start_by * slot_sum(g.r),
                                           (uint16_t)(r * 64), (uint8_t)g.p, (uint8_t)g.e};
        s->slots += !fits;
    }
}

/* ---- weights ---- */

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

LANES_INLINE void put_lines(const mr_layout *l, float_way way, bool sub, const uint8_t *from, int g,
                            block_weights *to)
{
    const float zero = l->bias ? 0.0f : (float)l->zero;
    const bool two = way == FLOATS_TWO || way == FLOATS_RUNS;
    uint8_t *lines[2] = {to->w[g], to->w[two ? g + TWO_GROUPS : g]};
    for (int v = 0; v < 4; v++)
        for (int i = 0; i < 8; i++) {
            const size_t at = (size_t)(512 * i + 64 * v);
            put_terms(from + 256 * i + 64 * v, zero, sub, way == FLOATS_TWO,
                      _mm512_loadu_ps(to->sub[g][i / 4] + 16 * v),
                      lines[way == FLOATS_RUNS ? i / 4 : 0] + at, lines[1] + at);
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
        memcpy(to->sub[g], (const float *)(const void *)sides + at, sizeof to->sub[g]);
        return;
    }
    const int8_t *subs = (const int8_t *)sides, *mins = subs + runs * MR_TILE_OUT;
    const float *d = (const float *)(const void *)(mins + (l->bias ? runs * MR_TILE_OUT : 0));
    memcpy(to->s[g], d, sizeof to->s[g]);
    if (l->bias)
        memcpy(to->b[g], d + MR_TILE_OUT, sizeof to->b[g]);
    for (int o = 0; o < 2 * MR_TILE_OUT; o += 16) {
        v16f_store(to->sub[g][0] + o, v16f_from_i(v16i_load_i8(subs + at + o)));
        if (l->bias)
            v16f_store(to->min[g][0] + o, v16f_from_i(v16i_load_i8(mins + at + o)));
    }
}

/* CODES: of run `in`. */
static void widen_runs(const mr_layout *l, const uint8_t *unit, int in, int g, block_weights *to)
{
    for (int v = 0; v < 4; v++) {
        v16f s, b;
        code_run_scales(l, 4, unit, in, v, &s, &b);
        v16f_store(to->s[g] + 16 * v, s);
        v16f_store(to->b[g] + 16 * v, b);
    }
}

/* Groups of a block. */
static int float_groups(const mr_layout *l)
{
    const float_way way = float_way_of(l);
    return way == FLOATS_TWO || way == FLOATS_RUNS ? TWO_GROUPS : BLOCK_GROUPS;
}

/* n groups from the column's `group` on.  Of RUNS the pairs of the run that a sum is not of stay zeros. */
static void take_floats(const mr_column *c, int64_t group, int n, block_weights *to)
{
    const mr_layout *l = c->layout;
    const bool nibbles = mr_layout_nibbles(l), table = nibbles || five_bits(l);
    const float_way way = float_way_of(l);
    const int per_unit = l->k_unit / 32;
    const __m512i values = code_table(l);
    to->nibbles = _mm512_broadcast_i32x4(
        _mm_add_epi8(nibble_values(l), _mm_set1_epi8((char)(l->bias ? 0 : l->zero))));
    for (int g = 0; g < n; g++, group++) {
        const uint8_t *unit = c->data + (size_t)(group / per_unit) * c->unit;
        const int in = (int)(group % per_unit);
        const uint8_t *from = unit + (size_t)in * (GROUP_LINES / (nibbles ? 4 : 2));
        if (l->kind == MR_PACK_CODES)
            from += c->unit - c->lines;
        to->codes[g] = from;
        if (l->kind == MR_PACK_CODES)
            widen_runs(l, unit, in, g, to);
        else if (l->kind == MR_PACK_SUBS)
            widen_subs(l, unit + c->lines, in, g, to);
        else
            widen_scales(l, unit + c->lines, to->s[g], to->b[g]);
        if (way == FLOATS_TWO)
            put_lines(l, FLOATS_TWO, true, from, g, to);
        else if (way == FLOATS_RUNS)
            put_lines(l, FLOATS_RUNS, false, from, g, to);
        else if (l->kind == MR_PACK_SUBS)
            put_lines(l, FLOATS_ONE, true, from, g, to);
        else if (table)
            put_by_table(from, values, nibbles, to->w[g]);
        else
            put_lines(l, FLOATS_ONE, false, from, g, to);
    }
}

/* ---- sums ---- */

#define SUM_MORE(v)                                                                                \
    TILE_LOAD(5, w[g + TWO_GROUPS] + 64 * (v), quad);                                              \
    TILE_DOTS(bf16ps, v, 4, 5);
SUMS(sums_one, bf16ps, NO_MORE)
SUMS(sums_two, bf16ps, SUM_MORE)
BOTH_SUMS(both_floats, bf16ps)

/* What the listed slots' high parts add: 128 times their sums. */
LANES_INLINE void add_float_slots(const sixteen *g, const block_weights *w, int group, bool sub,
                                  bool nibbles, tile_sums *sums, tile_sums *second)
{
    const __m512i low = _mm512_set1_epi8(15);
    for (int i = 0; i < g->slots; i++) {
        const sixteen_slot *s = &g->slot[i];
        const __m512i r = _mm512_set1_epi32(s->r), start = _mm512_set1_epi32(s->start);
        const __m512 power = _mm512_set1_ps((float)(128 << s->e));
        const uint8_t *codes = w->codes[group] + 256 * (nibbles ? s->quad / 2 : s->quad);
        const __m128i up = _mm_cvtsi32_si128(s->quad % 2 * 4);
        tile_sums *to = s->quad < 4 ? sums : second;
        LANES_UNROLL
        for (int v = 0; v < 4; v++) {
            float *sum = (float *)to[v][0] + s->sum / 4;
            __m512i q = _mm512_loadu_si512(codes + 64 * v);
            if (nibbles)
                q = _mm512_shuffle_epi8(w->nibbles, _mm512_and_si512(_mm512_srl_epi16(q, up), low));
            const __m512 dots = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(start, q, r));
            __m512 by = power;
            if (sub)
                by = _mm512_mul_ps(by, _mm512_loadu_ps(w->sub[group][s->quad / 4] + 16 * v));
            _mm512_store_ps(sum, _mm512_fmadd_ps(dots, by, _mm512_load_ps(sum)));
        }
    }
}

/* Of n rows and 16 outputs from o on, group after group. */
LANES_INLINE void end_floats(const uint8_t *rows, int n, const block_weights *w, int groups,
                             float_way way, int o, tile_sums (*sums)[4], tile_sums (*second)[4],
                             float *out)
{
    __m512 y[MR_SIXTEEN];
    out += o;
    LANES_UNROLL
    for (int r = 0; r < n; r++)
        y[r] = _mm512_loadu_ps(out + r * MR_TILE_OUT);
    for (int i = 0; i < groups; i++, rows += GROUP_BYTES) {
        const sixteen *g = (const sixteen *)(const void *)rows;
        const bool runs = way == FLOATS_RUNS;
        const __m512 s = _mm512_loadu_ps((runs ? w->sub[i][0] : w->s[i]) + o),
                     t = _mm512_loadu_ps((runs ? w->sub[i][1] : w->b[i]) + o),
                     m0 = _mm512_loadu_ps(w->min[i][0] + o), m1 = _mm512_loadu_ps(w->min[i][1] + o);
        LANES_UNROLL
        for (int r = 0; r < n; r++) {
            __m512 a = _mm512_set1_ps(g->a[r]);
            if (way == FLOATS_MINS)
                a = _mm512_fmadd_ps(m1, _mm512_set1_ps(g->power[r]), _mm512_mul_ps(m0, a));
            if (way == FLOATS_MINS || way == FLOATS_BIAS)
                y[r] = _mm512_fmadd_ps(t, a, y[r]);
            y[r] = _mm512_fmadd_ps(s, _mm512_load_ps(sums[i][o / 16][r]), y[r]);
            if (runs)
                y[r] = _mm512_fmadd_ps(t, _mm512_load_ps(second[i][o / 16][r]), y[r]);
        }
    }
    LANES_UNROLL
    for (int r = 0; r < n; r++)
        _mm512_storeu_ps(out + r * MR_TILE_OUT, y[r]);
}

LANES_INLINE void end_float_rows(const uint8_t *rows, int n, const mr_layout *l, float_way way,
                                 const block_weights *w, int groups, tile_sums (*sums)[4],
                                 tile_sums (*second)[4], asks *a, float *out)
{
    for (int i = 0; i < groups; i++)
        add_float_slots((const sixteen *)(const void *)(rows + i * GROUP_BYTES), w, i,
                        l->kind == MR_PACK_SUBS && way != FLOATS_RUNS, mr_layout_nibbles(l),
                        sums[i], second[i]);
    for (int o = 0; o < MR_TILE_OUT; o += 16) {
        ask_next(a);
        end_floats(rows, n, w, groups, way, o, sums, second, out);
    }
}

LANES_INLINE void float_block(const uint8_t *rows, const mr_layout *l, float_way way,
                              const block_weights *w, int groups, asks *a, float *out)
{
    tile_sums both[2][BLOCK_GROUPS][4] __attribute__((aligned(64)));
    tile_sums(*sums)[4] = both[0], (*second)[4] = both[way == FLOATS_RUNS];
    if (way == FLOATS_RUNS)
        sums_one(rows, w->w + TWO_GROUPS, groups, second);
    (way == FLOATS_TWO ? sums_two : sums_one)(rows, w->w, groups, sums);
    end_float_rows(rows, MR_SIXTEEN, l, way, w, groups, sums, second, a, out);
}

static void block_floats(const uint8_t *rows, const mr_layout *l, const block_weights *w,
                         int groups, asks *a, float *out)
{
    switch (float_way_of(l)) {
    case FLOATS_ONE:
        float_block(rows, l, FLOATS_ONE, w, groups, a, out);
        break;
    case FLOATS_BIAS:
        float_block(rows, l, FLOATS_BIAS, w, groups, a, out);
        break;
    case FLOATS_MINS:
        float_block(rows, l, FLOATS_MINS, w, groups, a, out);
        break;
    case FLOATS_TWO:
        float_block(rows, l, FLOATS_TWO, w, groups, a, out);
        break;
    case FLOATS_RUNS:
        float_block(rows, l, FLOATS_RUNS, w, groups, a, out);
        break;
    }
}

LANES_INLINE void float_block_both(const uint8_t *rows, const uint8_t *half, const mr_layout *l,
                                   float_way way, const block_weights *w, int groups, asks *a,
                                   float *out)
{
    tile_sums sums[2][BOTH_GROUPS][4] __attribute__((aligned(64)));
    both_floats(rows, half, w->w, groups, sums[0], sums[1]);
    end_float_rows(rows, MR_SIXTEEN, l, way, w, groups, sums[0], sums[0], a, out);
    end_float_rows(half, HALF, l, way, w, groups, sums[1], sums[1], a,
                   out + MR_SIXTEEN * MR_TILE_OUT);
}

/* Of columns that need no panel. */
static void block_both_floats(const uint8_t *rows, const uint8_t *half, const mr_layout *l,
                              const block_weights *w, int groups, asks *a, float *out)
{
    if (l->bias)
        float_block_both(rows, half, l, FLOATS_BIAS, w, groups, a, out);
    else
        float_block_both(rows, half, l, FLOATS_ONE, w, groups, a, out);
}
