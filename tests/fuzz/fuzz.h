/* SPDX-License-Identifier: MIT */
/*
 * What the fuzzers share. A rule that is broken ends the fuzzer, which keeps the input.
 */
#ifndef OCSPRELOAD_FUZZ_H
#define OCSPRELOAD_FUZZ_H

#include "bytes.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* libFuzzer's interface. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static inline void __attribute__((noreturn))
break_rule(const char *file, int line, const char *text)
{
	fprintf(stderr, "%s:%d: not so: %s\n", file, line, text);
	abort();
}

#define RULE(cond) ((cond) ? (void)0 : break_rule(__FILE__, __LINE__, #cond))

/* A copy of its own, so that ASan sees whoever reads a byte too many. */
static inline unsigned char *copy_of(struct bytes bytes)
{
	unsigned char *copy = malloc(bytes.size ? bytes.size : 1);

	RULE(copy != NULL);
	if (bytes.size)
		memcpy(copy, bytes.data, bytes.size);
	return copy;
}

static inline char *string_of(struct bytes bytes)
{
	char *string = malloc(bytes.size + 1);

	RULE(string != NULL);
	if (bytes.size)
		memcpy(string, bytes.data, bytes.size);
	string[bytes.size] = '\0';
	return string;
}

static inline bool is_same(struct bytes a, struct bytes b)
{
	return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

#endif
