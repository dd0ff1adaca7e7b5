/* SPDX-License-Identifier: MIT */
#include "http.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#ifndef OCSPRELOAD_VERSION
#define OCSPRELOAD_VERSION "0"
#endif

/* isalnum and its kin ask the host's locale. */
static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool is_alphanumeric(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_blank(char c)
{
	return c == ' ' || c == '\t';
}

static char to_lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static bool copy_text(char *to, size_t room, const char *from, size_t size)
{
	if (size >= room)
		return false;
	memcpy(to, from, size);
	to[size] = '\0';
	return true;
}

/*
 * URLs
 */

static const char *parse_host(const char *text, size_t size, struct url *url)
{
	struct in6_addr address;
	bool literal = size >= 2 && text[0] == '[';

	if (literal) {
		text++;
		size -= 2;
	}
	if (size == 0)
		return "the URL names no host";
	if (!copy_text(url->host, sizeof(url->host), text, size))
		return "the URL's host is too long";
	if (literal)
		return inet_pton(AF_INET6, url->host, &address) == 1
			       ? NULL
			       : "the URL's host is not an IPv6 address";
	for (size_t i = 0; i < size; i++)
		if (!is_alphanumeric(text[i]) && !strchr("-._", text[i]))
			return "the URL's host has a character that no host name has";
	return NULL;
}

static const char *parse_port(const char *text, size_t size, struct url *url)
{
	unsigned number = 0;
	char digits[6];
	size_t count = 0;

	for (size_t i = 0; i < size; i++) {
		if (!is_digit(text[i]))
			return "the URL's port is not a number";
		if (number <= 65535)
			number = number * 10 + (unsigned)(text[i] - '0');
	}
	if (size == 0) /* "host:" is allowed, RFC 3986, 3.2.3 */
		number = 80;
	if (number == 0 || number > 65535)
		return "the URL's port is not between 1 and 65535";
	for (; number > 0; number /= 10)
		digits[count++] = (char)('0' + number % 10);
	for (size_t i = 0; i < count; i++)
		url->port[i] = digits[count - 1 - i];
	url->port[count] = '\0';
	return NULL;
}

static const char *parse_authority(const char *text, size_t size, struct url *url)
{
	const char *bracket = size > 0 && text[0] == '[' ? memchr(text, ']', size) : NULL;
	const char *after = bracket ? bracket + 1 : memchr(text, ':', size);
	const char *end = text + size;
	const char *why;

	/*
	 * Refused, not ignored: a name and password in front of a host are a way to disguise it
	 * (RFC 9110, 4.2.4), and silence would hide from an administrator that they are not sent.
	 */
	if (memchr(text, '@', size))
		return "a user name in the URL is not possible";
	if (size > 0 && text[0] == '[' && !bracket)
		return "the URL's host is not an IPv6 address";
	if (!after)
		after = end;
	if (after < end && *after != ':')
		return "the URL's host is followed by something that is no port";
	why = parse_host(text, (size_t)(after - text), url);
	if (!why)
		why = after < end ? parse_port(after + 1, (size_t)(end - after - 1), url)
				  : parse_port(NULL, 0, url);
	if (why)
		return why;
	copy_text(url->authority, sizeof(url->authority), text, (size_t)(after - text));
	if (strcmp(url->port, "80") != 0) {
		strcat(url->authority, ":");
		strcat(url->authority, url->port);
	}
	return NULL;
}

static const char *parse_path(const char *text, size_t size, struct url *url)
{
	size_t slash = size == 0 || text[0] != '/';

	url->path[0] = '/';
	if (!copy_text(url->path + slash, sizeof(url->path) - slash, text, size))
		return "the URL's path is too long";
	return NULL;
}

const char *url_parse(const char *text, struct url *url)
{
	const char *authority, *path;
	const char *why;

	memset(url, 0, sizeof(*url));
	for (const char *c = text; *c; c++)
		if (*c <= ' ' || *c > '~')
			return "the URL has a space or another character that no URL has";
	if (strncasecmp(text, "https://", 8) == 0)
		return "https is not possible for OCSP, only http is";
	if (strncasecmp(text, "http://", 7) != 0)
		return "it is not an http URL";
	authority = text + 7;
	path = authority + strcspn(authority, "/?#");
	why = parse_authority(authority, (size_t)(path - authority), url);
	if (why)
		return why;
	return parse_path(path, strcspn(path, "#"), url);
}

/* RFC 3986, 3.1. */
static bool has_scheme(const char *reference)
{
	size_t size = 0;

	while (is_alphanumeric(reference[size]) ||
		(reference[size] && strchr("+-.", reference[size])))
		size++;
	return size > 0 && reference[size] == ':';
}

const char *url_resolve(const struct url *base, const char *reference, struct url *url)
{
	char text[sizeof(url->authority) + sizeof(url->path) + sizeof("http://")];
	const char *path = base->path;
	size_t kept = strcspn(path, "?");
	int size;

	if (has_scheme(reference))
		return url_parse(reference, url);
	if (reference[0] == '/')
		kept = 0;
	else if (reference[0] == '#' || reference[0] == '\0')
		kept = strlen(path);
	else if (reference[0] != '?')
		while (kept > 0 && path[kept - 1] != '/')
			kept--;
	if (reference[0] == '/' && reference[1] == '/')
		size = snprintf(text, sizeof(text), "http:%s", reference);
	else
		size = snprintf(text, sizeof(text), "http://%s%.*s%s", base->authority, (int)kept,
			path, reference);
	if (size < 0 || (size_t)size >= sizeof(text))
		return "the URL is too long";
	return url_parse(text, url);
}

/*
 * Requests
 */

/* RFC 4648, 4. In a path, what it cannot carry is percent-encoded, as RFC 5019, 5 wants it. */
static bool append_base64(struct buffer *out, struct bytes bytes, bool in_path)
{
	static const char letters[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=";
	bool good = true;

	for (size_t i = 0; i < bytes.size; i += 3) {
		size_t left = bytes.size - i;
		unsigned long group = (unsigned long)bytes.data[i] << 16;

		if (left > 1)
			group |= (unsigned long)bytes.data[i + 1] << 8;
		if (left > 2)
			group |= bytes.data[i + 2];
		for (size_t j = 0; j < 4; j++) {
			char letter = letters[j > left ? 64 : group >> (18 - 6 * j) & 63];

			if (in_path && !is_alphanumeric(letter))
				good = good && buffer_printf(out, "%%%02X", (unsigned)letter);
			else
				good = good && buffer_append(out, &letter, 1);
		}
	}
	return good;
}

bool http_get_url(const struct url *url, struct bytes der, struct url *get)
{
	struct buffer path = {0};
	size_t size = strlen(url->path);
	bool good = false;

	/* To extend a query is to ask another resource, and only the responder knows which. */
	if (der.size > HTTP_GET_LIMIT || strchr(url->path, '?'))
		return false;
	if (!buffer_append(&path, url->path, size) ||
		(url->path[size - 1] != '/' && !buffer_append(&path, "/", 1)) ||
		!append_base64(&path, der, true))
		goto out;
	if (strlen("http://") + strlen(url->authority) + path.size > HTTP_GET_LIMIT)
		goto out;
	*get = *url;
	good = copy_text(get->path, sizeof(get->path), (const char *)path.data, path.size);
out:
	buffer_free(&path);
	return good;
}

static bool append_credentials(struct buffer *out, const char *credentials)
{
	struct bytes bytes = {(const unsigned char *)credentials, strlen(credentials)};

	return buffer_printf(out, "Proxy-Authorization: Basic ") &&
	       append_base64(out, bytes, false) && buffer_append(out, "\r\n", 2);
}

static bool append_header(struct buffer *out, const char *name, const char *value)
{
	return !value || !value[0] || buffer_printf(out, "%s: %s\r\n", name, value);
}

static bool append_request(struct buffer *out, const struct http_request *request)
{
	const struct url *url = request->url;
	const char *credentials = request->credentials;

	if (!buffer_printf(out, "%s %s%s%s HTTP/1.1\r\n", request->content.size ? "POST" : "GET",
		    request->through_proxy ? "http://" : "",
		    request->through_proxy ? url->authority : "", url->path) ||
		!buffer_printf(out,
			"Host: %s\r\n"
			"Accept: %s\r\n"
			"User-Agent: ocspreload/" OCSPRELOAD_VERSION "\r\n",
			url->authority,
			request->accept ? request->accept : "application/ocsp-response"))
		return false;
	if (request->is_last && !append_header(out, "Connection", "close"))
		return false;
	if (request->through_proxy && credentials && credentials[0] &&
		!append_credentials(out, credentials))
		return false;
	if (request->content.size == 0)
		return append_header(out, "If-None-Match", request->etag) &&
		       append_header(out, "If-Modified-Since", request->last_modified) &&
		       buffer_append(out, "\r\n", 2);
	return buffer_printf(out,
		       "Content-Type: application/ocsp-request\r\n"
		       "Content-Length: %zu\r\n\r\n",
		       request->content.size) &&
	       buffer_append(out, request->content.data, request->content.size);
}

bool http_format_request(struct buffer *out, const struct http_request *request)
{
	size_t before = out->size;
	bool good = append_request(out, request);

	if (!good)
		out->size = before;
	return good;
}

/*
 * Responses
 */

/* The first five gather lines, the next three take bytes of the body. */
enum reader_step {
	STEP_STATUS,
	STEP_HEADERS,
	STEP_CHUNK_SIZE,
	STEP_CHUNK_END,
	STEP_TRAILERS,
	STEP_BODY_LENGTH,
	STEP_BODY_CLOSE,
	STEP_CHUNK_DATA,
	STEP_DONE,
	STEP_BAD,
};

static const char not_http[] = "what answers is not an HTTP/1 server";
static const char too_large[] = "the response is too large";

static void reader_fail(struct http_reader *reader, const char *why)
{
	reader->step = STEP_BAD;
	reader->why = why;
}

static enum http_state reader_state(const struct http_reader *reader)
{
	if (reader->step == STEP_BAD)
		return HTTP_BAD;
	return reader->step == STEP_DONE ? HTTP_DONE : HTTP_MORE;
}

void http_reader_init(struct http_reader *reader, size_t limit)
{
	memset(reader, 0, sizeof(*reader));
	freshness_init(&reader->freshness);
	reader->limit = limit;
}

void http_reader_free(struct http_reader *reader)
{
	buffer_free(&reader->body);
}

/* "HTTP/1.1 200 OK"; the reason, and the space before it, are often left out. */
static void read_status_line(struct http_reader *reader)
{
	const char *line = reader->line;

	if (reader->line_size < 12 || strncmp(line, "HTTP/1.", 7) != 0 || !is_digit(line[7]) ||
		line[8] != ' ' || line[9] < '1' || !is_digit(line[9]) || !is_digit(line[10]) ||
		!is_digit(line[11]) || (line[12] != '\0' && line[12] != ' ')) {
		reader_fail(reader, not_http);
		return;
	}
	reader->is_http_1_0 = line[7] == '0';
	reader->status = (line[9] - '0') * 100 + (line[10] - '0') * 10 + (line[11] - '0');
	reader->step = STEP_HEADERS;
}

static void read_length(struct http_reader *reader, uint64_t length)
{
	if (reader->has_length && reader->remaining != length) {
		reader_fail(reader, "the response has two different lengths");
		return;
	}
	reader->has_length = true;
	reader->remaining = length;
}

/* One number, or the same one several times after commas (RFC 9110, 8.6). */
static void read_content_length(struct http_reader *reader, const char *value)
{
	do {
		uint64_t length = 0;

		value += strspn(value, " \t");
		if (!is_digit(*value))
			break;
		for (; is_digit(*value); value++) {
			unsigned digit = (unsigned)(*value - '0');

			if (length > (UINT64_MAX - digit) / 10) {
				reader_fail(reader, too_large);
				return;
			}
			length = length * 10 + digit;
		}
		read_length(reader, length);
		value += strspn(value, " \t");
		if (reader->step == STEP_BAD || *value == '\0')
			return;
	} while (*value++ == ',');
	reader_fail(reader, "the response's Content-Length is not a number");
}

static void read_content_type(struct http_reader *reader, const char *value)
{
	size_t size = 0;

	for (; value[size] && value[size] != ';' && !is_blank(value[size]); size++)
		if (size < sizeof(reader->content_type) - 1)
			reader->content_type[size] = to_lower(value[size]);
}

/* RFC 9110, 7.6.1: a list of options, in headers of which there may be several. */
static void read_connection(struct http_reader *reader, const char *value)
{
	static const char close[] = "close", keep_alive[] = "keep-alive";

	for (size_t size; value += strspn(value, " \t,"), *value; value += size) {
		size = strcspn(value, " \t,");
		if (size == sizeof(close) - 1 && strncasecmp(value, close, size) == 0)
			reader->says_close = true;
		else if (size == sizeof(keep_alive) - 1 &&
			 strncasecmp(value, keep_alive, size) == 0)
			reader->says_keep_alive = true;
	}
}

/* Kept whole or not at all: half a URL or validator is another one. The first one counts. */
static void keep_text(char *to, size_t room, const char *value)
{
	if (to[0])
		return;
	for (const char *c = value; *c; c++)
		if (*c < ' ' || *c > '~')
			return;
	copy_text(to, room, value, strlen(value));
}

/* Of the response proper, not of one that a 1xx announces. */
static void forget_headers(struct http_reader *reader)
{
	reader->has_length = reader->chunked = false;
	reader->says_close = reader->says_keep_alive = false;
	reader->content_type[0] = reader->location[0] = '\0';
	reader->etag[0] = reader->last_modified[0] = '\0';
	freshness_init(&reader->freshness);
}

static void read_header(struct http_reader *reader, const char *name, const char *value)
{
	if (strcasecmp(name, "content-length") == 0) {
		read_content_length(reader, value);
	} else if (strcasecmp(name, "transfer-encoding") == 0) {
		if (strcasecmp(value, "chunked") != 0 || reader->chunked)
			reader_fail(reader,
				"the response has a transfer coding that was not asked for");
		reader->chunked = true;
	} else if (strcasecmp(name, "connection") == 0) {
		read_connection(reader, value);
	} else if (strcasecmp(name, "content-type") == 0 && reader->content_type[0] == '\0') {
		read_content_type(reader, value);
	} else if (strcasecmp(name, "location") == 0) {
		keep_text(reader->location, sizeof(reader->location), value);
	} else if (strcasecmp(name, "etag") == 0) {
		keep_text(reader->etag, sizeof(reader->etag), value);
	} else if (strcasecmp(name, "last-modified") == 0) {
		keep_text(reader->last_modified, sizeof(reader->last_modified), value);
	} else {
		freshness_read(&reader->freshness, name, value);
	}
}

/* Splits reader->line; false, and failed, if it is no header. Does the same for a trailer. */
static bool split_header(struct http_reader *reader, const char **value)
{
	char *line = reader->line;
	size_t end = reader->line_size;
	size_t name_size = 0;

	if (is_blank(line[0])) {
		reader_fail(reader, "the response has a folded header");
		return false;
	}
	while (line[name_size] &&
		(is_alphanumeric(line[name_size]) || strchr("!#$%&'*+-.^_`|~", line[name_size])))
		name_size++;
	if (name_size == 0 || line[name_size] != ':') {
		reader_fail(reader, "the response has a malformed header");
		return false;
	}
	while (is_blank(line[end - 1]))
		end--;
	line[end] = '\0';
	line[name_size] = '\0';
	*value = line + name_size + 1;
	*value += strspn(*value, " \t");
	return true;
}

/* RFC 9112, 9.3; a 1.0 server's chunks are not to be trusted that far, 6.1. */
static bool may_persist(const struct http_reader *reader)
{
	if (reader->says_close)
		return false;
	return !reader->is_http_1_0 || (reader->says_keep_alive && !reader->chunked);
}

/* RFC 9112, 6.3: how long the body is. */
static void end_headers(struct http_reader *reader)
{
	if (reader->status == 101) {
		reader_fail(reader, "the server switches to another protocol");
	} else if (reader->status < 200) {
		forget_headers(reader);
		reader->step = STEP_STATUS;
	} else if (reader->chunked && reader->has_length) {
		reader_fail(reader, "the response is chunked and has a length, too");
	} else if (reader->status == 204 || reader->status == 304) {
		reader->step = STEP_DONE;
	} else if (reader->chunked) {
		reader->step = STEP_CHUNK_SIZE;
	} else if (!reader->has_length) {
		reader->step = STEP_BODY_CLOSE;
	} else if (reader->remaining > reader->limit - reader->seen) {
		reader_fail(reader, too_large);
	} else {
		reader->step = reader->remaining ? STEP_BODY_LENGTH : STEP_DONE;
	}
	reader->persists = may_persist(reader);
}

static int hex_value(char c)
{
	if (is_digit(c))
		return c - '0';
	c = to_lower(c);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static void read_chunk_size(struct http_reader *reader)
{
	const char *c = reader->line;
	uint64_t size = 0;
	char after;

	for (; hex_value(*c) >= 0; c++) {
		size = size * 16 + (uint64_t)hex_value(*c);
		if (size > reader->limit - reader->seen) {
			reader_fail(reader, too_large);
			return;
		}
	}
	after = c[strspn(c, " \t")];
	if (c == reader->line || (after != '\0' && after != ';')) {
		reader_fail(reader, "the response has a malformed chunk");
		return;
	}
	reader->remaining = size;
	reader->step = size ? STEP_CHUNK_DATA : STEP_TRAILERS;
}

static void read_line(struct http_reader *reader)
{
	const char *value;

	switch (reader->step) {
	case STEP_STATUS:
		read_status_line(reader);
		break;
	case STEP_HEADERS:
		if (reader->line_size == 0)
			end_headers(reader);
		else if (split_header(reader, &value))
			read_header(reader, reader->line, value);
		break;
	case STEP_CHUNK_SIZE:
		read_chunk_size(reader);
		break;
	case STEP_CHUNK_END:
		reader->step = STEP_CHUNK_SIZE;
		if (reader->line_size > 0)
			reader_fail(reader, "the response has a malformed chunk");
		break;
	case STEP_TRAILERS:
		if (reader->line_size == 0)
			reader->step = STEP_DONE;
		else
			split_header(reader, &value);
		break;
	}
	reader->line_size = 0;
}

/* A line ends with CR LF or, from many an old responder, with LF alone (RFC 9112, 2.2). */
static void feed_line(struct http_reader *reader, char byte)
{
	bool after_cr = reader->line_size > 0 && reader->line[reader->line_size - 1] == '\r';

	if (++reader->seen > reader->limit) {
		reader_fail(reader, too_large);
	} else if (byte == '\n') {
		reader->line_size -= after_cr;
		reader->line[reader->line_size] = '\0';
		read_line(reader);
	} else if (reader->step == STEP_STATUS && reader->line_size < 7 &&
		   byte != "HTTP/1."[reader->line_size]) {
		/* A server that speaks first, or TLS, may never send a line end. */
		reader_fail(reader, not_http);
	} else if (byte == '\0' || after_cr) {
		reader_fail(reader, "the response has a NUL or a bare CR in a header");
	} else if (reader->line_size >= sizeof(reader->line) - 1) {
		reader_fail(reader, "the response has an overlong header");
	} else {
		reader->line[reader->line_size++] = byte;
	}
}

/* Returns how much of input was used. */
static size_t feed_body(struct http_reader *reader, struct bytes input)
{
	bool counted = reader->step != STEP_BODY_CLOSE;
	size_t size = input.size;

	if (counted && size > reader->remaining)
		size = (size_t)reader->remaining;
	if (size > reader->limit - reader->seen) {
		reader_fail(reader, too_large);
		return size;
	}
	if (!buffer_append(&reader->body, input.data, size)) {
		reader_fail(reader, "memory ran out");
		return size;
	}
	reader->seen += size;
	if (counted) {
		reader->remaining -= size;
		if (reader->remaining == 0)
			reader->step = reader->step == STEP_CHUNK_DATA ? STEP_CHUNK_END : STEP_DONE;
	}
	return size;
}

enum http_state http_reader_feed(struct http_reader *reader, struct bytes input)
{
	while (input.size > 0 && reader->step < STEP_DONE) {
		size_t used = 1;

		if (reader->step < STEP_BODY_LENGTH)
			feed_line(reader, (char)input.data[0]);
		else
			used = feed_body(reader, input);
		input.data += used;
		input.size -= used;
	}
	/* Of another response, or of none: what it answers is not for us to guess. */
	if (input.size > 0)
		reader->persists = false;
	return reader_state(reader);
}

enum http_state http_reader_end(struct http_reader *reader)
{
	reader->persists = false;
	if (reader->step == STEP_BODY_CLOSE)
		reader->step = STEP_DONE;
	else if (reader->step == STEP_STATUS && reader->seen == 0)
		reader_fail(reader, "the server closed the connection without an answer");
	else if (reader->step < STEP_DONE)
		reader_fail(reader, "the server closed the connection before the response's end");
	return reader_state(reader);
}
