/* SPDX-License-Identifier: MIT */
#include "proxy.h"

#include "address.h"

#include <string.h>
#include <strings.h>

enum { REST = 30000 }; /* milliseconds for which one that did not answer is passed by */

static int hex_value(char c)
{
	const char *digits = "0123456789abcdef0123456789ABCDEF";
	const char *at = c ? strchr(digits, c) : NULL;

	return at ? (int)(at - digits) % 16 : -1;
}

/* RFC 3986, 2.1. Control characters have no place in a name or a password (RFC 7617, 2). */
static const char *decode_credentials(const char *text, size_t size, struct proxy *proxy)
{
	size_t to = 0;

	for (size_t i = 0; i < size; i++) {
		int c = (unsigned char)text[i];

		if (c == '%') {
			int high = size - i > 2 ? hex_value(text[i + 1]) : -1;
			int low = high >= 0 ? hex_value(text[i + 2]) : -1;

			if (low < 0)
				return "its user name or password has a % that encodes nothing";
			c = high * 16 + low;
			i += 2;
		}
		if (c < ' ' || c == 127)
			return "its user name or password has a control character";
		if (to == sizeof(proxy->credentials) - 2)
			return "its user name and password are too long";
		proxy->credentials[to++] = (char)c;
	}
	/* A name alone has an empty password; and an encoded colon is not told from the real one.
	 */
	if (to > 0 && !memchr(text, ':', size))
		proxy->credentials[to] = ':';
	return NULL;
}

/* Of a URL. What else has a colon is "host:port". */
static bool has_scheme(const char *text)
{
	return strncmp(text + strcspn(text, ":/?#@"), "://", 3) == 0;
}

static const char *parse_proxy(const char *text, struct proxy *proxy)
{
	static const char scheme[] = "http://";
	const char *authority = text, *at = NULL, *why;
	char rest[sizeof("http://") + sizeof(proxy->url.host) + sizeof("[]:65535")];
	size_t size;

	memset(proxy, 0, sizeof(*proxy));
	if (strncasecmp(text, scheme, sizeof(scheme) - 1) == 0)
		authority += sizeof(scheme) - 1;
	else if (has_scheme(text))
		return url_parse(text, &proxy->url);
	size = strcspn(authority, "/?#");
	/* The last one: many a password has an @ that nobody encoded. */
	for (size_t i = 0; i < size; i++)
		if (authority[i] == '@')
			at = authority + i;
	if (at) {
		why = decode_credentials(authority, (size_t)(at - authority), proxy);
		if (why)
			return why;
		size -= (size_t)(at + 1 - authority);
		authority = at + 1;
	}
	if (size > sizeof(rest) - sizeof(scheme))
		return "the URL's host is too long";
	memcpy(rest, scheme, sizeof(scheme));
	strncat(rest, authority, size);
	return url_parse(rest, &proxy->url);
}

/* What stands after the first word. */
static const char *second_word(const char *text)
{
	text += strcspn(text, " \t");
	return text + strspn(text, " \t");
}

bool proxy_may_be_passed_by(const char *text)
{
	return strcmp(second_word(text), "direct") == 0;
}

const char *proxy_parse(const char *text, struct proxy *proxy)
{
	char first[1024];
	size_t size = strcspn(text, " \t");

	if (*second_word(text) && !proxy_may_be_passed_by(text))
		return "after it only the word \"direct\" may stand";
	if (size >= sizeof(first))
		return "it is too long";
	memcpy(first, text, size);
	first[size] = '\0';
	return parse_proxy(first, proxy);
}

/* True if host is name, or ends in it at a dot. */
static bool host_ends_in(const char *host, const char *name)
{
	size_t host_size = strlen(host), size = strlen(name);

	/* The root's dot says nothing. */
	if (host_size > 1 && host[host_size - 1] == '.')
		host_size--;
	if (size > 1 && name[size - 1] == '.')
		size--;
	if (size == 0 || size > host_size || strncasecmp(host + host_size - size, name, size) != 0)
		return false;
	return size == host_size || host[host_size - size - 1] == '.';
}

/* Cuts the port off entry; NULL if it has none. */
static char *split_port(char *entry)
{
	char *colon = strrchr(entry, ':');
	char *bracket = strchr(entry, ']');

	if (!colon || (bracket && colon < bracket) || (!bracket && strchr(entry, ':') != colon))
		return NULL;
	*colon = '\0';
	return colon + 1;
}

static bool entry_matches(char *entry, const struct url *url)
{
	const char *port = split_port(entry);
	struct address address;
	size_t size = strlen(entry);

	if (port && strcmp(port, url->port) != 0)
		return false;
	if (entry[0] == '[' && entry[size - 1] == ']') {
		entry[size - 1] = '\0';
		entry++;
	}
	if (address_parse(url->host, &address))
		return address_is_in(&address, entry);
	if (entry[0] == '*' && entry[1] == '.')
		entry++;
	return host_ends_in(url->host, entry[0] == '.' ? entry + 1 : entry);
}

bool proxy_is_excluded(const char *list, const struct url *url)
{
	char entry[sizeof(url->host) + sizeof("[]:65535")];

	if (!list)
		return false;
	for (size_t size; list += strspn(list, " ,\t"), *list; list += size) {
		size = strcspn(list, " ,\t");
		if (size == 1 && *list == '*')
			return true;
		if (size >= sizeof(entry))
			continue;
		memcpy(entry, list, size);
		entry[size] = '\0';
		if (entry_matches(entry, url))
			return true;
	}
	return false;
}

const char *proxy_choose(struct proxy_way *way, const char *text, const char *excluded,
	const struct url *url, int64_t back, int64_t now)
{
	way->through_proxy =
		text && !way->is_direct && now >= back && !proxy_is_excluded(excluded, url);
	return way->through_proxy ? proxy_parse(text, &way->proxy) : NULL;
}

bool proxy_pass_by(struct proxy_way *way, const char *text, int64_t *back, int64_t now)
{
	if (!way->through_proxy || !proxy_may_be_passed_by(text))
		return false;
	way->is_direct = true;
	*back = now + REST;
	return true;
}
