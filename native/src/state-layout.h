/* What stands where in a state file, and where in the caches. */
#ifndef COMMANDR_SRC_STATE_LAYOUT_H
#define COMMANDR_SRC_STATE_LAYOUT_H

#include "session.h"
#include "state-file.h"

/* Rows of one cache tensor that stand in the file one after the other. */
typedef struct commandr_state_piece {
    struct ggml_tensor * rows;
    const int64_t *      cells; /* [n]: where the rows lie in the cache */
    int64_t              n;
    int64_t              offset; /* in the file */
    uint64_t             hash;   /* for who has read or written it to fill in */
} commandr_state_piece;

typedef struct commandr_state_layout {
    int64_t *              cells[2]; /* by cache: [commandr_state_n_rows], in order of position */
    commandr_state_piece * pieces;
    int64_t                n_pieces;
    int64_t                max_piece; /* bytes */
    int64_t                end;       /* offset of the checksum */
} commandr_state_layout;

/* The layout of the file with a header; cells are to be filled in before the pieces are moved. */
commandr_status commandr_state_layout_init(const commandr_session * session, const commandr_state_header * header,
                                           const char * path, commandr_state_layout * layout);
void            commandr_state_layout_free(commandr_state_layout * layout);

/* Positions of which a file has rows in the layers of a cache: the last ones. */
int64_t commandr_state_n_rows(const commandr_state_header * header, int which);

/* The size that the file with a header must have. */
int64_t commandr_state_size(const commandr_session * session, const commandr_state_header * header);

/* Rows from the cache to data and back, commandr_state_piece_size bytes. */
size_t commandr_state_piece_size(const commandr_state_piece * piece);
void   commandr_state_gather(const commandr_state_piece * piece, uint8_t * data);
void   commandr_state_scatter(const commandr_state_piece * piece, const uint8_t * data);

/* What the file ends with, once all pieces have their hashes. */
uint64_t commandr_state_checksum(const commandr_state_header * header, const int32_t * tokens,
                                 const commandr_state_layout * layout);

#endif
