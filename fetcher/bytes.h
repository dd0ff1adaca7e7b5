/* SPDX-License-Identifier: MIT */
/*
 * A run of bytes that somebody else owns, and a buffer that grows.
 */
#ifndef OCSPRELOAD_BYTES_H
#define OCSPRELOAD_BYTES_H

#include <stdbool.h>
#include <stddef.h>

struct bytes {
	const unsigned char *data;
	size_t size;
};

/* Zero-initialised is empty and valid. */
struct buffer {
	unsigned char *data;
	size_t size;
	size_t capacity;
};

/* False when memory ran out; the buffer is then as it was. */
bool buffer_append(struct buffer *buffer, const void *data, size_t size);

/* printf onto the end, without a terminating NUL. False when memory ran out. */
bool buffer_printf(struct buffer *buffer, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* Frees the memory; the buffer is empty and may be used again. */
void buffer_free(struct buffer *buffer);

static inline struct bytes buffer_bytes(const struct buffer *buffer)
{
	return (struct bytes){buffer->data, buffer->size};
}

#endif
