/* Thread pool, and scratch memory that is kept and reused. */
#ifndef THREADS_H
#define THREADS_H

#include "kernels.h"

/* Calls task(job, index, scratch) for every index from 0 to count - 1, on the calling thread and on up to threads - 1
   helpers. Each thread has its own scratch memory of scratch_bytes, aligned to 64 bytes, not cleared.
   Returns 0; or -1, before any task has run, if there is no memory for the scratch of the calling thread. */
typedef void Task(const void *job, dim index, char *scratch);
int run_tasks(Task *task, const void *job, dim count, dim threads, size_t scratch_bytes);

/* A block of at least `bytes` bytes, aligned to 64 bytes, not cleared; NULL if there is no memory. */
char *scratch_take(size_t bytes);
void scratch_give(char *block);

/* Bytes of a core's L2 cache; 1 MiB if the system does not say. */
dim second_level_cache(void);

#endif
