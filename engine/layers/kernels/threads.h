/* A pool of threads that share the tasks of a call, and scratch memory that is used again. */
#ifndef THREADS_H
#define THREADS_H

#include "kernels.h"

/* task(job, index, scratch) for every index below count, by the calling thread and by up to threads - 1 helpers.
   Each thread that takes part has scratch_bytes of its own, aligned to 64 bytes, not cleared.
   Returns 0, or -1 without having run anything if there is no memory for the calling thread's scratch. */
typedef void Task(const void *job, dim index, char *scratch);
int run_tasks(Task *task, const void *job, dim count, dim threads, size_t scratch_bytes);

/* A block of at least so many bytes, aligned to 64 bytes, not cleared; NULL if there is no memory. */
char *scratch_take(size_t bytes);
void scratch_give(char *block);

/* Bytes of a core's second-level cache; a megabyte where the system does not tell. */
dim second_level_cache(void);

#endif
