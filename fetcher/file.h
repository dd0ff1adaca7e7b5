/* SPDX-License-Identifier: MIT */
/*
 * Reading a file whole.
 */
#ifndef OCSPRELOAD_FILE_H
#define OCSPRELOAD_FILE_H

#include "bytes.h"

/*
 * Appends what is in the file at path to *out if it is at most limit bytes. Does not wait for the
 * writer of a FIFO. Returns NULL, or why it cannot be read, in words for a log line.
 */
const char *file_read(const char *path, size_t limit, struct buffer *out);

#endif
