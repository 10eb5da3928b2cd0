/* Fuzz target: any bytes as a config.json; an accepted one builds its graph.
 *
 * What must hold beside not crashing: an error has one line; a graph passes the verifier and names
 * its output; the tensors asked for are distinct and of positive size; building again gives as many
 * nodes; and what was held before is held after.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/family.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "fuzz_config: line %d: %s (%s)\n", __LINE__, #condition, mr_error());  \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static void require_message(mr_err e)
{
    REQUIRE(e == MR_EFORMAT || e == MR_EUNSUPPORTED || e == MR_ELIMIT);
    REQUIRE(mr_error()[0] && !strchr(mr_error(), '\n'));
    REQUIRE(mr_utf8_check(mr_error(), strlen(mr_error())) == strlen(mr_error()));
}

static void check_facts(const mr_model_info *f)
{
    REQUIRE(f->family && f->model_type);
    REQUIRE(f->vocab > 0 && f->hidden > 0 && f->layers > 0 && f->max_positions > 0);
    REQUIRE(f->n_eos >= 0 && f->n_eos <= 16 && f->bos >= -1 && f->mask_id >= 0);
    REQUIRE(f->diffusion == (f->block_length > 0));
}

static void check_asked(const mr_model *m)
{
    const mr_asked *last = NULL;
    REQUIRE(mr_model_asked(m) > 0);
    for (int i = 0; i < mr_model_asked(m); i++) {
        const mr_asked *a = mr_model_asked_at(m, i);
        REQUIRE(a->rank >= 1 && a->rank <= 3);
        for (int d = 0; d < a->rank; d++)
            REQUIRE(a->dim[d] > 0);
        REQUIRE(!last || strcmp(last->name, a->name) != 0);
        last = a;
    }
}

static void build(mr_model *m)
{
    mr_graph *g, *again;
    mr_err e = mr_model_build(m, &g);
    if (e != MR_OK) {
        REQUIRE(!g);
        require_message(e);
        return;
    }
    REQUIRE(mr_graph_verify(g) == MR_OK);
    REQUIRE(mr_graph_outputs(g) == 1 && !strcmp(mr_graph_output_name(g, 0), "logits"));
    check_asked(m);
    REQUIRE(mr_model_check_unused(m) == MR_OK);
    mr_graph *canvas = mr_model_take_canvas(m);
    REQUIRE(!canvas == !mr_model_facts(m)->canvas);
    REQUIRE(!canvas || mr_graph_verify(canvas) == MR_OK);
    mr_graph_free(canvas);
    if (mr_graph_nodes(g) < 2000) {
        REQUIRE(mr_model_build(m, &again) == MR_OK);
        REQUIRE(mr_graph_nodes(g) == mr_graph_nodes(again));
        mr_graph_free(again);
    }
    mr_graph_free(g);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t held = mr_mem_held(MR_MEM_COUNT);
    mr_model *m;
    mr_err e = mr_model_open_text(&m, "fuzz", (const char *)data, size, NULL);
    if (e == MR_OK) {
        check_facts(mr_model_facts(m));
        build(m);
        mr_model_close(m);
    } else {
        REQUIRE(!m);
        require_message(e);
    }
    REQUIRE(mr_mem_held(MR_MEM_COUNT) == held);
    return 0;
}
