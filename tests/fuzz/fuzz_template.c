/* Fuzz target: any bytes as a chat template, rendered with a conversation that has all there is.
 *
 * What must hold beside not crashing: an error has one line that names the template; text is UTF-8
 * and no longer than the limit; nothing is held at the end.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "text/template.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "fuzz_template: line %d: %s\n", __LINE__, #condition);                 \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static const char variables[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \"Be \\u00e9 kind.\"},"
    "{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \" a\\nb \"}]},"
    "{\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{\"id\": \"1\", \"function\":"
    "{\"name\": \"f\", \"arguments\": {\"x\": 1.5, \"y\": [true, null, -3]}}}]}],"
    "\"tools\": [{\"function\": {\"name\": \"f\", \"parameters\": {}}}], \"n\": 12,"
    "\"bos_token\": \"<s>\", \"add_generation_prompt\": true}";

static mr_err set_all(mr_tpl *e, mr_jval root)
{
    mr_buf scratch = {0};
    for (mr_jval c = mr_jfirst(root); c.doc; c = mr_jnext(c)) {
        mr_tval v;
        mr_str key;
        REQUIRE(mr_tpl_from_json(e, c, &v) == MR_OK);
        REQUIRE(mr_jkey(c, &scratch, &key) == MR_OK);
        REQUIRE(mr_tpl_set(e, key.data, key.len, v) == MR_OK);
    }
    mr_buf_free(&scratch);
    return MR_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mr_tpl *e;
    mr_json *doc;
    mr_buf out = {0};
    if (mr_utf8_check((const char *)data, size) != size)
        return 0;                              /* a template's file is refused before */
    char *copy = mr_alloc(MR_MEM_OTHER, size); /* exactly its size: a read past the end is seen */
    if (size)
        memcpy(copy, data, size);
    REQUIRE(mr_json_parse(&doc, "variables", variables, sizeof variables - 1) == MR_OK);
    REQUIRE(mr_tpl_new(&e) == MR_OK);
    set_all(e, mr_json_root(doc));
    mr_err err = mr_tpl_render(e, copy, size, &out);
    if (err != MR_OK) {
        REQUIRE(strncmp(mr_error(), "chat template, line ", 20) == 0);
        REQUIRE(strchr(mr_error(), '\n') == NULL);
        REQUIRE(mr_utf8_check(mr_error(), strlen(mr_error())) == strlen(mr_error()));
    } else {
        REQUIRE(out.len <= MR_TPL_OUTPUT);
        REQUIRE(mr_utf8_check(out.data ? out.data : "", out.len) == out.len);
    }
    mr_buf_free(&out);
    mr_tpl_free(e);
    mr_json_free(doc);
    mr_free(copy);
    for (int a = 0; a < MR_MEM_COUNT; a++)
        REQUIRE(mr_mem_held((mr_mem)a) == 0);
    return 0;
}
