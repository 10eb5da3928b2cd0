/* Options: parsed from one table a command, which also prints its help. */
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app.h"

const app_cmd *app_command(const char *name)
{
    for (const app_cmd *c = app_commands; c->name; c++)
        if (strcmp(c->name, name) == 0)
            return c;
    return NULL;
}

int app_usage(const char *cmd, const char *fmt, ...)
{
    va_list ap;
    fprintf(stderr, "millrace%s%s: ", cmd ? " " : "", cmd ? cmd : "");
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, " (see millrace %s%s--help)\n", cmd ? cmd : "", cmd ? " " : "");
    return APP_USAGE;
}

static int help(const app_cmd *cmd, const app_opt *opts)
{
    mr_buf b = {0};
    mr_buf_printf(&b, "usage: millrace %s %s [options]\n\n%s\n\noptions:\n", cmd->name, cmd->args,
                  cmd->what);
    for (const app_opt *o = opts; o->name; o++) {
        char left[64];
        snprintf(left, sizeof left, "%s%s%s%s%s", o->alias ? o->alias : "", o->alias ? ", " : "",
                 o->name, o->arg ? " " : "", o->arg ? o->arg : "");
        mr_buf_printf(&b, "  %-28s %s\n", left, o->help);
    }
    mr_buf_printf(&b, "  %-28s %s\n", "--help", "this text");
    app_write(b.data, b.len);
    mr_buf_free(&b);
    return app_out_end(APP_OK);
}

static const app_opt *find(const app_opt *opts, const char *arg, size_t len)
{
    for (const app_opt *o = opts; o->name; o++)
        if ((strlen(o->name) == len && memcmp(o->name, arg, len) == 0) ||
            (o->alias && strlen(o->alias) == len && memcmp(o->alias, arg, len) == 0))
            return o;
    return NULL;
}

static int set_int(const app_cmd *cmd, const app_opt *o, const char *v)
{
    char *end;
    errno = 0;
    long long n = strtoll(v, &end, 10);
    if (end == v || *end)
        return app_usage(cmd->name, "%s: \"%s\" is not an integer", o->name, v);
    if (errno || (double)n < o->min || (double)n > o->max)
        return app_usage(cmd->name, "%s: %s is not in %.0f..%.0f", o->name, v, o->min, o->max);
    *(int64_t *)o->dest = n;
    return -1;
}

static int set_num(const app_cmd *cmd, const app_opt *o, const char *v)
{
    char *end;
    double d = strtod(v, &end);
    if (end == v || *end || !isfinite(d))
        return app_usage(cmd->name, "%s: \"%s\" is not a number", o->name, v);
    if (d < o->min || d > o->max)
        return app_usage(cmd->name, "%s: %s is not in %g..%g", o->name, v, o->min, o->max);
    *(double *)o->dest = d;
    return -1;
}

static int set(const app_cmd *cmd, const app_opt *o, const char *v)
{
    app_list *l;
    if (o->given)
        *o->given = true;
    switch (o->kind) {
    case APP_FLAG:
        *(bool *)o->dest = true;
        return -1;
    case APP_INT:
        return set_int(cmd, o, v);
    case APP_NUM:
        return set_num(cmd, o, v);
    case APP_STR:
        *(const char **)o->dest = v;
        return -1;
    case APP_LIST:
        l = o->dest;
        if (l->n == (int)(sizeof l->item / sizeof *l->item))
            return app_usage(cmd->name, "%s: given more than %d times", o->name, l->n);
        l->item[l->n++] = v;
        return -1;
    }
    return -1;
}

/* One option at argv[*i]; "--name=value" too. */
static int take_option(const app_cmd *cmd, const app_opt *opts, int argc, char **argv, int *i)
{
    const char *arg = argv[*i], *eq = arg[1] == '-' ? strchr(arg, '=') : NULL;
    const app_opt *o = find(opts, arg, eq ? (size_t)(eq - arg) : strlen(arg));
    if (!o)
        return app_usage(cmd->name, "unknown option %s", arg);
    if (o->kind == APP_FLAG)
        return eq ? app_usage(cmd->name, "%s takes no value", o->name) : set(cmd, o, NULL);
    if (eq)
        return set(cmd, o, eq + 1);
    if (*i + 1 >= argc)
        return app_usage(cmd->name, "%s needs a value", o->name);
    return set(cmd, o, argv[++*i]);
}

/* --help anywhere, but not where it is an option's value: -p --help is a prompt. */
static bool wants_help(const app_opt *opts, int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
        const app_opt *o = argv[i][0] == '-' ? find(opts, argv[i], strlen(argv[i])) : NULL;
        i += o && o->kind != APP_FLAG;
    }
    return false;
}

int app_parse(const app_cmd *cmd, const app_opt *opts, int argc, char **argv, const char **pos,
              int n_pos)
{
    int n = 0;
    bool only_args = false;
    if (wants_help(opts, argc, argv))
        return help(cmd, opts);
    for (int i = 1; i < argc; i++) {
        if (!only_args && strcmp(argv[i], "--") == 0) {
            only_args = true;
        } else if (!only_args && argv[i][0] == '-' && argv[i][1]) {
            int code = take_option(cmd, opts, argc, argv, &i);
            if (code >= 0)
                return code;
        } else if (n == n_pos) {
            return app_usage(cmd->name, "unexpected argument \"%s\"", argv[i]);
        } else {
            pos[n++] = argv[i];
        }
    }
    if (n < n_pos)
        return app_usage(cmd->name, "needs %s", cmd->args);
    return -1;
}
