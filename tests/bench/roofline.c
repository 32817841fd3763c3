/* What the processor can do: 8-bit multiply-adds per second of `threads` threads, in loops that do nothing else.
 *
 *     roofline LEVEL THREADS     LEVEL: avx2, avxvnni, avx512 or amx
 *
 * avx2 is vpmaddubsw, vpmaddwd and vpaddd; avxvnni and avx512 are vpdpbusd. AMX is not measured but computed: a product
 * of two tiles, 16 x 16 x 64 multiply-adds, every 16 cycles (Intel 64 and IA-32 Architectures Optimization Reference
 * Manual, chapter on AMX) of the clock that a chain of additions shows. */
#include <immintrin.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { N_CHAINS = 12, MAX_THREADS = 512 }; /* independent sums: more than latency times throughput */

#define SECONDS 0.3

typedef void (*loop_fn)(long n);

static volatile int sink;

__attribute__((target("avx2"))) static void loop_avx2(long n) {
    enum { N_SUMS = 4 }; /* an addition takes one cycle, and there are 16 registers */
    __m256i sums[N_SUMS] = { 0 };
    __m256i a            = _mm256_set1_epi8((char) n);
    __m256i b            = _mm256_set1_epi8(3);
    __m256i ones         = _mm256_set1_epi16(1);
    for (long i = 0; i < n; i++) {
#pragma GCC unroll 12
        for (int k = 0; k < N_CHAINS; k++) {
            __asm__("" : "+x"(a)); /* else one product would do for all */
            const __m256i product = _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones);
            sums[k % N_SUMS]      = _mm256_add_epi32(sums[k % N_SUMS], product);
        }
    }
    for (int k = 1; k < N_SUMS; k++) {
        sums[0] = _mm256_add_epi32(sums[0], sums[k]);
    }
    sink = _mm256_extract_epi32(sums[0], 0);
}

__attribute__((target("avx2,avxvnni"))) static void loop_avxvnni(long n) {
    __m256i sums[N_CHAINS] = { 0 };
    __m256i a              = _mm256_set1_epi8((char) n);
    __m256i b              = _mm256_set1_epi8(3);
    for (long i = 0; i < n; i++) {
#pragma GCC unroll 12
        for (int k = 0; k < N_CHAINS; k++) {
            sums[k] = _mm256_dpbusd_avx_epi32(sums[k], a, b);
        }
    }
    for (int k = 1; k < N_CHAINS; k++) {
        sums[0] = _mm256_add_epi32(sums[0], sums[k]);
    }
    sink = _mm256_extract_epi32(sums[0], 0);
}

__attribute__((target("avx512f,avx512vnni"))) static void loop_avx512(long n) {
    __m512i sums[N_CHAINS];
    __m512i a = _mm512_set1_epi32((int) n);
    __m512i b = _mm512_set1_epi32(0x03030303);
    for (int k = 0; k < N_CHAINS; k++) {
        sums[k] = _mm512_setzero_si512();
    }
    for (long i = 0; i < n; i++) {
#pragma GCC unroll 12
        for (int k = 0; k < N_CHAINS; k++) {
            sums[k] = _mm512_dpbusd_epi32(sums[k], a, b);
        }
    }
    for (int k = 1; k < N_CHAINS; k++) {
        sums[0] = _mm512_add_epi32(sums[0], sums[k]);
    }
    sink = _mm512_reduce_add_epi32(sums[0]);
}

/* N_CHAINS cycles for each n. */
static void loop_clock(long n) {
    long x = n;
    for (long i = 0; i < n; i++) {
#pragma GCC unroll 12
        for (int k = 0; k < N_CHAINS; k++) {
            __asm__ volatile("add $1, %0" : "+r"(x));
        }
    }
    sink = (int) x;
}

static const struct level {
    const char * name;
    loop_fn      loop;
    double       per_step; /* multiply-adds of each of the N_CHAINS steps */
} LEVELS[] = {
    { "avx2",    loop_avx2,    32        },
    { "avxvnni", loop_avxvnni, 32        },
    { "avx512",  loop_avx512,  64        },
    { "amx",     loop_clock,   16 * 64.0 },
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double) t.tv_sec + 1e-9 * (double) t.tv_nsec;
}

struct job {
    const struct level * level;
    double               rate;
};

static void * measure(void * arg) {
    struct job * job   = arg;
    const long   n     = 20000;
    long         done  = 0;
    const double begin = now();
    do {
        job->level->loop(n);
        done += n;
    } while (now() - begin < SECONDS);
    job->rate = (double) done * N_CHAINS * job->level->per_step / (now() - begin);
    return NULL;
}

int main(int argc, char ** argv) {
    const int n_threads = argc == 3 ? atoi(argv[2]) : 0;
    for (size_t i = 0; n_threads > 0 && n_threads <= MAX_THREADS && i < sizeof(LEVELS) / sizeof(LEVELS[0]); i++) {
        if (strcmp(argv[1], LEVELS[i].name) != 0) {
            continue;
        }
        pthread_t  threads[MAX_THREADS];
        struct job jobs[MAX_THREADS];
        double     rate = 0;
        for (int t = 0; t < n_threads; t++) {
            jobs[t] = (struct job) { &LEVELS[i], 0 };
            if (pthread_create(&threads[t], NULL, measure, &jobs[t]) != 0) {
                return 1;
            }
        }
        for (int t = 0; t < n_threads; t++) {
            pthread_join(threads[t], NULL);
            rate += jobs[t].rate;
        }
        printf("%.0f\n", rate);
        return 0;
    }
    fprintf(stderr, "usage: roofline avx2|avxvnni|avx512|amx THREADS\n");
    return 2;
}
