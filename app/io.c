/* Input, output, interrupts and the engine's common options. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "app.h"
#include "base/file.h"
#include "base/json.h"

int app_failed(mr_status s)
{
    fprintf(stderr, "millrace: %s\n", mr_error_text());
    return s == MR_STATUS_USAGE ? APP_USAGE : APP_FAILED;
}

/* ---- output ---- */

static int out_errno;

bool app_write(const char *bytes, size_t len)
{
    while (len && !out_errno) {
        ssize_t n = write(STDOUT_FILENO, bytes, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            out_errno = errno;
            break;
        }
        bytes += n;
        len -= (size_t)n;
    }
    return !out_errno;
}

int app_out_end(int code)
{
    if (!out_errno || out_errno == EPIPE)
        return code;
    fprintf(stderr, "millrace: cannot write to stdout: %s\n", strerror(out_errno));
    return APP_FAILED;
}

void app_json_ids(mr_buf *b, const int32_t *ids, size_t n)
{
    mr_buf_putc(b, '[');
    for (size_t i = 0; i < n; i++)
        mr_buf_printf(b, "%s%d", i ? ", " : "", ids[i]);
    mr_buf_putc(b, ']');
}

/* ---- text ---- */

static mr_status read_stream(int fd, const char *name, char **text, size_t *len)
{
    mr_buf b = {0};
    char chunk[65536];
    ssize_t n;
    mr_buf_puts(&b, "");
    while ((n = read(fd, chunk, sizeof chunk)) != 0) {
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            mr_buf_free(&b);
            return (mr_status)mr_fail_errno("read", name);
        }
        mr_buf_add(&b, chunk, (size_t)n);
        if (b.len > (size_t)1 << 30) {
            mr_buf_free(&b);
            return (mr_status)mr_fail(MR_EFORMAT, "%s: more than 1 GiB of text", name);
        }
    }
    if (mr_buf_check(&b))
        return MR_STATUS_MEMORY;
    *text = b.data;
    *len = b.len;
    return MR_STATUS_OK;
}

mr_status app_read_file(const char *file, char **text, size_t *len)
{
    struct stat st;
    if (strcmp(file, "-") == 0)
        return read_stream(STDIN_FILENO, "stdin", text, len);
    if (stat(file, &st) != 0 || !(S_ISFIFO(st.st_mode) || S_ISCHR(st.st_mode)))
        return (mr_status)mr_file_read_all(file, (uint64_t)1 << 30, MR_MEM_OTHER, text, len);
    int fd = open(file, O_RDONLY | O_CLOEXEC); /* a pipe, such as a shell's <(command) */
    if (fd < 0)
        return (mr_status)mr_fail_errno("open", file);
    mr_status s = read_stream(fd, file, text, len);
    close(fd);
    return s;
}

mr_status app_read_text(const char *prompt, const char *file, char **text, size_t *len)
{
    if (prompt && file)
        return (mr_status)mr_fail(MR_EUSAGE, "-p and -f exclude each other");
    if (prompt) {
        *len = strlen(prompt);
        *text = mr_alloc(MR_MEM_OTHER, *len + 1);
        if (!*text)
            return MR_STATUS_MEMORY;
        memcpy(*text, prompt, *len + 1);
        return MR_STATUS_OK;
    }
    if (!file && isatty(STDIN_FILENO))
        return (mr_status)mr_fail(MR_EUSAGE,
                                  "no prompt: give -p TEXT, -f FILE, --ids LIST, or pipe text in");
    return app_read_file(file ? file : "-", text, len);
}

/* ---- ids ---- */

static mr_status push(app_ids *o, size_t *cap, int64_t id)
{
    if (o->n == *cap) {
        size_t want = *cap ? 2 * *cap : 256;
        int32_t *p = mr_realloc(MR_MEM_OTHER, o->id, want * sizeof *p);
        if (!p)
            return MR_STATUS_MEMORY;
        o->id = p;
        *cap = want;
    }
    o->id[o->n++] = (int32_t)id;
    return MR_STATUS_OK;
}

void app_ids_free(app_ids *ids)
{
    mr_free(ids->id);
    mr_free(ids->row);
    *ids = (app_ids){0};
}

static mr_status one_row(app_ids *o)
{
    o->row = mr_alloc(MR_MEM_OTHER, sizeof *o->row);
    if (!o->row)
        return MR_STATUS_MEMORY;
    o->row[0] = o->n;
    o->n_rows = 1;
    return MR_STATUS_OK;
}

static mr_status parse_list(const char *flag, const char *list, app_ids *out)
{
    size_t cap = 0;
    const char *p = list;
    if (!*list)
        return (mr_status)mr_fail(MR_EFORMAT, "%s: the list is empty", flag);
    for (;;) {
        char *end;
        errno = 0;
        long long v = strtoll(p, &end, 10);
        if (end == p || (*end && *end != ','))
            return (mr_status)mr_fail(MR_EUSAGE, "%s: \"%.40s\" is not a list of ids such as 1,2,3",
                                      flag, list);
        if (errno || v < 0 || v > INT32_MAX)
            return (mr_status)mr_fail(MR_EFORMAT, "%s: id %.*s is out of range", flag,
                                      (int)(end - p < 30 ? end - p : 30), p);
        mr_status s = push(out, &cap, v);
        if (s || !*end)
            return s ? s : one_row(out);
        p = end + 1;
    }
}

mr_status app_ids_list(const char *flag, const char *list, app_ids *out)
{
    *out = (app_ids){0};
    mr_status s = parse_list(flag, list, out);
    if (s)
        app_ids_free(out);
    return s;
}

static mr_status take_ids(mr_jval array, app_ids *out, size_t *cap)
{
    for (mr_jval c = mr_jfirst(array); c.doc; c = mr_jnext(c)) {
        int64_t v;
        MR_TRY(mr_jint(c, 0, INT32_MAX, &v));
        MR_TRY(push(out, cap, v));
    }
    return MR_STATUS_OK;
}

static mr_status take_rows(mr_jval root, app_ids *out)
{
    size_t cap = 0, n = mr_jcount(root);
    out->row = mr_alloc(MR_MEM_OTHER, (n + 1) * sizeof *out->row);
    if (!out->row)
        return MR_STATUS_MEMORY;
    for (mr_jval c = mr_jfirst(root); c.doc; c = mr_jnext(c)) {
        if (mr_jtype(c) != MR_JARRAY)
            return (mr_status)mr_jfail(c, "an array of ids is needed");
        MR_TRY(take_ids(c, out, &cap));
        out->row[out->n_rows++] = out->n;
    }
    return MR_STATUS_OK;
}

static mr_status take_document(const char *file, mr_jval root, bool rows, app_ids *out)
{
    size_t cap = 0;
    if (mr_jtype(root) != MR_JARRAY || mr_jcount(root) == 0)
        return (mr_status)mr_fail(MR_EFORMAT, "%s: a JSON array of ids is needed", file);
    if (rows && mr_jtype(mr_jfirst(root)) == MR_JARRAY)
        return take_rows(root, out);
    MR_TRY(take_ids(root, out, &cap));
    return one_row(out);
}

mr_status app_ids_file(const char *file, bool rows, app_ids *out)
{
    char *text;
    size_t len;
    mr_json *doc = NULL;
    *out = (app_ids){0};
    MR_TRY(app_read_file(file, &text, &len));
    mr_status s = (mr_status)mr_json_parse(&doc, file, text, len);
    if (!s)
        s = take_document(file, mr_json_root(doc), rows, out);
    mr_json_free(doc);
    mr_free(text);
    if (s)
        app_ids_free(out);
    return s;
}

/* ---- spans ---- */

static bool span_end(const char **p, int64_t *out)
{
    char *end;
    errno = 0;
    if (**p < '0' || **p > '9')
        return false;
    *out = strtoll(*p, &end, 10);
    *p = end;
    return errno == 0;
}

mr_status app_spans_list(const char *flag, const char *list, int64_t n, app_spans *out)
{
    size_t most = 1;
    for (const char *p = list; *p; p++)
        most += *p == ',';
    *out = (app_spans){.span = mr_alloc(MR_MEM_OTHER, most * sizeof *out->span)};
    if (!out->span)
        return MR_STATUS_MEMORY;
    for (const char *p = list;; p++) {
        mr_span s, *last = out->n ? &out->span[out->n - 1] : NULL;
        if (!span_end(&p, &s.begin) || *p++ != '-' || !span_end(&p, &s.end) || (*p && *p != ','))
            return (mr_status)mr_fail(
                MR_EUSAGE, "%s: \"%.40s\" is not a list of spans such as 5-12,30-37", flag, list);
        if (s.begin >= s.end || s.end > n || (last && s.begin < last->end))
            return (mr_status)mr_fail(MR_EUSAGE,
                                      "%s: %lld-%lld: spans must ascend within 0-%lld, none empty",
                                      flag, (long long)s.begin, (long long)s.end, (long long)n);
        if (last && s.begin == last->end)
            last->end = s.end;
        else
            out->span[out->n++] = s;
        last = &out->span[out->n - 1];
        if (out->longest < last->end - last->begin)
            out->longest = last->end - last->begin;
        if (!*p)
            return MR_STATUS_OK;
    }
}

/* ---- engine ---- */

void app_engine_opts(const app_engine *a, mr_engine_opts *o)
{
    const char *cpu = getenv("MILLRACE_CPU");
    o->threads = (int)a->threads;
    o->cpu = cpu && *cpu ? cpu : NULL;
    o->precision = a->precision;
    o->context = a->context;
    o->block_length = a->block_length;
    o->passes_off = a->passes_off.item;
    o->n_passes_off = a->passes_off.n;
}

mr_status app_engine_open(const app_engine *a, const char *model, mr_engine_opts *o,
                          mr_engine **out)
{
    app_engine_opts(a, o);
    return mr_engine_open(out, model, o);
}

/* ---- interrupts ---- */

static volatile sig_atomic_t interrupted; /* the first signal */

static void on_interrupt(int sig)
{
    if (interrupted) {
        mr_out_drop_all();
        _exit(APP_SIGNAL + sig);
    }
    interrupted = sig;
}

void app_catch_interrupt(void)
{
    struct sigaction a = {.sa_handler = on_interrupt}, old;
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
    if (sigaction(SIGHUP, NULL, &old) == 0 && old.sa_handler != SIG_IGN) /* not under nohup */
        sigaction(SIGHUP, &a, NULL);
}

int app_interrupted(void)
{
    return interrupted ? APP_SIGNAL + interrupted : 0;
}

int app_percent(void *ctx, uint64_t done, uint64_t total)
{
    int *shown = ctx, percent = total ? (int)(100 * done / total) : 100;
    if (percent != *shown && isatty(STDERR_FILENO))
        fprintf(stderr, "\r%3d %%%s", percent, percent == 100 ? "\n" : "");
    *shown = percent;
    return app_interrupted();
}
