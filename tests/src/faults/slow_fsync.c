/* Makes fsync and fdatasync as slow as the file named by $SLOW_FSYNC says, in milliseconds. To be
 * loaded before the C library: LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static void wait_as_told(void)
{
    const char *path = getenv("SLOW_FSYNC");
    char text[16] = "";
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    long ms = length > 0 ? atol(text) : 0;
    struct timespec time = { ms / 1000, ms % 1000 * 1000000 };
    if (ms > 0)
        nanosleep(&time, NULL);
}

typedef int sync_function(int);

int fsync(int file)
{
    wait_as_told();
    return ((sync_function *)dlsym(RTLD_NEXT, "fsync"))(file);
}

int fdatasync(int file)
{
    wait_as_told();
    return ((sync_function *)dlsym(RTLD_NEXT, "fdatasync"))(file);
}
