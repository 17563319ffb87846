#include <fmt/format.h>

#include "cli/commands.h"

namespace wideep::cli {

void finish(const Status& status) {
  if (status.is_ok()) return;
  fmt::print(stderr, "error: {}\n", status.message());
  throw CLI::RuntimeError(status.exit_code());
}

}  // namespace wideep::cli
