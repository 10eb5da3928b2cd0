/* Errors.
 *
 * Why:    one way to fail in the whole library: return a code, leave one message.
 * Use:    if (bad) return mr_fail(MR_EFORMAT, "%s: key \"%s\" is missing", file, key);
 *         MR_TRY(mr_json_parse(...));
 * Threads: the message belongs to the calling thread.
 * Rules:  1. Bad input is an error; a bug is an assert.
 *         2. A message is one line (at most MR_ERR_MAX bytes), names the file and the key or place,
 *            and ends without a full stop or newline.
 *         3. Nothing below app/ prints or exits.
 */
#ifndef MR_BASE_ERR_H
#define MR_BASE_ERR_H

enum { MR_ERR_MAX = 512 };

typedef enum mr_err {
    MR_OK = 0,
    MR_EUSAGE,  /* an option or argument of the caller is out of range (exit 2 in the program) */
    MR_EFORMAT, /* a file's content is wrong */
    MR_EIO,     /* the system refused a read or write */
    MR_ENOMEM,  /* an allocation failed */
    MR_EUNSUPPORTED, /* valid input that this build does not do; the message names it */
    MR_ELIMIT,       /* it does not fit: memory, context, address space */
    MR_ECANCEL,      /* a callback asked to stop */
} mr_err;

/* Sets this thread's message and returns `code` (never MR_OK). */
mr_err mr_fail(mr_err code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Puts "PREFIX: " before this thread's present message; returns `code` unchanged. */
mr_err mr_fail_in(mr_err code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* This thread's last message, "" if none.  Valid until this thread's next mr_fail. */
const char *mr_error(void);

/* errno as a message: "PATH: cannot WHAT: No such file or directory". Returns MR_EIO. */
mr_err mr_fail_errno(const char *what, const char *path);

#define MR_TRY(expr)                                                                               \
    do {                                                                                           \
        mr_err mr_try_err_ = (expr);                                                               \
        if (mr_try_err_ != MR_OK)                                                                  \
            return mr_try_err_;                                                                    \
    } while (0)

#endif
