/* Random walks over every family: rows fed in any pieces, left open, kept in part, cut off, saved and
 * loaded by another engine, end in the bytes of having fed the kept rows at once.  And states whose
 * checksum is right but whose content is not are refused, or taken without harm. */
#include "saved_state.h"

#include "base/crc.h"

enum { MOST = 160, LONGEST = 9 };

static uint64_t seed;

static int64_t below(int64_t n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (int64_t)((seed >> 33) % (uint64_t)n);
}

/* What the model says after the session's positions: of a canvas, or of the next rows. */
static float *answer(mr_session *s, const int32_t *next, size_t *bytes)
{
    const mr_engine_info *i = mr_engine_facts(s->engine);
    int64_t rows = i->canvas ? i->canvas : i->block_length ? i->block_length : 3;
    *bytes = (size_t)(rows * i->vocab) * sizeof(float);
    float *logits = malloc(*bytes);
    if (i->canvas)
        assert_ok(mr_denoise(s, next, NULL, logits));
    else
        assert_ok(mr_advance(s, next, rows, MR_WANT_ALL, NULL, 0, logits));
    return logits;
}

/* ---- walks ---- */

typedef struct walk {
    mr_engine *engine[2];
    mr_session *s;
    int at;       /* whose session it is */
    int64_t unit; /* rows come in whole blocks */
    int32_t ids[MOST + 64], other[LONGEST * 64];
} walk;

/* Another session, of the other engine, goes on; it may have held something else. */
static void change_over(walk *w)
{
    saved k = take_state(w->s);
    mr_session *t = new_session(w->engine[!w->at]);
    if (below(2))
        feed(t, w->other, w->unit * (1 + below(3)));
    if (below(2)) {
        int64_t held = mr_session_length(t);
        k.data[below((int64_t)k.bytes)] ^= (uint8_t)(1 + below(255));
        assert_int_not_equal(mr_state_read(t, k.data, k.bytes), MR_STATUS_OK);
        assert_int_equal(mr_session_length(t), held);
        free(k.data);
        k = take_state(w->s);
    }
    assert_ok(mr_state_read(t, k.data, k.bytes));
    assert_int_equal(mr_session_length(t), mr_session_length(w->s));
    free(k.data);
    mr_session_free(w->s);
    w->s = t;
    w->at = !w->at;
}

/* Back by some positions, or to the start; a sliding layer may have let go of what that needs. */
static void go_back(walk *w)
{
    int64_t had = mr_session_length(w->s), blocks = had / w->unit,
            to = below(8) ? had - w->unit * below((blocks < 7 ? blocks : 7) + 1) : 0;
    mr_status st = mr_truncate(w->s, to);
    assert_true(st == MR_STATUS_OK || st == MR_STATUS_LIMIT);
    assert_int_equal(mr_session_length(w->s), st ? had : to);
}

static void step(walk *w)
{
    int64_t length = mr_session_length(w->s), blocks = 1 + below(LONGEST);
    int64_t room = (MOST - length) / w->unit, n = w->unit * (blocks < room ? blocks : room);
    size_t bytes;
    int what = (int)below(7);
    if (what < 3 && n) { /* kept in part */
        int64_t kept = what ? n : w->unit * below(n / w->unit + 1);
        assert_ok(mr_advance(w->s, w->ids + length, n, MR_WANT_NONE, NULL, 0, NULL));
        mr_status st = mr_commit(w->s, kept);
        assert_true(st == MR_STATUS_OK || st == MR_STATUS_LIMIT);
    } else if (what == 3 && n) { /* left open, or a canvas that is thrown away */
        if (mr_engine_facts(w->s->engine)->canvas)
            free(answer(w->s, w->other, &bytes));
        else
            assert_ok(mr_advance(w->s, w->other, n, MR_WANT_NONE, NULL, 0, NULL));
    } else if (what == 4) {
        go_back(w);
    } else if (what > 4) {
        change_over(w);
    }
}

static void walk_through(const char *dir, const char *precision, uint64_t first)
{
    walk w = {0};
    size_t bytes, same;
    seed = first;
    w.engine[0] = open_engine(dir, &(mr_engine_opts){.precision = precision, .threads = 1});
    w.engine[1] = open_engine(
        dir, &(mr_engine_opts){.precision = precision, .threads = 2, .cpu = "c", .chunk = 16});
    const mr_engine_info *i = mr_engine_facts(w.engine[0]);
    w.unit = i->diffusion && !i->canvas ? i->block_length : 1;
    some_ids(w.ids, MOST + 64, i->vocab);
    for (int k = 0; k < LONGEST * 64; k++)
        w.other[k] = (int32_t)below(i->vocab);
    w.s = new_session(w.engine[0]);
    for (int k = 0; k < 40; k++)
        step(&w);
    int64_t length = mr_session_length(w.s);
    mr_session *t = new_session(w.engine[0]);
    if (length)
        feed(t, w.ids, length);
    float *a = answer(w.s, w.ids + length, &bytes), *b = answer(t, w.ids + length, &same);
    assert_int_equal(bytes, same);
    if (memcmp(a, b, bytes) != 0)
        fail_msg("%s, %s, seed %d: other bytes after %d positions", dir, precision, (int)first,
                 (int)length);
    free(a);
    free(b);
    mr_session_free(t);
    mr_session_free(w.s);
    mr_engine_close(w.engine[0]);
    mr_engine_close(w.engine[1]);
}

static const char *const families[] = {
    "llama3",        "gemma1-2b",       "gemma2-2b",    "gemma3-1b",   "gemma4-e2b", "dsv2-lite",
    "dsv3",          "gemma4-26b-a4b",  "qwen3-window", "qwen3-moe",   "qwen3-next", "qwen3.5-moe",
    "qwen3.5-conv1", "diffusion-gemma", "llada2-base",  "llada2-route"};
enum { FAMILIES = sizeof families / sizeof *families };

static void test_walks(void **state)
{
    char dir[64];
    (void)state;
    for (int i = 0; i < FAMILIES; i++) {
        snprintf(dir, sizeof dir, "tests/vectors/%s", families[i]);
        for (uint64_t k = 1; k <= 4; k++)
            walk_through(dir, k % 2 ? "exact" : "fast", 100 * (uint64_t)i + k);
    }
}

/* ---- states with a right checksum ---- */

static void mend(saved *k)
{
    mr_crc crc;
    mr_crc_begin(&crc);
    mr_crc_add(&crc, k->data, k->bytes - MR_STATE_CRC);
    for (int i = 0; i < MR_STATE_CRC; i++)
        k->data[k->bytes - MR_STATE_CRC + (uint64_t)i] = (uint8_t)(mr_crc_value(&crc) >> 8 * i);
}

/* Fields of the head, ids and rows changed; often another size, which the head then says. */
static void harm(saved *k)
{
    static const uint64_t odd[] = {0, 1, 7, 255, 1u << 31, UINT32_MAX, UINT64_MAX / 4, UINT64_MAX};
    int64_t head = MR_STATE_HEAD / 8, changes = 1 + below(3);
    if (below(3) == 0) {
        k->bytes = MR_STATE_HEAD + MR_STATE_CRC +
                   (uint64_t)below((int64_t)k->bytes - MR_STATE_HEAD - MR_STATE_CRC + 1);
        memcpy(k->data + MR_STATE_HEAD - 8, &k->bytes, 8);
    }
    for (int64_t i = 0; i < changes; i++) {
        uint64_t at = 8 * (uint64_t)below(head), v;
        if (below(2))
            at = (uint64_t)below((int64_t)k->bytes / 8) * 8;
        if (at + 8 > k->bytes)
            continue;
        memcpy(&v, k->data + at, 8);
        v = below(2)   ? odd[below(8)]
            : below(2) ? v + (uint64_t)below(5) - 2
                       : v ^ 1ull << below(64);
        memcpy(k->data + at, &v, 8);
    }
    mend(k);
}

static void test_hostile(void **state)
{
    static const char *const dirs[] = {"gemma3-1b", "qwen3-next", "dsv3", "llada2-base",
                                       "diffusion-gemma"};
    char dir[64];
    int taken = 0;
    (void)state;
    seed = 5;
    for (int i = 0; i < 5; i++) {
        snprintf(dir, sizeof dir, "tests/vectors/%s", dirs[i]);
        mr_engine *e = open_engine(dir, &(mr_engine_opts){.context = 256});
        const mr_engine_info *info = mr_engine_facts(e);
        int64_t unit = info->diffusion && !info->canvas ? info->block_length : 1;
        int32_t ids[128];
        some_ids(ids, 128, info->vocab);
        mr_session *s = new_session(e), *t = new_session(e);
        feed(s, ids, 4 * unit);
        feed(t, ids + 3, unit);
        saved good = take_state(s);
        for (int n = 0; n < 300; n++) {
            saved bad = {malloc(good.bytes), good.bytes};
            memcpy(bad.data, good.data, good.bytes);
            harm(&bad);
            int64_t held = mr_session_length(t);
            mr_status st = mr_state_read(t, bad.data, bad.bytes);
            free(bad.data);
            if (st) {
                assert_true(mr_error_text()[0] && !strchr(mr_error_text(), '\n'));
                assert_int_equal(mr_session_length(t), held);
                continue;
            }
            size_t bytes;
            taken++;
            assert_true(mr_session_length(t) >= 0 && mr_session_length(t) <= 4 * unit);
            free(answer(t, ids, &bytes));
            mr_truncate(t, mr_session_length(t) / unit / 2 * unit); /* or refused */
        }
        free(good.data);
        mr_session_free(s);
        mr_session_free(t);
        mr_engine_close(e);
    }
    assert_true(taken > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_walks),
                                       cmocka_unit_test(test_hostile)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
