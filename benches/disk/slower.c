// Loaded into a bench and its server (LD_PRELOAD): each fsync and fdatasync takes BENCH_FSYNC_MS milliseconds more,
// one after the other, as on a disk that puts its cache away for one at a time. Nothing else is slower.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

static int sync_slowly(int fd, long call) {
    double millis = atof(getenv("BENCH_FSYNC_MS"));
    struct timespec more = {.tv_sec = (time_t)(millis / 1e3)};
    more.tv_nsec = (long)((millis - 1e3 * more.tv_sec) * 1e6);
    pthread_mutex_lock(&turn);
    int done = syscall(call, fd);
    nanosleep(&more, NULL);
    pthread_mutex_unlock(&turn);
    return done;
}
int fsync(int fd) { return sync_slowly(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_slowly(fd, SYS_fdatasync); }
