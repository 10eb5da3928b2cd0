/* The bits of logits, as hashes in tests/run/bits.txt: the same on every instruction set, for whole
 * prompts and one id at a time, on x86 and on Arm (emulated in tests/check.sh).
 *
 *     test_bits [--update]
 *
 * A changed hash is a changed numeric contract (docs/numerics.md): --update rewrites the file, and
 * the difference is for review.  No cmocka: this test also runs on emulated machines. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cpu.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/str.h"
#include "millrace.h"

static const char file[] = "tests/run/bits.txt";
static const char *const models[] = {"tests/vectors/gemma3-1b",
                                     "tests/vectors/dsv3",
                                     "tests/vectors/moonlight",
                                     "tests/vectors/llada2-base",
                                     "tests/vectors/llama3",
                                     "tests/vectors/mlx-gemma3-4bit",
                                     "tests/vectors/mlx-gemma3-8bit-g32",
                                     "tests/vectors/mlx-dsv3-4bit",
                                     "tests/vectors/gguf-gemma3-q4_0",
                                     "tests/vectors/gguf-llama-q8_0",
                                     "models/gemma3-stories",
                                     "models/deepseek-v3-stories",
                                     "models/llada2-stories"};
static int passed, failed;

enum { N = 40 }; /* ids: past a tile of prefill rows; of every model here within the vocabulary */

static uint64_t fnv(uint64_t hash, const void *bytes, size_t n)
{
    const uint8_t *p = bytes;
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ p[i]) * 0x100000001b3u;
    return hash;
}

/* Hash of the logits of N ids, `step` at a time. */
static mr_status hash_logits(mr_engine *e, int64_t step, uint64_t *hash)
{
    const mr_engine_info *i = mr_engine_facts(e);
    if (i->diffusion)
        step = (step + i->block_length - 1) / i->block_length * i->block_length;
    float *l = malloc((size_t)(step * i->vocab) * sizeof *l);
    mr_session *s = NULL;
    mr_status st = mr_session_new(&s, e);
    *hash = 0xcbf29ce484222325u;
    for (int64_t at = 0; !st && at < N; at += step) {
        int32_t ids[N];
        int64_t n = N - at < step ? N - at : step;
        for (int64_t k = 0; k < n; k++)
            ids[k] = (int32_t)(((at + k) * (at + k) * 7 + 3) % 60);
        st = mr_advance(s, ids, n, MR_WANT_ALL, NULL, 0, l);
        if (!st)
            st = mr_commit(s, n);
        *hash = fnv(*hash, l, (size_t)(n * i->vocab) * sizeof *l);
    }
    mr_session_free(s);
    free(l);
    return st;
}

static void path_of(const char *model, char *path, size_t size)
{
    snprintf(path, size, "%s/model.gguf", model);
    if (mr_file_exists(path) != 1)
        snprintf(path, size, "%s", model);
}

/* The hash of one model in one precision, which every way of running must give. */
static uint64_t check_model(const char *model, const char *precision)
{
    uint64_t first = 0;
    char path[256];
    path_of(model, path, sizeof path);
    for (int isa = 0; isa < MR_ISA_COUNT; isa++) {
        if (!mr_isa_have((mr_isa)isa))
            continue;
        mr_engine_opts o = {
            .threads = 1 + isa % 3, .cpu = mr_isa_name((mr_isa)isa), .precision = precision};
        mr_engine *e = NULL;
        mr_status st = mr_engine_open(&e, path, &o);
        for (int64_t step = N; !st && step > 0; step -= N - 1) {
            uint64_t hash;
            st = hash_logits(e, step, &hash);
            if (!first)
                first = hash;
            if (!st && hash == first) {
                passed++;
            } else if (!st) {
                failed++;
                printf("FAILED %s %s: %s, %d ids at a time gives %016llx, not %016llx\n", model,
                       precision, o.cpu, (int)step, (unsigned long long)hash,
                       (unsigned long long)first);
            }
        }
        if (st) {
            failed++;
            printf("FAILED %s %s %s: %s\n", model, precision, o.cpu, mr_error_text());
        }
        mr_engine_close(e);
    }
    return first;
}

static bool write_file(const mr_buf *b)
{
    mr_out o;
    if (mr_out_open(&o, file))
        return false;
    mr_out_write(&o, b->data, b->len);
    return !mr_out_commit(&o);
}

/* The hash that the file has for this model and precision. */
static void compare(const char *text, const char *line)
{
    if (strstr(text, line)) {
        passed++;
        return;
    }
    failed++;
    printf("FAILED %s does not have: %s", file, line);
}

int main(int argc, char **argv)
{
    static const char *const precisions[] = {"exact", "fast"};
    bool update = argc > 1 && strcmp(argv[1], "--update") == 0;
    char *text = NULL;
    size_t len;
    mr_buf all = {0};
    if (!update && mr_file_read_all(file, 1 << 20, MR_MEM_OTHER, &text, &len)) {
        printf("FAILED %s\n", mr_error_text());
        return 1;
    }
    for (size_t m = 0; m < sizeof models / sizeof *models; m++) {
        for (int p = 0; p < 2; p++) {
            mr_buf line = {0};
            mr_buf_printf(&line, "%016llx %s %s\n",
                          (unsigned long long)check_model(models[m], precisions[p]), precisions[p],
                          models[m]);
            if (text)
                compare(text, line.data);
            mr_buf_puts(&all, line.data);
            mr_buf_free(&line);
        }
    }
    if (update && !failed && !write_file(&all)) {
        failed++;
        printf("FAILED %s\n", mr_error_text());
    }
    mr_free(text);
    mr_buf_free(&all);
    printf("test_bits: %d passed, %d failed\n", passed, failed);
    return failed != 0;
}
