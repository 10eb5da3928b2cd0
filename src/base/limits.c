/* Reads /proc/meminfo, /proc/self/cgroup and the groups' files.
 *
 * A process names its group by a path below the mount of the hierarchy.  In a container that has
 * its own view the path is "/", or does not exist below the mount; so every level is tried from the
 * path up to the mount itself, and a level without the file does not limit.
 */
#include "base/limits.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATH_BYTES = 4096 + 256, FILE_BYTES = 16384 };
#define NO_LIMIT ULLONG_MAX

/* The first FILE_BYTES - 1 bytes of a file; false if it cannot be read. */
static bool slurp(const char *path, char text[FILE_BYTES])
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    size_t len = 0;
    ssize_t n;
    while (len < FILE_BYTES - 1 && (n = read(fd, text + len, FILE_BYTES - 1 - len)) != 0) {
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            break;
        len += (size_t)n;
    }
    close(fd);
    text[len] = '\0';
    return len > 0;
}

/* A decimal number; "max" and everything else give `otherwise`. */
static unsigned long long number(const char *s, unsigned long long otherwise)
{
    while (*s == ' ' || *s == '\t')
        s++;
    return *s >= '0' && *s <= '9' ? strtoull(s, NULL, 10) : otherwise;
}

/* The number after `key` at the start of a line. */
static unsigned long long field(const char *text, const char *key, unsigned long long otherwise)
{
    size_t n = strlen(key);
    for (const char *line = text; line; line = strchr(line, '\n'), line = line ? line + 1 : NULL)
        if (strncmp(line, key, n) == 0)
            return number(line + n, otherwise);
    return otherwise;
}

static unsigned long long file_number(const char *dir, const char *name,
                                      unsigned long long otherwise)
{
    char path[PATH_BYTES + 64], text[FILE_BYTES];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return slurp(path, text) ? number(text, otherwise) : otherwise;
}

/* ---- walking the groups ---------------------------------------------------------------------- */

/* One level's verdict; `v1` tells the version of its files. */
typedef unsigned long long (*level_fn)(const char *dir, bool v1);

static unsigned long long walk(const char *mount, const char *group, bool v1, level_fn level)
{
    char dir[PATH_BYTES];
    size_t base = (size_t)snprintf(dir, sizeof dir, "%s", mount);
    if (base >= sizeof dir ||
        (size_t)snprintf(dir + base, sizeof dir - base, "%s", group) >= sizeof dir - base)
        return NO_LIMIT;
    unsigned long long least = NO_LIMIT;
    for (;;) {
        unsigned long long here = level(dir, v1);
        least = here < least ? here : least;
        char *slash = strrchr(dir + base, '/');
        if (!slash)
            return least;
        *slash = '\0';
    }
}

static bool has_controller(const char *list, size_t len, const char *name)
{
    size_t n = strlen(name);
    for (size_t i = 0; i + n <= len; i++)
        if ((i == 0 || list[i - 1] == ',') && memcmp(list + i, name, n) == 0 &&
            (i + n == len || list[i + n] == ','))
            return true;
    return false;
}

/* One line of /proc/self/cgroup: "0::/path" (version 2) or "4:cpu,cpuacct:/path" (version 1). */
static unsigned long long walk_line(const char *root, char *line, const char *controller,
                                    level_fn level)
{
    char *list = strchr(line, ':');
    char *group = list ? strchr(list + 1, ':') : NULL;
    if (!group)
        return NO_LIMIT;
    size_t len = (size_t)(group - ++list);
    *group++ = '\0';
    if (strstr(group, "..")) /* outside this process's view: only the top is seen */
        group = "";
    char mount[PATH_BYTES];
    unsigned long long least = NO_LIMIT, here;
    if (len == 0) {
        static const char *const mounts[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};
        for (int i = 0; i < 2; i++) {
            snprintf(mount, sizeof mount, "%s%s", root, mounts[i]);
            here = walk(mount, group, false, level);
            least = here < least ? here : least;
        }
    } else if (has_controller(list, len, controller)) {
        snprintf(mount, sizeof mount, "%s/sys/fs/cgroup/%s", root, list);
        least = walk(mount, group, true, level);
        snprintf(mount, sizeof mount, "%s/sys/fs/cgroup/%s", root, controller);
        here = walk(mount, group, true, level);
        least = here < least ? here : least;
    }
    return least;
}

static unsigned long long walk_all(const char *root, const char *controller, level_fn level)
{
    char path[PATH_BYTES], text[FILE_BYTES];
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    if (!slurp(path, text))
        return NO_LIMIT;
    unsigned long long least = NO_LIMIT;
    char *rest = text, *line;
    while ((line = strsep(&rest, "\n")) != NULL) {
        unsigned long long here = walk_line(root, line, controller, level);
        least = here < least ? here : least;
    }
    return least;
}

/* ---- memory ---------------------------------------------------------------------------------- */

static unsigned long long memory_level(const char *dir, bool v1)
{
    unsigned long long limit =
        file_number(dir, v1 ? "memory.limit_in_bytes" : "memory.max", NO_LIMIT);
    unsigned long long used =
        file_number(dir, v1 ? "memory.usage_in_bytes" : "memory.current", NO_LIMIT);
    if (limit == NO_LIMIT || used == NO_LIMIT)
        return NO_LIMIT;
    char path[PATH_BYTES + 64], text[FILE_BYTES];
    snprintf(path, sizeof path, "%s/memory.stat", dir);
    unsigned long long dropped = 0;
    if (slurp(path, text))
        dropped = field(text, v1 ? "total_inactive_file " : "inactive_file ", 0);
    used = used > dropped ? used - dropped : 0;
    return limit > used ? limit - used : 0;
}

unsigned long long mr_limits_memory(const char *root)
{
    char path[PATH_BYTES], text[FILE_BYTES];
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    unsigned long long machine = NO_LIMIT;
    if (slurp(path, text)) {
        unsigned long long kib = field(text, "MemAvailable:", NO_LIMIT);
        if (kib <= NO_LIMIT / 1024)
            machine = kib * 1024;
    }
    unsigned long long group = walk_all(root, "memory", memory_level);
    return group < machine ? group : machine;
}

/* ---- CPUs ------------------------------------------------------------------------------------ */

static unsigned long long cpu_level(const char *dir, bool v1)
{
    unsigned long long quota, period;
    if (v1) {
        quota = file_number(dir, "cpu.cfs_quota_us", NO_LIMIT); /* -1: none */
        period = file_number(dir, "cpu.cfs_period_us", 0);
    } else {
        char path[PATH_BYTES + 64], text[FILE_BYTES];
        snprintf(path, sizeof path, "%s/cpu.max", dir);
        if (!slurp(path, text))
            return NO_LIMIT;
        const char *second = strchr(text, ' '); /* "QUOTA PERIOD" */
        quota = number(text, NO_LIMIT);
        period = second ? number(second, 0) : 0;
    }
    if (quota == NO_LIMIT || period == 0)
        return NO_LIMIT;
    unsigned long long cpus = quota / period + (quota % period != 0);
    return cpus ? cpus : 1;
}

int mr_limits_cpus(const char *root)
{
    unsigned long long cpus = walk_all(root, "cpu", cpu_level);
    return cpus > INT_MAX ? 0 : (int)cpus;
}
