// Reads JSON in order, without building anything: enough for a plugin's configuration.
// A member's value is either read (json_number, json_enter) or passed over (json_skip).
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

typedef struct { const char *at, *end; bool bad; } json;      // where reading stands
typedef struct { const char *at; size_t length; } json_text;  // a string's bytes, escapes left as written

static char json_peek(json *j) {
  while (j->at < j->end && strchr(" \t\r\n", *j->at) && *j->at) j->at++;
  return j->at < j->end ? *j->at : 0;
}

static bool json_take(json *j, char wanted) {
  if (json_peek(j) != wanted) return false;
  j->at++;
  return true;
}

static json_text json_string(json *j) {
  json_text text = {0, 0};
  if (!json_take(j, '"')) { j->bad = true; return text; }
  text.at = j->at;
  while (j->at < j->end && *j->at != '"') j->at += *j->at == '\\' ? 2 : 1;
  if (j->at >= j->end) { j->bad = true; j->at = j->end; return text; }
  text.length = (size_t)(j->at++ - text.at);
  return text;
}

// Steps into an object; false if there is none.
static bool json_enter(json *j) { return json_take(j, '{'); }

// The next member's name, with reading at its value; false at the object's end.
static bool json_next(json *j, json_text *name) {
  if (j->bad || json_take(j, '}')) return false;
  json_take(j, ',');
  *name = json_string(j);
  if (!json_take(j, ':')) j->bad = true;
  return !j->bad;
}

// A whole number below 4 thousand million; false if the value is anything else.
static bool json_number(json *j, unsigned *number) {
  if (json_peek(j) < '0' || json_peek(j) > '9') return false;
  unsigned long long value = 0;
  while (j->at < j->end && *j->at >= '0' && *j->at <= '9') {
    value = value * 10 + (unsigned)(*j->at++ - '0');
    if (value > 0xffffffffULL) return false;
  }
  *number = (unsigned)value;
  return j->at >= j->end || !strchr(".eE", *j->at);
}

static bool json_is(json_text text, const char *word) {
  return text.length == strlen(word) && memcmp(text.at, word, text.length) == 0;
}
