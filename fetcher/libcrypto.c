/* SPDX-License-Identifier: MIT */
#include "libcrypto.h"

#include <dlfcn.h>
#include <string.h>

const char *libcrypto_bind(struct libcrypto *table, void *handle)
{
	void *symbol;

	table->memo = NULL;
	table->gate = NULL;
#define F(name)                        \
	symbol = dlsym(handle, #name); \
	if (!symbol)                   \
		return #name;          \
	memcpy(&table->name, &symbol, sizeof(symbol));
	LIBCRYPTO_FUNCTIONS(F)
#undef F
	return NULL;
}

void *libcrypto_zalloc(const struct libcrypto *crypto, size_t size)
{
	void *memory = crypto->CRYPTO_malloc(size, __FILE__, __LINE__);

	return memory ? memset(memory, 0, size) : NULL;
}
