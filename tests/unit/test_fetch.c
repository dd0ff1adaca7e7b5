/* SPDX-License-Identifier: MIT */
/* links: fetch.c network.c proxy.c address.c http.c freshness.c clock.c log.c file.c bytes.c */
/*
 * The network is a script (network.h), and the judge believes whoever says "good".
 */
#include "../../fetcher/fetch.h"

#include "check.h"
#include "network.h"

#define NOW ((int64_t)784887151 * 1000) /* Tue, 15 Nov 1994 08:12:31 GMT */

enum { TIMEOUT = 10000 };

/*
 * The judge
 */

static size_t request_size;

bool ocsp_request(const struct libcrypto *crypto, struct bytes certificate, struct bytes issuer,
	struct buffer *out)
{
	(void)crypto;
	(void)certificate;
	(void)issuer;
	for (size_t i = 0; i < request_size; i++)
		if (!buffer_append(out, "\0", 1))
			return false;
	return true;
}

struct judgement ocsp_judge(const struct libcrypto *crypto, struct bytes response,
	struct bytes certificate, struct bytes issuer, int64_t now)
{
	bool good = response.size == 4 && memcmp(response.data, "good", 4) == 0;
	bool malformed = response.size == 9 && memcmp(response.data, "malformed", 9) == 0;

	(void)crypto;
	(void)certificate;
	(void)issuer;
	CHECK_EQ(now, NOW / 1000);
	if (malformed)
		return (struct judgement){.verdict = VERDICT_MALFORMED_REQUEST};
	return (struct judgement){.verdict = good ? VERDICT_GOOD : VERDICT_TRY_LATER};
}

const char *verdict_text(enum verdict verdict)
{
	if (verdict == VERDICT_MALFORMED_REQUEST)
		return "the responder says malformedRequest";
	return verdict == VERDICT_TRY_LATER ? "the responder says tryLater" : "?";
}

/*
 * What a test does
 */

#define GOOD "HTTP/1.1 200 OK\r\n\r\ngood"

static struct config config;
static struct fetch_tools tools;

static void set_world(void)
{
	memset(&config, 0, sizeof(config));
	config.timeout = TIMEOUT;
	memset(&tools, 0, sizeof(tools));
	tools.config = &config;
	request_size = 3; /* AAAA */
}

static enum fetch_state ask_if_changed(
	const char *responders, const struct fetch_validators *validators, struct fetch **fetch)
{
	struct bytes none = {NULL, 0};

	*fetch = fetch_start(&tools, none, none, responders, validators);
	return fetch_step(*fetch, 0, 1000, NOW);
}

static enum fetch_state ask(const char *responders, struct fetch **fetch)
{
	return ask_if_changed(responders, NULL, fetch);
}

static void check_state(const char *responders, enum fetch_state wanted)
{
	struct fetch *fetch;

	CHECK_EQ(ask(responders, &fetch), wanted);
	fetch_free(fetch);
	CHECK_EQ(exchanges, 0);
}

static void check_failure(const char *responders, const char *why)
{
	struct fetch *fetch;

	CHECK_EQ(ask(responders, &fetch), FETCH_FAILED);
	if (!CHECK(strstr(fetch_why(fetch), why)))
		fprintf(stderr, "  why: \"%s\", wanted: \"%s\"\n", fetch_why(fetch), why);
	fetch_free(fetch);
	CHECK_EQ(exchanges, 0);
}

/* The first line of a request is this one, for this peer. */
static void check_asked(size_t i, const char *peer, const char *line)
{
	char *end = strstr(script[i].request, "\r\n");

	CHECK(i < asked);
	CHECK_STR(script[i].peer, peer);
	CHECK(end && strlen(line) == (size_t)(end - script[i].request));
	if (!CHECK(strncmp(script[i].request, line, strlen(line)) == 0))
		fprintf(stderr, "  asked \"%.60s\", wanted \"%s\"\n", script[i].request, line);
}

/*
 * Responders
 */

static void test_one_after_the_other(void)
{
	struct fetch *fetch;

	set_world();
	SCRIPT(GOOD);
	CHECK_EQ(ask("http://a.test/ca", &fetch), FETCH_ANSWERED);
	check_asked(0, "a.test", "GET /ca/AAAA HTTP/1.1");
	CHECK_EQ(script[0].deadline, 1000 + TIMEOUT);
	CHECK(!script[0].restricted);
	CHECK_EQ(fetch_response(fetch).size, 4);
	CHECK_STR(fetch_responder(fetch), "http://a.test/ca");
	fetch_free(fetch);

	SCRIPT(STATUS(500), "HTTP/1.1 200 OK\r\n\r\nbad", GOOD);
	CHECK_EQ(ask("http://a.test http://b.test https://c.test http://d.test/", &fetch),
		FETCH_ANSWERED);
	CHECK_EQ(asked, 3);
	CHECK_STR(fetch_responder(fetch), "http://d.test/");
	fetch_free(fetch);

	check_failure("", "names no responder");
	check_failure("https://a.test/", "https is not possible");
	SCRIPT(STATUS(500));
	check_failure("http://a.test/", "HTTP status 500");
	SCRIPT("HTTP/1.1 200 OK\r\n\r\nbad");
	check_failure("http://a.test/", "tryLater");
	SCRIPT(STATUS(304)); /* to a request without a condition */
	check_failure("http://a.test/", "HTTP status 304");
	SCRIPT(STATUS(303));
	check_failure("http://a.test/", "HTTP status 303");
}

static void test_polling(void)
{
	struct fetch *fetch;
	int timeout = -1;

	set_world();
	SCRIPT(NULL);
	script[0].why = "";
	CHECK_EQ(ask("http://a.test", &fetch), FETCH_RUNNING);
	fetch_poll(fetch, 1000, &timeout);
	CHECK_EQ(timeout, 7);
	fetch_free(fetch);
	CHECK_EQ(exchanges, 0);
}

/* All that one fetch asks goes over the connections that there are, and the server is told. */
static void test_kept_connections(void)
{
	struct connections *connections = (struct connections *)&config; /* any address */

	set_world();
	SCRIPT(REDIRECT(302, "http://b.test/x"), STATUS(405), GOOD);
	check_state("http://a.test/", FETCH_ANSWERED);
	for (size_t i = 0; i < 3; i++) {
		CHECK(strstr(script[i].request, "\r\nConnection: close\r\n"));
		CHECK(!script[i].connections);
	}
	set_world();
	tools.connections = connections;
	SCRIPT(REDIRECT(302, "http://b.test/x"), STATUS(405), GOOD);
	check_state("http://a.test/", FETCH_ANSWERED);
	for (size_t i = 0; i < 3; i++) {
		CHECK(!strstr(script[i].request, "Connection:"));
		CHECK(script[i].connections == connections);
	}
}

/*
 * Redirects
 */

static void test_redirects_of_a_get(void)
{
	static const char *const answers[] = {
		REDIRECT(301, "http://b.test/x/AAAA"),
		REDIRECT(302, "http://b.test/x/AAAA"),
		REDIRECT(307, "http://b.test/x/AAAA"),
		REDIRECT(308, "//b.test/x/AAAA"),
	};

	for (size_t i = 0; i < sizeof(answers) / sizeof(*answers); i++) {
		set_world();
		SCRIPT(answers[i], GOOD);
		check_state("http://a.test/ca", FETCH_ANSWERED);
		CHECK_EQ(asked, 2);
		check_asked(1, "b.test", "GET /x/AAAA HTTP/1.1");
		CHECK_EQ(script[1].deadline, script[0].deadline);
	}
}

static void test_redirects_of_a_post(void)
{
	static const char *const answers[] = {
		REDIRECT(301, "/b?x"),
		REDIRECT(302, "/b?x"),
		REDIRECT(307, "/b?x"),
		REDIRECT(308, "/b?x"),
	};

	for (size_t i = 0; i < sizeof(answers) / sizeof(*answers); i++) {
		set_world();
		SCRIPT(answers[i], GOOD);
		request_size = 400;
		check_state("http://a.test/ca", FETCH_ANSWERED);
		check_asked(0, "a.test", "POST /ca HTTP/1.1");
		check_asked(1, "a.test", "POST /b?x HTTP/1.1");
		CHECK(strstr(script[1].request, "Content-Length: 400\r\n\r\n"));
	}
}

static void test_redirects_that_are_too_many(void)
{
	set_world();
	SCRIPT(REDIRECT(302, "/1"), REDIRECT(302, "/2"), REDIRECT(302, "/3"), GOOD);
	check_state("http://a.test/", FETCH_ANSWERED);
	SCRIPT(REDIRECT(302, "/1"), REDIRECT(302, "/1"), REDIRECT(302, "/1"), REDIRECT(302, "/1"),
		GOOD);
	check_failure("http://a.test/", "\"/1\" (HTTP status 302) is not followed: it is one too");
	CHECK_EQ(asked, 4);
}

static void test_redirects_to_nowhere(void)
{
	static const char *const cases[][2] = {
		{REDIRECT(302, "https://a.test/"), "https is not possible"},
		{REDIRECT(302, "file:///etc/passwd"), "not an http URL"},
		{REDIRECT(302, "ftp://a.test/"), "not an http URL"},
		{REDIRECT(302, "http://u:p@a.test/"), "user name"},
		{REDIRECT(302, ""), "no Location that can be used"},
		{STATUS(302), "no Location that can be used"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		set_world();
		SCRIPT(cases[i][0], GOOD);
		check_failure("http://a.test/", cases[i][1]);
		CHECK_EQ(asked, 1);
		/* But the next responder is asked. */
		SCRIPT(cases[i][0], GOOD);
		check_state("http://a.test/ http://b.test/", FETCH_ANSWERED);
	}
}

/* From a host of the first kind to what is named, by an address or a name. */
static void test_redirects_into_the_network(void)
{
	static const struct {
		const char *answer;
		enum address_kind home;
		bool followed;
	} cases[] = {
		{REDIRECT(302, "http://127.0.0.1/"), ADDRESS_PUBLIC, false},
		{REDIRECT(302, "http://0.0.0.0/"), ADDRESS_PUBLIC, false},
		{REDIRECT(302, "http://[::1]/"), ADDRESS_PUBLIC, false},
		{REDIRECT(302, "http://[::ffff:10.0.0.1]/"), ADDRESS_PUBLIC, false},
		{REDIRECT(302, "http://localhost/"), ADDRESS_PUBLIC, false},
		{REDIRECT(302, "http://x.LocalHost./"), ADDRESS_PUBLIC, false},
		{REDIRECT(302, "http://10.0.0.1/"), ADDRESS_PUBLIC, false},
		{REDIRECT(302, "http://169.254.169.254/"), ADDRESS_PUBLIC, false},
		{REDIRECT(302, "http://notlocalhost/"), ADDRESS_PUBLIC, true},
		{REDIRECT(302, "http://192.0.2.1/"), ADDRESS_PUBLIC, true},
		{REDIRECT(302, "http://192.0.2.1/"), ADDRESS_PRIVATE, true},
		{REDIRECT(302, "http://192.168.0.1/"), ADDRESS_PRIVATE, true},
		{REDIRECT(302, "http://127.0.0.1/"), ADDRESS_PRIVATE, false},
		{REDIRECT(302, "http://169.254.169.254/"), ADDRESS_PRIVATE, false},
		{REDIRECT(302, "http://[::1]/"), ADDRESS_LOOPBACK, true},
		{REDIRECT(302, "http://10.0.0.1/"), ADDRESS_LOOPBACK, false},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		set_world();
		SCRIPT(cases[i].answer, GOOD);
		script[0].kind = cases[i].home;
		if (!cases[i].followed)
			check_failure("http://a.test/", "loopback, private or link-local");
		else
			check_state("http://a.test/", FETCH_ANSWERED);
		if (!CHECK_EQ(asked, cases[i].followed ? 2 : 1))
			fprintf(stderr, "  %s\n", cases[i].answer);
		/* A name is judged by what it means. */
		CHECK(!cases[i].followed ||
			(script[1].restricted && script[1].allowed == cases[i].home));
	}
}

/* What counts is where the responder's own URL led, not the stop before. */
static void test_redirects_by_a_detour(void)
{
	set_world();
	SCRIPT(REDIRECT(302, "http://b.test/"), REDIRECT(302, "http://10.0.0.1/"), GOOD);
	script[1].kind = ADDRESS_PRIVATE;
	check_failure("http://a.test/", "loopback, private or link-local");
	SCRIPT(REDIRECT(302, "http://b.test/"), REDIRECT(302, "http://10.0.0.1/"), GOOD);
	script[0].kind = ADDRESS_PRIVATE;
	check_state("http://a.test/", FETCH_ANSWERED);
}

/*
 * GET and POST
 */

static void test_a_responder_that_refuses_get(void)
{
	static const char *const answers[] = {
		STATUS(400), STATUS(404), STATUS(405), STATUS(414), STATUS(501)};

	for (size_t i = 0; i < sizeof(answers) / sizeof(*answers); i++) {
		set_world();
		SCRIPT(answers[i], GOOD, GOOD, GOOD);
		check_state("http://a.test/ca", FETCH_ANSWERED);
		check_asked(0, "a.test", "GET /ca/AAAA HTTP/1.1");
		check_asked(1, "a.test", "POST /ca HTTP/1.1");
		CHECK_EQ(script[1].deadline, script[0].deadline);
		/* It is remembered, for this one. */
		check_state("http://a.test/ca", FETCH_ANSWERED);
		check_asked(2, "a.test", "POST /ca HTTP/1.1");
		check_state("http://a.test/", FETCH_ANSWERED);
		check_asked(3, "a.test", "GET /AAAA HTTP/1.1");
	}
}

#define MALFORMED "HTTP/1.1 200 OK\r\n\r\nmalformed"

static void test_a_responder_that_cannot_read_a_path(void)
{
	set_world();
	SCRIPT(MALFORMED, GOOD, GOOD, MALFORMED, MALFORMED, MALFORMED);
	check_state("http://a.test/ca", FETCH_ANSWERED);
	check_asked(0, "a.test", "GET /ca/AAAA HTTP/1.1");
	check_asked(1, "a.test", "POST /ca HTTP/1.1");
	check_state("http://a.test/ca", FETCH_ANSWERED);
	check_asked(2, "a.test", "POST /ca HTTP/1.1");
	/* It may read paths again; and if it reads neither, it is left at that. */
	check_failure("http://a.test/ca", "malformedRequest");
	check_asked(3, "a.test", "POST /ca HTTP/1.1");
	check_failure("http://a.test/ca", "malformedRequest");
	check_asked(4, "a.test", "GET /ca/AAAA HTTP/1.1");
	check_asked(5, "a.test", "POST /ca HTTP/1.1");
	CHECK_EQ(asked, 6);
}

static void test_a_responder_that_refuses_all(void)
{
	set_world();
	SCRIPT(STATUS(404), STATUS(403), STATUS(404), STATUS(404));
	check_failure("http://a.test/", "HTTP status 403 (POST, after HTTP status 404 to GET)");
	check_failure("http://a.test/", "HTTP status 404 (POST, after HTTP status 404 to GET)");
	check_asked(2, "a.test", "GET /AAAA HTTP/1.1");
	SCRIPT(STATUS(403));
	check_failure("http://a.test/", "HTTP status 403");
	SCRIPT(STATUS(503));
	check_failure("http://a.test/", "HTTP status 503");
	CHECK_EQ(asked, 1);
	SCRIPT(STATUS(405));
	request_size = 400;
	check_failure("http://a.test/", "HTTP status 405");
	CHECK_EQ(asked, 1);
}

static void test_a_responder_that_changes_its_mind(void)
{
	set_world();
	SCRIPT(STATUS(405), GOOD, STATUS(405), GOOD);
	check_state("http://a.test/", FETCH_ANSWERED);
	check_failure("http://a.test/", "HTTP status 405");
	check_state("http://a.test/", FETCH_ANSWERED);
	check_asked(3, "a.test", "GET /AAAA HTTP/1.1");
}

static void test_that_memory_is_bounded(void)
{
	char responder[32];

	set_world();
	for (int i = 0; i < 65; i++) {
		SCRIPT(STATUS(405), GOOD);
		snprintf(responder, sizeof(responder), "http://a%d.test/", i);
		check_state(responder, FETCH_ANSWERED);
	}
	SCRIPT(GOOD, GOOD);
	check_state("http://a64.test/", FETCH_ANSWERED);
	check_asked(0, "a64.test", "POST / HTTP/1.1");
	check_state("http://a0.test/", FETCH_ANSWERED);
	check_asked(1, "a0.test", "GET /AAAA HTTP/1.1");
}

static void test_a_redirect_to_what_refuses_get(void)
{
	set_world();
	SCRIPT(REDIRECT(302, "http://b.test/AAAA"), STATUS(405), REDIRECT(307, "http://b.test/"),
		GOOD);
	check_state("http://a.test/", FETCH_ANSWERED);
	check_asked(2, "a.test", "POST / HTTP/1.1");
	check_asked(3, "b.test", "POST / HTTP/1.1");
}

/*
 * Caching
 */

#define CACHED(status, tag)                            \
	"HTTP/1.1 " status "\r\nETag: " tag            \
	"\r\nCache-Control: max-age=60\r\nAge: 10\r\n" \
	"Last-Modified: Tue, 15 Nov 1994 08:00:00 GMT\r\n\r\n"

static void test_conditional_requests(void)
{
	struct fetch_validators validators;
	struct fetch *fetch;

	set_world();
	SCRIPT(CACHED("200 OK", "\"1\"") "good", CACHED("304 Not Modified", "\"2\""), STATUS(304),
		GOOD, GOOD);
	CHECK_EQ(ask("http://a.test/", &fetch), FETCH_ANSWERED);
	CHECK(!strstr(script[0].request, "If-"));
	CHECK_EQ(fetch_fresh_until(fetch), NOW + 50000);
	validators = *fetch_validators(fetch);
	CHECK_STR(validators.etag, "\"1\"");
	fetch_free(fetch);

	CHECK_EQ(ask_if_changed("http://a.test/", &validators, &fetch), FETCH_UNCHANGED);
	CHECK(strstr(script[1].request, "\r\nIf-None-Match: \"1\"\r\n"));
	CHECK(strstr(
		script[1].request, "\r\nIf-Modified-Since: Tue, 15 Nov 1994 08:00:00 GMT\r\n"));
	CHECK_EQ(fetch_fresh_until(fetch), NOW + 50000);
	validators = *fetch_validators(fetch);
	CHECK_STR(validators.etag, "\"2\"");
	fetch_free(fetch);

	/* A 304 that says nothing more. */
	CHECK_EQ(ask_if_changed("http://a.test/", &validators, &fetch), FETCH_UNCHANGED);
	CHECK_EQ(fetch_fresh_until(fetch), 0);
	CHECK_STR(fetch_validators(fetch)->etag, "\"2\"");
	fetch_free(fetch);

	/* It has changed, and has no validators any more. */
	CHECK_EQ(ask_if_changed("http://a.test/", &validators, &fetch), FETCH_ANSWERED);
	CHECK_EQ(fetch_validators(fetch)->resource, 0);
	fetch_free(fetch);

	/* Another resource's validators are nothing to this one. */
	CHECK_EQ(ask_if_changed("http://b.test/", &validators, &fetch), FETCH_ANSWERED);
	CHECK(!strstr(script[4].request, "If-"));
	fetch_free(fetch);
}

static void test_conditions_and_redirects(void)
{
	struct fetch_validators validators;
	struct fetch *fetch;

	set_world();
	SCRIPT(REDIRECT(302, "http://b.test/x"), CACHED("200 OK", "\"1\"") "good",
		REDIRECT(302, "http://b.test/x"), STATUS(304));
	CHECK_EQ(ask("http://a.test/", &fetch), FETCH_ANSWERED);
	validators = *fetch_validators(fetch);
	fetch_free(fetch);
	CHECK_EQ(ask_if_changed("http://a.test/", &validators, &fetch), FETCH_UNCHANGED);
	CHECK(!strstr(script[2].request, "If-"));
	CHECK(strstr(script[3].request, "If-None-Match"));
	fetch_free(fetch);
}

/* Caches keep no answer to a POST. */
static void test_that_a_post_is_not_cached(void)
{
	struct fetch *fetch;

	set_world();
	SCRIPT(CACHED("200 OK", "\"1\"") "good");
	request_size = 400;
	CHECK_EQ(ask("http://a.test/", &fetch), FETCH_ANSWERED);
	CHECK_EQ(fetch_fresh_until(fetch), 0);
	CHECK_EQ(fetch_validators(fetch)->resource, 0);
	fetch_free(fetch);
}

/*
 * Retry-After
 */

#define BUSY(seconds) "HTTP/1.1 503 X\r\nRetry-After: " #seconds "\r\nContent-Length: 0\r\n\r\n"

static void check_retry_after(const char *responders, int64_t seconds)
{
	struct fetch *fetch;

	CHECK_EQ(ask(responders, &fetch), FETCH_FAILED);
	CHECK_EQ(fetch_retry_after(fetch), seconds * 1000);
	fetch_free(fetch);
}

static void test_retry_after(void)
{
	set_world();
	SCRIPT(BUSY(120));
	check_retry_after("http://a.test/", 120);
	SCRIPT(BUSY(99999));
	check_retry_after("http://a.test/", 3600);
	SCRIPT("HTTP/1.1 200 OK\r\nRetry-After: 30\r\n\r\nbad");
	check_retry_after("http://a.test/", 30);
	/* Only if all that were asked say so: another may be back before. */
	SCRIPT(BUSY(120), BUSY(60));
	check_retry_after("http://a.test/ http://b.test/", 60);
	SCRIPT(BUSY(120), BUSY(60));
	check_retry_after("https://c.test/ http://a.test/ http://b.test/", 60);
	SCRIPT(BUSY(120), STATUS(500));
	check_retry_after("http://a.test/ http://b.test/", 0);
	SCRIPT(BUSY(120));
	check_retry_after("http://a.test/ http://b.test/", 0);
	SCRIPT(REDIRECT(302, "https://b.test/"));
	check_retry_after("http://a.test/", 0);
	check_retry_after("", 0);
}

/*
 * Whose fault it is
 */

static void check_fault(enum fetch_fault wanted)
{
	struct fetch *fetch;

	CHECK_EQ(ask("http://a.test/", &fetch), FETCH_FAILED);
	CHECK_EQ(fetch_fault(fetch), wanted);
	fetch_free(fetch);
}

static void test_faults(void)
{
	set_world();
	SCRIPT(STATUS(403));
	check_fault(FETCH_FAULT_ANSWER);
	SCRIPT("HTTP/1.1 200 OK\r\n\r\nbad");
	check_fault(FETCH_FAULT_ANSWER);
	SCRIPT(STATUS(500));
	check_fault(FETCH_FAULT_RESPONDER);
	SCRIPT(STATUS(429));
	check_fault(FETCH_FAULT_RESPONDER);
	SCRIPT("HTTP/1.1 404 X\r\nRetry-After: 9\r\nContent-Length: 0\r\n\r\n");
	check_fault(FETCH_FAULT_RESPONDER);
	/* No connection, or no byte of an answer. */
	SCRIPT(NULL);
	check_fault(FETCH_FAULT_RESPONDER);
	/* It ends, or time does, in the middle. */
	SCRIPT("HTTP/1.1 200 OK\r\n");
	script[0].why = "the connection broke";
	check_fault(FETCH_FAULT_ANSWER);
	SCRIPT("S");
	script[0].why = "this is no HTTP";
	check_fault(FETCH_FAULT_ANSWER);
}

/*
 * Proxies
 */

static void test_a_proxy(void)
{
	set_world();
	config.http_proxy = "http://user:secret@proxy.test:3128/";
	config.no_proxy = "b.test";
	SCRIPT(GOOD, GOOD);
	check_state("http://a.test/", FETCH_ANSWERED);
	check_asked(0, "proxy.test:3128", "GET http://a.test/AAAA HTTP/1.1");
	CHECK(strstr(script[0].request, "\r\nProxy-Authorization: Basic dXNlcjpzZWNyZXQ=\r\n"));
	check_state("http://b.test/", FETCH_ANSWERED);
	check_asked(1, "b.test", "GET /AAAA HTTP/1.1");
	CHECK(!strstr(script[1].request, "Proxy-"));
}

static void test_words_about_a_proxy(void)
{
	static const struct {
		const char *proxy, *answer, *why;
	} cases[] = {
		{"http://p.test:81", STATUS(407),
			"the proxy p.test:81: it wants a user name and a password, HTTP status "
			"407"},
		{"http://u:secret@p.test:81", STATUS(407),
			"the proxy p.test:81: it does not accept our user name and password, HTTP "
			"status 407"},
		{"http://p.test", STATUS(403), "the proxy p.test: it, or the responder behind"},
		{"http://p.test", STATUS(502), "the proxy p.test: it has no answer of the"},
		{"http://p.test", STATUS(504), "the proxy p.test: it has no answer of the"},
		{"http://p.test", STATUS(500), "the proxy p.test: HTTP status 500"},
		{"http://u:secret@p.test", NULL, "the proxy p.test: connection refused"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		set_world();
		config.http_proxy = cases[i].proxy;
		SCRIPT(cases[i].answer, NULL);
		check_failure("http://a.test/", cases[i].why);
		/* Nobody is asked behind its back. */
		CHECK_EQ(asked, 1);
	}
	set_world();
	SCRIPT(STATUS(407));
	check_failure("http://a.test/", "HTTP status 407");
}

static void test_redirects_through_a_proxy(void)
{
	set_world();
	config.http_proxy = "http://127.0.0.1:3128/";
	config.no_proxy = "direct.test";
	SCRIPT(REDIRECT(302, "http://b.test/x"), GOOD);
	script[0].kind = script[1].kind = ADDRESS_LOOPBACK;
	check_state("http://a.test/", FETCH_ANSWERED);
	check_asked(1, "127.0.0.1:3128", "GET http://b.test/x HTTP/1.1");
	CHECK(!script[1].restricted);
	/* The proxy's own place is not the responder's. */
	SCRIPT(REDIRECT(302, "http://127.0.0.1/x"), GOOD);
	script[0].kind = ADDRESS_LOOPBACK;
	check_failure("http://a.test/", "loopback, private or link-local");
	SCRIPT(REDIRECT(302, "http://10.0.0.2/x"), GOOD);
	script[0].kind = ADDRESS_LOOPBACK;
	check_state("http://10.0.0.1/", FETCH_ANSWERED);
	SCRIPT(REDIRECT(302, "http://direct.test/x"), GOOD);
	script[0].kind = ADDRESS_LOOPBACK;
	check_state("http://a.test/", FETCH_ANSWERED);
	check_asked(1, "direct.test", "GET /x HTTP/1.1");
	CHECK(script[1].restricted && script[1].allowed == ADDRESS_PUBLIC);
}

int main(void)
{
	test_one_after_the_other();
	test_polling();
	test_kept_connections();
	test_redirects_of_a_get();
	test_redirects_of_a_post();
	test_redirects_that_are_too_many();
	test_redirects_to_nowhere();
	test_redirects_into_the_network();
	test_redirects_by_a_detour();
	test_a_responder_that_refuses_get();
	test_a_responder_that_cannot_read_a_path();
	test_a_responder_that_refuses_all();
	test_a_responder_that_changes_its_mind();
	test_that_memory_is_bounded();
	test_a_redirect_to_what_refuses_get();
	test_conditional_requests();
	test_conditions_and_redirects();
	test_that_a_post_is_not_cached();
	test_retry_after();
	test_faults();
	test_a_proxy();
	test_words_about_a_proxy();
	test_redirects_through_a_proxy();
	return check_result();
}
