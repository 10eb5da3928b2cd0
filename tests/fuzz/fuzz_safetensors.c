/* Fuzzing the safetensors header and the joining of quantised modules: the input is a whole file,
 * under each of the configs below.
 *
 * What is accepted must keep the reader's promises: every part lies inside the file, sizes agree
 * with shapes, names are sorted and unique, and rows can be dequantised where they stand, or (what has
 * scales for blocks, or comes as f32) be read.
 */
#include <sys/mman.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "weights/parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const configs[] = {
    "{\"group_size\":32,\"bits\":4,\"mode\":\"affine\",\"m\":{\"group_size\":64,\"bits\":8},"
    "\"off\":false,\"x\":{\"group_size\":32,\"bits\":4,\"mode\":\"mxfp4\"},"
    "\"y\":{\"group_size\":64,\"bits\":3},\"z\":{\"group_size\":16,\"bits\":4,\"mode\":\"nvfp4\"}}",
    "{\"quant_method\":\"fp8\",\"weight_block_size\":[128,128]}",
    "{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\",\"config_groups\":{"
    "\"g\":"
    "{\"weights\":{\"num_bits\":4,\"group_size\":32,\"type\":\"int\",\"strategy\":\"group\","
    "\"symmetric\":true}}}}",
    "{\"quant_method\":\"fp8\",\"activation_scheme\":\"static\"}",
    "{\"quant_method\":\"fp8\",\"weight_block_size\":[3,5]}",
    "{\"quant_method\":\"compressed-tensors\",\"format\":\"mixed-precision\",\"config_groups\":{"
    "\"a\":{\"weights\":{\"num_bits\":3,\"group_size\":8,\"type\":\"int\",\"strategy\":\"group\","
    "\"symmetric\":false}},"
    "\"b\":{\"weights\":{\"num_bits\":5,\"type\":\"int\",\"strategy\":\"channel\"}},"
    "\"c\":{\"weights\":{\"num_bits\":8,\"type\":\"int\",\"strategy\":\"channel\",\"symmetric\":"
    "false}},"
    "\"d\":{\"weights\":{\"num_bits\":8,\"type\":\"int\",\"strategy\":\"tensor\"}},"
    "\"e\":{\"weights\":{\"num_bits\":4,\"group_size\":32,\"type\":\"int\",\"strategy\":\"group\","
    "\"symmetric\":false}},"
    "\"f\":{\"weights\":{\"num_bits\":8,\"type\":\"float\",\"strategy\":\"block\","
    "\"block_structure\":[16,24]}}}}"};

static void require(int holds)
{
    if (!holds)
        abort();
}

static void check_part(const mr_wpart *p, size_t size)
{
    require(p->file == 0 && p->offset >= 8 && p->offset <= size && p->bytes <= size - p->offset);
}

static void check_row(const mr_winfo *t, const uint8_t *data, size_t size)
{
    int64_t k = t->rank ? t->dim[t->rank - 1] : 1, rows = mr_weights_rows(t);
    check_part(&t->data, size);
    require(rows >= 0 && k >= 0);
    bool plain = !t->block_cols && t->wide.dtype == MR_F32;
    require(!plain || mr_weights_rows_bytes(t, rows) == t->bytes);
    mr_rows r = {.dtype = t->dtype, .n = rows, .k = k, .data = data + t->data.offset};
    if (mr_dtype_is_grouped(t->dtype)) {
        check_part(&t->scales, size);
        r.bits = t->bits;
        r.group = t->group;
        r.scale_dtype = t->scale_dtype;
        r.scales = data + t->scales.offset;
    }
    if (t->dtype == MR_AFFINE) {
        check_part(&t->biases, size);
        r.biases = data + t->biases.offset;
    }
    if (!rows || !k || k > 4096 || !plain || !mr_dtype_is_weight(t->dtype, t->bits) ||
        k % mr_row_unit(t->dtype, t->bits, t->group))
        return;
    float values[4096];
    mr_dequant_row(&r, rows - 1, values);
}

/* The first and the last row through the reader. */
static void read_rows(const mr_weights *w, const mr_winfo *t)
{
    int64_t rows = mr_weights_rows(t), k = t->rank ? t->dim[t->rank - 1] : 1;
    if ((!t->block_cols && t->wide.dtype == MR_F32) || !rows || !k || k > 4096)
        return;
    void *buffer = malloc(mr_weights_rows_bytes(t, 1));
    float values[4096];
    mr_rows r;
    for (int i = 0; i < 2; i++)
        if (mr_weights_read(w, t, i ? rows - 1 : 0, 1, buffer, &r) == MR_OK)
            mr_dequant_row(&r, 0, values);
    free(buffer);
}

static void check_table(const mr_weights *w, const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < w->table.n; i++) {
        const mr_winfo *t = &w->table.at[i];
        require(!i || strcmp(t[-1].name, t->name) < 0);
        require(mr_wtable_find(&w->table, t->name) == t);
        check_row(t, data, size);
        read_rows(w, t);
    }
}

static void run(const uint8_t *data, size_t size, int fd, size_t len, const char *config)
{
    char path[] = "input";
    mr_file file = {.fd = fd, .size = size, .path = path};
    mr_weights w = {.files = &file, .n_files = 1};
    mr_err e =
        mr_safetensors_parse_header(path, 0, (const char *)data + 8, len, size - 8 - len, &w.table);
    if (e == MR_OK)
        e = mr_weights_sort(&w);
    if (e == MR_OK)
        check_table(&w, data, size);
    mr_json *doc = NULL;
    if (e == MR_OK)
        e = mr_json_parse(&doc, "config.json", config, strlen(config));
    if (e == MR_OK)
        e = mr_quant_join(&w, mr_json_root(doc));
    if (e == MR_OK)
        check_table(&w, data, size);
    require(e == MR_OK || (mr_error()[0] && !strchr(mr_error(), '\n')));
    mr_json_free(doc);
    mr_wtable_free(&w.table);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t len;
    if (size < 8 || mr_safetensors_header_len("input", data, size, &len) != MR_OK)
        return 0;
    int fd = memfd_create("input", 0);
    require(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++)
        run(data, size, fd, len, configs[i]);
    close(fd);
    return 0;
}
