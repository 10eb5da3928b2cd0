/* The dispatch report: which kernel runs how often. */
#include "compile/plan_internal.h"

#include <string.h>

static bool same_kind(const mr_step *a, const mr_step *b)
{
    return a->op == b->op && !strcmp(a->kernel ? a->kernel : "", b->kernel ? b->kernel : "");
}

mr_err mr_plan_report(const mr_plan *p, mr_buf *out)
{
    enum { MAX_KINDS = 512 }; /* ops times formats stays far below */
    int first[MAX_KINDS], count[MAX_KINDS], n = 0;
    for (int i = 0; i < p->n_steps; i++) {
        int k = 0;
        while (k < n && !same_kind(&p->steps[first[k]], &p->steps[i]))
            k++;
        if (k == n && n == MAX_KINDS)
            return mr_fail(MR_ELIMIT, "plan %s: more than %d kinds of steps", p->name, MAX_KINDS);
        if (k == n) {
            first[n] = i;
            count[n++] = 0;
        }
        count[k]++;
    }
    for (int k = 0; k < n; k++) {
        const mr_step *s = &p->steps[first[k]];
        mr_buf_printf(out, "%6d  %-14s %s\n", count[k], mr_op_get(s->op)->name,
                      s->kernel ? s->kernel : "");
    }
    return mr_buf_check(out);
}
