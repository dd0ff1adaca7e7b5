/* SPDX-License-Identifier: MIT */
/*
 * The reader of HTTP responses. Input: a byte that picks the limit, two that pick how the rest, a
 * response, is cut into pieces.
 */
#include "fuzz.h"
#include "http.h"

struct reading {
	struct http_reader reader;
	enum http_state fed;   /* after the last byte */
	bool persists;         /* the same */
	enum http_state ended; /* after the peer has closed */
};

/* What is sent back in a request, or parsed as a URL, has no line end to smuggle. */
static void check_text(const char *text, size_t room)
{
	size_t size = strnlen(text, room);

	RULE(size < room);
	RULE(!memchr(text, '\r', size) && !memchr(text, '\n', size));
}

static void check_reader(const struct http_reader *reader, enum http_state state)
{
	size_t type_size = strnlen(reader->content_type, sizeof(reader->content_type));

	RULE((state == HTTP_BAD) == (reader->why != NULL));
	RULE(reader->body.size <= reader->limit);
	RULE(type_size < sizeof(reader->content_type));
	for (size_t i = 0; i < type_size; i++)
		RULE(!strchr("; \t\r\nABCDEFGHIJKLMNOPQRSTUVWXYZ", reader->content_type[i]));
	check_text(reader->location, sizeof(reader->location));
	check_text(reader->etag, sizeof(reader->etag));
	check_text(reader->last_modified, sizeof(reader->last_modified));
	RULE(state != HTTP_DONE || (reader->status >= 200 && reader->status <= 999));
}

/* In pieces of random sizes up to most. */
static void read_in_pieces(
	struct reading *reading, struct bytes input, size_t limit, size_t most, unsigned draw)
{
	enum http_state state = HTTP_MORE;

	http_reader_init(&reading->reader, limit);
	while (input.size > 0) {
		size_t size = 1 + (draw >> 8) % most;
		unsigned char *piece;
		enum http_state before = state;

		draw = draw * 1103515245 + 12345;
		if (size > input.size)
			size = input.size;
		piece = copy_of((struct bytes){input.data, size});
		state = http_reader_feed(&reading->reader, (struct bytes){piece, size});
		free(piece);
		RULE(before == HTTP_MORE || state == before);
		input.data += size;
		input.size -= size;
		check_reader(&reading->reader, state);
	}
	reading->fed = state;
	reading->persists = state == HTTP_DONE && reading->reader.persists;
	reading->ended = http_reader_end(&reading->reader);
	RULE(reading->ended != HTTP_MORE);
	RULE(state == HTTP_MORE || reading->ended == state);
	RULE(!reading->reader.persists);
	check_reader(&reading->reader, reading->ended);
}

static void check_same(const struct reading *one, const struct reading *other)
{
	const struct http_reader *a = &one->reader, *b = &other->reader;

	RULE(one->fed == other->fed && one->ended == other->ended);
	RULE(one->persists == other->persists);
	RULE(a->status == b->status);
	RULE(strcmp(a->content_type, b->content_type) == 0);
	RULE(strcmp(a->location, b->location) == 0);
	RULE(strcmp(a->etag, b->etag) == 0);
	RULE(strcmp(a->last_modified, b->last_modified) == 0);
	RULE(!a->why == !b->why && (!a->why || strcmp(a->why, b->why) == 0));
	RULE(a->why || is_same(buffer_bytes(&a->body), buffer_bytes(&b->body)));
}

/* Where a connection is good for more, the response ends with the very last byte. */
static void check_end(const struct reading *whole, struct bytes input)
{
	struct http_reader reader;

	if (!whole->persists)
		return;
	http_reader_init(&reader, whole->reader.limit);
	input.size--;
	RULE(http_reader_feed(&reader, input) == HTTP_MORE);
	http_reader_free(&reader);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const size_t limits[] = {65536, 256, 64, 1024};
	static struct reading whole, bytewise, pieces;
	struct bytes input;
	size_t limit;

	if (size < 3)
		return 0;
	limit = limits[data[0] % 4];
	input = (struct bytes){data + 3, size - 3};
	read_in_pieces(&whole, input, limit, SIZE_MAX / 2, UINT32_MAX);
	read_in_pieces(&bytewise, input, limit, 1, 0);
	read_in_pieces(&pieces, input, limit, 1 + data[1], data[2] * 2654435761U);
	check_same(&whole, &bytewise);
	check_same(&whole, &pieces);
	check_end(&whole, input);
	http_reader_free(&whole.reader);
	http_reader_free(&bytewise.reader);
	http_reader_free(&pieces.reader);
	return 0;
}
