/* SPDX-License-Identifier: MIT */
#include "ocspctl.h"

#include "file.h"
#include "issuer.h"

#include <string.h>

/* OpenSSL's own would ask on the terminal. */
static int refuse_password(char *buffer, int size, int writing, void *argument)
{
	(void)buffer;
	(void)size;
	(void)writing;
	(void)argument;
	return -1;
}

const char *subject_read(const struct tool *tool, const char *path, struct subject *out)
{
	enum { FILE_LIMIT = 16 * 1024 * 1024 };
	const struct libcrypto *crypto = &tool->crypto;
	struct buffer pem = {0};
	const char *why = file_read(path, FILE_LIMIT, &pem);
	BIO *bio = NULL;
	X509 *x = NULL;

	memset(out, 0, sizeof(*out));
	if (why)
		goto out;
	bio = crypto->BIO_new_mem_buf(pem.data, (int)pem.size);
	if (bio)
		x = crypto->PEM_read_bio_X509(bio, NULL, refuse_password, NULL);
	if (!x)
		why = "no PEM certificate in it";
	else if (!certificate_read(crypto, x, &out->leaf))
		why = "its certificate cannot be read";
out:
	crypto->X509_free(x);
	crypto->BIO_free(bio);
	buffer_free(&pem);
	return why;
}

const char *subject_find_issuer(const struct tool *tool, const char *path, struct subject *subject)
{
	const struct libcrypto *crypto = &tool->crypto;
	struct bytes leaf = buffer_bytes(&subject->leaf.der);
	const char *files[] = {path, tool->issuer, tool->config.trusted};
	const char *why;

	for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++)
		if (files[i] && issuer_from_file(crypto, leaf, files[i], &subject->issuer, &why))
			return NULL;
	if (issuer_from_system(crypto, leaf, &subject->issuer))
		return NULL;
	return "its issuer was not found: put the CA's certificate behind it in the same file, or "
	       "name a file that has it with -i (for a server: OCSPRELOAD_TRUSTED)";
}

void subject_free(struct subject *subject)
{
	certificate_free(&subject->leaf);
	buffer_free(&subject->issuer);
}
