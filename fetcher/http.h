/* SPDX-License-Identifier: MIT */
/*
 * HTTP/1.1 (RFC 9110, RFC 9112) as far as OCSP over HTTP needs it (RFC 6960, appendix A; RFC 5019,
 * 5): URLs, requests and a reader of responses. Pure: no I/O, no clock.
 */
#ifndef OCSPRELOAD_HTTP_H
#define OCSPRELOAD_HTTP_H

#include "bytes.h"
#include "freshness.h"

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

/*
 * Where reference (of a Location header) leads from base (RFC 3986, 5.2; dot segments are left to
 * the server). Returns what url_parse does.
 */
const char *url_resolve(const struct url *base, const char *reference, struct url *url);

/* The longest URL, in bytes and whole with its scheme and host, for GET: RFC 5019, 5. */
enum { HTTP_GET_LIMIT = 255 };

/*
 * Fills *get with the URL under which the responder at url answers the OCSPRequest der to a GET:
 * with the percent-encoded base64 of der in its path, no slash doubled. False where it has to be a
 * POST: beyond HTTP_GET_LIMIT, and where url has a query.
 */
bool http_get_url(const struct url *url, struct bytes der, struct url *get);

struct http_request {
	const struct url *url;
	struct bytes content;      /* an OCSPRequest to POST; empty: GET */
	bool through_proxy;        /* the request line has the absolute form, RFC 9112, 3.2.2 */
	const char *credentials;   /* for the proxy, "name:password"; "" or NULL: none */
	const char *accept;        /* for Accept; NULL: an OCSP response */
	const char *etag;          /* for If-None-Match; "" or NULL: none */
	const char *last_modified; /* for If-Modified-Since; "" or NULL: none */
	bool is_last;              /* the connection is not kept for another */
};

/* Appends a whole request to *out. False when memory ran out. */
bool http_format_request(struct buffer *out, const struct http_request *request);

enum http_state {
	HTTP_MORE, /* feed me */
	HTTP_DONE,
	HTTP_BAD, /* see reader->why */
};

/* Reads one response. The fields after body are the reader's own. */
struct http_reader {
	int status;             /* 200, 404, …, once the status line is read */
	char content_type[128]; /* lower case, without parameters; "" if there is none */
	char location[1280];    /* "" if there is none, or it is too long to be used */
	char etag[128];         /* of printable ASCII, to be sent back; "" if there is none */
	char last_modified[32]; /* the same */
	struct freshness freshness;
	bool persists;      /* HTTP_DONE: the connection is good for another exchange */
	const char *why;    /* HTTP_BAD: in words for a log line */
	struct buffer body; /* freed by http_reader_free */

	int step;
	size_t limit;
	size_t seen;
	uint64_t remaining;
	bool has_length;
	bool chunked;
	bool is_http_1_0;
	bool says_close;
	bool says_keep_alive;
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
 * end of the response are ignored, but for what they say about the connection: persists (RFC 9112,
 * 9.3) is only true while each byte belongs to the response, and its end does not depend on the
 * connection's.
 */
enum http_state http_reader_feed(struct http_reader *reader, struct bytes input);

/* The peer has closed: HTTP_DONE if the response may end here, else HTTP_BAD. */
enum http_state http_reader_end(struct http_reader *reader);

#endif
