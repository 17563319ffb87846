// Where the time of a step goes on a GPU: what each op takes.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "base/stream.h"

namespace wideep::kernels {

struct OpTime {
  std::string op;
  int calls = 0;
  double us = 0;  // of all calls
};

// From here on the time of every op on the stream is taken, until end_profile(), which waits for
// the stream and adds up the calls of each op, in the order of their first. The stream first waits
// for some time, so that the host is ahead of it and no op waits for its launch. Nothing may be
// captured or waited for in between. kUnavailable on the CPU.
Status begin_profile(Stream& stream);
Result<std::vector<OpTime>> end_profile(Stream& stream);

}  // namespace wideep::kernels
