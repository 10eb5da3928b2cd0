/* docs/ir.md holds the op table that ops.def gives; `test_docs --print` writes it. */
#include "ir_util.h"

#include "base/file.h"

static const char begin[] = "<!-- ops: from src/ir/ops.def by tests/ir/test_docs --print -->\n";
static const char end[] = "<!-- end of ops -->\n";

static void cell(mr_buf *out, const char *s)
{
    for (; *s; s++) {
        if (*s == '|')
            mr_buf_putc(out, '\\');
        mr_buf_putc(out, *s);
    }
}

static void row(mr_buf *out, const mr_op_info *o)
{
    mr_buf_printf(out, "| `%s`%s | ", o->name, o->fused ? " (fused)" : "");
    for (int i = 0; i < o->n_in; i++)
        mr_buf_printf(out, "%s%s%s", i ? " " : "", o->in_name[i], o->in_optional[i] ? "?" : "");
    mr_buf_puts(out, " | ");
    for (int i = 0; i < o->n_out; i++)
        mr_buf_printf(out, "%s%s", i ? " " : "", o->out_name[i]);
    mr_buf_puts(out, " | ");
    for (int i = 0; i < o->n_attr; i++) {
        const mr_attr_info *a = &o->attr[i];
        mr_buf_printf(out, "%s%s:%c", i ? " " : "", a->name, a->kind);
        if (a->required)
            continue;
        if (a->kind == 's')
            mr_buf_printf(out, "=%s", a->def.s);
        else if (a->kind == 'i')
            mr_buf_printf(out, "=%lld", (long long)a->def.i);
        else
            mr_buf_printf(out, "=%g", a->def.f);
    }
    mr_buf_puts(out, " | ");
    cell(out, o->doc);
    mr_buf_puts(out, " |\n");
}

static void op_table(mr_buf *out)
{
    mr_buf_puts(out, begin);
    mr_buf_puts(out, "| op | operands | results | attributes | meaning |\n|---|---|---|---|---|\n");
    for (int i = 0; i < MR_OP_COUNT; i++)
        row(out, mr_op_get((mr_op)i));
    mr_buf_puts(out, end);
}

static void docs_are_up_to_date(void **state)
{
    (void)state;
    char *text;
    size_t len;
    if (mr_file_read_all("docs/ir.md", 1 << 20, MR_MEM_OTHER, &text, &len) != MR_OK)
        fail_msg("%s", mr_error());
    mr_buf want = {0};
    op_table(&want);
    const char *at = strstr(text, begin);
    assert_non_null(at);
    const char *stop = strstr(at, end);
    assert_non_null(stop);
    size_t n = (size_t)(stop - at) + strlen(end);
    if (n != want.len || memcmp(at, want.data, n))
        fail_msg("docs/ir.md differs from ops.def, which gives:\n%s", want.data);
    mr_buf_free(&want);
    mr_free(text);
}

int main(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "--print")) {
        mr_buf b = {0};
        op_table(&b);
        fputs(b.data, stdout);
        mr_buf_free(&b);
        return 0;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(docs_are_up_to_date)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
