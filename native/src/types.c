#include "commandr.h"

#include <ggml.h>
#include <stddef.h>

/* ggml's own names mix cases ("q4_K", "bf16"); these are the ones that files and papers use. */
static const char * const names[GGML_TYPE_COUNT] = {
    [GGML_TYPE_F32] = "F32",       [GGML_TYPE_F16] = "F16",         [GGML_TYPE_BF16] = "BF16",
    [GGML_TYPE_F64] = "F64",       [GGML_TYPE_I8] = "I8",           [GGML_TYPE_I16] = "I16",
    [GGML_TYPE_I32] = "I32",       [GGML_TYPE_I64] = "I64",         [GGML_TYPE_Q4_0] = "Q4_0",
    [GGML_TYPE_Q4_1] = "Q4_1",     [GGML_TYPE_Q5_0] = "Q5_0",       [GGML_TYPE_Q5_1] = "Q5_1",
    [GGML_TYPE_Q8_0] = "Q8_0",     [GGML_TYPE_Q8_1] = "Q8_1",       [GGML_TYPE_Q2_K] = "Q2_K",
    [GGML_TYPE_Q3_K] = "Q3_K",     [GGML_TYPE_Q4_K] = "Q4_K",       [GGML_TYPE_Q5_K] = "Q5_K",
    [GGML_TYPE_Q6_K] = "Q6_K",     [GGML_TYPE_Q8_K] = "Q8_K",       [GGML_TYPE_IQ1_S] = "IQ1_S",
    [GGML_TYPE_IQ1_M] = "IQ1_M",   [GGML_TYPE_IQ2_XXS] = "IQ2_XXS", [GGML_TYPE_IQ2_XS] = "IQ2_XS",
    [GGML_TYPE_IQ2_S] = "IQ2_S",   [GGML_TYPE_IQ3_XXS] = "IQ3_XXS", [GGML_TYPE_IQ3_S] = "IQ3_S",
    [GGML_TYPE_IQ4_NL] = "IQ4_NL", [GGML_TYPE_IQ4_XS] = "IQ4_XS",   [GGML_TYPE_TQ1_0] = "TQ1_0",
    [GGML_TYPE_TQ2_0] = "TQ2_0",   [GGML_TYPE_MXFP4] = "MXFP4",     [GGML_TYPE_NVFP4] = "NVFP4",
    [GGML_TYPE_Q1_0] = "Q1_0",     [GGML_TYPE_Q2_0] = "Q2_0",
};

const char * commandr_type_name(int32_t type) {
    return type >= 0 && type < GGML_TYPE_COUNT ? names[type] : NULL;
}

static bool equal_ignoring_case(const char * upper_case, const char * text) {
    for (; *upper_case != '\0'; upper_case++, text++) {
        const char c = *text >= 'a' && *text <= 'z' ? (char) (*text - 'a' + 'A') : *text;
        if (c != *upper_case) {
            return false;
        }
    }
    return *text == '\0';
}

int32_t commandr_type_find(const char * name) {
    for (int32_t type = 0; name != NULL && type < GGML_TYPE_COUNT; type++) {
        if (names[type] != NULL && equal_ignoring_case(names[type], name)) {
            return type;
        }
    }
    return -1;
}

int64_t commandr_type_block_size(int32_t type) {
    return commandr_type_name(type) != NULL ? ggml_get_type_traits((enum ggml_type) type)->blck_size : 0;
}

int64_t commandr_type_row_size(int32_t type, int64_t n) {
    const int64_t block_size = commandr_type_block_size(type);
    if (block_size == 0 || n < 0 || n % block_size != 0) {
        return 0;
    }
    const int64_t n_blocks  = n / block_size;
    const int64_t type_size = (int64_t) ggml_get_type_traits((enum ggml_type) type)->type_size;
    return n_blocks <= INT64_MAX / type_size ? n_blocks * type_size : 0;
}

bool commandr_type_needs_imatrix(int32_t type) {
    return commandr_type_name(type) != NULL && ggml_quantize_requires_imatrix((enum ggml_type) type);
}
