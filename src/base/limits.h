/* What the system lets this process have.
 *
 * Why:    in a container the machine's memory and CPUs are not what the process may use: control
 *         groups (version 2, or 1) lower both, at any level above the process.
 * Use:    mr_limits_memory(""), mr_limits_cpus(""): `root` is put before /proc and /sys, for tests.
 * Fails:  never: what cannot be read does not limit.
 */
#ifndef MR_BASE_LIMITS_H
#define MR_BASE_LIMITS_H

/* The least of MemAvailable and, for each group up to the top, its limit less what it uses and
 * could not drop (inactive file pages are dropped at need). */
unsigned long long mr_limits_memory(const char *root);

/* CPUs by quota, rounded up; 0 if there is no quota. */
int mr_limits_cpus(const char *root);

#endif
