/* SPDX-License-Identifier: MIT */
#include "ocspctl.h"

#include "file.h"
#include "issuer.h"

#include <stdio.h>
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

/* Takes what was found, if it is better than what is there. True if it can be used now. */
static bool take_issuer(const struct tool *tool, struct subject *subject, struct buffer *found)
{
	const struct libcrypto *crypto = &tool->crypto;
	struct bytes leaf = buffer_bytes(&subject->leaf.der);
	struct issuer_weight weight, held;
	bool better = issuer_weigh(crypto, leaf, buffer_bytes(found), tool->at, &weight);

	if (!better)
		return false;
	if (issuer_weigh(crypto, leaf, buffer_bytes(&subject->issuer), tool->at, &held))
		better = issuer_outweighs(&weight, &held);
	if (better) {
		buffer_free(&subject->issuer);
		subject->issuer = *found;
		memset(found, 0, sizeof(*found));
	}
	return weight.is_in_time;
}

static bool find_in_files(const struct tool *tool, const char *path, struct subject *subject)
{
	const char *files[] = {path, tool->issuer, tool->config.trusted};
	struct bytes leaf = buffer_bytes(&subject->leaf.der);
	bool done = false;

	for (size_t i = 0; i < sizeof(files) / sizeof(*files) && !done; i++) {
		struct buffer found = {0};
		const char *why;

		if (files[i] &&
			issuer_from_path(&tool->crypto, leaf, files[i], tool->at, &found, &why))
			done = take_issuer(tool, subject, &found);
		else if (files[i] && i > 0)
			snprintf(subject->unhelpful, sizeof(subject->unhelpful), " (%s: %s)",
				files[i], why);
		buffer_free(&found);
		subject->is_unsent = done && i > 0;
	}
	return done;
}

static bool find_in_stores(const struct tool *tool, struct subject *subject)
{
	struct bytes leaf = buffer_bytes(&subject->leaf.der);
	struct buffer stored = {0}, found = {0};
	bool done = false;

	if (store_read_issuer(&tool->store, subject->leaf.issuer_key, &stored) &&
		issuer_from_content(&tool->crypto, leaf, buffer_bytes(&stored), tool->at, &found))
		done = take_issuer(tool, subject, &found);
	buffer_free(&found);
	if (!done && issuer_from_system(&tool->crypto, leaf, tool->at, &found)) {
		done = take_issuer(tool, subject, &found);
		subject->is_unsent = done;
	}
	buffer_free(&found);
	buffer_free(&stored);
	return done;
}

/* Returns NULL, or why there is none. */
static const char *download(const struct tool *tool, struct subject *subject)
{
	struct download download;
	struct buffer found = {0};
	struct bytes der;

	if (!download_run(tool, subject, &download)) {
		download_free(&download);
		snprintf(subject->why, sizeof(subject->why),
			"its issuer was not found%s: put the CA's certificate behind it in the "
			"same file, or name a file that has it with -i (for a server: "
			"OCSPRELOAD_TRUSTED)",
			subject->unhelpful);
		return subject->why;
	}
	if (download.state != AIA_FOUND) {
		snprintf(subject->why, sizeof(subject->why),
			"its issuer was not found here%s (put the CA's certificate behind it, or "
			"use -i; for a server: OCSPRELOAD_TRUSTED), nor at %s: %s",
			subject->unhelpful, aia_url(download.aia), aia_why(download.aia));
		download_free(&download);
		return subject->why;
	}
	der = aia_issuer(download.aia);
	if (buffer_append(&found, der.data, der.size) && take_issuer(tool, subject, &found))
		subject->is_unsent = true;
	snprintf(subject->origin, sizeof(subject->origin), "%s", aia_url(download.aia));
	buffer_free(&found);
	download_free(&download);
	return subject->issuer.size > 0 ? NULL : "memory ran out";
}

const char *subject_find_issuer(const struct tool *tool, const char *path, struct subject *subject)
{
	const char *why;

	if (find_in_files(tool, path, subject) || find_in_stores(tool, subject))
		return NULL;
	why = download(tool, subject);
	/* One that is out of its time explains more than none. */
	return subject->issuer.size > 0 ? NULL : why;
}

void subject_free(struct subject *subject)
{
	certificate_free(&subject->leaf);
	buffer_free(&subject->issuer);
}
