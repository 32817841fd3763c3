/* Encoders of our own: the very bytes of ggml's, with many sub-blocks side by side in the lanes of vectors.
 *
 * ggml's encoders try some twenty scales for each sub-block, one value after the other. Here lane s of a vector holds
 * the same value of sub-block s, and each lane does ggml's operations in ggml's order, so that every rounding is the
 * same. For that these files are compiled without contraction of a * b + c, as ggml's base library is. */
#ifndef COMMANDR_SRC_ENCODERS_H
#define COMMANDR_SRC_ENCODERS_H

#include <ggml.h>
#include <stdbool.h>
#include <stdint.h>

/* Encodes rows of floats, [n_rows][n_per_row], a whole number of the type's blocks each. importance: [n_per_row]
 * weights of the columns, NULL = none. All are finite. */
typedef void (*commandr_encoder)(const float * x, const float * importance, void * blocks, int64_t n_rows,
                                 int64_t n_per_row);

/* The encoder for a type on this processor; NULL where ggml's is used. */
commandr_encoder commandr_encoder_find(enum ggml_type type);

/* The other files of this folder are compiled once for each level of the processor's vectors, with the level's name at
 * the end of theirs. */
#define COMMANDR_JOIN_2(a, b) a##_##b
#define COMMANDR_JOIN(a, b)   COMMANDR_JOIN_2(a, b)
#define COMMANDR_DECLARE_ENCODERS(level)                                                                               \
    void COMMANDR_JOIN(commandr_encode_q8_0, level)(const float * x, const float * importance, void * blocks,          \
                                                    int64_t n_rows, int64_t n_per_row);                                \
    void COMMANDR_JOIN(commandr_encode_q4_k, level)(const float * x, const float * importance, void * blocks,          \
                                                    int64_t n_rows, int64_t n_per_row);                                \
    void COMMANDR_JOIN(commandr_encode_q5_k, level)(const float * x, const float * importance, void * blocks,          \
                                                    int64_t n_rows, int64_t n_per_row);                                \
    void COMMANDR_JOIN(commandr_encode_q6_k, level)(const float * x, const float * importance, void * blocks,          \
                                                    int64_t n_rows, int64_t n_per_row);
#ifdef __x86_64__
COMMANDR_DECLARE_ENCODERS(v3)
COMMANDR_DECLARE_ENCODERS(v4)
#else
COMMANDR_DECLARE_ENCODERS(base)
#endif

#endif
