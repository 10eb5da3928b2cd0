/* The decoders of block diffusion on made-up logits: ties, thresholds met exactly, caps, blocks that
 * are decided already, end ids in the middle, masks that are their own best token. */
#include "run_test.h"

#include <math.h>

#include "run/decoder.h"

enum { V = 16, B = 8, MASK = 15, EOS = 14, SPLIT = 13, DELETE = 12 };

/* What a row thinks: its best token and that token's probability; 0.5 is met exactly, by a tie with
 * `other` (a higher id) where nothing else is possible. */
typedef struct thought {
    int32_t tok;
    double p;
    int32_t other;
} thought;

static mr_engine_info facts(void)
{
    mr_engine_info i = {.model_type = "test",
                        .path = "test",
                        .vocab = V,
                        .diffusion = true,
                        .block_length = B,
                        .decoder = "llada2.0",
                        .mask_id = MASK,
                        .delete_id = DELETE,
                        .split_id = SPLIT};
    i.eos[i.n_eos++] = EOS;
    i.max_denoising_steps = i.t_min = i.t_max = i.entropy_bound = NAN;
    i.stability_threshold = i.confidence_threshold = NAN;
    return i;
}

typedef struct bench {
    mr_engine_info info;
    mr_generate_opts o;
    mr_decoder *d;
    mr_block b;
    int32_t ids[4 * B];
    thought row[B]; /* what the next forward says of each row */
    mr_verdict verdict;
    int64_t asked; /* rows of the last forward */
} bench;

static void set_up(bench *t, const char *decoder)
{
    *t = (bench){.info = facts()};
    mr_generate_defaults(&t->o);
    t->o.decoder = decoder;
    for (int i = 0; i < 4 * B; i++)
        t->ids[i] = MASK;
    for (int i = 0; i < B; i++)
        t->row[i] = (thought){i, 0.3, -1};
    t->b = (mr_block){.all = t->ids, .size = B};
}

static void begin(bench *t)
{
    assert_ok(mr_decoder_open(&t->d, &t->info, &t->o, 4 * B));
    t->d->kind->enter(t->d, &t->b);
}

static void write_logits(const bench *t, float *l, int32_t row)
{
    const thought *w = &t->row[row];
    for (int v = 0; v < V; v++)
        l[v] = w->other >= 0 ? -INFINITY : 0;
    l[w->tok] = w->other >= 0 ? 1 : (float)log(w->p * (V - 1) / (1 - w->p));
    if (w->other >= 0)
        l[w->other] = 1;
}

/* One forward and the decoder's answer; false: the block was over before. */
static bool step(bench *t)
{
    float logits[B * V];
    if (t->d->kind->next(t->d, &t->b) != MR_GO_ON)
        return false;
    t->asked = t->d->n_rows;
    for (int64_t k = 0; k < t->d->n_rows; k++)
        write_logits(t, logits + k * V, t->d->row[k]);
    assert_ok(t->d->kind->decide(t->d, &t->b, logits, &t->verdict));
    return true;
}

static void end(bench *t)
{
    mr_decoder_close(t->d);
}

#define assert_block(t, ...)                                                                       \
    do {                                                                                           \
        const int32_t want_[] = {__VA_ARGS__};                                                     \
        assert_int_equal(sizeof want_ / sizeof *want_, B);                                         \
        for (int i_ = 0; i_ < B; i_++)                                                             \
            if ((t)->ids[(t)->b.start + i_] != want_[i_])                                          \
                fail_msg("row %d is %d, expected %d", i_, (t)->ids[(t)->b.start + i_], want_[i_]); \
    } while (0)

#define M MASK

/* ---- 2.0 ---- */

static void v20_shares_and_ties(void **state)
{
    (void)state;
    bench t;
    set_up(&t, "llada2.0");
    t.o.steps = 3; /* shares 3, 3, 2 */
    begin(&t);
    assert_true(step(&t)); /* all equally sure: the lowest positions */
    assert_block(&t, 0, 1, 2, M, M, M, M, M);
    t.row[7].p = 0.9;
    t.row[3].p = t.row[4].p = 0.5;
    assert_true(step(&t) && t.asked == 5);
    assert_block(&t, 0, 1, 2, 3, 4, M, M, 7);
    assert_true(step(&t) && t.asked == 2);
    assert_block(&t, 0, 1, 2, 3, 4, 5, 6, 7);
    assert_true(!step(&t)); /* all decided */
    end(&t);
}

static void v20_threshold_is_strict(void **state)
{
    (void)state;
    for (int over = 0; over < 2; over++) {
        bench t;
        set_up(&t, "llada2.0");
        t.o.steps = 8;
        t.o.threshold = over ? 0.4999 : 0.5;
        for (int i = 0; i < B; i++)
            t.row[i] = (thought){i, 0.5, 10}; /* exactly a half each */
        begin(&t);
        assert_true(step(&t));
        if (over)
            assert_block(&t, 0, 1, 2, 3, 4, 5, 6, 7);
        else
            assert_block(&t, 0, M, M, M, M, M, M, M);
        end(&t);
    }
}

static void v20_early_stop(void **state)
{
    (void)state;
    bench t;
    set_up(&t, "llada2.0");
    t.o.steps = 8;
    t.o.eos_early_stop = true;
    t.ids[0] = EOS; /* the prompt's, which does not count */
    t.b.prompt = 1;
    begin(&t);
    t.row[3] = (thought){EOS, 0.9, -1};
    assert_true(step(&t) && t.verdict == MR_GO_ON); /* 1 and 2 are masks yet */
    t.row[1].p = 0.9;
    assert_true(step(&t) && t.verdict == MR_GO_ON);
    t.row[5] = (thought){EOS, 0.9, -1};
    assert_true(step(&t) && t.verdict == MR_GO_ON); /* the first end id is not resolved */
    t.row[2].p = 0.9;
    assert_true(step(&t) && t.verdict == MR_GO_ON); /* only a step that takes an end id looks */
    assert_block(&t, EOS, 1, 2, EOS, M, EOS, M, M);
    t.row[7] = (thought){EOS, 0.9, -1};
    assert_true(step(&t) && t.verdict == MR_ALL_DONE);
    assert_true(t.d->kind->ends(t.d, &t.b));
    end(&t);
}

static void v20_mask_starves(void **state)
{
    (void)state;
    bench t;
    set_up(&t, "llada2.0");
    t.o.steps = 10; /* two steps without a share */
    t.row[2] = (thought){MASK, 0.9, -1};
    begin(&t);
    for (int i = 0; i < 10; i++)
        assert_true(step(&t) && t.verdict == MR_GO_ON);
    assert_block(&t, M, M, M, M, M, M, M, M);
    assert_true(!step(&t));
    end(&t);
}

/* ---- 2.1 ---- */

static void v21_edits(void **state)
{
    (void)state;
    bench t;
    set_up(&t, "llada2.1");
    t.o.threshold = 0.6;
    t.o.editing_threshold = 0.5;
    t.o.num_to_transfer = 3;
    t.ids[0] = 9;
    t.b.prompt = 1;
    begin(&t);
    assert_true(step(&t) && t.asked == 7);
    assert_block(&t, 9, 1, 2, 3, M, M, M, M); /* three at least; the prompt stays */
    t.row[1] = (thought){5, 0.9, -1};
    t.row[2] = (thought){5, 0.5, 10}; /* exactly the threshold: no edit */
    t.row[3] = (thought){3, 0.99, -1};
    for (int i = 4; i < B; i++)
        t.row[i].p = 0.7;
    assert_true(step(&t) && t.verdict == MR_GO_ON);
    assert_block(&t, 9, 5, 2, 3, 4, 5, 6, 7);
    t.row[4] = (thought){11, 0.8, -1};
    assert_true(step(&t) && t.verdict == MR_GO_ON);
    assert_block(&t, 9, 5, 2, 3, 11, 5, 6, 7);
    assert_true(step(&t) && t.verdict == MR_BLOCK_DONE); /* nothing left to edit */
    end(&t);
}

static void v21_caps(void **state)
{
    (void)state;
    for (int post = 0; post < 3; post++) { /* an edit at every step: only the cap ends it */
        bench t;
        set_up(&t, "llada2.1");
        t.o.editing_threshold = 0;
        t.o.max_post_steps = post;
        t.o.num_to_transfer = 8;
        begin(&t);
        assert_true(step(&t));
        int steps = 0;
        for (t.row[0].tok = 9; step(&t); steps++)
            t.row[0].tok = 9 + (t.row[0].tok == 9);
        assert_int_equal(steps, post);
        end(&t);
    }
    bench t;
    set_up(&t, "llada2.1");
    t.o.max_steps_per_block = 2;
    begin(&t);
    assert_true(step(&t) && step(&t) && !step(&t));
    assert_block(&t, 0, 1, M, M, M, M, M, M);
    end(&t);
}

static void v21_mask_ends(void **state)
{
    (void)state;
    bench t;
    set_up(&t, "llada2.1");
    t.row[3] = (thought){MASK, 0.9, -1};
    begin(&t);
    assert_true(step(&t) && t.verdict == MR_BLOCK_DONE); /* every later step would be this one */
    end(&t);
    set_up(&t, "llada2.1");
    t.o.eos_early_stop = true;
    t.row[3] = (thought){EOS, 0.3, -1};
    t.o.num_to_transfer = 8;
    t.o.editing_threshold = 1; /* never: decided rows are not asked for */
    begin(&t);
    assert_true(step(&t) && t.asked == 8);
    assert_true(step(&t) && t.asked == 0 && t.verdict == MR_BLOCK_DONE);
    assert_true(t.d->kind->ends(t.d, &t.b));
    t.ids[1] = MASK;
    assert_true(!t.d->kind->ends(t.d, &t.b));
    end(&t);
}

/* ---- 2.2 ---- */

static void v22_deletes_and_splits(void **state)
{
    (void)state;
    bench t;
    set_up(&t, "llada2.2");
    t.o.steps = 8;
    t.o.editing_threshold = 0.5;
    t.ids[0] = DELETE; /* the prompt's stays */
    t.b.prompt = 1;
    for (int i = 1; i < B; i++)
        t.row[i].p = 0.9;
    begin(&t);
    assert_true(step(&t) && t.asked == 7);
    assert_block(&t, DELETE, 1, 2, 3, 4, 5, 6, 7);
    t.row[2] = (thought){DELETE, 0.9, -1};
    t.row[5] = (thought){SPLIT, 0.9, -1};
    assert_true(step(&t) && t.verdict == MR_GO_ON);
    assert_block(&t, DELETE, 1, 3, 4, M, 5, 6, 7);
    for (int i = 1; i < B; i++)
        t.row[i] = (thought){t.ids[i] == M ? 9 : t.ids[i], 0.9, -1};
    t.row[1] = (thought){SPLIT, 0.9, -1}; /* what falls off the end is gone */
    assert_true(step(&t));
    assert_block(&t, DELETE, M, 1, 3, 4, 9, 5, 6);
    for (int i = 1; i < B; i++)
        t.row[i] = (thought){i == 1 ? 8 : t.ids[i], 0.9, -1};
    t.row[7] = (thought){DELETE, 0.9, -1};
    assert_true(step(&t)); /* padded with a mask that the schedule knows nothing of */
    assert_block(&t, DELETE, 8, 1, 3, 4, 9, 5, M);
    t.row[7] = (thought){7, 0.2, -1};
    assert_true(step(&t));
    assert_block(&t, DELETE, 8, 1, 3, 4, 9, 5, 7);
    t.row[7].p = 0.9;
    assert_true(step(&t) && t.verdict == MR_BLOCK_DONE);
    end(&t);
}

static void v22_last_step(void **state)
{
    (void)state;
    bench t;
    set_up(&t, "llada2.2");
    t.o.max_steps_per_block = 2;
    t.o.steps = 8;
    begin(&t);
    assert_true(step(&t));
    assert_block(&t, 0, M, M, M, M, M, M, M);
    t.row[3] = (thought){DELETE, 0.9, -1}; /* gives way to the best plain token, the lowest id */
    t.row[5] = (thought){MASK, 0.9, -1};   /* the mask is never a choice */
    assert_true(step(&t) && t.verdict == MR_GO_ON);
    assert_block(&t, 0, 1, 2, 0, 4, 0, 6, 7);
    assert_true(step(&t) && t.asked == 0 && t.verdict == MR_BLOCK_DONE);
    end(&t);
}

static void v22_escapes(void **state)
{
    (void)state;
    bench t;
    set_up(&t, "llada2.2");
    for (int i = 0; i < B; i++)
        t.row[i].p = 0.9;
    begin(&t);
    assert_true(step(&t)); /* 0..7 */
    t.row[2] = (thought){9, 0.9, -1};
    assert_true(step(&t)); /* 9 for 2 */
    t.row[2] = (thought){2, 0.8, -1};
    assert_true(step(&t)); /* would be the first state again: 2's second best, the lowest id */
    assert_block(&t, 0, 1, 0, 3, 4, 5, 6, 7);
    end(&t);
}

/* ---- dInfer ---- */

static void dinfer_threshold(void **state)
{
    (void)state;
    bench t;
    set_up(&t, "dinfer-threshold");
    t.o.threshold = 0.5;
    for (int i = 0; i < 3; i++)
        t.row[i] = (thought){i, 0.5, 10}; /* not below the threshold: taken */
    t.row[3] = (thought){MASK, 0.99, -1};
    begin(&t);
    assert_true(step(&t));
    assert_block(&t, 0, 1, 2, M, M, M, M, M);
    t.row[6].p = 0.4; /* none above: the best, and what is within 1e-5 of it */
    assert_true(step(&t));
    assert_block(&t, 0, 1, 2, M, M, M, 6, M);
    for (int i = 0; i < B; i++)
        t.row[i] = (thought){MASK, 0.9, -1};
    assert_true(step(&t) && t.verdict == MR_BLOCK_DONE);
    assert_true(!t.d->kind->ends(t.d, &t.b));
    t.b.prompt = 3;
    t.ids[1] = EOS; /* the prompt's tail counts */
    assert_true(t.d->kind->ends(t.d, &t.b) && t.d->kind->fills_end);
    end(&t);
}

static void dinfer_credit(void **state)
{
    (void)state;
    bench t;
    set_up(&t, "dinfer-credit");
    t.o.threshold = 0.75;
    for (int i = 0; i < B; i++)
        t.row[i] = (thought){i, 0.3, -1};
    t.row[0].p = 0.74; /* not above without its credit of 0.74^0.2 */
    t.row[1] = (thought){MASK, 0.9, -1};
    begin(&t);
    assert_true(step(&t));
    assert_block(&t, 0, M, M, M, M, M, M, M);
    for (int i = 1; i < B; i++)
        t.row[i] = (thought){MASK, 0.9, -1};
    assert_true(step(&t) && t.verdict == MR_BLOCK_DONE); /* no row has another best token */
    end(&t);
}

static void dinfer_hierarchy(void **state)
{
    (void)state;
    bench t;
    set_up(&t, "dinfer-hierarchy");
    t.o.threshold = 0.9;
    t.o.low_threshold = 0.4;
    t.ids[3] = 3;
    t.row[1].p = t.row[2].p = 0.45; /* the best of the first run: the lower */
    t.row[5].p = 0.35;              /* of the second, below the low threshold */
    begin(&t);
    assert_true(step(&t));
    assert_block(&t, M, 1, M, 3, M, M, M, M);
    t.row[0].p = t.row[2].p = 0.2;
    t.row[4].p = 0.95;
    t.row[7].p = 0.92;
    assert_true(step(&t)); /* above the threshold, whatever their run */
    assert_block(&t, M, 1, M, 3, 4, M, M, 7);
    t.row[5].p = 0.1;
    t.row[6].p = 0.1;
    t.row[0].p = 0.3;
    assert_true(step(&t)); /* none: the best of all */
    assert_block(&t, 0, 1, M, 3, 4, M, M, 7);
    t.row[2] = (thought){MASK, 0.5, -1};
    t.row[5] = t.row[6] = (thought){MASK, 0.3, -1};
    assert_true(step(&t) && t.verdict == MR_BLOCK_DONE);
    end(&t);
}

/* ---- what is refused ---- */

static void settings(void **state)
{
    (void)state;
    bench t;
    mr_decoder *d;
    set_up(&t, "llada2.2");
    t.info.delete_id = -1;
    assert_refused(mr_decoder_open(&d, &t.info, &t.o, 8), MR_STATUS_USAGE, "delete_token_id");
    t.info.delete_id = V;
    assert_refused(mr_decoder_open(&d, &t.info, &t.o, 8), MR_STATUS_FORMAT, "delete id 16");
    set_up(&t, "llada2.0");
    t.o.minimal_topk = 9;
    assert_refused(mr_decoder_open(&d, &t.info, &t.o, 8), MR_STATUS_USAGE, "leaves no step");
    set_up(&t, "llada2.0");
    t.o.threshold = NAN;
    assert_refused(mr_generate_check(&t.info, &t.o), MR_STATUS_USAGE, "threshold: nan");
    set_up(&t, "canvas");
    assert_refused(mr_generate_check(&t.info, &t.o), MR_STATUS_USAGE, "has no canvas");
    set_up(&t, "llada2.0");
    t.info.canvas = 8;
    assert_refused(mr_generate_check(&t.info, &t.o), MR_STATUS_USAGE, "denoises canvases");
    t.o.decoder = "canvas";
    t.o.top_k = 4;
    assert_refused(mr_generate_check(&t.info, &t.o), MR_STATUS_USAGE, "top_k");
    t.o.top_k = 0;
    t.o.temperature = 0.5;
    assert_refused(mr_generate_check(&t.info, &t.o), MR_STATUS_USAGE, "neither 0 nor 1");
    t.o.temperature = 1;
    t.o.t_max = 0;
    assert_refused(mr_generate_check(&t.info, &t.o), MR_STATUS_USAGE, "t_max: 0 is not in");
    t.o.t_max = -1;
    t.info.entropy_bound = -3; /* generation_config.json's */
    assert_refused(mr_generate_check(&t.info, &t.o), MR_STATUS_USAGE, "entropy_bound: -3");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(v20_shares_and_ties), cmocka_unit_test(v20_threshold_is_strict),
        cmocka_unit_test(v20_early_stop),      cmocka_unit_test(v20_mask_starves),
        cmocka_unit_test(v21_edits),           cmocka_unit_test(v21_caps),
        cmocka_unit_test(v21_mask_ends),       cmocka_unit_test(v22_deletes_and_splits),
        cmocka_unit_test(v22_last_step),       cmocka_unit_test(v22_escapes),
        cmocka_unit_test(dinfer_threshold),    cmocka_unit_test(dinfer_credit),
        cmocka_unit_test(dinfer_hierarchy),    cmocka_unit_test(settings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
