/* SPDX-License-Identifier: MIT */
/* links: aia.c network.c proxy.c address.c http.c freshness.c clock.c log.c file.c bytes.c */
/*
 * The network is a script (network.h); a certificate is a list of URLs, and whatever begins with
 * "issuer" has signed it.
 */
#include "../../fetcher/aia.h"

#include "../../fetcher/certificate.h"
#include "../../fetcher/issuer.h"
#include "check.h"
#include "network.h"

#define NOW ((int64_t)784887151 * 1000)

enum { TIMEOUT = 10000 };

/*
 * Certificates
 */

bool certificate_decode(const struct libcrypto *crypto, struct bytes der, struct certificate *out)
{
	(void)crypto;
	memset(out, 0, sizeof(*out));
	memcpy(out->issuers, der.data, der.size);
	return buffer_append(&out->der, der.data, der.size);
}

void certificate_free(struct certificate *certificate)
{
	buffer_free(&certificate->der);
}

bool issuer_from_content(const struct libcrypto *crypto, struct bytes certificate,
	struct bytes content, int64_t now, struct buffer *out)
{
	(void)crypto;
	(void)certificate;
	CHECK_EQ(now, NOW / 1000);
	return content.size >= 6 && memcmp(content.data, "issuer", 6) == 0 &&
	       buffer_append(out, content.data, content.size);
}

bool issuer_weigh(const struct libcrypto *crypto, struct bytes certificate, struct bytes candidate,
	int64_t now, struct issuer_weight *out)
{
	(void)crypto;
	(void)certificate;
	(void)now;
	out->is_in_time = candidate.size == 6;
	return true;
}

static int no_mark(void)
{
	return 1;
}

/*
 * What a test does
 */

#define FOUND "HTTP/1.1 200 OK\r\n\r\nissuer"
#define EXPIRED "HTTP/1.1 200 OK\r\n\r\nissuer, long ago"
#define OTHER "HTTP/1.1 200 OK\r\n\r\n<html>"

static struct libcrypto crypto;
static struct config config;
static struct fetch_tools tools;

static void set_world(void)
{
	crypto.ERR_set_mark = no_mark;
	crypto.ERR_pop_to_mark = no_mark;
	memset(&config, 0, sizeof(config));
	config.timeout = TIMEOUT;
	tools = (struct fetch_tools){.crypto = &crypto, .config = &config};
}

static enum aia_state seek(const char *urls, struct aia **aia)
{
	struct bytes certificate = {(const unsigned char *)urls, strlen(urls)};

	*aia = aia_start(&tools, certificate);
	return *aia ? aia_step(*aia, 0, 1000, NOW) : AIA_FAILED;
}

static void check_found(const char *urls, const char *at)
{
	struct aia *aia;

	CHECK_EQ(seek(urls, &aia), AIA_FOUND);
	CHECK_STR(aia_url(aia), at);
	CHECK_EQ(aia_issuer(aia).size, 6);
	aia_free(aia);
	CHECK_EQ(exchanges, 0);
}

static void check_failure(const char *urls, const char *why)
{
	struct aia *aia;

	CHECK_EQ(seek(urls, &aia), AIA_FAILED);
	if (!CHECK(strstr(aia_why(aia), why)))
		fprintf(stderr, "  why: \"%s\", wanted: \"%s\"\n", aia_why(aia), why);
	CHECK_EQ(aia_issuer(aia).size, 0);
	aia_free(aia);
	CHECK_EQ(exchanges, 0);
}

static void test_one_url_after_the_other(void)
{
	struct aia *aia;

	set_world();
	CHECK(!aia_start(&tools, (struct bytes){(const unsigned char *)"", 0}));
	SCRIPT(FOUND);
	check_found("http://a.test/ca", "http://a.test/ca");
	CHECK(strncmp(script[0].request, "GET /ca HTTP/1.1\r\n", 18) == 0);
	CHECK(strstr(script[0].request, "Accept: */*\r\n"));
	CHECK_EQ(script[0].deadline, 1000 + TIMEOUT);
	CHECK(!script[0].restricted);

	SCRIPT(STATUS(404), OTHER, EXPIRED, FOUND);
	check_found("ldap:///x http://a.test http://b.test http://c.test http://d.test/",
		"http://d.test/");
	CHECK_EQ(asked, 4);

	SCRIPT(STATUS(404));
	check_failure("http://a.test", "HTTP status 404");
	SCRIPT(OTHER);
	check_failure("http://a.test", "not the certificate that signed");
	SCRIPT(EXPIRED);
	check_failure("http://a.test", "has expired");
	SCRIPT(NULL);
	check_failure("http://a.test", "connection refused");

	SCRIPT(NULL);
	script[0].why = "";
	CHECK_EQ(seek("http://a.test", &aia), AIA_RUNNING);
	aia_free(aia);
	CHECK_EQ(exchanges, 0);
}

static void test_redirects(void)
{
	set_world();
	SCRIPT(REDIRECT(302, "/1"), REDIRECT(301, "http://b.test/2"), REDIRECT(308, "/3"), FOUND);
	check_found("http://a.test/ca", "http://a.test/ca");
	CHECK_STR(script[3].peer, "b.test");
	CHECK(script[3].restricted && script[3].allowed == ADDRESS_PUBLIC);
	CHECK_EQ(script[3].deadline, script[0].deadline);

	SCRIPT(REDIRECT(302, "/1"), REDIRECT(302, "/1"), REDIRECT(302, "/1"), REDIRECT(302, "/1"),
		FOUND);
	check_failure("http://a.test/", "\"/1\" (HTTP status 302) is not followed: it is one too");
	SCRIPT(REDIRECT(302, "https://a.test/"), FOUND);
	check_failure("http://a.test/", "https");
	SCRIPT(STATUS(302), FOUND);
	check_failure("http://a.test/", "no Location");
}

/* Nobody on the network makes a server ask its own machine. */
static void test_redirects_into_the_machine(void)
{
	static const char *const inside[] = {
		REDIRECT(302, "http://127.0.0.1/"),
		REDIRECT(302, "http://[::1]/"),
		REDIRECT(302, "http://localhost/"),
		REDIRECT(302, "http://169.254.169.254/"),
		REDIRECT(302, "http://10.1.2.3/"),
	};

	set_world();
	for (size_t i = 0; i < sizeof(inside) / sizeof(*inside); i++) {
		SCRIPT(inside[i], FOUND);
		check_failure("http://a.test/", "loopback, private or link-local");
		CHECK_EQ(asked, 1);
	}
	/* One that is there itself may, but only among its kind. */
	SCRIPT(inside[0], FOUND);
	script[0].kind = ADDRESS_LOOPBACK;
	check_found("http://127.0.0.1:81/", "http://127.0.0.1:81/");
	CHECK(script[1].restricted && script[1].allowed == ADDRESS_LOOPBACK);
	SCRIPT(inside[3], FOUND);
	script[0].kind = ADDRESS_LOOPBACK;
	check_failure("http://127.0.0.1:81/", "loopback, private or link-local");
}

static void test_proxies(void)
{
	set_world();
	config.http_proxy = "http://u:p@proxy.test:3128";
	config.no_proxy = "b.test";
	SCRIPT(REDIRECT(302, "/1"), FOUND);
	check_found("http://a.test/ca", "http://a.test/ca");
	CHECK_STR(script[0].peer, "proxy.test:3128");
	CHECK(strncmp(script[0].request, "GET http://a.test/ca HTTP/1.1\r\n", 31) == 0);
	CHECK(strstr(script[0].request, "Proxy-Authorization: Basic dTpw\r\n"));
	/* What the name means is the proxy's to judge. */
	CHECK(!script[1].restricted);
	SCRIPT(REDIRECT(302, "http://127.0.0.1/"), FOUND);
	check_failure("http://a.test/ca", "loopback");
	SCRIPT(STATUS(503));
	check_failure("http://a.test/ca", "the proxy proxy.test:3128: HTTP status 503");
	SCRIPT(FOUND);
	check_found("http://b.test/ca", "http://b.test/ca");
	CHECK_STR(script[0].peer, "b.test");
	config.http_proxy = "https://proxy.test";
	SCRIPT(FOUND);
	check_failure("http://a.test/ca", "");
	CHECK_EQ(asked, 0);
}

static void test_a_proxy_that_is_passed_by_when_it_is_down(void)
{
	set_world();
	config.http_proxy = "http://proxy.test direct";
	SCRIPT(NULL);
	script[1].answer = REDIRECT(302, "/there");
	script[2].answer = STATUS(404);
	script[3].answer = FOUND;
	check_found("http://a.test/ca http://b.test/ca", "http://b.test/ca");
	CHECK_STR(script[0].peer, "proxy.test");
	CHECK_STR(script[1].peer, "a.test");
	CHECK(strncmp(script[1].request, "GET /ca HTTP/1.1\r\n", 18) == 0);
	/* Whose name means what is ours to judge again. */
	CHECK(script[2].restricted);
	CHECK_STR(script[3].peer, "b.test");
	/* Nobody else need find out, neither a download nor a fetch. */
	CHECK_EQ(tools.memory.proxy_back, 31000);
	SCRIPT(FOUND);
	check_found("http://c.test/ca", "http://c.test/ca");
	CHECK_STR(script[0].peer, "c.test");

	/* It is down, and so is the place. */
	tools.memory.proxy_back = 0;
	SCRIPT(NULL);
	check_failure("http://a.test/ca", "connection refused");
	CHECK_EQ(asked, 2);
	/* A proxy that answers is not passed by. */
	tools.memory.proxy_back = 0;
	SCRIPT(STATUS(502), FOUND);
	check_failure("http://a.test/ca", "the proxy proxy.test: HTTP status 502");
	CHECK_EQ(asked, 1);
	/* And none without the word. */
	config.http_proxy = "http://proxy.test";
	SCRIPT(NULL);
	check_failure("http://a.test/ca", "the proxy proxy.test: connection refused");
	CHECK_EQ(asked, 1);
}

int main(void)
{
	test_one_url_after_the_other();
	test_redirects();
	test_redirects_into_the_machine();
	test_proxies();
	test_a_proxy_that_is_passed_by_when_it_is_down();
	return check_result();
}
