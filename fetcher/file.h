/* SPDX-License-Identifier: MIT */
/*
 * Reading a file whole, writing to one, and replacing one.
 */
#ifndef OCSPRELOAD_FILE_H
#define OCSPRELOAD_FILE_H

#include "bytes.h"

#include <sys/types.h>
#include <time.h>

/*
 * Appends what is in the file at path to *out if it is at most limit bytes. Does not wait for the
 * writer of a FIFO. Returns NULL, or why it cannot be read, in words for a log line.
 */
const char *file_read(const char *path, size_t limit, struct buffer *out);

/*
 * The same in pieces, for who must not be busy for long: appends the next piece, from where *out
 * ends, and opens the file for each anew, so that there is no descriptor in between. *reading is
 * zero at first. At the end of the file, reading->is_done.
 */
struct file_reading {
	bool is_done;
	/* Of the file that it began with; another in its place is an error. */
	dev_t device;
	ino_t inode;
	struct timespec modified;
};
const char *file_read_piece(
	const char *path, size_t limit, struct file_reading *reading, struct buffer *out);

/* The same for what is open already, from where it is; it stays open. */
const char *file_read_open(int fd, size_t limit, struct buffer *out);

/*
 * Calls take for the next names in a directory, some dozens at the most, as long as it returns
 * true. Not readdir(3), since what that keeps could not be told to be the host's by now. Returns 1
 * if there may be more, 0 if not or if take said so, -1 and errno if they cannot be read.
 */
int file_list_some(int fd, bool (*take)(const char *name, void *context), void *context);

/*
 * write(2) without the signals that would end the host for our sake: that nobody reads the pipe any
 * more, or that the file would grow beyond RLIMIT_FSIZE. Any thread.
 */
ssize_t file_write(int fd, const void *data, size_t size);

/*
 * Puts content in the place of what is at path, for everybody to read: who reads meanwhile sees the
 * old or the new, whole. With durable, also who reads after a power failure; that can take long.
 * False, and errno, if it cannot; then nothing has changed.
 */
bool file_replace(const char *path, struct bytes content, bool durable);

/* True if name is one of those that file_replace uses on its way. */
bool file_is_temporary(const char *name);

#endif
