#include "threads.h"

#include "commandr.h"

#include <pthread.h>
#include <stdatomic.h>

struct job {
    commandr_work_fn work;
    void *           ctx;
    int64_t          n_chunks;
    int64_t          n_items;
    int64_t          chunk;
    _Atomic int64_t  next; /* the first chunk that nobody has taken */
};

static void * take_chunks(void * arg) {
    struct job * job = arg;
    for (;;) {
        const int64_t i = atomic_fetch_add_explicit(&job->next, 1, memory_order_relaxed);
        if (i >= job->n_chunks) {
            return NULL;
        }
        const int64_t begin = i * job->chunk;
        const int64_t left  = job->n_items - begin;
        job->work(job->ctx, begin, begin + (left < job->chunk ? left : job->chunk));
    }
}

void commandr_parallel_for(int32_t n_threads, int64_t n_items, int64_t chunk, commandr_work_fn work, void * ctx) {
    if (n_items <= 0) {
        return;
    }
    struct job job = { .work = work, .ctx = ctx, .n_items = n_items, .chunk = chunk };
    job.n_chunks   = n_items / chunk + (n_items % chunk != 0);
    atomic_init(&job.next, 0);

    int64_t n = n_threads > 0 ? n_threads : commandr_default_n_threads();
    n         = n < job.n_chunks ? n : job.n_chunks;
    n         = n < COMMANDR_MAX_THREADS ? n : COMMANDR_MAX_THREADS;

    pthread_t others[COMMANDR_MAX_THREADS];
    int64_t   n_started = 0;
    while (n_started < n - 1 && pthread_create(&others[n_started], NULL, take_chunks, &job) == 0) {
        n_started++;
    }
    take_chunks(&job);
    for (int64_t i = 0; i < n_started; i++) {
        pthread_join(others[i], NULL);
    }
}
