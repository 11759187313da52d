// Text for answers. Every call runs in a fresh instance that is dropped whole: nothing is freed.
#pragma once
#include <stdlib.h>
#include <string.h>

#include "policy.h"

// The pieces up to NULL, joined.
#define text(...) text_join((const char *[]){__VA_ARGS__, NULL})

static policy_string_t text_join(const char **pieces) {
  size_t length = 0;
  for (const char **piece = pieces; *piece; piece++) length += strlen(*piece);
  policy_string_t joined = {malloc(length ? length : 1), 0};
  if (!joined.ptr) __builtin_trap();
  for (const char **piece = pieces; *piece; piece++) {
    memcpy(joined.ptr + joined.len, *piece, strlen(*piece));
    joined.len += strlen(*piece);
  }
  return joined;
}

// A number's digits. printf would bring WASI in, which a policy does not get.
static const char *digits(unsigned number) {
  char *at = malloc(11);
  if (!at) __builtin_trap();
  at += 10;
  *at = 0;
  do *--at = (char)('0' + number % 10); while (number /= 10);
  return at;
}
