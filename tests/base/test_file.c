/* Files: whole and positioned reads, truncation, refused kinds; atomic writes and their failures.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/file.h"

static char dir[64];
static char path_a[96], path_b[96];

static void put(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static void assert_content(const char *path, const char *text)
{
    char *data;
    size_t len;
    assert_int_equal(mr_file_read_all(path, 1 << 24, MR_MEM_OTHER, &data, &len), MR_OK);
    assert_int_equal(len, strlen(text));
    assert_string_equal(data, text);
    mr_free(data);
}

static int files_in_dir(void)
{
    char command[160];
    snprintf(command, sizeof command, "ls -A %s | wc -l", dir);
    FILE *p = popen(command, "r");
    int n = -1;
    assert_int_equal(fscanf(p, "%d", &n), 1);
    pclose(p);
    return n;
}

static int make_dir(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/mr-test-file-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(path_a, sizeof path_a, "%s/a", dir);
    snprintf(path_b, sizeof path_b, "%s/b", dir);
    return 0;
}

static int remove_dir(void **state)
{
    (void)state;
    char command[96];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

static void assert_message(const char *fmt, const char *path)
{
    char expected[256];
    snprintf(expected, sizeof expected, fmt, path);
    assert_string_equal(mr_error(), expected);
}

/* ---- reading ---- */

static void test_pread(void **state)
{
    (void)state;
    put(path_a, "0123456789");
    mr_file f;
    char c[16] = {0};
    assert_int_equal(mr_file_open(&f, path_a), MR_OK);
    assert_int_equal(f.size, 10);
    assert_string_equal(f.path, path_a);
    assert_int_equal(mr_file_pread(&f, 3, c, 4), MR_OK);
    assert_string_equal(c, "3456");
    assert_int_equal(mr_file_pread(&f, 10, c, 0), MR_OK);
    assert_int_equal(mr_file_pread(&f, 8, c, 3), MR_EFORMAT);
    assert_message("%s: ends at byte 10, 11 needed", path_a);
    assert_int_equal(mr_file_pread(&f, 11, c, 0), MR_EFORMAT);
    assert_int_equal(mr_file_pread(&f, UINT64_MAX, c, 2), MR_EFORMAT);
    assert_int_equal(truncate(path_a, 5), 0); /* cut while it is open */
    assert_int_equal(mr_file_pread(&f, 2, c, 6), MR_EFORMAT);
    assert_message("%s: ends at byte 5, 8 needed", path_a);
    mr_file_close(&f);
    mr_file_close(&f); /* closed twice, and a zeroed one: nothing happens */
    mr_file none = {0};
    mr_file_close(&none);
    assert_int_not_equal(fcntl(0, F_GETFD), -1);
}

static void test_refused_kinds(void **state)
{
    (void)state;
    mr_file f;
    assert_int_equal(mr_file_open(&f, dir), MR_EIO);
    assert_message("%s: cannot open: it is a directory, not a file", dir);
    assert_int_equal(mkfifo(path_a, 0600), 0);
    assert_int_equal(mr_file_open(&f, path_a), MR_EIO); /* and does not wait for a writer */
    assert_message("%s: cannot open: it is a pipe, not a file", path_a);
    assert_int_equal(mr_file_open(&f, "/dev/null"), MR_EIO);
    assert_message("%s: cannot open: it is a device, not a file", "/dev/null");
    assert_int_equal(mr_file_open(&f, path_b), MR_EIO);
    assert_message("%s: cannot open: No such file or directory", path_b);
    assert_int_equal(mr_file_exists(path_a), 0);
    assert_int_equal(mr_file_exists(path_b), 0);
    assert_int_equal(mr_file_exists(dir), 2);
    put(path_b, "");
    assert_int_equal(mr_file_exists(path_b), 1);
}

static void test_read_all(void **state)
{
    (void)state;
    size_t held = mr_mem_held(MR_MEM_COUNT);
    char *data;
    size_t len;
    put(path_a, "hello");
    assert_content(path_a, "hello");
    assert_int_equal(symlink(path_a, path_b), 0);
    assert_content(path_b, "hello");
    assert_int_equal(mr_file_read_all(path_a, 5, MR_MEM_OTHER, &data, &len), MR_OK);
    mr_free(data);
    assert_int_equal(mr_file_read_all(path_a, 4, MR_MEM_OTHER, &data, &len), MR_EFORMAT);
    assert_message("%s: 5 bytes, at most 4 are allowed", path_a);
    assert_null(data);
    assert_int_equal(mr_file_read_all(dir, 4, MR_MEM_OTHER, &data, &len), MR_EIO);
    put(path_a, "");
    assert_content(path_a, "");
    assert_int_equal(mr_mem_held(MR_MEM_COUNT), held);
}

static void test_read_injection(void **state)
{
    (void)state;
    put(path_a, "hello");
    size_t held = mr_mem_held(MR_MEM_COUNT);
    char c[8], *data;
    size_t len;
    mr_file f;
    assert_int_equal(mr_file_open(&f, path_a), MR_OK);
    mr_file_fail_after(2);
    assert_int_equal(mr_file_pread(&f, 0, c, 5), MR_OK);
    assert_int_equal(mr_file_pread(&f, 0, c, 5), MR_EIO);
    assert_message("%s: cannot read: Input/output error", path_a);
    assert_int_equal(mr_file_pread(&f, 0, c, 5), MR_OK);
    mr_file_close(&f);
    mr_file_fail_after(1);
    assert_int_equal(mr_file_read_all(path_a, 99, MR_MEM_OTHER, &data, &len), MR_EIO);
    assert_null(data);
    for (uint64_t n = 1; n <= 2; n++) {
        mr_mem_fail_after(n);
        assert_int_equal(mr_file_read_all(path_a, 99, MR_MEM_OTHER, &data, &len), MR_ENOMEM);
    }
    mr_mem_fail_after(0);
    assert_int_equal(mr_mem_held(MR_MEM_COUNT), held);
}

static void test_read_error_of_the_system(void **state)
{
    (void)state;
    put(path_a, "hello");
    mr_file f;
    char c[8];
    assert_int_equal(mr_file_open(&f, path_a), MR_OK);
    int keep = f.fd;
    f.fd = -1;
    assert_int_equal(mr_file_pread(&f, 0, c, 5), MR_EIO);
    assert_message("%s: cannot read: Bad file descriptor", path_a);
    f.fd = keep;
    mr_file_close(&f);
}

/* ---- writing ---- */

static void test_write_appears_on_commit(void **state)
{
    (void)state;
    size_t held = mr_mem_held(MR_MEM_COUNT);
    mr_out o;
    assert_int_equal(mr_out_open(&o, path_a), MR_OK);
    assert_int_equal(mr_out_write(&o, "hello ", 6), MR_OK);
    assert_int_equal(mr_out_write(&o, "", 0), MR_OK);
    assert_int_equal(mr_out_write(&o, "world", 5), MR_OK);
    assert_int_equal(o.written, 11);
    assert_int_equal(mr_file_exists(path_a), 0);
    assert_int_equal(files_in_dir(), 1); /* the temporary stands in the same directory */
    assert_int_equal(mr_out_commit(&o), MR_OK);
    assert_content(path_a, "hello world");
    assert_int_equal(files_in_dir(), 1);
    assert_int_equal(mr_mem_held(MR_MEM_COUNT), held);
}

static void test_write_large(void **state)
{
    (void)state;
    enum { N = 3 << 20 };
    char *text = mr_alloc(MR_MEM_OTHER, N + 1);
    for (size_t i = 0; i < N; i++)
        text[i] = (char)('a' + i * 2654435761u % 26);
    text[N] = '\0';
    static const size_t pieces[] = {1000003, 1, 1 << 20, 7, (1 << 20) - 1, N};
    mr_out o;
    assert_int_equal(mr_out_open(&o, path_a), MR_OK);
    size_t at = 0;
    for (size_t i = 0; at < N; i++) {
        size_t n = pieces[i] < N - at ? pieces[i] : N - at;
        assert_int_equal(mr_out_write(&o, text + at, n), MR_OK);
        at += n;
    }
    assert_int_equal(o.written, N);
    assert_int_equal(mr_out_commit(&o), MR_OK);
    assert_content(path_a, text);
    mr_free(text);
}

static void test_abort_leaves_the_old_file(void **state)
{
    (void)state;
    put(path_a, "old");
    mr_out o;
    assert_int_equal(mr_out_open(&o, path_a), MR_OK);
    assert_int_equal(mr_out_write(&o, "new", 3), MR_OK);
    mr_out_abort(&o);
    mr_out_abort(&o);
    assert_content(path_a, "old");
    assert_int_equal(files_in_dir(), 1);
    assert_int_equal(mr_out_write(&o, "x", 1), MR_EIO);
}

static void test_drop_all(void **state)
{
    (void)state;
    mr_out done, a, b;
    put(path_a, "old");
    assert_int_equal(mr_out_open(&done, path_b), MR_OK);
    assert_int_equal(mr_out_commit(&done), MR_OK);
    assert_int_equal(mr_out_open(&a, path_a), MR_OK);
    assert_int_equal(mr_out_open(&b, path_b), MR_OK);
    assert_int_equal(files_in_dir(), 4);
    mr_out_drop_all();
    assert_int_equal(files_in_dir(), 2);
    assert_content(path_a, "old");
    mr_out_abort(&a);
    assert_int_equal(mr_out_commit(&b), MR_EIO);
    mr_out many[40]; /* more than are listed */
    for (int i = 0; i < 40; i++)
        assert_int_equal(mr_out_open(&many[i], path_a), MR_OK);
    for (int i = 0; i < 40; i++)
        mr_out_abort(&many[i]);
    assert_int_equal(files_in_dir(), 2);
}

static void test_replace_keeps_mode_and_link(void **state)
{
    (void)state;
    put(path_a, "old");
    assert_int_equal(chmod(path_a, 0640), 0);
    assert_int_equal(symlink(path_a, path_b), 0);
    mr_out o;
    assert_int_equal(mr_out_open(&o, path_b), MR_OK);
    assert_int_equal(mr_out_write(&o, "new", 3), MR_OK);
    assert_int_equal(mr_out_commit(&o), MR_OK);
    assert_content(path_a, "new");
    struct stat st;
    assert_int_equal(lstat(path_b, &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    assert_int_equal(lstat(path_a, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0640);
}

static void test_open_failures(void **state)
{
    (void)state;
    size_t held = mr_mem_held(MR_MEM_COUNT);
    mr_out o;
    assert_int_equal(mr_out_open(&o, dir), MR_EIO);
    assert_message("%s: cannot write: Is a directory", dir);
    char deep[128];
    snprintf(deep, sizeof deep, "%s/none/x", dir);
    assert_int_equal(mr_out_open(&o, deep), MR_EIO);
    assert_message("%s: cannot write: No such file or directory", deep);
    assert_int_equal(mr_out_open(&o, "/dev/fd/977"), MR_EIO);
    assert_message("%s: cannot write: Bad file descriptor", "/dev/fd/977");
    for (uint64_t n = 1; n <= 3; n++) {
        mr_mem_fail_after(n);
        assert_int_equal(mr_out_open(&o, path_a), MR_ENOMEM);
    }
    mr_mem_fail_after(0);
    assert_int_equal(files_in_dir(), 0);
    assert_int_equal(mr_mem_held(MR_MEM_COUNT), held);
}

/* /dev/full takes no byte; the error is met at the flush and kept until the commit. */
static void test_full_device(void **state)
{
    (void)state;
    size_t held = mr_mem_held(MR_MEM_COUNT);
    mr_out o;
    assert_int_equal(mr_out_open(&o, "/dev/full"), MR_OK);
    assert_int_equal(mr_out_write(&o, "x", 1), MR_OK);
    assert_int_equal(mr_out_commit(&o), MR_EIO);
    assert_message("%s: cannot write: No space left on device", "/dev/full");
    char *big = mr_zalloc(MR_MEM_OTHER, 2 << 20);
    assert_int_equal(mr_out_open(&o, "/dev/full"), MR_OK);
    assert_int_equal(mr_out_write(&o, big, 2 << 20), MR_EIO);
    assert_int_equal(mr_out_write(&o, "x", 1), MR_EIO);
    mr_fail(MR_EUSAGE, "something else");
    assert_int_equal(mr_out_commit(&o), MR_EIO);
    assert_message("%s: cannot write: No space left on device", "/dev/full");
    mr_free(big);
    assert_int_equal(mr_mem_held(MR_MEM_COUNT), held);
}

static void test_file_size_limit(void **state)
{
    (void)state;
    struct rlimit old, small;
    getrlimit(RLIMIT_FSIZE, &old);
    signal(SIGXFSZ, SIG_IGN);
    put(path_a, "old");
    mr_out o;
    assert_int_equal(mr_out_open(&o, path_a), MR_OK);
    assert_int_equal(mr_out_write(&o, "hello", 5), MR_OK);
    small = (struct rlimit){.rlim_cur = 2, .rlim_max = old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    mr_err err = mr_out_commit(&o);
    setrlimit(RLIMIT_FSIZE, &old);
    assert_int_equal(err, MR_EIO);
    assert_message("%s: cannot write: File too large", path_a);
    assert_content(path_a, "old");
    assert_int_equal(files_in_dir(), 1);
}

static void test_rename_fails(void **state)
{
    (void)state;
    mr_out o;
    assert_int_equal(mr_out_open(&o, path_a), MR_OK);
    assert_int_equal(mkdir(path_a, 0700), 0); /* something takes the name meanwhile */
    assert_int_equal(mr_out_commit(&o), MR_EIO);
    assert_message("%s: cannot write: Is a directory", path_a);
    assert_int_equal(files_in_dir(), 1);
}

/* Standard output redirected to a file: written where it stands, neither truncated nor replaced. */
static void test_standard_output(void **state)
{
    (void)state;
    put(path_a, "");
    fflush(stdout);
    int keep = dup(1), to = open(path_a, O_WRONLY);
    assert_int_equal(dup2(to, 1), 1);
    assert_int_equal(write(1, "first ", 6), 6);
    mr_out o;
    mr_err opened = mr_out_open(&o, "/dev/stdout");
    mr_err wrote = mr_out_write(&o, "second ", 7), done = mr_out_commit(&o);
    mr_err again = mr_out_open(&o, "/dev/fd/1");
    mr_out_write(&o, "third", 5);
    mr_err again_done = mr_out_commit(&o);
    dup2(keep, 1);
    close(keep);
    close(to);
    assert_int_equal(opened | wrote | done | again | again_done, MR_OK);
    assert_content(path_a, "first second third");
    assert_int_equal(mr_out_open(&o, "/dev/stderr"), MR_OK);
    mr_out_abort(&o);
}

static void test_null_device(void **state)
{
    (void)state;
    mr_out o;
    assert_int_equal(mr_out_open(&o, "/dev/null"), MR_OK);
    assert_int_equal(mr_out_write(&o, "x", 1), MR_OK);
    assert_int_equal(mr_out_commit(&o), MR_OK);
    struct stat st;
    assert_int_equal(stat("/dev/null", &st), 0);
    assert_true(S_ISCHR(st.st_mode));
}

#define IN_DIR(f) cmocka_unit_test_setup_teardown(f, make_dir, remove_dir)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_DIR(test_pread),
        IN_DIR(test_refused_kinds),
        IN_DIR(test_read_all),
        IN_DIR(test_read_injection),
        IN_DIR(test_read_error_of_the_system),
        IN_DIR(test_write_appears_on_commit),
        IN_DIR(test_write_large),
        IN_DIR(test_abort_leaves_the_old_file),
        IN_DIR(test_drop_all),
        IN_DIR(test_replace_keeps_mode_and_link),
        IN_DIR(test_open_failures),
        IN_DIR(test_full_device),
        IN_DIR(test_file_size_limit),
        IN_DIR(test_rename_fails),
        IN_DIR(test_standard_output),
        IN_DIR(test_null_device),
    };
    return cmocka_run_group_tests_name("base/file", tests, NULL, NULL);
}
