#include "encoders/encoders.h"

#define FIND(type, level)                                                                                              \
    ((type) == GGML_TYPE_Q8_0   ? COMMANDR_JOIN(commandr_encode_q8_0, level)                                           \
     : (type) == GGML_TYPE_Q4_K ? COMMANDR_JOIN(commandr_encode_q4_k, level)                                           \
     : (type) == GGML_TYPE_Q5_K ? COMMANDR_JOIN(commandr_encode_q5_k, level)                                           \
     : (type) == GGML_TYPE_Q6_K ? COMMANDR_JOIN(commandr_encode_q6_k, level)                                           \
                                : NULL)

commandr_encoder commandr_encoder_find(enum ggml_type type) {
#ifdef __x86_64__
    /* What level 4 of x86-64 has beyond level 3, which all of this library needs. */
    const bool v4 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512vl");
    return v4 ? FIND(type, v4) : FIND(type, v3);
#else
    return FIND(type, base);
#endif
}
