/* SPDX-License-Identifier: MIT */
#include "bundle.h"

#include "skim.h"

#include <string.h>

/* Tags (X.690, 8.1.2). */
enum {
	INTEGER = 0x02,
	OID = 0x06,
	SEQUENCE = 0x30,
	SET = 0x31,
	CONTEXT_0 = 0xa0,
	CONSTRUCTED = 0x20,
	HEAD = 2, /* bytes of a tag and a short length, or of the end of contents */
};

static struct bytes after(struct bytes bytes, size_t size)
{
	return (struct bytes){bytes.data + size, bytes.size - size};
}

/* X.690, 8.1.5. */
static bool take_end(struct bytes *from)
{
	if (from->size < HEAD || from->data[0] != 0 || from->data[1] != 0)
		return false;
	*from = after(*from, HEAD);
	return true;
}

/*
 * Takes a tag and a length off *from. What has no length goes on to the end of all that there is;
 * otherwise all of it must be there.
 */
static bool take_head(struct bytes *from, unsigned *tag, size_t *length, bool *is_endless)
{
	struct bytes rest = *from;
	size_t count;

	if (rest.size < HEAD || (rest.data[0] & 0x1f) == 0x1f)
		return false;
	*tag = rest.data[0];
	*length = rest.data[1];
	*is_endless = *length == 0x80;
	rest = after(rest, HEAD);
	if (*is_endless) {
		*length = rest.size;
		*from = rest;
		return *tag & CONSTRUCTED;
	}
	if (*length & 0x80) {
		count = *length & 0x7f;
		if (count > 4 || rest.size < count)
			return false;
		for (*length = 0; count > 0; count--) {
			*length = *length << 8 | rest.data[0];
			rest = after(rest, 1);
		}
	}
	*from = rest;
	return *length <= rest.size;
}

/* Goes into what begins with a tag. Of its end, if it has one, nobody need know. */
static bool enter(struct bytes *from, unsigned wanted)
{
	unsigned tag;
	size_t length;
	bool is_endless;

	if (!take_head(from, &tag, &length, &is_endless) || tag != wanted)
		return false;
	from->size = length;
	return true;
}

/* Goes past a whole value, whatever is in it. */
static bool skip(struct bytes *from, unsigned wanted)
{
	unsigned tag;
	size_t length, depth = 0;
	bool is_endless;

	if (from->size == 0 || from->data[0] != wanted)
		return false;
	do {
		if (depth > 0 && take_end(from)) {
			depth--;
			continue;
		}
		if (!take_head(from, &tag, &length, &is_endless))
			return false;
		if (is_endless)
			depth++;
		else
			*from = after(*from, length);
	} while (depth > 0);
	return true;
}

static bool enter_signed_data(struct bytes *from)
{
	static const unsigned char signed_data[] = {
		OID, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02};

	if (!enter(from, SEQUENCE) || from->size < sizeof(signed_data) ||
		memcmp(from->data, signed_data, sizeof(signed_data)) != 0)
		return false;
	*from = after(*from, sizeof(signed_data));
	return enter(from, CONTEXT_0) && enter(from, SEQUENCE);
}

bool bundle_open(struct bytes content, struct bytes *all)
{
	unsigned tag;
	size_t length;
	bool is_endless;
	struct bytes rest, certificate;

	/* Version, digestAlgorithms, encapContentInfo. */
	if (!enter_signed_data(&content) || !skip(&content, INTEGER) || !skip(&content, SET) ||
		!skip(&content, SEQUENCE) || !take_head(&content, &tag, &length, &is_endless) ||
		tag != CONTEXT_0)
		return false;
	*all = (struct bytes){content.data, length};
	rest = *all;
	while (rest.size > 0 && rest.data[0] == SEQUENCE)
		if (!skim_next(&rest, &certificate))
			return false;
	all->size -= rest.size;
	return is_endless ? take_end(&rest) : rest.size == 0;
}
