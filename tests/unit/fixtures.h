/* SPDX-License-Identifier: MIT */
/*
 * What more than one unit test needs.
 */
#ifndef OCSPRELOAD_FIXTURES_H
#define OCSPRELOAD_FIXTURES_H

#include <dirent.h>
#include <stdint.h>

/* A random number below another; the same ones in each run. */
static inline uint32_t draw(uint32_t below)
{
	static uint64_t seed = 88172645463325252U;

	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (uint32_t)(seed >> 32) % below;
}

/* Of this program, with a few that are always the same. */
static inline int count_descriptors(void)
{
	DIR *directory = opendir("/proc/self/fd");
	int count = 0;

	while (directory && readdir(directory))
		count++;
	if (directory)
		closedir(directory);
	return count;
}

#endif
