/* Thread pool, and scratch memory that is kept and reused.

   One pool of helper threads serves the whole process. A call to run_tasks

   1. puts its job on a list;
   2. works on the tasks of the job, like any helper that joins it;
   3. takes the job off the list when no task is left to start;
   4. waits for the helpers that still run a task of it.

   Several calls may run at once, each with its own number of threads. A call never waits for a helper that works on
   another job. */
#include "threads.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

#ifdef _WIN32
#include <windows.h>
typedef SRWLOCK Lock;
typedef CONDITION_VARIABLE Condition;
#define LOCK_INIT SRWLOCK_INIT
#define CONDITION_INIT CONDITION_VARIABLE_INIT
static void lock(Lock *l) { AcquireSRWLockExclusive(l); }
static void unlock(Lock *l) { ReleaseSRWLockExclusive(l); }
static void wait_for(Condition *c, Lock *l) { SleepConditionVariableSRW(c, l, INFINITE, 0); }
static void wake_all(Condition *c) { WakeAllConditionVariable(c); }
#else
#include <pthread.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/resource.h>
#include <sys/syscall.h>
#endif
typedef pthread_mutex_t Lock;
typedef pthread_cond_t Condition;
#define LOCK_INIT PTHREAD_MUTEX_INITIALIZER
#define CONDITION_INIT PTHREAD_COND_INITIALIZER
static void lock(Lock *l) { pthread_mutex_lock(l); }
static void unlock(Lock *l) { pthread_mutex_unlock(l); }
static void wait_for(Condition *c, Lock *l) { pthread_cond_wait(c, l); }
static void wake_all(Condition *c) { pthread_cond_broadcast(c); }
#endif

/* SPINS: how often a helper looks for the next job, or a call for its last helper, before it sleeps. That takes 40 to 140
   microseconds. About 10 pass between two layers of a network, and waking a thread takes longer than that. */
enum { SPINS = 3000, MOST_HELPERS = 255, MOST_BLOCKS = 1024, ALIGNMENT = 64 };

typedef struct Job {
    Task *task;
    const void *argument;
    size_t scratch_bytes;
    dim count;
    _Atomic dim next;
    _Atomic dim helping;
    dim welcome; /* How many more helpers may join. */
    int nice;    /* Nice value of the calling thread. */
    struct Job *after;
} Job;

static Lock pool_lock = LOCK_INIT;
static Condition work_came = CONDITION_INIT, helper_left = CONDITION_INIT;
static Job *jobs;
static _Atomic dim open_jobs;
static dim helpers;

static struct {
    char *memory, *start;
    size_t bytes;
    int taken;
} blocks[MOST_BLOCKS];
static Lock blocks_lock = LOCK_INIT;

/* On Linux each thread has its own nice value. A helper takes that of the caller if it is higher (a lower priority), and
   keeps it, because lowering it again needs a privilege. */
#ifdef __linux__
static int own_nice(void) { return getpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid)); }
static void be_as_nice(int nice) {
    if (nice > own_nice()) setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), nice);
}
#else
static int own_nice(void) { return 0; }
static void be_as_nice(int nice) { (void)nice; }
#endif

INLINE void pause_briefly(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

dim second_level_cache(void) {
    static _Atomic dim known;
    dim bytes = atomic_load(&known);
    if (bytes) return bytes;
#ifdef _SC_LEVEL2_CACHE_SIZE
    bytes = (dim)sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    if (bytes <= 0) bytes = 1 << 20;
    atomic_store(&known, bytes);
    return bytes;
}

/* The scratch memory of a task that needs none. */
static char nothing;

char *scratch_take(size_t bytes) {
    if (!bytes) return &nothing;
    char *found = NULL;
    lock(&blocks_lock);
    int place = -1;
    for (int i = 0; i < MOST_BLOCKS && !found; i++) {
        if (blocks[i].taken) continue;
        if (blocks[i].memory && blocks[i].bytes >= bytes) {
            blocks[i].taken = 1;
            found = blocks[i].start;
        } else if (place < 0 || (blocks[i].memory && !blocks[place].memory)) {
            place = i; /* A block that is too small is replaced before an empty entry is used. */
        }
    }
    if (!found && place >= 0) {
        free(blocks[place].memory);
        char *memory = malloc(bytes + ALIGNMENT);
        char *start = memory ? (char *)(((uintptr_t)memory + ALIGNMENT - 1) & ~(uintptr_t)(ALIGNMENT - 1)) : NULL;
        blocks[place].memory = memory, blocks[place].start = start;
        blocks[place].bytes = memory ? bytes : 0, blocks[place].taken = memory != NULL;
        found = start;
    }
    unlock(&blocks_lock);
    return found;
}

void scratch_give(char *block) {
    if (block == &nothing) return;
    lock(&blocks_lock);
    for (int i = 0; i < MOST_BLOCKS; i++) {
        if (blocks[i].taken && blocks[i].start == block) {
            blocks[i].taken = 0;
#ifdef SCRATCH_IS_NOT_KEPT
            /* Lets the address sanitizer detect accesses past the requested size. */
            free(blocks[i].memory);
            blocks[i].memory = NULL;
#endif
            break;
        }
    }
    unlock(&blocks_lock);
}

static void work_on(Job *job, char *scratch) {
    dim index;
    while ((index = atomic_fetch_add(&job->next, 1)) < job->count) job->task(job->argument, index, scratch);
}

/* Finds a job that takes one more helper, and counts this helper in. The caller holds the lock. */
static Job *join_a_job(void) {
    for (Job *job = jobs; job; job = job->after) {
        if (job->welcome > 0 && atomic_load(&job->next) < job->count) {
            job->welcome--;
            atomic_fetch_add(&job->helping, 1);
            return job;
        }
    }
    return NULL;
}

#ifdef _WIN32
static DWORD WINAPI help(LPVOID unused) {
#else
static void *help(void *unused) {
#endif
    (void)unused;
    for (;;) {
        for (int spin = 0; spin < SPINS && !atomic_load(&open_jobs); spin++) pause_briefly();
        lock(&pool_lock);
        Job *job;
        while (!(job = join_a_job())) wait_for(&work_came, &pool_lock);
        unlock(&pool_lock);
        be_as_nice(job->nice);
        char *scratch = scratch_take(job->scratch_bytes);
        if (scratch) {
            work_on(job, scratch);
            scratch_give(scratch);
        }
        lock(&pool_lock);
        if (atomic_fetch_sub(&job->helping, 1) == 1) wake_all(&helper_left);
        unlock(&pool_lock);
    }
    return 0;
}

static int start_helper(void) {
#ifdef _WIN32
    HANDLE thread = CreateThread(NULL, 0, help, NULL, 0, NULL);
    if (!thread) return -1;
    CloseHandle(thread);
#else
    pthread_t thread;
    if (pthread_create(&thread, NULL, help, NULL)) return -1;
    pthread_detach(thread);
#endif
    return 0;
}

#ifndef _WIN32
/* Before a fork: hold both locks, so that no thread is changing the lists. */
static void hold_all(void) {
    lock(&pool_lock);
    lock(&blocks_lock);
}

static void let_go(void) {
    unlock(&blocks_lock);
    unlock(&pool_lock);
}

/* In the child process: it has no threads of its parent, so all that they held is free. */
static void forget_all(void) {
    pool_lock = blocks_lock = (Lock)LOCK_INIT;
    work_came = helper_left = (Condition)CONDITION_INIT;
    jobs = NULL, helpers = 0;
    atomic_store(&open_jobs, 0);
    for (int i = 0; i < MOST_BLOCKS; i++) blocks[i].taken = 0;
}

__attribute__((constructor)) static void prepare_for_forks(void) { pthread_atfork(hold_all, let_go, forget_all); }
#endif

int run_tasks(Task *task, const void *argument, dim count, dim threads, size_t scratch_bytes) {
    char *scratch = scratch_take(scratch_bytes);
    if (!scratch) return -1;
    dim wanted = (threads < count ? threads : count) - 1;
    if (wanted > MOST_HELPERS) wanted = MOST_HELPERS;
    if (wanted <= 0) {
        for (dim index = 0; index < count; index++) task(argument, index, scratch);
        scratch_give(scratch);
        return 0;
    }
    Job job = {task, argument, scratch_bytes, count, .welcome = wanted, .nice = own_nice()};
    lock(&pool_lock);
    /* If a thread cannot be started, the others do its tasks. */
    while (helpers < wanted && !start_helper()) helpers++;
    job.after = jobs, jobs = &job;
    atomic_fetch_add(&open_jobs, 1);
    wake_all(&work_came);
    unlock(&pool_lock);

    work_on(&job, scratch);
    scratch_give(scratch);

    lock(&pool_lock);
    Job **place = &jobs;
    while (*place != &job) place = &(*place)->after;
    *place = job.after;
    atomic_fetch_sub(&open_jobs, 1);
    unlock(&pool_lock);
    for (int spin = 0; spin < SPINS && atomic_load(&job.helping); spin++) pause_briefly();
    lock(&pool_lock);
    while (atomic_load(&job.helping)) wait_for(&helper_left, &pool_lock);
    unlock(&pool_lock);
    return 0;
}
