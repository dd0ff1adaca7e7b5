/* SPDX-License-Identifier: MIT */
#include "skim.h"

#include <string.h>

/* Tags of DER (X.690, 8.1.2). */
enum {
	INTEGER = 0x02,
	OID = 0x06,
	UNIVERSAL_STRING = 0x1c,
	BMP_STRING = 0x1e,
	SEQUENCE = 0x30,
	SET = 0x31,
	CONTEXT_0 = 0xa0,
};

struct value {
	unsigned tag;
	struct bytes content;
	struct bytes whole; /* with its tag and length */
	bool is_cut;        /* it goes on after the end of what there is */
};

static struct bytes after(struct bytes bytes, size_t size)
{
	return (struct bytes){bytes.data + size, bytes.size - size};
}

/* Takes the first value off *from. Lengths of up to four bytes; none of BER's without an end. */
static bool take(struct bytes *from, struct value *out)
{
	size_t head = 2, length, count;

	if (from->size < head || (from->data[0] & 0x1f) == 0x1f)
		return false;
	length = from->data[1];
	if (length & 0x80) {
		count = length & 0x7f;
		if (count == 0 || count > 4 || from->size - head < count)
			return false;
		for (length = 0; count > 0; count--)
			length = length << 8 | from->data[head++];
	}
	*out = (struct value){.tag = from->data[0], .content = after(*from, head)};
	out->is_cut = length > out->content.size;
	if (!out->is_cut)
		out->content.size = length;
	out->whole = (struct bytes){from->data, head + out->content.size};
	*from = after(*from, out->whole.size);
	return true;
}

static bool take_whole(struct bytes *from, unsigned tag, struct value *out)
{
	return take(from, out) && out->tag == tag && !out->is_cut;
}

/* From the outside of a certificate to behind the serial number in it (RFC 5280, 4.1). */
static bool open_certificate(struct bytes der, struct bytes *in)
{
	struct value value;

	if (!take(&der, &value) || value.tag != SEQUENCE)
		return false;
	*in = value.content;
	if (!take(in, &value) || value.tag != SEQUENCE)
		return false;
	*in = value.content;
	if (in->size > 0 && in->data[0] == CONTEXT_0 && !take_whole(in, CONTEXT_0, &value))
		return false;
	return take_whole(in, INTEGER, &value);
}

bool skim_issuer(struct bytes der, struct bytes *name)
{
	struct value algorithm, issuer;
	struct bytes in;

	if (!open_certificate(der, &in) || !take_whole(&in, SEQUENCE, &algorithm) ||
		!take_whole(&in, SEQUENCE, &issuer))
		return false;
	*name = issuer.whole;
	return true;
}

bool skim_subject(struct bytes der, struct bytes *name)
{
	struct value algorithm, issuer, validity, subject;
	struct bytes in;

	if (!open_certificate(der, &in) || !take_whole(&in, SEQUENCE, &algorithm) ||
		!take_whole(&in, SEQUENCE, &issuer) || !take_whole(&in, SEQUENCE, &validity) ||
		!take_whole(&in, SEQUENCE, &subject))
		return false;
	*name = subject.whole;
	return true;
}

/*
 * Letters and digits of ASCII, each for itself: what is left of a string when its type, the case of
 * its letters, its spaces and the order of a name's parts do not matter. The others are the same in
 * the same name, too, but are encoded in as many ways as there are types.
 */
static uint64_t print_character(uint32_t c)
{
	uint64_t mixed;

	if (c >= 'A' && c <= 'Z')
		c |= 0x20;
	if (!(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9'))
		return 0;
	/* Not linear, or names with the same sum of letters would look the same. */
	mixed = c * UINT64_C(0x9e3779b97f4a7c15);
	return (mixed ^ mixed >> 31) * UINT64_C(0xd6e8feb86659fd93);
}

static bool print_string(const struct value *string, uint64_t *print)
{
	size_t width = string->tag == UNIVERSAL_STRING ? 4 : string->tag == BMP_STRING ? 2 : 1;

	if (string->content.size % width != 0)
		return false;
	for (size_t i = 0; i < string->content.size; i += width) {
		uint32_t c = 0;

		for (size_t k = 0; k < width; k++)
			c = c << 8 | string->content.data[i + k];
		*print += print_character(c);
	}
	return true;
}

/* AttributeTypeAndValue; a value that is made up of parts may be one that BER has cut in pieces. */
static bool print_attribute(struct bytes attribute, uint64_t *print)
{
	struct value type, string;

	return take_whole(&attribute, OID, &type) && take(&attribute, &string) && !string.is_cut &&
	       !(string.tag & 0x20) && attribute.size == 0 && print_string(&string, print);
}

bool skim_print(struct bytes name, uint64_t *print)
{
	struct value outer, relative, attribute;

	*print = 0;
	if (!take_whole(&name, SEQUENCE, &outer))
		return false;
	while (outer.content.size > 0) {
		if (!take_whole(&outer.content, SET, &relative))
			return false;
		while (relative.content.size > 0)
			if (!take_whole(&relative.content, SEQUENCE, &attribute) ||
				!print_attribute(attribute.content, print))
				return false;
	}
	return true;
}

/*
 * PEM
 */

static const char beginning[] = "-----BEGIN ";

static struct bytes find(struct bytes text, const char *what)
{
	const unsigned char *at =
		text.size > 0 ? memmem(text.data, text.size, what, strlen(what)) : NULL;

	return at ? after(text, (size_t)(at - text.data)) : (struct bytes){NULL, 0};
}

/* From the next line that begins so; start is of the text of which rest is a part. */
static struct bytes find_beginning(struct bytes rest, const unsigned char *start)
{
	for (;;) {
		rest = find(rest, beginning);
		if (!rest.data || rest.data == start || rest.data[-1] == '\n')
			return rest;
		rest = after(rest, strlen(beginning));
	}
}

bool skim_pem(struct bytes *text, struct bytes *block)
{
	const unsigned char *start = text->data;
	struct bytes next;

	*block = find_beginning(*text, start);
	if (!block->data)
		return false;
	next = find_beginning(after(*block, strlen(beginning)), start);
	if (next.data)
		block->size -= next.size;
	*text = next;
	return true;
}

static struct bytes first_line(struct bytes text)
{
	const unsigned char *end = memchr(text.data, '\n', text.size);

	if (end)
		text.size = (size_t)(end - text.data);
	return text;
}

bool skim_is_certificate(struct bytes block)
{
	struct bytes label = first_line(block);

	return find(label, "CERTIFICATE-----").data || find(label, " PKCS").data;
}

/* The value of a character, or where it is none: */
enum { SPACE = 64, END, OTHER };

static unsigned value_of(unsigned char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26U;
	if (c >= '0' && c <= '9')
		return c - '0' + 52U;
	if (c == '+' || c == '/')
		return c == '+' ? 62 : 63;
	if (c == ' ' || (c >= '\t' && c <= '\r'))
		return SPACE;
	return c == '=' ? END : OTHER;
}

size_t skim_base64(struct bytes block, unsigned char *out, size_t size)
{
	struct bytes text = after(block, first_line(block).size);
	uint32_t bits = 0;
	size_t used = 0, held = 0;

	for (size_t i = 0; i < text.size && used < size; i++) {
		unsigned value = value_of(text.data[i]);

		if (value == END || (text.data[i] == '-' && text.data[i - 1] == '\n'))
			break;
		if (value == OTHER)
			return 0;
		if (value == SPACE)
			continue;
		bits = bits << 6 | value;
		held += 6;
		if (held >= 8) {
			held -= 8;
			out[used++] = (unsigned char)(bits >> held);
		}
	}
	return used;
}

/*
 * PKCS#7
 */

/* ContentInfo with SignedData: its version, digestAlgorithms, encapContentInfo and certificates. */
bool skim_pkcs7(struct bytes der, struct bytes *all)
{
	static const unsigned char signed_data[] = {
		0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02};
	struct value outer, type, tagged, data, value;

	if (!take_whole(&der, SEQUENCE, &outer) || !take_whole(&outer.content, OID, &type) ||
		type.content.size != sizeof(signed_data) ||
		memcmp(type.content.data, signed_data, sizeof(signed_data)) != 0 ||
		!take_whole(&outer.content, CONTEXT_0, &tagged) ||
		!take_whole(&tagged.content, SEQUENCE, &data) ||
		!take_whole(&data.content, INTEGER, &value) ||
		!take_whole(&data.content, SET, &value) ||
		!take_whole(&data.content, SEQUENCE, &value) ||
		!take_whole(&data.content, CONTEXT_0, &value))
		return false;
	*all = value.content;
	return true;
}

bool skim_next(struct bytes *all, struct bytes *certificate)
{
	struct value value;

	if (all->size == 0 || !take_whole(all, SEQUENCE, &value))
		return false;
	*certificate = value.whole;
	return true;
}
