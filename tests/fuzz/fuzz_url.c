/* SPDX-License-Identifier: MIT */
/* url_parse and url_resolve. Input: a URL, or a reference. */
#include "fuzz.h"
#include "http.h"

static void check_text(const char *text, size_t room, const char *never)
{
	size_t size = strnlen(text, room);

	RULE(size > 0 && size < room);
	for (size_t i = 0; i < size; i++)
		RULE(text[i] > ' ' && text[i] <= '~' && !strchr(never, text[i]));
}

static void check_url(const struct url *url)
{
	long port = strtol(url->port, NULL, 10);

	check_text(url->host, sizeof(url->host), "/?#@[]");
	check_text(url->port, sizeof(url->port), ":");
	check_text(url->authority, sizeof(url->authority), "/?#@");
	check_text(url->path, sizeof(url->path), "#");
	RULE(url->path[0] == '/');
	RULE(port >= 1 && port <= 65535);
	RULE(url->port[0] != '0' && strspn(url->port, "0123456789") == strlen(url->port));
}

/* What was understood means the same when it is written down and read again. */
static void check_again(const struct url *url)
{
	char text[sizeof(url->authority) + sizeof(url->path) + 8];
	struct url again;

	snprintf(text, sizeof(text), "http://%s%s", url->authority, url->path);
	RULE(!url_parse(text, &again));
	RULE(strcmp(again.host, url->host) == 0 && strcmp(again.port, url->port) == 0);
	RULE(strcmp(again.authority, url->authority) == 0 && strcmp(again.path, url->path) == 0);
}

/* The same text as a Location: whatever it leads to is a URL like any other. */
static void check_resolved(const char *text)
{
	struct url base, url;

	RULE(!url_parse("http://ocsp.example.org:8080/path/file?query", &base));
	if (!url_resolve(&base, text, &url)) {
		check_url(&url);
		check_again(&url);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = string_of((struct bytes){data, size});
	const char *why;
	struct url url;

	why = url_parse(text, &url);
	RULE(!why || why[0]);
	if (!why) {
		check_url(&url);
		check_again(&url);
	}
	check_resolved(text);
	free(text);
	return 0;
}
