/* Files: whole reads, positioned reads, atomic writes.
 *
 * Fails:   MR_EIO with path and reason; MR_EFORMAT when a read would pass the end ("PATH: ends at
 *          byte N, M needed"). Tests can make the n-th read fail (mr_file_fail_after).
 * Threads: mr_file_pread may be called from several threads on one file.
 */
#ifndef MR_BASE_FILE_H
#define MR_BASE_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"

typedef struct mr_file {
    int fd;
    uint64_t size;
    char *path;
} mr_file;

/* Opens a regular file for reading (symlinks followed; directories, pipes, devices are refused). */
mr_err mr_file_open(mr_file *f, const char *path);
void mr_file_close(mr_file *f);
mr_err mr_file_pread(const mr_file *f, uint64_t offset, void *dst, size_t len);
/* Whole file + NUL into *data (mr_free it). Larger than max: MR_EFORMAT. */
mr_err mr_file_read_all(const char *path, uint64_t max, mr_mem account, char **data, size_t *len);
int mr_file_exists(const char *path); /* 1 regular file, 2 directory, 0 neither */
void mr_file_fail_after(uint64_t n);

/* A file that appears under its name only when it is complete.  /dev/stdout, devices and pipes are
 * written straight.  After commit or abort only mr_out_open may follow. */
typedef struct mr_out {
    int fd;
    char *path, *temp;
    int listed; /* place of temp in the list of all, or -1 */
    uint64_t written;
    char *buffer;
    size_t used;
    mr_err err; /* sticky */
    int reason; /* errno of the first failure */
} mr_out;
mr_err mr_out_open(mr_out *o, const char *path);
mr_err mr_out_write(mr_out *o, const void *bytes, size_t len);
/* Renames into place, or on any earlier error removes the temporary and reports it. */
mr_err mr_out_commit(mr_out *o);
void mr_out_abort(mr_out *o);
/* Removes the temporaries of all that are open, for a process that is about to end: may be called
 * from a signal handler. */
void mr_out_drop_all(void);

#endif
