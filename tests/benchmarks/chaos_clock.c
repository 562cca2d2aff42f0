/* Put the clock of a process an hour ahead while the file in CLOCK_IS_AHEAD exists: for LD_PRELOAD.
 *
 * Only the time of day changes. The monotonic clock, by which programs wait, does not.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { AHEAD_S = 3600, CALLS_BETWEEN_LOOKS = 50 };

static long ahead(void)
{
    static unsigned calls;
    static int seconds;
    if (calls++ % CALLS_BETWEEN_LOOKS == 0) {
        const char *file = getenv("CLOCK_IS_AHEAD");
        seconds = file && access(file, F_OK) == 0 ? AHEAD_S : 0;
    }
    return seconds;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += ahead();
    return failed;
}

int gettimeofday(struct timeval *now, void *zone)
{
    struct timespec precise;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *seconds)
{
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (seconds)
        *seconds = precise.tv_sec;
    return precise.tv_sec;
}
