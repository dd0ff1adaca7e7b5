/* SPDX-License-Identifier: MIT */
/*
 * Certificates of two CAs, made by make_corpus.py, and the moment at which they are judged.
 */
#ifndef OCSPRELOAD_COURT_H
#define OCSPRELOAD_COURT_H

#include "file.h"
#include "fuzz.h"
#include "libcrypto.h"

#include <dlfcn.h>

struct court {
	struct buffer leaf;
	struct buffer issuer;
};

enum { COURTS = 2 };

static struct libcrypto crypto;
static struct court courts[COURTS];
static int64_t moment;

static inline void read_whole(const char *path, struct buffer *out)
{
	const char *why = file_read(path, 1 << 20, out);

	if (why)
		fprintf(stderr, "%s: %s (run me where tests/ is)\n", path, why);
	RULE(!why);
}

/* The table is bound as in a host, though this program is also linked with the library. */
static inline void open_courts(void)
{
	void *handle = dlopen("libcrypto.so.3", RTLD_NOW | RTLD_LOCAL);
	struct buffer text = {0};

	if (!handle)
		handle = dlopen("libcrypto.so", RTLD_NOW | RTLD_LOCAL);
	RULE(handle && !libcrypto_bind(&crypto, handle));
	read_whole("tests/fuzz/court/moment", &text);
	RULE(buffer_append(&text, "", 1));
	moment = strtoll((const char *)text.data, NULL, 10);
	buffer_free(&text);
	read_whole("tests/fuzz/court/ec-leaf.der", &courts[0].leaf);
	read_whole("tests/fuzz/court/ec-issuer.der", &courts[0].issuer);
	read_whole("tests/fuzz/court/rsa-leaf.der", &courts[1].leaf);
	read_whole("tests/fuzz/court/rsa-issuer.der", &courts[1].issuer);
}

#endif
