/* Continues a prompt: generate MODEL TEXT, or generate MODEL --ids 1,2,3.
 *
 *     cc generate.c $(pkg-config --cflags --libs millrace) -o generate
 *
 * One engine, one session, one call.  Text is printed as it comes; ids, one a line. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <millrace.h>

static int print_text(void *ctx, const char *text, size_t len)
{
    (void)ctx;
    return fwrite(text, 1, len, stdout) != len; /* non-zero stops the generation */
}

static int print_ids(void *ctx, const int32_t *ids, size_t n)
{
    (void)ctx;
    for (size_t i = 0; i < n; i++)
        printf("%d\n", (int)ids[i]);
    return 0;
}

static mr_status read_list(const char *list, int32_t **ids, size_t *n)
{
    *n = 0;
    *ids = malloc((strlen(list) + 1) * sizeof **ids);
    for (const char *p = list; *ids && *p; p += strcspn(p, ","), p += *p == ',')
        (*ids)[(*n)++] = (int32_t)strtol(p, NULL, 10);
    return *ids ? MR_STATUS_OK : MR_STATUS_MEMORY;
}

static mr_status generate(mr_session *session, const int32_t *ids, size_t n, int text)
{
    mr_generate_opts o;
    mr_generate_defaults(&o);
    o.max_new = 40;
    o.on_text = text ? print_text : NULL;
    o.on_ids = text ? NULL : print_ids;
    return mr_generate(session, ids, n, &o, NULL);
}

int main(int argc, char **argv)
{
    int text = argc == 3;
    if (!text && !(argc == 4 && strcmp(argv[2], "--ids") == 0)) {
        fprintf(stderr, "usage: generate MODEL TEXT | MODEL --ids 1,2,3\n");
        return 2;
    }
    mr_engine_opts opts = {0};
    mr_engine *engine = NULL;
    mr_session *session = NULL;
    mr_tokenizer *tokenizer;
    int32_t *ids = NULL;
    size_t n = 0;
    mr_status s = mr_engine_open(&engine, argv[1], &opts);
    if (!s && text)
        s = mr_engine_text(engine, &tokenizer); /* the engine's: not ours to close */
    if (!s)
        s = text ? mr_encode(tokenizer, argv[2], strlen(argv[2]), MR_ENCODE_SPECIAL, &ids, &n)
                 : read_list(argv[3], &ids, &n);
    if (!s)
        s = mr_session_new(&session, engine);
    if (!s)
        s = generate(session, ids, n, text);
    if (s)
        fprintf(stderr, "generate: %s\n", mr_error_text());
    else if (text)
        printf("\n");
    text ? mr_memory_free(ids) : free(ids);
    mr_session_free(session);
    mr_engine_close(engine);
    return s ? 1 : 0;
}
