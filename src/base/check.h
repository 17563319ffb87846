// CHECK is for our own mistakes: it stops the program with the expression and the place. What the
// world does to us (files, flags, peers) is a Status instead; see base/status.h.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace wideep {

[[noreturn]] inline void check_failed(const char* expression, const char* file, int line) {
  std::fprintf(stderr, "%s:%d: CHECK failed: %s\n", file, line, expression);
  std::abort();
}

}  // namespace wideep

// Always on, in release builds too.
#define CHECK(condition)                             \
  (__builtin_expect(static_cast<bool>(condition), 1) \
       ? static_cast<void>(0)                        \
       : ::wideep::check_failed(#condition, __FILE__, __LINE__))
#define CHECK_EQ(a, b) CHECK((a) == (b))
#define CHECK_LE(a, b) CHECK((a) <= (b))
#define CHECK_LT(a, b) CHECK((a) < (b))
#define CHECK_GE(a, b) CHECK((a) >= (b))
