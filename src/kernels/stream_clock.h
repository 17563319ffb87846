// Takes the time that parts of a chain of ops need: by events of a GPU's stream, or, on the CPU,
// where an op is done when it returns, by the clock.
#pragma once

#include <memory>
#include <vector>

#include "base/status.h"
#include "base/stream.h"

namespace wideep::kernels {

struct Lap {
  int label = 0;
  double us = 0;
};

class StreamClock {
 public:
  static std::unique_ptr<StreamClock> create(const Stream& stream);
  virtual ~StreamClock() = default;
  StreamClock(const StreamClock&) = delete;
  StreamClock& operator=(const StreamClock&) = delete;

  // What the stream does from here to the next mark is a lap with this label. The host does not
  // wait; what fails is the stream's status.
  virtual void mark(Stream& stream, int label) = 0;

  // Waits for the stream: the laps between the marks since the last call, in their order. The last
  // mark only ends one.
  virtual Result<std::vector<Lap>> laps(Stream& stream) = 0;

 protected:
  StreamClock() = default;
};

}  // namespace wideep::kernels
