/* The reference backend's own duties: memory of caches and weights, refusals, failed allocations. */
#include "compile/harness.h"

static const mr_cache_desc caches[2] = {{"a", 2, 8, 4, 0, false}, {"b", 1, 16, 0, 3, false}};

static void caches_hold_what_they_say(void **state)
{
    (void)state;
    mr_backend *b = open_ref();
    mr_kv *kv;
    size_t before = mr_mem_held(MR_MEM_KV);
    OK(b->v->kv_new(b, caches, 2, 200, 8, &kv));
    size_t empty = mr_mem_held(MR_MEM_KV);
    assert_int_equal(b->v->kv_bytes(b, kv), 0);
    for (int64_t len = 1; len <= 200; len += 33) {
        OK(b->v->kv_reserve(b, kv, len));
        size_t blocks = (size_t)(len + 63) / 64;
        assert_int_equal(b->v->kv_bytes(b, kv), blocks * 64 * (2 * 12 + 16) * 4);
        assert_int_equal(b->v->kv_need(b, caches, 2, len, 8), b->v->kv_bytes(b, kv));
        assert_int_equal(mr_mem_held(MR_MEM_KV) - empty, b->v->kv_bytes(b, kv));
    }
    OK(b->v->kv_reserve(b, kv, 10)); /* never shrinks */
    assert_int_equal(b->v->kv_bytes(b, kv), 256 * (2 * 12 + 16) * 4);
    assert_int_equal(b->v->kv_reserve(b, kv, 201), MR_ELIMIT);
    assert_non_null(strstr(mr_error(), "made for 200 positions, 201 are needed"));
    b->v->kv_free(b, kv);
    b->v->kv_free(b, NULL);
    assert_int_equal(mr_mem_held(MR_MEM_KV), before);
    b->v->close(b);
}

static void failed_reserve_can_be_repeated(void **state)
{
    (void)state;
    mr_backend *b = open_ref();
    mr_kv *kv;
    for (uint64_t n = 1; n <= 3; n++) {
        OK(b->v->kv_new(b, caches, 2, 200, 8, &kv));
        mr_mem_fail_after(n);
        assert_int_equal(b->v->kv_reserve(b, kv, 100), MR_ENOMEM);
        mr_mem_fail_after(0);
        assert_int_equal(b->v->kv_bytes(b, kv), 0);
        OK(b->v->kv_reserve(b, kv, 100));
        b->v->kv_free(b, kv);
    }
    for (uint64_t n = 1; n <= 2; n++) {
        size_t held = mr_mem_held(MR_MEM_COUNT);
        mr_mem_fail_after(n);
        assert_int_equal(b->v->kv_new(b, caches, 2, 200, 8, &kv), MR_ENOMEM);
        mr_mem_fail_after(0);
        assert_int_equal(mr_mem_held(MR_MEM_COUNT), held);
    }
    b->v->close(b);
}

#define GRAPH                                                                                      \
    "graph \"g\" { %x: f32[ROWS,8] = input name=\"x\" %pos: i32[ROWS] = input name=\"pos\"\n"      \
    "%w: weight<q8_0>[8,64] = weight recipe=\"w@8x64@q8_0\" %k = heads(%x) n=1\n"                  \
    "%c: cache = cache name=\"c\" heads=1 dk=8 dv=8 %d = append(%c, %k, %k, %pos)\n"               \
    "%a = attention(%k, %d, %pos) mask=\"causal\" scale=1 dv=8 %y = heads(%a) n=0\n"               \
    "%z = concat(%y, %y) %z2 = concat(%z, %z) %z4 = concat(%z2, %z2) %l = linear(%z4, %w)\n"       \
    "output %l as \"y\" }"

static void positions_are_checked(void **state)
{
    (void)state;
    static const float x[16];
    static const int32_t pos[2] = {0, 1}, bad[][2] = {{0, 64}, {-1, 0}, {0, INT32_MAX}};
    mr_backend *b = open_ref();
    mr_graph *g = graph_of_text("g", GRAPH);
    machine m;
    machine_open(&m, b, g, 2, 0, NULL);
    for (int i = 0; i < 3; i++) {
        named in[] = {{"x", x}, {"pos", bad[i]}};
        assert_int_equal(machine_try(&m, 2, 0, pos, NULL, in, 2), MR_EUSAGE);
        assert_non_null(strstr(mr_error(), "step 0 (append): position"));
        assert_non_null(strstr(mr_error(), "is not in 0..63, which the session holds"));
    }
    machine_close(&m);
    mr_graph_free(g);
    b->v->close(b);
}

static void failed_loads_leak_nothing(void **state)
{
    (void)state;
    mr_backend *b = open_ref();
    mr_graph *g = graph_of_text("g", GRAPH);
    mr_arena *arena;
    mr_recipe *r;
    mr_weight *w = NULL;
    size_t bytes;
    tensors t = {.n = 0};
    OK(mr_arena_new(&arena, MR_MEM_COMPILE));
    OK(mr_recipe_parse(&r, "w@8x64@q8_0", arena));
    OK(mr_recipe_bind(r, made_up_lookup, &t));
    OK(b->v->weight_bytes(b, g, 2, &bytes));
    assert_int_equal(bytes, 8 * 64 * 4);
    for (uint64_t n = 1;; n++) {
        size_t held = mr_mem_held(MR_MEM_COUNT);
        mr_mem_fail_after(n);
        mr_err err = b->v->weight_load(b, g, 2, r, made_up_read, &t, &w);
        mr_mem_fail_after(0);
        if (err == MR_OK)
            break;
        assert_int_equal(err, MR_ENOMEM);
        assert_int_equal(mr_mem_held(MR_MEM_COUNT), held);
    }
    b->v->weight_free(b, w);
    b->v->weight_free(b, NULL);
    mr_arena_free(arena);
    mr_graph_free(g);
    b->v->close(b);
}

/* A recipe that gives something else than the graph declares. */
static void weights_must_fit(void **state)
{
    (void)state;
    mr_backend *b = open_ref();
    mr_graph *g = graph_of_text("g", GRAPH);
    mr_arena *arena;
    mr_recipe *r;
    mr_weight *w = NULL;
    tensors t = {.n = 0};
    OK(mr_arena_new(&arena, MR_MEM_COMPILE));
    OK(mr_recipe_parse(&r, "w@9x64@q8_0", arena));
    OK(mr_recipe_bind(r, made_up_lookup, &t));
    assert_int_equal(b->v->weight_load(b, g, 2, r, made_up_read, &t, &w), MR_EFORMAT);
    assert_null(w);
    mr_arena_free(arena);
    mr_graph_free(g);
    b->v->close(b);
}

static void only_exact(void **state)
{
    (void)state;
    mr_backend *b = NULL;
    assert_int_equal(mr_backend_ref(&b, &(mr_backend_opts){.threads = 1, .precision = MR_FAST}),
                     MR_EUNSUPPORTED);
    assert_non_null(strstr(mr_error(), "backend ref: precision fast"));
    assert_null(b);
    assert_string_equal(mr_precision_name(MR_EXACT), "exact");
    assert_string_equal(mr_precision_name(MR_NATIVE), "native");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(caches_hold_what_they_say),
        cmocka_unit_test(failed_reserve_can_be_repeated),
        cmocka_unit_test(positions_are_checked),
        cmocka_unit_test(failed_loads_leak_nothing),
        cmocka_unit_test(weights_must_fit),
        cmocka_unit_test(only_exact),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
