/* SPDX-License-Identifier: MIT */
#include "certificate.h"

#include "clock.h"
#include "gate.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The serial number is at most 20 octets (RFC 5280, 4.1.2.2); whatever is longer is cut. */
enum {
	SERIAL_LIMIT = 40,
	NAME_LIMIT = CERTIFICATE_LABEL_SIZE - SERIAL_LIMIT - sizeof(" (serial )"),
};

/* False if it cannot be encoded. */
static bool digest_names(const struct libcrypto *crypto, X509 *x, struct certificate *out)
{
	const X509_NAME *subject = crypto->X509_get_subject_name(x);
	const X509_NAME *issuer = crypto->X509_get_issuer_name(x);

	out->subject = (uint32_t)crypto->X509_subject_name_hash(x);
	out->issuer = (uint32_t)crypto->X509_issuer_name_hash(x);
	out->is_self_issued = crypto->X509_NAME_cmp(subject, issuer) == 0;
	return crypto->X509_digest(x, crypto->EVP_sha256(), out->key, NULL) == 1;
}

bool certificate_time(const struct libcrypto *crypto, const ASN1_TIME *time, int64_t *seconds)
{
	struct tm tm;

	/* ASN1_TIME_to_tm takes NULL for the current time. */
	if (!time || crypto->ASN1_TIME_to_tm(time, &tm) != 1)
		return false;
	*seconds = clock_from_civil(
		tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec);
	return true;
}

/* What cannot be read is never in its time. */
static void read_validity(const struct libcrypto *crypto, const X509 *x, struct certificate *out)
{
	if (!certificate_time(crypto, crypto->X509_get0_notBefore(x), &out->not_before) ||
		!certificate_time(crypto, crypto->X509_get0_notAfter(x), &out->not_after))
		out->not_before = out->not_after = 0;
}

/* Whatever is in a certificate, a log line stays one line of plain text. */
static void copy_printable(char out[static NAME_LIMIT + 1], const unsigned char *in, int size)
{
	int i;

	for (i = 0; i < size && i < (int)NAME_LIMIT; i++)
		out[i] = in[i] >= 0x20 && in[i] < 0x7f ? (char)in[i] : '?';
	out[i] = '\0';
}

static bool read_dns_name(
	const struct libcrypto *crypto, const X509 *x, char out[static NAME_LIMIT + 1])
{
	GENERAL_NAMES *names = crypto->X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);
	int count = crypto->OPENSSL_sk_num((const OPENSSL_STACK *)names);
	bool found = false;

	for (int i = 0; i < count && !found; i++) {
		const GENERAL_NAME *name =
			crypto->OPENSSL_sk_value((const OPENSSL_STACK *)names, i);
		int type;
		const ASN1_STRING *value = crypto->GENERAL_NAME_get0_value(name, &type);

		if (type != GEN_DNS)
			continue;
		copy_printable(out, crypto->ASN1_STRING_get0_data(value),
			crypto->ASN1_STRING_length(value));
		found = out[0] != '\0';
	}
	crypto->GENERAL_NAMES_free(names);
	return found;
}

static bool read_common_name(
	const struct libcrypto *crypto, const X509 *x, char out[static NAME_LIMIT + 1])
{
	char text[NAME_LIMIT + 1];
	int size = crypto->X509_NAME_get_text_by_NID(
		crypto->X509_get_subject_name(x), NID_commonName, text, sizeof(text));

	if (size <= 0)
		return false;
	copy_printable(out, (const unsigned char *)text, size);
	return true;
}

static void read_label(const struct libcrypto *crypto, const X509 *x, struct certificate *out)
{
	BIGNUM *number = crypto->ASN1_INTEGER_to_BN(crypto->X509_get0_serialNumber(x), NULL);
	char *serial = number ? crypto->BN_bn2hex(number) : NULL;
	char name[NAME_LIMIT + 1];

	if (!read_dns_name(crypto, x, name) && !read_common_name(crypto, x, name))
		strcpy(name, "certificate");
	snprintf(out->label, sizeof(out->label), "%s (serial %.*s)", name, SERIAL_LIMIT,
		serial ? serial : "?");
	crypto->CRYPTO_free(serial, __FILE__, __LINE__);
	crypto->BN_free(number);
}

/* Of RFC 3986's characters only the printable ones are wanted; a space is our own separator. */
static bool is_clean_url(const unsigned char *url, int size)
{
	for (int i = 0; i < size; i++)
		if (url[i] <= 0x20 || url[i] >= 0x7f)
			return false;
	return size > 0;
}

static void add_url(const struct libcrypto *crypto, const ASN1_STRING *url, char *urls)
{
	const unsigned char *data = crypto->ASN1_STRING_get0_data(url);
	int size = crypto->ASN1_STRING_length(url);
	size_t used = strlen(urls);

	if (!is_clean_url(data, size))
		return;
	if (used + (used > 0) + (size_t)size >= CERTIFICATE_URLS_SIZE)
		return;
	if (used > 0)
		urls[used++] = ' ';
	memcpy(urls + used, data, (size_t)size);
	urls[used + (size_t)size] = '\0';
}

/* X509_get1_ocsp would do, but it sorts the URLs, and the CA's order is its preference. */
static void read_urls(const struct libcrypto *crypto, const X509 *x, struct certificate *out)
{
	AUTHORITY_INFO_ACCESS *access = crypto->X509_get_ext_d2i(x, NID_info_access, NULL, NULL);
	int count = crypto->OPENSSL_sk_num((const OPENSSL_STACK *)access);

	for (int i = 0; i < count; i++) {
		const ACCESS_DESCRIPTION *entry =
			crypto->OPENSSL_sk_value((const OPENSSL_STACK *)access, i);
		int type, method = crypto->OBJ_obj2nid(entry->method);
		const ASN1_STRING *url = crypto->GENERAL_NAME_get0_value(entry->location, &type);

		if (type == GEN_URI && method == NID_ad_OCSP)
			add_url(crypto, url, out->responders);
		else if (type == GEN_URI && method == NID_ad_ca_issuers)
			add_url(crypto, url, out->issuers);
	}
	crypto->AUTHORITY_INFO_ACCESS_free(access);
}

static bool append_key_identifier(const struct libcrypto *crypto, const X509 *x, struct buffer *out)
{
	AUTHORITY_KEYID *identifier =
		crypto->X509_get_ext_d2i(x, NID_authority_key_identifier, NULL, NULL);
	bool done = true;

	if (identifier && identifier->keyid)
		done = buffer_append(out, crypto->ASN1_STRING_get0_data(identifier->keyid),
			(size_t)crypto->ASN1_STRING_length(identifier->keyid));
	crypto->AUTHORITY_KEYID_free(identifier);
	return done;
}

/* After read_urls. */
static bool digest_issuer(const struct libcrypto *crypto, X509 *x, struct certificate *out)
{
	const EVP_MD *sha256 = crypto->EVP_sha256();
	unsigned char name[CERTIFICATE_KEY_SIZE];
	struct buffer all = {0};
	bool done;

	done = crypto->X509_NAME_digest(crypto->X509_get_issuer_name(x), sha256, name, NULL) == 1 &&
	       buffer_append(&all, name, sizeof(name)) &&
	       buffer_append(&all, out->issuers, sizeof(out->issuers)) &&
	       append_key_identifier(crypto, x, &all) &&
	       crypto->EVP_Digest(all.data, all.size, out->issuer_key, NULL, sha256, NULL) == 1;
	buffer_free(&all);
	return done;
}

static bool read_may_be_server(const struct libcrypto *crypto, const X509 *x)
{
	int critical;
	EXTENDED_KEY_USAGE *usage = crypto->X509_get_ext_d2i(x, NID_ext_key_usage, &critical, NULL);
	int count = crypto->OPENSSL_sk_num((const OPENSSL_STACK *)usage);
	bool may = !usage && critical == -1; /* -1: it is not there, rather than unreadable */

	for (int i = 0; i < count; i++) {
		int nid = crypto->OBJ_obj2nid(
			crypto->OPENSSL_sk_value((const OPENSSL_STACK *)usage, i));

		may = may || nid == NID_server_auth || nid == NID_anyExtendedKeyUsage;
	}
	crypto->EXTENDED_KEY_USAGE_free(usage);
	return may;
}

bool certificate_read(const struct libcrypto *crypto, X509 *x, struct certificate *out)
{
	memset(out, 0, sizeof(*out));
	if (!certificate_encode(crypto, x, &out->der) || !digest_names(crypto, x, out))
		goto failed;
	read_label(crypto, x, out);
	read_validity(crypto, x, out);
	read_urls(crypto, x, out);
	if (!digest_issuer(crypto, x, out))
		goto failed;
	out->may_be_server = read_may_be_server(crypto, x);
	return true;
failed:
	certificate_free(out);
	return false;
}

bool certificate_decode(const struct libcrypto *crypto, struct bytes der, struct certificate *out)
{
	X509 *x = certificate_x509(crypto, der);
	bool done = false;

	memset(out, 0, sizeof(*out));
	if (x)
		done = certificate_read(crypto, x, out);
	crypto->X509_free(x);
	return done;
}

void certificate_free(struct certificate *certificate)
{
	buffer_free(&certificate->der);
	memset(certificate, 0, sizeof(*certificate));
}

static X509 *decode(const struct libcrypto *crypto, struct bytes der)
{
	const unsigned char *at = der.data;
	X509 *x;

	if (der.size == 0 || der.size > INT_MAX)
		return NULL;
	x = crypto->d2i_X509(NULL, &at, (long)der.size);
	if (x && at == der.data + der.size)
		return x;
	crypto->X509_free(x);
	return NULL;
}

struct certificate_memo {
	struct {
		struct bytes der;
		X509 *x;
	} lent;
	size_t count;
	struct memo_place {
		struct buffer der;
		X509 *x;
	} places[];
};

struct certificate_memo *certificate_memo_new(size_t places)
{
	struct certificate_memo *memo = calloc(1, sizeof(*memo) + places * sizeof(memo->places[0]));

	if (memo)
		memo->count = places;
	return memo;
}

void certificate_memo_lend(struct certificate_memo *memo, struct bytes der, X509 *x)
{
	if (!memo)
		return;
	memo->lent.der = der;
	memo->lent.x = x;
}

static void forget(const struct libcrypto *crypto, struct memo_place *place)
{
	crypto->X509_free(place->x);
	place->x = NULL;
	buffer_free(&place->der);
}

void certificate_memo_clear(const struct libcrypto *crypto)
{
	for (size_t i = 0; crypto->memo && i < crypto->memo->count; i++) {
		forget(crypto, &crypto->memo->places[i]);
		gate_pause_at(crypto->gate, i);
	}
}

void certificate_memo_free(const struct libcrypto *crypto)
{
	certificate_memo_clear(crypto);
	free(crypto->memo);
}

/* By its last bytes, which are its signature's: as good as drawn. */
static struct memo_place *place_of(const struct certificate_memo *memo, struct bytes der)
{
	unsigned sum = 0;

	for (size_t i = 0; i < 8 && i < der.size; i++)
		sum = sum * 31 + der.data[der.size - 1 - i];
	return (struct memo_place *)&memo->places[sum % memo->count];
}

static bool is_same(struct bytes a, struct bytes b)
{
	return a.size == b.size && memcmp(a.data, b.data, a.size) == 0;
}

/* What is lent for it or, if nothing is, what was decoded from it. */
static X509 *recall(
	const struct certificate_memo *memo, const struct memo_place *place, struct bytes der)
{
	if (memo->lent.x && is_same(memo->lent.der, der))
		return memo->lent.x;
	if (place->x && is_same(buffer_bytes(&place->der), der))
		return place->x;
	return NULL;
}

X509 *certificate_x509(const struct libcrypto *crypto, struct bytes der)
{
	struct memo_place *place;
	X509 *x;

	if (!crypto->memo)
		return decode(crypto, der);
	place = place_of(crypto->memo, der);
	x = recall(crypto->memo, place, der);
	if (x)
		return crypto->X509_up_ref(x) ? x : NULL;
	x = decode(crypto, der);
	if (!x)
		return NULL;
	forget(crypto, place);
	if (buffer_append(&place->der, der.data, der.size) && crypto->X509_up_ref(x))
		place->x = x;
	return x;
}

bool certificate_encode(const struct libcrypto *crypto, X509 *x, struct buffer *out)
{
	unsigned char *der = NULL;
	int size = crypto->i2d_X509(x, &der);
	bool done = size > 0 && buffer_append(out, der, (size_t)size);

	crypto->CRYPTO_free(der, __FILE__, __LINE__);
	return done;
}
