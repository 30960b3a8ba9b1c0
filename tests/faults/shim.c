/* A disk whose flush fails: loaded into a node with LD_PRELOAD, by tests/faults/disks.py.

   While the file that CROWD_FAULT_TRIGGER names exists, fsync and fdatasync of a segment fail
   with EIO, as they do when a device has lost what it was given. All else goes its way. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SUFFIX ".segment"

static int fails(int fd)
{
    const char *trigger = getenv("CROWD_FAULT_TRIGGER");
    char link[64], path[4096];
    ssize_t length;

    if (trigger == NULL || access(trigger, F_OK) != 0)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, sizeof path - 1);
    if (length < (ssize_t)strlen(SUFFIX))
        return 0;
    path[length] = '\0';
    return strcmp(path + length - strlen(SUFFIX), SUFFIX) == 0;
}

static int flush(const char *name, int fd)
{
    int (*next)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);

    if (fails(fd)) {
        errno = EIO;
        return -1;
    }
    return next(fd);
}

int fsync(int fd)
{
    return flush("fsync", fd);
}

int fdatasync(int fd)
{
    return flush("fdatasync", fd);
}
