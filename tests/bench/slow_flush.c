/* A disk that needs 5 ms for each flush (a hard disk without a cache that may lie): preloaded by receive_slow_disk.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>

static int slowly(const char *name, int descriptor)
{
    const struct timespec wait = {0, 5000000};
    int (*flush)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    int answer = flush(descriptor);
    nanosleep(&wait, NULL);
    return answer;
}

int fsync(int descriptor) { return slowly("fsync", descriptor); }
int fdatasync(int descriptor) { return slowly("fdatasync", descriptor); }
