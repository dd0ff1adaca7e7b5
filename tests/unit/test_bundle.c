/* SPDX-License-Identifier: MIT */
/* links: bundle.c skim.c bytes.c -lcrypto */
/*
 * Bundles of certificates in BER, made in all its ways, and what libcrypto says of them.
 */
#include "../../fetcher/bundle.h"

#include "../../fetcher/skim.h"
#include "check.h"
#include "fixtures.h"

#include <openssl/pkcs7.h>
#include <openssl/x509.h>
#include <stdlib.h>

enum {
	SIZE = 4096,
	LEVELS = 6, /* values that may be without a length */
	CERTIFICATES = 2,
	MUTATIONS = 30000,
};

/* Built from its end to its beginning. */
struct build {
	unsigned char bytes[SIZE];
	size_t at;
};

static unsigned char *ders[CERTIFICATES];
static size_t sizes[CERTIFICATES];

static void put(struct build *build, const void *bytes, size_t size)
{
	build->at -= size;
	memcpy(build->bytes + build->at, bytes, size);
}

/* Around all that was put since there were so many bytes. */
static void wrap(struct build *build, unsigned char tag, size_t end, bool is_endless)
{
	size_t size = end - build->at;
	unsigned char head[] = {tag, 0x82, (unsigned char)(size >> 8), (unsigned char)size};
	unsigned char endless[] = {tag, 0x80}, end_of_contents[] = {0, 0};

	if (!is_endless) {
		put(build, head, sizeof(head));
		return;
	}
	memmove(build->bytes + build->at - 2, build->bytes + build->at, size);
	memcpy(build->bytes + end - 2, end_of_contents, 2);
	build->at -= 2;
	put(build, endless, 2);
}

/* Each bit of forms is about one value, from the outermost. */
static struct bytes make_bundle(struct build *build, unsigned forms)
{
	static const unsigned char signed_data[] = {
		0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02};
	static const unsigned char data[] = {
		0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01};
	static const unsigned char version[] = {0x02, 1, 1}, no_digests[] = {0x31, 0},
				   no_signers[] = {0x31, 0};
	size_t end;

	build->at = SIZE;
	put(build, no_signers, sizeof(no_signers));
	end = build->at;
	for (size_t i = CERTIFICATES; i-- > 0;)
		put(build, ders[i], sizes[i]);
	wrap(build, 0xa0, end, forms >> 5 & 1);
	end = build->at;
	put(build, data, sizeof(data));
	wrap(build, 0x30, end, forms >> 4 & 1);
	if (forms >> 3 & 1) {
		static const unsigned char endless_digests[] = {0x31, 0x80, 0, 0};

		put(build, endless_digests, sizeof(endless_digests));
	} else {
		put(build, no_digests, sizeof(no_digests));
	}
	put(build, version, sizeof(version));
	wrap(build, 0x30, SIZE, forms >> 2 & 1);
	wrap(build, 0xa0, SIZE, forms >> 1 & 1);
	put(build, signed_data, sizeof(signed_data));
	wrap(build, 0x30, SIZE, forms & 1);
	return (struct bytes){build->bytes + build->at, SIZE - build->at};
}

static X509 *make_certificate(const char *name, EVP_PKEY *key)
{
	X509 *x = X509_new();

	X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC,
		(const unsigned char *)name, -1, -1, 0);
	X509_gmtime_adj(X509_getm_notBefore(x), 0);
	X509_gmtime_adj(X509_getm_notAfter(x), 3600);
	CHECK(X509_set_pubkey(x, key) == 1 && X509_sign(x, key, EVP_sha256()) > 0);
	return x;
}

static void make_certificates(void)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");

	for (int i = 0; i < CERTIFICATES; i++) {
		X509 *x = make_certificate(i == 0 ? "one" : "other", key);
		int size = i2d_X509(x, &ders[i]);

		CHECK(size > 0);
		sizes[i] = (size_t)size;
		X509_free(x);
	}
	EVP_PKEY_free(key);
}

/* How many libcrypto finds; -1 if it finds it no bundle. */
static int count_decoded(struct bytes content)
{
	const unsigned char *at = content.data;
	PKCS7 *bundle = d2i_PKCS7(NULL, &at, (long)content.size);
	int count = -1;

	if (bundle && PKCS7_type_is_signed(bundle) && bundle->d.sign)
		count = sk_X509_num(bundle->d.sign->cert);
	PKCS7_free(bundle);
	return count;
}

static int count_found(struct bytes content)
{
	struct bytes all, one;
	int count = 0;

	if (!bundle_open(content, &all))
		return -1;
	CHECK(all.data >= content.data && all.data + all.size <= content.data + content.size);
	while (skim_next(&all, &one))
		count++;
	CHECK_EQ(all.size, 0);
	return count;
}

static void test_all_forms(void)
{
	static struct build build;

	for (unsigned forms = 0; forms < 1U << LEVELS; forms++) {
		struct bytes content = make_bundle(&build, forms), all, one;

		CHECK_EQ(count_decoded(content), CERTIFICATES);
		if (!CHECK(bundle_open(content, &all)))
			fprintf(stderr, "  form %u\n", forms);
		for (int i = 0; i < CERTIFICATES; i++)
			CHECK(skim_next(&all, &one) && one.size == sizes[i] &&
				memcmp(one.data, ders[i], sizes[i]) == 0);
		CHECK_EQ(all.size, 0);
	}
}

/* In memory of its own, so that a sanitizer sees what is read behind its end. */
static int count_in_copy(struct bytes content)
{
	unsigned char *copy = malloc(content.size ? content.size : 1);
	int count;

	memcpy(copy, content.data, content.size);
	count = count_found((struct bytes){copy, content.size});
	free(copy);
	return count;
}

/* What is cut off before the end of the certificates is no bundle. */
static void test_what_is_cut_short(void)
{
	static struct build build;

	for (unsigned forms = 0; forms < 1U << LEVELS; forms++) {
		struct bytes content = make_bundle(&build, forms);

		for (size_t size = 0; size < content.size; size++) {
			int count = count_in_copy((struct bytes){content.data, size});

			CHECK(count == -1 || count == CERTIFICATES);
			CHECK(count == -1 || size > sizes[0] + sizes[1]);
		}
	}
}

static void test_what_is_broken(void)
{
	static struct build build;
	int both = 0;

	for (int i = 0; i < MUTATIONS; i++) {
		struct bytes content = make_bundle(&build, draw(1U << LEVELS));
		int found, decoded;

		/* Mostly where the bundle's own bytes are, not those of a certificate. */
		for (uint32_t k = draw(3) + 1; k > 0; k--) {
			size_t at = draw(4) ? draw(80) : draw((uint32_t)content.size);

			build.bytes[build.at + at] = draw(2) ? (unsigned char)draw(256) : 0x80;
		}
		found = count_in_copy(content);
		decoded = count_decoded(content);
		if (found >= 0 && decoded >= 0) {
			CHECK_EQ(found, decoded);
			both++;
		}
	}
	CHECK(both > MUTATIONS / 100);
}

static void test_what_is_none(void)
{
	unsigned char deep[SIZE];
	struct bytes all;

	CHECK(!bundle_open((struct bytes){ders[0], sizes[0]}, &all));
	CHECK(!bundle_open((struct bytes){NULL, 0}, &all));
	for (size_t i = 0; i < SIZE; i++)
		deep[i] = i % 2 ? 0x80 : 0x30;
	CHECK(!bundle_open((struct bytes){deep, SIZE}, &all));
}

int main(void)
{
	make_certificates();
	test_all_forms();
	test_what_is_cut_short();
	test_what_is_broken();
	test_what_is_none();
	for (int i = 0; i < CERTIFICATES; i++)
		OPENSSL_free(ders[i]);
	return check_result();
}
