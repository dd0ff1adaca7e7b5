/* SPDX-License-Identifier: MIT */
/* links: fetcher/http.c fetcher/freshness.c fetcher/clock.c fetcher/bytes.c */
#include "../../fetcher/http.h"

#include "check.h"

#include <stdlib.h>

/*
 * URLs
 */

static void test_urls_that_are_good(void)
{
	static const struct {
		const char *text, *host, *port, *path, *authority;
	} good[] = {
		{"http://ocsp.example.com", "ocsp.example.com", "80", "/", "ocsp.example.com"},
		{"http://ocsp.example.com/", "ocsp.example.com", "80", "/", "ocsp.example.com"},
		{"HTTP://Ocsp.Example.COM/Ca", "Ocsp.Example.COM", "80", "/Ca", "Ocsp.Example.COM"},
		{"http://a:80/x", "a", "80", "/x", "a"},
		{"http://a:080/x", "a", "80", "/x", "a"},
		{"http://a:/x", "a", "80", "/x", "a"},
		{"http://a:8080/x/y", "a", "8080", "/x/y", "a:8080"},
		{"http://a:65535", "a", "65535", "/", "a:65535"},
		{"http://a:1?q=1", "a", "1", "/?q=1", "a:1"},
		{"http://a/x?q=/&r#f?", "a", "80", "/x?q=/&r", "a"},
		{"http://a#f", "a", "80", "/", "a"},
		{"http://192.0.2.1:8888/", "192.0.2.1", "8888", "/", "192.0.2.1:8888"},
		{"http://[2001:db8::1]/x", "2001:db8::1", "80", "/x", "[2001:db8::1]"},
		{"http://[::1]:8080", "::1", "8080", "/", "[::1]:8080"},
		{"http://[::1]:80?a", "::1", "80", "/?a", "[::1]"},
		{"http://a_b-c.d./", "a_b-c.d.", "80", "/", "a_b-c.d."},
		{"http://a/x@y:z", "a", "80", "/x@y:z", "a"},
	};

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		struct url url;

		CHECK_STR(url_parse(good[i].text, &url), NULL);
		CHECK_STR(url.host, good[i].host);
		CHECK_STR(url.port, good[i].port);
		CHECK_STR(url.path, good[i].path);
		CHECK_STR(url.authority, good[i].authority);
	}
}

static bool why_says(const char *why, const char *part)
{
	if (why && strstr(why, part))
		return true;
	fprintf(stderr, "  why: \"%s\", wanted: \"%s\"\n", why ? why : "(null)", part);
	return false;
}

static void test_urls_that_are_refused(void)
{
	static const char *const bad[][2] = {
		{"", "not an http URL"},
		{"ocsp.example.com", "not an http URL"},
		{"http:/a", "not an http URL"},
		{"ldap://a/", "not an http URL"},
		{"https://a/", "https is not possible for OCSP"},
		{"HTTPS://a/", "https is not possible for OCSP"},
		{"http://", "no host"},
		{"http:///x", "no host"},
		{"http://:80/", "no host"},
		{"http://?q", "no host"},
		{"http://u@a/", "user name"},
		{"http://u:p@a/", "user name"},
		{"http://a b/", "space"},
		{" http://a/", "space"},
		{"http://a/ ", "space"},
		{"http://a/\r\nX: y", "space"},
		{"http://a/\x7f", "character"},
		{"http://\xc3\xa4/", "character"},
		{"http://a%20b/", "no host name has"},
		{"http://a;b/", "no host name has"},
		{"http://a:x/", "not a number"},
		{"http://a:-1/", "not a number"},
		{"http://a:80:80/", "not a number"},
		{"http://a:0/", "between"},
		{"http://a:65536/", "between"},
		{"http://a:99999999999999999999/", "between"},
		{"http://::1/", "no host"},
		{"http://[::1/", "not an IPv6 address"},
		{"http://[]/", "no host"},
		{"http://[x]/", "not an IPv6 address"},
		{"http://[127.0.0.1]/", "not an IPv6 address"},
		{"http://[fe80::1%25eth0]/", "not an IPv6 address"},
		{"http://[::1]80/", "no port"},
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct url url;

		CHECK(why_says(url_parse(bad[i][0], &url), bad[i][1]));
	}
}

static void test_urls_that_are_long(void)
{
	char text[2048] = "http://";
	struct url url;

	memset(text + 7, 'a', 255);
	text[7 + 255] = '\0';
	strcat(text, ":65535");
	CHECK_STR(url_parse(text, &url), NULL);
	CHECK_EQ(strlen(url.host), 255);
	memset(text + 7, 'a', 256);
	text[7 + 256] = '\0';
	CHECK(why_says(url_parse(text, &url), "host is too long"));

	memcpy(text, "http://a/", 9);
	memset(text + 9, 'p', 1022);
	text[9 + 1022] = '\0';
	CHECK_STR(url_parse(text, &url), NULL);
	CHECK_EQ(strlen(url.path), 1023);
	text[8] = '?';
	CHECK(why_says(url_parse(text, &url), "path is too long"));
	memcpy(text, "http://a/p", 10);
	strcat(text, "p");
	CHECK(why_says(url_parse(text, &url), "path is too long"));
}

/*
 * Requests
 */

static struct bytes bytes_of(const char *text)
{
	return (struct bytes){(const unsigned char *)text, strlen(text)};
}

/* What the Makefile says the version is does not matter here. */
static void hide_version(char *request)
{
	char *from = strstr(request, "ocspreload/");
	char *to = from ? strchr(from, '\r') : NULL;

	if (to) {
		from[11] = '0';
		memmove(from + 12, to, strlen(to) + 1);
	}
}

static void check_format(const struct http_request *request, const char *wanted)
{
	struct buffer out = {0};

	CHECK(http_format_request(&out, request));
	CHECK(buffer_append(&out, "", 1));
	hide_version((char *)out.data);
	CHECK_STR((const char *)out.data, wanted);
	buffer_free(&out);
}

#define COMMON(host) \
	"Host: " host "\r\nAccept: application/ocsp-response\r\nUser-Agent: ocspreload/0\r\n"

static void check_get(const char *text, struct bytes der, const char *wanted)
{
	struct url url, get;

	CHECK_STR(url_parse(text, &url), NULL);
	if (!CHECK_EQ(http_get_url(&url, der, &get), wanted != NULL) || !wanted)
		return;
	CHECK_STR(get.path, wanted);
	CHECK_STR(get.authority, url.authority);
	CHECK_STR(get.host, url.host);
	CHECK_STR(get.port, url.port);
}

static void test_the_url_of_a_get(void)
{
	check_get("http://a", bytes_of("M"), "/TQ%3D%3D");
	check_get("http://a/", bytes_of("Ma"), "/TWE%3D");
	check_get("http://a/ca", bytes_of("Man"), "/ca/TWFu");
	check_get("http://a:81/ca/", bytes_of("Man"), "/ca/TWFu");
	check_get("http://[::1]:81/", bytes_of("\xfb\xff\xbf"), "/%2B%2F%2B%2F");
	check_get("http://a/ca?x=1", bytes_of("Man"), NULL);
	check_get("http://a?", bytes_of("Man"), NULL);
}

/* All of the URL counts: RFC 5019, 5. */
static void test_the_limit_of_a_get(void)
{
	unsigned char der[192] = {0};
	struct bytes just = {der, 180}; /* 240 letters */
	struct url url, get;

	CHECK_STR(url_parse("http://a.test/", &url), NULL);
	CHECK(http_get_url(&url, just, &get));
	CHECK_EQ(strlen("http://a.test") + strlen(get.path), 254);
	CHECK_STR(url_parse("http://aa.test", &url), NULL);
	CHECK(http_get_url(&url, just, &get));
	CHECK_EQ(strlen("http://aa.test") + strlen(get.path), 255);
	CHECK_STR(url_parse("http://aaa.test", &url), NULL);
	CHECK(!http_get_url(&url, just, &get));
	CHECK_STR(url_parse("http://a.test/a", &url), NULL);
	CHECK(!http_get_url(&url, just, &get));
	/* The port that everybody means does not. */
	CHECK_STR(url_parse("http://aa.test:80/", &url), NULL);
	CHECK(http_get_url(&url, just, &get));
	CHECK_STR(url_parse("http://aa.test:81/", &url), NULL);
	CHECK(!http_get_url(&url, just, &get));
	/* Every percent sign does. */
	memset(der, 0xff, sizeof(der));
	CHECK_STR(url_parse("http://a/", &url), NULL);
	CHECK(http_get_url(&url, (struct bytes){der, 60}, &get));
	CHECK(!http_get_url(&url, (struct bytes){der, 63}, &get));
}

static struct url url_of(const char *text)
{
	struct url url;

	CHECK_STR(url_parse(text, &url), NULL);
	return url;
}

static void test_requests(void)
{
	struct url url = url_of("http://a:81/ca/TWFu");
	struct http_request request = {.url = &url};

	check_format(&request, "GET /ca/TWFu HTTP/1.1\r\n" COMMON("a:81") "\r\n");
	request.is_last = true;
	check_format(
		&request, "GET /ca/TWFu HTTP/1.1\r\n" COMMON("a:81") "Connection: close\r\n\r\n");
	request.is_last = false;
	request.credentials = "u:p"; /* nobody's but a proxy's */
	request.etag = request.last_modified = "";
	check_format(&request, "GET /ca/TWFu HTTP/1.1\r\n" COMMON("a:81") "\r\n");
	request.through_proxy = true;
	request.credentials = "";
	check_format(&request, "GET http://a:81/ca/TWFu HTTP/1.1\r\n" COMMON("a:81") "\r\n");
	request.credentials = "Aladdin:open sesame"; /* RFC 7617, 2 */
	check_format(&request,
		"GET http://a:81/ca/TWFu HTTP/1.1\r\n" COMMON(
			"a:81") "Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n");
}

static void test_conditional_requests(void)
{
	struct url url = url_of("http://a/TWFu");
	struct http_request request = {.url = &url, .etag = "\"1\""};

	check_format(&request, "GET /TWFu HTTP/1.1\r\n" COMMON("a") "If-None-Match: \"1\"\r\n\r\n");
	request.last_modified = "Tue, 15 Nov 1994 08:12:31 GMT";
	check_format(&request,
		"GET /TWFu HTTP/1.1\r\n" COMMON(
			"a") "If-None-Match: \"1\"\r\n"
			     "If-Modified-Since: Tue, 15 Nov 1994 08:12:31 GMT\r\n\r\n");
	/* A POST never is. */
	request.content = bytes_of("Man");
	check_format(&request,
		"POST /TWFu HTTP/1.1\r\n" COMMON("a") "Content-Type: application/ocsp-request\r\n"
						      "Content-Length: 3\r\n\r\nMan");
}

static void test_post(void)
{
	struct url url = url_of("http://[::1]:81/ca?x=1");
	struct http_request request = {.url = &url, .content = bytes_of("Man")};

	check_format(&request,
		"POST /ca?x=1 HTTP/1.1\r\n" COMMON(
			"[::1]:81") "Content-Type: application/ocsp-request\r\n"
				    "Content-Length: 3\r\n\r\nMan");
	request.through_proxy = true;
	request.credentials = "u:";
	check_format(&request,
		"POST http://[::1]:81/ca?x=1 HTTP/1.1\r\n" COMMON(
			"[::1]:81") "Proxy-Authorization: Basic dTo=\r\n"
				    "Content-Type: application/ocsp-request\r\n"
				    "Content-Length: 3\r\n\r\nMan");
}

/*
 * Where redirects lead
 */

static void test_references(void)
{
	static const struct {
		const char *base, *reference, *authority, *path; /* path, or why not */
	} cases[] = {
		{"http://a/b/c", "http://d/e", "d", "/e"},
		{"http://a/b/c", "HTTP://d", "d", "/"},
		{"http://a:81/b/c", "http://a:82/b/c", "a:82", "/b/c"},
		{"http://a:81/b/c", "//d:82/e", "d:82", "/e"},
		{"http://a:81/b/c", "/e?f", "a:81", "/e?f"},
		{"http://[::1]/b/c", "/e#f", "[::1]", "/e"},
		{"http://a/b/c?d/e", "f", "a", "/b/f"},
		{"http://a/b/", "f/g", "a", "/b/f/g"},
		{"http://a", "f", "a", "/f"},
		{"http://a/b?c", "?d", "a", "/b?d"},
		{"http://a/b?c", "#d", "a", "/b?c"},
		{"http://a/b", "https://a/b", NULL, "https is not possible"},
		{"http://a/b", "file:///etc/passwd", NULL, "not an http URL"},
		{"http://a/b", "gopher://a/", NULL, "not an http URL"},
		{"http://a/b", "javascript:1", NULL, "not an http URL"},
		{"http://a/b", "http:b", NULL, "not an http URL"},
		{"http://a/b", "//", NULL, "no host"},
		{"http://a/b", "//u:p@d/", NULL, "user name"},
		{"http://a/b", "/e f", NULL, "space"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct url base = url_of(cases[i].base), url;
		const char *why = url_resolve(&base, cases[i].reference, &url);

		if (cases[i].authority) {
			CHECK_STR(why, NULL);
			CHECK_STR(url.authority, cases[i].authority);
			CHECK_STR(url.path, cases[i].path);
		} else {
			CHECK(why_says(why, cases[i].path));
		}
	}
}

static void test_a_reference_that_is_long(void)
{
	char text[2000];
	struct url base = url_of("http://a/b"), url;

	memset(text, 'x', sizeof(text));
	text[1022] = '\0';
	CHECK_STR(url_resolve(&base, text, &url), NULL);
	text[1022] = 'x';
	text[1900] = '\0';
	CHECK(why_says(url_resolve(&base, text, &url), "too long"));
}

/*
 * Responses
 */

struct response {
	const char *text;
	enum http_state state; /* HTTP_DONE or HTTP_BAD, after the end of the connection */
	int status;
	const char *type;
	const char *body; /* or part of why, if bad */
	bool by_close;    /* done by the connection's end only */
};

#define OK "HTTP/1.1 200 OK\r\n"
#define CHUNKED OK "Transfer-Encoding: chunked\r\n"

static const struct response responses[] = {
	/* Lengths. */
	{OK "Content-Length: 5\r\n\r\nhello", HTTP_DONE, 200, "", "hello", false},
	{OK "Content-Length:5\r\n\r\nhello, and more", HTTP_DONE, 200, "", "hello", false},
	{OK "content-LENGTH: \t 5 \t\r\n\r\nhello", HTTP_DONE, 200, "", "hello", false},
	{OK "Content-Length: 0\r\n\r\n", HTTP_DONE, 200, "", "", false},
	{OK "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", HTTP_DONE, 200, "", "hello",
		false},
	{OK "Content-Length: 5 , 5,5\r\n\r\nhello", HTTP_DONE, 200, "", "hello", false},
	{OK "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", HTTP_BAD, 0, "",
		"two different lengths", false},
	{OK "Content-Length: 5, 6\r\n\r\nhello!", HTTP_BAD, 0, "", "two different lengths", false},
	{OK "Content-Length: 5,\r\n\r\nhello", HTTP_BAD, 0, "", "not a number", false},
	{OK "Content-Length:\r\n\r\nhello", HTTP_BAD, 0, "", "not a number", false},
	{OK "Content-Length: -5\r\n\r\nhello", HTTP_BAD, 0, "", "not a number", false},
	{OK "Content-Length: +5\r\n\r\nhello", HTTP_BAD, 0, "", "not a number", false},
	{OK "Content-Length: 0x5\r\n\r\nhello", HTTP_BAD, 0, "", "not a number", false},
	{OK "Content-Length: 5 5\r\n\r\nhello", HTTP_BAD, 0, "", "not a number", false},
	{OK "Content-Length: 18446744073709551615\r\n\r\n", HTTP_BAD, 0, "", "too large", false},
	{OK "Content-Length: 18446744073709551621\r\n\r\nhello", HTTP_BAD, 0, "", "too large",
		false},
	{OK "Content-Length: 100000\r\n\r\nhello", HTTP_BAD, 0, "", "too large", false},
	{OK "Content-Length: 6\r\n\r\nhello", HTTP_BAD, 0, "", "before the response's end", false},
	/* No length. */
	{OK "\r\nhello", HTTP_DONE, 200, "", "hello", true},
	{OK "\r\n", HTTP_DONE, 200, "", "", true},
	{"HTTP/1.0 200 OK\r\n\r\nhello", HTTP_DONE, 200, "", "hello", true},
	{OK "X: y\r\n", HTTP_BAD, 0, "", "before the response's end", false},
	{"HTTP/1.1 2", HTTP_BAD, 0, "", "before the response's end", false},
	{"", HTTP_BAD, 0, "", "without an answer", false},
	/* Chunks. */
	{CHUNKED "\r\n5\r\nhello\r\n0\r\n\r\n", HTTP_DONE, 200, "", "hello", false},
	{CHUNKED "\r\n0\r\n\r\nmore", HTTP_DONE, 200, "", "", false},
	{CHUNKED "\r\n2;a=b;c=\"d\"\r\nhe\r\n03 \t; x\r\nllo\r\n000\r\nX-Sum: 1\r\nY: 2\r\n\r\n",
		HTTP_DONE, 200, "", "hello", false},
	{CHUNKED "\r\nA\r\n0123456789\r\nb\r\n0123456789a\r\n0 \r\n\r\n", HTTP_DONE, 200, "",
		"01234567890123456789a", false},
	{CHUNKED "\n5\nhello\n0\n\n", HTTP_DONE, 200, "", "hello", false},
	{OK "Transfer-Encoding: CHUNKED \r\n\r\n1\r\nx\r\n0\r\n\r\n", HTTP_DONE, 200, "", "x",
		false},
	{CHUNKED "Content-Length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n", HTTP_BAD, 0, "",
		"chunked and has a length", false},
	{OK "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		HTTP_BAD, 0, "", "chunked and has a length", false},
	{CHUNKED "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", HTTP_BAD, 0, "", "transfer coding",
		false},
	{OK "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", HTTP_BAD, 0, "", "transfer coding",
		false},
	{OK "Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n", HTTP_BAD, 0, "", "transfer coding", false},
	{OK "Transfer-Encoding:\r\n\r\n0\r\n\r\n", HTTP_BAD, 0, "", "transfer coding", false},
	{CHUNKED "\r\n\r\nhello\r\n", HTTP_BAD, 0, "", "malformed chunk", false},
	{CHUNKED "\r\n-5\r\nhello\r\n", HTTP_BAD, 0, "", "malformed chunk", false},
	{CHUNKED "\r\n0x5\r\nhello\r\n", HTTP_BAD, 0, "", "malformed chunk", false},
	{CHUNKED "\r\n5 5\r\nhello\r\n", HTTP_BAD, 0, "", "malformed chunk", false},
	{CHUNKED "\r\n ;\r\nhello\r\n", HTTP_BAD, 0, "", "malformed chunk", false},
	{CHUNKED "\r\n5\r\nhello!\r\n0\r\n\r\n", HTTP_BAD, 0, "", "malformed chunk", false},
	{CHUNKED "\r\nffffffffffffffff\r\nhello", HTTP_BAD, 0, "", "too large", false},
	{CHUNKED "\r\n10000000000000005\r\nhello", HTTP_BAD, 0, "", "too large", false},
	{CHUNKED "\r\n5\r\nhello\r\n0\r\n folded\r\n\r\n", HTTP_BAD, 0, "", "folded", false},
	{CHUNKED "\r\n5\r\nhello\r\n0\r\nX\r\n\r\n", HTTP_BAD, 0, "", "malformed header", false},
	{CHUNKED "\r\n5\r\nhello\r\n0\r\n", HTTP_BAD, 0, "", "before the response's end", false},
	{CHUNKED "\r\n5\r\nhell", HTTP_BAD, 0, "", "before the response's end", false},
	/* Status lines. */
	{"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", HTTP_DONE, 404, "", "no", false},
	{"HTTP/1.1 503\r\nContent-Length: 0\r\n\r\n", HTTP_DONE, 503, "", "", false},
	{"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", HTTP_DONE, 200, "", "", false},
	{"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", HTTP_DONE, 204, "", "", false},
	{"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", HTTP_DONE, 304, "", "", false},
	{"HTTP/1.1 100 Continue\r\nContent-Length: 7\r\nContent-Type: a/b\r\n\r\nHTTP/1.1 103 \r\n"
	 "Link: x\r\n\r\n" OK "Content-Length: 5\r\n\r\nhello",
		HTTP_DONE, 200, "", "hello", false},
	{"HTTP/1.1 100 Continue\r\n\r\n" OK "\r\nhello", HTTP_DONE, 200, "", "hello", true},
	{"HTTP/1.1 100 Continue\r\n\r\n", HTTP_BAD, 0, "", "before the response's end", false},
	{"HTTP/1.1 101 Switching Protocols\r\n\r\n", HTTP_BAD, 0, "", "another protocol", false},
	{"HTTP/2 200\r\n\r\n", HTTP_BAD, 0, "", "not an HTTP/1 server", false},
	{"HTTP/1.1 20\r\n\r\n", HTTP_BAD, 0, "", "not an HTTP/1 server", false},
	{"HTTP/1.1 2000 OK\r\n\r\n", HTTP_BAD, 0, "", "not an HTTP/1 server", false},
	{"HTTP/1.1 020 OK\r\n\r\n", HTTP_BAD, 0, "", "not an HTTP/1 server", false},
	{"HTTP/1.1  200 OK\r\n\r\n", HTTP_BAD, 0, "", "not an HTTP/1 server", false},
	{"HTTP/1.x 200 OK\r\n\r\n", HTTP_BAD, 0, "", "not an HTTP/1 server", false},
	{"\r\nHTTP/1.1 200 OK\r\n\r\n", HTTP_BAD, 0, "", "not an HTTP/1 server", false},
	{"SSH-2.0-OpenSSH_9.2p1", HTTP_BAD, 0, "", "not an HTTP/1 server", false},
	{"\x15\x03\x03", HTTP_BAD, 0, "", "not an HTTP/1 server", false},
	/* Headers. */
	{OK "Content-Type: application/ocsp-response\r\nContent-Length: 0\r\n\r\n", HTTP_DONE, 200,
		"application/ocsp-response", "", false},
	{OK "Content-Type:Application/OCSP-Response ; q=\"a;b\"\r\nContent-Length: 0\r\n\r\n",
		HTTP_DONE, 200, "application/ocsp-response", "", false},
	{OK "Content-Length: 1\nX-Empty:\r\n\nx", HTTP_DONE, 200, "", "x", false},
	{OK " folded: x\r\n\r\n", HTTP_BAD, 0, "", "folded", false},
	{OK "X: y\r\n\tfolded\r\n\r\n", HTTP_BAD, 0, "", "folded", false},
	{OK "X y\r\n\r\n", HTTP_BAD, 0, "", "malformed header", false},
	{OK ": y\r\n\r\n", HTTP_BAD, 0, "", "malformed header", false},
	{OK "X : y\r\n\r\n", HTTP_BAD, 0, "", "malformed header", false},
	{OK "X: y\rZ: 1\r\n\r\n", HTTP_BAD, 0, "", "bare CR", false},
	{OK "X: y\r\r\n\r\n", HTTP_BAD, 0, "", "bare CR", false},
};

/* Feeds up to cut, then step by step. */
static enum http_state feed_pieces(
	struct http_reader *reader, struct bytes input, size_t cut, size_t step)
{
	enum http_state state = http_reader_feed(reader, (struct bytes){input.data, cut});

	for (size_t at = cut; at < input.size; at += step) {
		size_t size = input.size - at < step ? input.size - at : step;

		state = http_reader_feed(reader, (struct bytes){input.data + at, size});
	}
	return state;
}

static bool body_is(const struct http_reader *reader, const char *wanted)
{
	return reader->body.size == strlen(wanted) &&
	       (reader->body.size == 0 ||
		       memcmp(reader->body.data, wanted, reader->body.size) == 0);
}

static void check_response(const struct response *response, size_t cut, size_t step)
{
	struct http_reader reader;
	enum http_state state;
	bool good;

	http_reader_init(&reader, 64 * 1024);
	state = feed_pieces(&reader, bytes_of(response->text), cut, step);
	good = CHECK(!response->by_close || state == HTTP_MORE);
	if (response->state == HTTP_DONE && !response->by_close)
		good = CHECK_EQ(state, HTTP_DONE) && good;
	good = CHECK_EQ(http_reader_end(&reader), response->state) && good;
	if (response->state == HTTP_DONE) {
		good = CHECK_EQ(reader.status, response->status) && good;
		good = CHECK_STR(reader.content_type, response->type) && good;
		good = CHECK(body_is(&reader, response->body)) && good;
	} else {
		good = CHECK(why_says(reader.why, response->body)) && good;
		good = CHECK_EQ(http_reader_feed(&reader, bytes_of(OK)), HTTP_BAD) && good;
	}
	if (!good)
		fprintf(stderr, "  cut at %zu, step %zu: %s\n", cut, step, response->text);
	http_reader_free(&reader);
}

static void test_responses_in_every_division(void)
{
	for (size_t i = 0; i < sizeof(responses) / sizeof(responses[0]); i++) {
		size_t size = strlen(responses[i].text);

		for (size_t cut = 0; cut <= size; cut++)
			check_response(&responses[i], cut, size + 1);
		check_response(&responses[i], 0, 1);
		check_response(&responses[i], 0, 3);
	}
}

static void read_whole(struct http_reader *reader, const char *text)
{
	http_reader_init(reader, 64 * 1024);
	CHECK_EQ(http_reader_feed(reader, bytes_of(text)), HTTP_DONE);
}

/* RFC 9112, 9.3; text is a whole response, and what comes after it. */
static void test_connections_that_persist(void)
{
	static const struct {
		const char *text;
		bool persists;
	} cases[] = {
		{OK "Content-Length: 1\r\n\r\nx", true},
		{OK "Content-Length: 0\r\n\r\n", true},
		{OK "Content-Length: 0\r\nConnection: keep-alive\r\n\r\n", true},
		{OK "Content-Length: 0\r\nConnection: closed, X-close, clos\r\n\r\n", true},
		{OK "Content-Length: 0\r\nProxy-Connection: close\r\n\r\n", true},
		{"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", true},
		{"HTTP/1.1 204 No\r\n\r\n", true},
		{"HTTP/1.1 304 No\r\nContent-Length: 500\r\n\r\n", true},
		{CHUNKED "\r\n1\r\nx\r\n0\r\n\r\n", true},
		{CHUNKED "\r\n0\r\nConnection: close\r\nX: y\r\n\r\n", true},
		{"HTTP/1.1 103 \r\nConnection: close\r\n\r\n" OK "Content-Length: 0\r\n\r\n", true},
		/* It says otherwise. */
		{OK "Content-Length: 0\r\nConnection: close\r\n\r\n", false},
		{OK "Content-Length: 0\r\ncONNECTION:CLOSE\r\n\r\n", false},
		{OK "Content-Length: 0\r\nConnection: , x ,\tclose,\r\n\r\n", false},
		{OK "Connection: close\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n",
			false},
		/* Before HTTP/1.1, only what says so. */
		{"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", false},
		{"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: Keep-Alive\r\n\r\n", true},
		{"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nConnection: close\r\n"
		 "Content-Length: 0\r\n\r\n",
			false},
		{"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n"
		 "\r\n0\r\n\r\n",
			false},
		{"HTTP/1.0 100 \r\nConnection: keep-alive\r\n\r\n"
		 "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
			false},
		/* More than was asked for. */
		{OK "Content-Length: 1\r\n\r\nxy", false},
		{OK "Content-Length: 0\r\n\r\n" OK "Content-Length: 0\r\n\r\n", false},
		{CHUNKED "\r\n0\r\n\r\n\r\n", false},
		{"HTTP/1.1 304 No\r\nContent-Length: 4\r\n\r\nbody", false},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct bytes text = bytes_of(cases[i].text);

		for (size_t step = 1; step <= text.size; step++) {
			struct http_reader reader;

			http_reader_init(&reader, 64 * 1024);
			CHECK_EQ(feed_pieces(&reader, text, 0, step), HTTP_DONE);
			if (!CHECK_EQ(reader.persists, cases[i].persists))
				fprintf(stderr, "  step %zu: %s\n", step, cases[i].text);
			/* And then it has ended. */
			CHECK_EQ(http_reader_end(&reader), HTTP_DONE);
			CHECK(!reader.persists);
			http_reader_free(&reader);
		}
	}
}

static void test_headers_that_are_kept(void)
{
	static const char text[] =
		"HTTP/1.1 302 Found\r\nLOCATION: http://a/b \r\nETag: W/\"1\"\r\n"
		"Last-Modified: Tue, 15 Nov 1994 08:12:31 GMT\r\nRetry-After: 7\r\n"
		"Age: 5\r\nDate: Tue, 15 Nov 1994 08:12:31 GMT\r\nLocation: http://c/\r\n"
		"Cache-Control: max-age=60\r\nContent-Length: 0\r\n\r\n";
	struct http_reader reader;

	read_whole(&reader, text);
	CHECK_STR(reader.location, "http://a/b");
	CHECK_STR(reader.etag, "W/\"1\"");
	CHECK_STR(reader.last_modified, "Tue, 15 Nov 1994 08:12:31 GMT");
	CHECK_EQ(reader.freshness.retry_after, 7);
	CHECK_EQ(reader.freshness.age, 5);
	CHECK_EQ(reader.freshness.date, 784887151);
	CHECK_EQ(reader.freshness.max_age, 60);
	http_reader_free(&reader);
}

static void test_headers_that_are_not(void)
{
	struct http_reader reader;
	char text[2000];

	/* What is sent back must not smuggle anything. */
	read_whole(&reader, OK
		"ETag: \"\x01\"\r\nLast-Modified: a\tb\r\nLocation: /\xe4\r\n"
		"Content-Length: 0\r\n\r\n");
	CHECK_STR(reader.etag, "");
	CHECK_STR(reader.last_modified, "");
	CHECK_STR(reader.location, "");
	http_reader_free(&reader);
	/* Half a URL is another one. */
	snprintf(text, sizeof(text), OK "Location: /%01500d\r\nContent-Length: 0\r\n\r\n", 0);
	read_whole(&reader, text);
	CHECK_STR(reader.location, "");
	http_reader_free(&reader);
	/* Nor does what an interim response says, or a trailer, count. */
	read_whole(&reader,
		"HTTP/1.1 103 Early Hints\r\nETag: \"1\"\r\nLocation: /x\r\n"
		"Last-Modified: x\r\nRetry-After: 7\r\n\r\n" CHUNKED
		"\r\n0\r\nETag: \"2\"\r\nRetry-After: 8\r\n\r\n");
	CHECK_STR(reader.etag, "");
	CHECK_STR(reader.last_modified, "");
	CHECK_STR(reader.location, "");
	CHECK_EQ(reader.freshness.retry_after, -1);
	http_reader_free(&reader);
}

static void test_a_nul_in_a_header(void)
{
	static const char text[] = OK "X: a\0b\r\n\r\n";
	struct http_reader reader;

	http_reader_init(&reader, 1024);
	CHECK_EQ(http_reader_feed(
			 &reader, (struct bytes){(const unsigned char *)text, sizeof(text) - 1}),
		HTTP_BAD);
	CHECK(why_says(reader.why, "NUL"));
	http_reader_free(&reader);
}

/* size bytes of filler between before and after, in pieces of step, under limit. */
static enum http_state feed_long(struct http_reader *reader, size_t limit, const char *before,
	size_t size, const char *after, size_t step)
{
	struct buffer text = {0};
	enum http_state state;

	http_reader_init(reader, limit);
	CHECK(buffer_append(&text, before, strlen(before)));
	for (size_t i = 0; i < size; i++)
		CHECK(buffer_append(&text, "x", 1));
	CHECK(buffer_append(&text, after, strlen(after)));
	state = feed_pieces(reader, buffer_bytes(&text), 0, step);
	buffer_free(&text);
	return state;
}

static void check_long(size_t limit, const char *before, size_t size, const char *after,
	enum http_state wanted, const char *why)
{
	static const size_t steps[] = {1, 7, 1000, 1000000};

	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		struct http_reader reader;

		CHECK_EQ(feed_long(&reader, limit, before, size, after, steps[i]), wanted);
		if (wanted == HTTP_BAD)
			CHECK(why_says(reader.why, why));
		else
			CHECK_EQ(reader.body.size, wanted == HTTP_DONE ? 0 : size);
		CHECK(reader.body.size <= limit);
		http_reader_free(&reader);
	}
}

static void test_limits(void)
{
	const char *ok = OK "\r\n"; /* 19 bytes */

	check_long(1019, ok, 1000, "", HTTP_MORE, NULL);
	check_long(1019, ok, 1001, "", HTTP_BAD, "too large");
	check_long(10, ok, 0, "", HTTP_BAD, "too large");
	check_long(65536, OK "X: ", 4092, "\r\nContent-Length: 0\r\n\r\n", HTTP_BAD, "overlong");
	check_long(65536, OK "X: ", 4091, "\r\nContent-Length: 0\r\n\r\n", HTTP_DONE, NULL);
	check_long(65536, "HTTP/1.1 200 ", 5000, "", HTTP_BAD, "overlong");
	check_long(65536, CHUNKED "\r\n1;", 5000, "", HTTP_BAD, "overlong");
	check_long(65536, CHUNKED "\r\n0\r\nX: ", 5000, "", HTTP_BAD, "overlong");
	check_long(2000, "HTTP/1.1 100 Continue\r\nX: ", 2000, "", HTTP_BAD, "too large");
}

static void test_headers_and_chunks_count_too(void)
{
	struct http_reader reader;
	enum http_state state = HTTP_MORE;

	http_reader_init(&reader, 1000);
	for (int i = 0; i < 100 && state == HTTP_MORE; i++)
		state = http_reader_feed(&reader, bytes_of("HTTP/1.1 100 Continue\r\n\r\n"));
	CHECK_EQ(state, HTTP_BAD);
	CHECK(why_says(reader.why, "too large"));
	http_reader_free(&reader);

	http_reader_init(&reader, 1000);
	state = http_reader_feed(&reader, bytes_of(CHUNKED "\r\n"));
	for (int i = 0; i < 200 && state == HTTP_MORE; i++)
		state = http_reader_feed(&reader, bytes_of("1\r\nx\r\n"));
	CHECK_EQ(state, HTTP_BAD);
	CHECK(why_says(reader.why, "too large"));
	CHECK(reader.body.size < 200);
	http_reader_free(&reader);
}

int main(void)
{
	test_urls_that_are_good();
	test_urls_that_are_refused();
	test_urls_that_are_long();
	test_the_url_of_a_get();
	test_the_limit_of_a_get();
	test_requests();
	test_conditional_requests();
	test_post();
	test_references();
	test_a_reference_that_is_long();
	test_responses_in_every_division();
	test_connections_that_persist();
	test_headers_that_are_kept();
	test_headers_that_are_not();
	test_a_nul_in_a_header();
	test_limits();
	test_headers_and_chunks_count_too();
	return check_result();
}
