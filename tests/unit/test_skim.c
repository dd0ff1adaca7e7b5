/* SPDX-License-Identifier: MIT */
/* links: skim.c -lcrypto */
#include "../../fetcher/skim.h"

#include "check.h"
#include "fixtures.h"

#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdlib.h>

static struct bytes bytes_of(const char *text)
{
	return (struct bytes){(const unsigned char *)text, strlen(text)};
}

/*
 * Names
 */

struct encoded {
	unsigned char *der;
	struct bytes bytes;
};

static struct encoded encode(X509_NAME *name)
{
	struct encoded out = {0};
	int size = i2d_X509_NAME(name, &out.der);

	out.bytes = (struct bytes){out.der, size > 0 ? (size_t)size : 0};
	return out;
}

/* The same text as one string or another: its case, its spaces and its type change nothing. */
static void add_part(X509_NAME *name, int nid, const char *text, int set)
{
	static const int types[] = {V_ASN1_UTF8STRING, V_ASN1_PRINTABLESTRING, V_ASN1_IA5STRING,
		V_ASN1_T61STRING, V_ASN1_BMPSTRING, V_ASN1_UNIVERSALSTRING};
	int type = types[draw(sizeof(types) / sizeof(*types))];
	size_t width = type == V_ASN1_UNIVERSALSTRING ? 4 : type == V_ASN1_BMPSTRING ? 2 : 1;
	unsigned char string[512] = {0};
	size_t size = 0;

	for (; *text; text++) {
		size_t times = *text == ' ' ? 1 + draw(3) : 1;
		bool other = draw(2) == 0;
		char c = *text;

		if (other && c >= 'a' && c <= 'z')
			c = (char)(c - 'a' + 'A');
		while (times-- > 0) {
			size += width;
			string[size - 1] = (unsigned char)c;
		}
	}
	CHECK(X509_NAME_add_entry_by_NID(name, nid, type, string, (int)size, -1, set) == 1);
}

static X509_NAME *make_name(const char *organisation, const char *unit, const char *common)
{
	X509_NAME *name = X509_NAME_new();
	bool swapped = draw(2) == 0;

	add_part(name, NID_organizationName, organisation, 0);
	/* Two in one set, which has no order. */
	add_part(name, NID_organizationalUnitName, swapped ? common : unit, 0);
	add_part(name, NID_organizationalUnitName, swapped ? unit : common, -1);
	return name;
}

static void test_names_that_are_the_same_have_the_same_print(void)
{
	int same = 0, bytes_differ = 0;

	for (int i = 0; i < 2000; i++) {
		X509_NAME *a = make_name("Trust & Sons, Ltd.", "root ca 7", "www one");
		X509_NAME *b = make_name("Trust & Sons, Ltd.", "root ca 7", "www one");
		struct encoded one = encode(a), other = encode(b);
		uint64_t print = 0, print_of_other = 1;

		CHECK(skim_print(one.bytes, &print) && skim_print(other.bytes, &print_of_other));
		bytes_differ += one.bytes.size != other.bytes.size;
		if (X509_NAME_cmp(a, b) == 0) {
			CHECK(print == print_of_other);
			same++;
		}
		OPENSSL_free(one.der);
		OPENSSL_free(other.der);
		X509_NAME_free(a);
		X509_NAME_free(b);
	}
	/* Unless libcrypto says so, too, nothing was tried. */
	CHECK(same > 1500 && bytes_differ > 1000);
}

static void test_other_names_have_other_prints(void)
{
	static const char *const names[] = {
		"Root CA 1", "Root CA 2", "Root CB 1", "Root", "", "Sub"};
	uint64_t prints[sizeof(names) / sizeof(*names)];

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		X509_NAME *name = make_name("One", names[i], "Two");
		struct encoded encoded = encode(name);

		CHECK(skim_print(encoded.bytes, &prints[i]));
		for (size_t k = 0; k < i; k++)
			CHECK(prints[k] != prints[i]);
		OPENSSL_free(encoded.der);
		X509_NAME_free(name);
	}
}

static void test_letters_beyond_ascii_count_in_no_encoding(void)
{
	/* CN=aé: UTF8String, BMPString, T61String. */
	static const unsigned char utf8[] = {
		0x30, 14, 0x31, 12, 0x30, 10, 6, 3, 0x55, 4, 3, 0x0c, 3, 'a', 0xc3, 0xa9};
	static const unsigned char bmp[] = {
		0x30, 15, 0x31, 13, 0x30, 11, 6, 3, 0x55, 4, 3, 0x1e, 4, 0, 'A', 0, 0xe9};
	static const unsigned char t61[] = {
		0x30, 13, 0x31, 11, 0x30, 9, 6, 3, 0x55, 4, 3, 0x14, 2, 'a', 0xe9};
	/* Two letters of Chinese whose bytes are those of ASCII. */
	static const unsigned char chinese[] = {
		0x30, 15, 0x31, 13, 0x30, 11, 6, 3, 0x55, 4, 3, 0x1e, 4, 0x4e, 'A', 0x4e, 'B'};
	uint64_t one, two, three, four;

	CHECK(skim_print((struct bytes){utf8, sizeof(utf8)}, &one));
	CHECK(skim_print((struct bytes){bmp, sizeof(bmp)}, &two));
	CHECK(skim_print((struct bytes){t61, sizeof(t61)}, &three));
	CHECK(skim_print((struct bytes){chinese, sizeof(chinese)}, &four));
	CHECK(one == two && two == three && one != 0 && four == 0);
}

/*
 * Certificates
 */

static X509 *make_certificate(EVP_PKEY *key)
{
	X509 *x = X509_new();

	CHECK(X509_set_version(x, 2) == 1);
	CHECK(ASN1_INTEGER_set(X509_get_serialNumber(x), 4711) == 1);
	X509_gmtime_adj(X509_getm_notBefore(x), 0);
	X509_gmtime_adj(X509_getm_notAfter(x), 3600);
	add_part(X509_get_issuer_name(x), NID_commonName, "the issuer", 0);
	add_part(X509_get_subject_name(x), NID_commonName, "the subject", 0);
	CHECK(X509_set_pubkey(x, key) == 1 && X509_sign(x, key, NULL) > 0);
	return x;
}

static EVP_PKEY *make_key(void)
{
	EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_id(EVP_PKEY_ED25519, NULL);
	EVP_PKEY *key = NULL;

	CHECK(context && EVP_PKEY_keygen_init(context) == 1 && EVP_PKEY_keygen(context, &key) == 1);
	EVP_PKEY_CTX_free(context);
	return key;
}

static bool is_name(struct bytes found, X509_NAME *name)
{
	struct encoded wanted = encode(name);
	bool is =
		found.size == wanted.bytes.size && memcmp(found.data, wanted.der, found.size) == 0;

	OPENSSL_free(wanted.der);
	return is;
}

/* Each beginning of it in memory of just its size, for the sanitizers. */
static void check_beginnings(struct bytes der, X509 *x)
{
	int found = 0;

	for (size_t size = 0; size <= der.size; size++) {
		unsigned char *copy = malloc(size + 1);
		struct bytes start = {memcpy(copy + 1, der.data, size), size}, name;
		uint64_t print;

		if (skim_subject(start, &name)) {
			CHECK(is_name(name, X509_get_subject_name(x)) && skim_print(name, &print));
			found++;
		}
		if (skim_issuer(start, &name))
			CHECK(is_name(name, X509_get_issuer_name(x)));
		free(copy);
	}
	CHECK(found > 10 && (size_t)found < der.size - 100);
}

static void test_a_certificate_tells_its_names_even_if_it_is_cut_off(void)
{
	EVP_PKEY *key = make_key();
	X509 *x = make_certificate(key);
	unsigned char *der = NULL;
	int size = i2d_X509(x, &der);

	check_beginnings((struct bytes){der, (size_t)size}, x);
	OPENSSL_free(der);
	X509_free(x);
	EVP_PKEY_free(key);
}

/* Bytes that are changed at random must be read within their bounds, which a sanitizer sees. */
static void test_garbage_is_read_no_further_than_it_goes(void)
{
	EVP_PKEY *key = make_key();
	X509 *x = make_certificate(key);
	unsigned char *der = NULL;
	size_t size = (size_t)i2d_X509(x, &der);

	for (int i = 0; i < 20000; i++) {
		unsigned char *copy = malloc(size);
		struct bytes name, all = {0}, one;
		uint64_t print;

		memcpy(copy, der, size);
		for (uint32_t k = draw(4) + 1; k > 0; k--)
			copy[draw((uint32_t)size)] = (unsigned char)draw(256);
		if (skim_subject((struct bytes){copy, size}, &name)) {
			CHECK(name.data >= copy && name.data + name.size <= copy + size);
			skim_print(name, &print);
		}
		if (skim_pkcs7((struct bytes){copy, size}, &all))
			while (skim_next(&all, &one))
				;
		free(copy);
	}
	OPENSSL_free(der);
	X509_free(x);
	EVP_PKEY_free(key);
}

/*
 * PEM
 */

static void test_blocks_begin_where_a_line_does(void)
{
	struct bytes text = bytes_of(
		"words -----BEGIN NOTHING-----\n"
		"-----BEGIN A-----\nbroken\n"
		"-----BEGIN B-----\nYQ==\n-----END B-----\nmore words\n"
		"-----BEGIN C-----");
	struct bytes block;

	CHECK(skim_pem(&text, &block) && block.size == 25 && block.data[11] == 'A');
	CHECK(skim_pem(&text, &block) && block.size == 50 && block.data[11] == 'B');
	CHECK(skim_pem(&text, &block) && block.size == 17 && block.data[11] == 'C');
	CHECK(!skim_pem(&text, &block) && !skim_pem(&text, &block));
}

static void test_labels_of_certificates(void)
{
	CHECK(skim_is_certificate(bytes_of("-----BEGIN CERTIFICATE-----\r\nYQ==")));
	CHECK(skim_is_certificate(bytes_of("-----BEGIN X509 CERTIFICATE-----\n")));
	CHECK(skim_is_certificate(bytes_of("-----BEGIN TRUSTED CERTIFICATE-----  \n")));
	CHECK(skim_is_certificate(bytes_of("-----BEGIN PKCS7-----\n")));
	CHECK(skim_is_certificate(bytes_of("-----BEGIN PKCS #7 SIGNED DATA-----\n")));
	CHECK(!skim_is_certificate(bytes_of("-----BEGIN PRIVATE KEY-----\nCERTIFICATE-----")));
}

static void check_base64(const char *text, size_t room, const char *wanted)
{
	unsigned char out[64] = {0};

	CHECK_EQ(skim_base64(bytes_of(text), out, room), strlen(wanted));
	CHECK(memcmp(out, wanted, strlen(wanted)) == 0);
}

static void test_base64_is_decoded_and_nothing_else(void)
{
	check_base64("-----BEGIN A-----\nYWJj\nZA==\n-----END A-----\nrest", 64, "abcd");
	check_base64("-----BEGIN A-----\r\nYWJj\r\n ZGU=\r\n-----END A-----\r\n", 64, "abcde");
	check_base64("-----BEGIN A-----\nYWJjZGVm", 64, "abcdef");
	check_base64("-----BEGIN A-----\nYWJjZGVm\n", 4, "abcd");
	check_base64("-----BEGIN A-----\nProc-Type: 4,ENCRYPTED\n\nYWJj\n", 64, "");
	check_base64("-----BEGIN A-----\nYW*j\n-----END A-----\n", 64, "");
	check_base64("-----BEGIN A-----", 64, "");
	check_base64("-----BEGIN A-----\n-----END A-----\n", 64, "");
}

/* Of all lengths, as libcrypto writes it. */
static void test_base64_as_libcrypto_writes_it(void)
{
	unsigned char data[300], out[300];

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (unsigned char)draw(256);
	for (long size = 1; size <= (long)sizeof(data); size++) {
		BIO *bio = BIO_new(BIO_s_mem());
		struct bytes block;
		char *text;

		CHECK(PEM_write_bio(bio, "CERTIFICATE", "", data, size) > 0);
		block.size = (size_t)BIO_get_mem_data(bio, &text);
		block.data = (unsigned char *)text;
		CHECK_EQ(skim_base64(block, out, sizeof(out)), size);
		CHECK(memcmp(out, data, (size_t)size) == 0);
		BIO_free(bio);
	}
}

int main(void)
{
	test_names_that_are_the_same_have_the_same_print();
	test_other_names_have_other_prints();
	test_letters_beyond_ascii_count_in_no_encoding();
	test_a_certificate_tells_its_names_even_if_it_is_cut_off();
	test_garbage_is_read_no_further_than_it_goes();
	test_blocks_begin_where_a_line_does();
	test_labels_of_certificates();
	test_base64_is_decoded_and_nothing_else();
	test_base64_as_libcrypto_writes_it();
	return check_result();
}
