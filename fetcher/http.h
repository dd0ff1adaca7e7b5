/* SPDX-License-Identifier: MIT */
/*
 * HTTP/1.1 (RFC 9110, RFC 9112) as far as OCSP over HTTP needs it (RFC 6960, appendix A; RFC 5019,
 * 5): URLs, requests and a reader of responses. Pure: no I/O, no clock.
 */
#ifndef OCSPRELOAD_HTTP_H
#define OCSPRELOAD_HTTP_H

#include "bytes.h"

#include <stdint.h>

struct url {
	char host[256];      /* a name or an address; an IPv6 address without its brackets */
	char port[6];        /* decimal, "80" where the URL names none */
	char path[1024];     /* with the query, without the fragment; "/" where the URL has none */
	char authority[264]; /* for Host: as it stood in the URL, without the default port */
};

/*
 * Parses an absolute http URL without userinfo. Returns NULL, or why it cannot be used, in words
 * for a log line
 * ("https is not possible for OCSP", …).
 */
const char *url_parse(const char *text, struct url *url);

/* The largest path, in bytes, up to which RFC 5019, 5 asks for GET; see http_format_request. */
enum { HTTP_GET_LIMIT = 255 };

/*
 * Appends a whole request for the OCSPRequest der to *out: GET with the percent-encoded base64 when
 * url's path and it together are at most HTTP_GET_LIMIT bytes (RFC 5019, 5), else POST. No doubled
 * slash where the path ends in one. With proxy, the request line has the absolute form (RFC 9112,
 * 3.2.2). The connection is not kept. False when memory ran out.
 */
bool http_format_request(struct buffer *out, const struct url *url, struct bytes der, bool proxy);

enum http_state {
	HTTP_MORE, /* feed me */
	HTTP_DONE,
	HTTP_BAD, /* see reader->why */
};

/* Reads one response. The fields after body are the reader's own. */
struct http_reader {
	int status;             /* 200, 404, …, once the status line is read */
	char content_type[128]; /* lower case, without parameters; "" if there is none */
	const char *why;        /* HTTP_BAD: in words for a log line */
	struct buffer body;     /* freed by http_reader_free */

	int step;
	size_t limit;
	size_t seen;
	uint64_t remaining;
	bool has_length;
	bool chunked;
	size_t line_size;
	char line[4096];
};

/* limit: the most bytes of headers and body together that are read. */
void http_reader_init(struct http_reader *reader, size_t limit);
void http_reader_free(struct http_reader *reader);

/*
 * Takes the next bytes in pieces of any size. 1xx responses are skipped, Content-Length, chunked
 * and close-delimited bodies are understood; folded headers, conflicting lengths, unknown transfer
 * codings, a NUL or a bare CR in a header and anything past a limit are HTTP_BAD. Bytes after the
 * end of the response are ignored.
 */
enum http_state http_reader_feed(struct http_reader *reader, struct bytes input);

/* The peer has closed: HTTP_DONE if the response may end here, else HTTP_BAD. */
enum http_state http_reader_end(struct http_reader *reader);

#endif
