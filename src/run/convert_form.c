/* A weight in the form that GGUF files have it: what the family's name table says undoes that form, the
 * other way round.
 *
 * A permutation of tiles is a transposition, so that another with the two sizes changed undoes it.  Parts
 * of one tensor that are read by :rows lie there in turn: two weights are written as one. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "run/convert.h"

typedef struct form {
    const mr_model *m;
    const char *recipe; /* of the whole weight */
    int64_t all, k;     /* its rows and their length */
    int64_t rows;       /* of the piece that is being written */
    mr_buf out;
} form;

static mr_err refuse(const form *f, const char *word)
{
    return mr_fail(MR_EUNSUPPORTED, "convert: \"%.160s\" cannot be put in GGUF's form (%.60s)",
                   f->recipe, word);
}

/* One word of modifiers, "=" standing for the recipe. */
static mr_err turn(form *f, const char *word)
{
    int64_t a, b, c;
    if (strcmp(word, "=") == 0) {
        mr_buf_puts(&f->out, f->recipe);
    } else if (strcmp(word, "+") == 0) {
        mr_buf_puts(&f->out, " +");
        f->rows = f->all;
    } else if (strcmp(word, MR_NEG_EXP) == 0) {
        mr_buf_puts(&f->out, ":negexp");
    } else if (sscanf(word, ":rows(%" SCNd64 ",%" SCNd64 ",%" SCNd64 ")", &a, &b, &c) == 3) {
        if (a != f->all)
            return refuse(f, word);
        mr_buf_puts(&f->out, word);
        f->rows = c;
    } else if (sscanf(word, ":untile(%" SCNd64 ",%" SCNd64 ")", &a, &b) == 2) {
        mr_buf_printf(&f->out, ":untile(%" PRId64 ",%" PRId64 ")", f->rows / (a * b), b);
    } else if (sscanf(word, ":untile_k(%" SCNd64 ",%" SCNd64 ")", &a, &b) == 2) {
        mr_buf_printf(&f->out, ":untile_k(%" PRId64 ",%" PRId64 ")", f->k / (a * b), b);
    } else {
        return refuse(f, word);
    }
    return MR_OK;
}

static mr_err turn_all(form *f, const char *modifiers)
{
    char word[128];
    const char *p = modifiers + strspn(modifiers, " ");
    if (*p && strstr(f->recipe, " + "))
        return refuse(f, p);
    if (*p != '=')
        mr_buf_puts(&f->out, f->recipe);
    while (*p) {
        size_t n = strcspn(p, " ");
        if (n >= sizeof word)
            return refuse(f, p);
        snprintf(word, sizeof word, "%.*s", (int)n, p);
        if (f->out.len)
            mr_buf_putc(&f->out, ' ');
        MR_TRY(turn(f, word));
        p += n + strspn(p + n, " ");
    }
    return mr_buf_check(&f->out);
}

mr_err mr_convert_form(const mr_model *m, const mr_asked *a, const char *modifiers, mr_arena *arena,
                       const char **out)
{
    form f = {.m = m, .recipe = a->recipe, .all = 1, .k = a->dim[a->rank - 1]};
    mr_buf text = {0};
    for (int i = 0; i < a->rank - 1; i++)
        f.all *= a->dim[i];
    f.rows = f.all;
    mr_err e = mr_model_modifiers(m, modifiers, &text);
    if (e == MR_OK)
        e = turn_all(&f, text.data ? text.data : "");
    if (e == MR_OK && !(*out = mr_arena_strdup(arena, f.out.data)))
        e = MR_ENOMEM;
    mr_buf_free(&text);
    mr_buf_free(&f.out);
    return e;
}

mr_err mr_convert_share(const mr_model *m, const mr_asked *a, const char *modifiers,
                        mr_convert_part *out)
{
    int64_t period, first, rows;
    int used = 0;
    mr_buf text = {0};
    *out = (mr_convert_part){0};
    if (!modifiers)
        return MR_OK;
    if (strcmp(modifiers, MR_FIRST_HALF) == 0 || strcmp(modifiers, MR_SECOND_HALF) == 0) {
        out->rows = a->dim[a->rank - 2];
        out->second = strcmp(modifiers, MR_SECOND_HALF) == 0;
        return MR_OK;
    }
    if (*modifiers != '=')
        return MR_OK;
    MR_TRY(mr_model_modifiers(m, modifiers, &text));
    if (sscanf(text.data ? text.data : "", "= :rows(%" SCNd64 ",%" SCNd64 ",%" SCNd64 ")%n",
               &period, &first, &rows, &used) == 3 &&
        used && !text.data[used] && period == 2 * rows)
        *out = (mr_convert_part){.rows = rows, .second = first > 0};
    mr_buf_free(&text);
    return MR_OK;
}
