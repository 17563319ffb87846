// Status: what went wrong in the world (bad input, a missing file, a failed peer), returned and
// never thrown. Result<T> is a Status or a value. A message is one sentence that names the thing
// and the fix; several violations of one input are joined by newlines.
#pragma once

#include <optional>
#include <string>
#include <utility>

#include "base/check.h"

namespace wideep {

enum class StatusCode {
  kOk = 0,
  kInvalidInput,  // the user's input breaks a rule: flags, configuration, contents of a file
  kNotFound,      // a file or an entry that was named does not exist
  kIo,            // the system refused: permissions, full disk, short read
  kUnavailable,   // a peer, a device or a feature is not there
  kAborted,       // the ranks of a world cannot go on together: one failed, or they disagree
};

class [[nodiscard]] Status {
 public:
  Status() = default;
  static Status ok() { return {}; }
  static Status invalid_input(std::string message) {
    return {StatusCode::kInvalidInput, std::move(message)};
  }
  static Status not_found(std::string message) {
    return {StatusCode::kNotFound, std::move(message)};
  }
  static Status io(std::string message) { return {StatusCode::kIo, std::move(message)}; }
  static Status unavailable(std::string message) {
    return {StatusCode::kUnavailable, std::move(message)};
  }
  static Status aborted(std::string message) { return {StatusCode::kAborted, std::move(message)}; }

  // A failure of a code that came from elsewhere, such as another process. Not for kOk.
  static Status of_code(StatusCode code, std::string message) {
    CHECK(code != StatusCode::kOk);
    return {code, std::move(message)};
  }

  // The same kind of failure with `prefix` before its message.
  Status prefixed(const std::string& prefix) const { return {code_, prefix + message_}; }

  bool is_ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }

  // The process's exit code for this status: 0, 2 for input that the user can mend, 1 otherwise.
  int exit_code() const {
    if (is_ok()) return 0;
    return code_ == StatusCode::kInvalidInput || code_ == StatusCode::kNotFound ? 2 : 1;
  }

 private:
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}                                    // NOLINT
  Result(Status status) : status_(std::move(status)) { CHECK(!status_.is_ok()); }  // NOLINT

  bool is_ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }

  T& value() & {
    CHECK(is_ok());
    return *value_;
  }
  const T& value() const& {
    CHECK(is_ok());
    return *value_;
  }
  // By value, so that a temporary's value outlives it: `for (x : f().value())`.
  T value() && {
    CHECK(is_ok());
    return *std::move(value_);
  }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T operator*() && { return std::move(*this).value(); }

 private:
  Status status_;
  std::optional<T> value_;
};

}  // namespace wideep

#define WIDEEP_CONCAT_INNER(a, b) a##b
#define WIDEEP_CONCAT(a, b) WIDEEP_CONCAT_INNER(a, b)

#define RETURN_IF_ERROR(expression)                                  \
  do {                                                               \
    if (::wideep::Status status_ = (expression); !status_.is_ok()) { \
      return status_;                                                \
    }                                                                \
  } while (false)

// ASSIGN_OR_RETURN(auto x, f()): x = the value of f(), or return its status.
#define ASSIGN_OR_RETURN(lhs, expression) \
  ASSIGN_OR_RETURN_INNER(WIDEEP_CONCAT(result_, __LINE__), lhs, expression)
#define ASSIGN_OR_RETURN_INNER(result, lhs, expression) \
  auto result = (expression);                           \
  if (!result.is_ok()) return result.status();          \
  lhs = std::move(result).value()
