/* Which of the joins a config asks for, and what they share.
 *
 * A join walks the sorted table, finds the rows that belong together by their names, makes one of
 * them the module's tensor and marks the others as taken; dropping and sorting anew come last, when
 * no look-up needs the order.
 */
#include "weights/parse.h"

#include <string.h>

mr_err mr_wmisfit(const mr_weights *w, const mr_winfo *t, const char *what)
{
    return mr_fail(MR_EFORMAT, "%s: tensor \"%." MR_WNAME_SHOWN "s\": %s",
                   mr_weights_file(w, t->data.file), t->name, what);
}

bool mr_wsuffix(const char *name, const char *suffix)
{
    size_t len = strlen(name), tail = strlen(suffix);
    return len > tail && !strcmp(name + len - tail, suffix);
}

mr_err mr_wbeside(const mr_weights *w, const mr_winfo *t, size_t cut, const char *suffix,
                  mr_buf *scratch, mr_winfo **out)
{
    mr_buf_clear(scratch);
    mr_buf_add(scratch, t->name, strlen(t->name) - cut);
    mr_buf_puts(scratch, suffix);
    MR_TRY(mr_buf_check(scratch));
    *out = mr_wtable_find(&w->table, scratch->data);
    return MR_OK;
}

static void drop_taken(mr_wtable *t)
{
    size_t kept = 0;
    for (size_t i = 0; i < t->n; i++)
        if (t->at[i].rank != MR_WTAKEN)
            t->at[kept++] = t->at[i];
    t->n = kept;
}

mr_err mr_quant_join(mr_weights *w, mr_jval q)
{
    if (mr_jhas(q) && mr_jtype(q) != MR_JOBJECT)
        return mr_jfail(q, "is not an object");
    mr_jval method = mr_jget(q, "quant_method");
    if (mr_jis(method, "fp8"))
        MR_TRY(mr_fp8_join(w, q));
    else if (mr_jis(method, "compressed-tensors"))
        MR_TRY(mr_packed_join(w, q));
    else
        MR_TRY(mr_mlx_join(w, mr_jhas(q) ? q : (mr_jval){0}));
    drop_taken(&w->table);
    return mr_weights_sort(w);
}
