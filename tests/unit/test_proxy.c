/* SPDX-License-Identifier: MIT */
/* links: proxy.c address.c http.c freshness.c clock.c bytes.c */
#include "../../fetcher/proxy.h"

#include "check.h"

#include <stdlib.h>

static void test_urls_that_are_good(void)
{
	static const struct {
		const char *text, *host, *port, *credentials;
	} good[] = {
		{"http://proxy.test", "proxy.test", "80", ""},
		{"http://proxy.test:3128/", "proxy.test", "3128", ""},
		{"HTTP://u:p@proxy.test:3128/", "proxy.test", "3128", "u:p"},
		{"http://u@proxy.test", "proxy.test", "80", "u:"},
		{"http://u:@proxy.test", "proxy.test", "80", "u:"},
		{"http://@proxy.test", "proxy.test", "80", ""},
		{"http://u:p@x@proxy.test/", "proxy.test", "80", "u:p@x"},
		{"http://u:p:q@proxy.test/", "proxy.test", "80", "u:p:q"},
		{"http://u%40d:p%3a%2F%25@[::1]:81", "::1", "81", "u@d:p:/%"},
		{"http://u:%c3%a4@proxy.test/", "proxy.test", "80", "u:\xc3\xa4"},
		{"http://proxy.test/path@home", "proxy.test", "80", ""},
		/* As curl and many an /etc/environment have it. */
		{"proxy.test", "proxy.test", "80", ""},
		{"proxy.test:3128/", "proxy.test", "3128", ""},
		{"[::1]:3128", "::1", "3128", ""},
		{"u:p@x@proxy.test:3128", "proxy.test", "3128", "u:p@x"},
	};

	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
		struct proxy proxy;

		CHECK_STR(proxy_parse(good[i].text, &proxy), NULL);
		CHECK_STR(proxy.url.host, good[i].host);
		CHECK_STR(proxy.url.port, good[i].port);
		CHECK_STR(proxy.credentials, good[i].credentials);
	}
}

static void test_urls_that_are_refused(void)
{
	static const char *const bad[][2] = {
		{"ftp://proxy.test:3128", "not an http URL"},
		{"u:p@:3128", "no host"},
		{":3128", "no host"},
		{"", "no host"},
		{"/proxy", "no host"},
		{"proxy.test:port", "not a number"},
		{"https://u:p@proxy.test/", "https is not possible"},
		{"socks5://proxy.test/", "not an http URL"},
		{"http://u:p%@proxy.test/", "encodes nothing"},
		{"http://u:p%4@proxy.test/", "encodes nothing"},
		{"http://u:p%4g@proxy.test/", "encodes nothing"},
		{"http://u:p%00@proxy.test/", "control character"},
		{"http://u:p%0d%0aX:y@proxy.test/", "control character"},
		{"http://u:p@", "no host"},
		{"http://u:p@:80/", "no host"},
		{"http://u:p@a b/", "direct"},
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		struct proxy proxy;
		const char *why = proxy_parse(bad[i][0], &proxy);

		if (!CHECK(why && strstr(why, bad[i][1])))
			fprintf(stderr, "  %s: %s\n", bad[i][0], why ? why : "(null)");
	}
}

static void test_credentials_that_are_long(void)
{
	char text[1024] = "http://";
	struct proxy proxy;

	memset(text + 7, 'u', 254);
	strcpy(text + 7 + 254, "@proxy.test");
	CHECK_STR(proxy_parse(text, &proxy), NULL);
	CHECK_EQ(strlen(proxy.credentials), 255);
	memset(text + 7, 'u', 255);
	strcpy(text + 7 + 255, "@proxy.test");
	CHECK(strstr(proxy_parse(text, &proxy), "too long"));
	memset(text + 7, 'h', 600);
	memcpy(text + 7, "u@", 2);
	text[607] = '\0';
	CHECK(strstr(proxy_parse(text, &proxy), "host is too long"));
}

static void test_no_proxy(void)
{
	static const struct {
		const char *list, *url;
		bool excluded;
	} cases[] = {
		{NULL, "http://a.test/", false},
		{"", "http://a.test/", false},
		{" , ,", "http://a.test/", false},
		{"*", "http://a.test/", true},
		{"b.test, *", "http://a.test/", true},
		/* Names. */
		{"a.test", "http://a.test/", true},
		{"A.Test", "http://a.tEST/", true},
		{"a.test.", "http://a.test/", true},
		{"a.test", "http://a.test./", true},
		{"test", "http://a.test/", true},
		{".test", "http://a.test/", true},
		{"*.test", "http://a.test/", true},
		{".a.test", "http://a.test/", true},
		{"est", "http://a.test/", false},
		{"b.a.test", "http://a.test/", false},
		{"*a.test", "http://a.test/", false},
		{"b.test\ta.test", "http://a.test/", true},
		{"b.test,a.test", "http://a.test/", true},
		{"b.test a.test c.test", "http://a.test/", true},
		{".", "http://a.test/", false},
		{"*.", "http://a.test/", false},
		/* Ports. */
		{"a.test:80", "http://a.test/", true},
		{"a.test:8080", "http://a.test/", false},
		{"a.test:8080", "http://a.test:8080/", true},
		{".test:8080", "http://a.test:8080/", true},
		{"a.test:", "http://a.test/", false},
		{"10.0.0.1:81", "http://10.0.0.1:81/", true},
		{"10.0.0.1:81", "http://10.0.0.1/", false},
		{"[::1]:81", "http://[::1]:81/", true},
		{"[::1]:81", "http://[::1]/", false},
		/* Addresses and networks. */
		{"10.0.0.1", "http://10.0.0.1/", true},
		{"10.0.0.1", "http://10.0.0.10/", false},
		{"0.0.1", "http://10.0.0.1/", false},
		{"10.0.0.0/8", "http://10.9.8.7/", true},
		{"10.0.0.0/8", "http://11.9.8.7/", false},
		{"10.0.0.0/8", "http://a.test/", false},
		{"::1", "http://[::1]/", true},
		{"0:0::1", "http://[::1]/", true},
		{"[::1]", "http://[::1]:81/", true},
		{"2001:db8::/32", "http://[2001:db8:1::1]/", true},
		{"2001:db8::/32", "http://[2001:db9:1::1]/", false},
		{"[", "http://[::1]/", false},
		{"[]", "http://[::1]/", false},
		{":", "http://[::1]/", false},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct url url;

		CHECK_STR(url_parse(cases[i].url, &url), NULL);
		if (!CHECK_EQ(proxy_is_excluded(cases[i].list, &url), cases[i].excluded))
			fprintf(stderr, "  %s in \"%s\"\n", cases[i].url, cases[i].list);
	}
}

static void test_an_entry_that_is_long(void)
{
	char list[1024];
	struct url url;

	memset(list, 'x', 1000);
	strcpy(list + 1000, ",a.test");
	CHECK_STR(url_parse("http://a.test/", &url), NULL);
	CHECK(proxy_is_excluded(list, &url));
}

static void test_direct(void)
{
	struct proxy proxy;

	CHECK_STR(proxy_parse("http://cache.example:3128 direct", &proxy), NULL);
	CHECK_STR(proxy.url.host, "cache.example");
	CHECK_STR(proxy.url.port, "3128");
	CHECK(proxy_may_be_passed_by("http://cache.example:3128 direct"));
	CHECK(proxy_may_be_passed_by("cache.example  direct"));
	CHECK(!proxy_may_be_passed_by("http://cache.example:3128"));
	CHECK(!proxy_may_be_passed_by("http://direct"));
	CHECK(strstr(proxy_parse("http://cache.example indirect", &proxy), "direct"));
	CHECK(strstr(proxy_parse("http://cache.example direct off", &proxy), "direct"));
}

static void test_the_way_past_a_proxy(void)
{
	static const char proxy[] = "http://cache.example direct";
	struct proxy_way way = {0}, other = {0}, own = {0};
	int64_t back = 0;
	struct url url;

	CHECK_STR(url_parse("http://a.test/", &url), NULL);
	CHECK_STR(proxy_choose(&way, NULL, NULL, &url, back, 1000), NULL);
	CHECK(!way.through_proxy && !proxy_pass_by(&way, NULL, &back, 1000));
	CHECK_STR(proxy_choose(&own, proxy, "a.test", &url, back, 1000), NULL);
	CHECK(!own.through_proxy && !proxy_pass_by(&own, proxy, &back, 1000));
	CHECK_STR(proxy_choose(&way, proxy + sizeof("http://"), NULL, &url, back, 1000), NULL);
	CHECK(way.through_proxy && !proxy_pass_by(&way, "http://cache.example", &back, 1000));
	CHECK_EQ(back, 0);

	CHECK_STR(proxy_choose(&way, proxy, NULL, &url, back, 1000), NULL);
	CHECK(way.through_proxy && proxy_pass_by(&way, proxy, &back, 1000));
	CHECK_EQ(back, 31000);
	/* Others come by its knowledge, and try again when its rest is over; it itself does not. */
	for (int64_t now = 1000; now <= 31000; now += 15000) {
		proxy_choose(&way, proxy, NULL, &url, back, now);
		proxy_choose(&other, proxy, NULL, &url, back, now);
		CHECK(!way.through_proxy);
		CHECK_EQ(other.through_proxy, now == 31000);
	}
	/* What fails when it is asked directly has failed. */
	CHECK(!proxy_pass_by(&way, proxy, &back, 40000));
	CHECK_EQ(back, 31000);
}

int main(void)
{
	test_direct();
	test_the_way_past_a_proxy();
	test_urls_that_are_good();
	test_urls_that_are_refused();
	test_credentials_that_are_long();
	test_no_proxy();
	test_an_entry_that_is_long();
	return check_result();
}
