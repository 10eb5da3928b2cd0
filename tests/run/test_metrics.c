/* What a build costs, in numbers that do not vary: tests/run/metrics.csv, compared exactly.
 *
 *     test_metrics [--update]
 *
 * --update rewrites the file; the difference is for review.  Columns: nodes of the graph as built
 * and as fused; steps of a plan; arena bytes of the two plans; bytes of the packed weights; of them
 * read for one token; KV bytes that 512 positions hold.  All in `fast`, with the kernels in C: other
 * instruction sets may pack alike, but need not. */
#include "run_test.h"

#include "run/session.h"

static const char file[] = "tests/run/metrics.csv";
static const char header[] = "model,nodes built,nodes fused,steps,arena decode,arena prefill,"
                             "weights,weights per token,KV at 512\n";
static const char *const models[] = {
    "models/gemma3-stories",       "models/deepseek-v3-stories", "models/llada2-stories",
    "tests/vectors/gemma3-1b",     "tests/vectors/dsv3",         "tests/vectors/moonlight",
    "tests/vectors/llama3",        "tests/vectors/llada2-base",  "tests/vectors/mlx-gemma3-4bit",
    "tests/vectors/mlx-dsv3-4bit", "tests/vectors/gemma4-e2b",   "tests/vectors/gemma4-26b-a4b"};
static bool update;

static int nodes_built(mr_engine *e)
{
    mr_graph *g;
    assert_ok(mr_model_build(e->model, &g));
    int n = mr_graph_nodes(g);
    mr_graph_free(g);
    return n;
}

/* A session's caches hold what their plan says, whatever is in them. */
static int64_t kv_bytes(mr_engine *e)
{
    mr_kv *kv;
    const mr_plan *p = e->prefill.plan;
    assert_ok(e->backend->v->kv_new(e->backend, p->caches, p->n_caches, 8192, p->row_cap, &kv));
    assert_ok(e->backend->v->kv_reserve(e->backend, kv, 512));
    int64_t bytes = (int64_t)e->backend->v->kv_bytes(e->backend, kv);
    e->backend->v->kv_free(e->backend, kv);
    return bytes;
}

static void measure(const char *model, mr_buf *out)
{
    mr_engine *e = open_engine(model, &(mr_engine_opts){.threads = 1, .cpu = "c"});
    mr_buf_printf(out, "%s,%d,%d,%d,%lld,%lld,%llu,%llu,%lld\n", model, nodes_built(e),
                  mr_graph_nodes(e->graph), e->decode.plan->n_steps,
                  (long long)e->decode.plan->arena_bytes, (long long)e->prefill.plan->arena_bytes,
                  (unsigned long long)mr_engine_facts(e)->weight_bytes,
                  (unsigned long long)mr_engine_bytes_per_token(e), (long long)kv_bytes(e));
    assert_int_equal(e->decode.plan->n_steps, e->prefill.plan->n_steps);
    mr_engine_close(e);
}

/* The line of a text that begins where `at` points, with its newline. */
static size_t line_length(const char *at)
{
    const char *end = strchr(at, '\n');
    return end ? (size_t)(end - at) + 1 : strlen(at);
}

static void compare(const char *want, const char *got)
{
    int wrong = 0;
    while (*want || *got) {
        size_t w = line_length(want), g = line_length(got);
        if (w != g || memcmp(want, got, w) != 0) {
            print_error("in the file  %.*sin the build %.*s", (int)w, want, (int)g, got);
            wrong++;
        }
        want += w;
        got += g;
    }
    if (wrong)
        fail_msg("%d lines of %s differ (test_metrics --update rewrites it)", wrong, file);
}

static void test_metrics(void **state)
{
    (void)state;
    mr_buf b = {0};
    mr_buf_puts(&b, header);
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        measure(models[i], &b);
    assert_ok(mr_buf_check(&b));
    if (update) {
        mr_out o;
        assert_ok(mr_out_open(&o, file));
        mr_out_write(&o, b.data, b.len);
        assert_ok(mr_out_commit(&o));
    } else {
        char *text;
        size_t len;
        assert_ok(mr_file_read_all(file, 1 << 20, MR_MEM_OTHER, &text, &len));
        compare(text, b.data);
        mr_free(text);
    }
    mr_buf_free(&b);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_metrics)};
    update = argc > 1 && strcmp(argv[1], "--update") == 0;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
