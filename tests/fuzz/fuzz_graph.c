/* Fuzz target: any bytes as the text of a graph, then everything that can be done with the graph.
 *
 * What must hold beside not crashing: an error is one line that begins with the file's name; what
 * was accepted passes the verifier, prints, parses back and prints the same; its expansion passes
 * too and has nothing fused; the JSON is JSON; a recipe's rows are the same asked for at once or
 * one by one; and what was held before is held after.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "ir/recipe.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "fuzz_graph: line %d: %s (%s)\n", __LINE__, #condition, mr_error());   \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static mr_graph *reparse(const mr_graph *g, mr_buf *text)
{
    mr_graph *h;
    REQUIRE(mr_graph_print(g, text) == MR_OK);
    REQUIRE(mr_graph_parse(&h, "again", text->data, text->len) == MR_OK);
    return h;
}

static void round_trip(const mr_graph *g)
{
    mr_buf a = {0}, b = {0};
    mr_graph *h = reparse(g, &a);
    mr_graph_free(reparse(h, &b));
    REQUIRE(strcmp(a.data, b.data) == 0);
    mr_graph_free(h);
    mr_buf_free(&a);
    mr_buf_free(&b);
}

static void draw(const mr_graph *g)
{
    mr_buf b = {0};
    mr_json *doc;
    REQUIRE(mr_graph_json(g, &b) == MR_OK);
    REQUIRE(mr_json_parse(&doc, "json", b.data, b.len) == MR_OK);
    mr_json_free(doc);
    mr_buf_clear(&b);
    REQUIRE(mr_graph_dot(g, &b) == MR_OK);
    mr_buf_clear(&b);
    mr_err e = mr_graph_svg(g, &b);
    REQUIRE(e == MR_OK || e == MR_ELIMIT);
    mr_buf_free(&b);
}

static void expand(const mr_graph *g)
{
    mr_graph *h;
    REQUIRE(mr_graph_expand(g, &h) == MR_OK);
    REQUIRE(mr_graph_verify(h) == MR_OK);
    for (int i = 0; i < mr_graph_nodes(h); i++)
        REQUIRE(!mr_op_get(mr_graph_node(h, i)->op)->fused);
    mr_graph_free(h);
}

/* A tensor of every name: rows from its last letter, f32 or q8_0 by its first. */
static mr_err lookup(void *ctx, const char *name, mr_stored *out)
{
    size_t n = strlen(name);
    int *left = ctx;
    if (--*left < 0)
        return mr_fail(MR_EFORMAT, "too many tensors");
    *out = (mr_stored){.fmt = {.dtype = name[0] & 1 ? MR_F32 : MR_Q8_0},
                       .rows = 1 + (unsigned char)name[n - 1] % 24,
                       .k = 32};
    return MR_OK;
}

static mr_err reader(void *ctx, const mr_stored *t, int64_t row0, int64_t n, void *buf,
                     mr_rows *out)
{
    (void)ctx;
    size_t row = mr_row_bytes(t->fmt.dtype, 0, t->k);
    REQUIRE(row0 >= 0 && n > 0 && row0 + n <= t->rows);
    for (int64_t i = 0; i < n; i++)
        memset((char *)buf + (size_t)i * row, (int)(row0 + i + 1), row);
    *out = (mr_rows){.dtype = t->fmt.dtype, .n = n, .k = t->k, .data = buf};
    return MR_OK;
}

static void read_rows(const mr_recipe *r)
{
    int64_t n = mr_recipe_total(r), k = mr_recipe_k(r);
    float *a = malloc((size_t)k * sizeof *a), *b = malloc((size_t)k * sizeof *b);
    mr_recipe_scratch whole = {0}, one = {0};
    mr_rows all, x;
    REQUIRE(mr_recipe_rows(r, 0, n, reader, NULL, &whole, &all) == MR_OK);
    REQUIRE(a && b && all.n == n && all.k == k);
    for (int64_t i = 0; i < n && i < 256; i++) {
        REQUIRE(mr_recipe_rows(r, i, 1, reader, NULL, &one, &x) == MR_OK);
        mr_dequant_row(&x, 0, a);
        mr_dequant_row(&all, i, b);
        REQUIRE(memcmp(a, b, (size_t)k * sizeof *a) == 0);
    }
    free(a);
    free(b);
    mr_recipe_scratch_free(&whole);
    mr_recipe_scratch_free(&one);
}

static void read_recipe(const char *text)
{
    mr_arena *arena;
    mr_recipe *r;
    int left = 40;
    REQUIRE(mr_arena_new(&arena, MR_MEM_COMPILE) == MR_OK);
    mr_err e = mr_recipe_parse(&r, text, arena);
    if (e == MR_OK)
        e = mr_recipe_bind(r, lookup, &left);
    REQUIRE(e == MR_OK || e == MR_EFORMAT);
    if (e == MR_OK)
        read_rows(r);
    mr_arena_free(arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mr_graph *g;
    size_t held = mr_mem_held(MR_MEM_COMPILE);
    mr_err e = mr_graph_parse(&g, "fuzz", (const char *)data, size);
    if (e != MR_OK) {
        REQUIRE(e == MR_EFORMAT || e == MR_ELIMIT);
        REQUIRE(strncmp(mr_error(), "fuzz:", 5) == 0);
        REQUIRE(strchr(mr_error(), '\n') == NULL);
    } else {
        REQUIRE(mr_graph_verify(g) == MR_OK);
        round_trip(g);
        draw(g);
        expand(g);
        for (int i = 0, n = 0; i < mr_graph_nodes(g) && n < 8; i++)
            if (mr_graph_node(g, i)->op == MR_OP_WEIGHT) {
                read_recipe(mr_attr_s(mr_graph_node(g, i), "recipe"));
                n++;
            }
        mr_graph_free(g);
    }
    REQUIRE(mr_mem_held(MR_MEM_COMPILE) == held);
    return 0;
}
