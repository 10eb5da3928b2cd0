/* Fuzzing GGUF files as models: the input is a whole file.
 *
 * Its metadata becomes a config, and what the config asks for is sought among its tensors: the file is
 * refused with one line, or its graph is built.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/family.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char path[] = "/tmp/mr-fuzz-XXXXXX.gguf";
static int fd = -1;

static void clear(void)
{
    unlink(path);
}

static void require(int holds)
{
    if (!holds)
        abort();
}

/* The file is made once: models are told by its name. */
static void put(const uint8_t *data, size_t size)
{
    if (fd < 0) {
        fd = mkstemps(path, 5);
        require(fd >= 0 && atexit(clear) == 0);
    }
    require(ftruncate(fd, 0) == 0 && pwrite(fd, data, size, 0) == (ssize_t)size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mr_model *m;
    mr_graph *g = NULL;
    put(data, size);
    mr_err e = mr_model_open(&m, path, NULL);
    if (e == MR_OK)
        e = mr_model_build(m, &g);
    if (e == MR_OK)
        e = mr_model_check_unused(m);
    require(e == MR_OK || (mr_error()[0] && !strchr(mr_error(), '\n')));
    mr_graph_free(g);
    mr_model_close(m);
    return 0;
}
