/* Files by descriptor: pread in a loop, and writing beside the target with a rename at the end. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OUT_BUFFER = 1 << 20 };

static _Atomic uint64_t fail_after;

void mr_file_fail_after(uint64_t n)
{
    atomic_store(&fail_after, n);
}

static bool injected(void)
{
    uint64_t n = atomic_load_explicit(&fail_after, memory_order_relaxed);
    while (n > 0)
        if (atomic_compare_exchange_weak(&fail_after, &n, n - 1))
            return n == 1;
    return false;
}

static char *copy_path(const char *path)
{
    size_t n = strlen(path) + 1;
    char *p = mr_alloc(MR_MEM_OTHER, n);
    return p ? memcpy(p, path, n) : NULL;
}

static const char *kind_name(mode_t mode)
{
    return S_ISDIR(mode)    ? "a directory"
           : S_ISFIFO(mode) ? "a pipe"
           : S_ISSOCK(mode) ? "a socket"
                            : "a device";
}

/* ---- reading -------------------------------------------------------------------------------- */

/* O_NONBLOCK keeps the open of a named pipe from waiting for a writer; on files it means nothing.
 */
mr_err mr_file_open(mr_file *f, const char *path)
{
    *f = (mr_file){.fd = -1};
    int fd;
    do
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    while (fd < 0 && errno == EINTR);
    if (fd < 0)
        return mr_fail_errno("open", path);
    struct stat st;
    mr_err err = MR_OK;
    if (fstat(fd, &st) != 0)
        err = mr_fail_errno("open", path);
    else if (!S_ISREG(st.st_mode))
        err = mr_fail(MR_EIO, "%s: cannot open: it is %s, not a file", path, kind_name(st.st_mode));
    char *copy = err == MR_OK ? copy_path(path) : NULL;
    if (!copy) {
        close(fd);
        return err != MR_OK ? err : MR_ENOMEM;
    }
    *f = (mr_file){.fd = fd, .size = (uint64_t)st.st_size, .path = copy};
    return MR_OK;
}

/* The path tells an open file from a zeroed one, whose descriptor would be standard input. */
void mr_file_close(mr_file *f)
{
    if (f->path) {
        close(f->fd);
        mr_free(f->path);
    }
    *f = (mr_file){.fd = -1};
}

static mr_err ends_early(const mr_file *f, uint64_t size, uint64_t offset, size_t len)
{
    uint64_t need;
    if (__builtin_add_overflow(offset, (uint64_t)len, &need))
        need = UINT64_MAX;
    return mr_fail(MR_EFORMAT, "%s: ends at byte %" PRIu64 ", %" PRIu64 " needed", f->path, size,
                   need);
}

mr_err mr_file_pread(const mr_file *f, uint64_t offset, void *dst, size_t len)
{
    if (offset > f->size || len > f->size - offset)
        return ends_early(f, f->size, offset, len);
    if (injected()) {
        errno = EIO;
        return mr_fail_errno("read", f->path);
    }
    size_t done = 0;
    while (done < len) {
        ssize_t n = pread(f->fd, (char *)dst + done, len - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return mr_fail_errno("read", f->path);
        if (n == 0) /* it was cut since it was opened */
            return ends_early(f, offset + done, offset, len);
        done += (size_t)n;
    }
    return MR_OK;
}

mr_err mr_file_read_all(const char *path, uint64_t max, mr_mem account, char **data, size_t *len)
{
    *data = NULL;
    *len = 0;
    mr_file f;
    MR_TRY(mr_file_open(&f, path));
    bool fits = f.size <= max && f.size < SIZE_MAX;
    char *p = fits ? mr_alloc(account, (size_t)f.size + 1) : NULL;
    mr_err err;
    if (!fits)
        err = mr_fail(MR_EFORMAT, "%s: %" PRIu64 " bytes, at most %" PRIu64 " are allowed", path,
                      f.size, max);
    else if (!p)
        err = MR_ENOMEM;
    else if ((err = mr_file_pread(&f, 0, p, (size_t)f.size)) != MR_OK)
        mr_free(p);
    else {
        p[f.size] = '\0';
        *data = p;
        *len = (size_t)f.size;
    }
    mr_file_close(&f);
    return err;
}

int mr_file_exists(const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return 0;
    return S_ISREG(st.st_mode) ? 1 : S_ISDIR(st.st_mode) ? 2 : 0;
}

/* ---- writing -------------------------------------------------------------------------------- */

/* The descriptor meant by /dev/stdout, /dev/stderr and /dev/fd/N, or -1.  Those are duplicated, not
 * opened: opening one that is redirected to a file would start again at its first byte. */
static int standard_fd(const char *path)
{
    if (strcmp(path, "/dev/stdout") == 0)
        return STDOUT_FILENO;
    if (strcmp(path, "/dev/stderr") == 0)
        return STDERR_FILENO;
    if (strncmp(path, "/dev/fd/", 8) != 0 || path[8] < '0' || path[8] > '9')
        return -1;
    char *end;
    errno = 0;
    long n = strtol(path + 8, &end, 10);
    return *end == '\0' && errno == 0 && n <= INT_MAX ? (int)n : -1;
}

/* Names of all temporaries, kept where a signal handler may read them.  One whose place is given up
 * names nothing any more: removing it again does no harm. */
enum { LISTED = 16, LISTED_NAME = 4096 };
static struct {
    atomic_bool used, named;
    char name[LISTED_NAME];
} temporaries[LISTED];

/* -1: too many, or too long a name. */
static int list_temp(const char *name)
{
    size_t len = strlen(name);
    for (int i = 0; len < LISTED_NAME && i < LISTED; i++) {
        bool used = false;
        if (!atomic_compare_exchange_strong(&temporaries[i].used, &used, true))
            continue;
        memcpy(temporaries[i].name, name, len + 1);
        atomic_store(&temporaries[i].named, true);
        return i;
    }
    return -1;
}

static void unlist_temp(mr_out *o)
{
    if (o->listed < 0)
        return;
    atomic_store(&temporaries[o->listed].named, false);
    atomic_store(&temporaries[o->listed].used, false);
    o->listed = -1;
}

void mr_out_drop_all(void)
{
    for (int i = 0; i < LISTED; i++)
        if (atomic_load(&temporaries[i].named))
            unlink(temporaries[i].name);
}

/* Opens a new file beside o->path with the permissions that the target has, or would get. */
static mr_err open_temp(mr_out *o, const struct stat *old)
{
    static atomic_uint serial;
    size_t size = strlen(o->path) + 48;
    o->temp = mr_alloc(MR_MEM_OTHER, size);
    if (!o->temp)
        return MR_ENOMEM;
    for (int attempt = 0; attempt < 100 && o->fd < 0; attempt++) {
        snprintf(o->temp, size, "%s.tmp-%ld-%u", o->path, (long)getpid(),
                 atomic_fetch_add(&serial, 1));
        o->fd = open(o->temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (o->fd < 0 && errno != EEXIST && errno != EINTR)
            break;
    }
    if (o->fd < 0) {
        mr_err err = mr_fail_errno("write", o->path);
        mr_free(o->temp); /* nothing of that name is ours to remove */
        o->temp = NULL;
        return err;
    }
    o->listed = list_temp(o->temp);
    if (old && fchmod(o->fd, old->st_mode & 0777) != 0)
        return mr_fail_errno("write", o->path);
    return MR_OK;
}

/* Where the bytes go: a standard stream, a device or pipe, or a temporary beside a file. */
static mr_err open_target(mr_out *o, const char *path)
{
    struct stat st;
    int standard = standard_fd(path);
    bool exists = stat(path, &st) == 0;
    /* A link is followed, so that the file it names is replaced and not the link. */
    char *real = exists && standard < 0 && S_ISREG(st.st_mode) ? realpath(path, NULL) : NULL;
    o->path = copy_path(real ? real : path);
    free(real); /* realpath's own, from malloc */
    if (!o->path)
        return MR_ENOMEM;
    if (standard >= 0) {
        o->fd = fcntl(standard, F_DUPFD_CLOEXEC, 0);
        return o->fd < 0 ? mr_fail_errno("write", path) : MR_OK;
    }
    if (exists && S_ISDIR(st.st_mode)) {
        errno = EISDIR;
        return mr_fail_errno("write", path);
    }
    if (exists && access(path, W_OK) != 0)
        return mr_fail_errno("write", path);
    if (exists && !S_ISREG(st.st_mode)) {
        o->fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
        return o->fd < 0 ? mr_fail_errno("write", path) : MR_OK;
    }
    return open_temp(o, exists ? &st : NULL);
}

mr_err mr_out_open(mr_out *o, const char *path)
{
    *o = (mr_out){.fd = -1, .listed = -1};
    mr_err err = open_target(o, path);
    if (err == MR_OK && !(o->buffer = mr_alloc(MR_MEM_OTHER, OUT_BUFFER)))
        err = MR_ENOMEM;
    if (err != MR_OK)
        mr_out_abort(o);
    return err;
}

/* Keeps the system's reason: the message may be overwritten before the commit reports it. */
static mr_err stick(mr_out *o)
{
    o->reason = errno;
    return o->err = mr_fail_errno("write", o->path);
}

static mr_err write_all(mr_out *o, const char *p, size_t len)
{
    while (len > 0) {
        ssize_t n = write(o->fd, p, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return stick(o);
        p += n;
        len -= (size_t)n;
    }
    return MR_OK;
}

static mr_err flush(mr_out *o)
{
    size_t used = o->used;
    o->used = 0;
    return write_all(o, o->buffer, used);
}

mr_err mr_out_write(mr_out *o, const void *bytes, size_t len)
{
    if (o->err != MR_OK)
        return o->err;
    o->written += len;
    if (len >= OUT_BUFFER - o->used) {
        MR_TRY(flush(o));
        if (len >= OUT_BUFFER)
            return write_all(o, bytes, len);
    }
    if (len)
        memcpy(o->buffer + o->used, bytes, len);
    o->used += len;
    return MR_OK;
}

mr_err mr_out_commit(mr_out *o)
{
    if (o->err == MR_OK)
        flush(o);
    if (o->fd >= 0 && close(o->fd) != 0 && o->err == MR_OK && errno != EINTR)
        stick(o);
    o->fd = -1;
    if (o->err == MR_OK && o->temp && rename(o->temp, o->path) != 0)
        stick(o);
    mr_err err = o->err;
    if (err == MR_OK) {
        unlist_temp(o);
        mr_free(o->temp); /* the name is gone: abort must not remove a stranger's file */
        o->temp = NULL;
    } else {
        errno = o->reason;
        mr_fail_errno("write", o->path);
    }
    mr_out_abort(o);
    return err;
}

void mr_out_abort(mr_out *o)
{
    if (!o->path)
        return;
    if (o->fd >= 0)
        close(o->fd);
    if (o->temp)
        unlink(o->temp);
    unlist_temp(o);
    mr_free(o->temp);
    mr_free(o->buffer);
    mr_free(o->path);
    *o = (mr_out){.fd = -1, .listed = -1, .err = MR_EIO};
}
