#include "encoders/encoders.h"

#include "kernels/level.h"

#define FIND(type, level)                                                                                              \
    ((type) == GGML_TYPE_Q8_0   ? COMMANDR_JOIN(commandr_encode_q8_0, level)                                           \
     : (type) == GGML_TYPE_Q4_K ? COMMANDR_JOIN(commandr_encode_q4_k, level)                                           \
     : (type) == GGML_TYPE_Q5_K ? COMMANDR_JOIN(commandr_encode_q5_k, level)                                           \
     : (type) == GGML_TYPE_Q6_K ? COMMANDR_JOIN(commandr_encode_q6_k, level)                                           \
                                : NULL)

commandr_encoder commandr_encoder_find(enum ggml_type type) {
#ifdef __x86_64__
    return commandr_has_x86_64_v4() ? FIND(type, v4) : FIND(type, v3);
#else
    return FIND(type, base);
#endif
}
