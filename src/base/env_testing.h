// For tests that need an environment variable to have a value, or none, for a while.
#pragma once

#include <cstdlib>
#include <optional>
#include <string>

#include "base/env.h"

namespace wideep::env {

// Sets `variable` to `value`, or removes it where that is null; puts back what was there.
class ScopedVariable {
 public:
  ScopedVariable(const Variable& variable, const char* value) : name_(variable.name) {
    if (const char* old = std::getenv(name_)) old_ = old;  // NOLINT
    assign(value);
  }
  ~ScopedVariable() { assign(old_ ? old_->c_str() : nullptr); }
  ScopedVariable(const ScopedVariable&) = delete;
  ScopedVariable& operator=(const ScopedVariable&) = delete;

 private:
  void assign(const char* value) {
    // Tests run in processes of their own.
    if (value != nullptr) {
      setenv(name_, value, 1);  // NOLINT
    } else {
      unsetenv(name_);  // NOLINT
    }
  }

  const char* name_;
  std::optional<std::string> old_;
};

}  // namespace wideep::env
