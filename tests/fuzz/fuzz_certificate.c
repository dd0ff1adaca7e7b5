/* SPDX-License-Identifier: MIT */
/*
 * certificate_decode, issuer_signed, issuer_from_content and issuer_from_path. Input: a
 * certificate, or a PEM file, or a PKCS#7.
 */
#include "certificate.h"
#include "court.h"
#include "issuer.h"

#include <sys/mman.h>
#include <unistd.h>

static void check_printable(const char *text, size_t room)
{
	size_t size = strnlen(text, room);

	RULE(size < room);
	for (size_t i = 0; i < size; i++)
		RULE(text[i] >= ' ' && text[i] <= '~');
}

/* "URL URL URL": one space between two, none elsewhere. */
static void check_urls(const char *text)
{
	size_t size = strlen(text);

	RULE(!strstr(text, "  "));
	RULE(size == 0 || (text[0] != ' ' && text[size - 1] != ' '));
}

static void check_decoding(struct bytes der)
{
	struct certificate certificate, again;

	if (!certificate_decode(&crypto, der, &certificate)) {
		RULE(!certificate.der.data && !certificate.label[0]);
		return;
	}
	check_printable(certificate.label, sizeof(certificate.label));
	check_printable(certificate.responders, sizeof(certificate.responders));
	check_printable(certificate.issuers, sizeof(certificate.issuers));
	check_urls(certificate.responders);
	check_urls(certificate.issuers);
	RULE(strstr(certificate.label, " (serial "));
	/* What is kept of it is DER, and means the same. */
	RULE(certificate_decode(&crypto, buffer_bytes(&certificate.der), &again));
	RULE(is_same(buffer_bytes(&certificate.der), buffer_bytes(&again.der)));
	RULE(memcmp(certificate.key, again.key, sizeof(again.key)) == 0);
	RULE(memcmp(certificate.issuer_key, again.issuer_key, sizeof(again.issuer_key)) == 0);
	RULE(certificate.subject == again.subject && certificate.issuer == again.issuer);
	RULE(certificate.is_self_issued == again.is_self_issued);
	RULE(certificate.not_before == again.not_before);
	RULE(certificate.not_after == again.not_after);
	RULE(strcmp(certificate.issuers, again.issuers) == 0);
	RULE(strcmp(certificate.label, again.label) == 0);
	RULE(strcmp(certificate.responders, again.responders) == 0);
	RULE(certificate.may_be_server == again.may_be_server);
	certificate_free(&again);
	certificate_free(&certificate);
}

/* The tbsCertificate, which is all that a signature covers. */
static struct bytes signed_part(X509 *x)
{
	unsigned char *der = NULL;
	int size = i2d_re_X509_tbs(x, &der);

	RULE(size > 0);
	return (struct bytes){der, (size_t)size};
}

/* i2d_re_X509_tbs encodes anew; both sides are treated the same. */
static int is_signed_part_of(struct bytes der, const struct buffer *known)
{
	X509 *a = certificate_x509(&crypto, der);
	X509 *b = certificate_x509(&crypto, buffer_bytes(known));
	struct bytes one = signed_part(a), other = signed_part(b);
	int is = is_same(one, other);

	OPENSSL_free((void *)one.data);
	OPENSSL_free((void *)other.data);
	X509_free(a);
	X509_free(b);
	return is;
}

/* Nobody but the CA makes it say more than it said; its own certificate is signed by itself. */
static void check_signed(struct bytes der)
{
	for (int i = 0; i < COURTS; i++) {
		const struct court *court = &courts[i];

		if (issuer_signed(&crypto, der, buffer_bytes(&court->issuer)))
			RULE(is_signed_part_of(der, &court->leaf) ||
				is_signed_part_of(der, &court->issuer));
		RULE(ERR_peek_error() == 0);
		issuer_signed(&crypto, buffer_bytes(&court->leaf), der);
		RULE(ERR_peek_error() == 0);
	}
}

/* Whatever a CA's server sends: what is found in it has signed the leaf. */
static void check_content(struct bytes content)
{
	for (int i = 0; i < COURTS; i++) {
		struct bytes leaf = buffer_bytes(&courts[i].leaf);
		struct buffer found = {0};
		struct issuer_weight weight;
		int is = issuer_from_content(&crypto, leaf, content, moment, &found);

		RULE(ERR_peek_error() == 0);
		RULE(is || found.size == 0);
		RULE(!is || issuer_weigh(&crypto, leaf, buffer_bytes(&found), moment, &weight));
		buffer_free(&found);
	}
}

static void check_file(struct bytes pem)
{
	int fd = memfd_create("pem", MFD_CLOEXEC);
	struct buffer found = {0};
	const char *why;
	char path[64];

	RULE(fd >= 0 && write(fd, pem.data, pem.size) == (ssize_t)pem.size);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	for (int i = 0; i < COURTS; i++) {
		struct bytes leaf = buffer_bytes(&courts[i].leaf);
		int is = issuer_from_path(&crypto, leaf, path, moment, &found, &why);

		RULE(is ? !why : why && why[0]);
		RULE(ERR_peek_error() == 0);
		RULE(!is || issuer_signed(&crypto, leaf, buffer_bytes(&found)));
		buffer_free(&found);
	}
	close(fd);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	open_courts();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	unsigned char *copy = copy_of((struct bytes){data, size});
	struct bytes input = {copy, size};

	if (size > 0 && data[0] != 0x30)
		check_file(input);
	else
		check_decoding(input);
	ERR_clear_error();
	check_content(input);
	if (size > 0 && data[0] == 0x30)
		check_signed(input);
	free(copy);
	return 0;
}
