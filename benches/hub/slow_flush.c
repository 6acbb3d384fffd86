/* Loaded before libc: every flush to disk takes BENCH_FLUSH_US microseconds longer, as on a slower disk. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <time.h>

static void wait_longer(void) {
    const char *text = getenv("BENCH_FLUSH_US");
    long us = text ? atol(text) : 0;
    int before = errno;
    struct timespec left = {us / 1000000, us % 1000000 * 1000};
    /* A signal wakes the sleeper before its time. */
    while (nanosleep(&left, &left) == -1 && errno == EINTR) {}
    errno = before;
}

int fsync(int fd) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    wait_longer();
    return real(fd);
}

int fdatasync(int fd) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    wait_longer();
    return real(fd);
}
