/* Split models, as llama.cpp's gguf-split and the gguf package write them: files NAME-00001-of-00003.gguf and so on.
 * Each states split.no (counted from 0), split.count and split.tensors.count (of all files together) and has the
 * header and the data of its own tensors; the first also has all other keys. */
#ifndef COMMANDR_SRC_SPLIT_H
#define COMMANDR_SRC_SPLIT_H

#include "gguf-part.h"

/* Opens the files of the model whose first, or only, file is path. parts: malloc'ed, [n_parts], for
 * commandr_parts_close. Another part than the first, an absent one, and files that do not belong together are errors
 * that name the file. */
commandr_status commandr_parts_open(const char * path, commandr_part ** parts, int32_t * n_parts);
void            commandr_parts_close(commandr_part * parts, int32_t n_parts);

#endif
